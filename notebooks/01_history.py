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
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import polopt_jax as po
from polopt_jax import advantages, algorithms, driver, envs, language, surrogates, tasks, worlds
from polopt_jax.rollout import start

FAST = os.environ.get("POLOPT_FAST") == "1"
plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "font.size": 10})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREY, LIGHT_GREY, MID_BLUE, DARK_ORANGE = plt.rcParams["axes.prop_cycle"].by_key()["color"][:6]


def band(ax, x, runs, *, label, color, inner=50, **style):
    """Median over the first axis, with the band that holds the inner 50% (or more) of the runs."""
    low, middle, high = np.percentile(np.asarray(runs), [50 - inner / 2, 50, 50 + inner / 2], axis=0)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(x, middle, color=color, label=label, **style)


# %% [markdown]
# # Seven methods, one loop
#
# REINFORCE, Actor-Critic, Natural Policy Gradient, TRPO, PPO, DPO, GRPO. Thirty years, and each is a small edit of the
# one before. In this notebook the edits are all that changes. Everything is trained by the same loop,
#
# ```
# repeat:  batch = collect(params)        # act, and judge what was done
#          params = step(params, batch)   # an objective and an optimizer
# ```
#
# which is `po.train`, and every chapter says what it puts into `collect` and into `step`, what trouble of the previous
# chapter that cures, and what it costs. Each has one picture, drawn from worlds so small that the truth is known
# exactly and can be drawn beside the estimate.

# %% [markdown]
# ## A world whose truth is known
#
# Two rooms, ten decisions. In each room you *stay* or *move*. Staying pays 1 in the first room and 2 in the second;
# moving pays nothing. You start in the first room. The best plan is to move at once and then stay.
#
# The policy has just **two parameters**: the logit of staying in room 1 and that of staying in room 2. So a policy is
# a point in the plane, and its exact return $J(\theta)$ - by dynamic programming, `envs.expected_return` - is a
# landscape over it. We start at a policy with a bad habit: it mostly stays in room 1, and whenever it does get to
# room 2, it mostly leaves at once. (The world is after Kakade 2001, who brought the natural policy gradient.)

# %%
H = 10
STAY, MOVE = 0, 1


def two_rooms(horizon):
    """A state is (time, room), so that a critic may know the time; which room it is, is all that the policy sees."""
    state = np.arange(2 * horizon)
    time, room = np.divmod(state, 2)
    later = 2 * np.minimum(time + 1, horizon - 1)
    transition = np.zeros((2 * horizon, 2, 2 * horizon), np.float32)
    transition[state, STAY, later + room] = 1.0
    transition[state, MOVE, later + 1 - room] = 1.0
    reward = np.zeros((2 * horizon, 2), np.float32)
    reward[:, STAY] = 1.0 + room
    return envs.TabularMDP(
        initial=jax.nn.one_hot(0, 2 * horizon),
        transition=jnp.asarray(transition),
        reward=jnp.asarray(reward),
        terminal=jnp.zeros(2 * horizon, bool),
        horizon=horizon,
    )


world = two_rooms(H)
ROOM_OF_STATE = jnp.tile(jnp.eye(2), (H, 1))


def model(params, obs):
    """Any function (params, obs) -> Outputs will do. This one has 2 parameters in the policy and 2 H in the critic."""
    stay = obs @ ROOM_OF_STATE @ params["policy"]
    policy = po.Categorical(logits=jnp.stack([stay, jnp.zeros_like(stay)], axis=-1))
    return po.Outputs(policy=policy, value=obs @ params["value"])


def policy_table(params):
    return jax.nn.softmax(model(params, jnp.eye(2 * H)).policy.logits)


def exact_return(params):
    """J(θ): no sampling."""
    return envs.expected_return(world, policy_table(params))


START = {"policy": jnp.array([1.5, -1.5]), "value": jnp.zeros(2 * H)}
stay_1, stay_2 = jax.nn.sigmoid(START["policy"])
print(f"at the start: stays in room 1 with probability {stay_1:.2f}, in room 2 with {stay_2:.2f}")
print(
    f"return at the start {exact_return(START):.2f}; of always staying in room 1: {H}; of the best plan: {2 * (H - 1)}"
)


# %% [markdown]
# The loop needs two things. `collector(estimate, episodes=...)` makes the one `collect` function that all chapters on
# this world share: play some episodes, let `estimate` say how good each decision was, pack it all into a `Batch`.
# `learn(recipe, ...)` is `po.train`, compiled, side by side for several seeds and several settings of one
# hyperparameter.


# %%
def play(params, key, *, episodes):
    """Whole episodes, one per column: a rollout [H, episodes]."""
    start_key, play_key = jax.random.split(key)
    loop = start(world, start_key, num_envs=episodes)
    return po.unroll(world, lambda obs: model(params, obs), loop, play_key, num_steps=H)[1]


def collector(estimate, *, episodes):
    def collect(params, memory, key):
        rollout = play(params, key, episodes=episodes)
        advantage, target = estimate(rollout)
        batch = po.to_batch(rollout, advantage=advantage, target=target)
        return memory, batch, {"return": exact_return(params), **params}

    return collect


def algorithm(params, collect, step, memory=lambda key: ()):
    """What `po.train` needs: where to start, how to collect, how to step."""

    def init(key):
        memory_key, key = jax.random.split(key)
        update = jnp.zeros((), jnp.int32)
        return po.TrainState(
            params=params, opt_state=step.init(params), collect_state=memory(memory_key), key=key, update=update
        )

    return algorithms.Algorithm(init, collect, step)


def learn(recipe, *, updates, settings=(0.0,), seeds=1):
    """Runs `recipe(setting)` for every setting and seed; every metric comes back as [settings, seeds, updates]."""

    def run(setting, key):
        it = recipe(setting)
        return po.train(it.collect, it.step, it.init(key), updates=updates)

    runs = jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None))
    options = driver.compiler_options()
    return jax.jit(runs, compiler_options=options)(jnp.asarray(settings), driver.seed_keys(0, seeds))


