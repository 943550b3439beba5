"""REINFORCE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import optax

from polopt_jax import objectives
from polopt_jax.advantages import Baseline, batch_mean_baseline, discounted_returns
from polopt_jax.algorithms._algorithm import (
    Algorithm,
    Estimate,
    RememberingEstimate,
    Terms,
    adam,
    assemble,
    standardized_batch,
    with_terms,
)
from polopt_jax.combinators import objective, weighted_sum
from polopt_jax.ranges import Nonnegative, Positive, Rate, Unit, check_annotated
from polopt_jax.steps import make_step
from polopt_jax.tasks import Task
from polopt_jax.tasks._task import check_task
from polopt_jax.types import Batch, Rollout


def reinforce(
    task: Task,
    *,
    baseline: Baseline | None = None,
    learning_rate: Rate = 3e-3,
    gamma: Unit = 0.99,
    entropy_weight: Nonnegative = 0.0,
    max_grad_norm: Positive = 0.5,
    terms: Terms | None = None,
    optimizer: optax.GradientTransformation | None = None,
    estimate: Estimate | None = None,
) -> Algorithm:
    """REINFORCE: one gradient of log π · (return - baseline) per batch.

    The return is what is seen in the rollout; nothing is bootstrapped where the window or a time limit cuts an
    episode, so T should not be much shorter than an episode or than 1/(1-γ).

    Args:
      baseline: what is subtracted from the return, of `polopt_jax.advantages`; the batch mean if None.
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      gamma: discount.
      entropy_weight: weight of the entropy bonus.
      max_grad_norm: norm to which the gradient is clipped.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.
      estimate: `rollout -> batch`, in place of the standardised return minus the baseline; gamma then scales rewards
        and nothing else.

    Differs from the paper: Adam instead of a plain step, and the advantages are standardised over the batch after the
    baseline is subtracted (so a constant baseline changes nothing here). Source: Williams 1992.

    Raises ValueError if a number is out of its range, or the task has fewer rows than the baseline needs.
    """
    check_annotated(reinforce, locals())
    check_task("reinforce", task)
    chosen = batch_mean_baseline() if baseline is None else baseline
    if task.num_rows < chosen.least_rows:
        rows = f"{chosen.least_rows} rows (environments, answers); the task has {task.num_rows}"
        raise ValueError(f"reinforce: this baseline needs {rows}; a running mean does with one")
    term = weighted_sum(
        policy=(1.0, objectives.reinforce()), entropy=(entropy_weight, objectives.entropy_bonus()), **chosen.terms
    )
    optimizer = optimizer or adam(learning_rate, max_grad_norm)
    step = make_step((objective(task.model, with_terms(term, terms)), optimizer))

    def less_baseline(state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        unbootstrapped = replace(rollout, next_value=jnp.zeros_like(rollout.reward))
        returns = discounted_returns(unbootstrapped, gamma=gamma)
        state, expected = chosen.apply(state, returns, rollout)
        return state, standardized_batch(rollout, returns - expected, returns)

    return assemble(task, step, estimate or RememberingEstimate(chosen.init, less_baseline), gamma=gamma)
