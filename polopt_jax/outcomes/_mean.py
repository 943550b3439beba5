"""The expected value of an outcome's feature, as a term: what to lower, or what to hold below a limit."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.combinators import couples_rows
from polopt_jax.masking import check_shape
from polopt_jax.outcomes._rows import (
    CellsOf,
    effective_sample_size,
    identity,
    log_weight,
    prompt_mean,
    read_outcome,
    weights,
)
from polopt_jax.types import Array, Batch, Metrics, Outputs, Term


def outcome_mean(*, of: CellsOf = identity) -> Term:
    """Term: the expected value of a feature of the outcome under the policy.

        L(θ) = E_θ[f(o)] ≈ Σ_g w_g f(o_g),    w_g ∝ π_θ(row g) / b(row g)

    Of a boolean feature it is the rate: of a side effect, of success. As a cost of `solvers.constrained_trpo` it is
    held below a limit; as a term of a loss it is lowered, at a fixed price. Its gradient charges every row by how far
    its feature is above the mean.

    Args:
      of: `batch.outcome -> [..., G]` numbers or booleans, one for each row: the cost of the whole episode, whether the
        vase is broken.

    Returns a term for whole rows `[..., G, T]`, which couples rows. Reads `action, log_prob, mask, outcome`, and
    `sampler_log_prob` instead of `log_prob` where that is present; expectations are per prompt, then averaged. Metrics:
    `ess`, the effective sample size of the rows as a sample of the policy. Raises ValueError or TypeError (at trace
    time) as `outcome_divergence`, but that features need not be integers.

    Biased, as a ratio of two sums is. At the behaviour policy b the value is not, and its gradient is (G-1)/G of the
    true one in the mean, as that of `group_centred`: half of it with two rows. Once the policy has moved, the value
    too is drawn to what b does, by about 1/ess: of a rate that went from .03 to .2 it has .12 with 8 rows, .15 with 16,
    .19 with 64. So a limit is passed by as much where groups are small. Source: weighted importance sampling of whole
    episodes: Precup et al. 2000.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> batch = po.Batch(obs=jnp.zeros((4, 1)), action=jnp.array([[0], [0], [1], [1]]), mask=jnp.ones((4, 1), bool),
    ...                  log_prob=jnp.log(jnp.full((4, 1), 0.5)), outcome=jnp.array([0.0, 1.0, 2.0, 4.0]))
    >>> policy = po.Categorical(logits=jnp.log(jnp.array([0.25, 0.75])) + jnp.zeros((4, 1, 2)))
    >>> loss, metrics = outcomes.outcome_mean()(po.Outputs(policy=policy), batch)
    >>> round(float(loss), 4), round(float(metrics["ess"]), 4)        # .25 · .5 + .75 · 3
    (2.375, 3.2)
    """

    def outcome_mean(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_weights = log_weight("outcome_mean", outputs, batch)
        feature = read_outcome("outcome_mean", batch, of)
        check_shape("outcome_mean", "of(batch.outcome)", feature, batch.mask.shape[:-1], of="the rows of batch.mask")
        real = batch.mask.any(-1)
        values = jnp.where(real, feature.astype(log_weights.dtype), 0)
        loss = prompt_mean((weights(log_weights, real) * values).sum(-1), real)
        return loss, {"ess": prompt_mean(effective_sample_size(log_weights, real), real)}

    return couples_rows(outcome_mean)
