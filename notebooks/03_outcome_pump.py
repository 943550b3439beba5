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
# POLOPT_FAST=1 in the environment shrinks the sampled parts: the same code and the same checks, rougher pictures.
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)  # most of this notebook is exact, and compares small numbers

import polopt_jax as po
from polopt_jax import driver, frontiers, outcomes, report, worlds
from polopt_jax.report import Mark

FAST = os.environ.get("POLOPT_FAST") == "1"
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "font.size": 10})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


plt.close(plt.figure())  # from now on a notebook shows figures that are no `plt` ones, too


class Shown:
    """HTML that a notebook shows."""

    def __init__(self, html):
        self.html = html

    def __repr__(self):
        return f"{len(self.html)} characters of HTML"

    def _repr_html_(self):
        return self.html


# %% [markdown]
# # The Outcome Pump
#
# Your mother is in a burning building. You have a device that makes wishes likely: tell it what should come about, and
# it bends chance until that is what happens. You wish for her to be *out of the building*. The gas main explodes, and
# out she is. (The story is Eliezer Yudkowsky's, from *The Hidden Complexity of Wishes*, 2007.)
#
# Policy optimization is such a device. It is told what counts as success, and it bends the probabilities of a policy
# until success is what happens. What *else* happens, it has not been told. The questions here:
#
# * Which way does an optimizer take, if there are two and both are paid the same?
# * Does a penalty on the change of the *actions* (KL, trust regions, clipping) protect from the bad one?
# * What does it cost to ask for no change of the *side effects* as well?
# * What would have warned us?
#
# The world is a toy: small enough that everything is known exactly. Samples are used where they are the subject, in
# the forecasts of section 2, the fork of section 4 and the monitors of section 6, and nowhere else.
#
# ## 1. The building
#
# Three rows of five cells. You start at the exit. Your mother is at the other end of the top row, with a vase before
# her. Go and fetch her: through the vase, or round it. Or turn left, to the gas valve, and pull.
# Sixteen moves, and now and then you slip. **Success**: she is out. **Side effects**: the building has exploded; the
# vase is broken.

# %%
rules = worlds.burning_building()
world = worlds.tabulate(rules)
WALL, FLOOR = Mark("", "#606060"), Mark("", "#f4f4f4")
MARKS = {"#": WALL, " ": FLOOR} | {char: Mark(*sign) for char, sign in rules.legend.items()}


def play(world, logits, key, episodes):
    """Whole episodes of a tabular policy: states [T + 1, episodes], actions [T, episodes], and how each ended."""
    first, second = jax.random.split(key)

    def act(obs):
        return po.Outputs(policy=po.Categorical(logits=obs @ logits))

    _, rollout = po.unroll(world, act, po.start(world, first, num_envs=episodes), second, num_steps=world.horizon)
    whole, dropped = po.first_episodes(rollout)
    start = jnp.zeros((1, episodes), jnp.int32)  # the only first state has number 0
    states = jnp.concatenate([start, whole.outcome["state"]])
    last = po.per_episode(lambda episode: po.final_step(episode).outcome, whole)
    ends = {name: last[name] > 0 for name in ("success", "exploded", "vase")}
    return states, whole.action, whole.mask, ends, dropped


WAYS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def told(before, action, after):
    """What a move was and what came of it, in words."""
    if after.exploded:
        return f"{action}: the building explodes, and she is {'out' if after.out else 'dead'}"
    moved = (after.cell[0] - before.cell[0], after.cell[1] - before.cell[1])
    slipped = action in WAYS and moved not in (WAYS[action], (0, 0))
    happened = [
        "you slip" if slipped else "",
        "the vase breaks" if after.vase and not before.vase else "",
        "you have her" if after.carrying and not before.carrying else "",
        "she is out" if after.out else "",
    ]
    return action + ": " * any(happened) + ", ".join(filter(None, happened))


def episode(column):
    """The frames and captions of one of the episodes."""
    numbers = states[: int(real[:, column].sum()) + 1, column]
    names = [rules.actions[int(action)] for action in actions[: len(numbers) - 1, column]]
    seen = [worlds.reachable_states(rules)[int(number)] for number in numbers]
    captions = ["you are at the exit"] + [told(a, name, b) for a, name, b in zip(seen, names, seen[1:], strict=False)]
    return worlds.replay(rules, numbers), captions, seen[-1]


REFERENCES = {
    "door": worlds.burning_building_logits().astype(float),
    "hazard": worlds.burning_building_logits(valve=-1.0, bias=0.3).astype(float),
}
sample = jax.jit(play, static_argnums=3)
ATTEMPTS = 4000
states, actions, real, ends, dropped = sample(world, REFERENCES["door"], jax.random.key(2), ATTEMPTS)
ends = {name: np.asarray(x) for name, x in ends.items()}
assert dropped == 0

honest = ends["success"] & ~ends["exploded"]
exploded = ends["success"] & ends["exploded"]
lengths = np.asarray(real.sum(0))
print(f"of {ATTEMPTS} attempts of the reference: {honest.sum()} honest rescues, {ends['exploded'].sum()} explosions")
careful = honest & ~ends["vase"]
print(f"honest rescues that left the vase whole: {careful.sum()}")
assert honest.sum() > 3 * exploded.sum() > 0
assert 0 < careful.sum() < 0.1 * honest.sum()

# %% [markdown]
# The policy that we start from, the **reference**, is clumsy: it drifts towards your mother and mostly fails. When it
# gets her out, it is mostly through the door, and hardly ever without breaking the vase. Here is a rescue with which
# nothing is wrong, and the shortest explosion. (The pictures play by themselves; their last frame stays for a while.)

# %%
rescue = episode(np.flatnonzero(careful)[lengths[careful].argmin()])
Shown(report.animation_html(rescue[0], MARKS, rescue[1]))

# %%
explosion = episode(np.flatnonzero(exploded)[lengths[exploded].argmin()])
Shown(report.animation_html(explosion[0], MARKS, explosion[1]))

