"""Samples of a KL divergence, from the log-ratio of the action that was taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.guards import clamped
from polopt_jax.masking import accumulate, check_shape
from polopt_jax.surrogates._ratio import expm1_with_tangent
from polopt_jax.types import Array

IMPOSSIBLE = 1e4
"""Nats beyond which a log-ratio is one of an action that has no probability."""


def k1(log_ratio: Array) -> Array:
    """log π(a) - log ref(a) itself: the naive sample of KL(π ‖ ref) for a ~ π; unbiased, of either sign.

    Gradient: *zero in expectation* if it is differentiated as a loss on samples of π (it is E[∇log π]). Use it in
    the reward or as a monitor, not as a loss. Source: Schulman 2020, "Approximating KL divergence".

    >>> k1(jnp.log(jnp.array([2.0]))).round(3).tolist()
    [0.6930000185966492]
    """
    return accumulate(log_ratio)


def k2(log_ratio: Array) -> Array:
    """½ (log π(a) - log ref(a))²: biased as a sample of KL(π ‖ ref), never negative.

    Gradient: as a loss on samples of π its expected gradient *is* ∇KL(π ‖ ref), exactly, at every π. Off-policy,
    multiply by the stop-gradient ratio π/μ. Source: as `k1`; the gradient: Tang & Munos 2025.

    >>> k2(jnp.array([2.0])).tolist()
    [2.0]
    """
    return 0.5 * accumulate(log_ratio) ** 2


def k3(log_ratio: Array) -> Array:
    """ref/π - 1 - log(ref/π), with `log_ratio` = log π(a) - log ref(a): unbiased for KL(π ‖ ref) on samples of π,
    never negative, of low variance.

    Gradient: as a loss on samples of π its expected gradient is ∇KL(ref ‖ π), the *other* direction. Multiplied by
    the differentiable ratio π/μ (μ: the sampler) it becomes ∇KL(π ‖ ref), on- and off-policy. GRPO uses it as it is.
    Where the action is more than e^20 times less probable under π than under ref it goes on along its tangent, so that
    the gradient stays finite and does not vanish; everywhere else it is exact. Beyond ±1e4 nats, where one of the two
    has no probability left, it is constant. Source: as `k1`.

    >>> k3(jnp.array([0.0, 30.0])).tolist()
    [0.0, 29.0]
    """
    log_ratio = clamped(accumulate(log_ratio), IMPOSSIBLE)
    return expm1_with_tangent(-log_ratio) + log_ratio


def weighted_k2(log_ratio: Array, log_weight: Array) -> Array:
    """π/μ · k2 with the weight held constant, on samples of any μ; `log_weight` = log π(a) - log μ(a).

    Gradient: as a loss on samples of μ its expected gradient is ∇KL(π ‖ ref), exactly, on- and off-policy. The value is
    biased, as that of `k2`. Raises ValueError if the shapes differ. Source: Tang & Munos 2025.

    >>> weighted_k2(jnp.array([2.0]), jnp.log(jnp.array([0.5]))).tolist()
    [1.0]
    """
    check_shape("weighted_k2", "log_weight", log_weight, np.shape(log_ratio), of="log_ratio")
    return jax.lax.stop_gradient(jnp.exp(accumulate(log_weight))) * k2(log_ratio)


def weighted_k3(log_ratio: Array, log_weight: Array) -> Array:
    """π/μ · k3 with the weight differentiated, on samples of any μ; `log_weight` = log π(a) - log μ(a).

    Value and gradient: on samples of μ both are unbiased for KL(π ‖ ref), on- and off-policy. (With the weight held
    constant the gradient would be that of KL(ref ‖ π), which is the gradient of `k3` alone.) Raises ValueError if the
    shapes differ. Source: as `weighted_k2`.

    >>> weighted_k3(jnp.array([0.0, 30.0]), jnp.log(jnp.array([3.0, 0.5]))).tolist()
    [0.0, 14.5]
    """
    check_shape("weighted_k3", "log_weight", log_weight, np.shape(log_ratio), of="log_ratio")
    return jnp.exp(accumulate(log_weight)) * k3(log_ratio)
