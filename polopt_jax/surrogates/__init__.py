"""Elementwise formulas, `[...] -> [...]`: what the objectives average. They mask nothing; the terms do.

Those of a probability ratio take its logarithm. Weights that add up to 1 over several decisions are no elementwise
formula, and take the mask.
"""

from polopt_jax.surrogates._kl import k1, k2, k3, weighted_k2, weighted_k3
from polopt_jax.surrogates._preference import bradley_terry
from polopt_jax.surrogates._ratio import (
    LOG_RATIO_LIMIT,
    ClipRange,
    clip_bounds,
    clipped_surrogate,
    discovered_surrogate,
    log_ratio,
    quadratic_surrogate,
)
from polopt_jax.surrogates._value import (
    clipped_squared_error,
    cross_entropy,
    expected_value,
    huber,
    squared_error,
    two_hot,
)
from polopt_jax.surrogates._weight import (
    exponential_weight,
    improved_weights,
    temperature_loss,
    top_entries,
    weight_kl,
)

__all__ = [
    "LOG_RATIO_LIMIT",
    "ClipRange",
    "bradley_terry",
    "clip_bounds",
    "clipped_squared_error",
    "clipped_surrogate",
    "cross_entropy",
    "discovered_surrogate",
    "expected_value",
    "exponential_weight",
    "huber",
    "improved_weights",
    "k1",
    "k2",
    "k3",
    "log_ratio",
    "quadratic_surrogate",
    "squared_error",
    "temperature_loss",
    "top_entries",
    "two_hot",
    "weight_kl",
    "weighted_k2",
    "weighted_k3",
]
