"""Preference pairs from a reference policy: what DPO is trained on."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from polopt_jax.tasks import TokenTask
from polopt_jax.types import Array, Batch, record


@record
class PreferenceData:
    """P pairs of rows of T tokens; index 0 of the axis of length 2 is the chosen row."""

    obs: Array
    """Input tokens, `[2, P, T]`."""
    action: Array
    """Sampled tokens, `[2, P, T]`."""
    ref_log_prob: Array
    """log-probabilities of the tokens under the reference that sampled them, `[2, P, T]`."""
    usable: Array
    """`[P]` float: 1 where the two rewards differ, 0 where every redraw gave equal ones."""
    redraws: Array
    """`[P]` float: how many times the pair was redrawn."""


def draw_preferences(tokens: TokenTask, key: Array, *, num_pairs: int, max_redraws: int) -> PreferenceData:
    """Pairs of attempts at the same prompt, sampled from the reference, redrawn together until their rewards differ.

    The better one is `chosen`. At most `max_redraws` redraws; a pair that still ties is not usable. All pairs of a
    round are drawn at once, and rounds stop when every pair is settled.
    """
    world_key, key = jax.random.split(key)
    world_ids = jax.random.randint(world_key, (num_pairs,), 0, tokens.num_worlds)

    def draw(key: Array) -> PreferenceData:
        rollout, reward = tokens.draw(tokens.reference, jnp.tile(world_ids, 2), key)
        first, second = reward.reshape(2, num_pairs)

        def ordered(x: Array) -> Array:
            rows = jnp.swapaxes(x, 0, 1).reshape(2, num_pairs, -1)
            return jnp.where((first >= second)[None, :, None], rows, rows[::-1])

        return PreferenceData(
            obs=ordered(rollout.obs),
            action=ordered(rollout.action),
            ref_log_prob=ordered(rollout.log_prob),
            usable=(first != second).astype(jnp.float32),
            redraws=jnp.zeros(num_pairs),
        )

    def redraw(carry: tuple[PreferenceData, Array, Array]) -> tuple[PreferenceData, Array, Array]:
        data, key, rounds = carry
        draw_key, key = jax.random.split(key)
        new = draw(draw_key)
        settled = data.usable > 0

        def keep(old: Array, new: Array) -> Array:
            return jnp.where(settled.reshape((-1, 1) if old.ndim == 3 else (-1,)), old, new)

        kept = jax.tree.map(keep, data, new)
        redraws = jnp.where(settled, data.redraws, data.redraws + 1)
        return replace(kept, redraws=redraws), key, rounds + 1

    draw_key, key = jax.random.split(key)
    unsettled = lambda carry: (carry[0].usable == 0).any() & (carry[2] < max_redraws)  # noqa: E731
    return jax.lax.while_loop(unsettled, redraw, (draw(draw_key), key, jnp.zeros((), jnp.int32)))[0]


def preference_batch(data: PreferenceData, pairs: Array) -> Batch:
    """The pairs of the given indices as a batch `[2, N, T]` for `dpo`; unusable pairs are masked out."""
    obs, action, ref_log_prob = (x[:, pairs] for x in (data.obs, data.action, data.ref_log_prob))
    mask = jnp.broadcast_to((data.usable[pairs] > 0)[None, :, None], action.shape)
    return Batch(obs=obs, action=action, mask=mask, ref_log_prob=ref_log_prob)
