"""Counts, and the ways in which a loss becomes one number.

A reduction is a function `reduce(x, batch) -> scalar` of per-decision values `x` `[..., T]`. All divide by
`batch.counts` where it is present and else by the counts of `batch.mask`; a sum over an empty mask is exactly 0.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from polopt_jax.masking import check_shape, masked_mean, masked_sum
from polopt_jax.ranges import Positive, check_range
from polopt_jax.reading import check_mask
from polopt_jax.rows import split_rows
from polopt_jax.types import Array, ArrayLike, Batch, Counts, Reduction


def count(mask: Array) -> Counts:
    """The denominators of a mask `[..., T]`: real decisions, rows that have one, preference pairs that have two."""
    rows = mask.any(-1)
    paired = rows.ndim >= 2 and rows.shape[0] == 2
    pairs = rows.all(0) if paired else jnp.zeros((), bool)
    chosen = mask[0] & pairs[..., None] if paired else pairs
    number = lambda flags: jnp.sum(flags).astype(jnp.float32)  # noqa: E731
    return Counts(decisions=number(mask), rows=number(rows), pairs=number(pairs), chosen=number(chosen))


def counts(batch: Batch) -> Counts:
    """`batch.counts`, or else those of its mask."""
    return count(batch.mask) if batch.counts is None else batch.counts


def counted_parts(batch: Batch, parts: int, *, axis: int = 0) -> Batch:
    """`rows.split_rows`, and every share divided by the counts of the whole: what is summed over shares is the whole's.

    >>> batch = Batch(obs=None, action=None, mask=jnp.array([[True, True], [True, False]]))
    >>> shares = counted_parts(batch, 2)
    >>> shares.mask.shape, shares.counts.decisions.tolist()
    ((2, 1, 2), [3.0, 3.0])
    """
    return split_rows(replace(batch, counts=counts(batch)), parts, axis=axis)


def _over(total: Array, number: Array) -> Array:
    return total / jnp.maximum(number, 1).astype(total.dtype)


def _check_reducible(caller: str, x: Array, batch: Batch) -> None:
    check_mask(caller, batch)
    check_shape(caller, "x", x, batch.mask.shape, of="batch.mask")


def token_mean(x: Array, batch: Batch) -> Array:
    """Σ x / number of real decisions: every decision counts the same. PPO's mean and DAPO's, and what TRL
    calls BNPO's, over the whole batch and no local part of it.

    Raises, as every reduction, `ValueError` if `x` has not the shape of the mask.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> x, batch = jnp.array([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), Batch(obs=None, action=None, mask=mask)
    >>> float(token_mean(x, batch))
    3.0
    """
    _check_reducible("token_mean", x, batch)
    return _over(masked_sum(x, batch.mask), counts(batch).decisions)


def sequence_mean(x: Array, batch: Batch) -> Array:
    """Mean over rows of each row's mean over its decisions: every row counts the same. GRPO's own choice.

    A row without a real decision is not counted.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> x, batch = jnp.array([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), Batch(obs=None, action=None, mask=mask)
    >>> float(sequence_mean(x, batch))
    4.0
    """
    _check_reducible("sequence_mean", x, batch)
    return _over(jnp.sum(masked_mean(x, batch.mask, axis=-1)), counts(batch).rows)


def sequence_sum(x: Array, batch: Batch) -> Array:
    """Mean over rows of each row's sum: per trajectory rather than per decision.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> x, batch = jnp.array([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), Batch(obs=None, action=None, mask=mask)
    >>> float(sequence_sum(x, batch))
    6.0
    """
    _check_reducible("sequence_sum", x, batch)
    return _over(masked_sum(x, batch.mask), counts(batch).rows)


def constant_length(length: ArrayLike) -> Reduction:
    """Reduction `sequence_sum / length`, with a length that does not depend on the data (Dr.GRPO).

    >>> batch = Batch(obs=None, action=None, mask=jnp.ones((2, 3), bool))
    >>> float(constant_length(4.0)(jnp.ones((2, 3)), batch))
    0.75
    """
    check_range("constant_length", Positive, length=length)

    def reduce(x: Array, batch: Batch) -> Array:
        return sequence_sum(x, batch) / length

    return reduce
