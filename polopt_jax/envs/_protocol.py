"""What the loop asks of an environment. It knows nothing of losses, and an environment nothing of policies."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from polopt_jax.fields import with_fields
from polopt_jax.types import Array, record


@dataclass(frozen=True)
class Discrete:
    """Integer actions `0 .. num - 1`."""

    num: int

    def __post_init__(self) -> None:
        _check_whole("Discrete: num", self.num)


@dataclass(frozen=True)
class MultiDiscrete:
    """Several integers at once, `[K]`: the k-th is one of `0 .. nums[k] - 1`.

    >>> MultiDiscrete((3, 0))
    Traceback (most recent call last):
    ValueError: MultiDiscrete: nums[1] must be a whole number of at least 1; it is 0
    """

    nums: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.nums, tuple) or not self.nums:
            raise ValueError(f"MultiDiscrete: nums must be a tuple of whole numbers, at least one; it is {self.nums!r}")
        for place, num in enumerate(self.nums):
            _check_whole(f"MultiDiscrete: nums[{place}]", num)


@dataclass(frozen=True)
class Box:
    """Real actions `[size]`, each in [-1, 1]; an environment clips what lies outside.

    >>> Box((2, 3))
    Traceback (most recent call last):
    ValueError: Box: size must be a whole number of at least 1, as an action is one vector; it is (2, 3)
    """

    size: int

    def __post_init__(self) -> None:
        _check_whole("Box: size", self.size, ", as an action is one vector")


def _check_whole(name: str, value: Any, why: str = "") -> None:
    try:
        whole = operator.index(value) >= 1
    except TypeError:
        whole = False
    if not whole:
        raise ValueError(f"{name} must be a whole number of at least 1{why}; it is {value!r}")


ActionSpace: TypeAlias = Discrete | MultiDiscrete | Box


@with_fields
@record
class EnvStep:
    """The result of one step of one environment. Nothing is reset: `obs` is the true observation after the step."""

    state: Any
    """The environment's state, a pytree of fixed structure, shapes and dtypes (those that `reset` returned)."""
    obs: Any
    """The observation after the step."""
    reward: Array
    """`[]` float32."""
    terminated: Array
    """`[]` bool: no reward can follow (a goal, a fall)."""
    truncated: Array
    """`[]` bool: stopped by a time limit. Never together with `terminated`."""
    outcome: dict[str, Array] = field(default_factory=dict)
    """Outcome features of the step, `[]` each; empty where the environment declares none."""


class Environment(Protocol):
    """One environment, unbatched; the loop vmaps it. All methods are pure and jit-able.

    Keys are legacy `jax.random.PRNGKey`s or typed keys alike; an adapter converts if it must.
    """

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Shape of one observation (float32)."""
        ...

    @property
    def action_space(self) -> ActionSpace:
        """`Discrete`, `MultiDiscrete` or `Box`."""
        ...

    def reset(self, key: Array) -> tuple[Any, Any]:
        """A fresh initial `(state, obs)`."""
        ...

    def step(self, state: Any, action: Array, key: Array) -> EnvStep:
        """One step. Must not be called on a state whose last step ended the episode."""
        ...
