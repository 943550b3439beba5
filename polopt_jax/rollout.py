"""The environment loop: `start` and `unroll`. It knows of no loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_act, check_outputs, described
from polopt_jax.envs._check import check_action, check_made, check_reset, check_step
from polopt_jax.envs._memory import handed_on
from polopt_jax.envs._protocol import Environment
from polopt_jax.guards import finite_at
from polopt_jax.masking import check_shape
from polopt_jax.ranges import check_sizes
from polopt_jax.restarts import draw_pool, pool_life, read_pool
from polopt_jax.types import Array, Obs, Outputs, Rollout, record


@record
class EpisodeStats:
    """What happened to episodes during one `unroll`; scalars `[]`, summed over environments (within it, `[B]`)."""

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


def _no_stats(shape: tuple[int, ...] = ()) -> EpisodeStats:
    names = ("finished", "return_sum", "length_sum", "nonfinite")
    return EpisodeStats(**{name: jnp.zeros(shape) for name in names})  # a buffer each: a state may be donated


def start(env: Environment, key: Array, *, num_envs: int) -> LoopState:
    """`num_envs` environments, each at a fresh initial state: what the first `unroll` goes on from.

    Raises ValueError if `num_envs` is not positive, TypeError if `env` is no environment or its `reset` does not return
    `(state, obs)`.

    >>> from polopt_jax.envs import TimeLimit
    >>> start(TimeLimit(limit=5), jax.random.key(0), num_envs=3).episode_length.tolist()
    [0, 0, 0]
    """
    check_sizes("start", num_envs=num_envs)
    check_made("start", env)
    return start_from(*check_reset(env, jax.vmap(env.reset)(jax.random.split(key, num_envs))))


def start_from(state: Any, obs: Obs) -> LoopState:
    """Environments at given first states: what `env.reset` returned, with a leading axis `[B]`.

    The observations are copied, as a buffer that is also the state's could not be donated, and no type is weak, as it
    would be another after the first step and all compiled again.

    >>> from polopt_jax.envs import TimeLimit
    >>> state, obs = TimeLimit(limit=5).reset(jax.random.key(0))
    >>> start_from(*jax.tree.map(lambda x: jnp.stack([x] * 3), (state, obs))).episode_length.tolist()
    [0, 0, 0]
    """
    num_envs = jax.tree.leaves(obs)[0].shape[0]
    return LoopState(
        env=jax.tree.map(_strong, state),
        obs=jax.tree.map(lambda x: jnp.copy(_strong(x)), obs),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        stats=_no_stats(),
    )


def _strong(x: Array) -> Array:
    """The same array, of a type that is not weak; keys of random numbers have none."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, x.dtype)


def _select_rows(condition: Array, new: Any, old: Any) -> Any:
    """Rows of `new` where `condition` `[B]` holds, else of `old`."""
    pick = lambda n, o: jnp.where(condition.reshape(condition.shape + (1,) * (n.ndim - 1)), n, o)  # noqa: E731
    return jax.tree.map(pick, new, old)


def _step(
    env: Environment, act: Callable[[Obs], Outputs], fresh: tuple[Any, Obs], loop: LoopState, key: Array
) -> tuple[LoopState, Rollout]:
    """One step of every environment; those that ended or broke restart at their row of `fresh`.

    Nothing is summed over environments, so environments that live on different devices need not meet.
    """
    act_key, env_key = jax.random.split(key)
    outputs = check_outputs("unroll", act(loop.obs))
    action = outputs.policy.sample(seed=act_key)
    rows = loop.episode_length.shape
    if outputs.value is not None:
        check_shape("unroll", "outputs.value", outputs.value, rows, of="the environments")
    sent = outputs.policy.squash(action)
    check_action(env, sent, rows)
    step = jax.vmap(env.step)(loop.env, sent, jax.random.split(env_key, *rows))
    check_step(env, step, loop.env, loop.obs, rows)
    step = handed_on(env, outputs, step)
    finite = finite_at((step.state, step.obs, step.reward), loop.episode_length.shape)
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
        outcome=jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), step.outcome),
    )
    episode_return, episode_length = loop.episode_return + reward, loop.episode_length + 1
    ended = (done & finite).astype(jnp.float32)
    stats = EpisodeStats(
        finished=loop.stats.finished + ended,
        return_sum=loop.stats.return_sum + ended * episode_return,
        length_sum=loop.stats.length_sum + ended * episode_length.astype(jnp.float32),
        nonfinite=loop.stats.nonfinite + (~finite).astype(jnp.float32),
    )
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
    `[B, ...]`. Episodes that end restart from *fresh* initial states, out of a pool of max(B, 64) or fewer that is
    drawn anew every 32 steps or sooner (`polopt_jax.restarts`): where episodes are shorter than that, several begin
    alike (of one step, up to 32 of them). Environments on different devices share nothing while they step: restarts
    stay within gcd(8, B) contiguous groups of environments, and statistics are summed once, at the end.

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

    Raises TypeError or ValueError, when it is traced, if `act` is no function of observations that returns `Outputs`,
    its actions are not of `env.action_space`, or `env.step` returns anything but an `EnvStep` of the shapes that it
    should have (`envs.check_env` looks at more).

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> loop = po.start(TimeLimit(limit=5), jax.random.key(0), num_envs=3)
    >>> loop, rollout = unroll(TimeLimit(limit=5), act, loop, jax.random.key(1), num_steps=10)
    >>> rollout.reward.shape, float(loop.stats.finished)
    ((10, 3), 6.0)
    """
    check_act("unroll", act)
    if not isinstance(loop, LoopState):
        raise TypeError(f"unroll: loop must be what po.start returns; it is {described(loop)}")
    check_sizes("unroll", num_steps=num_steps)
    num_envs = loop.episode_length.shape[0]
    length = pool_life(num_steps)

    def segment(loop: LoopState, key: Array, length: int) -> tuple[LoopState, Rollout]:
        pool_key, steps_key = jax.random.split(key)
        pool = draw_pool(env, pool_key, num_envs=num_envs, num_steps=length)

        def step(loop: LoopState, key_and_offset: tuple[Array, Array]) -> tuple[LoopState, Rollout]:
            key, offset = key_and_offset
            return _step(env, act, read_pool(pool, offset, num_envs=num_envs), loop, key)

        return jax.lax.scan(step, loop, (jax.random.split(steps_key, length), pool.offsets))

    whole, rest = divmod(num_steps, length)
    keys = jax.random.split(key, whole + 1)
    loop = replace(loop, stats=_no_stats((num_envs,)))
    loop, rollout = jax.lax.scan(lambda loop, key: segment(loop, key, length), loop, keys[:whole])
    rollout = jax.tree.map(lambda x: x.reshape(whole * length, *x.shape[2:]), rollout)
    if rest:
        loop, last = segment(loop, keys[whole], rest)
        rollout = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), rollout, last)
    loop = replace(loop, stats=jax.tree.map(jnp.sum, loop.stats))
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
        some_cut, next_obs = step
        return jax.lax.cond(some_cut, lambda: act(next_obs).value, lambda: jnp.zeros_like(value[0]))

    following = jnp.concatenate([value[1:], act(obs).value[None]])
    cut_value = jax.lax.map(at_cuts, (rollout.truncated.any(1), rollout.next_obs))
    return jnp.where(rollout.terminated, 0, jnp.where(rollout.truncated, cut_value, following))
