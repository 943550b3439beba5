"""Actor-critic."""

from __future__ import annotations

import optax

from polopt_jax import objectives
from polopt_jax.algorithms._algorithm import Algorithm, Estimate, Terms, adam, assemble, gae_estimate, with_terms
from polopt_jax.combinators import objective
from polopt_jax.ranges import Nonnegative, Positive, Rate, Unit, check_annotated
from polopt_jax.steps import make_step
from polopt_jax.tasks import Task
from polopt_jax.tasks._task import check_task


def actor_critic(
    task: Task,
    *,
    learning_rate: Rate = 3e-3,
    gamma: Unit = 0.99,
    lambda_: Unit = 0.95,
    value_weight: Nonnegative = 0.5,
    entropy_weight: Nonnegative = 0.0,
    max_grad_norm: Positive = 0.5,
    terms: Terms | None = None,
    optimizer: optax.GradientTransformation | None = None,
    estimate: Estimate | None = None,
) -> Algorithm:
    """Advantage actor-critic (A2C): one gradient of the joint loss per batch, advantages by GAE.

    Args:
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      gamma: discount.
      lambda_: λ of generalised advantage estimation.
      value_weight: weight of the value loss.
      entropy_weight: weight of the entropy bonus.
      max_grad_norm: norm to which the gradient is clipped.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.
      estimate: `rollout -> batch`, in place of standardised GAE; gamma then scales rewards and nothing else.

    Differs from the paper: Adam instead of RMSProp, GAE instead of n-step returns, no asynchrony.
    Source: Mnih et al. 2016.
    """
    check_annotated(actor_critic, locals())
    check_task("actor_critic", task)
    term = objectives.actor_critic(value_weight=value_weight, entropy_weight=entropy_weight)
    optimizer = optimizer or adam(learning_rate, max_grad_norm)
    step = make_step((objective(task.model, with_terms(term, terms)), optimizer))
    return assemble(task, step, estimate or gae_estimate(gamma, lambda_), gamma=gamma)
