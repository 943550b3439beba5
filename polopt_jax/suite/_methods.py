"""The rows of the benchmark: each objective of the library on a problem, at one setting of what is swept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

import polopt_jax as po
from polopt_jax import algorithms, outcomes
from polopt_jax.algorithms import Algorithm
from polopt_jax.frontiers import SampledProblem, bits, rates
from polopt_jax.types import Array, ArrayLike, Batch, Params, Rollout, Term


class Row(NamedTuple):
    """A method with its sweep."""

    name: str
    setting: str
    """What is swept."""
    values: tuple[float, ...]
    build: Callable[[SampledProblem, ArrayLike], Algorithm]
    labels: bool = False
    """Whether it looks at the side effect while it learns."""


def _success(outcome: dict[str, Array]) -> Array:
    return outcome["success"]


def _side_effect(outcome: dict[str, Array]) -> Array:
    return outcome["side_effect"]


def _imitation(problem: SampledProblem, learning_rate: ArrayLike) -> Algorithm:
    """Supervised on what the *reference* does where it succeeds."""
    task = problem.group.task

    def from_reference(params: Params, state: Any, key: Array, gamma: ArrayLike) -> Any:
        return task.rollout(problem.group.reference, state, key, gamma)

    def estimate(rollout: Rollout) -> Batch:
        kept = problem.outcome(rollout)["success"]
        return po.to_batch(rollout, advantage=jnp.broadcast_to(kept, rollout.reward.shape).astype(jnp.float32))

    step = po.make_step((po.objective(task.model, po.reinforce()), algorithms.adam(learning_rate, 1.0)))
    return algorithms.assemble(task._replace(rollout=from_reference), step, estimate, gamma=1.0)


def _grpo(problem: SampledProblem, learning_rate: ArrayLike, **options: Any) -> Algorithm:
    return algorithms.grpo(problem.group, learning_rate=learning_rate, num_minibatches=1, **options)


def _trpo(problem: SampledProblem, radius: ArrayLike, **options: Any) -> Algorithm:
    return algorithms.trpo(problem.group.task, radius=radius, gamma=1.0, value_minibatches=1, **options)


def _region(held: Callable[[int], po.Divergence]) -> Callable[[SampledProblem, ArrayLike], Algorithm]:
    """The outcome trust region by the weight of what is held, in nats of a whole attempt.

    Advantages are those of whole attempts, λ = 1: with less the gradient has a part that is no outcome's score, which
    the region lets pass (`docs/findings-sampled.md`).
    """

    def build(problem: SampledProblem, weight: ArrayLike) -> Algorithm:
        kept = held(problem.reference.shape[-1])
        divergence = po.weighted_divergence(path=(1.0, po.trajectory_kl), outcome=(weight, kept))
        return _trpo(problem, 0.1, divergence=divergence, lambda_=1.0)

    return build


def _joint(num: int) -> po.Divergence:
    return outcomes.outcome_kl(2 * num, of=lambda outcome: num * outcome["success"] + outcome["side_effect"])


def _bounded(problem: SampledProblem, radius: ArrayLike) -> Algorithm:
    """CPO: TRPO by its radius, no side effect more frequent than the reference has it."""

    def rate(bit: int) -> Term:
        return outcomes.outcome_mean(of=lambda outcome: outcome["side_effect"] // bit % 2)

    terms = map(rate, bits(problem.reference.shape[-1]))
    return _trpo(problem, radius, costs=list(zip(terms, rates(problem.reference), strict=True)))


def _too_frequent(charge: Array) -> Array:
    """Of the charges `[Z]` those on side effects that come up too often; without any, cell 0, costs nothing."""
    return jnp.maximum(charge, 0).at[0].set(0)


def _price(allowed: Callable[[Array], Array]) -> Callable[[SampledProblem, ArrayLike], Algorithm]:
    """The price over PPO by its gain: integral `gain`, proportional ten times as much."""

    def build(problem: SampledProblem, gain: ArrayLike) -> Algorithm:
        learner = algorithms.ppo(problem.group.task, learning_rate=0.03, gamma=1.0, num_minibatches=1)
        wanted = problem.reference.sum(0)
        return algorithms.priced(
            learner, wanted, of=_side_effect, integral=gain, proportional=10 * jnp.asarray(gain), allowed=allowed
        )

    return build


def _penalty(problem: SampledProblem, weight: ArrayLike) -> Algorithm:
    reference = jnp.maximum(problem.reference.sum(0), 1e-4)
    term = outcomes.outcome_penalty(reference / reference.sum(), of=_side_effect)
    return _grpo(problem, 0.1, beta=0.0, terms={"outcome": (weight, term)})


_RATES = (0.03, 0.1, 0.3)
METHODS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row(
            "reinforce",
            "learning rate",
            _RATES,
            lambda p, x: algorithms.reinforce(p.group.task, learning_rate=x, gamma=1.0),
        ),
        Row(
            "actor-critic",
            "learning rate",
            _RATES,
            lambda p, x: algorithms.actor_critic(p.group.task, learning_rate=x, gamma=1.0),
        ),
        Row(
            "npg",
            "learning rate",
            (0.1, 0.3, 1.0),
            lambda p, x: algorithms.npg(p.group.task, learning_rate=x, gamma=1.0, value_minibatches=1),
        ),
        Row("trpo", "radius", (0.003, 0.01, 0.03), _trpo),
        Row(
            "ppo",
            "learning rate",
            (0.01, 0.03, 0.1),
            lambda p, x: algorithms.ppo(p.group.task, learning_rate=x, gamma=1.0, num_minibatches=1),
        ),
        Row(
            "dpo",
            "learning rate",
            (0.01, 0.03, 0.1),
            lambda p, x: algorithms.dpo(p.group, learning_rate=x, num_pairs=1024),
        ),
        Row("grpo", "learning rate", _RATES, lambda p, x: _grpo(p, x, beta=0.0)),
        Row("grpo-kl", "beta", (0.04, 0.2, 1.0), lambda p, x: _grpo(p, 0.1, beta=x)),
        Row("imitation", "learning rate", _RATES, _imitation),
        Row(
            "region", "weight", (10.0, 100.0, 1000.0), _region(lambda z: outcomes.outcome_kl(z, of=_side_effect)), True
        ),
        Row("region-joint", "weight", (10.0, 100.0, 1000.0), _region(_joint), True),
        Row(
            "region-conditional",
            "weight",
            (10.0, 100.0, 1000.0),
            _region(lambda z: outcomes.conditional_outcome_kl(z, 2, of=_side_effect, given=_success)),
            True,
        ),
        Row("bounded", "radius", (0.003, 0.01, 0.03), _bounded, True),
        Row("penalty", "weight", (0.3, 1.0, 3.0), _penalty, True),
        Row("price", "gain", (0.03, 0.1, 0.3), _price(lambda charge: charge), True),
        Row("price-one-sided", "gain", (0.03, 0.1, 0.3), _price(_too_frequent), True),
    )
}
"""Every method, in the order of the history, then what holds outcomes."""


def middle(row: Row) -> Row:
    """The same row at the middle of its sweep alone."""
    return row._replace(values=(row.values[len(row.values) // 2],))
