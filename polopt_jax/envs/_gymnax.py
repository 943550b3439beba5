"""gymnax's environments, and those that have its interface, behind the environment protocol: never reset by themselves.

Nothing is imported: `gymnax_env` takes an environment that is there. gymnax's `step` puts a first observation in place
of an episode's last one, which its `step_env` does not, and its `done` is a fall or a time limit alike, which are told
apart here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.envs._protocol import ActionSpace, Box, Discrete, EnvStep
from polopt_jax.types import Array

LIMIT = "max_steps_in_episode"
"""The field of gymnax's parameters that ends an episode which would go on."""


@dataclass(frozen=True, eq=False)
class GymnaxEnv:
    """An environment of gymnax's; made by `gymnax_env`. Compared and hashed by identity."""

    obs_shape: tuple[int, ...]
    action_space: ActionSpace
    _env: Any
    _params: Any
    _unlimited: Any
    _send: Callable[[Array], Array]
    _like: Any
    """Shapes and dtypes of a state after a step, which the first one may hold as plain numbers."""

    def reset(self, key: Array) -> tuple[Any, Any]:
        """A fresh initial state, gymnax's own, and its observation."""
        obs, state = self._env.reset_env(key, self._params)
        return self._alike(state), _floats(obs)

    def step(self, state: Any, action: Array, key: Array) -> EnvStep:
        """One step with `action`, a choice `[]` or numbers `[size]` in [-1, 1], clipped and stretched to the bounds."""
        sent = self._send(action)
        obs, after, reward, done, _ = self._env.step_env(key, state, sent, self._params)
        # the same step under no limit: XLA keeps one of the two, but for the end
        terminated = jnp.asarray(self._env.step_env(key, state, sent, self._unlimited)[3], bool)
        return EnvStep(
            state=self._alike(after),
            obs=_floats(obs),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=jnp.asarray(done, bool) & ~terminated,
        )

    def _alike(self, state: Any) -> Any:
        return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, self._like)


def gymnax_env(env: Any, params: Any, *, limit: str | None = LIMIT) -> GymnaxEnv:
    """An environment with gymnax's interface that tells a time limit from an end, and never resets itself.

        env = envs.gymnax_env(*gymnax.make("CartPole-v1"))

    Args:
      env: what has gymnax's `reset_env`, `step_env` and `action_space`: of gymnax, Craftax, or your own. No wrapper, as
        gymnax's are asked by `step`, which is not called here. (A task standardises observations and counts returns.)
      params: its parameters, as `env.default_params`.
      limit: the field of `params` that ends an episode which would otherwise go on (Craftax: "max_timesteps"). None if
        every end is one of the task, as that of a bandit which is played a hundred times.

    Returns:
      An `Environment`. `terminated` is whether the step would have been the last without the limit, `truncated` whether
      it is the last because of it. Observations are float32, in the shape that they have there (leaves of a tree keep
      flags and whole numbers); a choice is `Discrete`, a Box of floats `Box(size)`: [-1, 1] is stretched to its bounds,
      and where it has none a number is sent as it is. There are no outcome features: `dataclasses.replace` on the step
      of an environment around it adds some.

    Raises:
      TypeError: `env` has not that interface, or is a wrapper.
      ValueError: `params` has no such field, or the actions are of another kind.

    Nothing is compiled; shapes come from tracing. A step costs what gymnax's does. The reference is Lange (2022),
    "gymnax: A JAX-based Reinforcement Learning Environment Library".

    >>> gymnax_env("CartPole-v1", None)
    Traceback (most recent call last):
    TypeError: gymnax_env: env must have gymnax's reset_env, step_env and action_space; it is a str
    """
    _check_interface(env)
    obs_like, state = jax.eval_shape(lambda key: env.reset_env(key, params), jax.random.key(0))
    action_space, send = _actions(env.action_space(params))
    unlimited = params if limit is None else _without(params, limit)

    def after(key: Array) -> Any:
        _, state = env.reset_env(key, params)
        return env.step_env(key, state, send(_an_action(action_space)), params)[1]

    like = jax.eval_shape(after, jax.random.key(0))
    if jax.tree.structure(like) != jax.tree.structure(state):
        raise ValueError(f"gymnax_env: the state of {type(env).__name__} has another structure after a step")
    shape = obs_like.shape if isinstance(obs_like, jax.ShapeDtypeStruct) else ()
    return GymnaxEnv(shape, action_space, env, params, unlimited, send, like)


def _check_interface(env: Any) -> None:
    needed = ("reset_env", "step_env", "action_space")
    if not all(callable(getattr(env, name, None)) for name in needed):
        hint = ": gymnax_env(*gymnax.make(name))" if isinstance(env, tuple) else ""
        raise TypeError(
            f"gymnax_env: env must have gymnax's reset_env, step_env and action_space; it is {described(env)}{hint}"
        )
    if isinstance(env, type):
        raise TypeError(f"gymnax_env: env must be an environment; it is the class {env.__name__}; make one")
    if not all(hasattr(type(env), name) for name in needed[:2]):
        raise TypeError(
            f"gymnax_env: env must be no wrapper, which would not be asked; it is a {type(env).__name__} "
            f"around {described(env.__dict__.get('_env'))}"
        )


def _without(params: Any, limit: str) -> Any:
    """Parameters under which that limit is out of reach."""
    if not hasattr(params, limit):
        fields = ", ".join(vars(params)) if hasattr(params, "__dict__") else described(params)
        raise ValueError(
            f"gymnax_env: limit {limit!r} must be the field of params that ends an episode, or None if none does; "
            f"there are {fields}"
        )
    whole = jnp.issubdtype(jnp.result_type(getattr(params, limit)), jnp.integer)
    return params.replace(**{limit: np.iinfo(np.int32).max if whole else math.inf})


def _actions(space: Any) -> tuple[ActionSpace, Callable[[Array], Array]]:
    """Our space, and how its actions are said to gymnax's."""
    if hasattr(space, "n"):
        return Discrete(int(space.n)), lambda action: action
    if not (hasattr(space, "low") and jnp.issubdtype(space.dtype, jnp.floating)):
        said = type(space).__name__
        raise ValueError(f"gymnax_env: actions must be a Discrete or a Box of floats; they are a {said}")
    size = math.prod(space.shape)
    low, high = (np.broadcast_to(np.asarray(x, np.float32), space.shape).reshape(-1) for x in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
    least, most = np.where(bounded, -1, -np.inf), np.where(bounded, 1, np.inf)

    def send(action: Array) -> Array:
        action = jnp.clip(action.astype(jnp.float32), least, most)
        stretched = jnp.asarray((low + high) / 2 + (high - low) / 2 * action, space.dtype)
        return stretched.reshape(space.shape)

    return Box(size), send


def _an_action(space: ActionSpace) -> Array:
    return jnp.zeros(space.size) if isinstance(space, Box) else jnp.int32(0)


def _floats(obs: Any) -> Any:
    """An observation as float32; of a tree the leaves that are real numbers."""
    if isinstance(obs, jax.Array):
        return obs.astype(jnp.float32)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else None), obs)
