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
from polopt_jax import algorithms, baselines, driver, envs, networks, surrogates, tasks
from polopt_jax.rollout import start

FAST = os.environ.get("POLOPT_FAST") == "1"
plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "font.size": 10})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREY, LIGHT_GREY, MID_BLUE, DARK_ORANGE = plt.rcParams["axes.prop_cycle"].by_key()["color"][:6]


def band(ax, x, runs, *, label, color, **style):
    """Median over the first axis, with the band from the lower to the upper quartile."""
    low, middle, high = np.percentile(np.asarray(runs), [25, 50, 75], axis=0)
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
# room 2, it mostly leaves at once. (The world is Kakade's, from the paper that introduced the natural policy gradient.)

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
    """Any function (params, obs) -> Outputs will do. This one has 2 parameters for the policy and 2 H for the critic."""
    stay = obs @ ROOM_OF_STATE @ params["policy"]
    policy = po.Categorical(logits=jnp.stack([stay, jnp.zeros_like(stay)], axis=-1))
    return po.Outputs(policy=policy, value=obs @ params["value"])


def policy_table(params):
    return jax.nn.softmax(model(params, jnp.eye(2 * H)).policy.logits)


def exact_return(params):
    """J(θ): no sampling."""
    return envs.expected_return(world, policy_table(params))


START = {"policy": jnp.array([1.5, -1.5]), "value": jnp.zeros(2 * H)}
print(f"probability of staying in room 1 and 2: {np.round(jax.nn.sigmoid(START['policy']), 2)}")
print(f"return at the start {exact_return(START):.2f}; of always staying in room 1: {H}; of the best plan: {2 * (H - 1)}")


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
    nothing = jnp.zeros_like(rollout.reward)
    returns = po.discounted_returns(rollout.reward, nothing, rollout.terminated, rollout.truncated, gamma=1.0)
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
print(f"values from {exact_value[visits > 0].min():.1f} to {exact_value.max():.1f}; the critic's root mean square error {rms:.2f}")
assert (with_critic["policy"] == JUDGED["policy"]).all()

# %%
# The gradient from a batch of 8 episodes, again and again, with three baselines on the same episodes.
BATCHES, EPISODES = (400, 8) if FAST else (2000, 8)
reinforce = po.objective(model, po.reinforce(reduce=po.sequence_sum))  # summed over an episode: its gradient is -∇J


def ascent(rollout, advantage):
    """The estimate of ∇J that these episodes and advantages give."""
    batch = po.to_batch(rollout, advantage=advantage)
    return -jax.grad(reinforce, has_aux=True)(JUDGED, batch)[0]["policy"]


BASELINES = {"no baseline": baselines.static(0.0), "batch mean": baselines.batch_mean(), "learned value": baselines.learned()}


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
# The arrow is short against the clouds: this is the problem that all later chapters live with. A baseline shrinks the
# cloud and leaves its centre alone.

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
    flags = rollout.terminated, rollout.truncated

    def gradient(critic_values, lambda_):
        value, next_value = rollout.obs @ critic_values, rollout.next_obs @ critic_values
        advantage, _ = po.gae(rollout.reward, value, next_value, *flags, gamma=1.0, lambda_=lambda_)
        return ascent(rollout, advantage)

    over_lambdas = jax.vmap(gradient, in_axes=(None, 0))
    return jax.vmap(over_lambdas, in_axes=(0, None))(jnp.stack([*CRITICS.values()]), lambdas)


split = {}
for name, samples in zip(CRITICS, np.asarray(with_gae(keys)).swapaxes(0, 1), strict=True):  # [batches, λ, 2] each
    variance = samples.var(axis=0, ddof=1).sum(-1)
    bias2 = ((samples.mean(0) - truth) ** 2).sum(-1) - variance / BATCHES  # less what the finite sample adds
    split[name] = bias2.clip(0), variance
    best = lambdas[(bias2 + variance).argmin()]
    print(f"critic {name:13s}  λ 0 → 1:  bias² {bias2[0]:5.2f} → {bias2[-1]:5.2f}   variance {variance[0]:5.2f} → {variance[-1]:5.2f}   best λ {best:.1f}")
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
# $$\theta \leftarrow \theta + \alpha\,F^{-1}\nabla J, \qquad F = \mathbb{E}_{s,a}\big[\nabla\log\pi\,\nabla\log\pi^\top\big]$$
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


for rate, returns in zip(RATES, by_gradient["return"], strict=True):
    print(f"gradient, rate {rate:3.1f}:         above {H} (all that room 1 can give) after {updates_to(returns, H)} updates")
escaped = updates_to(by_natural["return"][0], H)
print(f"natural gradient, rate 0.1: above {H} after {escaped} updates")
assert all(n is None or n > 10 * escaped for n in (updates_to(r, H) for r in by_gradient["return"]))

# %%
axis0, axis1 = np.linspace(-4.5, 7.5, 61), np.linspace(-3, 7.5, 61)
landscape = jax.jit(jax.vmap(jax.vmap(lambda a, b: exact_return({**START, "policy": jnp.stack([a, b])}), (0, None)), (None, 0)))
surface = landscape(axis0, axis1)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=[1, 1.1])
filled = left.contourf(axis0, axis1, surface, levels=np.arange(0, 18.1, 1), cmap="Greys", alpha=0.75)
fig.colorbar(filled, ax=left, label="exact return J")
RATE_COLORS = plt.colormaps["YlOrBr"](np.linspace(0.45, 0.85, len(RATES)))
shown = RATES.index(1.0)
path = by_gradient["policy"][shown]
left.plot(*path.T, color=RATE_COLORS[shown], lw=2.5, label="gradient, rate 1")
left.plot(*by_natural["policy"][0].T, "o-", ms=4, lw=1.5, color=BLUE, label="natural gradient, rate 0.1")
marked = [n for n in (10, 100, 1000) if n < len(path)]
left.plot(*path[marked].T, "o", ms=5, color=RATE_COLORS[shown], mec="black", zorder=3)
for n in marked:
    left.annotate(f"{n}", path[n], (-3, -14), textcoords="offset points", ha="center", fontsize=9)
