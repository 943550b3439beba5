"""Group tasks: whole attempts at prompts, several at each: answers of a token world, episodes from one first state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import described
from polopt_jax.envs import Environment
from polopt_jax.envs._check import check_made
from polopt_jax.episodes import final_step, first_episodes, per_episode
from polopt_jax.fields import with_fields
from polopt_jax.language import TokenNetwork, sample_tokens
from polopt_jax.language._imitation import check_reads
from polopt_jax.masking import masked_mean
from polopt_jax.networks import Network, check_network
from polopt_jax.rollout import EpisodeStats, start_from, unroll
from polopt_jax.tasks._task import Task, episode_metrics
from polopt_jax.types import Array, ArrayLike, Metrics, Model, Params, Rollout
from polopt_jax.worlds import World


@with_fields
class GroupTask(NamedTuple):
    """A `Task` whose rows are whole attempts at prompts, and what GRPO, DPO and measures of outcomes need besides.

    A prompt is what an attempt answers to: the question of a token world, the first state of an episode.
    """

    task: Task
    """Rollouts `[T, N, G]`: attempt g at prompt n."""
    reference: Params
    """Parameters of the frozen reference policy, which is also where training starts."""
    prompts: Callable[[Array, int], Any]
    """`(key, number) -> prompts` of leading shape `[number]`."""
    attempt: Callable[[Params, Any, Array], Rollout]
    """`(params, prompts [...], key) -> rollout [T, ...]`: one whole attempt at each. An attempt that nobody can score
    has a return that is not finite. `rollout.outcome` is what an attempt brought about, at step T-1 (zeros before)."""


def check_group(caller: str, group: Any) -> None:
    """Raises TypeError for what is no group of attempts: an environment, a task by itself."""
    if not isinstance(group, GroupTask):
        makers = "tasks.token_task, episode_task or group_task"
        raise TypeError(f"{caller}: group must be a GroupTask, as {makers} makes it; it is {described(group)}")


def token_task(
    network: TokenNetwork, world: World, reference: Params, *, num_prompts: int, group_size: int
) -> GroupTask:
    """Answers to N = `num_prompts` prompts of a token world, drawn anew for each rollout, G = `group_size` at each.

    The reward comes with the last token. An attempt that nobody can score (a reward that is not finite) keeps that
    reward, for a group estimator to leave out; the metric `episode/unscored` counts it, and the mean return and the
    outcome rates are of the others. The outcome is what the world says of an answer.

    Raises ValueError if the world has tokens that the network cannot read.
    """
    check_reads(network, world)

    def attempt(params: Params, prompts: Any, key: Array) -> Rollout:
        answers = sample_tokens(network, params, world.context(prompts), key, length=world.length)

        def judged(answer: Rollout, prompt: Any) -> tuple[Array, dict[str, Array]]:
            tokens = answer.action[-world.length :]
            return world.reward(prompt, tokens), world.outcome(prompt, tokens)

        reward, outcome = per_episode(judged, answers, prompts)
        at_end = lambda x: jnp.zeros(answers.reward.shape, x.dtype).at[-1].set(x)  # noqa: E731
        return replace(answers, reward=at_end(reward), outcome=jax.tree.map(at_end, outcome))

    return group_task(
        network.apply,
        reference,
        world.prompts,
        attempt,
        num_prompts=num_prompts,
        group_size=group_size,
        num_steps=world.length,
    )


def episode_task(
    env: Environment, network: Network, reference: Params, *, num_prompts: int, group_size: int, num_steps: int
) -> GroupTask:
    """Whole episodes of an environment: N = `num_prompts` first states for each rollout, G = `group_size` from each.

    Nothing is normalised: the network sees observations as they are, and rewards are the environment's. The outcome is
    that of an episode's last step, as `episode_attempt` has it.

    Args:
      env: unbatched. network: as of `polopt_jax.networks`, for its observations and actions.
      num_steps: T, at least the longest episode.

    Raises TypeError if `env` or `network` is something else.
    """
    check_made("episode_task", env)
    check_network("episode_task", network)

    def prompts(key: Array, number: int) -> Any:
        return jax.vmap(env.reset)(jax.random.split(key, number))

    return group_task(
        network.apply,
        reference,
        prompts,
        episode_attempt(env, network.apply, num_steps=num_steps),
        num_prompts=num_prompts,
        group_size=group_size,
        num_steps=num_steps,
    )


def episode_attempt(env: Environment, model: Model, *, num_steps: int) -> Callable[[Params, Any, Array], Rollout]:
    """`GroupTask.attempt` of an environment: one whole episode from each of the first states `(state, obs)` `[...]`.

    The outcome is the `EnvStep.outcome` of the episode's last step, or `{}` of an environment that has none. An episode
    that takes more than T = `num_steps` steps, or whose environment breaks, is one that nobody can score: masked out,
    with a return of NaN.
    """

    def attempt(params: Params, prompts: Any, key: Array) -> Rollout:
        state, obs = prompts
        rows = obs.shape[: obs.ndim - len(env.obs_shape)]
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(rows) :]), (state, obs))
        act = lambda obs: model(params, obs)  # noqa: E731
        _, rollout = unroll(env, act, start_from(*flat), key, num_steps=num_steps)
        whole, _ = first_episodes(rollout)
        scored = whole.mask.any(0)
        outcome = per_episode(lambda episode: final_step(episode).outcome, whole)
        at_end = lambda x: jnp.zeros((num_steps, *x.shape), x.dtype).at[-1].set(x)  # noqa: E731
        reward = whole.reward.at[-1].set(jnp.where(scored, whole.reward[-1], jnp.nan))
        whole = replace(whole, reward=reward, outcome=jax.tree.map(at_end, outcome))
        return jax.tree.map(lambda x: x.reshape(num_steps, *rows, *x.shape[2:]), whole)

    return attempt


def group_task(
    model: Model,
    reference: Params,
    prompts: Callable[[Array, int], Any],
    attempt: Callable[[Params, Any, Array], Rollout],
    *,
    num_prompts: int,
    group_size: int,
    num_steps: int,
) -> GroupTask:
    """The group task of prompts and attempts of your own, N = `num_prompts` of them and G = `group_size` at each.

    Prompts are drawn anew for each rollout. Metrics: what the attempts earned (`episode/*`) and the mean of each
    outcome (`outcome/*`), over those that can be scored, and how many cannot, `episode/unscored`.

    Args:
      model: `(params, obs) -> Outputs` on the observations of a rollout.
      reference, prompts, attempt: as in `GroupTask`.
      num_steps: T of an attempt.
    """
    rows = (num_prompts, group_size)

    def rollout(params: Params, state: tuple[()], key: Array, gamma: ArrayLike) -> tuple[tuple[()], Rollout, Metrics]:
        del gamma  # rewards are the world's own; nothing is scaled
        prompt_key, attempt_key = jax.random.split(key)
        asked = jax.tree.map(
            lambda x: jnp.broadcast_to(jnp.expand_dims(x, 1), (*rows, *x.shape[1:])), prompts(prompt_key, rows[0])
        )
        attempts = attempt(params, asked, attempt_key)
        return state, attempts, _metrics(attempts)

    task = Task(
        model=model,
        init_params=lambda key: reference,
        init=lambda key: (),
        rollout=rollout,
        row_shape=rows,
        num_steps=num_steps,
        outcome=lambda rollout: jax.tree.map(lambda x: x[-1], rollout.outcome or {}),
    )
    return GroupTask(task, reference, prompts, attempt)


def _metrics(attempts: Rollout) -> Metrics:
    """What the attempts earned and brought about, in the mean over those that could be scored."""
    total = attempts.reward.sum(0)
    scored = jnp.isfinite(total)
    stats = EpisodeStats(
        finished=scored.sum().astype(jnp.float32),
        return_sum=jnp.where(scored, total, 0).sum(),
        length_sum=jnp.where(scored, attempts.mask.sum(0), 0).sum().astype(jnp.float32),
        nonfinite=jnp.zeros(()),
    )
    return {
        **episode_metrics(stats),
        "episode/unscored": (~scored).sum().astype(jnp.float32),
        **{f"outcome/{name}": masked_mean(x[-1], scored) for name, x in (attempts.outcome or {}).items()},
    }
