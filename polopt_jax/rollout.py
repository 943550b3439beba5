"""From an environment to a batch: `start`, `unroll`, `episodes`, `per_episode`, `to_batch`. It knows of no loss."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.envs._protocol import Environment
from polopt_jax.masking import zero_where_masked
from polopt_jax.types import Array, Batch, Obs, Outputs, Rollout, record

RESTART_EVERY = 32
"""`unroll` draws a new pool of initial states at least every so many steps."""


@record
class EpisodeStats:
    """What happened to episodes during one `unroll`; scalars `[]`, summed over environments."""

    finished: Array
    """Episodes that ended."""
    return_sum: Array
    """Sum of their undiscounted returns."""
    length_sum: Array
    """Sum of their lengths, in steps."""
    nonfinite: Array
    """Steps whose state, observation or reward was not finite; each of them restarted its environment."""


@record
class LoopState:
    """B environments in mid-course, between two calls of `unroll`."""

    env: Any
    """The environments' states, leading axis `[B]`."""
    obs: Obs
    """The current observations, `[B, ...]`."""
    episode_return: Array
    """Undiscounted return of the running episode so far, `[B]`."""
    episode_length: Array
    """Steps of the running episode so far, `[B]` int32."""
    stats: EpisodeStats
    """Statistics of the last `unroll`."""


def _no_stats() -> EpisodeStats:
    zero = jnp.zeros(())
    return EpisodeStats(finished=zero, return_sum=zero, length_sum=zero, nonfinite=zero)


