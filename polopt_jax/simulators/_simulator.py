"""What a Gymnasium environment looks like from here: how to make it, what it shows, what it is to be sent."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat

import numpy as np

from polopt_jax.envs import ActionSpace, Box, Discrete, MultiDiscrete
from polopt_jax.envs._import import import_callable, told


class MissingGymnasium(ValueError):
    """Gymnasium is not installed; the message says how to install it."""


@dataclass(frozen=True, eq=False)
class Simulator:
    """A Gymnasium environment that has been looked at; made by `simulator`."""

    name: str
    make: Callable[[], Any]
    """A new environment."""
    obs_shape: tuple[int, ...]
    """Shape of one observation, as `observe` gives it."""
    action_space: ActionSpace
    """Of the policy: what it says goes through `send`."""
    observe: Callable[[Any], np.ndarray]
    """`observations [N, ...] as the environments gave them -> float32 [N, *obs_shape]`: a Box as it is, a Discrete
    one-hot, and NaN where a number is none of its own."""
    send: Callable[[Any], np.ndarray]
    """`actions [N] or [N, size] of the policy -> what the environments take [N, ...]`: whole numbers from their own
    first ones on; of a Box [-1, 1], clipped, stretched to its bounds. Where it has none, the number as it is."""
    frames_per_second: float
    """As many as it is drawn with."""
    _film: Callable[[], Any] | None
    """A new environment that draws itself; None where it cannot."""

    def filmed(self) -> Simulator:
        """The same simulator, whose environments draw themselves: `render()` is `[H, W, 3]` uint8.

        Raises ValueError if they do not. What a function makes does if its `render_mode` is "rgb_array".
        """
        if self._film is None:
            raise ValueError(f"{self.name} draws nothing: it has no render_mode 'rgb_array'")
        return replace(self, make=self._film)


def simulator(make: str | Callable[[], Any]) -> Simulator:
    """A Gymnasium environment to learn in, looked at: it is made, reset and stepped once.

    Args:
      make: its name, as `gymnasium.make` takes it (`"CartPole-v1"`, `"my_module:MyEnv-v0"` for what `my_module`
        registers), `"package.module:factory"`, or a function that makes one. Environments in processes of their own are
        made there.

    Returns:
      A `Simulator`. Observations must be a Box of numbers or a Discrete, actions a Discrete, a MultiDiscrete, a
        MultiBinary or a Box of floats.

    Raises:
      MissingGymnasium: Gymnasium is not installed.
      ValueError: there is no such environment, it cannot be made or stepped, or a space is of another kind; the message
        names it.
      TypeError: what is made is no `gymnasium.Env`.

    >>> cartpole = simulator("CartPole-v1")
    >>> cartpole.obs_shape, cartpole.action_space
    ((4,), Discrete(num=2))
    >>> simulator("Pendulum-v1").send(np.array([[-0.5], [3.0]])).tolist()
    [[-1.0], [2.0]]
    """
    name, made = (make, _maker(make)) if isinstance(make, str) else (getattr(make, "__name__", str(make)), make)
    gymnasium = _gymnasium(name)
    try:
        env = made()
    except Exception as error:
        raise ValueError(f"{name} cannot be made: {told(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"{name} must make a gymnasium.Env; it made a {type(env).__name__}")
    try:
        obs_shape, observe = _observations(name, env.observation_space)
        action_space, send = _actions(name, env.action_space)
        _look(name, env, obs_shape, observe)
        film = _film(env, made)
    finally:
        env.close()
    speed = float(env.metadata.get("render_fps") or 30)
    return Simulator(name, made, obs_shape, action_space, observe, send, speed, film)


def _gymnasium(name: str) -> Any:
    try:
        return importlib.import_module("gymnasium")
    except ImportError as error:
        raise MissingGymnasium(f"{name} needs the package gymnasium: pip install 'polopt-jax[gymnasium]'") from error


def _maker(name: str) -> Callable[[], Any]:
    """What makes the environment of a name. It refers to nothing of this package, which its process need not import."""
    gymnasium = _gymnasium(name)
    module, colon, rest = name.partition(":")
    if colon:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ValueError(f"{name} cannot be imported: {told(error)}") from error
        if rest not in gymnasium.registry:
            needed = "what makes a gymnasium.Env when it is called, or a name that the module registers"
            return import_callable(name, what="an environment", called="factory", needed=needed)
    return functools.partial(gymnasium.make, name, disable_env_checker=True)


def _film(env: Any, made: Callable[[], Any]) -> Callable[[], Any] | None:
    """What makes such an environment so that it draws itself; None where nothing does."""
    if env.render_mode == "rgb_array":
        return made
    by_name = isinstance(made, functools.partial) and made.func is _gymnasium("").make
    if by_name and "rgb_array" in env.metadata.get("render_modes", ()):
        return functools.partial(made, render_mode="rgb_array")
    return None


def _observations(name: str, space: Any) -> tuple[tuple[int, ...], Callable[[Any], np.ndarray]]:
    from gymnasium import spaces

    if isinstance(space, spaces.Box):

        def as_floats(obs: Any) -> np.ndarray:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, which is seen
                return np.array(obs, np.float32)

        return space.shape, as_floats
    if isinstance(space, spaces.Discrete):
        number, first = int(space.n), int(space.start)
        rows = np.vstack([np.eye(number), np.full(number, np.nan)]).astype(np.float32)

        def one_hot(obs: Any) -> np.ndarray:
            place = np.asarray(obs, np.int64) - first
            return rows[np.where((place >= 0) & (place < number), place, number)]

        return (number,), one_hot
    raise ValueError(
        f"{name}: observations must be a Box or a Discrete; they are {_said(space)} "
        f"(gymnasium.wrappers.FlattenObservation makes a Box of many)"
    )


def _actions(name: str, space: Any) -> tuple[ActionSpace, Callable[[Any], np.ndarray]]:
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return Discrete(int(space.n)), lambda action: np.asarray(action, np.int64) + first
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        several = isinstance(space, spaces.MultiDiscrete)
        nums, first = (space.nvec, space.start) if several else (np.full(space.shape, 2), 0)

        def choose(action: Any) -> np.ndarray:
            chosen = np.asarray(action, np.int64).reshape(-1, *space.shape) + first
            return chosen.astype(space.dtype)

        return MultiDiscrete(tuple(int(num) for num in nums.reshape(-1))), choose
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        raise ValueError(
            f"{name}: actions must be a Discrete, a MultiDiscrete, a MultiBinary or a Box of floats; they are "
            f"{_said(space)}"
        )
    low, high = (np.asarray(x, np.float64).reshape(-1) for x in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high)
    centre = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0)
    half = np.where(bounded, (np.where(bounded, high, 0) - np.where(bounded, low, 0)) / 2, 1)
    least, most = np.where(bounded, -1, low), np.where(bounded, 1, high)

    def send(action: Any) -> np.ndarray:
        stretched = centre + half * np.clip(np.asarray(action, np.float64), least, most)
        cast = np.clip(stretched, low, high).astype(space.dtype)
        return cast.reshape(len(cast), *space.shape)

    return Box(low.size), send


def _look(name: str, env: Any, obs_shape: tuple[int, ...], observe: Callable[[Any], np.ndarray]) -> None:
    """Raises ValueError if a reset or a step fails or returns what Gymnasium's do not."""
    try:
        first, stepped = env.reset(seed=0), env.step(env.action_space.sample())
    except Exception as error:
        raise ValueError(f"{name} cannot be reset and stepped: {told(error)}") from error
    for what, returned, size in (("reset", first, 2), ("step", stepped, 5)):
        if not (isinstance(returned, tuple) and len(returned) == size):
            needs = "(obs, info)" if size == 2 else "(obs, reward, terminated, truncated, info)"
            raise ValueError(f"{name}: {what} must return {needs}; it returned {_told_of(returned)}")
        seen = observe(np.asarray(returned[0])[None])
        if seen.shape[1:] != obs_shape:
            shape = seen.shape[1:]
            raise ValueError(f"{name}: {what} must return observations of its space's shape {obs_shape}; it is {shape}")
        if np.isnan(seen).any():
            raise ValueError(f"{name}: {what} must return observations of its space; it returned {returned[0]!r}")
    reward = stepped[1]
    if not (isinstance(reward, SupportsFloat) and np.ndim(reward) == 0 and np.isfinite(float(reward))):
        raise ValueError(f"{name}: step must return a finite number as the reward; it is {reward!r}")


def _told_of(returned: Any) -> str:
    return f"a tuple of {len(returned)}" if isinstance(returned, tuple) else f"a {type(returned).__name__}"


def _said(space: Any) -> str:
    """A space in words that fit into a line."""
    text = str(space)
    return text if len(text) <= 80 else f"{text[:77]}..."