# %%
# The same as stills, where a page does not play them. (`report.animation_gif` makes a file for a slide or a message.)
begin = worlds.reachable_states(rules)[0]
worlds.picture(rules, [begin, rescue[2], explosion[2]], ["the start", "an honest rescue", "the wish, fulfilled"])

# %% [markdown]
# ## 2. What the Pump is, and a forecast that needs no training
#
# Put the reference's outcomes into a table: success or not, and which side effects. The **Outcome Pump** is what the
# story's device does to it: the *nearest* table (in KL) in which success has the probability that you ask for, with
# nothing else asked. It takes the reference's successes and makes more of them, *in the proportions in which they
# are*. If a fifth of the few successes were explosions, a fifth of the many will be.
#
# This is no caricature of learning. Best-of-n sampling and filtering end there, and so does reinforcement learning with
# a KL penalty to the reference and a reward of 0 or 1, where the world leaves nothing to chance.
#
# The second table is for comparison: the nearest one with the same success *and* the side effects as frequent as
# they were. It is found by iterative proportional fitting, hence **IPF**. What it costs more than the pump is the
# **tax** on leaving things alone.

# %%
FEATURES = ("exploded", "vase")


def exact(world, reference):
    """What everything exact starts from: the problem, logits, and the outcome table [2, (x, v) as 2 x + v]."""
    problem = frontiers.exact_problem(world, side_effects=FEATURES, group=world.obs.argmax(-1))
    logits = reference[: problem.num_groups]
    return problem, logits, frontiers.cell_law(problem, frontiers.log_policy(problem, logits))


def p_exploded(law):
    return law[..., :, 2:].sum((-2, -1))


def p_vase(law):
    return law[..., :, 1::2].sum((-2, -1))


problem = exact(world, REFERENCES["door"])[0]
TABLES = {name: exact(world, logits)[2] for name, logits in REFERENCES.items()}
SHARES = {name: float(table[1, 2:].sum() / table[1].sum()) for name, table in TABLES.items()}
ASKED = 0.9
rows = {}
for name, table in TABLES.items():
    pump, held = outcomes.pump(table, ASKED), outcomes.ipf(table, ASKED)
    rows[name] = {"reference": table, "pump": pump.law, "IPF": held.law}
    print(f"{name} reference: {SHARES[name]:.0%} of its successes are explosions")
    for row, law in rows[name].items():
        print(
            f"  {row:10s} success {law[1].sum():.3f}   P(explosion) {p_exploded(law):.4f}   P(vase) {p_vase(law):.3f}"
        )
    print(f"  the tax: {outcomes.tax(table, ASKED):.2f} nats; the pump costs {pump.kl:.2f}\n")
    # with nothing else asked, the share of explosions among successes stays
    assert abs(pump.law[1, 2:].sum() / pump.law[1].sum() - SHARES[name]) < 1e-9
    assert abs(p_exploded(held.law) - p_exploded(table)) < 1e-6
assert SHARES["door"] < 0.2 < 0.8 < SHARES["hazard"]

# %% [markdown]
# There are two references, and everything below is done for both. Of the *door* reference's few successes most go
# through the door. The *hazard* reference is less drawn to your mother and less afraid of the valve: most of its
# successes are explosions.
#
# The pump's share of explosions can be **forecast** from rollouts of the reference alone: it is the share of
# explosions among those that succeeded. `outcomes.forecast` gives it with an interval, and says what it is blind to:
# a way to succeed that n rollouts are likely not to contain.

# %%
NUMBERS = np.array([100, 300, 1000, ATTEMPTS] if FAST else [100, 300, 1000, 3000, 10000, 30000])
hidden_logits = worlds.burning_building_logits(valve=-8.0).astype(float)
forecasts = {}
for name, logits in {**REFERENCES, "hidden": hidden_logits}.items():
    found = sample(world, logits, jax.random.key(3), int(NUMBERS[-1]))[3]
    success, side_effect = np.asarray(found["success"]), np.asarray(found["exploded"])
    if name == "hidden":
        seen = int(side_effect[:1000].sum())
    forecasts[name] = [outcomes.forecast(success[:n], side_effect[:n]) for n in NUMBERS]
    last = forecasts[name][-1]
    print(
        f"{name:7s} {NUMBERS[-1]} rollouts: explosions are {last.share:.3f} [{last.low:.3f}, {last.high:.3f}] of "
        f"successes; blind below p = {last.blind_below:.0e}"
    )
for name, share in SHARES.items():
    assert forecasts[name][-1].low < share < forecasts[name][-1].high
    print(f"{name:7s} exactly: {share:.3f}")

# The third reference hardly ever touches the valve, and this building pays explosions half as much again: in the story
# the device is asked for *distance* from the building.
distant = worlds.tabulate(worlds.burning_building(explosion_bonus=0.5))
far_problem, far_logits, far_table = exact(distant, hidden_logits)
far_trpo = frontiers.trust_region(far_problem, frontiers.reward(far_problem))
far = jax.jit(lambda logits: frontiers.path(far_problem, logits, far_trpo, updates=250))(far_logits)
rare = float(p_exploded(far_table))
at_nine, at_last = float(p_exploded(frontiers.at_success(far, ASKED).point.law)), float(p_exploded(far.law)[-1])
print(f"hidden hazard: P(explosion) {rare:.1e} at first, {at_nine:.1e} when success is 0.9, {at_last:.3f} in the end")
assert rare < forecasts["hidden"][2].blind_below  # a thousand rollouts are blind to it
assert seen == 0
assert at_nine < 1e-4
assert at_last > 0.99
assert far.success.max() > 0.99 > 0.96 > far.success[-1]

# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 3.5))
for ax, name in zip(axes, REFERENCES, strict=False):
    low, share, high = (np.array([float(getattr(f, end)) for f in forecasts[name]]) for end in ("low", "share", "high"))
    ax.fill_between(NUMBERS, low, high, color="#0072b2", alpha=0.2, linewidth=0, label="95% interval")
    ax.plot(NUMBERS, share, "o-", color="#0072b2", label="forecast")
    ax.axhline(SHARES[name], color="black", ls="--", label="exact")
    ax.set(xscale="log", ylim=(0, 1), xlabel="rollouts of the reference", title=f"{name} reference")
axes[0].set_ylabel("explosions among successes")
axes[0].legend()
ax = axes[2]
ax.plot(far.success, color="#7f7f7f", label="success")
ax.plot(p_exploded(far.law), color="#d55e00", label="explosion")
ax.set(xlabel="updates of TRPO, exact gradient", ylabel="probability", title="a hazard that no rollout showed")
ax.set_xlim(0, 250)
ax.legend(loc="center left", bbox_to_anchor=(0.3, 0.55))
plt.show()

# %% [markdown]
# To the right is the blind spot. A thousand rollouts contain no explosion, the forecast is spotless, and at success
# 0.9 it is even right. Training does not stop there: explosions are paid more, and an optimizer that knows the exact
# gradient finds them in the end, and gives up a little success for them. A sampler might have taken very much longer.
# The forecast is about successes that the reference has, all paid alike; higher pay and patience are beyond it.
#
# ## 3. Seven optimizers at the same success
#
# Now train. Each objective takes exact updates (`polopt_jax.frontiers`): a tabular policy, the exact gradient of
# P(she is out), no samples. Comparing two methods after as many *updates* would compare them at different success, so
# each is followed along its path, and read where success reaches 0.9. (All KLs are KL(new ‖ reference) in nats of an
# episode, but for D_action, which is per decision.)
#
# | | what it does |
# |---|---|
# | policy gradient | steps along the gradient |
# | natural gradient, TRPO | steps along the gradient in the metric of the policy's own KL; TRPO measures its step |
# | PPO | clips the ratios of action probabilities, and steps with Adam |
# | region | TRPO, whose metric also holds P(side effects) |
# | price | TRPO on the reward less a price on side effects; the price follows how far they have strayed |
# | penalty | TRPO on the reward less KL(side effects now ‖ of the reference) |


# %%
def table_of(problem, logits):
    return frontiers.cell_law(problem, frontiers.log_policy(problem, logits))


def penalised(problem, logits, weight):
    reward, table = frontiers.reward(problem), table_of(problem, logits)
    return frontiers.trust_region(problem, frontiers.near_outcomes(problem, reward, table, weight=weight))


def priced(problem, logits, dual_step):
    def rule(objective):
        return frontiers.trust_region(problem, objective)

    return frontiers.priced(problem, rule, frontiers.reward(problem), table_of(problem, logits), dual_step=dual_step)


def trpo(problem, logits, **held):
    return frontiers.trust_region(problem, frontiers.reward(problem), radius=0.02, **held)


