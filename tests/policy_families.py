"""Three families of policies whose log-probabilities, divergences and Fisher matrices are written out densely."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import polopt_jax as po

N = 20
ROWS, LENGTH, FEATURES, HIDDEN, ACTIONS, DIMENSIONS = 4, 3, 3, 4, 4, 2
LOG_2_PI = np.log(2 * np.pi)


# --- three families of policies, each with log-probabilities and divergences written out -----------------------------


def network(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["head"]


def categorical(params, obs):
    return po.Outputs(policy=po.Categorical(logits=network(params, obs["x"])).only(obs["legal"]))


def gaussian(params, obs, kind=po.DiagGaussian):
    mean, log_std = jnp.split(network(params, obs["x"]), 2, axis=-1)
    return po.Outputs(policy=kind(mean=mean, log_std=log_std))


def categorical_log_prob(params, obs):
    """log π of every action, and 0 for those that are illegal; with the weights π, which are 0 there."""
    logits, legal = network(params, obs["x"]), obs["legal"]
    log_p = jnp.where(legal, logits - jnp.log(jnp.sum(jnp.where(legal, jnp.exp(logits), 0))), 0)
    return log_p, jax.lax.stop_gradient(jnp.where(legal, jnp.exp(log_p), 0))


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
GRID = np.stack(np.meshgrid(NODES, NODES, indexing="ij"), -1).reshape(-1, DIMENSIONS)
GRID_WEIGHTS = np.outer(WEIGHTS, WEIGHTS).ravel()


def gaussian_log_prob(params, obs, *, squashed=False):
    """log-density at the nodes of a quadrature, exact for products of scores (degree 4), and its weights."""
    mean, log_std = jnp.split(network(params, obs["x"]), 2)
    action = jax.lax.stop_gradient(mean + jnp.exp(log_std) * GRID)
    log_p = (-0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std - 0.5 * LOG_2_PI).sum(-1)
    return log_p - (jnp.log(1 - jnp.tanh(action) ** 2).sum(-1) if squashed else 0), GRID_WEIGHTS


def categorical_kl(p, q, obs):
    log_p, weights = categorical_log_prob(p, obs)
    log_q, _ = categorical_log_prob(q, obs)
    return (jnp.where(obs["legal"], jnp.exp(log_p), 0) * (log_p - log_q)).sum() + 0 * weights.sum()


def gaussian_kl(p, q, obs):
    (m, s), (n, t) = (jnp.split(network(params, obs["x"]), 2) for params in (p, q))
    return (t - s + (jnp.exp(2 * s) + (m - n) ** 2) / (2 * jnp.exp(2 * t)) - 0.5).sum()


FAMILIES = {
    "categorical": (categorical, categorical_log_prob, categorical_kl),
    "gaussian": (gaussian, gaussian_log_prob, gaussian_kl),
    "tanh": (partial(gaussian, kind=po.TanhGaussian), partial(gaussian_log_prob, squashed=True), gaussian_kl),
}


def problems(seed, count=N, *, scale=0.6, shape=(ROWS, LENGTH)):
    """Weights, observations with one illegal action each, and ragged masks with an empty row; leading axis `count`."""
    rng = np.random.default_rng(seed)
    params = {
        "hidden": rng.normal(size=(count, FEATURES, HIDDEN)),
        "head": scale * rng.normal(size=(count, HIDDEN, ACTIONS)),
    }
    illegal = rng.integers(ACTIONS, size=(count, *shape))
    obs = {"x": rng.normal(size=(count, *shape, FEATURES)), "legal": np.arange(ACTIONS) != illegal[..., None]}
    length = rng.integers(1, shape[-1] + 1, (count, *shape[:-1]))
    length[:, -1] = 0 if shape[0] > 1 else shape[-1]
    length[:, 0] = shape[-1]
    return params, obs, np.arange(shape[-1]) < length[..., None]


def batch_of(obs, mask, **fields):
    fields = {"action": jnp.zeros(mask.shape, int)} | fields
    return po.Batch(obs=obs, mask=mask, **fields)


def scaled_sums(mask):
    """Weight of each decision [...] in `action_kl` and in `trajectory_kl`."""
    return {"action_kl": mask / mask.sum(), "trajectory_kl": mask / mask.any(-1).sum()}


def dense_fisher(log_prob, params, obs, mask):
    """Σ_s w_s E_a[∇log π ∇log πᵀ] from the scores of all actions (or nodes), for both ways to weigh decisions."""
    vector, unravel = ravel_pytree(params)

    def per_decision(obs):
        scores = jax.jacfwd(lambda v: log_prob(unravel(v), obs)[0])(vector)
        return (scores.T * log_prob(params, obs)[1]) @ scores

    fishers = jax.vmap(jax.vmap(per_decision))(obs)
    return {name: jnp.einsum("rt,rtij->ij", w, fishers) for name, w in scaled_sums(mask).items()}


def dense_hessians(kl, params, obs, mask):
    """Hessians at θ' = θ of the mean KL(θ ‖ θ') and of KL(θ' ‖ θ)."""
    vector, unravel = ravel_pytree(params)

    def mean_kl(p, q):
        per_decision = jax.vmap(jax.vmap(lambda obs: kl(unravel(p), unravel(q), obs)))(obs)
        return (jnp.where(mask, per_decision, 0)).sum() / mask.sum()

    return jax.hessian(lambda v: mean_kl(vector, v))(vector), jax.hessian(lambda v: mean_kl(v, vector))(vector)


def operator_matrix(model, divergence, params, batch, **keywords):
    """All columns of the Fisher operator, by vmap over the basis."""
    vector, unravel = ravel_pytree(params)
    operator = po.fisher_operator(model, divergence, params, batch, **keywords)
    return jax.vmap(lambda v: ravel_pytree(operator(unravel(v)))[0])(jnp.eye(vector.size, dtype=vector.dtype)).T


def apply(optimizer, objective, params, batch):
    """One update: `(updates, state)`."""
    grads = jax.grad(lambda p: objective(p, batch)[0])(params)
    return optimizer.update(grads, optimizer.init(params), params, batch=batch, objective=objective)
