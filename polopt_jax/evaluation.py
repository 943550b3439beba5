"""What a policy is worth: whole episodes from fresh first states, each counted once; and one of them, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_act, check_outputs
from polopt_jax.envs._check import check_action, check_made, check_reset, check_step
from polopt_jax.envs._memory import handed_on
from polopt_jax.envs._protocol import Environment, EnvStep
from polopt_jax.fields import with_fields
from polopt_jax.guards import finite_at
from polopt_jax.ranges import Count, check_range
from polopt_jax.types import Array, Obs, Outputs, record


@with_fields
@record
class Evaluation:
    """N episodes, each field `[N]`."""

    episode_return: Array
    """Undiscounted; NaN of an episode that did not end, or broke."""
    length: Array
    """Steps taken, int32."""
    ended: Array
    """bool: whether the environment ended it, by a termination or its own time limit."""
    broken: Array
    """bool: whether a state, an observation or a reward was not finite."""
    outcome: dict[str, Array]
    """The outcome features of the last step, as float32."""
    outcome_mean: dict[str, Array]
    """Their means over the steps of the episode."""


@with_fields
@record
class Episode:
    """One episode, step by step, with room for T steps; what lies after its last step is 0."""

    obs: Obs
    """Observation number t is that before step t; the one after the last step is the last. `[T+1, ...]`."""
    shown: Any
    """What `show` says of the states that they are observations of, `[T+1, ...]`."""
    action: Array
    """What the environment was sent, `[T, ...]`."""
    reward: Array
    """`[T]`."""
    outcome: dict[str, Array]
    """Outcome features of each step, as float32, `[T]` each."""
    terminated: Array
    """`[T]` bool."""
    truncated: Array
    """`[T]` bool."""
    length: Array
    """Steps taken, `[]` int32."""
    broken: Array
    """`[]` bool: whether the episode stopped because a state, an observation or a reward was not finite. That step does
    not count."""


@record
class _Course:
    """The episodes so far."""

    state: Any
    obs: Obs
    total: Array
    length: Array
    ended: Array
    broken: Array
    last: dict[str, Array]
    sum: dict[str, Array]

    @property
    def running(self) -> Array:
        return ~(self.ended | self.broken)


def evaluate_policy(
    env: Environment,
    act: Callable[[Obs], Outputs],
    key: Array,
    *,
    episodes: Count = 100,
    max_steps: Count = 10_000,
) -> Evaluation:
    """Runs N = `episodes` environments side by side, each for one whole episode.

    Every episode that begins is counted, once, so that long and short ones weigh alike; a window of `unroll` holds more
    of the short. Nothing is learnt, and no statistics move. Stops when the last one has ended.

    Args:
      env: unbatched.
      act: `obs [N, ...] -> Outputs`: a `Policy`, `po.greedy(policy)`, or any model bound to its parameters.
      key: randomness of first states, actions and dynamics.
      episodes: N.
      max_steps: after so many, episodes that still run are given up; their `ended` is False.

    Returns:
      An `Evaluation`. Means are yours to take: `evaluation.episode_return.mean()` where all ended;
      `jnp.nanmean` is of those that did, and says nothing of the others (look at `ended`).

    Raises:
      ValueError: `episodes` or `max_steps` is not positive.
      TypeError, ValueError: `env` or `act` is not one, as for `unroll`.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> found = po.evaluate_policy(TimeLimit(limit=5), act, jax.random.key(0), episodes=3)
    >>> found.episode_return.tolist(), found.length.tolist()
    ([5.0, 5.0, 5.0], [5, 5, 5])
    """
    check_range("evaluate_policy", Count, episodes=episodes, max_steps=max_steps)
    check_made("evaluate_policy", env)
    check_act("evaluate_policy", act)
    reset_key, key = jax.random.split(key)
    first, _ = _begin(env, act, reset_key, episodes)

    def going(carry: tuple[Array, _Course]) -> Array:
        number, course = carry
        return (number < max_steps) & course.running.any()

    def step(carry: tuple[Array, _Course]) -> tuple[Array, _Course]:
        number, course = carry
        _, after = _step(env, act, course, jax.random.fold_in(key, number))
        return number + 1, _advance(course, after)

    _, done = jax.lax.while_loop(going, step, (jnp.int32(0), first))
    return Evaluation(
        episode_return=jnp.where(done.ended, done.total, jnp.nan),
        length=done.length,
        ended=done.ended,
        broken=done.broken,
        outcome=done.last,
        outcome_mean=jax.tree.map(lambda x: x / jnp.maximum(done.length, 1), done.sum),
    )


def play_episode(
    env: Environment,
    act: Callable[[Obs], Outputs],
    key: Array,
    *,
    max_steps: Count = 1000,
    show: Callable[[Any], Any] = lambda state: (),
) -> Episode:
    """One whole episode, with all that there is to see of it: the one that `evaluate_policy` counts with this key.

    Args:
      env: unbatched.
      act: `obs [1, ...] -> Outputs`: a `Policy`, `po.greedy(policy)`, or any model bound to its parameters.
      key: randomness of the first state, the actions and the dynamics.
      max_steps: T; an episode that takes more is shown so far.
      show: what to keep of each state, a pytree of arrays: `env.poses` of a posed Brax environment, say.

    Returns:
      An `Episode`. The loop stops with it; only the room that it is given is of T steps.

    Raises:
      ValueError: `max_steps` is not positive.
      TypeError, ValueError: `env` or `act` is not one, as for `unroll`.

    >>> import polopt_jax as po
    >>> from polopt_jax.envs import TimeLimit
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))
    >>> seen = po.play_episode(TimeLimit(limit=2), act, jax.random.key(0), max_steps=4)
    >>> int(seen.length), seen.reward.tolist(), seen.truncated.tolist()
    (2, [1.0, 1.0, 0.0, 0.0], [False, True, False, False])
    """
    check_range("play_episode", Count, max_steps=max_steps)
    check_made("play_episode", env)
    check_act("play_episode", act)
    reset_key, key = jax.random.split(key)
    first, steps = _begin(env, act, reset_key, 1)
    tape = jax.tree.map(lambda x: jnp.zeros((max_steps, *x.shape), x.dtype), jax.eval_shape(_taken, *steps))
    views = jax.tree.map(lambda x: jnp.zeros((max_steps + 1, *x.shape), x.dtype).at[0].set(x), _view(first, show))

    def going(carry: tuple[_Course, Any, Any]) -> Array:
        return (carry[0].length[0] < max_steps) & carry[0].running[0]

    def step(carry: tuple[_Course, Any, Any]) -> tuple[_Course, Any, Any]:
        course, tape, views = carry
        number = course.length[0]
        sent, after = _step(env, act, course, jax.random.fold_in(key, number))
        course = _advance(course, after)

        def put(tape: Array, x: Array, place: Array) -> Array:
            return tape.at[place].set(jnp.where(course.broken[0], tape[place], x))

        tape = jax.tree.map(lambda all_, x: put(all_, x, number), tape, _taken(sent, after))
        views = jax.tree.map(lambda all_, x: put(all_, x, number + 1), views, _view(course, show))
        return course, tape, views

    course, tape, (obs, shown) = jax.lax.while_loop(going, step, (first, tape, views))
    return Episode(obs=obs, shown=shown, **tape, length=course.length[0], broken=course.broken[0])


def _view(course: _Course, show: Callable[[Any], Any]) -> tuple[Obs, Any]:
    """The observation of the only episode, and what is shown of its state."""
    obs, state = jax.tree.map(lambda x: x[0], (course.obs, course.state))
    return obs, show(state)


def _taken(sent: Array, step: EnvStep) -> dict[str, Any]:
    """What there is to keep of a step of the only episode."""
    kept = {"action": sent, "reward": step.reward, "outcome": _features(step)}
    flags = {"terminated": step.terminated, "truncated": step.truncated}
    return jax.tree.map(lambda x: jnp.asarray(x)[0], kept | flags)


def _begin(env: Environment, act: Callable[[Obs], Outputs], key: Array, episodes: int) -> tuple[_Course, Any]:
    """N fresh first states, and no outcome yet; and what `_step` returns, as shapes and dtypes."""
    state, obs = check_reset(env, jax.vmap(env.reset)(jax.random.split(key, episodes)))
    course = _Course(
        state=state,
        obs=obs,
        total=jnp.zeros(episodes),
        length=jnp.zeros(episodes, jnp.int32),
        ended=jnp.zeros(episodes, bool),
        broken=jnp.zeros(episodes, bool),
        last={},
        sum={},
    )
    shapes = jax.eval_shape(lambda: _step(env, act, course, key))
    none_yet = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes[1].outcome)
    return replace(course, last=none_yet, sum=none_yet), shapes


def _step(env: Environment, act: Callable[[Obs], Outputs], course: _Course, key: Array) -> tuple[Array, EnvStep]:
    """What is sent, and the step that it makes."""
    act_key, env_key = jax.random.split(key)
    outputs = check_outputs("evaluate_policy", act(course.obs))
    law = outputs.policy
    sent, rows = law.squash(law.sample(seed=act_key)), course.length.shape
    check_action(env, sent, rows)
    step = jax.vmap(env.step)(course.state, sent, jax.random.split(env_key, *rows))
    check_step(env, step, course.state, course.obs, rows)
    return sent, handed_on(env, outputs, step)


def _features(step: EnvStep) -> dict[str, Array]:
    return {name: jnp.asarray(x, jnp.float32) for name, x in step.outcome.items()}


def _advance(course: _Course, step: EnvStep) -> _Course:
    """The episodes that run after a step; the others stay as they are."""
    finite = finite_at((step.state, step.obs, step.reward), course.length.shape)
    sound = course.running & finite

    def where(new: Any, old: Any) -> Any:
        pick = lambda x, y: jnp.where(sound.reshape(-1, *[1] * (x.ndim - 1)), x, y)  # noqa: E731
        return jax.tree.map(pick, new, old)

    features = _features(step)
    return _Course(
        state=where(step.state, course.state),
        obs=where(step.obs, course.obs),
        total=course.total + jnp.where(sound, step.reward, 0),
        length=course.length + sound,
        ended=course.ended | (sound & (step.terminated | step.truncated)),
        broken=course.broken | (course.running & ~finite),
        last=where(features, course.last),
        sum=where(jax.tree.map(jnp.add, course.sum, features), course.sum),
    )
