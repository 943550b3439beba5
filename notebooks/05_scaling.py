# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
# To run this yourself: `make notebooks` in a clone of the repository, or `pip install '.[notebooks]'` and open it.
# POLOPT_FAST=1 in the environment shrinks every size: the same code and the same checks, rougher pictures.
import json
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import polopt_jax as po
from polopt_jax.envs import Box
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.rows import shuffled_decisions, shuffled_parts

FAST = os.environ.get("POLOPT_FAST") == "1"
plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "font.size": 10})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREY, LIGHT_GREY, MID_BLUE, DARK_ORANGE = plt.rcParams["axes.prop_cycle"].by_key()["color"][:6]


def taking_turns(run, rounds):
    """Seconds of each of several functions, which take turns; the median of so many rounds."""
    for f in run.values():
        jax.block_until_ready(f())
    taken = {name: [] for name in run}
    for _ in range(rounds):
        for name, f in run.items():
            began = time.perf_counter()
            jax.block_until_ready(f())
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


# %% [markdown]
# # Where the time goes
#
# A throughput is a number without a reason. This notebook takes it apart: what an update is made of, where more
# environments stop paying, what a shuffle costs and what it buys, what a natural gradient costs in gradients, and
# what many agents in one program gain. The first three are measured here, as you read; the others are read from what
# `polopt bench` left in `benchmarks/results`, on the machine that the files name. Times of this machine are of this
# machine; what carries over are ratios.
#
# ## More environments: a fixed price, and a price per row
#
# The step of PPO on synthetic rollouts of 16 steps: 4 epochs of 8 minibatches, an actor and a critic of 64 x 64. Its
# time should be a straight line in the number of environments: so much for 32 times through the program, whatever is
# in the minibatch, and so much for each row. Where the two are equal, half of the time is overhead.

# %%
STEPS, OBS, ACTIONS = 16, 4, 1
NETWORK = mlp_actor_critic((OBS,), Box(ACTIONS), hidden=(64, 64))
PARAMS = jax.jit(NETWORK.init)(jax.random.key(0))


def rollout(num_envs):
    """Decisions of nothing in particular, `[B, T]`: what the step does with them costs the same."""
    keys = jax.random.split(jax.random.key(1), 5)
    shape = (num_envs, STEPS)
    obs, action = jax.random.normal(keys[0], (*shape, OBS)), jax.random.normal(keys[1], (*shape, ACTIONS))
    said = NETWORK.apply(PARAMS, obs)
    return po.Batch(
        obs=obs,
        action=action,
        mask=jnp.ones(shape, bool),
        log_prob=said.policy.log_prob(action),
        value=said.value,
        advantage=jax.random.normal(keys[2], shape),
        target=said.value + jax.random.normal(keys[3], shape),
    )


def ppo_step(shuffle=shuffled_decisions):
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))
    step = po.make_step((po.objective(NETWORK.apply, term), optax.adam(3e-4)))
    return po.epochs(step, 4, 8, shuffle=shuffle)


def compiled(step, batch):
    state = step.init(PARAMS)
    update = jax.jit(step.update).lower(PARAMS, state, batch, jax.random.key(2)).compile()
    return lambda: update(PARAMS, state, batch, jax.random.key(2))


sizes = [8, 32, 128] if FAST else [8, 16, 32, 64, 128, 256, 512, 1024]
times = taking_turns({n: compiled(ppo_step(), rollout(n)) for n in sizes}, 3 if FAST else 15)
measured = np.array([times[n] for n in sizes])
# A line through times that span decades, so relative errors are what counts.
weights = 1 / measured
columns = np.stack([np.ones(len(sizes)), np.array(sizes, float)], axis=1)
fixed, per_row = np.linalg.lstsq(columns * weights[:, None], measured * weights, rcond=None)[0]
print(f"{1e3 * fixed:.2f} ms whatever there is, {1e6 * per_row:.1f} µs for each environment")
print(f"half of the time is overhead at {fixed / per_row:.0f} environments")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
grid = np.geomspace(sizes[0], sizes[-1], 100)
left.plot(grid, 1e3 * (fixed + per_row * grid), color=GREY, label="a + b n")
left.plot(sizes, 1e3 * measured, "o", color=BLUE, label="measured")
left.set(xscale="log", yscale="log", xlabel="environments", ylabel="ms", title="A step of PPO")
left.legend()
right.plot(grid, STEPS * grid / (fixed + per_row * grid) / 1e3, color=GREY)
right.plot(sizes, STEPS * np.array(sizes) / measured / 1e3, "o", color=BLUE)
right.axhline(STEPS / per_row / 1e3, color=ORANGE, linestyle="--", label="without the fixed price")
right.set(xscale="log", xlabel="environments", ylabel="1000 decisions a second", title="Learnt from")
right.legend()
plt.show()
assert fixed > 0
assert per_row > 0

