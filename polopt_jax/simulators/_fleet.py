"""Simulators side by side. Nothing is reset unasked, so what a step shows is the true observation after it."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from polopt_jax.envs._import import told
from polopt_jax.ranges import Count, check_range
from polopt_jax.simulators._simulator import Simulator


class SimulatorError(RuntimeError):
    """A simulator failed while it ran; the message says in which line."""


class Stepped(NamedTuple):
    """What N simulators say after a step, `[N]`."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    """Never together with `terminated`."""

    @property
    def finite(self) -> np.ndarray:
        """Where observation and reward are finite."""
        return np.isfinite(self.reward) & np.isfinite(self.obs.reshape(len(self.obs), -1)).all(1)


@dataclass(frozen=True, eq=False)
class Fleet:
    """Simulators of one kind side by side; made by `fleet`."""

    simulator: Simulator
    num_envs: int
    """B: simulators of each seed."""
    seeds: tuple[int, ...]
    """The seeds that are trained side by side, each on simulators of its own."""
    vector: Any
    """The `gymnasium.vector.VectorEnv` of all of them, seed by seed, which resets nothing by itself."""

    @property
    def rows(self) -> int:
        """N, all simulators."""
        return self.num_envs * len(self.seeds)

    def reset(self, where: np.ndarray, numbers: Sequence[int | None] | None = None) -> np.ndarray:
        """The observations `[N, ...]` of all after those `where` `[N]` bool begin a new episode.

        With `numbers` they draw from these seeds, else on from where they are. Raises SimulatorError.
        """
        seed = None if numbers is None else list(numbers)
        with self._named("reset"):
            obs, _ = self.vector.reset(seed=seed, options={"reset_mask": np.asarray(where, bool)})
            obs = self.simulator.observe(obs)
        if not np.isfinite(obs[where]).all():
            raise SimulatorError(f"{self.simulator.name}: its first observation is not finite")
        return obs

    def step(self, action: np.ndarray) -> Stepped:
        """One step of all with actions of the policy. Raises SimulatorError."""
        with self._named("step"):
            obs, reward, terminated, truncated, _ = self.vector.step(self.simulator.send(action))
            obs = self.simulator.observe(obs)
        terminated = np.asarray(terminated, bool)
        with np.errstate(over="ignore"):
            reward = np.asarray(reward).astype(np.float32)
        return Stepped(obs, reward, terminated, np.asarray(truncated, bool) & ~terminated)

    def seen(self, show: Callable[[Any], Any]) -> Any:
        """What `show` says of the first environment, which must be one of this process. Raises SimulatorError."""
        with self._named("render"):
            return show(self.vector.envs[0])

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise SimulatorError(f"{self.simulator.name}: {what} failed: {told(error)}") from error


def sync_vector(make: Callable[[], Any], rows: int) -> Any:
    """So many simulators in this process, stepped in turn: what is best for cheap ones, of microseconds a step.

    >>> import functools, gymnasium
    >>> sync_vector(functools.partial(gymnasium.make, "CartPole-v1"), 3).num_envs
    3
    """
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    return SyncVectorEnv([make] * rows, copy=False, autoreset_mode=AutoresetMode.DISABLED)


def async_vector(make: Callable[[], Any], rows: int) -> Any:
    """Each simulator in a process of its own: for those that take a millisecond a step or more, with cores to spare.

    The processes begin afresh and import what `make` needs, neither the main program nor JAX, and Ctrl-C is not theirs.

    >>> import functools, gymnasium
    >>> two = async_vector(functools.partial(gymnasium.make, "CartPole-v1"), 2)
    >>> two.reset(seed=0)[0].shape
    (2, 4)
    >>> two.close()
    """
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode

    methods = multiprocessing.get_all_start_methods()
    context = "forkserver" if "forkserver" in methods else "spawn"
    with _main_hidden():
        return AsyncVectorEnv([_deaf(make)] * rows, context=context, autoreset_mode=AutoresetMode.DISABLED)


def _deaf(make: Callable[[], Any]) -> Callable[[], Any]:
    """`make`, in a process that an interrupt does not end. As a closure it goes there by value, without this module."""

    def made() -> Any:
        import multiprocessing
        import signal

        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return make()

    return made


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """While processes begin: the main program, which each of them would otherwise import, is an empty module."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def fleet(
    simulator: Simulator,
    *,
    num_envs: Count,
    seeds: Sequence[int] = (0,),
    vector: Callable[[Callable[[], Any], int], Any] = sync_vector,
) -> Iterator[Fleet]:
    """`num_envs` simulators for each seed, as long as the `with` block lasts.

    Args:
      simulator: of `simulator`.
      num_envs: B.
      seeds: those that are trained side by side; the simulators of each draw from numbers of its own, the same whatever
        the other seeds.
      vector: `sync_vector`, or `async_vector`, or your own `(make, rows) -> gymnasium.vector.VectorEnv`, which must not
        reset by itself (`AutoresetMode.DISABLED`).

    Raises:
      ValueError: `num_envs` is not positive, there is no seed, or `vector` makes something else.
      SimulatorError: a simulator cannot be made.

    >>> from polopt_jax.simulators import simulator
    >>> with fleet(simulator("CartPole-v1"), num_envs=2) as two:
    ...     first = two.reset(np.ones(2, bool), [0, 1])
    ...     two.step(np.array([0, 1])).reward.tolist()
    [1.0, 1.0]
    """
    check_range("fleet", Count, num_envs=num_envs)
    if not seeds:
        raise ValueError("fleet: seeds must name at least one")
    try:
        made = vector(simulator.make, num_envs * len(seeds))
    except Exception as error:
        raise SimulatorError(f"{simulator.name} cannot be made: {told(error)}") from error
    close = functools.partial(made.close)
    try:
        _check_vector(made, num_envs * len(seeds))
        yield Fleet(simulator, num_envs, tuple(seeds), made)
    except BaseException:
        close = functools.partial(made.close, terminate=True)
        raise
    finally:
        with contextlib.suppress(Exception):  # its work is done, or has failed, which is told
            close()


def _check_vector(vector: Any, rows: int) -> None:
    """Raises ValueError unless a vector is of so many simulators, and leaves them alone when an episode ends."""
    mode = getattr(vector, "metadata", {}).get("autoreset_mode")
    if getattr(mode, "name", mode) != "DISABLED":
        raise ValueError(f"fleet: vector must make one with AutoresetMode.DISABLED; it made one with {mode}")
    if vector.num_envs != rows:
        raise ValueError(f"fleet: vector must make one of {rows} simulators; it made one of {vector.num_envs}")


def numbers_of(seed: int, begun: int, num_envs: int) -> list[int]:
    """The numbers that the simulators of a seed draw from, where they begin after `begun` updates.

    >>> numbers_of(3, 0, 2) == numbers_of(3, 0, 4)[:2], numbers_of(3, 0, 2) == numbers_of(3, 9, 2)
    (True, False)
    """
    return [int(np.random.SeedSequence((seed, begun, place)).generate_state(1)[0] >> 1) for place in range(num_envs)]
