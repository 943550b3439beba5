"""Does a run: compile, then chunk after chunk, with rows, checkpoints, and an eye on signals and on the numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from polopt_jax import checkpoint, processes
from polopt_jax.algorithms import Algorithm
from polopt_jax.driver import Chunk, Hosted, Run, chunks, prepare, seed_keys
from polopt_jax.runs._directory import CHECKPOINTS, to_json
from polopt_jax.runs._health import complaint, healthy, is_broken, look
from polopt_jax.runs._log import Log, NoLog, Row, chunk_row
from polopt_jax.runs._resume import Start, settle
from polopt_jax.runs._schedule import Schedule
from polopt_jax.runs._signals import Stop, agreed
from polopt_jax.sharding import placed_as
from polopt_jax.training import TrainState

SAVE_EVERY = 5
"""Chunks between two checkpoints, at most."""
SAVE_WITHIN = 60.0
"""Seconds between two checkpoints, at most, if no chunk takes longer."""


class Progress(Protocol):
    """What a run tells about itself while it runs."""

    def stage(self, text: str) -> None:
        """What is being done while there is nothing to count."""
        ...

    def advance(self, row: Row, schedule: Schedule) -> None:
        """A chunk is done."""
        ...


def run(
    schedule: Schedule,
    build: Callable[[], Algorithm | Hosted],
    log: Log | NoLog,
    progress: Progress,
    stop: Stop,
    start: Start | None = None,
    *,
    evaluate_every: int | None = None,
    tell: Callable[[Row], None] = lambda row: None,
    mesh: Mesh | None = None,
) -> tuple[list[Row], str | None]:
    """Does what a run has left, to its end or to a signal: its rows, and why it was given up, if it was.

    Each new row goes to the log, to the progress and to `tell`. Every `evaluate_every` updates, and after the last, the
    algorithm is evaluated, and the row says what that came to; the other rows have None in those places.

    It is given up where no seed gets anywhere. A run without a `start` keeps no
    checkpoints. Else they are saved before the first update, then every few chunks or every minute, at the end and on a
    signal, when the rows up to then are on disk; not while every seed is broken, so that the last good one stays.

    On a `mesh` its rows are split over devices. Several processes do the same at the same time, and save and stop after
    the same chunk; the first of them saves, and has the log.

    Raises CheckpointError if the checkpoint does not fit, or if the rows are of other metrics than those of now.
    """
    rows = [] if start is None else list(start.rows)
    agreed(stop)
    if stop:
        return rows, None
    progress.stage("compiling...")
    began = time.perf_counter()
    compiled = prepare(
        build(), seed_keys(schedule.seed, schedule.num_seeds), chunk_updates=schedule.chunk_updates, mesh=mesh
    )
    if start is not None:
        compiled = compiled._replace(state=_begin(start, compiled.state))
    seconds, before, done = (rows[-1][key] if rows else 0 for key in ("seconds", "compile_seconds", "update"))
    compile_seconds = before + time.perf_counter() - began
    agreed(stop)
    if stop:
        return rows, None
    progress.stage("running...")
    health, saved = healthy(schedule.num_seeds, rows), time.monotonic()
    remaining = (schedule.updates - done) // schedule.chunk_updates
    for number, chunk in enumerate(chunks(compiled, remaining), start=1):
        seconds += chunk.seconds
        row = chunk_row(schedule, chunk, seconds=seconds, compile_seconds=compile_seconds)
        asked = number == remaining or (evaluate_every is not None and chunk.update % evaluate_every == 0)
        row |= evaluation(compiled, chunk.state, is_due=asked)
        _check_keys(row, rows)
        rows.append(row)
        log.append(row)
        progress.advance(row, schedule)
        tell(row)
        health = look(health, chunk)
        if why := complaint(health, schedule, chunk.update):
            return rows, why
        is_late = is_due(number, since=time.monotonic() - saved, chunk_seconds=chunk.seconds)
        wanted = agreed(stop, wanted=is_late) and not is_broken(health)
        if start is not None and (stop or number == remaining or wanted):
            _save(start, log, chunk)
            saved = time.monotonic()
        if stop:
            break
    return rows, None


def evaluation(compiled: Run, state: TrainState, *, is_due: bool) -> Row:
    """What an evaluation has to say in a row, a number for each seed; None for each where none is due."""
    if compiled.evaluate is None or not is_due:
        return dict.fromkeys(compiled.evaluated, [None] * state.update.shape[0])
    return json.loads(to_json({name: np.asarray(x).tolist() for name, x in compiled.evaluate(state).items()}))


def is_due(number: int, *, since: float, chunk_seconds: float) -> bool:
    """Whether to save after the chunk `number`, `since` seconds after the last time, so that the next is not too late.

    >>> is_due(5, since=1.0, chunk_seconds=0.2), is_due(6, since=0.2, chunk_seconds=0.2)
    (True, False)
    >>> is_due(6, since=50.0, chunk_seconds=5.0), is_due(6, since=50.0, chunk_seconds=15.0)
    (False, True)
    """
    return number % SAVE_EVERY == 0 or since + chunk_seconds > SAVE_WITHIN


def _save(start: Start, log: Log | NoLog, chunk: Chunk) -> None:
    """Saves the state after a chunk, when the rows up to it are on disk. One process writes; all hear how it went."""
    state = processes.whole(chunk.state)

    def write() -> None:
        log.sync()
        checkpoint.save(start.directory / CHECKPOINTS, chunk.update, state)

    processes.first(write)


def _begin(start: Start, state: TrainState) -> TrainState:
    """The state to go on from, which is on disk: that of the checkpoint, or `state`, which has the same structure.

    It lies on the same devices as `state`, however many there were when it was saved.
    """
    store, found = start.directory / CHECKPOINTS, processes.whole(state)
    if start.update is None:
        processes.first(lambda: checkpoint.save(store, 0, found))
        return state

    def read() -> None:
        nonlocal found
        found, _ = checkpoint.restore(store, found, step=start.update)
        settle(start)  # not before: what cannot be gone on with is left as it is

    processes.first(read)
    return placed_as(processes.from_first(found), state)


def _check_keys(row: Row, rows: list[Row]) -> None:
    """Raises CheckpointError if a row has other keys than those before it: the log would be refused ever after."""
    if rows and rows[0].keys() != row.keys():
        names = ", ".join(sorted(rows[0].keys() ^ row.keys()))
        raise checkpoint.CheckpointError(
            f"the rows of this run are of other metrics than those of this version: {names}"
        )
