"""What a program of a race gives to the process that runs it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Built(NamedTuple):
    """A program that is compiled and ready."""

    chunk: Callable[[], Mapping[str, Any] | None]
    """Does its work once more, waits for it, and may say what came of it: see `returns`."""
    decisions: int
    """Of each chunk, of all environments and seeds."""
    updates: int
    """Of each chunk."""
    differs: str
    """What of it is not as the settings say."""
    more: Mapping[str, Any] = {}
    """What else it tells of itself, as JSON."""


def returns(return_sum: Any, finished: Any, slices: int) -> dict[str, list[list[float]]]:
    """Of every seed and slice of a chunk, the sum of the returns of the episodes that ended in it, and their number.

    Both are given `[seeds, updates]`; updates that are left over at the end of equal slices count to the last.
    """
    shapes = {"return_sum": np.asarray(return_sum, float), "finished": np.asarray(finished, float)}
    updates = shapes["finished"].shape[1]
    starts = [i * (updates // slices) for i in range(slices)]
    return {name: np.add.reduceat(x, starts, axis=1).tolist() for name, x in shapes.items()}


def several(compiled: Callable[..., Any], *arguments: Any, calls: int) -> None:
    """So many calls of one function, of which the last is waited for; what the others made is let go of at once."""
    import jax

    found = None
    for _ in range(calls):
        found = compiled(*arguments)
    jax.block_until_ready(found)
