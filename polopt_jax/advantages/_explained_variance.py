"""How much of what a critic is to learn it knew before it learnt it."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.masking import masked_mean, zero_where_masked
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
    value, target = (read("explained_variance", batch, name) for name in ("value", "target"))
    both = jnp.stack([target, target - value])  # what there is to explain, and what is left of it: reduced together
    mask, axes = jnp.broadcast_to(batch.mask, both.shape), tuple(range(1, both.ndim))
    largest = jnp.max(both, axes, keepdims=True, where=mask, initial=-jnp.inf)
    both = both - jnp.where(jnp.isfinite(largest), largest, 0)  # a mean of equal numbers need not be that number
    both = zero_where_masked(both - masked_mean(both, mask, axis=axes).reshape(largest.shape), mask)
    whole, left = masked_mean(both**2, mask, axis=axes)
    return jnp.where(whole > 0, 1 - left / jnp.where(whole > 0, whole, 1), 0)
