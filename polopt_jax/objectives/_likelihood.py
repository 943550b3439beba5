"""Supervised learning as a term: the likelihood of what was done, of all rows or of the chosen ones alone."""

from __future__ import annotations

from polopt_jax.reading import read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def negative_log_likelihood(*, reduce: Reduction = token_mean) -> Term:
    """Supervised fine-tuning, or behaviour cloning: raise the log-probability of what was done.

        L(θ) = -E[ log π_θ(a|s) ]

    Args:
      reduce: how decisions become one number; the default counts every decision the same, `sequence_sum` is the
        log-likelihood of whole rows.

    Returns:
      A term. Reads `action, mask`, each of leading shape [...]. Metrics: `num_valid`. Over the chosen rows of pairs
      it is `on_chosen(negative_log_likelihood())`.

    Raises (at trace time): ValueError if a field is missing or has another shape.

    Source: Pomerleau 1988 (behaviour cloning); it is REINFORCE with an advantage of one everywhere.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3)), action=jnp.zeros((2, 3), int), mask=jnp.ones((2, 3), bool))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 4))))
    >>> round(float(negative_log_likelihood()(outputs, batch)[0]), 4)
    1.3863
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("negative_log_likelihood", outputs, batch)
        return -reduce(log_prob, batch), {"num_valid": batch.mask.sum().astype(log_prob.dtype)}

    return term
