"""A row of the table: what ours is, what theirs is, how the two are related; and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Loss:
    """A row of losses of logits. `ours` and `theirs` are `(example, logits) -> loss`, equal if the row is right."""

    called: str
    """What ours is, as code."""
    peer: str
    """What theirs is: class and options."""
    ours: Callable[[Any, Any], Any]
    theirs: Callable[[Any, Any], Any]
    example: Callable[[int], Any]
    differs: str = "nothing"
    """What differs and why, and so what `ours` does to the loss before it is compared."""
    dtype: type = np.float64


@dataclass(frozen=True)
class Advantage:
    """A row of advantages of rewards, which have no gradient: `ours` and `theirs` are `(example) -> array`."""

    called: str
    peer: str
    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any]
    example: Callable[[int], Any]
    differs: str = "nothing"
    dtype: type = np.float64


Row = Loss | Advantage


@dataclass(frozen=True)
class Distance:
    """Relative differences: of the values, and the largest of a gradient's over its own largest entry."""

    value: float
    gradient: float | None
    size: float
    """The largest entry of their gradient (of their values, where there is none): that something was compared."""


def lazily(module: str, name: str, **options: Any) -> Callable[..., Any]:
    """`module.name` with options, which is imported when it is called: a list of rows needs no torch."""

    def call(*args: Any) -> Any:
        return getattr(import_module(f"benchmarks.peers_language.{module}"), name)(*args, **options)

    return call


def options_told(trainer: str, options: dict[str, Any]) -> str:
    """A trainer's class and what its config is given, for the table."""
    return " ".join([f"`{trainer}`", ", ".join(f"{name}={value!r}" for name, value in options.items())]).strip()


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    scale = max(np.abs(theirs).max(), np.abs(ours).max())
    return float(np.abs(ours - theirs).max() / scale) if scale > 0 else 0.0


def distance(row: Row, seed: int) -> Distance:
    """Measured on the example of one seed; needs torch, TRL and 64-bit jax."""
    from benchmarks.peers_language import trl_trainers

    example = row.example(seed)
    if isinstance(row, Advantage):
        with trl_trainers.float64():
            theirs = np.asarray(row.theirs(example))
        return Distance(relative(np.asarray(row.ours(example)), theirs), None, np.abs(theirs).max())
    at = example.at.astype(row.dtype)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: row.ours(example, x)))(jnp.asarray(at))
    their_value, their_gradient = trl_trainers.value_and_gradient(row.theirs, example, at)
    return Distance(
        relative(np.asarray(value), their_value),
        relative(np.asarray(gradient), their_gradient),
        np.abs(their_gradient).max(),
    )
