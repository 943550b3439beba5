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

import jax
import jax.flatten_util
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.scipy.stats import norm as normal

import polopt_jax as po
from polopt_jax import envs, networks
from polopt_jax.solvers import CGStatus

FAST = os.environ.get("POLOPT_FAST") == "1"
plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "font.size": 10})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREY, LIGHT_GREY, MID_BLUE, DARK_ORANGE = plt.rcParams["axes.prop_cycle"].by_key()["color"][:6]

# %% [markdown]
# # The natural gradient, in pictures
#
# Gradient descent takes a small step *in parameters*. What we care about is the change *of the policy*, and the two
# have no fixed exchange rate. This notebook shows how far apart they can be, how the Fisher information gives the
# rate, what the natural gradient therefore does not depend on, how it is computed without ever forming a matrix, and
# how TRPO makes a trust region of it.

# %% [markdown]
# ## 1. The same step, wildly different changes
#
# Three Gaussian policies, $\sigma$ = 0.1, 1 and 10. Each moves its mean by the same 0.1. How far is the new policy from
# the old one? The library's unit is $\mathrm{KL}(\text{old} \,\|\, \text{new})$, in nats per decision; a *divergence*
# is a function `(old, new, batch)`, where `old` and `new` are what a model says about the batch's observations.


# %%
def gaussian(params, obs):
    """No observation matters: one decision, whose parameters are the mean and the log standard deviation."""
    mean, log_std = params["mean"], params["log_std"]
    return po.Outputs(policy=po.DiagGaussian(mean=mean[None, None], log_std=log_std[None, None]))


ONE_DECISION = po.Batch(obs=None, action=jnp.zeros((1, 1)), mask=jnp.ones(1, bool))


def kl(params, step):
    new = jax.tree.map(jnp.add, params, step)
    return po.action_kl(gaussian(params, None), gaussian(new, None), ONE_DECISION)


def forecast(params, step):
    """½ stepᵀ F step: what the Fisher information at `params` says the KL will be."""
    return 0.5 * po.quadratic_form(gaussian, po.action_kl, params, ONE_DECISION, step)


SIGMAS, STEP = [0.1, 1.0, 10.0], 0.1
policies = [{"mean": jnp.zeros(()), "log_std": jnp.log(jnp.array(sigma))} for sigma in SIGMAS]
step_mean, step_log_std = ({"mean": jnp.array(a), "log_std": jnp.array(b)} for a, b in ((STEP, 0.0), (0.0, STEP)))
moved = {sigma: float(kl(params, step_mean)) for sigma, params in zip(SIGMAS, policies, strict=True)}
print(f"KL in nats of a step of {STEP}         in the mean (Fisher's forecast)      in log σ")
for sigma, params in zip(SIGMAS, policies, strict=True):
    by_mean, foreseen, by_log_std = kl(params, step_mean), forecast(params, step_mean), kl(params, step_log_std)
    print(f"  σ = {sigma:4.1f}                       {by_mean:9.2e} ({foreseen:9.2e})           {by_log_std:9.2e}")
print(f"the same step in the mean: a factor of {moved[0.1] / moved[10.0]:,.0f}")
assert np.isclose(moved[0.1] / moved[10.0], (10.0 / 0.1) ** 2, rtol=1e-3)  # KL = step² / 2σ²

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.3), width_ratios=[1, 1, 1.25])
for ax, sigma in zip(axes[:2], (0.1, 10.0), strict=True):
    x = np.linspace(-3.2 * sigma, 3.2 * sigma + STEP, 300)
    ax.fill_between(x, normal.pdf(x, 0.0, sigma), color=LIGHT_GREY, alpha=0.35, lw=0, label="before")
    ax.plot(x, normal.pdf(x, STEP, sigma), color=BLUE, lw=2, label=f"mean + {STEP}")
    ax.set(
        title=f"σ = {sigma:g}: KL = {moved[sigma]:.1g} nats",
        xlabel="action",
        yticks=[],
        ylim=(0, 1.35 * normal.pdf(x, 0.0, sigma).max()),
    )
