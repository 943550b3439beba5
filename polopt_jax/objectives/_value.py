"""The critic's regression, which accompanies a policy loss."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from polopt_jax.masking import check_shape
from polopt_jax.ranges import Nonnegative, Positive, check_range
from polopt_jax.reading import read, read_value, read_value_logits
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import (
    clipped_squared_error,
    cross_entropy,
    expected_value,
    huber,
    squared_error,
    two_hot,
)
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def value_loss(*, reduce: Reduction = token_mean) -> Term:
    """Squared error of the critic.

        L(θ) = E[ ½ (V_θ(s) - target)² ]

    Returns a term. Reads `target, mask`, each [...], and `outputs.value`. Metrics: `value_mean`. Raises ValueError
    if the model has no critic or a field is missing or has another shape.

    The ½ is part of the definition here; brax multiplies by another ½, so its coefficient means half as much.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2))
    >>> float(value_loss()(po.Outputs(policy=None, value=jnp.zeros(2)), batch)[0])
    0.5
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("value_loss", outputs, batch)
        target = read("value_loss", batch, "target")
        return reduce(squared_error(value, target), batch), {"value_mean": token_mean(value, batch)}

    return term


def clipped_value_loss(*, clip_eps: Nonnegative = 0.2, reduce: Reduction = token_mean) -> Term:
    """Squared error of the critic, pessimistic about moving far from the value it had.

        L(θ) = E[ ½ max( (V_θ - target)², (V_old + clip(V_θ - V_old, -ε, ε) - target)² ) ]

    `clip_eps` is in units of the return, so its meaning depends on the reward scale (unlike PPO's, a ratio). Returns
    a term. Reads `value, target, mask`, each [...], and `outputs.value`. Metrics: `value_mean, clip_fraction`.
    Raises as `value_loss`, and ValueError if clip_eps is negative or NaN.

    Source: the PPO code of OpenAI baselines; the paper does not have it.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2),
    ...                  value=jnp.zeros(2))
    >>> round(float(clipped_value_loss(clip_eps=0.2)(po.Outputs(policy=None, value=jnp.ones(2)), batch)[0]), 3)
    0.32
    """
    check_range("clipped_value_loss", Nonnegative, clip_eps=clip_eps)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("clipped_value_loss", outputs, batch)
        target = read("clipped_value_loss", batch, "target")
        old = read("clipped_value_loss", batch, "value")
        return reduce(clipped_squared_error(value, target, old, clip_eps=clip_eps), batch), {
            "value_mean": token_mean(value, batch),
            "clip_fraction": token_mean(jnp.abs(value - old) > clip_eps, batch),
        }

    return term


def huber_value_loss(*, delta: Positive = 1.0, reduce: Reduction = token_mean) -> Term:
    """Error of the critic that is squared near the target and linear far from it, so that outliers pull less.

        L(θ) = E[ ½ e² where |e| <= δ, δ (|e| - ½ δ) beyond ],    e = V_θ(s) - target

    Args:
      delta: δ, where the square ends, in units of the return; also the largest gradient of a decision. Infinity gives
        `value_loss`. May be traced.
      reduce: how decisions become one number.

    Returns:
      A term. Reads `target, mask`, each [...], and `outputs.value`. Metrics: `value_mean`, `linear_fraction`
      (decisions with an error beyond δ).

    Raises: as `value_loss`, and ValueError if delta is not above 0 (where it is concrete).

    Source: Huber 1964, "Robust estimation of a location parameter"; in reinforcement learning since Mnih et al. 2015
    (DQN), whose clipped error is the default.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> target = jnp.array([0.5, 3.0])
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=target)
    >>> float(huber_value_loss(delta=1.0)(po.Outputs(policy=None, value=jnp.zeros(2)), batch)[0])
    1.3125
    """
    check_range("huber_value_loss", Positive, delta=delta)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("huber_value_loss", outputs, batch)
        target = read("huber_value_loss", batch, "target")
        return reduce(huber(value, target, delta=delta), batch), {
            "value_mean": token_mean(value, batch),
            "linear_fraction": token_mean(jnp.abs(value - target) > delta, batch),
        }

    return term


def categorical_value_loss(
    *, support: Array, project: Callable[[Array, Array], Array] = two_hot, reduce: Reduction = token_mean
) -> Term:
    """Regression as classification: the critic is a law over a grid of values, and learns by cross-entropy.

        L(θ) = -E[ Σ_k p_k log q_θ(k|s) ],    p = two_hot(target),  V_θ(s) = Σ_k q_θ(k|s) s_k

    The gradient in the logits, q - p, does not grow with the scale of the return. The model says both: `value_logits`
    for this loss, and their mean as `value`, which everything else reads, `unroll` and with it `gae` among them:

        logits = critic(params, obs)                                                    # [..., K]
        return po.Outputs(policy=..., value=po.expected_value(logits, support), value_logits=logits)

    Args:
      support: the values of the grid, `[K]`, increasing; targets beyond its ends count as the end (`clamped_fraction`).
      project: `(target [...], support [K]) -> [..., K]`, the law that stands for a target.
      reduce: how decisions become one number.

    Returns:
      A term. Reads `target, mask`, each [...], and `outputs.value_logits`, [..., K]. Metrics: `value_mean`,
      `clamped_fraction` (targets outside the support).

    Raises (at trace time): ValueError if the model has no such logits, they have other than K, support is not [K], or
    a field is missing or has another shape.

    The loss is the entropy of p at its least, and not 0, where a target lies between two points.

    Source: Farebrother et al. 2024, "Stop regressing"; Schrittwieser et al. 2020 (MuZero).

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2))
    >>> outputs = po.Outputs(policy=None, value_logits=jnp.zeros((2, 3)))
    >>> round(float(categorical_value_loss(support=jnp.array([-1.0, 0.0, 1.0]))(outputs, batch)[0]), 4)
    1.0986
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        logits = read_value_logits("categorical_value_loss", outputs, batch)
        target = read("categorical_value_loss", batch, "target")
        law = project(target, support)
        check_shape("categorical_value_loss", "outputs.value_logits", logits, law.shape, of="the law on support")
        points = jnp.asarray(support, target.dtype)
        return reduce(cross_entropy(law, logits), batch), {
            "value_mean": token_mean(expected_value(logits, support), batch),
            "clamped_fraction": token_mean((target < points[0]) | (target > points[-1]), batch),
        }

    return term
