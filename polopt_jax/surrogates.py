"""Elementwise formulas, `[...] -> [...]`: what the objectives average.

They take log-ratios rather than ratios, clamp nothing and mask nothing (`masking.log_ratio` and the terms do).
"""

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, check_shape
from polopt_jax.types import Array, ArrayLike

ClipRange = ArrayLike | tuple[ArrayLike, ArrayLike]


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


def is_clipped(log_ratio: Array, advantage: Array, *, clip_eps: ClipRange) -> Array:
    """bool: the clip removes this decision's gradient (A > 0 above the range, or A < 0 below it)."""
    low, high = clip_bounds(clip_eps)
    ratio = jnp.exp(log_ratio)
    return ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))


def _log_ratio(caller: str, log_prob: Array, ref_log_prob: Array) -> Array:
    """log π - log ref `[...]`, in at least float32 and never broadcast."""
    check_shape(caller, "ref_log_prob", ref_log_prob, jnp.shape(log_prob), of="log_prob")
    return accumulate(log_prob) - accumulate(ref_log_prob)


def k1(log_prob: Array, ref_log_prob: Array) -> Array:
    """log π(a) - log ref(a): the naive sample of KL(π ‖ ref) for a ~ π; unbiased, of either sign.

    Gradient: *zero in expectation* if it is differentiated as a loss on samples of π (it is E[∇log π]). Use it in
    the reward or as a monitor, not as a loss. Source: Schulman 2020, "Approximating KL divergence".

    >>> k1(jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))).round(3).tolist()
    [0.6930000185966492]
    """
    return _log_ratio("k1", log_prob, ref_log_prob)


def k2(log_prob: Array, ref_log_prob: Array) -> Array:
    """½ (log π(a) - log ref(a))²: biased as a sample of KL(π ‖ ref), never negative.

    Gradient: as a loss on samples of π its expected gradient *is* ∇KL(π ‖ ref), exactly, at every π. Off-policy,
    multiply by the stop-gradient ratio π/μ. Source: as `k1`; the gradient: Tang & Munos 2025.

    >>> k2(jnp.array([0.0]), jnp.array([-2.0])).tolist()
    [2.0]
    """
    return 0.5 * _log_ratio("k2", log_prob, ref_log_prob) ** 2


def k3(log_prob: Array, ref_log_prob: Array) -> Array:
    """ref/π - 1 - log(ref/π): unbiased for KL(π ‖ ref) on samples of π, never negative, of low variance.

    Gradient: as a loss on samples of π its expected gradient is ∇KL(ref ‖ π), the *other* direction. Multiplied by
    the differentiable ratio π/μ (μ: the sampler) it becomes ∇KL(π ‖ ref), on- and off-policy. GRPO uses it as it is.
    Source: as `k1`.

    >>> k3(jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.5]))).tolist()
    [0.0]
    """
    log_ratio = _log_ratio("k3", log_prob, ref_log_prob)
    return jnp.expm1(-log_ratio) + log_ratio


def preference_loss(margin: Array) -> Array:
    """-log σ(margin): the Bradley-Terry loss of preferring the first of a pair, never through log(sigmoid).

    >>> round(float(preference_loss(jnp.zeros(()))), 6)
    0.693147
    """
    return -jax.nn.log_sigmoid(margin)
