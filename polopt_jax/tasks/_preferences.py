"""Preference pairs from a reference policy: what DPO is trained on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.episodes import to_batch
from polopt_jax.fields import with_fields
from polopt_jax.tasks._groups import GroupTask
from polopt_jax.types import Array, Batch, record


@with_fields
@record
class Preferences:
    """P pairs of attempts at the same prompt."""

    batch: Batch
    """`[2, P, T]`, chosen first; masked out where every redraw gave equal returns. `ref_log_prob` is the sampler's."""
    redraws: Array
    """`[P]` int32: how many times the pair was redrawn."""


def draw_preferences(group: GroupTask, key: Array, *, num_pairs: int, max_redraws: int) -> Preferences:
    """Pairs of attempts at the same prompt, sampled from the reference, redrawn together until their returns differ.

    The better one is chosen. At most `max_redraws` redraws, all at the prompt that was drawn at first; a pair that
    still ties, or that nobody can score, is masked out. All pairs of a round are drawn at once, and rounds stop when
    every pair is settled. Keep `preferences.batch.mask.any((0, 2)).mean()`, the share of usable pairs, in view.

    Raises ValueError if a number is negative or there is no pair.
    """
    if num_pairs < 1 or max_redraws < 0:
        raise ValueError(f"num_pairs must be positive, max_redraws not negative; they are {num_pairs}, {max_redraws}")
    prompt_key, key = jax.random.split(key)
    prompts = group.prompts(prompt_key, num_pairs)
    both = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape)), prompts)

    def draw(key: Array) -> Batch:
        attempts = group.attempt(group.reference, both, key)
        total = attempts.reward.sum(0)
        pairs = to_batch(attempts)
        first_is_better = total[0] >= total[1]
        chosen_first = jax.tree.map(lambda x: _pick(first_is_better, x, jnp.flip(x, axis=0)), pairs)
        usable = jnp.isfinite(total).all(0) & (total[0] != total[1])
        mask = chosen_first.mask & usable[None, :, None]
        return Batch(obs=chosen_first.obs, action=chosen_first.action, mask=mask, ref_log_prob=chosen_first.log_prob)

    def settled(pairs: Batch) -> Array:
        return pairs.mask.any((0, 2))

    def redraw(carry: tuple[Preferences, Array, Array]) -> tuple[Preferences, Array, Array]:
        data, key, rounds = carry
        draw_key, key = jax.random.split(key)
        done = settled(data.batch)
        batch = jax.tree.map(lambda old, new: _pick(done, old, new), data.batch, draw(draw_key))
        return Preferences(batch=batch, redraws=data.redraws + ~done), key, rounds + 1

    draw_key, key = jax.random.split(key)
    first = Preferences(batch=draw(draw_key), redraws=jnp.zeros(num_pairs, jnp.int32))
    unsettled = lambda carry: ~settled(carry[0].batch).all() & (carry[2] < max_redraws)  # noqa: E731
    return jax.lax.while_loop(unsettled, redraw, (first, key, jnp.zeros((), jnp.int32)))[0]


def _pick(pair: Array, one: Array, other: Array) -> Array:
    """The pairs of `one` `[2, P, ...]` where `pair` `[P]` holds, else those of `other`."""
    return jnp.where(pair.reshape(1, -1, *(1 for _ in one.shape[2:])), one, other)
