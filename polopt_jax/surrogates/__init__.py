"""Elementwise formulas, `[...] -> [...]`: what the objectives average. They mask nothing; the terms do.

Those of a probability ratio take its logarithm.
"""

from polopt_jax.surrogates._kl import k1, k2, k3
from polopt_jax.surrogates._preference import (
    alpha_slope,
    anchored_down,
    anchored_zero,
    binary_cross_entropy,
    bradley_terry,
    hinge,
    jensen_shannon_slope,
    kl_to_label,
    log_odds,
    modulated,
    noise_contrastive,
    reverse_kl_slope,
    saturating,
    smoothed_bradley_terry,
    squared_margin,
    squared_scores,
    unbiased_bradley_terry,
)
from polopt_jax.surrogates._ratio import (
    LOG_RATIO_LIMIT,
    ClipRange,
    capped_score,
    clip_bounds,
    clipped_surrogate,
    dual_clipped_surrogate,
    gated_surrogate,
    log_ratio,
    one_sided_clip,
)
from polopt_jax.surrogates._value import clipped_squared_error, squared_error

__all__ = [
    "LOG_RATIO_LIMIT",
    "ClipRange",
    "alpha_slope",
    "anchored_down",
    "anchored_zero",
    "binary_cross_entropy",
    "bradley_terry",
    "capped_score",
    "clip_bounds",
    "clipped_squared_error",
    "clipped_surrogate",
    "dual_clipped_surrogate",
    "gated_surrogate",
    "hinge",
    "jensen_shannon_slope",
    "k1",
    "k2",
    "k3",
    "kl_to_label",
    "log_odds",
    "log_ratio",
    "modulated",
    "noise_contrastive",
    "one_sided_clip",
    "reverse_kl_slope",
    "saturating",
    "smoothed_bradley_terry",
    "squared_error",
    "squared_margin",
    "squared_scores",
    "unbiased_bradley_terry",
]
