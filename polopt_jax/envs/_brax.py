"""The Brax environments behind the environment protocol: `reset` and `step`, and nothing else of Brax.

Brax is imported on the first call of `brax_env`, not when this module is imported. Its trainers, its auto-reset
(which throws the last observation of an episode away) and its episode wrapper (which calls a time limit a
termination) are not used.

How Brax reads an action, for all eleven environments: it is clipped to the range of the actuator. That range is
[-1, 1], or [-1, 1] is first mapped to it (humanoid, humanoidstandup, pusher, inverted_pendulum). The control
cost, however, is taken on the action as given. The adapter clips to [-1, 1] first, so the forces are Brax's, and
an action outside the box costs what the action that was applied costs.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import types
import warnings
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.envs._bodies import Bodies, model_bodies
from polopt_jax.envs._carry import Carry, carry_of
from polopt_jax.envs._mujoco import as_mujoco_expects, check_known, quiet_model_loading
from polopt_jax.envs._protocol import Box, EnvStep
from polopt_jax.types import Array, record

_BACKENDS = ("generalized", "spring", "positional", "mjx")

_RUNNERS = ("ant", "halfcheetah", "hopper", "humanoid", "walker2d")
_REACHERS = ("pusher", "reacher")
_OTHERS = ("humanoidstandup", "inverted_double_pendulum", "inverted_pendulum", "swimmer")


def brax_names() -> tuple[str, ...]:
    """The names that `brax_env` knows, in alphabetical order. Does not import Brax.

    >>> len(brax_names())
    11
    """
    return tuple(sorted(_RUNNERS + _REACHERS + _OTHERS))


def brax_backends(name: str) -> tuple[str, ...]:
    """The physics backends of environment `name`. Does not import Brax.

    Raises:
      ValueError: `name` is unknown; the message has the nearest known name.

    >>> brax_backends("swimmer")
    ('generalized',)
    >>> brax_backends("ant")
    ('generalized', 'spring', 'positional', 'mjx')
    """
    check_known("name", name, brax_names())
    return ("generalized",) if name == "swimmer" else _BACKENDS


@record
class BraxState:
    """What one Brax environment carries from step to step."""

    physics: tuple[Array, ...]
    """The leaves of Brax's pipeline state that the next step reads. The others it overwrites unread."""
    steps: Array
    """Steps taken in this episode, `[]` int32."""


@dataclass(frozen=True, eq=False)
class BraxEnv:
    """A Brax environment; made by `brax_env`. Compared and hashed by identity, so it can be a static argument."""

    name: str
    backend: str
    episode_length: int
    obs_shape: tuple[int, ...]
    action_space: Box
    _env: Any
    _carry: Carry

    def reset(self, key: Array) -> tuple[BraxState, Array]:
        """A fresh initial state and its observation. `key` may be typed or legacy, of any implementation."""
        with as_mujoco_expects():
            state = self._env.reset(key)
        return self._state(state.pipeline_state, jnp.int32(0)), state.obs.astype(jnp.float32)

    def step(self, state: BraxState, action: Array, key: Array) -> EnvStep:
        """One step with `action` `[A]` clipped to [-1, 1]. Brax's dynamics are deterministic: `key` is not used."""
        del key
        action = jnp.clip(action.astype(jnp.float32), -1.0, 1.0)
        with as_mujoco_expects():
            after = _brax_step(self._env, self._carry.unpack(state.physics), action)
            outcome = _outcome(self.name, after)
        steps = state.steps + 1
        terminated = jnp.asarray(after.done) > 0.5
        return EnvStep(
            state=self._state(after.pipeline_state, steps),
            obs=after.obs.astype(jnp.float32),
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=terminated,
            truncated=jnp.logical_and(steps >= self.episode_length, jnp.logical_not(terminated)),
            outcome=outcome,
        )

    def bodies(self) -> Bodies:
        """What the environment looks like: the capsules and spheres of its links, in the frames that `poses` gives."""
        return model_bodies(self._env.sys.mj_model, seconds_per_step=float(self._env.dt))

    def posed(self) -> BraxEnv:
        """The same environment, whose states carry the poses of the links as well. Its steps take a little longer."""
        return replace(self, _carry=self._carry.also(lambda physics: physics.x))

    def poses(self, state: BraxState) -> tuple[Array, Array]:
        """Positions `[L, 3]` and unit quaternions (w, x, y, z) `[L, 4]` of the links in a state of `posed()`.

        Raises ValueError if the environment is not a posed one: its states do not have them.
        """
        if self.posed()._carry.kept != self._carry.kept:
            raise ValueError("poses: the states of this environment do not have them; those of its posed() do")
        links = self._carry.unpack(state.physics).x
        return links.pos, links.rot

    def _state(self, pipeline_state: Any, steps: Array) -> BraxState:
        return BraxState(physics=self._carry.pack(pipeline_state), steps=steps)


