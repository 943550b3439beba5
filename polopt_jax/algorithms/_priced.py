"""Outcomes held by a price, whatever the algorithm that learns from advantages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.algorithms._algorithm import Algorithm
from polopt_jax.outcomes import CellsOf, init_price, outcome_price, update_price
from polopt_jax.ranges import Nonnegative, Unit, check_range
from polopt_jax.training import TrainState
from polopt_jax.types import Array, Batch, Metrics, Params


def priced(
    algorithm: Algorithm,
    reference: Array,
    *,
    of: CellsOf = lambda outcome: outcome,
    integral: Nonnegative = 0.3,
    proportional: Nonnegative = 3.0,
    labelled: Unit = 1.0,
    allowed: Callable[[Array], Array] = lambda charge: charge,
) -> Algorithm:
    """The same algorithm, which also pays a price for what its attempts bring about, so that it stays as frequent.

    At every update the price follows the outcomes of the batch (`outcomes.update_price`), and is taken off the
    advantages (`outcomes.outcome_price`). For any algorithm that learns from advantages on a group task.

    Args:
      algorithm: one whose batches have `advantage` and `outcome`.
      reference: the rates to be held, `[K]`: those of the reference policy.
      of: `batch.outcome -> cells [..., G]`, 0 .. K-1.
      integral, proportional: gains of the price.
      labelled: the share of the attempts, drawn at random, whose outcome is looked at.
      allowed: which charges there may be, all if not given. `lambda c: jnp.maximum(c, 0).at[0].set(0)` minds only
        that others than cell 0 become more frequent. (`jnp.maximum(c, 0)` of all cells minds each of them that does,
        also that without the side effect, where the side effect becomes rarer.)

    The price is in the collect state, so that checkpoints have it. Metric: `price`, the largest charge in absolute
    value. Raises ValueError if `reference` is no vector or a number is out of its range; at trace time as
    `outcomes.outcome_price`.

    >>> from polopt_jax import algorithms
    >>> one_sided = lambda charge: jnp.maximum(charge, 0).at[0].set(0)
    >>> build = lambda group, law: algorithms.priced(algorithms.grpo(group), law, of=lambda outcome: outcome["vase"],
    ...                                              labelled=0.25, allowed=one_sided)
    """
    check_range("priced", Unit, labelled=labelled)
    check_range("priced", Nonnegative, integral=integral, proportional=proportional)
    reference = jnp.asarray(reference)
    if reference.ndim != 1:
        raise ValueError(f"priced: reference must be rates [K]; it has shape {reference.shape}")

    cells = reference.shape[0]

    def init(key: Array) -> TrainState:
        state = algorithm.init(key)
        return replace(state, collect_state=(state.collect_state, init_price(cells)))

    def collect(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
        inner, price = state
        label_key, key = jax.random.split(key)
        inner, batch, metrics = algorithm.collect(params, inner, key)
        if batch.advantage is None or batch.outcome is None:
            lacks = "advantage" if batch.advantage is None else "outcome"
            raise ValueError(
                f"priced: the batches of the algorithm have no {lacks}; a price is for an algorithm that learns from "
                "advantages on a group task, and DPO from pairs does not"
            )
        known = jax.random.bernoulli(label_key, labelled, batch.mask.shape[:-1])
        gains = {"integral": integral, "proportional": proportional, "allowed": allowed}
        price = update_price(price, batch, reference, of=of, labelled=known, **gains)
        batch = outcome_price(batch, price.charge, of=of, labelled=known)
        return (inner, price), batch, {**metrics, "price": jnp.abs(price.charge).max()}

    def inside(read: Callable[[TrainState], Any] | None) -> Callable[[TrainState], Any] | None:
        """What is asked of the algorithm's own state, of one that holds the price as well."""
        return None if read is None else lambda state: read(replace(state, collect_state=state.collect_state[0]))

    return algorithm._replace(
        init=init, collect=collect, evaluate=inside(algorithm.evaluate), act=inside(algorithm.act)
    )