def start(env: Environment, key: Array, *, num_envs: int) -> LoopState:
    """`num_envs` environments, each at a fresh initial state: what the first `unroll` goes on from.

    Raises ValueError if `num_envs` is not positive.

    >>> from polopt_jax.envs import TimeLimit
    >>> start(TimeLimit(limit=5), jax.random.key(0), num_envs=3).episode_length.tolist()
    [0, 0, 0]
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1; it is {num_envs}")
    state, obs = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    return LoopState(
        env=state,
        obs=obs,
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        stats=_no_stats(),
    )


def _rows_finite(tree: Any) -> Array:
    """`[B]` bool: every float of the row is finite, over all leaves `[B, ...]`.

    One test of the leaves side by side: a test of each leaf made a step of small physics 5% slower on a CPU.
    """
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    widest = jnp.float64 if any(x.dtype == jnp.float64 for x in leaves) else jnp.float32
    return jnp.isfinite(jnp.concatenate([x.astype(widest).reshape(x.shape[0], -1) for x in leaves], axis=-1)).all(-1)


def _select_rows(condition: Array, new: Any, old: Any) -> Any:
    """Rows of `new` where `condition` `[B]` holds, else of `old`."""
    pick = lambda n, o: jnp.where(condition.reshape(condition.shape + (1,) * (n.ndim - 1)), n, o)  # noqa: E731
    return jax.tree.map(pick, new, old)


def _step(
    env: Environment, act: Callable[[Obs], Outputs], pool: tuple[Any, Obs], loop: LoopState, key: Array, shift: Array
) -> tuple[LoopState, Rollout]:
    """One step of every environment; those that ended or broke restart from the pool."""
    act_key, env_key = jax.random.split(key)
    outputs = act(loop.obs)
    action = outputs.policy.sample(seed=act_key)
    num_envs = loop.episode_length.shape[0]
    step = jax.vmap(env.step)(loop.env, outputs.policy.squash(action), jax.random.split(env_key, num_envs))
    finite = _rows_finite((step.state, step.obs, step.reward))
    done = step.terminated | step.truncated | ~finite
    next_obs = _select_rows(finite, step.obs, loop.obs)
    reward = jnp.where(finite, step.reward, 0)
    rollout = Rollout(
        obs=loop.obs,
        action=action,
        log_prob=outputs.policy.log_prob(action),
        reward=reward,
        terminated=step.terminated & finite,
        truncated=step.truncated | ~finite,
        next_obs=next_obs,
        mask=finite,
        value=outputs.value,
        outcome=jax.tree.map(lambda x: jnp.where(finite, x, 0), step.outcome),
    )
    episode_return, episode_length = loop.episode_return + reward, loop.episode_length + 1
    ended = (done & finite).astype(jnp.float32)
    stats = EpisodeStats(
        finished=loop.stats.finished + ended.sum(),
        return_sum=loop.stats.return_sum + (ended * episode_return).sum(),
        length_sum=loop.stats.length_sum + (ended * episode_length.astype(jnp.float32)).sum(),
        nonfinite=loop.stats.nonfinite + (~finite).sum().astype(jnp.float32),
    )
    fresh = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, shift % num_envs, num_envs), pool)
    state, obs = _select_rows(done, fresh, (step.state, next_obs))
    return LoopState(
        env=state,
        obs=obs,
        episode_return=jnp.where(done, 0, episode_return),
        episode_length=jnp.where(done, 0, episode_length),
        stats=stats,
    ), rollout


def unroll(
    env: Environment, act: Callable[[Obs], Outputs], loop: LoopState, key: Array, *, num_steps: int
) -> tuple[LoopState, Rollout]:
    """Runs B environments for `num_steps` steps under a policy.

    `act(obs)` is a model bound to its parameters (and to a normaliser, if there is one); it is sent observations
    `[B, ...]`. Episodes that end restart from *fresh* initial states. Those come from a pool of B states that is drawn
    anew at least every 32 steps and read at a shifting offset, so that restarting costs one reset per environment
    and pool rather than one per step; within the life of a pool two episodes may share a start.

    A step after which state, observation or reward of an environment is not finite is counted, masked out
    (`rollout.mask`), recorded as truncated with reward 0, and restarts that environment and no other. The step before
    it is recorded as truncated at the state that broke, so that nothing is bootstrapped through it.

    Args:
      env: an unbatched `Environment`. loop: from `po.start` or an earlier `unroll`.
      key: randomness of actions, dynamics and restarts.
      num_steps: T.

    Returns:
      `(loop, rollout)`: the state to go on from, whose `stats` tell of this call alone, and a `[T, B]` `Rollout`
      with the true final observations in `next_obs`.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> loop, rollout = unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=10)
    >>> rollout.reward.shape, float(loop.stats.finished)
    ((10, 3), 6.0)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; it is {num_steps}")
    num_envs = loop.episode_length.shape[0]
    length = max(d for d in range(1, min(num_steps, RESTART_EVERY) + 1) if num_steps % d == 0)
    stride = max(1, int(0.618 * num_envs))

    def segment(loop: LoopState, key: Array) -> tuple[LoopState, Rollout]:
        pool_key, steps_key = jax.random.split(key)
        pool = jax.vmap(env.reset)(jax.random.split(pool_key, num_envs))
        pool = jax.tree.map(lambda x: jnp.concatenate([x, x]), pool)  # so that a shifted reading is one slice
        steps = (jax.random.split(steps_key, length), stride * jnp.arange(length))
        return jax.lax.scan(lambda loop, step: _step(env, act, pool, loop, *step), loop, steps)

    loop = replace(loop, stats=_no_stats())
    loop, rollout = jax.lax.scan(segment, loop, jax.random.split(key, num_steps // length))
    rollout = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), rollout)
    broken_next = jnp.concatenate([~rollout.mask[1:], jnp.zeros_like(rollout.mask[:1])])
    rollout = replace(rollout, truncated=rollout.truncated | (broken_next & ~rollout.terminated))
    if rollout.value is None:
        return loop, rollout
    return loop, replace(rollout, next_value=_next_value(act, loop.obs, rollout.value, rollout))


def _next_value(act: Callable[[Obs], Any], obs: Obs, value: Array, rollout: Rollout) -> Array:
    """`Rollout.next_value` `[T, B]`; `obs` are the observations that the next rollout will begin with.

    Where the episode goes on, the next observation is the one that the next decision was taken on, and its value is
    known. The critic is asked again only for the last step and for the steps in which some episode was cut short.
    """

    def at_cuts(step: tuple[Array, Obs]) -> Array:
        cut, next_obs = step
        return jax.lax.cond(cut.any(), lambda: act(next_obs).value, lambda: jnp.zeros_like(value[0]))

    following = jnp.concatenate([value[1:], act(obs).value[None]])
    cut_value = jax.lax.map(at_cuts, (rollout.truncated, rollout.next_obs))
    return jnp.where(rollout.terminated, 0, jnp.where(rollout.truncated, cut_value, following))


