"""REINFORCE's baselines: none, static, batch mean, running mean, learned.

A baseline must not depend on the action it is subtracted for; then it changes the variance of the gradient and not
its expectation. (A batch mean includes the decision itself, which shortens the expected gradient by 1/B.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from polopt_jax.masking import masked_mean
from polopt_jax.objectives import value_loss
from polopt_jax.types import Array, ArrayLike, Rollout, Term


class Baseline(NamedTuple):
    """A pure baseline with a state, and the terms of the loss that it is itself trained by."""

    init: Callable[[], Any]
    """`() -> state`"""
    apply: Callable[[Any, Array, Rollout], tuple[Any, Array]]
    """`(state, returns [T, ...], rollout) -> (state, baseline [T, ...])`"""
    terms: dict[str, tuple[ArrayLike, Term]]
    """`{name: (weight, term)}`, empty unless the baseline is learned."""
    least_rows: int = 1
    """Rows that it needs: a mean of one row is the row itself, and nothing is left to learn from."""


def _stateless(apply: Callable[[Array, Rollout], Array]) -> Baseline:
    return Baseline(lambda: (), lambda state, returns, rollout: (state, apply(returns, rollout)), {})


def static_baseline(value: ArrayLike = 0.0) -> Baseline:
    """A constant. Zero is no baseline at all, REINFORCE at its plainest.

    >>> static_baseline(1.5).apply((), jnp.zeros((2, 3)), None)[1].tolist()
    [[1.5, 1.5, 1.5], [1.5, 1.5, 1.5]]
    """
    return _stateless(lambda returns, rollout: jnp.full_like(returns, value))


def batch_mean_baseline() -> Baseline:
    """Mean over rows of the returns at the same step of the window, the same for every row.

    Returns that are not finite, of rows that nobody could score, are left out. Needs two rows.
    """

    def apply(returns: Array, rollout: Rollout) -> Array:
        rows = tuple(range(1, returns.ndim))
        mean = masked_mean(returns, rollout.mask & jnp.isfinite(returns), axis=rows)
        return jnp.broadcast_to(jnp.expand_dims(mean, rows), returns.shape)

    return _stateless(apply)._replace(least_rows=2)


def running_mean_baseline(decay: ArrayLike = 0.9) -> Baseline:
    """Exponential moving average, over updates, of the mean return of *earlier* batches (0 before the first).

    Returns that are not finite are left out, and so is a batch that has no other.
    """

    def apply(state: tuple[Array, Array], returns: Array, rollout: Rollout) -> tuple[tuple[Array, Array], Array]:
        average, weight = state
        baseline = jnp.full_like(returns, 1) * (average / jnp.maximum(weight, 1e-8))
        known = rollout.mask & jnp.isfinite(returns)
        share = jnp.where(known.any(), 1 - decay, 0)
        average = average + share * (masked_mean(returns, known) - average)
        return (average, weight + share * (1 - weight)), baseline

    return Baseline(lambda: (jnp.zeros(()), jnp.zeros(())), apply, {})


def learned_baseline(weight: ArrayLike = 0.5) -> Baseline:
    """The critic's value of the state, trained on the returns beside the policy (weight of its loss)."""

    def apply(returns: Array, rollout: Rollout) -> Array:
        if rollout.value is None:
            raise ValueError("the learned baseline needs a model with a critic; rollout.value is None")
        return rollout.value

    return _stateless(apply)._replace(terms={"value": (weight, value_loss())})
