"""What every recipe is put together from: a task, an estimate of the advantage, a step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

from polopt_jax import solvers
from polopt_jax.advantages import gae
from polopt_jax.divergences import action_kl
from polopt_jax.masking import standardize
from polopt_jax.rollout import to_batch
from polopt_jax.tasks import Task
from polopt_jax.training import Collect, Step, TrainState, init_state, monitored
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Params, Rollout

MONITORED_ROWS = 256
"""Rows of each batch on which KL(old ‖ new) and entropy are reported."""


class Algorithm(NamedTuple):
    """What `training.train` needs."""

    init: Callable[[Array], TrainState]
    """`key -> state`"""
    collect: Collect
    step: Step


Estimate: TypeAlias = Callable[[Params, Any, Rollout], tuple[Any, Batch]]
"""`(params, state, rollout) -> (state, batch)`: what an algorithm makes of a rollout."""


def assemble(task: Task, step: Step, estimate: Estimate, init_estimate: Callable[[], Any] = tuple) -> Algorithm:
    """Task + estimator + step. `estimate(params, state, rollout) -> (state, batch)`."""
    step = monitored(step, task.model, rows=min(MONITORED_ROWS, task.num_rows), kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        params_key, task_key, key = jax.random.split(key, 3)
        params = task.init_params(params_key)
        return init_state(step, params, key, collect_state=(task.init(task_key), init_estimate()))

    def collect(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
        task_state, estimate_state = state
        task_state, rollout, metrics = task.rollout(params, task_state, key)
        estimate_state, batch = estimate(params, estimate_state, rollout)
        return (task_state, estimate_state), batch, metrics

    return Algorithm(init, collect, step)


def standardized_batch(rollout: Rollout, advantage: Array, target: Array) -> Batch:
    """The rollout as a batch whose advantages have mean 0 and standard deviation 1, over the whole batch."""
    batch = to_batch(rollout, advantage=advantage, target=target)
    return replace(batch, advantage=standardize(advantage.T, batch.mask))


def gae_estimate(gamma: ArrayLike, lambda_: ArrayLike) -> Estimate:
    """Advantages and targets by GAE, the advantages standardised; needs a critic."""

    def estimate(params: Params, state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        del params
        if rollout.value is None or rollout.next_value is None:
            raise ValueError("this algorithm needs a model with a critic; the rollout has no values")
        advantage, target = gae(
            rollout.reward,
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=gamma,
            lambda_=lambda_,
        )
        return state, standardized_batch(rollout, advantage, target)

    return estimate


def adam(learning_rate: ArrayLike, max_grad_norm: ArrayLike) -> optax.GradientTransformation:
    """Global-norm clip, then Adam with ε = 1e-5, as PPO's code has it."""
    return optax.chain(solvers.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))