def brax_env(name: str, *, backend: str = "spring", episode_length: int = 1000) -> BraxEnv:
    """A Brax environment that tells terminations from time limits and never resets itself.

    Args:
      name: one of `brax_names()`.
      backend: one of `brax_backends(name)`.
      episode_length: steps after which an episode that has not terminated is truncated.

    Returns:
      An `Environment`. `terminated` is Brax's own `done` (a fall), `truncated` the time limit, never both, and
      `obs` after the last step is the true final observation. Observations are float32 `[obs_size]`, actions
      `Box(action_size)`. Outcome features, float32 `[]` each: for ant, halfcheetah, hopper, humanoid and walker2d
      `x_position` (m), `x_velocity` (m/s) and `upright` (the cosine of the torso's tilt: 1 upright, -1 upside
      down); for swimmer `x_position` and `x_velocity`; for pusher and reacher `target_distance` (m); else none.

    Raises:
      ValueError: `name` or `backend` is unknown (the message has the nearest known one), or `episode_length < 1`.

    Nothing is compiled: shapes come from tracing, which takes about half a second, and the first call also imports
    Brax (a second). Nothing is printed to stdout. The reference for the physics is Freeman et al. (2021), "Brax",
    arXiv:2106.13281.

    >>> env = brax_env("inverted_pendulum")
    >>> env.obs_shape, env.action_space
    ((4,), Box(size=1))
    >>> state, obs = jax.jit(env.reset)(jax.random.key(0))
    >>> bool(jax.jit(env.step)(state, jnp.zeros(1), jax.random.key(1)).terminated)
    False
    """
    check_known("backend", backend, brax_backends(name))
    if episode_length < 1:
        raise ValueError(f"episode_length must be at least 1, got {episode_length}")
    envs = _import_brax()
    with jax.ensure_compile_time_eval(), quiet_model_loading():
        env = envs.get_environment(name, backend=backend)

    def step(physics: Any, action: Array) -> tuple[Any, Any]:
        after = _brax_step(env, physics, action)
        return after.pipeline_state, (after.obs, after.reward, after.done, after.metrics)

    with as_mujoco_expects():
        state = jax.eval_shape(env.reset, jax.random.key(0))
        action = jax.ShapeDtypeStruct((env.action_size,), jnp.float32)
        carry = carry_of(step, state.pipeline_state, action)
    return BraxEnv(
        name=name,
        backend=backend,
        episode_length=episode_length,
        obs_shape=state.obs.shape,
        action_space=Box(env.action_size),
        _env=env,
        _carry=carry,
    )


def _brax_step(env: Any, physics: Any, action: Array) -> Any:
    """Brax's step from a pipeline state. It reads nothing else of Brax's state, except a `done` that it passes on."""
    from brax.envs import State

    zero = jnp.float32(0.0)
    return env.step(State(physics, zero, zero, zero, {}, {}), action)


def _outcome(name: str, state: Any) -> dict[str, Array]:
    metrics = state.metrics
    if name in _REACHERS:
        return {"target_distance": -metrics["reward_dist"].astype(jnp.float32)}
    if name not in (*_RUNNERS, "swimmer"):
        return {}
    features = {feature: metrics[feature].astype(jnp.float32) for feature in ("x_position", "x_velocity")}
    if name in _RUNNERS:
        _, x, y, _ = state.pipeline_state.x.rot[0]
        features["upright"] = (1.0 - 2.0 * (x**2 + y**2)).astype(jnp.float32)
    return features


def _import_brax() -> Any:
    """`brax.envs`. Its first import prints to stdout and warns of packages that it itself imports."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import brax.envs
        import brax.fluid
    if brax.fluid.jp is jnp and "a_min" not in inspect.signature(jnp.clip).parameters:
        # brax 0.14.2 calls jnp.clip(x, a_min=...), which JAX removed: without this the swimmer cannot step.
        brax.fluid.jp = types.SimpleNamespace(**{**vars(jnp), "clip": _legacy_clip})
    return brax.envs


def _legacy_clip(x: Array, a_min: Any = None, a_max: Any = None) -> Array:
    return jnp.clip(x, a_min, a_max)
