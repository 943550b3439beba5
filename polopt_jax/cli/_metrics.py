"""metrics.jsonl: a line per chunk of updates."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from polopt_jax.cli._plan import Plan
from polopt_jax.cli._run_directory import to_json, write
from polopt_jax.driver import Chunk

Row = dict[str, Any]
"""`update`, `steps` (of each seed), `seconds` and `compile_seconds` (so far); else a list with a value per seed."""

_SUMS = ("episode/", "nonfinite_steps")
"""Metrics that add up over updates. The others are averaged."""


def chunk_row(plan: Plan, chunk: Chunk, *, seconds: float, compile_seconds: float) -> Row:
    """What a chunk comes to: per seed the mean reward of the episodes that ended in it, and every metric."""
    row: Row = {
        "update": chunk.update,
        "steps": chunk.update * plan.decisions,
        "seconds": round(seconds, 3),
        "compile_seconds": round(compile_seconds, 3),
    }
    values = {
        name: (np.sum if name.startswith(_SUMS) else np.mean)(np.asarray(x, np.float64), axis=1).tolist()
        for name, x in sorted(chunk.metrics.items())
    }
    pairs = zip(values["episode/return_sum"], values["episode/finished"], strict=True)
    row["reward"] = [total / number if number else None for total, number in pairs]
    return json.loads(to_json({**row, **values}))


class Log:
    """Appends rows to a file, each whole and on its way to the disk before the next."""

    def __init__(self, path: Path, *, extra: Row | None = None):
        self._extra = extra or {}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)

    def append(self, row: Row) -> None:
        """One line, in one write."""
        os.write(self._descriptor, (to_json({**self._extra, **row}) + "\n").encode())

    def sync(self) -> None:
        """Returns when everything appended is on disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file."""
        self.sync()
        os.close(self._descriptor)


def read_rows(path: Path, *, up_to: int | None = None) -> list[Row]:
    """The whole rows of a log, in order, each update once, up to an update; a torn last line is left out."""
    rows: list[Row] = []
    if not path.exists():
        return rows
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
            update = row["update"]
        except (ValueError, TypeError, KeyError):
            continue
        if (not rows or update > rows[-1]["update"]) and (up_to is None or update <= up_to):
            rows.append(row)
    return rows


def truncate(path: Path, *, up_to: int) -> list[Row]:
    """Removes from a log what came after an update, and returns what is left."""
    rows = read_rows(path, up_to=up_to)
    kept = "".join(to_json(row) + "\n" for row in rows)
    if path.exists() and path.read_bytes() != kept.encode():
        write(path, kept)
    return rows