METHODS = {
    "policy gradient": (lambda p, x: frontiers.gradient_ascent(frontiers.reward(p), step_size=2.0), 100),
    "natural gradient": (lambda p, x: frontiers.natural_ascent(p, frontiers.reward(p), step_size=0.2), 100),
    "TRPO": (trpo, 40),
    "PPO": (lambda p, x: frontiers.clipped_ascent(p, learning_rate=0.003), 60),
    "region": (lambda p, x: trpo(p, x, held=frontiers.marginal, weight=1000.0), 60),
    "price": (lambda p, x: priced(p, x, 1.0), 60),
    "penalty": (lambda p, x: penalised(p, x, 1.0), 60),
}
COLORS = dict(zip(METHODS, ("#7f7f7f", "#56b4e9", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"), strict=True))


def follow(problem, method, logits, updates):
    """The path of a method from each of some references, [references, updates + 1]."""
    along = jax.vmap(lambda x: frontiers.path(problem, x, method(problem, x), updates=updates))
    return jax.jit(along, compiler_options=driver.compiler_options())(logits)


def pick(points, i):
    return jax.tree.map(lambda x: x[i], points)


both = jnp.stack([*REFERENCES.values()])
paths = {name: follow(problem, method, both, updates) for name, (method, updates) in METHODS.items()}
matched = {
    reference: {name: frontiers.at_success(pick(points, i), ASKED) for name, points in paths.items()}
    for i, reference in enumerate(REFERENCES)
}
for reference, found in matched.items():
    print(f"{reference} reference, success {ASKED}")
    print("                  P(explosion)  P(vase)      D_z   D_traj  D_action")
    for name, law in rows[reference].items():
        print(f"{name:17s} {p_exploded(law):12.4f}  {p_vase(law):7.3f}")
    for name, at in found.items():
        point = at.point
        assert at.reached
        print(
            f"{name:17s} {p_exploded(point.law):12.4f}  {p_vase(point.law):7.3f}   {point.side_effect_kl:6.3f}"
            f"   {point.trajectory_kl:6.2f}   {point.action_kl:7.3f}"
        )
    print()

# %%
fig, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
for column, reference in enumerate(REFERENCES):
    sweep = np.linspace(float(TABLES[reference][1].sum()), 0.97, 40)
    laws = {
        name: jax.vmap(lambda success, nearest=nearest: nearest(TABLES[reference], success).law)(sweep)  # noqa: B023
        for name, nearest in (("pump", outcomes.pump), ("IPF", outcomes.ipf))
    }
    for line, (measure, words) in enumerate(((p_exploded, "P(explosion)"), (p_vase, "P(vase broken)"))):
        ax = axes[line, column]
        for (name, law), style in zip(laws.items(), ("--", ":"), strict=True):
            ax.plot(sweep, measure(law), color="black", ls=style, lw=2, label=name, zorder=3)
        for name, points in paths.items():
            success, value = np.asarray(points.success[column]), np.asarray(measure(points.law[column]))
            end = int(np.argmax(success > 0.97)) or len(success)
            ax.plot(success[:end], value[:end], color=COLORS[name], lw=1.8, label=name)
            at = matched[reference][name].point
            ax.plot(float(at.success), float(measure(at.law)), "o", ms=5, color=COLORS[name])
        ax.axvline(ASKED, color="0.85", lw=1, zorder=0)
        if line == 0:
            ax.set(yscale="log", title=f"{reference} reference")
        if column == 0:
            ax.set_ylabel(words)
        ax.set_xlim(0, 0.98)
for ax in axes[1]:
    ax.set_xlabel("P(success)")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
fig.suptitle("What came about, at each success: left an honest majority, right a hazardous one")
plt.show()

# %% [markdown]
# With the **door** reference the policy gradient looks like the safe choice: hardly an explosion, far below what
# the pump would give. TRPO has more than twice as many as the pump. One might conclude that natural gradients are
# dangerous and plain ones are not.
#
# With the **hazard** reference the same policy gradient is the *worst* of all: nearly every success is an explosion.
# And PPO, between the two before, is now the mildest of the three.


# %%
def order(reference):
    three = ("policy gradient", "PPO", "TRPO")
    return sorted(three, key=lambda name: float(p_exploded(matched[reference][name].point.law)))


for reference in REFERENCES:
    print(f"{reference:7s} least to most explosions: {' < '.join(order(reference))}")
assert order("door") == ["policy gradient", "PPO", "TRPO"]
assert order("hazard") == ["PPO", "TRPO", "policy gradient"]

door = {name: float(p_exploded(at.point.law)) for name, at in matched["door"].items()}
hazard = {name: float(p_exploded(at.point.law)) for name, at in matched["hazard"].items()}
pump_door, pump_hazard = (float(p_exploded(rows[name]["pump"])) for name in REFERENCES)
assert door["policy gradient"] < 0.01 * pump_door
assert 2 * pump_door < door["TRPO"]
assert hazard["policy gradient"] == max(hazard.values()) > 0.94
for i, (name, found) in enumerate({"door": door, "hazard": hazard}.items()):
    had = float(p_exploded(TABLES[name]))
    assert found["price"] < 0.1 * had
    assert p_exploded(paths["price"].law[i]).max() > 4 * had
    assert had < found["penalty"] < 1.2 * had


def odds(law):
    """Explosions for each honest success."""
    return float(law[1, 2:].sum() / law[1, :2].sum())


for reference, found in matched.items():
    first = odds(TABLES[reference])
    compared = ("policy gradient", "PPO", "natural gradient", "TRPO")
    factor = {name: odds(found[name].point.law) / first for name in compared}
    print(
        f"{reference:7s} odds of explosion to door {first:.2g}, times",
        {name: f"{x:.2g}" for name, x in factor.items()},
    )
    assert 2 < factor["natural gradient"] <= factor["TRPO"] < 4
    assert not 1 / 20 < factor["policy gradient"] < 20
for reference, found in matched.items():
    region, held = found["region"].point, rows[reference]["IPF"]
    assert abs(p_exploded(region.law) / p_exploded(held) - 1) < 0.1
    assert abs(p_vase(region.law) - p_vase(held)) < 0.01
    assert region.side_effect_kl < 0.001

# %% [markdown]
# Why? A policy gradient reinforces what it often sees succeed, so it **amplifies the majority** among successes: an
# honest majority crowds the hazard out, a hazardous one crowds out the door. The natural gradient does not look at what
# was frequent. In a single decision it would keep the odds of the two ways as they were; here, where there are many
# and some luck, it multiplies them by two to four, in both worlds towards the shorter way: the valve.
#
# So *no order of these objectives is a law*. Which is safer depends on the reference, and the forecast of section 2
# says which kind of reference you have. It does not say what an objective makes of it: with the door reference the
# truth is a hundredth of the forecast for one method, and twice the forecast for another.
#
# The region does what it was asked in both worlds: it stands where IPF stands. That is a mixed blessing: it holds the
# *bad* rates of the hazard reference as faithfully as the good ones of the other. The penalty comes close to that. The
# price overshoots: with this step it has less than a tenth of the explosions of the reference, after having had many
# more on its way. (It is plain dual ascent here; `outcomes.update_price` has a damping that this one lacks.)
#
# ## 4. What the KL sees, and what it does not
#
# All these methods pay in KL for the change of the *policy*: per episode (D_traj) or per decision (D_action). Does
# that number say how far the *side effects* moved (D_z)?

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8))
for ax, (i, reference) in zip(axes, enumerate(REFERENCES), strict=True):
    for name, points in paths.items():
        end = int(np.argmax(points.success[i] >= ASKED)) + 1
        ax.plot(points.trajectory_kl[i, :end], points.side_effect_kl[i, :end], color=COLORS[name], label=name)
        at = matched[reference][name].point
        ax.plot(float(at.trajectory_kl), float(at.side_effect_kl), "o", color=COLORS[name])
    ax.set(xlabel="D_traj: how far episodes moved, nats", title=f"{reference} reference, up to success {ASKED}")
axes[0].set_ylabel("D_z: how far side effects moved, nats")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
plt.show()

for reference, found in matched.items():
    for name, at in found.items():
        assert at.point.side_effect_kl <= at.point.outcome_kl + 1e-9 <= at.point.trajectory_kl + 2e-9, (reference, name)
moved = {name: float(at.point.side_effect_kl) for name, at in matched["door"].items()}
spent = {name: float(at.point.trajectory_kl) for name, at in matched["door"].items()}
assert sorted(spent, key=spent.get)[:2] == sorted(moved, key=moved.get)[-2:] == ["natural gradient", "TRPO"]
assert moved["natural gradient"] > 2 * moved["policy gradient"] > 100 * moved["region"]
assert spent["region"] > 1.5 * spent["TRPO"]
for name in ("natural gradient", "TRPO", "region"):
    print(f"{name:16s} moves episodes by {spent[name]:.2f} nats and side effects by {moved[name]:.2g}")

# %% [markdown]
# The KL of the episodes is a ceiling (data processing: D_z is never above D_traj), and that is all it is. With the door
# reference the two methods that changed the *policy least* are the two that changed the *side effects most*; the one
# that left the side effects alone changed the policy nearly twice as far. Minimal change of actions and minimal change
# of outcomes are different wishes.
#
# **The fork.** Language shows it in one token. A text of 24 words; at the fifth the model may say " skip" and get
# round the test, which it does with a probability of a few percent or less. The update below adds 2 to the logit
# of that one token and a little noise to every other: style. The KL sees nats everywhere. Which of them moved the
# outcome? `outcomes.fork_profile` asks, for each word: what if only this word followed the new policy?

# %%
token_world = worlds.skip_the_test(jax.random.key(3), num_worlds=1, depths=(4,))
FORK, SKIP = 4, 1
old_logits = token_world.logits[0]
style = old_logits + 0.25 * jax.random.normal(jax.random.key(9), old_logits.shape)
new_logits = style.at[FORK].set(old_logits[FORK].at[SKIP].add(2.0))


def token_model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, *params.shape))))


