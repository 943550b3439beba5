"""The first-order recipes with a rollout of their own policy: REINFORCE, actor-critic, PPO."""

from typing import Any

import jax.numpy as jnp

from polopt_jax import objectives
from polopt_jax.advantages import discounted_returns
from polopt_jax.algorithms._algorithm import Algorithm, adam, assemble, gae_estimate, standardized_batch
from polopt_jax.baselines import Baseline, batch_mean
from polopt_jax.combinators import objective, weighted_sum
from polopt_jax.surrogates import ClipRange
from polopt_jax.tasks import Task
from polopt_jax.training import epochs, make_step
from polopt_jax.types import ArrayLike, Batch, Params, Rollout


def reinforce(
    task: Task,
    *,
    baseline: Baseline | None = None,
    learning_rate: ArrayLike = 3e-3,
    gamma: ArrayLike = 0.99,
    entropy_weight: ArrayLike = 0.0,
    max_grad_norm: ArrayLike = 0.5,
) -> Algorithm:
    """REINFORCE: one gradient of log π · (return - baseline) per batch.

    `baseline` is one of `polopt_jax.baselines` (`batch_mean()` if none is given): static, batch mean, running mean,
    learned. The return is what is seen in the rollout; nothing is bootstrapped where the window or a time limit cuts
    an episode, so T should not be much shorter than an episode or than 1/(1-γ).

    Differs from the paper: Adam instead of a plain step, and the advantages are standardised over the batch after the
    baseline is subtracted (so a constant baseline changes nothing here). Source: Williams 1992.
    """
    chosen = batch_mean() if baseline is None else baseline
    term = weighted_sum(
        policy=(1.0, objectives.reinforce()), entropy=(-entropy_weight, objectives.entropy()), **chosen.terms
    )
    step = make_step((objective(task.model, term), adam(learning_rate, max_grad_norm)))

    def estimate(params: Params, state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        del params
        nothing = jnp.zeros_like(rollout.reward)
        returns = discounted_returns(rollout.reward, nothing, rollout.terminated, rollout.truncated, gamma=gamma)
        state, expected = chosen.apply(state, returns, rollout)
        return state, standardized_batch(rollout, returns - expected, returns)

    return assemble(task, step, estimate, chosen.init)


def actor_critic(
    task: Task,
    *,
    learning_rate: ArrayLike = 3e-3,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    value_weight: ArrayLike = 0.5,
    entropy_weight: ArrayLike = 0.0,
    max_grad_norm: ArrayLike = 0.5,
) -> Algorithm:
    """Advantage actor-critic (A2C): one gradient of the joint loss per batch, advantages by GAE.

    Differs from the paper: Adam instead of RMSProp, GAE instead of n-step returns, no asynchrony.
    Source: Mnih et al. 2016.
    """
    term = objectives.actor_critic(value_weight=value_weight, entropy_weight=entropy_weight)
    step = make_step((objective(task.model, term), adam(learning_rate, max_grad_norm)))
    return assemble(task, step, gae_estimate(gamma, lambda_))


def ppo(
    task: Task,
    *,
    learning_rate: ArrayLike = 3e-4,
    clip_eps: ClipRange = 0.2,
    num_epochs: int = 4,
    num_minibatches: int = 8,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    value_weight: ArrayLike = 0.5,
    entropy_weight: ArrayLike = 0.0,
    max_grad_norm: ArrayLike = 0.5,
) -> Algorithm:
    """Proximal policy optimization: several epochs of minibatch Adam on the clipped surrogate, the critic beside it.

    Differs from the common code: advantages are standardised over the batch, not per minibatch; rows (environments)
    are shuffled, not decisions; values are not clipped. Source: Schulman et al. 2017.
    """
    term = weighted_sum(
        policy=(1.0, objectives.ppo(clip_eps=clip_eps)),
        value=(value_weight, objectives.value_loss()),
        entropy=(-entropy_weight, objectives.entropy()),
    )
    step = make_step((objective(task.model, term), adam(learning_rate, max_grad_norm)))
    return assemble(task, epochs(step, num_epochs, num_minibatches), gae_estimate(gamma, lambda_))