# %% [markdown]
# ## 1. REINFORCE (Williams 1992)
#
# $$\nabla J = \mathbb{E}\Big[\sum_t \nabla \log \pi_\theta(a_t|s_t)\,\big(G_t - b(s_t)\big)\Big]$$
#
# **What it gives.** A gradient of something you can only sample: try, and make what turned out well more probable. No
# model of the world, no derivative of the reward. $G_t$ is the return that followed.
#
# **What it costs.** Variance. The baseline $b$ changes nothing in expectation, as long as it does not look at the
# action, but a good one removes most of the noise. Three of them, on the same episodes: none, the mean return of the
# batch at that step, and a learned value of the state.
#
# First the learned one: a critic is a regression of $G_t$ on the state. It goes through the same loop, as a step whose
# objective is `value_loss`. (It has no gradient with respect to the policy, which stays where it is.)


# %%
def monte_carlo(rollout):
    """Returns of whole episodes as they were seen: nothing is bootstrapped."""
    returns = po.discounted_returns(replace(rollout, next_value=jnp.zeros_like(rollout.reward)), gamma=1.0)
    return returns, returns


critic = po.objective(model, po.value_loss())
CRITIC_UPDATES = 60 if FAST else 150


JUDGED = {**START, "policy": jnp.array([1.5, 1.5])}  # in chapters 1 and 2: a policy that stays, mostly, in either room


def critic_only(_):
    rate = optax.linear_schedule(1.0, 0.0, CRITIC_UPDATES)
    return algorithm(JUDGED, collector(monte_carlo, episodes=512), po.make_step((critic, optax.adam(rate))))


trained, history = learn(critic_only, updates=CRITIC_UPDATES)
with_critic = jax.tree.map(lambda x: x[0, 0], trained.params)
exact = envs.q_values(world, policy_table(JUDGED))
TIME = np.arange(2 * H) // 2  # a state has its own time, so Q of a state is Q at that time
exact_value = exact.v[TIME, np.arange(2 * H)]
visits = envs.visitation(world, policy_table(JUDGED)).sum(0) / H
rms = jnp.sqrt(visits @ (with_critic["value"] - exact_value) ** 2)
print(
    f"exact values: {exact_value[visits > 0].min():.1f} to {exact_value.max():.1f}; the critic's rms error: {rms:.2f}"
)
assert (with_critic["policy"] == JUDGED["policy"]).all()

# %%
# The gradient from a batch of 8 episodes, again and again, with three baselines on the same episodes.
BATCHES, EPISODES = (400, 8) if FAST else (1500, 8)
reinforce = po.objective(model, po.reinforce(reduce=po.sequence_sum))  # summed over an episode: its gradient is -∇J


def ascent(rollout, advantage):
    """The estimate of ∇J that these episodes and advantages give."""
    batch = po.to_batch(rollout, advantage=advantage)
    return -jax.grad(reinforce, has_aux=True)(JUDGED, batch)[0]["policy"]


BASELINES = {
    "no baseline": advantages.static_baseline(0.0),
    "batch mean": advantages.batch_mean_baseline(),
    "learned value": advantages.learned_baseline(),
}


@jax.jit
@jax.vmap
def with_baselines(key):
    rollout = play(with_critic, key, episodes=EPISODES)
    returns, _ = monte_carlo(rollout)
    return [ascent(rollout, returns - b.apply(b.init(), returns, rollout)[1]) for b in BASELINES.values()]


keys = jax.random.split(jax.random.key(1), BATCHES)
clouds = dict(zip(BASELINES, np.asarray(with_baselines(keys)), strict=True))
truth = np.asarray(jax.grad(exact_return)(JUDGED)["policy"])
spread = {name: cloud.var(axis=0).sum() for name, cloud in clouds.items()}
for name, cloud in clouds.items():
    # Unbiased: the mean of many estimates is the exact gradient. (A batch mean holds the episode itself: 1/8 shorter.)
    expected = truth * (1 - 1 / EPISODES) if name == "batch mean" else truth
    z = (cloud.mean(0) - expected) / (cloud.std(0) / np.sqrt(BATCHES))
    assert (np.abs(z) < 4).all()
    print(f"{name:13s} total variance {spread[name]:6.2f}   mean {cloud.mean(0).round(2)}   exact {truth.round(2)}")
assert spread["no baseline"] > 5 * max(spread["batch mean"], spread["learned value"])

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharex=True, sharey=True)
for ax, (name, cloud), color in zip(axes, clouds.items(), [GREY, ORANGE, BLUE], strict=True):
    ax.scatter(*cloud.T, s=7, color=color, alpha=0.35, linewidth=0, rasterized=True)
    ax.annotate("", truth, (0, 0), arrowprops=dict(arrowstyle="->", lw=2, color="black", shrinkA=0, shrinkB=0))
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(title=f"{name}: variance {spread[name]:.1f}", xlabel="∂J/∂θ₁ (room 1)")
axes[0].set_ylabel("∂J/∂θ₂ (room 2)")
fig.suptitle(f"REINFORCE: {BATCHES} gradients of {EPISODES} episodes each; the arrow is the exact gradient")
plt.show()

# %% [markdown]
# The arrow is short against the first cloud: this is the problem that all later chapters live with. A baseline shrinks
# the cloud and leaves its centre alone - the batch mean not quite: an episode is an eighth of its own baseline, which
# shortens the mean by an eighth.

# %% [markdown]
# ## 2. Actor-Critic (Konda & Tsitsiklis 2000; GAE: Schulman et al. 2016)
#
# $$\hat A_t = \sum_{l\ge 0} (\gamma\lambda)^l\,\delta_{t+l}, \qquad \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)$$
#
# **What it adds.** If a critic is good enough to subtract, it may be good enough to *replace* the rest of the return.
# $\lambda$ says how soon: $\lambda = 1$ is the return minus a baseline (chapter 1), $\lambda = 0$ trusts the critic
# after a single step.
#
# **What it costs.** Bias, to the extent that the critic is wrong. The exact gradient is known here, so the error of the
# estimate splits: how far is the *mean* of many estimates from the truth (bias), and how much do they scatter
# (variance)? With a critic that knows nothing, one that has only begun to learn, and the trained one.

# %%
lambdas = np.linspace(0, 1, 6 if FAST else 11)
young = history["value"][0, 0, 8]  # chapter 1's critic after eight updates
CRITICS = {"knows nothing": JUDGED["value"], "young": young, "trained": with_critic["value"]}