axes[0].set_ylabel("probability density")
axes[0].legend(loc="upper left", fontsize=9)
lengths = np.logspace(-3, 0.5, 12 if FAST else 24)
kl_of = jax.jit(jax.vmap(lambda params, length: kl(params, {"mean": length, "log_std": 0 * length}), in_axes=(None, 0)))
for sigma, params, color in zip(SIGMAS, policies, (ORANGE, GREY, BLUE), strict=True):
    axes[2].loglog(lengths, kl_of(params, jnp.asarray(lengths)), "o-", ms=3, color=color, label=f"σ = {sigma:g}")
axes[2].axvline(STEP, color="0.7", lw=1, ls=":")
axes[2].set(xlabel="step of the mean", ylabel="KL(old ‖ new), nats")
axes[2].legend(fontsize=9)
fig.suptitle("One step in parameters is not one step in policies")
plt.show()

# %% [markdown]
# A learning rate that is timid for the right-hand policy is reckless for the left-hand one - and during training, as
# exploration shrinks, a policy travels from right to left.
#
# ## 2. The Fisher information is a ruler that changes from place to place
#
# For small steps, $\mathrm{KL}(\theta \,\|\, \theta + x) \approx \tfrac12 x^\top F(\theta)\,x$: the KL has a
# curvature, and that is the Fisher information. All steps of the same small KL form an ellipse. Drawn over the space of
# parameters, here $(\mu, \log\sigma)$, they are very different in width, and all the same in height: $\log\sigma$
# happens to be a coordinate in which a step means the same everywhere, and $\mu$ is not.

# %%
KL_RING = 0.02
angle = np.linspace(0, 2 * np.pi, 73)
circle = np.stack([np.cos(angle), np.sin(angle)])


@jax.jit
def fisher_of(params):
    """The operator v -> F v applied to a basis: a dense matrix, which is fine for two parameters."""
    operator = po.fisher_operator(gaussian, po.action_kl, params, ONE_DECISION)
    columns = [operator({"mean": jnp.array(a), "log_std": jnp.array(b)}) for a, b in ((1.0, 0.0), (0.0, 1.0))]
    return jnp.array([[c["mean"], c["log_std"]] for c in columns])


def ellipse(fisher, kl):
    """The points x with ½ xᵀ F x = kl, [2, angles]."""
    values, vectors = np.linalg.eigh(np.asarray(fisher, np.float64))
    return vectors @ (np.sqrt(2 * kl / values)[:, None] * circle)


fig, ax = plt.subplots(figsize=(8, 4.2))
widths = []
for log_std in np.linspace(-1.8, 0.6, 5):
    for mean in np.linspace(-2, 2, 5):
        params = {"mean": jnp.array(mean), "log_std": jnp.array(log_std)}
        x = ellipse(fisher_of(params), KL_RING)
        widths.append((np.exp(log_std), np.ptp(x[0]) / 2, np.ptp(x[1]) / 2))
        ax.fill(mean + x[0], log_std + x[1], color=BLUE, alpha=0.25, lw=0)
        ax.plot(mean + x[0], log_std + x[1], color=BLUE, lw=1.2)
        ax.plot(mean, log_std, ".", color="black", ms=4)
ax.set(
    xlabel="mean μ",
    ylabel="log σ",
    title=f"Every ellipse is the same change of policy: KL = {KL_RING} nats by Fisher's ruler",
)
plt.show()
sigma, half_width, half_height = np.array(widths).T
assert np.allclose(half_width / sigma, half_width[0] / sigma[0], rtol=1e-4)
assert np.allclose(half_height, half_height[0], rtol=1e-4)
print(f"widths {2 * half_width.min():.2f} to {2 * half_width.max():.2f}, proportional to σ", end="; ")
print(f"heights {2 * half_height.min():.2f} everywhere")

