"""Holding an outcome by a price: what a side effect is charged, and how the charge follows from a few labels.

Two pure functions. `outcome_price` takes the price off the advantages of a batch, so that it composes with every
objective; `update_price` moves the price until the side effect is as frequent as it was. The price is a state: it
remembers, which a trust region step by step does not. The update is proportional as well as integral: the integral
alone, plain dual ascent, swings about the rate it should hold for as long as one cares to look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_takes
from polopt_jax.fields import with_fields
from polopt_jax.masking import check_shape, zero_where_masked
from polopt_jax.outcomes._laws import check_reference
from polopt_jax.outcomes._rows import CellsOf, check_attempts, identity, in_cell, in_none, labelled_rows, read_cells
from polopt_jax.ranges import Nonnegative, check_entries, check_range
from polopt_jax.types import Array, Batch, record


@with_fields
@record
class Price:
    """What outcomes are charged, and what is remembered of how frequent they were."""

    charge: Array
    """What `outcome_price` takes off the advantages, `[K]` or `[..., K]`."""
    integral: Array
    """The dual variable of the constraint P(z) = P_ref(z), of the same shape."""


def init_price(*shape: int) -> Price:
    """A price of nothing: `init_price(K)`, or `init_price(N, K)` for one price per prompt.

    >>> from polopt_jax import outcomes
    >>> outcomes.init_price(2).charge.tolist()
    [0.0, 0.0]
    """
    return Price(charge=jnp.zeros(shape), integral=jnp.zeros(shape))


def outcome_price(batch: Batch, price: Array, *, of: CellsOf = identity, labelled: Array | None = None) -> Batch:
    """The batch with the price of its row's outcome taken off every advantage.

        A ← A - 1[labelled] (c[z] - c̄) (G - 1)/(n - 1),    c̄: mean price of the prompt's n labelled rows, of G in all

    Taken after any standardisation of the advantages, whose unit the price then has. The mean price of the prompt is
    added back, so that what every attempt costs alike changes nothing. Labels on n >= 2 random rows of each prompt are
    enough: the factor keeps the expected charge of every row. A single label has nothing to be compared with, and
    charges nothing.

    Args:
      batch: whole rows `[..., G, T]`.
      price: c `[K]`, or `[..., K]` with a price for each prompt: `Price.charge`, or numbers of one's own.
      of: `batch.outcome -> [..., G]` cells 0 .. K-1.
      labelled: `[..., G]` bool: rows whose outcome is known; all if None. The outcome of the others is not read.

    Reads `advantage, mask, outcome`. Raises ValueError or TypeError (at trace time) if one is missing or does not fit,
    and ValueError if each prompt has one row alone, which nothing could be charged against.
    A labelled row in no cell makes the advantages of all its prompt's labelled rows NaN. Source: the Lagrangian of a
    constraint on the outcome's rate; constrained policy optimization (Achiam et al. 2017) bounds one side of it.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> batch = po.Batch(obs=jnp.zeros((2, 1)), action=jnp.zeros((2, 1), int), mask=jnp.ones((2, 1), bool),
    ...                  advantage=jnp.array([[1.0], [1.0]]), outcome=jnp.array([0, 1]))
    >>> outcomes.outcome_price(batch, jnp.array([0.0, 0.6])).advantage.round(2).tolist()
    [[1.2999999523162842], [0.699999988079071]]
    """
    if batch.advantage is None:
        raise ValueError("outcome_price needs batch.advantage, which is None")
    cells = read_cells("outcome_price", batch, of)
    check_shape("outcome_price", "batch.advantage", batch.advantage, batch.mask.shape, of="batch.mask")
    check_attempts("outcome_price", batch.mask)
    known = labelled_rows("outcome_price", batch.mask.any(-1), labelled)
    charge = jnp.where(known, _price_of(jnp.asarray(price), cells), 0)
    number = known.sum(-1, keepdims=True)
    mean = charge.sum(-1, keepdims=True) / jnp.maximum(number, 1)
    others = jnp.maximum(batch.mask.any(-1).sum(-1, keepdims=True) - 1, 1)
    centred = jnp.where(known, (charge - mean) * others / jnp.maximum(number - 1, 1), 0)
    priced = zero_where_masked(batch.advantage, batch.mask) - jnp.where(batch.mask, centred[..., None], 0)
    return replace(batch, advantage=jax.lax.stop_gradient(priced))


def update_price(
    price: Price,
    batch: Batch,
    reference: Array,
    *,
    integral: Nonnegative = 0.3,
    proportional: Nonnegative = 3.0,
    of: CellsOf = identity,
    labelled: Array | None = None,
    allowed: Callable[[Array], Array] = lambda charge: charge,
) -> Price:
    """The price after a look at the outcomes of a batch: it rises where they are too frequent.

        m ← Π(m + integral · e),    c = Π(m + proportional · e),    e_k = P_batch(z=k) - P_ref(z=k)

    The integral is ascent on the dual of the constraint P(z) = P_ref(z), and the proportional part damps it. It holds
    the rates of *all* cells, also the bad ones that the reference has. A bound on one side of one cell,
    P(z=1) <= P_ref(z=1), is a projection Π of what may be charged on that cell alone:

        allowed=lambda charge: jnp.maximum(charge, 0).at[..., 0].set(0)

    Projected is the integral too: of the charge alone it would first have to take back what it gathered while there was
    nothing to charge. Without a labelled row the price stays.

    Args:
      price: from `init_price`, or the last update.
      batch, of, labelled: as `outcome_price`; the batch must be sampled by the policy that is priced.
      reference: P_ref `[K]`, or of the price's shape.
      integral, proportional: gains, in units of the advantage per unit of probability. The defaults suit standardised
        advantages; the integral alone (proportional = 0) does not settle.
      allowed: Π, of charges `[K]` or `[..., K]` to others; all are allowed if not given.

    Reads `mask, outcome`. Raises as `outcome_price`, and ValueError if the reference is no law (where it is concrete):
    counts, say. Source: PI control of Lagrange multipliers, Stooke et al. 2020.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> batch = po.Batch(obs=jnp.zeros((4, 1)), action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool),
    ...                  outcome=jnp.array([0, 1, 1, 1]))
    >>> price = outcomes.update_price(outcomes.init_price(2), batch, jnp.array([0.95, 0.05]))
    >>> [round(float(c), 2) for c in price.charge], [round(float(m), 2) for m in price.integral]
    ([-2.31, 2.31], [-0.21, 0.21])
    """
    check_range("update_price", Nonnegative, integral=integral, proportional=proportional)
    check_takes("update_price", "allowed", allowed, "charge")
    cells = read_cells("update_price", batch, of)
    known = labelled_rows("update_price", batch.mask.any(-1), labelled)
    _check_price("update_price", price.integral, cells)
    reference = jnp.asarray(reference)
    if reference.shape not in (price.integral.shape, price.integral.shape[-1:]):
        wanted = price.integral.shape[-1:]
        raise ValueError(f"update_price: reference must have shape {wanted}, or the price's; it has {reference.shape}")
    check_entries("update_price", Nonnegative, reference=reference)
    check_reference("update_price", reference)
    hit = in_cell(cells, price.integral.shape[-1], known)
    rows = tuple(range(known.ndim)) if price.integral.ndim == 1 else (known.ndim - 1,)
    number = known.sum(rows)[..., None]
    lost = in_none(cells, price.integral.shape[-1], known).any()
    excess = jnp.where(lost, jnp.nan, hit.sum(rows) / jnp.maximum(number, 1) - reference)

    def projected(charge: Array) -> Array:
        found = jnp.asarray(allowed(charge))
        check_shape("update_price", "allowed(charge)", found, charge.shape, of="the charge")
        return found.astype(charge.dtype)

    memory = projected(price.integral + integral * excess)
    moved = Price(charge=projected(memory + proportional * excess), integral=memory)
    return jax.tree.map(lambda new, old: jnp.where(number > 0, new, old), moved, price)


def _check_price(caller: str, price: Array, cells: Array) -> None:
    if price.ndim < 1 or price.shape[:-1] not in ((), cells.shape[:-1]):
        raise ValueError(f"{caller}: price must have shape [K] or {(*cells.shape[:-1], 'K')}; it has {price.shape}")


def _price_of(price: Array, cells: Array) -> Array:
    """The price of every row's cell, `[..., G]`; NaN for a row in no cell."""
    _check_price("outcome_price", price, cells)
    inside = (cells >= 0) & (cells < price.shape[-1])
    index = jnp.where(inside, cells, 0)
    chosen = price[index] if price.ndim == 1 else jnp.take_along_axis(price, index, axis=-1)
    return jnp.where(inside, chosen, jnp.nan)
