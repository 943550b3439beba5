"""The recipes of language models: DPO on preferences of a reference, GRPO on groups of attempts."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax import objectives
from polopt_jax.advantages import group_relative
from polopt_jax.algorithms._algorithm import Algorithm, adam, assemble
from polopt_jax.combinators import objective
from polopt_jax.divergences import action_kl
from polopt_jax.preferences import PreferenceData, draw_preferences, preference_batch
from polopt_jax.rollout import to_batch
from polopt_jax.surrogates import ClipRange
from polopt_jax.tasks import TokenTask
from polopt_jax.training import TrainState, epochs, init_state, make_step, monitored
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Params, Rollout


def dpo(
    tokens: TokenTask,
    *,
    learning_rate: ArrayLike = 1e-3,
    beta: ArrayLike = 0.1,
    num_pairs: int = 1024,
    pairs_per_update: int = 64,
    max_redraws: int = 64,
    max_grad_norm: ArrayLike = 1.0,
) -> Algorithm:
    """Direct preference optimization on pairs drawn once from the reference: offline, no reward and no critic after.

    A pair is redrawn until its two rewards differ, at most `max_redraws` times; pairs that never did are masked out.
    Each update takes a random minibatch of the pairs. The rollout that is sampled beside it is there to report the
    policy's reward; the update does not see it.

    Differs from the paper: the better attempt always wins (no Bradley-Terry noise), so the loss has no finite minimum
    and training stops where the updates do. Source: Rafailov et al. 2023.
    """
    task = tokens.task
    step = make_step((objective(task.model, objectives.dpo(beta=beta)), adam(learning_rate, max_grad_norm)))
    step = monitored(step, task.model, kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        data_key, key = jax.random.split(key)
        data = draw_preferences(tokens, data_key, num_pairs=num_pairs, max_redraws=max_redraws)
        return init_state(step, tokens.reference, key, collect_state=data)

    def collect(params: Params, data: PreferenceData, key: Array) -> tuple[PreferenceData, Batch, Metrics]:
        rollout_key, pair_key = jax.random.split(key)
        _, _, metrics = task.rollout(params, (), rollout_key)
        pairs = jax.random.choice(pair_key, num_pairs, (pairs_per_update,), replace=False)
        metrics |= {"redraws": data.redraws.mean(), "usable_pairs": data.usable.mean()}
        return data, preference_batch(data, pairs), metrics

    return Algorithm(init, collect, step)


def grpo(
    tokens: TokenTask,
    *,
    learning_rate: ArrayLike = 1e-3,
    clip_eps: ClipRange = 0.2,
    beta: ArrayLike = 0.04,
    num_epochs: int = 2,
    num_minibatches: int = 4,
    max_grad_norm: ArrayLike = 1.0,
) -> Algorithm:
    """Group relative policy optimization: no critic; the advantage is the standardised reward within the group.

    The penalty's reference is the task's. Differs from the paper: nothing but the sizes. Source: Shao et al. 2024.
    """
    task, group = tokens.task, tokens.group_size
    step = make_step(
        (objective(task.model, objectives.grpo(clip_eps=clip_eps, beta=beta)), adam(learning_rate, max_grad_norm))
    )

    def estimate(params: Params, state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        del params
        reward = rollout.reward.sum(0).reshape(-1, group)
        advantage = jnp.broadcast_to(group_relative(reward).reshape(-1), rollout.reward.shape)
        batch = to_batch(rollout, advantage=advantage)
        ref_log_prob = task.model(tokens.reference, batch.obs).policy.log_prob(batch.action)
        return state, replace(batch, ref_log_prob=ref_log_prob)

    return assemble(task, epochs(step, num_epochs, num_minibatches), estimate)