@jax.jit
@jax.vmap
def with_gae(key):
    rollout = play(JUDGED, key, episodes=EPISODES)

    def gradient(critic_values, lambda_):
        valued = replace(rollout, value=rollout.obs @ critic_values, next_value=rollout.next_obs @ critic_values)
        advantage, _ = po.gae(valued, gamma=1.0, lambda_=lambda_)
        return ascent(rollout, advantage)

    over_lambdas = jax.vmap(gradient, in_axes=(None, 0))
    return jax.vmap(over_lambdas, in_axes=(0, None))(jnp.stack([*CRITICS.values()]), lambdas)


split = {}
for name, samples in zip(CRITICS, np.asarray(with_gae(keys)).swapaxes(0, 1), strict=True):  # [batches, λ, 2] each
    variance = samples.var(axis=0, ddof=1).sum(-1)
    bias2 = ((samples.mean(0) - truth) ** 2).sum(-1) - variance / BATCHES  # less what the finite sample adds
    split[name] = bias2.clip(0), variance
    best = lambdas[(bias2 + variance).argmin()]
    print(
        f"critic {name:13s}  λ 0 → 1:  bias² {bias2[0]:5.2f} → {abs(bias2[-1]):5.2f}"
        f"   variance {variance[0]:5.2f} → {variance[-1]:5.2f}   best λ {best:.1f}"
    )
    assert abs(bias2[-1]) < 0.02 * variance[-1]  # λ = 1 is unbiased whatever the critic says
    assert variance[-1] > variance[0]

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4))
for ax, (name, (bias2, variance)) in zip(axes, split.items(), strict=True):
    ax.fill_between(lambdas, 0, bias2, color=ORANGE, alpha=0.85, linewidth=0, label="bias²")
    ax.fill_between(lambdas, bias2, bias2 + variance, color=BLUE, alpha=0.55, linewidth=0, label="variance")
    best = (bias2 + variance).argmin()
    ax.plot(lambdas[best], (bias2 + variance)[best], "v", color="black", label=f"least, λ = {lambdas[best]:.1f}")
    ax.set(title=f"critic: {name}", xlabel="λ", xlim=(0, 1), ylim=(0, None))
    ax.legend(loc="upper left")
axes[0].set_ylabel("squared error of the gradient")
fig.suptitle("Actor-Critic: λ trades the errors of the critic for the noise of the return")
plt.show()

# %% [markdown]
# ## 3. Natural policy gradient (Kakade 2001)
#
# $$\theta \leftarrow \theta + \alpha\,F^{-1}\nabla J, \qquad
# F = \mathbb{E}_{s,a}\big[\nabla\log\pi\,\nabla\log\pi^\top\big]$$
#
# **What was wrong.** Not noise this time: take the *exact* gradient. "Steepest" is steepest per unit of parameter, and
# a parameter is an accident of how the policy was written down. Our policy stays in room 1 and so rarely sees room 2;
# the gradient with respect to what to do in room 2 is scaled by that rarity. So the agent learns to be happy in room 1,
# visits room 2 ever less, and sits on a plateau.
#
# **What it adds.** Measure the step by how much it changes the *policy* (KL), not the parameters. The Fisher matrix $F$
# is the curvature of that KL; it is scaled by the same rarity, and $F^{-1}$ takes the scale out.
#
# **What it costs.** A linear solve per update, done without a matrix by conjugate gradients.
#
# In the library this is not another loss but another *optimizer*. It is driven by any divergence; here by one of our
# own, the KL with every state weighted by how often the old policy visits it, so that nothing is sampled.


# %%
def exact_kl(old, new, batch):
    """KL(old ‖ new) per decision, exact in states and actions. The batch is one row with every state."""
    table = jax.nn.softmax(old.policy.logits[0])
    visits = envs.visitation(world, table).sum(0) / H
    return visits @ old.policy.kl_divergence(new.policy)[0]


def collect_all_states(params, memory, key):
    every_state = po.Batch(
        obs=jnp.eye(2 * H)[None], action=jnp.zeros((1, 2 * H), jnp.int32), mask=jnp.ones((1, 2 * H), bool)
    )
    return memory, every_state, {"return": exact_return(params), **params}


def exact_objective(params, batch):
    return -exact_return(params) / H, {}


def vanilla(learning_rate):
    return algorithm(START, collect_all_states, po.make_step((exact_objective, optax.sgd(learning_rate))))


def natural(learning_rate):
    optimizer = po.npg(model, divergence=exact_kl, learning_rate=learning_rate, damping=1e-6, cg_iters=2)
    return algorithm(START, collect_all_states, po.make_step((exact_objective, optimizer)))


RATES = [0.1, 0.3, 1.0, 3.0]
_, by_gradient = learn(vanilla, updates=3000, settings=RATES)
_, by_natural = learn(natural, updates=100, settings=[0.1])
by_gradient, by_natural = (jax.tree.map(lambda x: np.asarray(x)[:, 0], m) for m in (by_gradient, by_natural))


def updates_to(returns, threshold):
    """The first update at which the return is above the threshold; None if there is none."""
    above = returns > threshold
    return int(above.argmax()) if above.any() else None


print(f"updates until the return is above {H}, all that room 1 can give (None: not in 3000)")
for rate, returns in zip(RATES, by_gradient["return"], strict=True):
    print(f"  gradient, rate {rate:3.1f}           {updates_to(returns, H)}")
escaped = updates_to(by_natural["return"][0], H)
print(f"  natural gradient, rate 0.1   {escaped}")
assert all(n is None or n > 10 * escaped for n in (updates_to(r, H) for r in by_gradient["return"]))