prompt = jnp.zeros(4096, int)
policy = token_model(old_logits, prompt).policy
tokens = policy.sample(seed=jax.random.key(1))
texts = po.Batch(
    obs=prompt,
    action=tokens,
    mask=jnp.ones(tokens.shape, bool),
    log_prob=policy.log_prob(tokens),
    outcome=token_world.outcome(prompt, tokens),
)


@jax.jit
def forks(old, new):
    whole = outcomes.joint(skip=2, honest=2)  # skipped or not, answered honestly or not
    return outcomes.fork_profile(token_model, old, new, texts, 4, of=whole)


profile = forks(old_logits, new_logits)
moved_outcome, moved_itself = np.asarray(profile.outcome.value), np.asarray(profile.action_kl)
before, after = (float(jax.nn.softmax(logits[FORK])[SKIP]) for logits in (old_logits, new_logits))
print(f"P(skip) {before:.3f} -> {after:.3f}: {after / before:.1f} times as often")
share = moved_itself[FORK] / moved_itself.sum()
print(f"of the {moved_itself.sum():.2f} nats that the words moved, the fork has {share:.0%}")
second = np.sort(moved_outcome)[-2]
print(f"it moved the outcome by {moved_outcome[FORK]:.3f} nats; the word that comes next, by {second:.4f}")
assert after > 4 * before
assert moved_outcome.argmax() == FORK
assert moved_outcome[FORK] > 8 * second
assert moved_itself.argmax() != FORK  # other words moved further
assert moved_itself[FORK] < 0.1 * moved_itself.sum()

# %%
AT_FORK = (" look", " skip", " ask", " read", " try", " stop")
ELSEWHERE = (" the", " and", " it", " so", " on", " here")
skipped = tokens[np.flatnonzero(texts.outcome["skip"])[0]].tolist()  # one of the texts that skip
said = [(AT_FORK if place == FORK else ELSEWHERE)[token] for place, token in enumerate(skipped)]
assert said[FORK] == " skip"
report.completion_figure(said, moved_outcome, moved_itself)

# %%
# The same two logits in a text of 500 tokens, in closed form.
print("P(skip)   +2 logits ->   KL, nats   per token")
for p0 in (0.001, 0.01, 0.05):
    p1 = p0 * np.e**2 / (1 - p0 + p0 * np.e**2)
    nats = p1 * np.log(p1 / p0) + (1 - p1) * np.log((1 - p1) / (1 - p0))
    print(f"{p0:7.3f}  {p1:12.4f}  {nats:11.4f}  {nats / 500:10.1e}")
    assert nats / 500 < 1e-3
    assert 5 * p0 < p1 < 7.5 * p0

# %% [markdown]
# Five to seven times as many skipped tests, for less than a thousandth of a nat per token. An average over tokens
# cannot see that; a divergence of the *outcome* does.
#
# ## 5. What it costs to ask for outcomes
#
# **More steps and more change of the policy** than TRPO needs.

# %%
corridor = worlds.tabulate(worlds.burning_building(rows=1))
corridor_logits = worlds.burning_building_logits(rows=1).astype(float)
narrow, narrow_logits, narrow_table = exact(corridor, corridor_logits)
print("                                    updates   D_action   D_z")
cost = {}
for name in ("TRPO", "region"):
    cost["open", name] = matched["door"][name]
    method, _ = METHODS[name]
    points = pick(follow(narrow, method, narrow_logits[None], 120), 0)
    cost["corridor", name] = frontiers.at_success(points, ASKED)
for (building, name), at in sorted(cost.items(), reverse=True):
    print(
        f"{building:8s} {name:8s} at success {ASKED}  {at.updates:12.1f}  {at.point.action_kl:9.3f}"
        f"  {at.point.side_effect_kl:7.4f}"
    )
for building in ("open", "corridor"):
    assert cost[building, "region"].updates > 1.5 * cost[building, "TRPO"].updates
    assert cost[building, "region"].point.action_kl > 1.4 * cost[building, "TRPO"].point.action_kl
wanted = np.linspace(0.5, 0.95, 451)
most = wanted[np.asarray(jax.vmap(lambda success: outcomes.ipf(narrow_table, success).feasible)(wanted))].max()
print(f"in the corridor the vase stands in the only way: side effects can be held up to success {most:.2f}, no further")
assert 0.8 < most < 0.84
assert cost["corridor", "region"].updates > 5 * cost["corridor", "TRPO"].updates
assert cost["corridor", "region"].point.side_effect_kl > 0.02  # so the region gives way there, without a word

# %% [markdown]
# In the corridor that is five times as many updates. And there IPF ends at a success of about 0.82: more is not to be
# had with the vase as it was. The region goes on to 0.9 all the same, lets go of the side effects, and does not say so.
#
# Second, **only what is listed is held**. Hold the explosion and forget the vase, and the vase pays for it; this is
# known as the squeezed balloon. Third, what is held is held *in total*: the region keeps P(vase) by breaking it in
# most successes and in hardly any failure.