# %% [markdown]
# ## 3. What the natural gradient does not depend on
#
# Steepest ascent asks: which step of *unit length* gains most? Length in which coordinates? Write $\theta = M\varphi$,
# train $\varphi$ instead, and the gradient takes another path through the very same policies. The natural gradient asks
# which step of *unit KL* gains most, and a KL knows nothing of coordinates.
#
# One decision, three actions with rewards 1, 0.6 and 0; the policy has two logits (the third is zero). Everything is
# exact. `po.npg` and `optax.sgd` are both optimizers, so the loop is the same; the twist is in the model.

# %%
REWARDS = jnp.array([1.0, 0.6, 0.0])
bandit = envs.bandit(REWARDS)
M = jnp.array([[1.5, 1.0], [0.0, 0.5]])
THETA = jnp.array([-1.0, 0.5])


def logits_of(theta):
    return jnp.append(theta, 0.0)


def plain(theta, obs):
    return po.Outputs(policy=po.Categorical(logits=logits_of(theta)[None]))


def twisted(phi, obs):
    return plain(M @ phi, obs)


def expected_reward(outputs):
    return envs.expected_return(bandit, jax.nn.softmax(outputs.policy.logits))


ONE_CHOICE = po.Batch(obs=None, action=jnp.zeros(1, jnp.int32), mask=jnp.ones(1, bool))
UPDATES = 40


def path(model, optimizer, params):
    """The one loop again: parameters before each update, [updates, 2]."""
    objective = po.objective(model, lambda outputs, batch: (-expected_reward(outputs), {}))
    step = po.make_step((objective, optimizer))

    def collect(params, memory, key):
        return memory, ONE_CHOICE, {"params": params, "J": expected_reward(model(params, None))}

    update = jnp.zeros((), jnp.int32)
    state = po.TrainState(
        params=params, opt_state=step.init(params), collect_state=(), key=jax.random.key(0), update=update
    )
    return jax.jit(lambda state: po.train(collect, step, state, updates=UPDATES)[1])(state)


PHI = jnp.linalg.solve(M, THETA)


def natural(model, damping=0.0):
    return po.npg(model, learning_rate=0.1, damping=damping, cg_iters=2)  # two parameters: two iterations are exact


paths = {
    "gradient, θ": path(plain, optax.sgd(1.0), THETA)["params"],
    "gradient, φ": path(twisted, optax.sgd(1.0), PHI)["params"] @ M.T,
    "natural, θ": path(plain, natural(plain), THETA)["params"],
    "natural, φ": path(twisted, natural(twisted), PHI)["params"] @ M.T,
}
paths = {name: np.asarray(p) for name, p in paths.items()}
apart = {kind: np.abs(paths[f"{kind}, θ"] - paths[f"{kind}, φ"]).max() for kind in ("gradient", "natural")}
for kind, distance in apart.items():
    print(f"{kind:8s}: the paths of θ and of Mφ are at most {distance:.1e} apart, over {UPDATES} updates")
assert apart["natural"] < 1e-5
assert apart["gradient"] > 1
strides = np.diff(paths["natural, θ"], axis=0)
assert np.allclose(strides, 0.1 * (REWARDS[:2] - REWARDS[2]), atol=1e-5)

# %%
axis0, axis1 = np.linspace(-2, 5.5, 81), np.linspace(-1, 4, 81)
on_grid = jax.jit(
    jax.vmap(jax.vmap(lambda a, b: expected_reward(plain(jnp.stack([a, b]), None)), (0, None)), (None, 0))
)
surface = on_grid(axis0, axis1)
fig, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True)
for ax, kind in zip(axes, ("gradient", "natural"), strict=True):
    filled = ax.contourf(axis0, axis1, surface, levels=15, cmap="Greys", alpha=0.6)
    ax.plot(*paths[f"{kind}, θ"].T, "o-", ms=6, mfc="none", color=BLUE, label="trained in θ")
    ax.plot(*paths[f"{kind}, φ"].T, ".-", ms=6, color=ORANGE, label="trained in φ, drawn at Mφ")
    ax.plot(*THETA, "*", ms=14, color="black", zorder=4)
    ax.set(title=f"{kind}: at most {apart[kind]:.0e} apart".replace("natural", "natural gradient"), xlabel="θ₁")
