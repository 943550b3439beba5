"""A variant of chapter 6: AOT compares laws, the whole of the chosen scores with the whole of the rejected ones."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.combinators import couples_rows
from polopt_jax.masking import masked_sum, zero_where_masked
from polopt_jax.objectives._preference import over_pairs, pair_metrics
from polopt_jax.objectives._scores import Score, summed_log_prob, summed_log_ratio
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.reading import check_pairs, complete_pairs, read, read_log_prob
from polopt_jax.surrogates import bradley_terry
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Term


def _dominance(upper: Array, lower: Array, valid: Array, beta: ArrayLike) -> Array:
    """The mean Bradley-Terry link of the k-th largest of one with the k-th largest of the other, over the valid."""
    number = valid.sum()
    ranks = jnp.arange(valid.size) < number
    first, second = (zero_where_masked(jnp.sort(jnp.where(valid, x, jnp.inf).ravel()), ranks) for x in (upper, lower))
    return masked_sum(bradley_terry(beta * first, beta * second), ranks) / jnp.maximum(number, 1).astype(first.dtype)


def aot(*, beta: Nonnegative = 0.1) -> Term:
    """Alignment via Optimal Transport, for pairs.

        L(θ) = -E_k[ log σ(β (m_(k) - r_(k))) ],    m = Σ_t log π_θ(chosen) - Σ_t log π_θ(rejected),    r = the same of
        ref

    The margins of the policy and those of the reference are sorted apart, and m_(k), r_(k) are the k-th of either: the
    law of the margins is to dominate that of the reference's, rather than each margin its own.

    Args:
      beta: what a nat of difference counts. May be traced.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `action, ref_log_prob, mask`. Averages over
      pairs whose two rows both have a real decision. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio,
      num_valid`, as `dpo`, of the pairs as they are. It couples rows: `accumulate_gradients` refuses it.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Differs from the paper: the logistic loss alone, of the losses that it proposes; sorting is exact, not smoothed.

    Source: Melnyk et al. 2024, "Distributional preference alignment of LLMs via optimal transport".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(aot()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    0.693147
    """
    check_range("aot", Nonnegative, beta=beta)

    @couples_rows
    def aot(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_pairs("aot", batch)
        chosen, rejected = summed_log_prob("aot", read_log_prob("aot", outputs, batch), batch)
        ref_chosen, ref_rejected = summed_log_prob("aot", read("aot", batch, "ref_log_prob"), batch)
        loss = _dominance(chosen - rejected, ref_chosen - ref_rejected, complete_pairs(batch), beta)
        return loss, pair_metrics(chosen - ref_chosen, rejected - ref_rejected, beta, batch, over_pairs(batch))

    return aot


def aot_unpaired(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Alignment via Optimal Transport, for chosen and rejected rows that do not belong to one another.

        L(θ) = -E_k[ log σ(β (c_(k) - r_(k))) ],    c, r = Σ_t log π_θ/ref of the chosen and of the rejected rows

    Both are sorted apart: the law of the chosen scores is to dominate that of the rejected ones, whichever row is
    paired with which.

    Args:
      beta: what a nat of difference counts. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected), equally many of either.
      Reads `action, ref_log_prob, mask`. Averages over pairs whose two rows both have a real decision. Metrics:
      `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`, as `dpo`, of the pairs as they stand in the
      batch. It couples rows: `accumulate_gradients` refuses it.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Differs from the paper: as `aot`.

    Source: Melnyk et al. 2024, "Distributional preference alignment of LLMs via optimal transport".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(aot_unpaired()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    0.693147
    """
    check_range("aot_unpaired", Nonnegative, beta=beta)

    @couples_rows
    def aot_unpaired(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_pairs("aot_unpaired", batch)
        chosen, rejected = score("aot_unpaired", read_log_prob("aot_unpaired", outputs, batch), batch)
        loss = _dominance(chosen, rejected, complete_pairs(batch), beta)
        return loss, pair_metrics(chosen, rejected, beta, batch, over_pairs(batch))

    return aot_unpaired