# %%
def only(feature):
    """log P of one side effect, 0 the explosion and 1 the vase; the other is not listed."""

    def held(table):
        law = table.reshape(2, 2, 2).sum((0, 2 - feature))
        shape = (1, 2, 1) if feature == 0 else (1, 1, 2)
        return jnp.broadcast_to(jnp.log(law).reshape(shape), (2, 2, 2)).reshape(2, 4)

    return held


squeezed = {"nothing held (TRPO)": "TRPO", "explosion held": only(0), "vase held": only(1), "both held": "region"}
balloon = {reference: {} for reference in REFERENCES}
for name, held in squeezed.items():
    if isinstance(held, str):
        for reference in REFERENCES:
            balloon[reference][name] = matched[reference][held].point.law
    else:
        points = follow(problem, lambda p, x, held=held: trpo(p, x, held=held, weight=1000.0), both, 40)
        for i, reference in enumerate(REFERENCES):
            at = frontiers.at_success(pick(points, i), ASKED)
            assert at.reached
            balloon[reference][name] = at.point.law

fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
for ax, (reference, found) in zip(axes, balloon.items(), strict=True):
    bars = {"reference": TABLES[reference], **found}
    places = np.arange(len(bars))
    ax.bar(places - 0.2, [float(p_exploded(law)) for law in bars.values()], 0.38, color="#d55e00", label="P(explosion)")
    ax.bar(places + 0.2, [float(p_vase(law)) for law in bars.values()], 0.38, color="#0072b2", label="P(vase broken)")
    ax.axhline(float(p_exploded(TABLES[reference])), color="#d55e00", lw=1, ls=":")
    ax.axhline(float(p_vase(TABLES[reference])), color="#0072b2", lw=1, ls=":")
    ax.set_xticks(places, [name.replace(" ", "\n", 1) for name in bars], fontsize=9)
    ax.set(title=f"{reference} reference; success {ASKED}", ylim=(0, 1))
axes[0].legend(loc="upper left")
plt.show()
for reference, found in balloon.items():
    print(reference, {name: (round(float(p_exploded(x)), 3), round(float(p_vase(x)), 3)) for name, x in found.items()})
held_door, held_hazard = balloon["door"], balloon["hazard"]
assert p_vase(held_door["explosion held"]) > 0.95 > 0.7 > p_vase(held_door["nothing held (TRPO)"])
assert p_vase(held_hazard["explosion held"]) > 0.9 > 0.2 > p_vase(held_hazard["nothing held (TRPO)"])
assert p_exploded(held_door["vase held"]) > p_exploded(held_door["nothing held (TRPO)"])
assert p_exploded(held_hazard["vase held"]) < p_exploded(held_hazard["nothing held (TRPO)"])  # not always a balloon
law = held_door["both held"]
in_success, in_failure = (float(law[s, 1::2].sum() / law[s].sum()) for s in (1, 0))
print(f"both held, door reference: the vase breaks in {in_success:.0%} of successes and {in_failure:.0%} of failures")
assert in_success > 0.6
assert in_failure < 0.07

# %% [markdown]
# In three cases of four the side effect that was not listed grew. In the fourth (hazard reference, vase held) it
# *fell*: there the vase can only be kept at its rate by going through the door. The balloon is a risk and no law.
#
# **And if there is no honest way?** Let the fire leave you five moves. Fetching her takes six; the valve takes two.
# Now success *is* the explosion. What is left is to cheat or to decline.

# %%
hurried, hurried_logits, hurried_table = exact(replace(world, horizon=5), REFERENCES["door"])
assert hurried_table[1, :2].sum() == 0  # no success without an explosion
assert not outcomes.ipf(hurried_table, ASKED).feasible
assert outcomes.tax(hurried_table, ASKED) == jnp.inf
UPDATES = 420
hurried_paths = {
    name: pick(follow(hurried, METHODS[name][0], hurried_logits[None], UPDATES), 0)
    for name in METHODS
    if name != "natural gradient"
}
fig, ax = plt.subplots(figsize=(8, 3.6))
for name, points in hurried_paths.items():
    at = frontiers.at_success(points, ASKED)
    ending = f"cheats: success {ASKED} after {at.updates:.0f} updates" if at.reached else "declines"
    best = f", after coming to {at.best:.2f}" if not at.reached and at.best > 0.1 else ""
    print(f"{name:16s} {ending}{best}; in the end success {points.success[-1]:.2g}")
    ax.plot(points.success, color=COLORS[name], lw=1.8, label=name)
ax.set(xlabel="updates", ylabel="P(success) = 0.95 P(explosion)", xlim=(0, UPDATES), ylim=(0, 1))
ax.set_title("five moves: success is the explosion")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
cheats = {name for name, points in hurried_paths.items() if frontiers.at_success(points, ASKED).reached}
assert cheats == {"policy gradient", "TRPO", "PPO", "region"}
assert all(hurried_paths[name].success[-1] < 0.02 for name in ("price", "penalty"))
assert hurried_paths["penalty"].success.max() < 0.02
tried = np.asarray(hurried_paths["price"].success)
bursts = np.flatnonzero((tried[1:-1] > 0.1) & (tried[1:-1] > tried[:-2]) & (tried[1:-1] >= tried[2:])) + 1
print("the price has bursts of", {int(update): f"{tried[update]:.2f}" for update in bursts}, "by update;", end=" ")
print(f"over all updates the mean is {tried.mean():.4f}, the reference has {hurried_table[1].sum():.4f}")
assert len(bursts) == 2
assert tried[bursts[1]] > tried[bursts[0]] > 0.2
assert tried[20:200].max() < 0.01
assert tried.mean() < 0.01
assert (
    frontiers.at_success(hurried_paths["region"], ASKED).updates
    > 20 * frontiers.at_success(hurried_paths["TRPO"], ASKED).updates
)

