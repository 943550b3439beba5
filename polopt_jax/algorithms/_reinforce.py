"""REINFORCE."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from polopt_jax import objectives
from polopt_jax.advantages import Baseline, batch_mean_baseline, discounted_returns
from polopt_jax.algorithms._algorithm import Algorithm, Terms, adam, assemble, standardized_batch, with_terms
from polopt_jax.combinators import objective, weighted_sum
from polopt_jax.ranges import Nonnegative, Positive, Unit
from polopt_jax.tasks import Task
from polopt_jax.training import make_step
from polopt_jax.types import Batch, Rollout


def reinforce(
    task: Task,
    *,
    baseline: Baseline | None = None,
    learning_rate: Positive = 3e-3,
    gamma: Unit = 0.99,
    entropy_weight: Nonnegative = 0.0,
    max_grad_norm: Positive = 0.5,
    terms: Terms | None = None,
) -> Algorithm:
    """REINFORCE: one gradient of log π · (return - baseline) per batch.

    The return is what is seen in the rollout; nothing is bootstrapped where the window or a time limit cuts an
    episode, so T should not be much shorter than an episode or than 1/(1-γ).

    Args:
      baseline: what is subtracted from the return, of `polopt_jax.advantages`; the batch mean if None.
      learning_rate: step size of Adam.
      gamma: discount.
      entropy_weight: weight of the entropy bonus.
      max_grad_norm: norm to which the gradient is clipped.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.

    Differs from the paper: Adam instead of a plain step, and the advantages are standardised over the batch after the
    baseline is subtracted (so a constant baseline changes nothing here). Source: Williams 1992.
    """
    chosen = batch_mean_baseline() if baseline is None else baseline
    term = weighted_sum(
        policy=(1.0, objectives.reinforce()), entropy=(entropy_weight, objectives.entropy_bonus()), **chosen.terms
    )
    step = make_step((objective(task.model, with_terms(term, terms)), adam(learning_rate, max_grad_norm)))

    def estimate(state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        unbootstrapped = replace(rollout, next_value=jnp.zeros_like(rollout.reward))
        returns = discounted_returns(unbootstrapped, gamma=gamma)
        state, expected = chosen.apply(state, returns, rollout)
        return state, standardized_batch(rollout, returns - expected, returns)

    return assemble(task, step, estimate, gamma=gamma, init_estimate=chosen.init)
