"""Which values a hyperparameter may have: said once, in its type, and checked wherever the value is concrete."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import jax
import jax.core
import numpy as np
import optax

from polopt_jax.types import ArrayLike


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included unless `above` or `below` say that they are not; NaN is in none.

    >>> 0.5 in Interval(0, 1), float("nan") in Interval(0, 1), 0 in Interval(0, above=True)
    (True, False, False)
    """

    low: float
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is excluded."""
    below: bool = False
    """Whether `high` itself is excluded."""
    whole: bool = False
    """Whether a number must be whole."""

    def __contains__(self, value: Any) -> bool:
        from_low = value > self.low if self.above else value >= self.low
        below_high = value < self.high if self.below else value <= self.high
        return bool(from_low and below_high and not (self.whole and value % 1))

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if not (self.above or self.below):
            return f"from {self.low:g} to {self.high:g}"
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


Positive: TypeAlias = Annotated[ArrayLike, Interval(0, above=True)]
OptionalPositive: TypeAlias = Annotated[ArrayLike | None, Interval(0, above=True)]
Nonnegative: TypeAlias = Annotated[ArrayLike, Interval(0)]
Unit: TypeAlias = Annotated[ArrayLike, Interval(0, 1)]
OpenUnit: TypeAlias = Annotated[ArrayLike, Interval(0, 1, above=True, below=True)]
PositiveUnit: TypeAlias = Annotated[ArrayLike, Interval(0, 1, above=True)]
Minority: TypeAlias = Annotated[ArrayLike, Interval(0, 0.5, below=True)]
"""A rate at which labels are wrong and still say more than a coin does."""
AboveOne: TypeAlias = Annotated[ArrayLike, Interval(1, above=True)]
AtLeastOne: TypeAlias = Annotated[ArrayLike, Interval(1)]
Count: TypeAlias = Annotated[int, Interval(1, whole=True)]
Rate: TypeAlias = Annotated[ArrayLike | optax.Schedule, Interval(0, above=True)]
"""A learning rate of a recipe: a number, or an optax schedule of the update's number, `update -> rate`."""


def interval(kind: Any) -> Interval:
    """The interval of one of the types above.

    >>> str(interval(Unit))
    'from 0 to 1'
    """
    (found,) = [entry for entry in kind.__metadata__ if isinstance(entry, Interval)]
    return found


def check_range(caller: str, kind: Any, **values: Any) -> None:
    """Raises ValueError naming the first of `values` that is outside the interval of the type `kind`, or an array.

    A value is a number or a tuple of them: an array would be broadcast against decisions. The range of what is traced
    cannot be looked at, and passes.

    >>> check_range("mpo", Positive, temperature=1.0, epsilon=-2.0)
    Traceback (most recent call last):
    ValueError: mpo: epsilon must be above 0; it is -2.0
    >>> check_range("awr", Positive, beta=np.array([0.9, 0.99]))
    Traceback (most recent call last):
    ValueError: awr: beta must be one number (each agent of a jax.vmap has its own); it has shape (2,)
    """
    for name, value in values.items():
        for entry in jax.tree.leaves(value):
            if isinstance(entry, str):
                raise TypeError(f"{caller}: {name} must be a number; it is a str, {entry!r}")
            if shape := np.shape(entry):
                said = "must be one number (each agent of a jax.vmap has its own)"
                raise ValueError(f"{caller}: {name} {said}; it has shape {shape}")
    check_entries(caller, kind, **values)


def check_entries(caller: str, kind: Any, **values: Any) -> None:
    """The same of arrays, whose every entry must be in the interval.

    >>> check_entries("pump", Nonnegative, table=np.array([0.5, -0.1]))
    Traceback (most recent call last):
    ValueError: pump: table must be at least 0; it is -0.1
    """
    allowed = interval(kind)
    for name, value in values.items():
        concrete = [x for x in jax.tree.leaves(value) if not isinstance(x, jax.core.Tracer)]
        for entry in (entry for x in concrete for entry in np.ravel(np.asarray(x)).tolist()):
            if entry not in allowed:
                said = "a whole number" if allowed.whole and entry % 1 else allowed
                raise ValueError(f"{caller}: {name} must be {said}; it is {entry}")


def check_sizes(caller: str, **sizes: Any) -> None:
    """Raises unless each is a whole number of at least 1 that is known when the program is compiled.

    >>> check_sizes("unroll", num_steps=2.5)
    Traceback (most recent call last):
    ValueError: unroll: num_steps must be a whole number; it is 2.5
    >>> check_sizes("unroll", num_steps=2.0)
    Traceback (most recent call last):
    TypeError: unroll: num_steps must be an int; it is a float, 2.0
    """
    for name, size in sizes.items():
        if isinstance(size, jax.core.Tracer):
            raise TypeError(
                f"{caller}: {name} must be an int, as it decides what is compiled; it is traced (all agents of a "
                "jax.vmap have the same)"
            )
        check_range(caller, Count, **{name: size})
        try:
            operator.index(size)
        except TypeError:
            raise TypeError(f"{caller}: {name} must be an int; it is a {type(size).__name__}, {size}") from None


def check_annotated(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first of `values` that is outside the interval that its annotation declares.

    Called at the top of `function` with its `locals()`. What is a schedule, or traced, passes, and so does None.

    >>> def step(*, learning_rate: Rate = 0.1, gamma: Unit = 0.99):
    ...     check_annotated(step, locals())
    >>> step(learning_rate=lambda update: 0.1 / (1 + update))
    >>> step(gamma=1.5)
    Traceback (most recent call last):
    ValueError: step: gamma must be from 0 to 1; it is 1.5
    """
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        declared = any(isinstance(x, Interval) for x in getattr(parameter.annotation, "__metadata__", ()))
        if declared and not callable(values[name]):
            check_range(function.__name__, parameter.annotation, **{name: values[name]})


def check_clip_range(caller: str, **ranges: Any) -> None:
    """Raises ValueError unless each is a number of at least 0, or a pair of them.

    >>> check_clip_range("ppo", clip_eps=(0.1, 0.2, 0.3))
    Traceback (most recent call last):
    ValueError: ppo: clip_eps must be a number or a pair (low, high), a tuple; it is (0.1, 0.2, 0.3)
    """
    for name, x in ranges.items():
        if isinstance(x, list | tuple) and not (isinstance(x, tuple) and len(x) == 2):
            raise ValueError(f"{caller}: {name} must be a number or a pair (low, high), a tuple; it is {x}")
    check_range(caller, Nonnegative, **ranges)
