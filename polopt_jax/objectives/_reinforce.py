"""Chapter 1: REINFORCE. Raise the log-probability of what was better than a baseline."""

from __future__ import annotations

from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def reinforce(*, reduce: Reduction = token_mean) -> Term:
    """REINFORCE: the score-function policy gradient.

        L(θ) = -E[ log π_θ(a|s) A ],        ∇L = -∇J when A is the return minus a baseline b(s)

    The baseline is the estimator's affair, not the term's: put the return, the return minus a mean, a running mean
    or a learned value into `batch.advantage`.

    Args:
      reduce: how decisions become one number; `sequence_sum` gives the gradient of the return of a whole episode,
        the default its mean per decision.

    Returns:
      A term. Reads `action, advantage, mask`, each of leading shape [...]. Metrics: `num_valid`.

    Raises (at trace time): ValueError if a field is missing or has another shape.

    Differs from the paper: Williams' return is that of the whole episode; the factor γ^t of the discounted
    objective is dropped, as everywhere in practice. The *value* of this loss means nothing; only its gradient does.

    Source: Williams 1992; Sutton et al. 2000 (policy gradient theorem).

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 1)), action=jnp.array([[0], [1]]), mask=jnp.ones((2, 1), bool),
    ...                  advantage=jnp.ones((2, 1)))
    >>> loss, metrics = reinforce()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 1, 4)))), batch)
    >>> round(float(loss), 4)
    1.3863
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("reinforce", outputs, batch)
        advantage = read("reinforce", batch, "advantage")
        return -reduce(log_prob * advantage, batch), {"num_valid": batch.mask.sum().astype(log_prob.dtype)}

    return term
