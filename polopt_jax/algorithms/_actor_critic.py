"""Actor-critic."""

from polopt_jax import objectives
from polopt_jax.algorithms._algorithm import Algorithm, Terms, adam, assemble, gae_estimate, with_terms
from polopt_jax.combinators import objective
from polopt_jax.ranges import Nonnegative, Positive, Unit
from polopt_jax.tasks import Task
from polopt_jax.training import make_step


def actor_critic(
    task: Task,
    *,
    learning_rate: Positive = 3e-3,
    gamma: Unit = 0.99,
    lambda_: Unit = 0.95,
    value_weight: Nonnegative = 0.5,
    entropy_weight: Nonnegative = 0.0,
    max_grad_norm: Positive = 0.5,
    terms: Terms | None = None,
) -> Algorithm:
    """Advantage actor-critic (A2C): one gradient of the joint loss per batch, advantages by GAE.

    Args:
      learning_rate: step size of Adam.
      gamma: discount.
      lambda_: λ of generalised advantage estimation.
      value_weight: weight of the value loss.
      entropy_weight: weight of the entropy bonus.
      max_grad_norm: norm to which the gradient is clipped.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.

    Differs from the paper: Adam instead of RMSProp, GAE instead of n-step returns, no asynchrony.
    Source: Mnih et al. 2016.
    """
    term = objectives.actor_critic(value_weight=value_weight, entropy_weight=entropy_weight)
    step = make_step((objective(task.model, with_terms(term, terms)), adam(learning_rate, max_grad_norm)))
    return assemble(task, step, gae_estimate(gamma, lambda_), gamma=gamma)