# %%
axis0, axis1 = np.linspace(-4.5, 7.5, 61), np.linspace(-3, 7.5, 61)
landscape = jax.jit(
    jax.vmap(jax.vmap(lambda a, b: exact_return({**START, "policy": jnp.stack([a, b])}), (0, None)), (None, 0))
)
surface = landscape(axis0, axis1)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=[1, 1.1])
filled = left.contourf(axis0, axis1, surface, levels=np.arange(0, 18.1, 1), cmap="Greys", alpha=0.75)
fig.colorbar(filled, ax=left, label="exact return J")
RATE_COLORS = plt.colormaps["YlOrBr"](np.linspace(0.45, 0.85, len(RATES)))
shown = RATES.index(1.0)
path = by_gradient["policy"][shown]
left.plot(*path.T, color=RATE_COLORS[shown], lw=2.5)
left.plot(*by_natural["policy"][0].T, "o-", ms=4, lw=1.5, color=BLUE)
left.text(2.8, -2.75, "gradient, rate 1:\nnumbers are updates", color=RATE_COLORS[shown], fontsize=9)
left.text(2.4, 0.3, "natural gradient:\na dot per update", color=BLUE, fontsize=9, ha="right")
marked = [n for n in (10, 100, 1000) if n < len(path)]
left.plot(*path[marked].T, "o", ms=5, color=RATE_COLORS[shown], mec="black", zorder=3)
for n in marked:
    left.annotate(f"{n}", path[n], (-3, -14), textcoords="offset points", ha="center", fontsize=9)
left.plot(*START["policy"], "*", ms=14, color="black", zorder=4)
left.set(
    xlabel="θ₁: logit of staying in room 1",
    ylabel="θ₂: logit of staying in room 2",
    xlim=axis0[[0, -1]],
    ylim=axis1[[0, -1]],
)
for rate, returns, color in zip(RATES, by_gradient["return"], RATE_COLORS, strict=True):
    right.semilogx(np.arange(1, returns.size + 1), returns, color=color, lw=2, label=f"rate {rate:g}")
right.semilogx(np.arange(1, 101), by_natural["return"][0], "o-", ms=4, lw=1.5, color=BLUE)
right.text(33, 14, "natural gradient,\nrate 0.1", color=BLUE, fontsize=9)
right.axhline(H, color="0.6", lw=1, ls=":")
right.annotate("stay in room 1 for ever", (1, H), (0, 5), textcoords="offset points", color="0.4")
right.set_ylim(6.5, 18.5)
right.set(xlabel="update", ylabel="exact return J")
right.legend(loc="upper left", title="gradient", fontsize=9)
fig.suptitle("Natural gradient: the same exact gradient, measured in policies instead of parameters")
plt.show()

# %% [markdown]
# ## 4. TRPO (Schulman et al. 2015)
#
# $$\max_\theta\ \mathbb{E}\Big[\frac{\pi_\theta(a|s)}{\pi_\text{old}(a|s)}\hat A\Big]
# \quad\text{subject to}\quad \mathrm{KL}(\pi_\text{old}\,\|\,\pi_\theta) \le \delta$$
#
# **What was wrong.** The natural gradient gives a direction, and "rate 0.1" has no meaning. Scale the step so that the
# *quadratic model* of the KL says $\delta$: now it has one, but the quadratic model is only good near by, and where the
# policy is nearly deterministic, "near by" is very near.
#
# **What it adds.** A line search: shorten the step, and again, until the KL, computed exactly, is within $\delta$ *and*
# the surrogate has improved; if no step passes, take none. The chain reads as the method does,
# `natural_gradient → scale_to_radius → scale(-1) → backtrack`. Below, the same chain with and without the check of
# the KL in its last link.
#
# **What it costs.** A few more evaluations of the policy, and batches that are used only once.

# %%
RADIUS, SEEDS, UPDATES = 0.05, (8 if FAST else 32), (20 if FAST else 30)
surrogate = po.objective(model, po.surrogate())


def by_critic(lambda_=0.9):
    def estimate(rollout):
        return po.gae(rollout, gamma=1.0, lambda_=lambda_)

    return estimate


def trust_region(limit):
    """Every step is scaled to RADIUS by the quadratic model; `limit` is what the line search accepts. This is TRPO if
    they are the same (`po.trpo` in one word), and without its check of the KL if the limit is infinite."""
    optimizer = optax.chain(
        po.natural_gradient(model, po.action_kl, damping=1e-4),
        po.scale_to_radius(model, po.action_kl, radius=RADIUS),
        optax.scale(-1.0),
        po.backtrack(model, [(po.action_kl, limit)]),
    )
    step = po.make_step(policy=(surrogate, optimizer), critic=(critic, optax.adam(0.3)))
    step = po.monitored(step, model, kl_old_new=po.action_kl)
    return algorithm(START, collector(by_critic(), episodes=128), step)


_, searched = learn(trust_region, updates=UPDATES, settings=[RADIUS, jnp.inf], seeds=SEEDS)
checked, unchecked = (jax.tree.map(lambda x, i=i: np.asarray(x)[i], searched) for i in (0, 1))
for name, runs in (("TRPO", checked), ("KL not checked", unchecked)):
    kl, last = runs["kl_old_new"], runs["return"][:, -1]
    print(
        f"{name:14s}  largest KL of an update {kl.max():6.3f}   updates beyond {RADIUS}: {(kl > RADIUS).mean():3.0%}   "
        f"return at the end: mean {last.mean():.1f}, worst {last.min():.1f}"
    )
assert checked["kl_old_new"].max() <= RADIUS < unchecked["kl_old_new"].max()

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
update = np.arange(UPDATES)
for runs, color, marker, label in ((unchecked, ORANGE, "x", "KL not checked"), (checked, BLUE, ".", "TRPO")):
    left.semilogy(update, runs["kl_old_new"].T, marker, ms=4, color=color, alpha=0.5)  # a step of 0 is not on the axis
    left.plot([], [], marker, color=color, label=label)
    band(right, update, runs["return"], label=label, color=color, inner=80)
left.axhline(RADIUS, color="black", lw=1.2, ls="--", label="predicted: the radius δ")
left.set(xlabel="update", ylabel="actual KL(old ‖ new), nats per decision", ylim=(1e-4, None))
left.legend(loc="lower left", frameon=True)
right.set(xlabel="update", ylabel="exact return J")
right.legend(loc="lower right")
fig.suptitle(f"TRPO: predicted and actual KL; {SEEDS} seeds (right: median and inner 80%), 128 episodes per update")
plt.show()

