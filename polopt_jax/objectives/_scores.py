"""What a row is worth to an objective over whole rows, given the log-probabilities of its decisions.

A score is a function `(caller, log_prob [..., T], batch) -> [...]`; `caller` is for errors. Log-probabilities come
zeroed under the mask, and so do the fields that `read` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from polopt_jax.masking import masked_mean, masked_sum
from polopt_jax.reading import read
from polopt_jax.types import Array, Batch

Score: TypeAlias = Callable[[str, Array, Batch], Array]
"""`(caller, log_prob [..., T], batch) -> [...]`: what a row is worth; `caller` is for errors."""


def summed_log_ratio(caller: str, log_prob: Array, batch: Batch) -> Array:
    """Σ_t log π_θ/ref over a row's real decisions: DPO's score, up to β. Reads `ref_log_prob`."""
    return masked_sum(log_prob - read(caller, batch, "ref_log_prob"), batch.mask, axis=-1)


def mean_log_ratio(caller: str, log_prob: Array, batch: Batch) -> Array:
    """The mean of log π_θ/ref over a row's real decisions: long rows count no more than short ones.

    Reads `ref_log_prob`.
    """
    return masked_mean(log_prob - read(caller, batch, "ref_log_prob"), batch.mask, axis=-1)


def summed_log_prob(caller: str, log_prob: Array, batch: Batch) -> Array:
    """Σ_t log π_θ over a row's real decisions: a score without a reference (CPO's)."""
    del caller
    return masked_sum(log_prob, batch.mask, axis=-1)


def mean_log_prob(caller: str, log_prob: Array, batch: Batch) -> Array:
    """The mean of log π_θ over a row's real decisions: a score without a reference (SimPO's, ORPO's)."""
    del caller
    return masked_mean(log_prob, batch.mask, axis=-1)
