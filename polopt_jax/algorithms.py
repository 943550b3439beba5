"""The seven algorithms as recipes: an advantage, a term, an optimizer, and defaults with their source.

Each is a function of a task and of (traceable) hyperparameters that returns an `Algorithm`: how to start, how to
collect a batch, what step to take. `training.train` runs any of them. Build the recipe inside the function you jit,
and seeds and hyperparameters vmap:

    def run(key, learning_rate):
        algorithm = ppo(task, learning_rate=learning_rate)
        return train(algorithm.collect, algorithm.step, algorithm.init(key), updates=100)

    jax.jit(jax.vmap(run))(keys, learning_rates)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from polopt_jax import objectives, solvers
from polopt_jax.advantages import discounted_returns, gae, group_relative
from polopt_jax.baselines import Baseline, batch_mean
from polopt_jax.combinators import objective, weighted_sum
from polopt_jax.divergences import action_kl
from polopt_jax.masking import standardize
from polopt_jax.preferences import PreferenceData, draw_preferences, preference_batch
from polopt_jax.rollout import to_batch
from polopt_jax.surrogates import ClipRange
from polopt_jax.tasks import Task, TokenTask
from polopt_jax.training import Collect, Step, TrainState, epochs, make_step, monitored, sequential
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Objective, Params, Rollout

MONITORED_ROWS = 256
"""Rows of each batch on which KL(old ‖ new) and entropy are reported."""


class Algorithm(NamedTuple):
    """What `training.train` needs."""

    init: Callable[[Array], TrainState]
    """`key -> state`"""
    collect: Collect
    step: Step


Estimate: TypeAlias = Callable[[Params, Any, Rollout], tuple[Any, Batch]]


def _assemble(task: Task, step: Step, estimate: Estimate, init_estimate: Callable[[], Any] = tuple) -> Algorithm:
    """Task + estimator + step. `estimate(params, state, rollout) -> (state, batch)`."""
    step = monitored(step, task.model, rows=min(MONITORED_ROWS, task.num_rows), kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        params_key, task_key, key = jax.random.split(key, 3)
        params = task.init_params(params_key)
        return TrainState(
            params=params,
            opt_state=step.init(params),
            collect_state=(task.init(task_key), init_estimate()),
            key=key,
            update=jnp.zeros((), jnp.int32),
        )

    def collect(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
        task_state, estimate_state = state
        task_state, rollout, metrics = task.rollout(params, task_state, key)
        estimate_state, batch = estimate(params, estimate_state, rollout)
        return (task_state, estimate_state), batch, metrics

    return Algorithm(init, collect, step)


def _standardized_batch(rollout: Rollout, advantage: Array, target: Array) -> Batch:
    """The rollout as a batch whose advantages have mean 0 and standard deviation 1, over the whole batch."""
    batch = to_batch(rollout, advantage=advantage, target=target)
    return replace(batch, advantage=standardize(advantage.T, batch.mask))


def _gae_estimate(gamma: ArrayLike, lambda_: ArrayLike) -> Estimate:
    def estimate(params: Params, state: Any, rollout: Rollout) -> tuple[Any, Batch]:
        del params
        if rollout.value is None or rollout.next_value is None:
            raise ValueError("this algorithm needs a model with a critic; the rollout has no values")
        advantage, target = gae(
            rollout.reward,
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=gamma,
            lambda_=lambda_,
        )
        return state, _standardized_batch(rollout, advantage, target)

    return estimate


def adam(learning_rate: ArrayLike, max_grad_norm: ArrayLike) -> optax.GradientTransformation:
    """Global-norm clip, then Adam with ε = 1e-5, as PPO's code has it."""
    return optax.chain(solvers.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))


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

    Differs from the paper: Adam and a standardised advantage instead of a plain step. Source: Williams 1992.
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
        return state, _standardized_batch(rollout, returns - expected, returns)

    return _assemble(task, step, estimate, chosen.init)


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
    return _assemble(task, step, _gae_estimate(gamma, lambda_))


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
    return _assemble(task, step, _gae_estimate(gamma, lambda_))


def npg(
    task: Task,
    *,
    learning_rate: ArrayLike = 0.1,
    damping: ArrayLike = 1e-2,
    cg_iters: ArrayLike = 10,
    fisher_batch: solvers.Subsample = solvers.whole,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    value_learning_rate: ArrayLike = 1e-3,
    value_epochs: int = 4,
    value_minibatches: int = 8,
) -> Algorithm:
    """Natural policy gradient with a critic: one preconditioned step on the surrogate, then Adam on the critic.

    Needs a critic that shares no parameters with the policy (or stops its gradient), as both networks of
    `polopt_jax.networks` named `mlp_actor_critic` and `transformer` do. Source: Kakade 2001.
    """
    optimizer = solvers.npg(
        task.model, learning_rate=learning_rate, damping=damping, cg_iters=cg_iters, fisher_batch=fisher_batch
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
    fisher_batch: solvers.Subsample = solvers.whole,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    value_learning_rate: ArrayLike = 1e-3,
    value_epochs: int = 4,
    value_minibatches: int = 8,
) -> Algorithm:
    """Trust region policy optimization with a critic: as `npg`, at a KL radius and behind a line search.

    The radius 0.01 is the paper's; the damping 1e-2 that of OpenAI baselines. Source: Schulman et al. 2015.
    """
    optimizer = solvers.trpo(task.model, radius=radius, damping=damping, cg_iters=cg_iters, fisher_batch=fisher_batch)
    return _policy_then_critic(
        task,
        optimizer,
        gamma=gamma,
        lambda_=lambda_,
        value_learning_rate=value_learning_rate,
        value_epochs=value_epochs,
        value_minibatches=value_minibatches,
    )


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
    return _assemble(task, epochs(step, num_epochs, num_minibatches), _gae_estimate(gamma, lambda_))


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

    return _assemble(task, epochs(step, num_epochs, num_minibatches), estimate)


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
    policy's reward; the update does not see it. Source: Rafailov et al. 2023.
    """
    task = tokens.task
    step = make_step((objective(task.model, objectives.dpo(beta=beta)), adam(learning_rate, max_grad_norm)))
    step = monitored(step, task.model, kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        data_key, key = jax.random.split(key)
        data = draw_preferences(tokens, data_key, num_pairs=num_pairs, max_redraws=max_redraws)
        return TrainState(
            params=tokens.reference,
            opt_state=step.init(tokens.reference),
            collect_state=data,
            key=key,
            update=jnp.zeros((), jnp.int32),
        )

    def collect(params: Params, data: PreferenceData, key: Array) -> tuple[PreferenceData, Batch, Metrics]:
        rollout_key, pair_key = jax.random.split(key)
        _, _, metrics = task.rollout(params, (), rollout_key)
        pairs = jax.random.choice(pair_key, num_pairs, (pairs_per_update,), replace=False)
        metrics |= {"redraws": data.redraws.mean(), "usable_pairs": data.usable.mean()}
        return data, preference_batch(data, pairs), metrics

    return Algorithm(init, collect, step)