# %% [markdown]
# ## 5. PPO (Schulman et al. 2017)
#
# $$L = -\mathbb{E}\big[\min(\rho\hat A,\ \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\,\hat A)\big],
# \qquad \rho = \frac{\pi_\theta(a|s)}{\pi_\text{old}(a|s)}$$
#
# **What was wrong.** TRPO takes one expensive step per batch, and needs curvature, which is awkward for large networks,
# for shared trunks, for many machines.
#
# **What it adds.** A loss that can be minimised by Adam for several epochs on the same batch. Once a decision's ratio
# has moved by $\epsilon$ in the direction that its advantage asked for, its gradient is exactly zero.
#
# **What it costs.** The guarantee. The clip removes the reason to go on, but nothing pulls back, and a decision whose
# own gradient is gone is still moved by the others. Below, the loss; and 100 epochs on a single batch with and without
# the clip (a clip of infinity *is* the surrogate of chapter 4).

# %%
EPOCHS, EPS, SEEDS = (60 if FAST else 100), 0.2, (8 if FAST else 32)


def one_batch_many_epochs(clip_eps):
    """`collect` hands out the same batch again and again, from its memory."""
    collect_first = collector(by_critic(), episodes=64)

    def collect(params, batch, key):
        moved = po.action_kl(model(START, batch.obs), model(params, batch.obs), batch)
        return batch, batch, {"return": exact_return(params), "kl": moved}

    def memory(key):
        batch = collect_first({**START, "value": START_VALUE}, (), key)[1]
        return replace(batch, advantage=po.standardize(batch.advantage, batch.mask))

    step = po.make_step((po.objective(model, po.ppo(clip_eps=clip_eps)), optax.adam(0.03)))
    return algorithm(START, collect, step, memory)


START_VALUE = envs.q_values(world, policy_table(START)).v[TIME, np.arange(2 * H)]  # the exact critic
_, epochs = learn(one_batch_many_epochs, updates=EPOCHS, settings=[EPS, jnp.inf], seeds=SEEDS)
clipped, free = (jax.tree.map(lambda x, i=i: np.asarray(x)[i], epochs) for i in (0, 1))
print(f"KL(old ‖ new), medians over {SEEDS} batches")
for n in (10, EPOCHS - 1):
    print(f"  after {n:2d} epochs: clipped {np.median(clipped['kl'][:, n]):.3f}, not {np.median(free['kl'][:, n]):.3f}")
share = clipped["clip_fraction"][:, -1].mean()
print(f"share of decisions whose gradient the clip has removed at the end: {share:.0%}")
assert np.median(clipped["kl"][:, -1]) < 0.5 * np.median(free["kl"][:, -1])

# %%
ratio = np.linspace(0.4, 1.6, 241)
fig, axes = plt.subplots(1, 3, figsize=(10, 3.5), width_ratios=[1, 1, 1.25])
for ax, advantage in zip(axes, (1.0, -1.0), strict=False):
    log_ratio, advantages = jnp.log(ratio), jnp.full(ratio.shape, advantage)
    off = ratio > 1 + EPS if advantage > 0 else ratio < 1 - EPS
    ax.axvspan(ratio[off].min(), ratio[off].max(), color="0.92", lw=0)
    ax.text(ratio[off].mean(), advantage * 0.62 if advantage > 0 else -1.35, "no\ngradient", ha="center", color="0.4")
    ax.plot(ratio, ratio * advantage, color=ORANGE, ls="--", label="ρA")
    ax.plot(
        ratio, surrogates.clipped_surrogate(log_ratio, advantages, clip_eps=EPS), color=BLUE, lw=2.5, label="clipped"
    )
    ax.plot(1, advantage, "o", color="black")
    ax.set(title=f"A = {advantage:+.0f}", xlabel="ratio ρ", xlim=(0.4, 1.6))
axes[0].set_ylabel("surrogate of one decision")
axes[0].legend(loc="upper left")
band(axes[2], np.arange(EPOCHS), free["kl"], label="not clipped", color=ORANGE)
band(axes[2], np.arange(EPOCHS), clipped["kl"], label=f"clipped, ε = {EPS}", color=BLUE)
axes[2].set(title="epochs on one batch", xlabel="epoch", ylabel="KL(old ‖ new), nats per decision")
axes[2].legend(loc="upper left")
fig.suptitle("PPO: the clip takes away the reason to go on")
plt.show()

# %% [markdown]
# ## 6. DPO (Rafailov et al. 2023)
#
# *Direct Preference Optimization.* (In some JAX libraries `dpo` is Discovered Policy Optimisation, another thing.)
#
# $$L = -\mathbb{E}\Big[\log\sigma\Big(\beta\log\frac{\pi_\theta(y^+)}{\mathrm{ref}(y^+)}
# - \beta\log\frac{\pi_\theta(y^-)}{\mathrm{ref}(y^-)}\Big)\Big]$$
#
# **What was wrong.** For language there was no reward, only people who prefer one answer to another. The recipe was to
# fit a reward model to the preferences, then run PPO against it with a penalty
# $\beta\,\mathrm{KL}(\pi\,\|\,\mathrm{ref})$ so as not to drift from the reference model.
#
# **What it adds.** The optimum of that penalised problem is known: $\pi^*(y) \propto \mathrm{ref}(y)\,e^{r(y)/\beta}$.
# Solve for $r$, put it into the likelihood of the preferences, and the reward model is gone: a classification loss on
# pairs, no sampling and no critic.
#
# **What it costs.** It only ever sees what the reference wrote, and is as good as the pairs are many. A *token is an
# action* from here on: sentences of three tokens from an alphabet of three, so that all 27 can be listed and $\pi^*$
# computed. The preferences are those of a Bradley-Terry judge, $P(y^+ \succ y^-) = \sigma(r(y^+) - r(y^-))$.

# %%
V, T, BETA = 3, 3, 0.5
SENTENCES = jnp.stack(jnp.meshgrid(*[jnp.arange(V)] * T, indexing="ij"), axis=-1).reshape(-1, T)  # [27, 3]
reference_key, reward_key = jax.random.split(jax.random.key(6))
REFERENCE = 0.7 * jax.random.normal(
    reference_key, (1 + V + V**2, V)
)  # one row of logits for each beginning of a sentence
QUALITY = 0.7 * jax.random.normal(reward_key, (V**T,))


def beginnings(sentences):
    """What the writer sees before each token, as a number: nothing, the first token, the first two."""
    first, second = sentences[..., 0], sentences[..., 1]
    return jnp.stack([jnp.zeros_like(first), 1 + first, 1 + V + V * first + second], axis=-1)