left.plot(*START["policy"], "*", ms=14, color="black", zorder=4)
left.set(xlabel="θ₁: logit of staying in room 1", ylabel="θ₂: logit of staying in room 2", xlim=axis0[[0, -1]], ylim=axis1[[0, -1]])
left.legend(loc="upper right", frameon=True)
for rate, returns, color in zip(RATES, by_gradient["return"], RATE_COLORS, strict=True):
    right.semilogx(np.arange(1, returns.size + 1), returns, color=color, lw=2, label=f"gradient, rate {rate:g}")
right.semilogx(np.arange(1, 101), by_natural["return"][0], "o-", ms=4, lw=1.5, color=BLUE, label="natural gradient, rate 0.1")
right.axhline(H, color="0.6", lw=1, ls=":")
right.annotate("stay in room 1 for ever", (1, H), (0, 4), textcoords="offset points", color="0.4")
right.set(xlabel="update", ylabel="exact return J")
right.legend(loc="upper left", bbox_to_anchor=(0, 0.93))
fig.suptitle("Natural gradient: the same exact gradient, measured in policies instead of parameters")
plt.show()

# %% [markdown]
# ## 4. TRPO (Schulman et al. 2015)
#
# $$\max_\theta\ \mathbb{E}\Big[\frac{\pi_\theta(a|s)}{\pi_\text{old}(a|s)}\hat A\Big] \quad\text{subject to}\quad \mathrm{KL}(\pi_\text{old}\,\|\,\pi_\theta) \le \delta$$
#
# **What was wrong.** The natural gradient gives a direction, and "rate 0.1" has no meaning. Scale the step so that the
# *quadratic model* of the KL says $\delta$: now it has one, but the quadratic model is only good near by, and where the
# policy is nearly deterministic, "near by" is very near.
#
# **What it adds.** A line search: halve and halve again until the KL, computed exactly, is within $\delta$ *and* the
# surrogate has improved; if no step passes, take none. The chain reads as the method does,
# `natural_gradient → scale_to_radius → scale(-1) → backtrack`. Below, the same chain with and without its last link.
#
# **What it costs.** A few more evaluations of the policy, and batches that are used only once.

# %%
RADIUS, SEEDS, UPDATES = 0.1, (8 if FAST else 32), (30 if FAST else 40)
surrogate = po.objective(model, po.surrogate())


def by_critic(lambda_=0.9):
    def estimate(rollout):
        flags = rollout.terminated, rollout.truncated
        return po.gae(rollout.reward, rollout.value, rollout.next_value, *flags, gamma=1.0, lambda_=lambda_)

    return estimate


def trust_region(last_link):
    def recipe(radius):
        proposal = optax.chain(
            po.natural_gradient(model, po.action_kl, damping=1e-4),
            po.scale_to_radius(model, po.action_kl, radius=radius),
            optax.scale(-1.0),
        )
        optimizer = optax.chain(proposal, *last_link(radius))
        step = po.make_step((surrogate, optimizer), (critic, optax.adam(0.3)))
        step = po.monitored(step, model, kl_old_new=po.action_kl)
        return algorithm(START, collector(by_critic(), episodes=32), step)

    return recipe


_, checked = learn(trust_region(lambda radius: [po.backtrack(model, [(po.action_kl, radius)])]), updates=UPDATES, settings=[RADIUS], seeds=SEEDS)
_, unchecked = learn(trust_region(lambda radius: []), updates=UPDATES, settings=[RADIUS], seeds=SEEDS)
checked, unchecked = (jax.tree.map(lambda x: np.asarray(x)[0], m) for m in (checked, unchecked))
print(f"asked for KL <= {RADIUS}.   Largest KL of an update: TRPO {checked['kl_old_new'].max():.3f}, without line search {unchecked['kl_old_new'].max():.3f}")
print(f"updates beyond the radius: TRPO {(checked['kl_old_new'] > RADIUS).mean():.0%}, without line search {(unchecked['kl_old_new'] > RADIUS).mean():.0%}")
print(f"return at the end, quartiles over seeds: TRPO {np.percentile(checked['return'][:, -1], [25, 50, 75]).round(1)}, without {np.percentile(unchecked['return'][:, -1], [25, 50, 75]).round(1)}")
assert checked["kl_old_new"].max() <= RADIUS < unchecked["kl_old_new"].max()

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
update = np.arange(UPDATES)
for runs, color, marker, label in ((unchecked, ORANGE, "x", "quadratic model trusted"), (checked, BLUE, ".", "TRPO: line search")):
    left.semilogy(update, runs["kl_old_new"].T, marker, ms=4, color=color, alpha=0.5)
    left.plot([], [], marker, color=color, label=label)
    band(right, update, runs["return"], label=label, color=color)
left.axhline(RADIUS, color="black", lw=1.2, ls="--", label="predicted: the radius δ")
left.set(xlabel="update", ylabel="actual KL(old ‖ new), nats per decision")
left.legend(loc="lower left")
right.set(xlabel="update", ylabel="exact return J")
right.legend(loc="lower right")
fig.suptitle(f"TRPO: predicted and actual KL, {SEEDS} seeds, 32 episodes per update")
plt.show()
