"""A control task: environments side by side, observations and rewards normalised."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from polopt_jax.envs import Environment
from polopt_jax.networks import Network
from polopt_jax.normalization import (
    ReturnScale,
    RunningStats,
    init_return_scale,
    init_stats,
    normalize,
    scale_reward,
    update_stats,
)
from polopt_jax.rollout import LoopState, start, unroll
from polopt_jax.tasks._task import Task, episode_metrics
from polopt_jax.types import Array, ArrayLike, Metrics, Obs, Outputs, Params, Rollout, record


@record
class ControlState:
    """Environments in mid-course and the statistics that their observations are normalised by."""

    loop: LoopState
    normalizer: RunningStats
    return_scale: ReturnScale


def control_task(
    env: Environment, network: Network, *, num_envs: int, num_steps: int, reward_gamma: ArrayLike | None = None
) -> Task:
    """B = `num_envs` environments, T = `num_steps` steps a rollout, with observations and rewards normalised.

    Observations are standardised by running statistics that are frozen within an update and move between updates, so
    the first ratio of an update is 1: what the policy acted on is what it is trained on, and the rollout holds the
    already normalised `obs` and `next_obs`. Rewards are divided by the running spread of the discounted return
    (`normalization.scale_reward`); the metrics report them as the environment gave them.

    Args:
      env: unbatched. network: as of `polopt_jax.networks`, for its observations and actions.
      num_envs, num_steps: B and T.
      reward_gamma: discount of the return whose spread divides the rewards; that of the recipe, if None.
    """

    def init(key: Array) -> ControlState:
        return ControlState(
            loop=start(env, key, num_envs=num_envs),
            normalizer=init_stats(jax.ShapeDtypeStruct(env.obs_shape, jnp.float32)),
            return_scale=init_return_scale(num_envs),
        )

    def rollout(
        params: Params, state: ControlState, key: Array, gamma: ArrayLike
    ) -> tuple[ControlState, Rollout, Metrics]:
        frozen = state.normalizer

        def act(obs: Obs) -> Outputs:
            return network.apply(params, normalize(frozen, obs))

        loop, raw = unroll(env, act, state.loop, key, num_steps=num_steps)
        done = raw.terminated | raw.truncated
        spread_gamma = gamma if reward_gamma is None else reward_gamma
        scale, reward = scale_reward(state.return_scale, raw.reward, done, raw.mask, gamma=spread_gamma)
        obs, next_obs = normalize(frozen, raw.obs), normalize(frozen, raw.next_obs)
        seen = replace(raw, obs=obs, next_obs=next_obs, reward=reward)
        normalizer = update_stats(frozen, raw.obs, raw.mask)
        state = ControlState(loop=loop, normalizer=normalizer, return_scale=scale)
        return state, seen, episode_metrics(loop.stats)

    return Task(network.apply, network.init, init, rollout, (num_envs,), num_steps)