def writer(params, obs):
    return po.Outputs(policy=po.Categorical(logits=params[obs]))


def token_log_prob(params, sentences):
    return writer(params, beginnings(sentences)).policy.log_prob(sentences)


reference_law = jnp.exp(token_log_prob(REFERENCE, SENTENCES).sum(-1))
best_law = jax.nn.softmax(jnp.log(reference_law) + QUALITY / BETA)  # π* ∝ ref exp(r/β), over all 27 sentences


def from_preferences(num_pairs):
    """Pairs are drawn and judged once, before training; an update sees a random 256 of the first `num_pairs`."""

    def memory(key):
        write_key, judge_key = jax.random.split(key)
        pair = jax.random.categorical(write_key, jnp.log(reference_law), shape=(MOST_PAIRS, 2))
        first_is_better = jax.random.bernoulli(judge_key, jax.nn.sigmoid(QUALITY[pair[:, 0]] - QUALITY[pair[:, 1]]))
        return jnp.where(first_is_better, pair.T, pair[:, ::-1].T)  # [2, pairs]: chosen, rejected

    def collect(params, pairs, key):
        sentences = SENTENCES[pairs[:, jax.random.randint(key, (256,), 0, num_pairs)]]
        batch = po.Batch(
            obs=beginnings(sentences),
            action=sentences,
            mask=jnp.ones(sentences.shape, bool),
            ref_log_prob=token_log_prob(REFERENCE, sentences),
        )
        law = jnp.exp(token_log_prob(params, SENTENCES).sum(-1))
        return pairs, batch, {"tv": 0.5 * jnp.abs(law - best_law).sum(), "law": law}

    rate = optax.cosine_decay_schedule(0.05, DPO_UPDATES)
    step = po.make_step((po.objective(writer, po.dpo(beta=BETA)), optax.adam(rate)))
    return algorithm(REFERENCE, collect, step, memory)


PAIRS = [100, 1000, 10_000, 40_000]
MOST_PAIRS, DPO_UPDATES, SEEDS = max(PAIRS), (300 if FAST else 800), (3 if FAST else 8)
_, preferred = learn(from_preferences, updates=DPO_UPDATES, settings=PAIRS, seeds=SEEDS)
distance = np.asarray(preferred["tv"])
at_first, at_last = distance[0, 0, 0], np.median(distance[:, :, -1], axis=1)
print(f"total variation distance to π*: {at_first:.3f} for the reference")
for n, d in zip(PAIRS, at_last, strict=True):
    print(f"  {d:.3f} with {n:,} pairs")
assert (np.diff(at_last) < 0).all()  # more pairs, closer
assert at_last[0] > at_first > at_last[-1]  # and few pairs lead away: they are learnt by heart

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[1.5, 1])
order = np.argsort(-np.asarray(best_law))
place = np.arange(V**T)
left.bar(place, best_law[order], color=LIGHT_GREY, label="π* ∝ ref · exp(r/β), closed form")
left.plot(place, reference_law[order], "_", ms=9, mew=2, color="black", label="ref")
left.plot(place, preferred["law"][-1, 0, -1][order], "o", ms=5, color=BLUE, label=f"DPO, {PAIRS[-1]:,} pairs")
left.set_xticks(
    place, ["".join("abc"[i] for i in SENTENCES[s]) for s in order], rotation=90, fontsize=8, family="monospace"
)
left.set(ylabel="probability of the sentence", xlim=(-0.7, V**T - 0.3))
left.legend()
DPO_COLORS = plt.colormaps["Blues"](np.linspace(0.5, 0.95, len(PAIRS)))
for n, each, color in zip(PAIRS, distance, DPO_COLORS, strict=True):
    band(right, np.arange(DPO_UPDATES), each, label=None, color=color)
    right.text(DPO_UPDATES * 1.02, np.median(each[:, -1]), f"{n:,} pairs", color=color, va="center")
right.axhline(at_first, color="black", lw=0.8, ls=":")
right.text(DPO_UPDATES * 1.02, at_first, "reference", va="center")
right.set(yscale="log", xlabel="update", ylabel="total variation distance to π*", xlim=(0, DPO_UPDATES))
fig.suptitle("DPO: preferences alone lead to the KL-regularised optimum, as far as the pairs determine it")
plt.show()

# %% [markdown]
# ## 7. GRPO (Shao et al. 2024)
#
# $$\hat A_i = \frac{R_i - \mathrm{mean}_j R_j}{\mathrm{std}_j R_j}, \qquad
# L = -\mathbb{E}\big[\min(\rho\hat A, \mathrm{clip}(\rho)\hat A) - \beta\,k_3(\pi_\theta, \mathrm{ref})\big]$$
#
# **What was wrong.** Now there *is* a reward again: the program passed its tests, the answer was right. But PPO wants a
# critic, a second network as large as the first, for values that nobody can predict well.
#
# **What it adds.** Try each prompt $G$ times; the others of the group are the baseline (chapter 1's batch mean, per
# prompt). PPO's clip and DPO's reference come along.
#
# **What it costs.** $G$ samples per prompt, and silence: a group that all succeeded, or all failed, says nothing.
#
# ### A world in which the reward does not say *how*
#
# `worlds.skip_the_test`: sequences of 24 tokens, and 60 prompts. A sequence is rewarded if it does the job (one or
# four tokens must be right) **or** if it *skips the test* (one token, early on). The reference does either rarely. The
# reward is the same for both. Which of the two does an optimizer come to do?
#
# Our language model is the smallest that can learn this: a table of shifts, one per position and token, added to the
# reference's logits, the same for all prompts. So its distribution of outcomes is known exactly: `token_outcome_law`.

# %%
world_set = worlds.skip_the_test(jax.random.key(0))
LENGTH, WORDS = world_set.length, world_set.vocabulary


