"""Formulas of the probability ratio ρ = π/π_old, given as its logarithm."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from polopt_jax.types import Array, ArrayLike

ClipRange = ArrayLike | tuple[ArrayLike, ArrayLike]

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ±20 before exp; see `log_ratio`."""


def log_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """log π/π_old `[...]`, clamped to ±20: beyond it the value is ±20 and the gradient exactly 0.

    Exact, value and gradient, for every difference of at most 20. exp(20) = 4.9e8 keeps every product that the
    objectives form finite in float32.
    """
    difference = log_prob - old_log_prob
    inside = jnp.abs(difference) <= LOG_RATIO_LIMIT
    beyond = jnp.where(jnp.isnan(difference), jnp.nan, LOG_RATIO_LIMIT * jnp.sign(difference))
    return jnp.where(inside, jnp.where(inside, difference, 0), jax.lax.stop_gradient(beyond))


def expm1_with_tangent(x: Array) -> Array:
    """exp(x) - 1 where x <= 20, and its tangent at 20 beyond: finite, and with a gradient that never vanishes.

    >>> bool(jnp.isfinite(expm1_with_tangent(jnp.array(1e4)))), float(expm1_with_tangent(jnp.array(0.0)))
    (True, 0.0)
    """
    beyond = math.exp(LOG_RATIO_LIMIT) * jnp.maximum(x - LOG_RATIO_LIMIT, 0)
    return jnp.expm1(jnp.minimum(x, LOG_RATIO_LIMIT)) + beyond


def clip_bounds(clip_eps: ClipRange) -> tuple[ArrayLike, ArrayLike]:
    """`(1 - ε_low, 1 + ε_high)` from one ε or a pair `(ε_low, ε_high)`."""
    low, high = clip_eps if isinstance(clip_eps, tuple) else (clip_eps, clip_eps)
    return 1 - low, 1 + high


def clipped_surrogate(log_ratio: Array, advantage: Array, *, clip_eps: ClipRange) -> Array:
    """min(ρ A, clip(ρ, 1-ε, 1+ε) A), ρ = exp(log_ratio): pessimistic, an objective to maximise.

    >>> clipped_surrogate(jnp.log(jnp.array([2.0, 2.0])), jnp.array([1.0, -1.0]), clip_eps=0.2).tolist()
    [1.2000000476837158, -2.0]
    """
    ratio = jnp.exp(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, *clip_bounds(clip_eps)) * advantage)
