"""Runs a plan: compile, then chunk after chunk, with rows, checkpoints, and an eye on signals and on NaN."""

import time
from collections.abc import Callable

import numpy as np

from polopt_jax.algorithms import Algorithm
from polopt_jax.cli._build import all_finite
from polopt_jax.cli._errors import NonFiniteError
from polopt_jax.cli._metrics import Log, Row, chunk_row
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import Progress
from polopt_jax.cli._signals import Stop
from polopt_jax.driver import Chunk, chunks, prepare, seed_keys
from polopt_jax.training import TrainState

GIVE_UP_AFTER = 10
"""Updates skipped in a row, in every seed, after which a run is given up."""

SAVE_EVERY = 5
"""Chunks between two checkpoints."""


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
    `restore` turns a state of the right structure into the one to go on from. `save(update, state)` is called every
    few chunks, at the end and on a signal, when the rows up to then are on disk.

    Raises NonFiniteError if no seed gets anywhere; what was saved before stays.
    """
    before = rows[-1] if rows else {"update": 0, "seconds": 0.0, "compile_seconds": 0.0}
    remaining = (plan.updates - before["update"]) // plan.chunk_updates
    if stop or not remaining:
        return
    progress.stage("compiling...")
    began = time.perf_counter()
    run = prepare(build(), seed_keys(plan.seed, plan.num_seeds), chunk_updates=plan.chunk_updates)
    if restore is not None:
        run = run._replace(state=restore(run.state))
    seconds, compile_seconds = before["seconds"], before["compile_seconds"] + time.perf_counter() - began
    if stop:
        return
    progress.stage("running...")
    health = _Health(plan)
    for number, chunk in enumerate(chunks(run, remaining), start=1):
        seconds += chunk.seconds
        rows.append(chunk_row(plan, chunk, seconds=seconds, compile_seconds=compile_seconds))
        log.append(rows[-1])
        progress.advance(rows[-1], plan)
        health.check(chunk)
        if save is not None and (stop or number == remaining or number % SAVE_EVERY == 0):
            log.sync()
            save(chunk.update, chunk.state)
        if stop:
            return


class _Health:
    """Counts, seed by seed, the updates since the last one that was not skipped."""

    def __init__(self, plan: Plan):
        self._plan, self._stuck = plan, np.zeros(plan.num_seeds, int)

    def check(self, chunk: Chunk) -> None:
        """Raises NonFiniteError if every seed is stuck or broken."""
        skipped = [x for name, x in chunk.metrics.items() if name.split("/")[-1] == "skipped"]
        for update in np.max(skipped, axis=0).T >= 1.0:
            self._stuck = np.where(update, self._stuck + 1, 0)
        broken = ~all_finite(chunk.state.params) | (self._stuck >= min(GIVE_UP_AFTER, self._plan.updates))
        if broken.all():
            raise NonFiniteError(
                f"{self._plan.algorithm} on {self._plan.env}: no seed had a finite update any more at update "
                f"{chunk.update}; try a smaller step"
            )
