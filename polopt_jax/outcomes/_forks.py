"""Which decision moved the outcome: the fork, where a small change of one token is a large change of what happens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from polopt_jax.fields import with_fields
from polopt_jax.masking import check_shape, masked_sum
from polopt_jax.outcomes._estimates import of_cells
from polopt_jax.outcomes._intervals import Estimate, estimate_rows
from polopt_jax.outcomes._laws import Between, kl
from polopt_jax.outcomes._rows import CellsOf, as_cells, check_number, identity, read_cells, read_rows, weights
from polopt_jax.ranges import Count, check_range
from polopt_jax.reading import read_log_prob, read_policy
from polopt_jax.types import Array, Batch, Model, Params, record

BLOCK = 32
"""Positions that are worked on at a time."""


@with_fields
@record
class ForkProfile:
    """One number per position, `[P]`; positions are time steps, unless others were named."""

    outcome: Estimate
    """D_out(old ‖ old with the new policy at this position only); every field is `[P]`."""
    action_kl: Array
    """The nats that the policy moved at this position, Σ KL(old ‖ new) over its decisions, in the mean of a row."""
    decisions: Array
    """Decisions of a row at this position, in the mean."""


def fork_profile(
    model: Model,
    old: Params,
    new: Params,
    batch: Batch,
    num_outcomes: int,
    *,
    of: CellsOf = identity,
    between: Between = kl,
    position: Array | None = None,
    num_positions: int | None = None,
) -> ForkProfile:
    """How far the outcome moves when only the decisions at one position follow the new policy, for every position.

        D_out(t) = D( P_old(o) ‖ P_t(o) ),    P_t: decisions at position t by the new policy, all others by the old

    Beside it stand the nats that each position moved. A fork has many of the first for few of the second: " skip"
    instead of " look". The profile is of single changes; it does not add up to the change of all together.

    Args:
      model, old, new, batch: as `outcome_report`. num_outcomes, of, between: as `outcome_estimate`.
      position: which position each decision is at, `[..., T]` integers: a state's number, say. Its time step, if None.
        A decision outside 0 .. P-1 is at none.
      num_positions: P. Needed with `position`.

    Reads and raises what `outcome_report` does. Costs two evaluations of the policy and P estimates; jit it.
    Source: the exchange of single tokens between two policies, arXiv 2603.22446.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 2))))
    >>> tokens = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> batch = po.Batch(obs=jnp.zeros((4, 2)), action=tokens, mask=jnp.ones((4, 2), bool),
    ...                  log_prob=jnp.log(jnp.full((4, 2), 0.5)), outcome=tokens[:, 1])     # the second token decides
    >>> profile = outcomes.fork_profile(model, jnp.zeros(2), jnp.array([0.0, 1.0]), batch, 2)
    >>> [round(float(x), 2) for x in profile.outcome.plug_in], [round(float(x), 2) for x in profile.action_kl]
    ([0.0, 0.12], [0.12, 0.12])
    """
    caller, shape = "fork_profile", batch.mask.shape
    check_number(caller, num_outcomes)
    if position is None:
        if num_positions is not None:
            raise ValueError("fork_profile needs position with num_positions")
        position, num_positions = jnp.broadcast_to(jnp.arange(shape[-1]), shape), shape[-1]
    if num_positions is None:
        raise ValueError("fork_profile needs num_positions with position")
    check_range(caller, Count, num_positions=num_positions)
    position = as_cells(caller, "position", position)
    check_shape(caller, "position", position, shape, of="batch.mask")
    old_outputs, new_outputs = model(old, batch.obs), model(new, batch.obs)
    rows = read_rows(caller, old_outputs, new_outputs, batch, read_cells(caller, batch, of))
    log_probs = [read_log_prob(caller, outputs, batch) for outputs in (old_outputs, new_outputs)]
    policies = [read_policy(caller, outputs, batch) for outputs in (old_outputs, new_outputs)]
    nats, row_weights = policies[0].kl_divergence(policies[1]), weights(rows.old, rows.real)
    some = jnp.maximum(rows.real.any(-1).sum(), 1)

    def at(p: Array) -> ForkProfile:
        here = batch.mask & (position == p)
        moved = dataclasses.replace(rows, new=rows.old + masked_sum(log_probs[1] - log_probs[0], here, axis=-1))
        expected = lambda x: jnp.sum(row_weights * masked_sum(x, here, axis=-1)) / some  # noqa: E731
        return ForkProfile(
            outcome=estimate_rows(moved, of_cells(num_outcomes, between)),
            action_kl=expected(nats),
            decisions=expected(jnp.ones_like(nats)),
        )

    return jax.lax.map(at, jnp.arange(num_positions), batch_size=min(BLOCK, num_positions))