axes[0].set_ylabel("θ₂")
axes[0].legend(loc="lower right", frameon=True)
fig.colorbar(filled, ax=axes, label="expected reward J")
plt.show()

# %% [markdown]
# The natural path is straight, and its steps are equal: in this bandit $F^{-1}\nabla J$ is just the rewards of the
# actions, relative to the third one's (the `assert` above). The probabilities that slow the gradient down have
# cancelled.
#
# ## 4. How it is computed: products with a matrix that is never formed
#
# A network has too many parameters for a dense $F$. `po.fisher_operator` gives $v \mapsto Fv$ at the price of one
# forward and one backward derivative, and `po.conjugate_gradient` solves $Fx = g$ with those products alone. For a
# network small enough the dense matrix can be built another way - from the Jacobian of all the logits and the
# multinomial covariance $\mathrm{diag}(p) - pp^\top$ - and compared.

# %%
HIDDEN, STATES, ACTIONS = (8, 64, 4) if FAST else (16, 256, 4)
network = networks.mlp_actor_critic((6,), envs.Discrete(ACTIONS), hidden=(HIDDEN,))
obs_key, init_key, advantage_key, perturb_key = jax.random.split(jax.random.key(4), 4)
params = jax.jit(network.init)(init_key)
params["policy"]["kernel"] = (
    30.0 * params["policy"]["kernel"]
)  # as after some training: no longer the same in every state
observations = jax.random.normal(obs_key, (STATES, 1, 6))
policy = network.apply(params, observations).policy
action = policy.sample(seed=advantage_key)
batch = po.Batch(
    obs=observations,
    action=action,
    mask=jnp.ones(action.shape, bool),
    log_prob=policy.log_prob(action),
    advantage=jnp.sin(3 * observations[..., 0]) * (action - 1.5),
)
flat, unflatten = jax.flatten_util.ravel_pytree(params)


@jax.jit
def dense_fisher(flat):
    jacobian = jax.jacobian(lambda x: network.apply(unflatten(x), observations).policy.logits[:, 0])(flat)  # [N, A, P]
    p = jax.nn.softmax(policy.logits[:, 0])
    covariance = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    return jnp.einsum("nap,nab,nbq->pq", jacobian, covariance, jacobian) / STATES


@jax.jit
def product(v, damping):
    operator = po.fisher_operator(network.apply, po.action_kl, params, batch, damping=damping)
    return jax.flatten_util.ravel_pytree(operator(unflatten(v)))[0]


dense = np.asarray(dense_fisher(flat), np.float64)
v = jax.random.normal(perturb_key, flat.shape)
error = np.linalg.norm(product(v, 0.0) - dense @ v) / np.linalg.norm(dense @ v)
print(f"{flat.size} parameters; relative error of a Fisher-vector product against the dense matrix: {error:.1e}")
assert error < 1e-5

# %% [markdown]
# The spectrum of $F$ says how hard the solve is. Conjugate gradients resolve the large eigenvalues first; *damping*,
# $F + \varepsilon I$, puts a floor under the small ones (among them exact zeros: a shift of all logits is no change of
# policy, and the critic's parameters do not enter the policy at all).
#
# The solver reports the residual *recomputed* from the solution, and why it stopped.

# %%
surrogate = po.objective(network.apply, po.surrogate())
gradient = jax.flatten_util.ravel_pytree(jax.jit(jax.grad(surrogate, has_aux=True))(params, batch)[0])[0]
DAMPINGS = [0.0, 1e-4, 1e-2, 1.0]
ITERATIONS = np.arange(1, 31)