# %% [markdown]
# The dashed line is what the arithmetic allows; the curve bends towards it. That is all there is to "saturation" on
# one device: past a few times that number of environments, time is linear, and more of them gain little but a larger
# batch. Points off the line are the machine's own: XLA takes more than one core from some size on, of which a straight
# line knows nothing.
#
# ## A shuffle, and what it buys
#
# Minibatches of whole rows cost least: a permutation of B numbers. But the 16 decisions of a row are neighbours in
# time and much alike, so that a minibatch of rows says less than one of as many decisions from everywhere. A
# permutation of all B T decisions is the common way; `shuffled_decisions` deals each row's decisions out to all
# minibatches, which is a sort of T numbers in each row, and leaves nothing to chance about how many of a row come
# together.

# %%
number = 64 if FAST else 1024


def all_decisions(batch, key, parts, *, axis=0, groups=1):
    """The permutation of every decision that is common: each is a row of its own, and the rows are shuffled."""
    flat = jax.tree.map(lambda x: x.reshape((-1, 1, *x.shape[2:])), batch)
    return shuffled_parts(flat, key, parts, groups=1)


shuffles = {"rows": shuffled_parts, "decisions, dealt out": shuffled_decisions, "decisions, permuted": all_decisions}
batch = rollout(number)
cost = taking_turns({name: compiled(ppo_step(shuffle), batch) for name, shuffle in shuffles.items()}, 3 if FAST else 15)
for name, seconds in cost.items():
    print(f"{name:<22}{1e3 * seconds:7.2f} ms   {seconds / cost['rows']:.2f} of rows")

# %% [markdown]
# What is bought, in mean return of the last tenth with the same settings otherwise (64 environments, 256 of ant, 16
# steps, a first policy of deviation 1; advantages standardised within each minibatch where decisions are dealt out,
# over the batch where rows are shuffled): `inverted_double_pendulum` after 1.5M steps 9073 where rows come to 8226 (8
# seeds), `hopper` after 2M 539 where they come to 472 (8 seeds), `ant` after 1.5M 172 where they come to 138 (6 seeds).
#
# ## What the suite measured
#
# The rest needs environments, or other people's programs, and a machine that does nothing else. `polopt bench` keeps
# its rows as JSON; here they are read.

# %%
RESULTS = next(p for p in (Path("benchmarks/results"), Path("../benchmarks/results")) if p.is_dir())


def rows_of(part):
    """All rows that the suite has kept of a part, on the first device that has any."""
    found = sorted(RESULTS.glob(f"*/bench/{part}.json"))
    return [row for case in json.loads(found[0].read_text())["cases"] for row in case["rows"]] if found else []


def shown(rows, width=46):
    for row in rows:
        size = f"{row['size']} {row['size_of']}" if "size" in row else ""
        spread = f"  ({row['low']:.2f} to {row['high']:.2f})" if "low" in row else ""
        print(f"{row['what']:<{width}} {size:<20} over {row['beside']:<24} {row['ratio']:6.2f}{spread}")


training = [row for row in rows_of("training") if row["what"].startswith("PPO")]
shown([row for row in training if row["unit"] != "s"])

# %% [markdown]
# On the pendulum the physics are next to nothing, so that what is left of the environment's own rate is what learning
# costs; on ant and the cheetah the physics are most of it, and libraries differ little. "The limit" is the environment
# and then the network's products in matrices so large that they go as fast as the machine multiplies: with few
# environments ours is far from it, as in the first picture, where half of the time is overhead, and with thousands
# three quarters of the way there.
#
# ## A natural gradient, in gradients
#
# TRPO's direction takes eleven products with the Fisher matrix. Two backward passes through the KL, which is what
# frameworks without forward mode do, make the whole take half as long again as one `jvp` and its transpose do, and
# hold twice as much.

# %%
solvers = rows_of("solvers")
shown([row for row in solvers if "memory" not in row["what"]])
forward = {row["size"]: row["ratio"] for row in solvers if row["what"] == "CG(10)"}
backward = {row["size"]: row["ratio"] for row in solvers if row["what"] == "CG(10), two backward passes"}
for size in forward:
    print(f"{size} decisions: two backward passes take {backward[size] / forward[size]:.2f} times as long")
    assert backward[size] > forward[size]

# %% [markdown]
# ## Many agents in one program
#
# `jax.vmap` over seeds, or over learning rates, turns 16 environments of one agent into 16 of each of many. On two
# cores that gains until the cores are full, and no more; on an accelerator it is the cheapest sweep there is.

# %%
seeds = [row for row in rows_of("seeds") if "rate" not in row["what"]]
figure, axes = plt.subplots(figsize=(4.8, 3.2))
axes.errorbar(
    [row["size"] for row in seeds],
    [row["ratio"] for row in seeds],
    yerr=np.array([[row["ratio"] - row["low"], row["high"] - row["ratio"]] for row in seeds]).T,
    color=BLUE,
    marker="o",
)
axes.axhline(1, color=GREY, linewidth=0.8)
axes.set(xscale="log", xlabel="agents side by side", ylabel="decisions a second, over one alone", ylim=(0, None))
plt.show()

# %% [markdown]
# ## And many devices?
#
# Rows are split over devices by sharding alone; the only communication is a handful of sums per minibatch, and their
# number does not grow with the devices. [The page on clusters](../docs/clusters.md) counts them, has a model of how
# far that goes, and says where the model was wrong on the machine that it could be tried on.
