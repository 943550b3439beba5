"""Direct preference optimization, on preferences of a reference."""

from __future__ import annotations

from functools import partial

import jax
import optax

from polopt_jax import objectives
from polopt_jax.algorithms._algorithm import Algorithm, Terms, adam, with_terms
from polopt_jax.combinators import objective
from polopt_jax.divergences import action_kl
from polopt_jax.ranges import Count, Nonnegative, Positive, Rate, check_annotated
from polopt_jax.rows import take_rows
from polopt_jax.steps import make_step, monitored
from polopt_jax.tasks import GroupTask, Preferences, draw_preferences
from polopt_jax.tasks._groups import check_group
from polopt_jax.training import TrainState, init_state
from polopt_jax.types import Array, Batch, Metrics, Params


def dpo(
    group: GroupTask,
    *,
    learning_rate: Rate = 1e-3,
    beta: Nonnegative = 0.1,
    num_pairs: Count = 1024,
    max_redraws: Count = 64,
    max_grad_norm: Positive = 1.0,
    terms: Terms | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Algorithm:
    """Direct preference optimization on pairs drawn once from the reference: offline, no reward and no critic after.

    A pair is redrawn until its two rewards differ; pairs that never did are masked out. Each update takes as many rows
    as a rollout of the task has, half as many pairs, drawn without replacement. The policy's reward is measured on
    rollouts of the task that no update sees (`Algorithm.measure`).

    Args:
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      beta: strength of the implicit KL to the reference.
      num_pairs: preference pairs, drawn once.
      max_redraws: most draws of a pair until its rewards differ.
      max_grad_norm: norm to which the gradient is clipped.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.

    Raises ValueError if the task has an odd number of rows, or more pairs of rows than there are preference pairs.

    Differs from the paper: the better attempt always wins (no Bradley-Terry noise), so the loss has no finite minimum
    and training stops where the updates do. Source: Rafailov et al. 2023.
    """
    check_annotated(dpo, locals())
    check_group("dpo", group)
    task = group.task
    pairs_per_update, odd = divmod(task.num_rows, 2)
    if odd or pairs_per_update > num_pairs:
        raise ValueError(
            f"dpo: an update takes pairs of the task's {task.num_rows} rows, which must be even in number and no more "
            f"than num_pairs = {num_pairs} pairs"
        )
    term = with_terms(objectives.dpo(beta=beta), terms)
    optimizer = optimizer or adam(learning_rate, max_grad_norm)
    step = make_step((objective(task.model, term), optimizer))
    step = monitored(step, task.model, kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        data_key, key = jax.random.split(key)
        data = draw_preferences(group, data_key, num_pairs=num_pairs, max_redraws=max_redraws)
        return init_state(step, group.reference, key, collect_state=data)

    def collect(params: Params, data: Preferences, key: Array) -> tuple[Preferences, Batch, Metrics]:
        del params
        pairs = jax.random.choice(key, num_pairs, (pairs_per_update,), replace=False)
        usable = data.batch.mask.any((0, 2)).mean()
        return data, take_rows(data.batch, pairs, axis=1), {"redraws": data.redraws.mean(), "usable_pairs": usable}

    def measure(params: Params, key: Array) -> Metrics:
        return task.rollout(params, (), key, 1.0)[2]

    return Algorithm(init, collect, step, measure, act=lambda state: partial(task.model, state.params))