@jax.jit
def solve(damping, iterations):
    return po.conjugate_gradient(lambda v: product(v, damping), gradient, iters=iterations, tol=1e-5)[1]


info = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(jnp.array(DAMPINGS), ITERATIONS)
for damping, iterations, residual, status in zip(
    DAMPINGS, *(np.asarray(x)[:, -1] for x in (info.iterations, info.residual, info.status)), strict=True
):
    print(f"damping {damping:6g}: {iterations:2d} iterations, residual {residual:.1e}, {CGStatus(status).name}")

one = jnp.ones(2)
CASES = {
    "a well-conditioned matrix": (lambda v: jnp.array([1.0, 4.0]) * v, one, dict(iters=5, tol=1e-6)),
    "too few iterations": (lambda v: jnp.array([1.0, 4.0]) * v, one, dict(iters=1)),
    "an indefinite matrix": (lambda v: jnp.array([1.0, -4.0]) * v, one, dict(iters=5)),
    "a NaN in the gradient": (lambda v: v, jnp.array([1.0, jnp.nan]), dict(iters=5)),
}
for name, (matvec, b, options) in CASES.items():
    x, told = po.conjugate_gradient(matvec, b, **options)
    print(f"{name:26s} {CGStatus(int(told.status)).name:22s} residual {told.residual:.1e}, x = {x}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.7))
eigenvalues = np.linalg.eigvalsh(dense)[::-1]
left.semilogy(np.arange(1, flat.size + 1), eigenvalues.clip(1e-12), ".", ms=4, color="black", label="eigenvalues of F")
CG_COLORS = [ORANGE, GREY, MID_BLUE, BLUE]
for damping, color in zip(DAMPINGS[1:], CG_COLORS[1:], strict=True):
    left.axhline(damping, color=color, lw=1.5, ls="--", label=f"damping {damping:g}")
left.set(xlabel="rank", ylabel="eigenvalue", ylim=(1e-10, 3), title=f"{flat.size} parameters")
left.legend(fontsize=9, loc="lower left")
for i, (damping, color) in enumerate(zip(DAMPINGS, CG_COLORS, strict=True)):
    residual, status = np.asarray(info.residual[i]), np.asarray(info.status[i])
    last = int(info.iterations[i, -1])
    why = CGStatus(int(status[-1])).name
    right.semilogy(ITERATIONS[:last], residual[:last], "-", color=color, lw=2, label=f"damping {damping:g}: {why}")
    right.semilogy(last, residual[last - 1], "o", ms=7, color=color)
right.set(xlabel="iterations", ylabel="‖g - (F + εI)x‖ / ‖g‖", title="conjugate gradients, and why they stopped")
right.set_xlim(0, 30.5)
right.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## 5. A trust region in a picture
#
# TRPO asks for $\mathrm{KL}(\text{old} \,\|\, \text{new}) \le \delta$. It cannot draw that region, so it takes the
# ellipse of the quadratic model, goes in the natural direction until it meets the ellipse's edge, and then *checks*:
# if the exact KL is too large, or the objective has not improved, it shortens the step and looks again.
#
# Here the region can be drawn: the policy of section 3, and a radius that is large enough to see where the ellipse
# fails: the first candidate is outside. Both directions of the KL have the same ellipse, yet they have different
# regions, and neither is an ellipse.

# %%
RADIUS = 0.5
OLD = jnp.array([-3.0, -1.0])
objective = po.objective(plain, lambda outputs, batch: (-expected_reward(outputs), {}))
descent = jax.grad(lambda theta: objective(theta, ONE_CHOICE)[0])(OLD)


def update_of(optimizer):
    return optimizer.update(descent, optimizer.init(OLD), OLD, batch=ONE_CHOICE, objective=objective)


SHRINK = 0.8
full_step, _ = update_of(
    optax.chain(
        po.natural_gradient(plain, damping=0.0, cg_iters=2), po.scale_to_radius(plain, radius=RADIUS), optax.scale(-1.0)
    )
)
safe_step, states = update_of(po.trpo(plain, radius=RADIUS, damping=0.0, cg_iters=2, shrink=SHRINK))
gradient_step, _ = update_of(optax.chain(po.scale_to_radius(plain, radius=RADIUS), optax.scale(-1.0)))
search = states[-1]


def exact_kl(step):
    return po.action_kl(plain(OLD, None), plain(OLD + step, None), ONE_CHOICE)


def swapped_kl(step):
    return po.reverse(po.action_kl)(plain(OLD, None), plain(OLD + step, None), ONE_CHOICE)


def reward_after(step):
    return float(expected_reward(plain(OLD + step, None)))


print(
    f"expected reward {reward_after(0 * OLD):.3f} before; all steps are sized to KL = {RADIUS} by the quadratic model"
)
for name, step in (("gradient", gradient_step), ("natural, full", full_step), ("natural, backtracked", safe_step)):
    print(f"{name:21s} exact KL {exact_kl(step):.3f}   expected reward {reward_after(step):.3f}")
print(f"line search: {int(search.trials)} candidates, kept {float(search.step_size):.2f} of the full step")
assert exact_kl(safe_step) <= RADIUS < exact_kl(full_step)

# %%
x0, x1 = np.linspace(-7, 7, 141), np.linspace(-4.5, 4, 121)
forward = jax.jit(jax.vmap(jax.vmap(lambda a, b: exact_kl(jnp.stack([a, b])), (0, None)), (None, 0)))(x0, x1)
backward = jax.jit(jax.vmap(jax.vmap(lambda a, b: swapped_kl(jnp.stack([a, b])), (0, None)), (None, 0)))(x0, x1)
rewards = on_grid(float(OLD[0]) + x0, float(OLD[1]) + x1)
operator = po.fisher_operator(plain, po.action_kl, OLD, ONE_CHOICE)
ring = ellipse(jnp.stack([operator(e) for e in jnp.eye(2)]), RADIUS)

fig, ax = plt.subplots(figsize=(9, 4.8))
filled = ax.contourf(x0, x1, rewards, levels=14, cmap="Greys", alpha=0.45)
fig.colorbar(filled, ax=ax, label="expected reward J", shrink=0.85)
ax.contour(x0, x1, forward, levels=[RADIUS], colors=[BLUE], linewidths=2.5)
ax.contour(x0, x1, backward, levels=[RADIUS], colors=[MID_BLUE], linewidths=1.8, linestyles="--")
ax.plot(*ring, color="black", lw=1.8, ls=":", zorder=3)
ax.plot([], [], color=BLUE, lw=2.5, label=f"KL(old ‖ new) = {RADIUS}, exact")
ax.plot([], [], color=MID_BLUE, lw=1.8, ls="--", label=f"KL(new ‖ old) = {RADIUS}, exact")
ax.plot([], [], color="black", lw=1.8, ls=":", label="quadratic model of both")
ax.annotate("", gradient_step, (0, 0), arrowprops=dict(arrowstyle="->", lw=2, color=GREY, shrinkA=0, shrinkB=0))
ax.annotate("", full_step, (0, 0), arrowprops=dict(arrowstyle="->", lw=2, color=DARK_ORANGE, shrinkA=0, shrinkB=0))
tried = np.asarray([np.asarray(full_step) * SHRINK**i for i in range(int(search.trials))])
ax.plot(*tried[:-1].T, "x", ms=9, mew=2.5, color=DARK_ORANGE, label="tried and refused")
ax.plot(*tried[-1], "o", ms=9, color=DARK_ORANGE, mec="black", zorder=4, label="taken")
ax.plot(0, 0, "*", ms=15, color="black", zorder=4)
ax.annotate("gradient", gradient_step, (6, 4), textcoords="offset points", color="0.35")
ax.annotate("natural gradient", full_step, (8, -4), textcoords="offset points", color=DARK_ORANGE)
ax.set(xlabel="change of θ₁", ylabel="change of θ₂", aspect="equal")
ax.legend(loc="lower right", fontsize=8.5, frameon=True)
ax.set_title("TRPO: to the edge of the ellipse, then back into the region")
plt.show()

# %%
unlikely = float(jax.nn.softmax(logits_of(OLD))[0])
for fall in (10.0, 20.0, 40.0):
    step = jnp.array([-fall, 0.0])
    print(
        f"action 1, of probability {unlikely:.3f}, given up by a fall of its logit by {fall:.0f}: "
        f"KL(old ‖ new) = {exact_kl(step):.3f}, KL(new ‖ old) = {swapped_kl(step):.3f} nats"
    )
assert swapped_kl(step) < RADIUS < exact_kl(step)

# %% [markdown]
# The two directions differ most to the left, where action 1, already unlikely, is given up altogether. KL(new ‖ old)
# hardly minds: its region is open on that side. KL(old ‖ new) charges for every further unit of the logit: it does not
# let the new policy stop doing what the old one did. That is the one TRPO bounds.
#
# ## 6. What damping does
#
# Damping makes the solve easy, but it is a length in *parameters* again: $F + \varepsilon I$. With $\varepsilon = 0$
# the direction is the natural gradient's, with $\varepsilon \to \infty$ it turns into the plain gradient's; in between,
# the invariance of section 3 is gone to that extent.

# %%
damped = np.logspace(-4, 2, 13)


def angle_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


@jax.jit
@jax.vmap
def direction(damping):
    optimizer = po.natural_gradient(plain, damping=damping, cg_iters=2)
    return optimizer.update(descent, optimizer.init(OLD), OLD, batch=ONE_CHOICE)[0]


directions = np.asarray(direction(jnp.append(0.0, damped)), np.float64)
to_natural = [angle_between(d, directions[0]) for d in directions[1:]]
to_gradient = [angle_between(d, np.asarray(descent, np.float64)) for d in directions[1:]]
assert to_natural[0] < 1
assert to_gradient[-1] < 1

SHIFTED = [0.0, 1e-3, 1e-2, 1e-1, 1.0]
broken = []
for damping in SHIFTED:
    pair = [
        np.asarray(path(model, natural(model, damping), start)["params"] @ back.T)
        for model, start, back in ((plain, THETA, jnp.eye(2)), (twisted, PHI, M))
    ]
    broken.append(np.abs(pair[0] - pair[1]).max())
between = angle_between(directions[0], np.asarray(descent, np.float64))
print(f"angle between the natural and the plain gradient here: {between:.0f}°")
for damping, distance in zip(SHIFTED, broken, strict=True):
    print(f"damping {damping:5g}: the paths of θ and of Mφ are at most {distance:.1e} apart")
assert (np.diff(broken[:-1]) > 0).all()

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
left.semilogx(damped, to_natural, "o-", color=BLUE, label="to the natural gradient")
left.semilogx(damped, to_gradient, "s-", color=ORANGE, label="to the plain gradient")
left.set(xlabel="damping ε", ylabel="angle of the direction, degrees")
left.legend(loc="center left")
right.loglog(SHIFTED[1:], broken[1:], "o-", color=BLUE)
right.axhline(broken[0], color="0.5", ls=":", label="no damping (rounding)")
right.set(xlabel="damping ε", ylabel="largest distance of the two paths", title="invariance under θ = Mφ, lost")
right.legend()
fig.suptitle("Damping interpolates between the two")
plt.show()

# %% [markdown]
# ## In short
#
# * A step in parameters has no fixed meaning; the Fisher information says what it means at each point.
# * The natural gradient takes steps of a given KL, and so does not depend on how the policy was written down. Damping
#   trades some of that for a solve that works.
# * `po.natural_gradient`, `po.scale_to_radius` and `po.backtrack` are optax transforms, and TRPO is their chain. The
#   divergence is an argument of each: any function `(old, new, batch)` that you write will do.
