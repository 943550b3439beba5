"""What is made of a rollout: whole episodes, features of an episode, a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.guards import finite_at
from polopt_jax.masking import zero_where_masked
from polopt_jax.types import Array, Batch, Rollout


def per_episode(feature: Callable[..., Any], rollout: Rollout, *row_arguments: Any) -> Any:
    """A function of one episode, at every row of a rollout: leaves `[...]`, the row axes.

    `feature(episode, *arguments)` sees one row, every field `[T, ...]`, and that row's entry of each of
    `row_arguments` (trees of leading shape `[...]`). A row without a real decision gives whatever the function makes of
    zeros; its mask says that nobody may read it.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=2)
    >>> _, rollout = po.unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=5)
    >>> per_episode(lambda episode: episode.reward.sum(), rollout).tolist()
    [5.0, 5.0]
    """
    of_row = feature
    for _ in range(rollout.reward.ndim - 1):
        of_row = jax.vmap(of_row, in_axes=(1, *(0 for _ in row_arguments)))
    return of_row(rollout, *row_arguments)


def to_batch(
    rollout: Rollout, *, advantage: Array | None = None, target: Array | None = None, outcome: Any = None
) -> Batch:
    """A time-major rollout `[T, ...]` as a batch `[..., T]`: the one place where axes are swapped.

    `[T, B]` becomes `[B, T]`, groups `[T, N, G]` become `[N, G, T]`, pairs `[T, 2, N]` become `[2, N, T]`.

    Decisions whose observation, action, log-probability, value, advantage or target is not finite are masked out, and
    their observations replaced by zeros: a NaN *observation* would poison a network whatever a term does with it.
    `(~batch.mask).sum()` counts them.

    Args:
      rollout: of any row axes.
      advantage, target: `[T, ...]`, time first as in the rollout, what some estimator made of the rollout.
      outcome: what happened in each row: a function of an episode (see `per_episode`), or its values, a tree of
        leading shape `[...]`. It stays without T in `batch.outcome`. Rows must be whole episodes (`first_episodes`,
        `episodes`): of one that goes on after an end, or is cut off, it is the outcome of no episode.

    Raises:
      ValueError: mask, log_prob, value, advantage or target has not the reward's shape, or outcome not its row axes; or
        with an outcome, where that can be seen (nothing is traced), a row goes on after an episode's end.
      TypeError: rollout is no `Rollout`, or its mask not boolean.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> _, rollout = po.unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=5)
    >>> batch = to_batch(rollout, advantage=rollout.reward, outcome=lambda episode: {"sum": episode.reward.sum()})
    >>> batch.mask.shape, batch.outcome["sum"].shape
    ((3, 5), (3,))
    """
    if not isinstance(rollout, Rollout):
        raise TypeError(f"to_batch: rollout must be a po.Rollout; it is {described(rollout)}")
    if getattr(rollout.mask, "dtype", None) != jnp.bool_:
        raise TypeError(f"to_batch: rollout.mask must be boolean; it is {described(rollout.mask)}")
    shape = rollout.reward.shape
    for name in ("mask", "log_prob", "value"):
        x = getattr(rollout, name)
        if x is not None and x.shape != shape:
            raise ValueError(f"to_batch: rollout.{name} must have the shape of its reward, {shape}; it has {x.shape}")
    for name, x in (("advantage", advantage), ("target", target)):
        if isinstance(x, tuple):
            raise TypeError(f"to_batch: {name} must be an array; it is {described(x)}: po.gae returns both of them")
        if x is not None and x.shape != shape:
            raise ValueError(f"to_batch: {name} must have the rollout's shape [T, ...]={shape}; it has {x.shape}")
    if outcome is not None:
        _check_whole(rollout)
    outcome = per_episode(outcome, rollout) if callable(outcome) else outcome
    for x in jax.tree.leaves(outcome):
        if (own := np.shape(x))[: len(shape) - 1] != shape[1:]:
            raise ValueError(f"to_batch: outcome must have the rollout's row axes {shape[1:]}; it has shape {own}")

    obs_finite = finite_at(rollout.obs, shape)
    numbers = (rollout.action, rollout.log_prob, rollout.value, advantage, target)
    batch = Batch(
        obs=jax.tree.map(lambda x: zero_where_masked(x, obs_finite), rollout.obs),
        action=rollout.action,
        mask=rollout.mask & obs_finite & finite_at(numbers, shape),
        log_prob=rollout.log_prob,
        advantage=advantage,
        value=rollout.value,
        target=target,
    )
    last = len(shape) - 1
    return replace(jax.tree.map(lambda x: jnp.moveaxis(x, 0, last), batch), outcome=outcome)


def _check_whole(rollout: Rollout) -> None:
    """Raises ValueError if a row goes on after an end: it holds more than one episode."""
    ended = rollout.terminated | rollout.truncated
    goes_on = (rollout.mask & (jnp.cumsum(ended, axis=0) - ended > 0)).any()
    if not isinstance(goes_on, jax.core.Tracer) and bool(goes_on):
        raise ValueError(
            "to_batch: an outcome is of whole episodes, and a row of this rollout goes on after an end; "
            "po.first_episodes(rollout) has one episode a row"
        )


def episodes(rollout: Rollout, *, max_length: int, num_episodes: int) -> tuple[Rollout, Array]:
    """Cuts a rollout that began at episode starts into whole episodes, one per column.

    Returns `(whole, dropped)`: a rollout `[max_length, num_episodes]` with one complete episode per column, padded and
    masked out beyond its end (and in columns left over), and the number of episodes that are *not* in it: those still
    running at the end of the window, those whose environment broke (a step that is masked out and truncated), those
    longer than `max_length`, and those beyond `num_episodes`. Sequence-level terms, outcomes and trajectory divergences
    need such rows. Other steps that are masked out, such as the context of an answer, stay in their episode, masked
    out, and count in its length.

    A window cuts long episodes more often than short ones, so short ones are over-represented here. Where the *law* of
    what happens is to be estimated, take `first_episodes` instead.

    An episode that a time limit ended just before a step that broke cannot be told from one that was broken, and is
    dropped as well (the two count as one).

    Raises ValueError if a size is not positive or the rollout is not `[T, B]`.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> _, rollout = po.unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=8)
    >>> whole, dropped = episodes(rollout, max_length=6, num_episodes=4)
    >>> whole.mask.sum(0).tolist(), int(dropped)       # three of 5 steps, one column left over, three cut short
    ([5, 5, 5, 0], 3)
    """
    if max_length < 1 or num_episodes < 1:
        raise ValueError(f"max_length and num_episodes must be positive; they are {max_length} and {num_episodes}")
    if rollout.reward.ndim != 2:
        raise ValueError(f"episodes needs a rollout [T, B]; its reward has shape {rollout.reward.shape}")
    done, broke = rollout.terminated | rollout.truncated, _broke(rollout)
    cut_by_break = _cut_by_break(rollout)
    number_before = jnp.cumsum(done, axis=0) - done
    per_env = done.sum(0)
    first_id = jnp.cumsum(per_env) - per_env
    piece = jnp.where(number_before < per_env, first_id + number_before, done.size)
    times = jnp.arange(done.shape[0])[:, None]
    start_time = jax.lax.cummax(jnp.where(jnp.roll(done, 1, axis=0).at[0].set(True), times, 0), axis=0)
    position = jnp.broadcast_to(times, done.shape) - start_time
    length = jnp.zeros(done.size, jnp.int32).at[piece].max(position + 1, mode="drop")
    broken = jnp.zeros(done.size, bool).at[piece].max(broke | cut_by_break, mode="drop")
    fits = (length > 0) & (length <= max_length) & ~broken
    column = jnp.where(fits, jnp.cumsum(fits) - 1, num_episodes)
    column = jnp.where(piece < done.size, column[jnp.minimum(piece, done.size - 1)], num_episodes)

    def gather(x: Array) -> Array:
        out = jnp.zeros((max_length, num_episodes, *x.shape[2:]), x.dtype)
        return out.at[position, column].set(x, mode="drop")

    running = (rollout.mask & (number_before == per_env)).any(0)  # what follows the last end, unless nobody decided it
    total = per_env.sum() - cut_by_break.sum() + running.sum()
    return jax.tree.map(gather, rollout), total - jnp.minimum(fits.sum(), num_episodes)


def _broke(rollout: Rollout) -> Array:
    """Steps in which the environment broke, `[T, B]` bool: `unroll` masks them out *and* ends their episode.

    What is masked out for another reason, because nobody decided it, is not truncated.
    """
    return ~rollout.mask & rollout.truncated


def _cut_by_break(rollout: Rollout) -> Array:
    """Steps recorded as truncated because the environment broke in the next one, `[T, B]` bool."""
    broke = _broke(rollout)
    followed = jnp.concatenate([broke[1:], jnp.zeros_like(broke[:1])])
    return followed & rollout.truncated & ~rollout.terminated & ~broke


def first_episodes(rollout: Rollout) -> tuple[Rollout, Array]:
    """The first episode of every column of a rollout that began at episode starts; what follows it is masked out.

    Returns `(whole, dropped)`: a rollout `[T, ...]` with one whole episode in each column and zeros after its end, and
    the number of columns without one (masked out altogether): those whose first episode was still running at the end of
    the window or whose environment broke. Other masked steps, such as the context of an answer, stay. With T at least
    the longest episode, nothing is dropped for its length, and the columns are independent samples of the law of
    episodes: what laws of outcomes are estimated from. (An episode that a time limit ended just before the next one
    broke in its first step cannot be told from a broken one, and is dropped too.)

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> _, rollout = po.unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=8)
    >>> whole, dropped = first_episodes(rollout)
    >>> whole.mask.sum(0).tolist(), int(dropped)
    ([5, 5, 5], 0)
    """
    done, broke = rollout.terminated | rollout.truncated, _broke(rollout)
    first = jnp.cumsum(done, axis=0) - done == 0
    whole = done.any(0) & ~(first & (broke | _cut_by_break(rollout))).any(0)
    keep = first & whole[None]
    return jax.tree.map(lambda x: zero_where_masked(x, keep), rollout), (~whole).sum()


def final_step(episode: Rollout) -> Rollout:
    """The last real step of one episode `[T]`, every field without T: `final_step(episode).outcome["goal"]`.

    For feature functions (`per_episode`, `to_batch(outcome=)`). Of an empty episode it is the first, masked step.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> _, rollout = po.unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=8)
    >>> whole, _ = first_episodes(rollout)
    >>> per_episode(lambda episode: final_step(episode).truncated, whole).tolist()
    [True, True, True]
    """
    index = jnp.max(jnp.where(episode.mask, jnp.arange(episode.mask.shape[0]), 0))
    return jax.tree.map(lambda x: x[index], episode)
