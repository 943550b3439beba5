"""Elementwise formulas, `[...] -> [...]`: what the objectives average. They mask nothing; the terms do.

Those of a probability ratio take its logarithm.
"""

from polopt_jax.surrogates._kl import k1, k2, k3
from polopt_jax.surrogates._preference import bradley_terry
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
    "bradley_terry",
    "capped_score",
    "clip_bounds",
    "clipped_squared_error",
    "clipped_surrogate",
    "dual_clipped_surrogate",
    "gated_surrogate",
    "k1",
    "k2",
    "k3",
    "log_ratio",
    "one_sided_clip",
    "squared_error",
]
