"""The second-order recipes: NPG and TRPO, each a policy phase and then passes of Adam on the critic."""

import optax

from polopt_jax import objectives, solvers
from polopt_jax.algorithms._algorithm import Algorithm, assemble, gae_estimate
from polopt_jax.combinators import objective
from polopt_jax.tasks import Task
from polopt_jax.training import epochs, make_step, sequential
from polopt_jax.types import ArrayLike, Objective


def _policy_then_critic(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    gamma: ArrayLike,
    lambda_: ArrayLike,
    value_learning_rate: ArrayLike,
    value_epochs: int,
    value_minibatches: int,
) -> Algorithm:
    """A natural-gradient phase on the surrogate, then passes of Adam on the critic alone."""
    policy: Objective = objective(task.model, objectives.surrogate())
    critic: Objective = objective(task.model, objectives.value_loss())
    value_step = make_step((critic, optax.adam(value_learning_rate)))
    step = sequential(make_step((policy, optimizer)), epochs(value_step, value_epochs, value_minibatches))
    return assemble(task, step, gae_estimate(gamma, lambda_))


def npg(
    task: Task,
    *,
    learning_rate: ArrayLike = 0.1,
    damping: ArrayLike = 1e-2,
    cg_iters: ArrayLike = 10,
    fisher_every: int = 1,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    value_learning_rate: ArrayLike = 1e-3,
    value_epochs: int = 4,
    value_minibatches: int = 8,
) -> Algorithm:
    """Natural policy gradient with a critic: one preconditioned step on the surrogate, then Adam on the critic.

    Needs a critic that shares no parameters with the policy (or stops its gradient), as both networks of
    `polopt_jax.networks` named `mlp_actor_critic` and `transformer` do. `fisher_every=k` estimates the Fisher
    information on every k-th row, while the gradient stays on all. Source: Kakade 2001.
    """
    optimizer = solvers.npg(
        task.model,
        learning_rate=learning_rate,
        damping=damping,
        cg_iters=cg_iters,
        fisher_batch=solvers.every(fisher_every),
    )
    return _policy_then_critic(
        task,
        optimizer,
        gamma=gamma,
        lambda_=lambda_,
        value_learning_rate=value_learning_rate,
        value_epochs=value_epochs,
        value_minibatches=value_minibatches,
    )


def trpo(
    task: Task,
    *,
    radius: ArrayLike = 0.01,
    damping: ArrayLike = 1e-2,
    cg_iters: ArrayLike = 10,
    fisher_every: int = 1,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    value_learning_rate: ArrayLike = 1e-3,
    value_epochs: int = 4,
    value_minibatches: int = 8,
) -> Algorithm:
    """Trust region policy optimization with a critic: as `npg`, at a KL radius and behind a line search.

    The radius 0.01 is the paper's; the damping 1e-2 that of OpenAI baselines. Source: Schulman et al. 2015.
    """
    optimizer = solvers.trpo(
        task.model, radius=radius, damping=damping, cg_iters=cg_iters, fisher_batch=solvers.every(fisher_every)
    )
    return _policy_then_critic(
        task,
        optimizer,
        gamma=gamma,
        lambda_=lambda_,
        value_learning_rate=value_learning_rate,
        value_epochs=value_epochs,
        value_minibatches=value_minibatches,
    )
