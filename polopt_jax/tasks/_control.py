"""A control task: environments side by side, observations and rewards normalised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from polopt_jax.envs import Environment, MemoryEnv
from polopt_jax.envs._check import check_made
from polopt_jax.networks import Network, check_network
from polopt_jax.normalization import (
    ObsTransform,
    RewardTransform,
    of_seen,
    scaled_rewards,
    standardized_observations,
)
from polopt_jax.ranges import check_sizes
from polopt_jax.rollout import LoopState, start, unroll
from polopt_jax.rows import Shuffle, shuffled_decisions, shuffled_parts
from polopt_jax.tasks._task import Task, episode_metrics
from polopt_jax.types import Array, ArrayLike, Metrics, Obs, Outputs, Params, Rollout, record


@record
class ControlState:
    """Environments in mid-course, and what is remembered of their observations and rewards."""

    loop: LoopState
    normalizer: Any
    """Of the observations: `normalization.RunningStats` where they are standardised."""
    return_scale: Any
    """Of the rewards: `normalization.ReturnScale` where they are scaled."""


def control_task(
    env: Environment,
    network: Network,
    *,
    num_envs: int,
    num_steps: int,
    observations: ObsTransform | None = None,
    rewards: RewardTransform | None = None,
    shuffle: Shuffle | None = None,
) -> Task:
    """B = `num_envs` environments, T = `num_steps` steps a rollout, with observations and rewards normalised.

    Observations are standardised by running statistics that are frozen within an update and move between updates, so
    the first ratio of an update is 1: what the policy acted on is what it is trained on, and the rollout holds the
    already normalised `obs` and `next_obs`. Flags and whole numbers stay as they are: an observation that says which
    actions are legal is a dict with a bool leaf, or is left alone by `raw_observations()`. Rewards are divided by the
    running spread of the discounted return; the metrics report them as the environment gave them.

    Args:
      env: unbatched. network: as of `polopt_jax.networks`, for its observations and actions.
      num_envs, num_steps: B and T.
      observations: `normalization.standardized_observations()`, if None; `raw_observations()` leaves them alone.
      rewards: `normalization.scaled_rewards()`, if None; `raw_rewards()` leaves them alone.
      shuffle: what minibatches are made of, if None of single decisions from everywhere; with `rows.shuffled_parts` of
        whole rows, which a term that sums over them needs. A network with a memory (`recurrent.with_memory`) learns
        from whole rows.

    Raises ValueError if there is no environment or no step, TypeError if `env` or `network` is something else.
    """
    check_sizes("control_task", num_envs=num_envs, num_steps=num_steps)
    check_made("control_task", env)
    check_network("control_task", network)
    observations = standardized_observations() if observations is None else observations
    if isinstance(env, MemoryEnv):
        observations, usual = of_seen(observations), shuffled_parts
    else:
        usual = shuffled_decisions
    shuffle = usual if shuffle is None else shuffle
    rewards = scaled_rewards() if rewards is None else rewards

    def init(key: Array) -> ControlState:
        loop = start(env, key, num_envs=num_envs)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), loop.obs)
        return ControlState(
            loop=loop,
            normalizer=observations.init(one),
            return_scale=rewards.init(num_envs),
        )

    def read(state: ControlState, obs: Obs) -> Obs:
        return observations.apply(state.normalizer, obs)

    def rollout(
        params: Params, state: ControlState, key: Array, gamma: ArrayLike
    ) -> tuple[ControlState, Rollout, Metrics]:
        def act(obs: Obs) -> Outputs:
            return network.apply(params, read(state, obs))

        loop, raw = unroll(env, act, state.loop, key, num_steps=num_steps)
        before = (state.normalizer, state.return_scale)
        normalizer, scale, seen = normalized(observations, rewards, before, raw, gamma)
        return ControlState(loop=loop, normalizer=normalizer, return_scale=scale), seen, episode_metrics(loop.stats)

    return Task(network.apply, network.init, init, rollout, (num_envs,), num_steps, shuffle=shuffle, read=read)


def normalized(
    observations: ObsTransform, rewards: RewardTransform, states: tuple[Any, Any], raw: Rollout, gamma: ArrayLike
) -> tuple[Any, Any, Rollout]:
    """A rollout `[T, B]` as it is learnt from, and what is remembered of its observations and of its rewards.

    Args:
      observations, rewards: what is made of them.
      states: of the two. Observations are read by the statistics of before, as they were acted on.
      raw: as the environment gave it, with the values of the model.
      gamma: the discount that the recipe learns with.
    """
    normalizer, scale = states
    done = raw.terminated | raw.truncated
    scale, reward = rewards.apply(scale, raw.reward, done, raw.mask, gamma)
    obs, next_obs = observations.apply(normalizer, raw.obs), observations.apply(normalizer, raw.next_obs)
    seen = replace(raw, obs=obs, next_obs=next_obs, reward=reward)
    return observations.update(normalizer, raw.obs, raw.mask), scale, seen