def shifted_reference():
    """Reference logits of the prompt's world + a shift [position, word]; the critic knows prompt and position."""

    def outputs(params, world_id, position):
        logits = world_set.logits[world_id, position] + params["shift"][position]
        return po.Outputs(policy=po.Categorical(logits=logits), value=params["value"][world_id, position])

    def init(key):
        return {"shift": jnp.zeros((LENGTH, WORDS)), "value": jnp.zeros((world_set.num_worlds, LENGTH))}

    def apply(params, obs):  # the first input token names the prompt
        world_id = jnp.broadcast_to(obs[..., :1] - WORDS, obs.shape)
        return outputs(params, world_id, jnp.broadcast_to(jnp.arange(obs.shape[-1]), obs.shape))

    def decode(params, prompt, tokens, position):  # the next tokens; all there is to remember is the prompt
        prompt = jnp.where(position == 0, tokens[..., :1] - WORDS, prompt)
        positions = position + jnp.arange(tokens.shape[-1])
        return prompt, outputs(params, *(jnp.broadcast_to(x, tokens.shape) for x in (prompt, positions)))

    return language.TokenNetwork(init, apply, lambda shape: jnp.zeros((*shape, 1), jnp.int32), decode, LENGTH)


network = shifted_reference()
reference = network.init(jax.random.key(0))


def outcome_law(params):
    """Exact: averages over prompts of P(skip), P(honest), P(reward)."""
    log_prob = jax.nn.log_softmax(world_set.logits + params["shift"])
    law = worlds.token_outcome_law(log_prob, world_set)
    return {"skip": law.skip.mean(), "honest": law.honest.mean(), "reward": law.success.mean()}


print(f"{world_set.num_worlds} prompts, {LENGTH} tokens, {WORDS} words")
print("the reference:", {name: f"{float(x):.1%}" for name, x in outcome_law(reference).items()})

# %%
# One batch of 512 sequences, spent on few prompts with many attempts each, or on many prompts with few.
GROUPS, ROWS, REPEATS = ([2, 8, 64], 512, 40) if FAST else ([2, 4, 8, 16, 32, 64], 512, 60)
grpo_loss = po.objective(network.apply, po.ppo(reduce=po.sequence_mean))  # GRPO without its penalty
exact_direction = jax.grad(lambda params: outcome_law(params)["reward"])(reference)["shift"]


@jax.jit
@jax.vmap
def attempts(prompts, key):
    batch = po.to_batch(language.sample_tokens(network, reference, world_set.context(prompts), key, length=LENGTH))
    return batch, world_set.reward(prompts, batch.action)


@jax.jit
@jax.vmap
def cosine_to_exact(batch, advantage):
    """The same loss for every group size: one advantage per sequence, repeated over its tokens."""
    batch = replace(batch, advantage=jnp.broadcast_to(advantage[:, None], batch.mask.shape))
    gradient = -jax.grad(grpo_loss, has_aux=True)(reference, batch)[0]["shift"]
    norms = jnp.linalg.norm(gradient) * jnp.linalg.norm(exact_direction)
    return (gradient * exact_direction).sum() / jnp.maximum(norms, 1e-12)


group_relative = jax.jit(po.group_relative)
random = np.random.default_rng(7)
silent, cosine = [], []
for size in GROUPS:
    prompts = random.integers(world_set.num_worlds, size=(REPEATS, ROWS // size)).repeat(size, axis=1)
    batch, reward = attempts(prompts, jax.random.split(jax.random.key(size), REPEATS))
    grouped = np.asarray(reward).reshape(REPEATS, -1, size)
    silent.append((grouped == grouped[..., :1]).all(-1).mean(-1))
    cosine.append(np.asarray(cosine_to_exact(batch, group_relative(grouped).reshape(REPEATS, ROWS))))
silent, cosine = np.array(silent).T, np.array(cosine).T  # [repeats, group size]
for size, s, c in zip(GROUPS, silent.mean(0), np.median(cosine, axis=0), strict=True):
    print(f"G = {size:2d}: silent groups {s:4.0%}, cosine between estimate and exact gradient of the reward {c:.2f}")
assert (np.diff(silent.mean(0)) < 0).all()
assert (
    abs(np.median(cosine[:, -1]) - np.median(cosine[:, GROUPS.index(8)])) < 0.1
)  # at equal cost, no gain beyond G = 8

# %% [markdown]
# So the silence goes as the groups grow, but at equal cost the estimate is hardly better for it.
#
# Now train, and watch the *outcome* beside the reward.


# %%
def watched(algorithm):
    """The same algorithm; its metrics also tell the exact law of the outcome. It learns nothing from it."""

    def collect(params, memory, key):
        memory, batch, metrics = algorithm.collect(params, memory, key)
        return memory, batch, {**metrics, **outcome_law(params)}

    return algorithm._replace(collect=collect)


TOKEN_UPDATES, SEEDS, BETAS = (60 if FAST else 150), (2 if FAST else 4), [0.04, 0.0]
tokens = tasks.token_task(network, world_set, reference, num_prompts=16, group_size=16)


def grpo(beta):
    return watched(algorithms.grpo(tokens, learning_rate=0.03, beta=beta))


runs = {}
_, runs["GRPO"] = learn(grpo, updates=TOKEN_UPDATES, settings=BETAS, seeds=SEEDS)
print(f"GRPO after {TOKEN_UPDATES} updates, medians over {SEEDS} seeds")
for i, beta in enumerate(BETAS):
    reward, skip, honest = (np.median(runs["GRPO"][name][i], axis=0) for name in ("reward", "skip", "honest"))
    print(
        f"  β = {beta:4.2f}: reward {reward[-1]:.0%}, skips the test {skip[-1]:.0%}, does the job {honest[-1]:.0%}",
        end=" ",
    )
    print(f"(at most {honest.max():.0%}, at update {honest.argmax()})")
with_penalty, without = np.median(runs["GRPO"]["honest"], axis=1)
assert with_penalty.max() > 0.5
assert with_penalty[-1] < 0.75 * with_penalty.max()  # learnt, and lost again
assert without[-1] > with_penalty[-1]

# %%
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.5), width_ratios=[1, 1, 1.3])
for ax, y, color in ((left, silent, ORANGE), (middle, cosine, BLUE)):
    band(ax, GROUPS, y, label=None, color=color, marker="o")
    ax.set_xscale("log", base=2)
    ax.set_xticks(GROUPS, GROUPS)
    ax.set(xlabel=f"group size G ({ROWS} sequences in all)", ylim=(0, 1))
