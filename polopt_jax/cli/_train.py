"""`polopt train`."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polopt_jax import checkpoint
from polopt_jax.cli import _run_directory
from polopt_jax.cli._build import Reference, build, imitate_reference, restore_reference
from polopt_jax.cli._errors import CheckpointUnusable, FileError, Interrupted, NonFiniteError
from polopt_jax.cli._log import Log, Row
from polopt_jax.cli._loop import run_plan
from polopt_jax.cli._options import Train
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import Progress, progress, say
from polopt_jax.cli._report import about_reference, print_result, write_files
from polopt_jax.cli._results import Result
from polopt_jax.cli._resume import BEGINNING, Start, continued, find_start, settle
from polopt_jax.cli._run_directory import CHECKPOINTS, REFERENCE, ROWS, SUMMARY
from polopt_jax.cli._signals import Stop, stop_on_signals
from polopt_jax.training import TrainState


def train(options: Train, plan: Plan, arguments: Sequence[str]) -> int:
    """Trains, or goes on training; returns the exit code."""
    with _open(options, plan) as (directory, plan, notes), _failures_told(directory, arguments):
        start = find_start(directory, plan) if options.resume else BEGINNING
        for note in (*notes, *start.notes):
            say(note)
        if start.update == plan.updates:
            checkpoint.check(directory / CHECKPOINTS, step=start.update)
            return _finished(options, plan, arguments, directory, start)
        return _train(options, plan, arguments, directory, start)


@contextlib.contextmanager
def _open(options: Train, plan: Plan) -> Iterator[tuple[Path, Plan, list[str]]]:
    """The locked run directory, the plan, which on resuming has the chunks that the run began with, and warnings."""
    if not options.resume:
        with _run_directory.new(options.out, f"{plan.env}-{plan.algorithm}-{plan.seed}") as directory:
            yield directory, plan, []
        return
    directory = options.out or Path()
    _run_directory.read_json(directory / _run_directory.CONFIG)  # before a lock is made where there is no run
    with _run_directory.locked(directory):
        yield directory, *continued(plan, directory, steps=options.steps)


@contextlib.contextmanager
def _failures_told(directory: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Turns what goes wrong with files and checkpoints into what the command says and exits with."""
    try:
        yield
    except BrokenPipeError:  # stdout or stderr, not a file
        raise
    except (checkpoint.SaveError, OSError) as error:
        told = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        again = _again(arguments, directory)
        if not (directory / _run_directory.CONFIG).exists():
            again.remove("--resume")
        raise FileError(f"{told}; what was saved is intact; when that is mended, {shlex.join(again)}") from error
    except checkpoint.CheckpointError as error:
        raise CheckpointUnusable(str(error)) from error


def _finished(options: Train, plan: Plan, arguments: Sequence[str], directory: Path, start: Start) -> int:
    """Shows a run that has nothing left to do, and writes of its files what a kill may have left out."""
    result = Result(plan, list(start.rows), "finished")
    summary = _summary(directory / SUMMARY)
    notes = summary.get("notes", [])
    if summary.get("results") != json.loads(_run_directory.to_json([result.summary])):
        notes = [about_reference(restore_reference(directory / REFERENCE))] if plan.is_token else []
        settle(directory, plan, start)
        write_files(directory, _title(plan), [result], arguments, notes)
    say(f"{directory} is finished, with {plan.updates} updates; a larger --steps would go on")
    print_result(directory, [result], notes, json=options.json)
    return 0


def _summary(path: Path) -> dict[str, Any]:
    """What summary.json holds, as far as that is what this command writes; it is never read to decide anything."""
    try:
        known = json.loads(path.read_bytes())
        return known if all(isinstance(note, str) for note in known["notes"]) else {}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return {}


def _title(plan: Plan) -> str:
    return f"{plan.algorithm} on {plan.env}"


def _train(options: Train, plan: Plan, arguments: Sequence[str], directory: Path, start: Start) -> int:
    if start.update is None:
        settle(directory, plan, start)
    seeds = "1 seed" if plan.num_seeds == 1 else f"{plan.num_seeds} seeds"
    say(f"{_title(plan)}: {seeds}, {plan.steps:,} steps each, in {directory}")
    rows = list(start.rows)
    failure: NonFiniteError | None = None
    with stop_on_signals() as stop:
        try:
            notes = _run(plan, directory, start, rows, stop)
        except NonFiniteError as error:
            failure, notes = error, [str(error)]
        finished = bool(rows) and rows[-1]["update"] >= plan.updates
        result = Result(plan, rows, "non-finite" if failure else "finished" if finished else "interrupted")
        write_files(directory, _title(plan), [result], arguments, notes)
    print_result(directory, [result], notes, json=options.json)
    if failure is not None:
        raise failure
    if stop.signal_number is not None and not finished:
        done = f"saved at update {rows[-1]['update']}" if rows else "before the first update was done"
        again = shlex.join(_again(arguments, directory))
        raise Interrupted(f"interrupted, {done}; go on with: {again}", stop.signal_number)
    return 0


def _run(plan: Plan, directory: Path, start: Start, rows: list[Row], stop: Stop) -> list[str]:
    """Does the updates that are left, appending their rows, and returns what there is to note."""

    def save(update: int, state: TrainState) -> None:
        checkpoint.save(directory / CHECKPOINTS, update, state)

    def restore(state: TrainState) -> TrainState:
        state, _ = checkpoint.restore(directory / CHECKPOINTS, state, step=start.update)
        settle(directory, plan, start)  # not before: what cannot be gone on with is left as it is
        return state

    reference: Reference | None = None
    with progress(plan.algorithm) as shown:
        if plan.is_token:
            reference = _reference(directory, shown, is_new=start.update is None)
        log = Log(directory / ROWS)
        try:
            run_plan(
                plan,
                lambda: build(plan, reference),
                rows,
                log,
                shown,
                stop,
                restore=None if start.update is None else restore,
                save=save,
            )
        finally:
            log.close()
    return [] if reference is None else [about_reference(reference)]


def _reference(directory: Path, shown: Progress, *, is_new: bool) -> Reference:
    """The reference policy of the token world, learnt once for each run directory.

    Raises CheckpointError if a run that has begun has lost it.
    """
    if not is_new or checkpoint.latest_step(directory / REFERENCE) is not None:
        return restore_reference(directory / REFERENCE)
    shown.stage("imitating the reference...")
    reference = imitate_reference()
    shown.stage("reference learnt")
    checkpoint.save(directory / REFERENCE, 0, reference)
    return reference


def _again(arguments: Sequence[str], directory: Path) -> list[str]:
    """The command line that goes on with the run."""
    words = ["polopt", *(word for word in arguments if word != "--resume")]
    if "--out" not in [word.split("=")[0] for word in words]:
        words += ["--out", str(directory)]
    return [*words, "--resume"]
