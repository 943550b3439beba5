"""What there is to learn, sized and ready to be rolled out: a control task (an environment) or a token task (a world).

A task knows the model, how to start, and how to gather one rollout `[T, B]` with given parameters. An algorithm
(`polopt_jax.algorithms`) adds what it makes of the rollout.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from polopt_jax.combinators import objective
from polopt_jax.distributions import Categorical
from polopt_jax.divergences import action_kl, kl_to_reference
from polopt_jax.envs import (
    Environment,
    SkipTheTest,
    sample_reference,
    select_worlds,
    token_inputs,
    token_outcome,
    token_reward,
)
from polopt_jax.networks import Network, TokenNetwork
from polopt_jax.normalization import (
    ReturnScale,
    RunningStats,
    init_return_scale,
    init_stats,
    normalize,
    scale_reward,
    update_stats,
)
from polopt_jax.rollout import EpisodeStats, LoopState, start, unroll
from polopt_jax.sampling import sample_tokens
from polopt_jax.training import make_step
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Model, Obs, Outputs, Params, Rollout, record


class Task(NamedTuple):
    """Four pure functions and two sizes."""

    model: Model
    """`(params, obs) -> Outputs`, on observations as the rollout stores them."""
    init_params: Callable[[Array], Params]
    """`key -> params`"""
    init: Callable[[Array], Any]
    """`key -> state`: environments and whatever else goes from rollout to rollout."""
    rollout: Callable[[Params, Any, Array], tuple[Any, Rollout, Metrics]]
    """`(params, state, key) -> (state, rollout [T, B], metrics)`"""
    num_rows: int
    """B."""
    num_steps: int
    """T."""

    @property
    def decisions(self) -> int:
        """Decisions in one rollout, B·T: the steps that an update costs."""
        return self.num_rows * self.num_steps


def episode_metrics(stats: EpisodeStats) -> Metrics:
    """Sums, not means, so that they add up over updates: divide `episode/return_sum` by `episode/finished`."""
    return {
        "episode/finished": stats.finished,
        "episode/return_sum": stats.return_sum,
        "episode/length_sum": stats.length_sum,
        "nonfinite_steps": stats.nonfinite,
    }


# --- control -----------------------------------------------------------------------------------------------------


@record
class ControlState:
    """Environments in mid-course and the statistics that their observations are normalised by."""

    loop: LoopState
    normalizer: RunningStats
    return_scale: ReturnScale


def control_task(
    env: Environment, network: Network, *, num_envs: int, num_steps: int, reward_gamma: ArrayLike = 0.99
) -> Task:
    """B = `num_envs` environments, T = `num_steps` steps a rollout, with observations and rewards normalised.

    Observations are standardised by running statistics that are frozen within an update and move between updates, so
    the first ratio of an update is 1: what the policy acted on is what it is trained on, and the rollout holds the
    already normalised `obs` and `next_obs`. Rewards are divided by the running spread of the return discounted by
    `reward_gamma` (`normalization.scale_reward`); the metrics report them as the environment gave them.
    """

    def init(key: Array) -> ControlState:
        return ControlState(
            loop=start(env, key, num_envs=num_envs),
            normalizer=init_stats(jax.ShapeDtypeStruct(env.obs_shape, jnp.float32)),
            return_scale=init_return_scale(num_envs),
        )

    def rollout(params: Params, state: ControlState, key: Array) -> tuple[ControlState, Rollout, Metrics]:
        frozen = state.normalizer

        def act(obs: Obs) -> Outputs:
            return network.apply(params, normalize(frozen, obs))

        loop, raw = unroll(env, act, state.loop, key, num_steps=num_steps)
        done = raw.terminated | raw.truncated
        scale, reward = scale_reward(state.return_scale, raw.reward, done, raw.mask, gamma=reward_gamma)
        obs, next_obs = normalize(frozen, raw.obs), normalize(frozen, raw.next_obs)
        seen = replace(raw, obs=obs, next_obs=next_obs, reward=reward)
        normalizer = update_stats(frozen, raw.obs, raw.mask)
        state = ControlState(loop=loop, normalizer=normalizer, return_scale=scale)
        return state, seen, episode_metrics(loop.stats)

    return Task(network.apply, network.init, init, rollout, num_envs, num_steps)


# --- tokens ------------------------------------------------------------------------------------------------------


class TokenTask(NamedTuple):
    """A `Task` over token worlds, with what the language-model objectives need besides."""

    task: Task
    """B = prompts x group rows of T tokens; row p·G + g is attempt g at prompt p."""
    reference: Params
    """Parameters of the frozen reference policy, which is also where training starts."""
    group_size: int
    """G."""
    draw: Callable[[Params, Array, Array], tuple[Rollout, Array]]
    """`(params, world_ids [B], key) -> (rollout [T, B], reward [B])`"""
    num_worlds: int
    """W."""


def token_task(
    network: TokenNetwork, worlds: SkipTheTest, reference: Params, *, num_prompts: int, group_size: int
) -> TokenTask:
    """`num_prompts` worlds drawn anew for each rollout; `group_size` attempts at each, rewarded at the last token."""
    length = worlds.logits.shape[-2]
    vocabulary = worlds.logits.shape[-1]

    def draw(params: Params, world_ids: Array, key: Array) -> tuple[Rollout, Array]:
        tokens = sample_tokens(network, params, vocabulary + world_ids, key, length=length)
        reward = token_reward(tokens.action.T, select_worlds(worlds, world_ids))
        return replace(tokens, reward=tokens.reward.at[-1].set(reward)), reward

    def rollout(params: Params, state: tuple[()], key: Array) -> tuple[tuple[()], Rollout, Metrics]:
        prompt_key, draw_key = jax.random.split(key)
        prompts = jax.random.randint(prompt_key, (num_prompts,), 0, worlds.num_worlds)
        world_ids = jnp.repeat(prompts, group_size)
        sampled, reward = draw(params, world_ids, draw_key)
        outcome = token_outcome(sampled.action.T, select_worlds(worlds, world_ids))
        rows = jnp.full((), float(num_prompts * group_size))
        stats = EpisodeStats(finished=rows, return_sum=reward.sum(), length_sum=rows * length, nonfinite=jnp.zeros(()))
        rates = {f"outcome/{name}": x.mean() for name, x in outcome.items()}
        return state, sampled, {**episode_metrics(stats), **rates}

    task = Task(
        model=network.apply,
        init_params=lambda key: reference,
        init=lambda key: (),
        rollout=rollout,
        num_rows=num_prompts * group_size,
        num_steps=length,
    )
    return TokenTask(task, reference, group_size, draw, worlds.num_worlds)


def reference_model(worlds: SkipTheTest) -> Model:
    """The reference language itself as a model: `obs` are input tokens `[..., T]`, the first names the world."""
    vocabulary = worlds.logits.shape[-1]

    def model(params: Params, obs: Obs) -> Outputs:
        del params
        return Outputs(policy=Categorical(logits=worlds.logits[obs[..., 0] - vocabulary]))

    return model


def imitate(
    network: TokenNetwork, worlds: SkipTheTest, key: Array, *, updates: int = 300, rows: int = 128
) -> tuple[Params, Array]:
    """Trains a network to speak the reference language: `(params, kl)`, kl `[updates]` in nats per token.

    Minimises KL(reference ‖ network), exact in the next token, on prefixes sampled from the reference - imitation
    learning with the teacher's probabilities at hand. Adam, with the rate falling from 1e-2 to 0 on a cosine.
    """
    term = kl_to_reference(reference_model(worlds), divergence=action_kl)
    step = make_step((objective(network.apply, term), optax.adam(optax.cosine_decay_schedule(1e-2, updates))))
    init_key, key = jax.random.split(key)
    params = network.init(init_key)

    def update(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Array]:
        world_key, sample_key = jax.random.split(key)
        world_ids = jax.random.randint(world_key, (rows,), 0, worlds.num_worlds)
        tokens = sample_reference(worlds, world_ids, sample_key)
        inputs = token_inputs(tokens, select_worlds(worlds, world_ids))
        batch = Batch(obs=inputs, action=tokens, mask=jnp.ones(tokens.shape, bool))
        params, opt_state, metrics = step.update(*carry, batch, key)
        return (params, opt_state), metrics["loss"]

    (params, _), kl = jax.lax.scan(update, (params, step.init(params)), jax.random.split(key, updates))
    return params, kl
