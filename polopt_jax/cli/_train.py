"""`polopt train`."""

import contextlib
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polopt_jax import checkpoint
from polopt_jax.cli import _run_directory
from polopt_jax.cli._build import Reference, build, imitate_reference, restore_reference
from polopt_jax.cli._errors import CheckpointUnusable, Interrupted, NonFiniteError, UsageError
from polopt_jax.cli._loop import run_plan
from polopt_jax.cli._metrics import Log, Row, read_rows, truncate
from polopt_jax.cli._options import Train
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import Progress, progress, say
from polopt_jax.cli._report import about_reference, print_result, write_files
from polopt_jax.cli._results import Result
from polopt_jax.cli._signals import Stop, stop_on_signals
from polopt_jax.training import TrainState

CONFIG, ROWS, CHECKPOINTS, REFERENCE, SUMMARY = (
    "config.json",
    "metrics.jsonl",
    "checkpoints",
    "reference",
    "summary.json",
)
GROWING = ("steps", "updates", "chunk_updates")
"""What of a config may differ when a run goes on."""


def train(options: Train, plan: Plan, arguments: Sequence[str]) -> int:
    """Trains, or goes on training; returns the exit code."""
    with _open(options, plan) as (directory, plan):
        summary = directory / SUMMARY
        known = _run_directory.read_json(summary) if options.resume and summary.exists() else {}
        status = [(run.get("status"), run.get("updates")) for run in known.get("results", [])]
        if status == [("finished", plan.updates)]:
            say(f"{directory} is finished, with {plan.updates} updates; a larger --steps would go on")
            result = Result(plan, read_rows(directory / ROWS), "finished")
            print_result(directory, [result], known.get("notes", []), json=options.json)
            return 0
        try:
            return _train(options, plan, arguments, directory)
        except checkpoint.CheckpointError as error:
            raise CheckpointUnusable(str(error)) from error


@contextlib.contextmanager
def _open(options: Train, plan: Plan) -> Iterator[tuple[Path, Plan]]:
    """The locked run directory, and the plan, which on resuming has the chunks that the run began with."""
    if not options.resume:
        with _run_directory.new(options.out, f"{plan.env}-{plan.algorithm}-{plan.seed}") as directory:
            yield directory, plan
        return
    directory = options.out or Path()
    stored = _run_directory.read_json(directory / CONFIG)
    with _run_directory.locked(directory):
        yield directory, _continued(plan, stored, options.steps, directory)


def _continued(plan: Plan, stored: dict[str, Any], steps: int | None, directory: Path) -> Plan:
    """The plan in the chunks of the stored config, to its end or to `steps`. UsageError if it is another run's."""
    wanted = json.loads(_run_directory.to_json(plan.config()))
    pairs = {name: (stored.get(name), wanted.get(name)) for name in {**wanted, **stored}}
    theirs, ours = pairs.pop("hyperparameters")
    if isinstance(theirs, dict):
        pairs |= {name: (theirs.get(name), ours.get(name)) for name in {**ours, **theirs}}
    different = [
        f"{name} was {old}, now {new}" for name, (old, new) in pairs.items() if old != new and name not in GROWING
    ]
    if different:
        raise UsageError(f"{directory} was started with other options: {'; '.join(different)}")
    chunk_updates, updates = stored.get("chunk_updates"), stored.get("updates")
    if not (isinstance(chunk_updates, int) and isinstance(updates, int) and 0 < chunk_updates <= updates):
        raise UsageError(f"{directory / CONFIG} is damaged: chunk_updates is {chunk_updates!r}, updates {updates!r}")
    num_chunks = updates // chunk_updates
    if steps is not None:
        num_chunks = math.ceil(math.ceil(steps / plan.decisions) / chunk_updates)
    if num_chunks * chunk_updates < updates:
        raise UsageError(
            f"--steps {steps} is less than the {updates * plan.decisions} that {directory} was started for"
        )
    return replace(plan, chunk_updates=chunk_updates, num_chunks=num_chunks)


def _train(options: Train, plan: Plan, arguments: Sequence[str], directory: Path) -> int:
    _run_directory.write(directory / CONFIG, _run_directory.to_json(plan.config(), indent=2) + "\n")
    seeds = "1 seed" if plan.num_seeds == 1 else f"{plan.num_seeds} seeds"
    say(f"{plan.algorithm} on {plan.env}: {seeds}, {plan.steps:,} steps each, in {directory}")
    update = checkpoint.latest_step(directory / CHECKPOINTS) or 0
    rows = truncate(directory / ROWS, up_to=update)
    if (rows[-1]["update"] if rows else 0) != update:
        raise checkpoint.CheckpointError(f"{directory / ROWS} does not reach update {update}, that of the checkpoint")
    failure: NonFiniteError | None = None
    with stop_on_signals() as stop:
        try:
            notes = _run(plan, directory, rows, stop, resumed=update > 0)
        except NonFiniteError as error:
            failure, notes = error, [str(error)]
        finished = bool(rows) and rows[-1]["update"] >= plan.updates
        result = Result(plan, rows, "non-finite" if failure else "finished" if finished else "interrupted")
        write_files(directory, f"{plan.algorithm} on {plan.env}", [result], arguments, notes)
    print_result(directory, [result], notes, json=options.json)
    if failure is not None:
        raise failure
    if stop.signal_number is not None and not finished:
        raise Interrupted(_how_to_resume(arguments, directory, rows), stop.signal_number)
    return 0


def _run(plan: Plan, directory: Path, rows: list[Row], stop: Stop, *, resumed: bool) -> list[str]:
    """Does the updates that are left, and returns what there is to note."""

    def save(update: int, state: TrainState) -> None:
        checkpoint.save(directory / CHECKPOINTS, update, state)

    def restore(state: TrainState) -> TrainState:
        return checkpoint.restore(directory / CHECKPOINTS, state)[0]

    log = Log(directory / ROWS)
    try:
        with progress(plan.algorithm) as shown:
            reference = _reference(directory, shown) if plan.is_token else None
            run_plan(
                plan,
                lambda: build(plan, reference),
                rows,
                log,
                shown,
                stop,
                restore=restore if resumed else None,
                save=save,
            )
    finally:
        log.close()
    return [] if reference is None else [about_reference(reference)]


def _reference(directory: Path, shown: Progress) -> Reference:
    """The reference policy of the token world, learnt once for each run directory."""
    if checkpoint.latest_step(directory / REFERENCE) is not None:
        return restore_reference(directory / REFERENCE)
    shown.stage("imitating the reference...")
    reference = imitate_reference()
    shown.stage("reference learnt")
    checkpoint.save(directory / REFERENCE, 0, reference)
    return reference


def _how_to_resume(arguments: Sequence[str], directory: Path, rows: Sequence[Row]) -> str:
    again = [word for word in arguments if word != "--resume"]
    if "--out" not in [word.split("=")[0] for word in again]:
        again += ["--out", str(directory)]
    done = f"saved at update {rows[-1]['update']}" if rows else "before the first update was done"
    return f"interrupted, {done}; go on with: {shlex.join(['polopt', *again, '--resume'])}"
