"""Preference pairs from a reference policy: what DPO is trained on."""

import jax
import jax.numpy as jnp

from polopt_jax.episodes import per_episode, to_batch
from polopt_jax.language._sampler import sample_tokens
from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.types import Array, Batch, Params, record
from polopt_jax.worlds import World


@record
class Preferences:
    """P pairs of answers to the same prompt."""

    batch: Batch
    """`[2, P, T]`, chosen first; masked out where every redraw gave equal rewards. `ref_log_prob` is the sampler's."""
    redraws: Array
    """`[P]` int32: how many times the pair was redrawn."""


def draw_preferences(
    network: TokenNetwork, reference: Params, world: World, key: Array, *, num_pairs: int, max_redraws: int
) -> Preferences:
    """Pairs of answers to the same prompt, sampled from the reference, redrawn together until their rewards differ.

    The better one is chosen. At most `max_redraws` redraws; a pair that still ties, or that nobody can score, is masked
    out. All pairs of a round are drawn at once, and rounds stop when every pair is settled. Keep
    `preferences.batch.mask.any((0, 2)).mean()`, the share of usable pairs, in view.

    Raises ValueError if a number is negative or there is no pair.
    """
    if num_pairs < 1 or max_redraws < 0:
        raise ValueError(f"num_pairs must be positive, max_redraws not negative; they are {num_pairs}, {max_redraws}")
    prompt_key, key = jax.random.split(key)
    prompts = world.prompts(prompt_key, num_pairs)
    both = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape)), prompts)

    def draw(key: Array) -> Batch:
        answers = sample_tokens(network, reference, world.context(both), key, length=world.length)
        reward = per_episode(lambda answer, prompt: world.reward(prompt, answer.action[-world.length :]), answers, both)
        pairs = to_batch(answers)
        first_is_better = (reward[0] >= reward[1])[None, :, None]
        chosen_first = jax.tree.map(lambda x: jnp.where(first_is_better, x, jnp.flip(x, axis=0)), pairs)
        usable = jnp.isfinite(reward).all(0) & (reward[0] != reward[1])
        mask = chosen_first.mask & usable[None, :, None]
        return Batch(obs=chosen_first.obs, action=chosen_first.action, mask=mask, ref_log_prob=chosen_first.log_prob)

    def settled(pairs: Batch) -> Array:
        return pairs.mask.any((0, 2))

    def redraw(carry: tuple[Preferences, Array, Array]) -> tuple[Preferences, Array, Array]:
        data, key, rounds = carry
        draw_key, key = jax.random.split(key)
        done = settled(data.batch)
        batch = jax.tree.map(lambda old, new: jnp.where(done[None, :, None], old, new), data.batch, draw(draw_key))
        return Preferences(batch=batch, redraws=data.redraws + ~done), key, rounds + 1

    draw_key, key = jax.random.split(key)
    first = Preferences(batch=draw(draw_key), redraws=jnp.zeros(num_pairs, jnp.int32))
    unsettled = lambda carry: ~settled(carry[0].batch).all() & (carry[2] < max_redraws)  # noqa: E731
    return jax.lax.while_loop(unsettled, redraw, (first, key, jnp.zeros((), jnp.int32)))[0]
