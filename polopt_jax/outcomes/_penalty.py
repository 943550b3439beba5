"""The penalty: outcomes drawn to a known law by a term of the loss."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.combinators import couples_rows
from polopt_jax.masking import check_shape
from polopt_jax.outcomes._laws import check_reference, kl, log_law, safe_log
from polopt_jax.outcomes._rows import (
    CellsOf,
    effective_sample_size,
    has_law,
    identity,
    law_mean,
    log_weight,
    prompt_mean,
    read_cells,
)
from polopt_jax.ranges import Unit, check_entries
from polopt_jax.types import Array, Batch, Metrics, Outputs, Term


def outcome_penalty(reference: Array, *, of: CellsOf = identity) -> Term:
    """Penalty term: KL of the policy's outcome law from a known one.

        L(θ) = KL( P_θ(z) ‖ P_ref(z) ),    P_θ from the rows, self-normalised against the behaviour policy

    Its gradient charges every row log P_θ(z)/P_ref(z), so it is a price that sets itself, without memory. Where the
    reference is a policy rather than a table, `kl_to_reference(ref, ref_params, divergence=reverse(outcome_kl(K)))`
    is the same with both laws from the batch.

    Args:
      reference: P_ref, `[K]` or one per prompt `[..., K]`, positive: a cell that has no mass makes the loss infinite as
        soon as it is visited. `(counts + 0.5) / (total + 0.5 K)` of reference rollouts is a usual choice.
      of: `batch.outcome -> [..., G]` cells 0 .. K-1.

    Returns a term for whole rows `[..., G, T]`, which couples rows. Reads `action, log_prob, mask, outcome`, and
    `sampler_log_prob` instead of `log_prob` where that is present. Metrics: `ess`, the effective sample size of the
    rows as a sample of the policy. Raises ValueError if the reference is no law (where it is concrete), and ValueError
    or TypeError (at trace time) as `outcome_divergence`.

    Needs G P_ref(z) well above 1 in every cell, as it knows P_θ(z) from the G rows of one prompt: where z comes up at
    all it looks as frequent as 1/G, and is charged for that. With a reference of .1 and a policy at .05 the expected
    gradient is -.036 where P is known, -.018 from 32 rows, and +.021 from 8, the wrong way: there it does not hold the
    side effect at .1 but drives it out, as it does with a reference of .03 and 16 rows. `outcome_price`, which
    remembers, does not. Source: linear and convex functionals of outcome laws as rewards: Hazan et al. 2019.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> batch = po.Batch(obs=jnp.zeros((4, 1)), action=jnp.array([[0], [0], [1], [1]]), mask=jnp.ones((4, 1), bool),
    ...                  log_prob=jnp.log(jnp.full((4, 1), 0.5)), outcome=jnp.array([0, 0, 1, 1]))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((4, 1, 2))))
    >>> loss, metrics = outcomes.outcome_penalty(jnp.array([0.75, 0.25]))(outputs, batch)
    >>> round(float(loss), 4), float(metrics["ess"])
    (0.1438, 4.0)
    """

    check_entries("outcome_penalty", Unit, reference=reference)
    reference = jnp.asarray(reference)
    if not reference.ndim:
        raise ValueError(f"outcome_penalty: reference must be a law [K]; it is {reference}")
    check_reference("outcome_penalty", reference)

    def outcome_penalty(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        weight = log_weight("outcome_penalty", outputs, batch)
        cells = read_cells("outcome_penalty", batch, of)
        real = batch.mask.any(-1)
        law = log_law(cells, reference.shape[-1], log_weights=weight, real=real)
        if reference.ndim > 1:
            check_shape("outcome_penalty", "reference", reference, law.shape, of="the outcome laws")
        divergence = kl(law, jnp.broadcast_to(safe_log(reference), law.shape))
        loss = law_mean(jnp.where(has_law(real), divergence, 0), real)
        return loss, {"ess": prompt_mean(effective_sample_size(weight, real), real)}

    return couples_rows(outcome_penalty)
