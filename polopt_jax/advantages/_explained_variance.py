"""How much of what a critic is to learn it knew before it learnt it."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.masking import accumulate, masked_mean, zero_where_masked
from polopt_jax.reading import read
from polopt_jax.types import Array, Batch


def explained_variance(batch: Batch) -> Array:
    """The share of the variance of the critic's targets that its values of the same decisions account for.

        1 - Var[target - V] / Var[target]                            over the real decisions

    1 is a critic that knew every target (but for a constant), 0 one that knew no more than their mean, and below 0 one
    that knew less. The first number to look at where a policy with a critic does not learn. It is of the batch as it
    was collected, before anything was learnt from it. With λ-returns target and value share a bootstrap, which flatters
    a critic where λ is small.

    Args:
      batch: of any leading shape `[...]`. Read are `value, target, mask`.

    Returns:
      `[]`, a constant, at most 1. Exactly 0 where the targets do not vary, of which there is nothing to explain.

    Raises ValueError if a field is missing or has another shape.

    Differs from the common code: that has NaN where targets do not vary. Source: the training code of OpenAI baselines;
    in statistics the coefficient of determination of a regression, but for the mean of its error.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=None, action=None, mask=jnp.ones(4, bool), target=jnp.array([0.0, 2.0, 4.0, 6.0]),
    ...                  value=jnp.array([1.0, 2.0, 5.0, 6.0]))
    >>> round(float(explained_variance(batch)), 4)
    0.95
    """
    value, target = (accumulate(read("explained_variance", batch, name)) for name in ("value", "target"))

    def variance(x: Array) -> Array:
        first = x.ravel()[jnp.argmax(batch.mask)]  # the mean of equal numbers need not be that number, to the last bit
        x = zero_where_masked(x - first, batch.mask)
        return masked_mean(zero_where_masked(x - masked_mean(x, batch.mask), batch.mask) ** 2, batch.mask)

    all_of_it = variance(target)
    some = all_of_it > 0
    return jnp.where(some, 1 - variance(target - value) / jnp.where(some, all_of_it, 1), 0)
