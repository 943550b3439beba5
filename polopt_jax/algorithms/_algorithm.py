"""What every recipe is put together from: a task, an estimate of the advantage, a step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

from polopt_jax.advantages import gae
from polopt_jax.combinators import objective, weighted_sum
from polopt_jax.divergences import action_kl
from polopt_jax.episodes import to_batch
from polopt_jax.guards import clip_by_global_norm
from polopt_jax.masking import standardize
from polopt_jax.objectives import surrogate, value_loss
from polopt_jax.tasks import Task
from polopt_jax.training import Collect, Step, TrainState, epochs, init_state, make_step, monitored, sequential
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Params, Rollout, Term

MONITORED_ROWS = 256
"""Rows of each batch, about, on which KL(old ‖ new) and entropy are reported."""


class Algorithm(NamedTuple):
    """What `training.train` needs, and how to see what a policy is worth."""

    init: Callable[[Array], TrainState]
    """`key -> state`"""
    collect: Collect
    step: Step
    measure: Callable[[Params, Array], Metrics] | None = None
    """`(params, key) -> metrics` of a rollout that no update uses; None where `collect` makes rollouts anyway. The
    driver asks once per chunk, with randomness of its own, so that asking changes nothing."""


Terms: TypeAlias = Mapping[str, tuple[ArrayLike, Term]]
"""Further terms of a recipe's loss, by name, each with its weight, as `weighted_sum` takes them."""

Estimate: TypeAlias = Callable[[Any, Rollout], tuple[Any, Batch]]
"""`(state, rollout) -> (state, batch)`: what an algorithm makes of a rollout."""


def assemble(
    task: Task, step: Step, estimate: Estimate, *, gamma: ArrayLike, init_estimate: Callable[[], Any] = tuple
) -> Algorithm:
    """Task + estimator + step; `gamma` is the discount that the estimator uses."""
    first_axis = task.row_shape[0]
    rows = min(first_axis, max(1, MONITORED_ROWS * first_axis // task.num_rows))
    step = monitored(step, task.model, rows=rows, kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        params_key, task_key, key = jax.random.split(key, 3)
        params = task.init_params(params_key)
        return init_state(step, params, key, collect_state=(task.init(task_key), init_estimate()))

    def collect(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
        task_state, estimate_state = state
        task_state, rollout, metrics = task.rollout(params, task_state, key, gamma)
        estimate_state, batch = estimate(estimate_state, rollout)
        if task.outcome is not None:
            batch = replace(batch, outcome=task.outcome(rollout))
        return (task_state, estimate_state), batch, metrics

    return Algorithm(init, collect, step)


def standardized_batch(rollout: Rollout, advantage: Array, target: Array) -> Batch:
    """The rollout as a batch whose advantages have mean 0 and standard deviation 1, over the whole batch."""
    batch = to_batch(rollout, advantage=advantage, target=target)
    return replace(batch, advantage=standardize(advantage_of(batch), batch.mask))


def advantage_of(batch: Batch) -> Array:
    """`batch.advantage`, which must be there."""
    if batch.advantage is None:
        raise ValueError("the batch has no advantage")
    return batch.advantage


def gae_estimate(gamma: ArrayLike, lambda_: ArrayLike) -> Estimate:
    """Advantages and targets by GAE, the advantages standardised; needs a critic."""

    def estimate(state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        advantage, target = gae(rollout, gamma=gamma, lambda_=lambda_)
        return state, standardized_batch(rollout, advantage, target)

    return estimate


def with_terms(term: Term, terms: Terms | None) -> Term:
    """A recipe's own term and further ones beside it, whose metrics come under their names."""
    if not terms:
        return term
    more = weighted_sum(**terms)

    def extended(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        loss, metrics = term(outputs, batch)
        further, their_metrics = more(outputs, batch)
        return loss + further, {**metrics, **their_metrics}

    return extended


def adam(learning_rate: ArrayLike, max_grad_norm: ArrayLike) -> optax.GradientTransformation:
    """Global-norm clip, then Adam with ε = 1e-5, as PPO's code has it."""
    return optax.chain(clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))


def policy_then_critic(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    terms: Terms | None,
    value_learning_rate: ArrayLike,
    value_epochs: int,
    value_minibatches: int,
) -> Step:
    """A natural-gradient phase on the surrogate, then passes of Adam on the critic alone."""
    policy = make_step((objective(task.model, with_terms(surrogate(), terms)), optimizer))
    critic = make_step((objective(task.model, value_loss()), optax.adam(value_learning_rate)))
    return sequential(policy=policy, critic=epochs(critic, value_epochs, value_minibatches))