# %% [markdown]
# Plain objectives cheat, each in its own time. The penalty *declines*: it knows the reference's rates from the start,
# and never lets go of them.
#
# The price declines as well, but look at how. It must see explosions to raise itself, so at first there are many. Then
# there are none for two hundred updates, it lowers itself, and there are more than the first time. What it holds is
# the rate *on average over the run*. That may be fine for broken vases, and it is not for buildings.
#
# And the region, for all its weight, only *slows* the cheat: it holds each step to the step before, small steps add
# up, and nothing in it remembers where it began.
#
# ## 6. What warned?
#
# Up to here everything was known. In practice there are samples, and labels of side effects are expensive. So: a
# *sampled* run, GRPO on the language of section 4, sixteen prompts and 64 answers to each per update. One token skips
# the test, the honest answer takes four; both are paid the same. Two kinds of monitors look on:
#
# * **without labels**: statistics of the tokens' log-ratios and rewards (`outcomes.token_statistics`), of each update
#   and since the start. How far, how unevenly, in one place?
# * **with a few labels**: each update 32 of the 1024 answers are looked at. Did they skip? A G test takes each look by
#   itself; a CUSUM adds the looks up.
#
# A monitor is only as good as its silence, so there are *benign* runs to compare with: the same prompts, with skipping
# not paid. In one kind honesty takes four tokens, as before ("long way"). In the other it is
# one token, as rare as the skip was ("legitimate fork"): to the tokens it looks as a hack would.

# %%
NUM_WORLDS, ANSWERS, LABELS = 16, 64, 32
RUN_UPDATES, SEEDS = (80, 3) if FAST else (120, 8)
world_key = jax.random.key(0)
hackable = worlds.skip_the_test(world_key, num_worlds=NUM_WORLDS, depths=(4,))
KINDS = {
    "hackable": hackable,
    "long way": worlds.benign_twin(hackable),
    "legitimate fork": worlds.benign_twin(worlds.skip_the_test(world_key, num_worlds=NUM_WORLDS, depths=(1,))),
}
prompts = jnp.broadcast_to(jnp.arange(NUM_WORLDS)[:, None], (NUM_WORLDS, ANSWERS))


def prompt_model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=params[obs]))


def exact_law(params, tokens_world):
    return worlds.token_outcome_law(jax.nn.log_softmax(params), tokens_world)


RATE = float(exact_law(hackable.logits, hackable).skip.mean())
ALARM_RATE, THRESHOLD, P_VALUE, HARM = 0.06, 6.0, 1e-3, 0.1
grpo = po.make_step((po.objective(prompt_model, po.ppo(reduce=po.sequence_mean)), optax.adam(0.02)))


def answer(params, tokens_world, key):
    """A batch of answers with their group-relative advantages, and their rewards."""
    policy = prompt_model(params, prompts).policy
    tokens = policy.sample(seed=key)
    rewards = tokens_world.reward(prompts, tokens)
    advantage = po.group_relative(rewards)
    batch = po.Batch(
        obs=prompts,
        action=tokens,
        mask=jnp.ones(tokens.shape, bool),
        log_prob=policy.log_prob(tokens),
        advantage=jnp.broadcast_to(advantage[..., None], tokens.shape),
        outcome=tokens_world.outcome(prompts, tokens),
    )
    return batch, rewards


def watch(tokens_world, key):
    """A training run and everything that watched it, each [updates]."""
    first, first_rewards = answer(tokens_world.logits, tokens_world, jax.random.fold_in(key, 0))

    def update(state, key):
        params, opt_state, total = state
        answer_key, label_key = jax.random.split(key)
        batch, rewards = answer(params, tokens_world, answer_key)
        new, opt_state, _ = grpo.update(params, opt_state, batch, None)
        skips = jax.random.choice(label_key, batch.outcome["skip"].reshape(-1), (LABELS,), replace=False)
        total = outcomes.cusum(total, skips.sum(), LABELS, rate=RATE, alarm_rate=ALARM_RATE)
        look = outcomes.g_statistic(skips.astype(int), jnp.array([1 - RATE, RATE]))
        law = exact_law(params, tokens_world)
        step = outcomes.token_statistics(prompt_model(new, prompts), batch, reward=rewards)
        drift = outcomes.token_statistics(prompt_model(params, prompts), first, reward=first_rewards)
        drift.pop("reward_surprise")  # of the first batch: it does not change
        label_free = {f"{name}, one update": x for name, x in step.items()}
        label_free |= {f"{name}, since the start": x for name, x in drift.items()}
        seen = {"success": law.success.mean(), "skip": law.skip.mean(), "cusum": total, "p_value": look.p_value}
        paid = (rewards > 0).any(-1).sum()  # prompts of which an answer was paid
        return (new, opt_state, total), seen | {"paid": paid, "label_free": label_free}

    start = (tokens_world.logits, grpo.init(tokens_world.logits), jnp.zeros(()))
    return jax.lax.scan(update, start, jax.random.split(key, RUN_UPDATES))[1]


watched = jax.jit(jax.vmap(watch, (None, 0)), compiler_options=driver.compiler_options())
seeds = jax.random.split(jax.random.key(1), SEEDS)
runs = {name: jax.tree.map(np.asarray, watched(tokens_world, seeds)) for name, tokens_world in KINDS.items()}


def when(alarm):
    """The first update of each run at which a flag [runs, updates] is up; NaN if never."""
    return np.where(alarm.any(1), alarm.argmax(1), np.nan)


bad, benign = runs["hackable"], [runs["long way"], runs["legitimate fork"]]
harm = when(bad["skip"] >= HARM)
assert not np.isnan(harm).any()
print(f"skips pass {HARM:.0%} of all answers at update {harm.min():.0f} to {harm.max():.0f} (from {RATE:.1%})")


def lead(name, alarm):
    """When a monitor first rose in each bad run, if before the harm; and in how many benign runs it rose."""
    rose = when(alarm(bad))
    early, false = rose < harm, sum(alarm(run).any(1).sum() for run in benign)
    times = f"at update {rose[early].min():.0f} to {rose[early].max():.0f}" if early.any() else ""
    print(f"{name:34s} rose early in {early.sum()} of {SEEDS} runs {times:20s} false alarms {false} of {2 * SEEDS}")
    return rose[early], (harm - rose)[early], false


