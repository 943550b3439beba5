"""Formulas of the probability ratio ρ = π/π_old, given as its logarithm."""

from __future__ import annotations

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


def _beyond(x: Array, scale: ArrayLike) -> Array:
    """max(x - s tanh(x/s), 0): how far a gain has gone beyond the scale, 0 below it to second order."""
    return jnp.maximum(x - scale * jnp.tanh(x / scale), 0)


def discovered_surrogate(log_ratio: Array, advantage: Array, *, alpha: ArrayLike, beta: ArrayLike) -> Array:
    """ρA - drift, an objective to maximise; drift = (x - s tanh(x/s))₊ with x = (ρ-1)A, s = α where A >= 0,
    and x = A log ρ, s = β where A < 0.

    >>> discovered_surrogate(jnp.log(jnp.array([1.0, 1.5])), jnp.array([2.0, -2.0]), alpha=2.0, beta=0.6).tolist()
    [2.0, -3.0]
    """
    ratio = jnp.exp(log_ratio)
    drift = jnp.where(advantage >= 0, _beyond((ratio - 1) * advantage, alpha), _beyond(log_ratio * advantage, beta))
    return ratio * advantage - drift


def quadratic_surrogate(log_ratio: Array, advantage: Array, *, clip_eps: ArrayLike) -> Array:
    """ρA - |A|/(2ε) (ρ-1)², an objective to maximise; its maximum is at ρ = 1 + ε sign A.

    >>> quadratic_surrogate(jnp.log(jnp.array([1.0, 2.0])), jnp.array([1.0, 1.0]), clip_eps=0.5).tolist()
    [1.0, 1.0]
    """
    ratio = jnp.exp(log_ratio)
    return ratio * advantage - jnp.abs(advantage) / (2 * clip_eps) * (ratio - 1) ** 2
