"""What every way to learn from texts has in common: a start that is also the reference, a step, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from polopt_jax.combinators import objective
from polopt_jax.divergences import action_kl
from polopt_jax.fields import with_fields
from polopt_jax.language import TokenNetwork
from polopt_jax.minibatches import epochs as repeated
from polopt_jax.steps import make_step, monitored
from polopt_jax.training import TrainState, init_state
from polopt_jax.types import Array, Batch, Metrics, Params, Term

REFERENCE = "reference"
"""Where the parameters of the reference stand in `TrainState.collect_state`."""
MONITORED = 4
"""Examples of an update, about, on which KL(old ‖ new) and entropy are reported: of all of them it would cost two
evaluations of the model more, where a step costs three or four."""


@with_fields
class Learning(NamedTuple):
    """Who learns, from where on, and how much at a time."""

    network: TokenNetwork
    start: Params | None
    """Where training starts, which is also the reference; None for a network that knows nothing."""
    rows: int
    """Examples of an update: rows, pairs or prompts."""
    seeds: tuple[int, ...]
    """The seeds that are trained side by side. Each has an order of the examples of its own."""


@with_fields
class Optimization(NamedTuple):
    """How an update steps."""

    optimizer: optax.GradientTransformation
    epochs: int = 1
    """Passes over the examples of an update."""
    minibatches: int = 1
    """Shares of them in each pass."""


Complete = Callable[[Params, Params, Any], Batch]
"""`(params, reference, given) -> batch`: what is learnt from, of what the host gives."""


def initialised(learning: Learning, term: Term, how: Optimization) -> Callable[[Array], TrainState]:
    """`key -> state`: fresh optimizer state, parameters at the start, and the same ones as reference."""
    step = _step(learning, term, how, axis=0)  # whose state knows no axis

    def init(key: Array) -> TrainState:
        params_key, key = jax.random.split(key)
        params = learning.network.init(params_key) if learning.start is None else learning.start
        return init_state(step, params, key, collect_state={REFERENCE: params})

    return init


def learner(
    learning: Learning, term: Term, how: Optimization, complete: Complete, *, axis: int = 0
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """`(state, given) -> (state, metrics)`, of one seed; examples are along `axis` of the batch."""
    step = _step(learning, term, how, axis=axis)

    def learn(state: TrainState, given: Any) -> tuple[TrainState, Metrics]:
        _, step_key, key = jax.random.split(state.key, 3)
        batch = complete(state.params, state.collect_state[REFERENCE], given)
        params, opt_state, metrics = step.update(state.params, state.opt_state, batch, step_key)
        return replace(state, params=params, opt_state=opt_state, key=key, update=state.update + 1), metrics

    return learn


def sampling_keys(state: TrainState) -> Array:
    """The keys `[seeds]` with which the next update may sample; `learn` uses none of them."""
    return jax.vmap(lambda key: jax.random.split(key, 3)[0])(state.key)


def _step(learning: Learning, term: Term, how: Optimization, *, axis: int) -> Any:
    step = make_step((objective(learning.network.apply, term), how.optimizer))
    if (how.epochs, how.minibatches) != (1, 1):
        step = repeated(step, how.epochs, how.minibatches, axis=axis)
    return monitored(step, learning.network.apply, rows=MONITORED, axis=axis, kl_old_new=action_kl)


def of_seeds(parts: list[Any]) -> Any:
    """A tree for each seed as one, leaves `[seeds, ...]`."""
    return jax.tree.map(lambda *xs: np.stack(xs), *parts)