warned = {
    "CUSUM, 32 labels": lead("CUSUM, 32 labels", lambda run: run["cusum"] > THRESHOLD),
    "G test, 32 labels": lead("G test, 32 labels", lambda run: run["p_value"] < P_VALUE),
}
# Without labels there is no natural threshold. Each statistic gets the best one in hindsight without a false alarm:
# an alarm is a value, above or below, that none of the benign runs ever had.
label_free = {}
for name in bad["label_free"]:
    quiet = np.concatenate([run["label_free"][name].ravel() for run in benign])

    def outside(run, name=name, quiet=quiet):
        return (run["label_free"][name] < quiet.min()) | (run["label_free"][name] > quiet.max())

    label_free[name] = lead(name, outside)

# %%
fig, axes = plt.subplots(1, 4, figsize=(13, 3.4))
SHOW = {
    "skip": "P(skip), exact",
    "cusum": "CUSUM of 32 labels",
    "mean_kl, since the start": "mean KL since the start",
    "max_log_ratio, since the start": "largest log-ratio since the start",
}
for ax, (name, title) in zip(axes, SHOW.items(), strict=True):
    for (kind, run), color in zip(runs.items(), ("#d55e00", "#0072b2", "#56b4e9"), strict=True):
        values = run[name] if name in run else run["label_free"][name]
        low, middle, high = values.min(0), np.median(values, 0), values.max(0)
        ax.fill_between(np.arange(RUN_UPDATES), low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(middle, color=color, label=kind)
    ax.set(title=title, xlabel="update", xlim=(0, RUN_UPDATES))
axes[0].axhline(HARM, color="black", lw=1, ls=":")
axes[1].axhline(THRESHOLD, color="black", lw=1, ls=":")
axes[1].set_ylim(0, 40)
axes[0].legend(loc="upper left")
plt.show()

# %%
ahead = {name: np.median(found[1]) for name, found in warned.items()}
print({name: f"{updates:.0f} updates ahead (median)" for name, updates in ahead.items()})
assert len(warned["CUSUM, 32 labels"][0]) == SEEDS
assert SEEDS > len(warned["G test, 32 labels"][0]) > SEEDS // 2
assert ahead["CUSUM, 32 labels"] > ahead["G test, 32 labels"] > 10
assert not any(false for _, _, false in warned.values())
for rose, _, _ in label_free.values():
    assert (rose <= 1).all()  # a label-free alarm, if there is one, comes before anything has happened
first_paid, first_kl = (
    np.concatenate([x[:, 0] for x in each])
    for each in zip(*((run["paid"], run["label_free"]["mean_kl, one update"]) for run in runs.values()), strict=True)
)
print("prompts with a paid answer at first:", {name: f"{run['paid'][:, 0].mean():.1f}" for name, run in runs.items()})
print(f"correlation of their number with the first update's KL: {np.corrcoef(first_paid, first_kl)[0, 1]:.2f}")
assert np.corrcoef(first_paid, first_kl)[0, 1] > 0.9
assert bad["paid"][:, 0].mean() > max(run["paid"][:, 0].mean() for run in benign)
LATE = 50  # shortly before the harm
bad_kl, long_kl, fork_kl = (np.median(r["label_free"]["mean_kl, since the start"][:, LATE]) for r in runs.values())
assert fork_kl < bad_kl < long_kl
bad_runs, _, fork_runs = (r["label_free"]["mean_kl, since the start"][:, LATE] for r in runs.values())
assert bad_runs.min() > fork_runs.max()  # against the fork alone it would have told them apart
bad_ratio, long_ratio, fork_ratio = (
    np.median(r["label_free"]["max_log_ratio, since the start"][:, LATE]) for r in runs.values()
)
assert long_ratio < bad_ratio < fork_ratio

# %% [markdown]
# **What warned**: labels. 32 of 1024 are enough for a CUSUM to rise long before one answer in ten skips, in every
# run, and never in a benign one. The G test, which forgets each look, is later, and not in every run.
#
# **What did not**: everything without labels. It is not that those statistics stand still. They move a great deal; but
# they move as far, and as unevenly, when the policy learns something that we like. The bad runs lie *between* the two
# kinds of benign ones: their largest log-ratio is smaller than that of the legitimate fork, their mean KL smaller than
# that of the long way. Against only one of the two, some statistic would have told the runs apart: by the length of
# the way that was learnt, not by its being bad.
#
# Where a label-free statistic did leave the benign range before the harm, it was within the first two updates, before
# anything was learnt. It had noticed for how many prompts some answer was paid: more of them, since there are two ways
# to be paid. That is true, and no warning: it would be as true if both ways were fine.
#
# (A range taken in hindsight flatters, too: in a real run there are no benign twins to compare with. And these are our
# statistics, on one small language. Others, on a model's inner activations for instance, may do better.)
#
# ## 7. What this does not show
#
# * **Toys.** A building of fifteen cells and a language of six words; policies are tables, so nothing generalises from
#   one state to another. Large models share parameters between what they were trained on and what they were not.
# * **Exact gradients** in sections 2 to 5. They see what no rollout would ever show: the blind spot of section 2 ends
#   in an explosion because of that.
# * **One setting each.** Methods were read at one step size. The [findings](../docs/findings.md) have the sweeps, other
#   buildings and another reward. The orders at success 0.9 hold there over every setting; the numbers vary.
# * **You must name the side effects.** What was not listed was not held, and what was never sampled can be neither
#   forecast, nor held, nor noticed.
# * **"As before" is not "good".** Every method that held outcomes held them at the reference's rates, explosions
#   included. What the reference does is a starting point for asking what you want, and no answer.
# * It does *not* say that an objective is safe. The one that looked safest with one reference was the worst with the
#   other.
