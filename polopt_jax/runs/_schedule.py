"""How long a run is, and the chunks of updates in which it is done: between two chunks the host has its turn."""

from __future__ import annotations

import math
from typing import NamedTuple

WANTED_CHUNKS = 25
CHUNK_UPDATES = 100
"""No chunk is longer, so that a long run still shows progress and is still interrupted soon."""


class Schedule(NamedTuple):
    """Which seeds, and how many updates in how many pieces."""

    seed: int
    """The first of the seeds, which are trained side by side."""
    num_seeds: int
    decisions: int
    """Decisions in one update of one seed."""
    chunk_updates: int
    num_chunks: int

    @property
    def seeds(self) -> str:
        """How many seeds, in words."""
        return "1 seed" if self.num_seeds == 1 else f"{self.num_seeds} seeds"

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.chunk_updates * self.num_chunks

    @property
    def steps(self) -> int:
        """Environment steps (decisions) of one seed in the whole run."""
        return self.updates * self.decisions

    def config(self) -> dict[str, int]:
        """Its part of a run's config."""
        names = ("seed", "num_seeds", "chunk_updates", "updates", "steps")
        return {name: getattr(self, name) for name in names}


def schedule(*, steps: int, decisions: int, seed: int, num_seeds: int, within: int | None = None) -> Schedule:
    """The schedule of at least `steps` decisions per seed, in whole chunks of updates of `decisions` each.

    `within` so many updates, if given, chunks end: their size divides it.

    >>> schedule(steps=20_000, decisions=1024, seed=0, num_seeds=3)
    Schedule(seed=0, num_seeds=3, decisions=1024, chunk_updates=1, num_chunks=20)
    """
    updates = math.ceil(steps / decisions)
    chunks, chunk_updates = split_updates(updates)
    if within is not None:
        chunk_updates = max(size for size in range(1, min(chunk_updates, within) + 1) if within % size == 0)
        chunks = math.ceil(updates / chunk_updates)
    return Schedule(seed, num_seeds, decisions, chunk_updates, chunks)


def split_updates(updates: int) -> tuple[int, int]:
    """`(chunks, updates per chunk)` covering at least `updates`: as near to 25 chunks, or more, as whole updates allow.

    >>> split_updates(7), split_updates(97), split_updates(10_000)
    ((7, 1), (25, 4), (100, 100))
    """
    wanted = max(WANTED_CHUNKS, math.ceil(updates / CHUNK_UPDATES))
    sizes = (max(1, updates // wanted), math.ceil(updates / wanted))
    size = min(sizes, key=lambda size: abs(math.ceil(updates / size) - wanted))
    return math.ceil(updates / size), size
