"""metrics.jsonl: a line per chunk of updates, written whole, and checked line by line when a run goes on.

Every row has the same keys. Rows follow each other chunk by chunk. Only the last line may be cut off: what kills a run
may kill it while it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polopt_jax.driver import Chunk
from polopt_jax.runs._directory import named, to_json, write_all
from polopt_jax.runs._schedule import Schedule

Row = dict[str, Any]
"""`update`, `steps` (of each seed), `seconds` and `compile_seconds` (so far); else a number or None for each seed."""

_SUMS = ("episode/", "nonfinite_steps")
"""Metrics that add up over updates. The others are averaged."""
_COUNTS, _TIMES = ("update", "steps"), ("seconds", "compile_seconds")


def chunk_row(schedule: Schedule, chunk: Chunk, *, seconds: float, compile_seconds: float) -> Row:
    """What a chunk comes to: per seed the mean reward of the episodes that ended in it, and every metric."""
    row: Row = {
        "update": chunk.update,
        "steps": chunk.update * schedule.decisions,
        "seconds": round(seconds, 3),
        "compile_seconds": round(compile_seconds, 3),
    }
    values = {
        name: (np.sum if name.startswith(_SUMS) else np.mean)(np.asarray(x, np.float64), axis=1).tolist()
        for name, x in sorted(chunk.metrics.items())
    }
    nothing = [0.0] * schedule.num_seeds
    pairs = zip(*(values.get(f"episode/{name}", nothing) for name in ("return_sum", "finished")), strict=True)
    row["reward"] = [total / number if number else None for total, number in pairs]
    return json.loads(to_json({**row, **values}))


def scalars(row: Row, schedule: Schedule) -> dict[str, float | None]:
    """A row as one number for each name: the mean over seeds, and of several seeds also each, `name/seed3`.

    >>> several = Schedule(seed=3, num_seeds=2, decisions=8, chunk_updates=1, num_chunks=1)
    >>> scalars({"update": 1, "seconds": 0.5, "reward": [2.0, None]}, several)
    {'update': 1, 'seconds': 0.5, 'reward': 2.0, 'reward/seed3': 2.0, 'reward/seed4': None}
    """
    found: dict[str, float | None] = {}
    for name, values in row.items():
        if not isinstance(values, list):
            found[name] = values
            continue
        known = [x for x in values if x is not None]
        found[name] = sum(known) / len(known) if known else None
        if len(values) > 1:
            found |= {f"{name}/seed{schedule.seed + i}": x for i, x in enumerate(values)}
    return found


class Log:
    """Appends rows to a file, each whole and on its way to the disk before the next."""

    def __init__(self, path: Path):
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)

    def append(self, row: Row) -> None:
        """One line, in one write unless the system takes it in parts."""
        with named(self._path):
            write_all(self._descriptor, (to_json(row) + "\n").encode())

    def sync(self) -> None:
        """Returns when everything appended is on disk."""
        with named(self._path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file, whether or not what was appended can still reach the disk."""
        try:
            self.sync()
        finally:
            os.close(self._descriptor)


class NoLog:
    """In place of a `Log`, in the processes of a run that keep none."""

    def append(self, row: Row) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""


# What a log holds


class Damage(NamedTuple):
    """The first line that is not a row that follows those before it."""

    line: int
    why: str
    torn: bool
    """Whether it is the last, and has no end: what a kill leaves."""


class Rows(NamedTuple):
    """The rows of a log up to its end, or to the first line that is none."""

    rows: list[Row]
    ends: list[int]
    """Where each row ends in the file, in bytes, without its newline."""
    damage: Damage | None

    @property
    def update(self) -> int:
        """The last update of the rows; 0 if there are none."""
        return self.rows[-1]["update"] if self.rows else 0


def read_log(path: Path, schedule: Schedule) -> Rows:
    """The rows of a log as far as they are sound, and what is wrong after them, if anything is."""
    *lines, last = _read(path).split(b"\n")
    rows: list[Row] = []
    ends: list[int] = []
    start = 0
    for number, line in enumerate([*lines, last] if last else lines, start=1):
        try:
            rows.append(_checked(_parse(line), rows, schedule))
        except ValueError as error:
            torn = number > len(lines)
            return Rows(rows, ends, Damage(number, "it is cut off" if torn else str(error), torn))
        ends.append(start + len(line))
        start += len(line) + 1
    return Rows(rows, ends, None)


def spacing(path: Path, schedule: Schedule) -> int | None:
    """Updates between two rows, by the first and, if there is one, the second; None if the two do not agree."""
    apart: list[int] = []
    for number, line in enumerate(_read(path).split(b"\n")[:2], start=1):
        with contextlib.suppress(ValueError):
            row = _parse(line)
            update, steps = row.get("update"), row.get("steps")
            if type(update) is int and update > 0 and update % number == 0 and steps == update * schedule.decisions:
                apart.append(update // number)
                continue
        if line:
            return None
    return apart[0] if len(set(apart)) == 1 else None


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def truncate(path: Path, length: int) -> None:
    """Cuts a log to what is left of it, unless it has that length already, and ends its last line."""
    if not path.exists() or path.stat().st_size == (length + 1 if length else 0):
        return
    with named(path), path.open("r+b") as file:
        file.truncate(length)
        file.seek(length)
        file.write(b"\n" if length else b"")
        file.flush()
        os.fsync(file.fileno())


def _parse(line: bytes) -> Row:
    """The JSON object of a line; ValueError if it is none, or has a number that JSON has not, or a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            raise ValueError("it has a key twice")
        return row

    def refuse(constant: str) -> float:
        raise ValueError(f"it holds {constant}, which is not JSON")

    try:
        row = json.loads(line.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    return row


def _checked(row: Row, before: list[Row], schedule: Schedule) -> Row:
    """The row, if it can follow the rows before it; else ValueError, which says why not."""
    due = (before[-1]["update"] if before else 0) + schedule.chunk_updates
    wanted = before[0].keys() if before else {*_COUNTS, *_TIMES, "reward", *row}
    for key in sorted(wanted ^ row.keys()):
        raise ValueError(f"it has no {key}" if key in wanted else f"it has {key}, which the first has not")
    for key in _COUNTS:
        if type(row[key]) is not int:
            raise ValueError(f"its {key} is not a whole number")
    for key in _TIMES:
        if not _is_finite(row[key]) or row[key] < (before[-1][key] if before else 0.0):
            raise ValueError(f"its {key} is not a number that can follow")
    if row["update"] != due:
        raise ValueError(f"its update is {row['update']}, where {due} is due")
    if row["steps"] != due * schedule.decisions:
        raise ValueError(f"its steps are {row['steps']}, where {due * schedule.decisions} are due")
    for key in row.keys() - {*_COUNTS, *_TIMES}:
        values = row[key]
        if not isinstance(values, list) or len(values) != schedule.num_seeds:
            raise ValueError(f"its {key} is not a list with a value for each seed")
        if not all(value is None or _is_finite(value) for value in values):
            raise ValueError(f"its {key} holds something that is neither a finite number nor null")
    return row


def _is_finite(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold.

    >>> _is_finite(1), _is_finite(0.5), _is_finite(True), _is_finite(1e400), _is_finite(10**400), _is_finite("1")
    (True, True, False, False, False, False)
    """
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