def per_episode(feature: Callable[..., Any], rollout: Rollout, *row_arguments: Any) -> Any:
    """A function of one episode, at every row of a rollout: leaves `[...]`, the row axes.

    `feature(episode, *arguments)` sees one row, every field `[T, ...]`, and that row's entry of each of
    `row_arguments` (trees of leading shape `[...]`). A row without a real decision gives whatever the function makes of
    zeros; its mask says that nobody may read it.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = start(TimeLimit(limit=5), jax.random.key(0), num_envs=2)
    >>> _, rollout = unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=5)
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

    Decisions whose observation, action, log-probability, advantage or target is not finite are masked out, and their
    observations replaced by zeros: a NaN *observation* would poison a network whatever a term does with the result.
    `(~batch.mask).sum()` counts them.

    Args:
      rollout: of any row axes.
      advantage, target: `[T, ...]`, what some estimator made of the rollout.
      outcome: what happened in each row: a function of an episode (see `per_episode`), or its values, a tree of
        leading shape `[...]`. It stays without T in `batch.outcome`. Meant for whole episodes (`episodes`).

    Raises:
      ValueError: advantage or target has not the rollout's shape, or outcome not its row axes.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import ActionReward
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))
    >>> loop = start(ActionReward(), jax.random.key(0), num_envs=3)
    >>> _, rollout = unroll(ActionReward(), act, loop, jax.random.key(1), num_steps=5)
    >>> batch = to_batch(rollout, advantage=rollout.reward, outcome=lambda episode: {"sum": episode.reward.sum()})
    >>> batch.mask.shape, batch.outcome["sum"].shape
    ((3, 5), (3,))
    """
    shape = rollout.reward.shape
    for name, x in (("advantage", advantage), ("target", target)):
        if x is not None and x.shape != shape:
            raise ValueError(f"to_batch: {name} must have the rollout's shape [T, ...]={shape}; it has {x.shape}")
    outcome = per_episode(outcome, rollout) if callable(outcome) else outcome
    for x in jax.tree.leaves(outcome):
        if x.shape[: len(shape) - 1] != shape[1:]:
            raise ValueError(f"to_batch: outcome must have the rollout's row axes {shape[1:]}; it has shape {x.shape}")

    def finite(tree: Any) -> Array:
        flat = [x.reshape(math.prod(shape), *x.shape[len(shape) :]) for x in jax.tree.leaves(tree)]
        floats = [x for x in flat if jnp.issubdtype(x.dtype, jnp.floating)]
        return _rows_finite(floats).reshape(shape) if floats else jnp.ones(shape, bool)

    obs_finite = finite(rollout.obs)
    batch = Batch(
        obs=jax.tree.map(lambda x: zero_where_masked(x, obs_finite), rollout.obs),
        action=rollout.action,
        mask=rollout.mask & obs_finite & finite((rollout.action, rollout.log_prob, advantage, target)),
        log_prob=rollout.log_prob,
        advantage=advantage,
        value=rollout.value,
        target=target,
    )
    last = len(shape) - 1
    return replace(jax.tree.map(lambda x: jnp.moveaxis(x, 0, last), batch), outcome=outcome)


def episodes(rollout: Rollout, *, max_length: int, num_episodes: int) -> tuple[Rollout, Array]:
    """Cuts a rollout that began at episode starts into whole episodes, one per column.

    Returns `(whole, dropped)`: a rollout `[max_length, num_episodes]` with one complete episode per column, padded and
    masked out beyond its end (and in columns left over), and the number of episodes that are *not* in it: those still
    running at the end of the window, those whose environment broke, those longer than `max_length`, and those beyond
    `num_episodes`. Sequence-level terms, outcomes and trajectory divergences need such rows.

    An episode that a time limit ended just before a step that broke cannot be told from one that was broken, and is
    dropped as well (the two count as one).

    Raises ValueError if a size is not positive or the rollout is not `[T, B]`.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> _, rollout = unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=8)
    >>> whole, dropped = episodes(rollout, max_length=6, num_episodes=4)
    >>> whole.mask.sum(0).tolist(), int(dropped)       # three of 5 steps, one column left over, three cut short
    ([5, 5, 5, 0], 3)
    """
    if max_length < 1 or num_episodes < 1:
        raise ValueError(f"max_length and num_episodes must be positive; they are {max_length} and {num_episodes}")
    if rollout.reward.ndim != 2:
        raise ValueError(f"episodes needs a rollout [T, B]; its reward has shape {rollout.reward.shape}")
    done, broke = rollout.terminated | rollout.truncated, ~rollout.mask
    followed_by_break = jnp.concatenate([broke[1:], jnp.zeros_like(broke[:1])])
    cut_by_break = followed_by_break & rollout.truncated & ~rollout.terminated & ~broke
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

    running = ~done[-1]
    total = per_env.sum() - cut_by_break.sum() + running.sum()
    return jax.tree.map(gather, rollout), total - jnp.minimum(fits.sum(), num_episodes)
