"""MuJoCo Playground's environments of the DM Control suite behind the environment protocol: `reset` and `step` alone.

Playground is imported on the first call of `playground_env`. Its default physics are Warp's kernels; here they are
those in JAX (`impl="jax"`), which run on every device. Its other suites, of robots, download their meshes when they are
loaded and show observations in parts, and are left out. Its wrappers are not used: they call a time limit a
termination, and throw the last observation of an episode away.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
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

_NAMES = (
    *("AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse"),
    *("CartpoleSwingup", "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard"),
    *("FishSwim", "HopperHop", "HopperStand", "HumanoidRun", "HumanoidStand", "HumanoidWalk", "PendulumSwingup"),
    *("PointMass", "ReacherEasy", "ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)


class MissingPlayground(ValueError):
    """Playground is not installed; the message says how to install it."""


def playground_names() -> tuple[str, ...]:
    """The names that `playground_env` knows, in alphabetical order. Does not import Playground.

    >>> len(playground_names())
    25
    """
    return _NAMES


def has_playground() -> bool:
    """Whether Playground is installed. Does not import it.

    >>> has_playground() in (True, False)
    True
    """
    return importlib.util.find_spec("mujoco_playground") is not None


@record
class PlaygroundState:
    """What one environment of Playground's carries from step to step."""

    physics: tuple[Array, ...]
    """The leaves of Playground's state that the next step reads."""
    steps: Array
    """Steps taken in this episode, `[]` int32."""


@dataclass(frozen=True, eq=False)
class PlaygroundEnv:
    """An environment of Playground's; made by `playground_env`. Compared and hashed by identity."""

    name: str
    episode_length: int
    obs_shape: tuple[int, ...]
    action_space: Box
    _env: Any
    _carry: Carry

    def reset(self, key: Array) -> tuple[PlaygroundState, Array]:
        """A fresh initial state and its observation. `key` may be typed or legacy, of any implementation."""
        with as_mujoco_expects():
            state = _reset(self._env, key)
        return self._state(state, jnp.int32(0)), state.obs.astype(jnp.float32)

    def step(self, state: PlaygroundState, action: Array, key: Array) -> EnvStep:
        """One step with `action` `[A]` clipped to [-1, 1]. The dynamics are deterministic: `key` is not used."""
        del key
        action = jnp.clip(action.astype(jnp.float32), -1.0, 1.0)
        with as_mujoco_expects():
            after = self._env.step(self._carry.unpack(state.physics), action)
        steps = state.steps + 1
        terminated = jnp.asarray(after.done) > 0.5
        return EnvStep(
            state=self._state(after, steps),
            obs=after.obs.astype(jnp.float32),
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=terminated,
            truncated=(steps >= self.episode_length) & ~terminated,
        )

    def bodies(self) -> Bodies:
        """What the environment looks like, in the frames that `poses` gives: capsules and spheres, and nothing else."""
        return model_bodies(self._env.mj_model, seconds_per_step=float(self._env.dt))

    def posed(self) -> PlaygroundEnv:
        """The same environment, whose states carry the poses of the bodies as well."""
        return replace(self, _carry=self._carry.also(lambda state: (state.data.xpos, state.data.xquat)))

    def poses(self, state: PlaygroundState) -> tuple[Array, Array]:
        """Positions `[L, 3]` and unit quaternions (w, x, y, z) `[L, 4]` of the bodies in a state of `posed()`.

        Raises ValueError if the environment is not a posed one: its states do not have them.
        """
        if self.posed()._carry.kept != self._carry.kept:
            raise ValueError("poses: the states of this environment do not have them; those of its posed() do")
        data = self._carry.unpack(state.physics).data
        return data.xpos[1:], data.xquat[1:]

    def _state(self, state: Any, steps: Array) -> PlaygroundState:
        return PlaygroundState(physics=self._carry.pack(state), steps=steps)


def playground_env(name: str, *, episode_length: int = 1000) -> PlaygroundEnv:
    """An environment of MuJoCo Playground's DM Control suite that tells a time limit apart and never resets itself.

    Args:
      name: one of `playground_names()`.
      episode_length: steps after which an episode is truncated.

    Returns:
      An `Environment`. `truncated` is the time limit. `terminated` is Playground's own `done`: nothing in this suite
      ends before its time, except where the physics are no longer finite. `obs` after the last step is the true final
      observation. Observations are float32 `[obs_size]`, actions `Box(action_size)`. There are no outcome features.

    Raises:
      MissingPlayground: the package is not installed.
      ValueError: `name` is unknown (the message has the nearest known one), or `episode_length < 1`.

    Nothing is compiled: shapes come from tracing, which takes a second or two, and the first call also imports
    Playground (several seconds). The reference is Zakka et al. (2025), "MuJoCo Playground", arXiv:2502.08844.

    >>> playground_env("CartpoleBalanse")
    Traceback (most recent call last):
    ValueError: name 'CartpoleBalanse' is unknown; did you mean 'CartpoleBalance'? Known: ...
    """
    check_known("name", name, _NAMES)
    if episode_length < 1:
        raise ValueError(f"episode_length must be at least 1, got {episode_length}")
    suite = _import_playground(name)
    config = suite.get_default_config(name)
    config.impl = "jax"
    with jax.ensure_compile_time_eval(), quiet_model_loading():
        env = suite.load(name, config=config)

    def step(state: Any, action: Array) -> tuple[Any, Any]:
        after = env.step(state, action)
        return after, (after.obs, after.reward, after.done)

    with as_mujoco_expects():
        state = jax.eval_shape(lambda key: _reset(env, key), jax.random.key(0))
        carry = carry_of(step, state, jax.ShapeDtypeStruct((env.action_size,), jnp.float32))
    return PlaygroundEnv(
        name=name,
        episode_length=episode_length,
        obs_shape=state.obs.shape,
        action_space=Box(env.action_size),
        _env=env,
        _carry=carry,
    )


def _reset(env: Any, key: Array) -> Any:
    """Playground's reset. Its states keep the key, so that is of one kind, whatever ours."""
    return env.reset(jax.random.PRNGKey(jax.random.bits(key, dtype=jnp.uint32)))


def _import_playground(name: str) -> Any:
    """`mujoco_playground.dm_control_suite`. Its first import prints to stdout and warns of what it itself imports."""
    if not has_playground():
        raise MissingPlayground(f"{name} needs the package playground: pip install 'polopt-jax[playground]'")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("mujoco_playground").dm_control_suite
