"""A token task: answers to the prompts of any world."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.episodes import per_episode
from polopt_jax.language import TokenNetwork, sample_tokens
from polopt_jax.masking import masked_mean
from polopt_jax.rollout import EpisodeStats
from polopt_jax.tasks._task import Task, episode_metrics
from polopt_jax.types import Array, ArrayLike, Metrics, Params, Rollout
from polopt_jax.worlds import World


class TokenTask(NamedTuple):
    """A `Task` over a token world, with what the language objectives need besides."""

    task: Task
    """Rollouts `[T, N, G]`: attempt g at prompt n."""
    network: TokenNetwork
    world: World
    reference: Params
    """Parameters of the frozen reference policy, which is also where training starts."""


def token_task(
    network: TokenNetwork, world: World, reference: Params, *, num_prompts: int, group_size: int
) -> TokenTask:
    """N = `num_prompts` prompts drawn anew for each rollout, G = `group_size` attempts at each.

    The reward comes with the last token. An attempt that nobody can score (a reward that is not finite) keeps that
    reward, for a group estimator to leave out; the metric `episode/unscored` counts it, and the mean return and the
    outcome rates are of the others. `rollout.outcome` is what the world says of each answer, `[T, N, G]`, at its last
    token (zeros before).
    """

    def rollout(params: Params, state: tuple[()], key: Array, gamma: ArrayLike) -> tuple[tuple[()], Rollout, Metrics]:
        del gamma  # rewards are the world's own; nothing is scaled
        prompt_key, answer_key = jax.random.split(key)
        prompts = world.prompts(prompt_key, num_prompts)
        rows = jax.tree.map(
            lambda x: jnp.broadcast_to(jnp.expand_dims(x, 1), (num_prompts, group_size, *x.shape[1:])), prompts
        )
        answers = sample_tokens(network, params, world.context(rows), answer_key, length=world.length)

        def judged(answer: Rollout, prompt: Any) -> tuple[Array, dict[str, Array]]:
            tokens = answer.action[-world.length :]
            return world.reward(prompt, tokens), world.outcome(prompt, tokens)

        reward, outcome = per_episode(judged, answers, rows)
        scored = jnp.isfinite(reward)
        finished = scored.sum().astype(jnp.float32)
        stats = EpisodeStats(
            finished=finished,
            return_sum=jnp.where(scored, reward, 0).sum(),
            length_sum=finished * world.length,
            nonfinite=jnp.zeros(()),
        )
        metrics = {
            **episode_metrics(stats),
            "episode/unscored": (~scored).sum().astype(jnp.float32),
            **{f"outcome/{name}": masked_mean(x, scored) for name, x in outcome.items()},
        }
        at_end = lambda x: jnp.zeros(answers.reward.shape, x.dtype).at[-1].set(x)  # noqa: E731
        return state, replace(answers, reward=at_end(reward), outcome=jax.tree.map(at_end, outcome)), metrics

    task = Task(
        model=network.apply,
        init_params=lambda key: reference,
        init=lambda key: (),
        rollout=rollout,
        row_shape=(num_prompts, group_size),
        num_steps=world.length,
    )
    return TokenTask(task, network, world, reference)
