"""Formulas of the probability ratio ρ = π/π_old, given as its logarithm."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import jax
import jax.numpy as jnp

from polopt_jax.guards import clamped
from polopt_jax.ranges import Interval
from polopt_jax.types import Array, ArrayLike

ClipRange: TypeAlias = Annotated[ArrayLike | tuple[ArrayLike, ArrayLike], Interval(0)]
"""ε, or a pair (ε_low, ε_high)."""

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ±20 before exp; see `log_ratio`."""


def log_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """log π/π_old `[...]`, clamped to ±20: beyond it the value is ±20 and the gradient exactly 0.

    Exact, value and gradient, for every difference of at most 20. exp(20) = 4.9e8 keeps every product that the
    objectives form finite in float32.
    """
    return clamped(log_prob - old_log_prob, LOG_RATIO_LIMIT)


def expm1_with_tangent(x: Array) -> Array:
    """exp(x) - 1 where x <= 20, and its tangent at 20 beyond: finite, and with a gradient that never vanishes.

    >>> float(expm1_with_tangent(jnp.array(0.0))), bool(expm1_with_tangent(jnp.array(1e4)) > 9979 * math.exp(20))
    (0.0, True)
    """
    inside = x <= LOG_RATIO_LIMIT
    tangent = math.exp(LOG_RATIO_LIMIT) * (x - LOG_RATIO_LIMIT) + math.expm1(LOG_RATIO_LIMIT)
    return jnp.where(inside, jnp.expm1(jnp.where(inside, x, 0)), tangent)


def clip_bounds(clip_eps: ClipRange) -> tuple[ArrayLike, ArrayLike]:
    """`(1 - ε_low, 1 + ε_high)` from one ε or a pair `(ε_low, ε_high)`."""
    low, high = clip_eps if isinstance(clip_eps, tuple) else (clip_eps, clip_eps)
    return 1 - low, 1 + high


def clipped_surrogate(log_ratio: Array, advantage: Array, *, clip_eps: ClipRange) -> Array:
    """min(ρ A, clip(ρ, 1-ε, 1+ε) A), ρ = exp(log_ratio): pessimistic, an objective to maximise.

    >>> clipped_surrogate(jnp.log(jnp.array([2.0, 2.0])), jnp.array([1.0, -1.0]), clip_eps=0.2).tolist()
    [1.2000000476837158, -2.0]
    """
    ratio, gain = jnp.exp(log_ratio), advantage > 0
    low, high = clip_bounds(clip_eps)
    # A NaN stays one, of the ratio as of a bound.
    kept = jnp.isnan(ratio) | jnp.where(gain, ratio <= high, ratio >= low)
    return jnp.where(kept, ratio, jnp.where(gain, high, low).astype(ratio.dtype)) * advantage


def dual_clipped_surrogate(log_ratio: Array, advantage: Array, *, clip_eps: ClipRange, cap: ArrayLike) -> Array:
    """max(clipped_surrogate, c A) where A < 0, and the clipped surrogate elsewhere: bounded below by c A.

    The gradient is exactly 0 where A < 0 and ρ > c as well; c = ∞ is the clipped surrogate.

    >>> dual_clipped_surrogate(jnp.log(jnp.array([9.0, 9.0])), jnp.array([1.0, -1.0]), clip_eps=0.2, cap=3.0).tolist()
    [1.2000000476837158, -3.0]
    """
    worse = advantage < 0
    floor = jnp.where(worse, cap * jnp.where(worse, advantage, -1), -jnp.inf)
    return jnp.maximum(clipped_surrogate(log_ratio, advantage, clip_eps=clip_eps), floor)


def capped_score(log_ratio: Array, advantage: Array, *, cap: ArrayLike) -> Array:
    """sg[min(ρ, c)] A log ρ, sg: no gradient through it. The slope, min(ρ, c) A, is 0 nowhere: the cap is on the
    weight.

    >>> capped_score(jnp.log(jnp.array([1.0, 9.0])), jnp.array([1.0, -1.0]), cap=5.0).round(3).tolist()
    [0.0, -10.986000061035156]
    """
    weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio), cap))
    return weight * log_ratio * advantage


def gated_surrogate(
    log_ratio: Array, advantage: Array, *, temperature_positive: ArrayLike, temperature_negative: ArrayLike
) -> Array:
    """(4/τ) σ(τ(ρ - 1)) A, with a τ for A > 0 and one for A ≤ 0: a clip without an edge.

    At ρ = 1 its slope is that of ρA, and the larger τ, the sooner the gradient fades on both sides.

    >>> gate = dict(temperature_positive=1.0, temperature_negative=2.0)
    >>> gated_surrogate(jnp.zeros(2), jnp.array([1.0, -1.0]), **gate).tolist()
    [2.0, -1.0]
    """
    temperature = jnp.where(advantage > 0, temperature_positive, temperature_negative).astype(log_ratio.dtype)
    return 4 / temperature * jax.nn.sigmoid(temperature * jnp.expm1(log_ratio)) * advantage


def one_sided_clip(log_ratio: Array, advantage: Array, *, log_clip: ClipRange) -> Array:
    """min(log ρ, ε_high) where A > 0 and max(log ρ, -ε_low) elsewhere: PPO's clip, on the *logarithm* of the ratio.

    `log_clip` is ε or a pair (ε_low, ε_high), in nats.

    >>> one_sided_clip(jnp.array([1.0, 1.0, -1.0]), jnp.array([1.0, -1.0, -1.0]), log_clip=(0.5, 0.25)).tolist()
    [0.25, 1.0, -0.5]
    """
    low, high = log_clip if isinstance(log_clip, tuple) else (log_clip, log_clip)
    return jnp.where(advantage > 0, jnp.minimum(log_ratio, high), jnp.maximum(log_ratio, -low))


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
