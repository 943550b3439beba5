"""Runs a plan: compile, then chunk after chunk, with rows, checkpoints, and an eye on signals and on the numbers."""

import time
from collections.abc import Callable

from polopt_jax.algorithms import Algorithm
from polopt_jax.cli._errors import CheckpointUnusable, NonFiniteError
from polopt_jax.cli._health import complaint, healthy, is_broken, look
from polopt_jax.cli._log import Log, Row, chunk_row
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import Progress
from polopt_jax.cli._signals import Stop
from polopt_jax.driver import chunks, prepare, seed_keys
from polopt_jax.training import TrainState

SAVE_EVERY = 5
"""Chunks between two checkpoints, at most."""
SAVE_WITHIN = 60.0
"""Seconds between two checkpoints, at most, if no chunk takes longer."""


def run_plan(
    plan: Plan,
    build: Callable[[], Algorithm],
    rows: list[Row],
    log: Log,
    progress: Progress,
    stop: Stop,
    *,
    restore: Callable[[TrainState], TrainState] | None = None,
    save: Callable[[int, TrainState], None] | None = None,
) -> None:
    """Runs a plan to its end or to a signal.

    `rows` are those of earlier updates, empty for a new run; each new row is appended to it and to the log.
    `restore` turns a state of the right structure into the one to go on from. `save(update, state)` is called before
    the first update of a new run, then every few chunks or every minute, at the end and on a signal, when the rows up
    to then are on disk; not while every seed is broken, so that the last good checkpoint stays.

    Raises NonFiniteError if no seed gets anywhere; what was saved before stays. Raises CheckpointUnusable if the rows
    are of other metrics than those of now.
    """
    before = rows[-1] if rows else {"update": 0, "seconds": 0.0, "compile_seconds": 0.0}
    remaining = (plan.updates - before["update"]) // plan.chunk_updates
    if stop or remaining <= 0:
        return
    progress.stage("compiling...")
    began = time.perf_counter()
    run = prepare(build(), seed_keys(plan.seed, plan.num_seeds), chunk_updates=plan.chunk_updates)
    if restore is not None:
        run = run._replace(state=restore(run.state))
    elif save is not None:
        save(0, run.state)
    seconds, compile_seconds = before["seconds"], before["compile_seconds"] + time.perf_counter() - began
    if stop:
        return
    progress.stage("running...")
    health, saved = healthy(plan.num_seeds, rows), time.monotonic()
    for number, chunk in enumerate(chunks(run, remaining), start=1):
        seconds += chunk.seconds
        row = chunk_row(plan, chunk, seconds=seconds, compile_seconds=compile_seconds)
        _check_keys(row, rows)
        rows.append(row)
        log.append(row)
        progress.advance(row, plan)
        health = look(health, chunk)
        if why := complaint(health, plan, chunk.update):
            raise NonFiniteError(why)
        wanted = not is_broken(health) and is_due(number, since=time.monotonic() - saved, chunk_seconds=chunk.seconds)
        if save is not None and (stop or number == remaining or wanted):
            log.sync()
            save(chunk.update, chunk.state)
            saved = time.monotonic()
        if stop:
            return


def is_due(number: int, *, since: float, chunk_seconds: float) -> bool:
    """Whether to save after the chunk `number`, `since` seconds after the last time, so that the next is not too late.

    >>> is_due(5, since=1.0, chunk_seconds=0.2), is_due(6, since=0.2, chunk_seconds=0.2)
    (True, False)
    >>> is_due(6, since=50.0, chunk_seconds=5.0), is_due(6, since=50.0, chunk_seconds=15.0)
    (False, True)
    """
    return number % SAVE_EVERY == 0 or since + chunk_seconds > SAVE_WITHIN


def _check_keys(row: Row, rows: list[Row]) -> None:
    """Raises CheckpointUnusable if a row has other keys than those before it: the log would be refused ever after."""
    if rows and rows[0].keys() != row.keys():
        names = ", ".join(sorted(rows[0].keys() ^ row.keys()))
        raise CheckpointUnusable(f"the rows of this run are of other metrics than those of this version: {names}")
