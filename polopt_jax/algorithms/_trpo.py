"""Trust region policy optimization."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import optax

from polopt_jax import solvers
from polopt_jax.algorithms._algorithm import Algorithm, Estimate, Terms, assemble, gae_estimate, policy_then_critic
from polopt_jax.divergences import action_kl
from polopt_jax.ranges import Count, Nonnegative, Positive, Rate, Unit, check_annotated
from polopt_jax.solvers import DAMPING, Constraint, Cost
from polopt_jax.tasks import Task
from polopt_jax.tasks._task import check_task
from polopt_jax.types import Divergence


def trpo(
    task: Task,
    *,
    radius: Positive = 0.01,
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
    constraints: Sequence[Constraint] = (),
    costs: Sequence[Cost] = (),
    terms: Terms | None = None,
    value_optimizer: optax.GradientTransformation | None = None,
    estimate: Estimate | None = None,
) -> Algorithm:
    """Trust region policy optimization with a critic: as `npg`, at a KL radius and behind a line search.

    Needs a critic that shares no parameters with the policy, as `npg`.

    Args:
      radius: largest KL(old‖new) of an update, in nats per decision; the default is the paper's.
      damping: added to the diagonal of the Fisher matrix.
      cg_iters: most iterations of conjugate gradients.
      fisher_every: the Fisher matrix is estimated on every so many-th row, while gradient and line search stay on all.
      fisher_microbatches: shares of these rows over which products with it are summed, for the memory of one: worth it
        beyond some ten thousand decisions, in shares of a thousand or a few (`solvers.fisher_operator` has figures).
      gamma: discount.
      lambda_: λ of generalised advantage estimation.
      value_learning_rate: step size of the critic's Adam; in Python also a schedule of the update's number.
      value_epochs: passes of the critic over each batch.
      value_minibatches: minibatches of each such pass.
      divergence: what is bounded, in whose nats the radius then is.
      constraints: further pairs (divergence, radius) that the line search keeps.
      costs: pairs (term, limit) that a step holds below their limits (`solvers.constrained_trpo`: CPO).
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.
      value_optimizer: what steps in place of the critic's Adam, whose learning rate then says nothing.
      estimate: `rollout -> batch`, in place of standardised GAE; gamma then scales rewards and nothing else.

    Source: Schulman et al. 2015; with costs Achiam et al. 2017.
    """
    check_annotated(trpo, locals())
    check_task("trpo", task)
    bounded = functools.partial(solvers.constrained_trpo, costs=costs) if costs else solvers.trpo
    optimizer = bounded(
        task.model,
        divergence=divergence,
        radius=radius,
        damping=damping,
        cg_iters=cg_iters,
        constraints=constraints,
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
