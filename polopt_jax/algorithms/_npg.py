"""Natural policy gradient."""

from __future__ import annotations

import optax

from polopt_jax import solvers
from polopt_jax.algorithms._algorithm import Algorithm, Estimate, Terms, assemble, gae_estimate, policy_then_critic
from polopt_jax.divergences import action_kl
from polopt_jax.ranges import Count, Nonnegative, Rate, Unit, check_annotated
from polopt_jax.solvers import DAMPING
from polopt_jax.tasks import Task
from polopt_jax.tasks._task import check_task
from polopt_jax.types import Divergence


def npg(
    task: Task,
    *,
    learning_rate: Rate = 0.1,
    damping: Nonnegative = DAMPING,
    cg_iters: Count = 10,
    fisher_every: Count = 1,
    fisher_microbatches: Count = 1,
    gamma: Unit = 0.99,
    lambda_: Unit = 0.95,
    value_learning_rate: Rate = 1e-3,
    value_epochs: Count = 4,
    value_minibatches: Count = 8,
    divergence: Divergence = action_kl,
    terms: Terms | None = None,
    value_optimizer: optax.GradientTransformation | None = None,
    estimate: Estimate | None = None,
) -> Algorithm:
    """Natural policy gradient with a critic: one preconditioned step on the surrogate, then Adam on the critic.

    Needs a critic that shares no parameters with the policy (or stops its gradient), as `networks.mlp_actor_critic` and
    `language.transformer` have it.

    Args:
      learning_rate: step size along the natural gradient; in Python also a schedule of the update's number.
      damping: added to the diagonal of the Fisher matrix.
      cg_iters: most iterations of conjugate gradients.
      fisher_every: the Fisher matrix is estimated on every so many-th row, while the gradient stays on all.
      fisher_microbatches: shares of these rows over which products with it are summed, for the memory of one: worth it
        beyond some ten thousand decisions, in shares of a thousand or a few (`solvers.fisher_operator` has figures).
      gamma: discount.
      lambda_: λ of generalised advantage estimation.
      value_learning_rate: step size of the critic's Adam; in Python also a schedule of the update's number.
      value_epochs: passes of the critic over each batch.
      value_minibatches: minibatches of each such pass.
      divergence: whose Fisher matrix it is.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.
      value_optimizer: what steps in place of the critic's Adam, whose learning rate then says nothing.
      estimate: `rollout -> batch`, in place of standardised GAE; gamma then scales rewards and nothing else.

    Source: Kakade 2001.
    """
    check_annotated(npg, locals())
    check_task("npg", task)
    optimizer = solvers.npg(
        task.model,
        learning_rate=learning_rate,
        damping=damping,
        cg_iters=cg_iters,
        divergence=divergence,
        fisher_batch=solvers.every(fisher_every),
        num_microbatches=fisher_microbatches,
    )
    step = policy_then_critic(
        task,
        optimizer,
        terms=terms,
        value_optimizer=value_optimizer,
        value_learning_rate=value_learning_rate,
        value_epochs=value_epochs,
        value_minibatches=value_minibatches,
    )
    return assemble(task, step, estimate or gae_estimate(gamma, lambda_), gamma=gamma)