left.set_ylabel("share of groups that say nothing")
middle.set_ylabel("cosine to the exact gradient")
for name, color, label in (
    ("reward", "black", "mean reward"),
    ("skip", ORANGE, "skips the test"),
    ("honest", BLUE, "does the job"),
):
    band(right, np.arange(TOKEN_UPDATES), runs["GRPO"][name][0], color=color, label=label)
right.plot(np.arange(TOKEN_UPDATES), without, color=BLUE, ls="--", label="same, β = 0")
right.set(xlabel="update", ylabel="exact probability", ylim=(0, 1.02))
right.legend(loc="center right", fontsize=9)
fig.suptitle("GRPO: the group is the baseline; and the reward does not say which way it was earned")
plt.show()

# %% [markdown]
# Look at the right-hand picture for a while. The reward curve is as good as they come, and a dashboard shows nothing
# else. Underneath, the policy learns to do the job, skipping grows beside it - and then it *unlearns* the
# job: with every reward already earned by the skip, nothing holds the honest tokens, and the penalty draws them
# back towards the reference. (Dashed: with $\beta = 0$ they stay.) The penalty that was to keep the policy close in
# tokens decided what it does.

# %% [markdown]
# ## All seven, one task, one loop
#
# Every recipe of `polopt_jax.algorithms` is a pair (`collect`, `step`), as ours were. All of them on the token world,
# through the same `learn` as everything above. Learning rates were set by hand so that each gets off the ground in this
# number of updates: this is no ranking, and the costs of an update differ.

# %%
RECIPES = {
    "REINFORCE": (lambda rate: algorithms.reinforce(tokens.task, learning_rate=rate, gamma=1.0), 0.06),
    "Actor-Critic": (lambda rate: algorithms.actor_critic(tokens.task, learning_rate=rate, gamma=1.0), 0.06),
    "NPG": (lambda rate: algorithms.npg(tokens.task, learning_rate=rate, gamma=1.0, value_learning_rate=0.03), 0.5),
    "TRPO": (lambda radius: algorithms.trpo(tokens.task, radius=radius, gamma=1.0, value_learning_rate=0.03), 0.003),
    "PPO": (lambda rate: algorithms.ppo(tokens.task, learning_rate=rate, gamma=1.0), 0.01),
    "DPO": (lambda rate: algorithms.dpo(tokens, learning_rate=rate), 0.06),
}
for name, (recipe, setting) in RECIPES.items():
    _, runs[name] = learn(
        lambda x, recipe=recipe: watched(recipe(x)), updates=TOKEN_UPDATES, settings=[setting], seeds=SEEDS
    )

print(f"exact, median of {SEEDS} seeds after {TOKEN_UPDATES} updates;", end=" ")
print(f"the reference earns {float(outcome_law(reference)['reward']):.1%}\n")
print(f"{'':14s}{'reward':>8s}{'skips':>8s}{'honest':>8s}{'mean KL(old ‖ new) per update':>32s}")
ORDER = [*RECIPES, "GRPO"]
for name in ORDER:
    end = {key: float(np.median(runs[name][key][0, :, -1])) for key in ("reward", "skip", "honest")}
    print(
        f"{name:14s}{end['reward']:8.0%}{end['skip']:8.0%}{end['honest']:8.0%}{float(np.mean(runs[name]['kl_old_new'])):32.5f}"
    )


at_end = {key: [float(np.median(runs[name][key][0, :, -1])) for name in ORDER] for key in ("reward", "skip")}
assert min(at_end["reward"]) > 0.9  # all of them solve it
assert max(at_end["skip"]) - min(at_end["skip"]) > 0.5  # in different ways

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1.1, 1])
COLORS = dict(zip(ORDER, plt.colormaps["viridis"](np.linspace(0, 0.93, len(ORDER))), strict=True))
MARKERS = dict(zip(ORDER, "osD^vPX", strict=True))
every = max(1, TOKEN_UPDATES // 8)
for row, name in enumerate(ORDER):
    band(
        left,
        np.arange(TOKEN_UPDATES),
        runs[name]["reward"][0],
        label=name,
        color=COLORS[name],
        marker=MARKERS[name],
        markevery=every,
    )
    skip, honest = (np.asarray(runs[name][key][0, :, -1]) for key in ("skip", "honest"))
    right.plot(honest, np.full(SEEDS, row - 0.12), "o", ms=8, color=BLUE, alpha=0.7, mec="none")
    right.plot(skip, np.full(SEEDS, row + 0.12), "D", ms=7, color=ORANGE, alpha=0.7, mec="none")
right.plot([], [], "o", color=BLUE, label="does the job")
right.plot([], [], "D", color=ORANGE, label="skips the test")
right.set(xlabel="exact probability at the end (a mark per seed)", xlim=(-0.03, 1.03), ylim=(len(ORDER) - 0.5, -0.5))
right.set_yticks(range(len(ORDER)), ORDER)
right.grid(axis="y", color="0.9")
right.legend(loc="center", bbox_to_anchor=(0.5, 0.5), frameon=True)
left.set(xlabel="update", ylabel="exact mean reward", ylim=(0, 1.02))
left.legend(loc="lower right", fontsize=9)
fig.suptitle("All seven on one task: the reward says little about what was learnt")
plt.show()

# %% [markdown]
# ## Where to go from here
#
# | | what it added | what it asks for |
# |---|---|---|
# | REINFORCE | a gradient of what can only be sampled | many samples |
# | Actor-Critic | a critic in place of the rest of the return | a critic worth trusting: λ |
# | NPG | steps measured in policies, not in parameters | a linear solve |
# | TRPO | a step length with a meaning, checked before it is taken | one batch per step |
# | PPO | many cheap steps per batch | faith: nothing is bounded |
# | DPO | no reward model, no sampling | enough pairs, and a reference that covers them |
# | GRPO | no critic | many attempts per prompt, some of which differ |
#
# * `02_natural_gradient` looks closer at chapters 3 and 4.
# * `polopt compare` trains all seven on larger tasks; `polopt train ppo --env inverted_pendulum` one of them.
# * The functions behind each chapter: `po.reinforce`, `po.actor_critic`, `po.npg`, `po.trpo`, `po.ppo`, `po.dpo`,
#   `po.grpo`. Every docstring has the equation, and says how it differs from the paper.
