"""`polopt train`."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from polopt_jax import processes, runs
from polopt_jax.checkpoint import latest_step
from polopt_jax.cli._build import about_reference
from polopt_jax.cli._devices import check_same, mesh_of
from polopt_jax.cli._options import Train
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._play import leave_page
from polopt_jax.cli._progress import acknowledge, say, tell
from polopt_jax.cli._report import SUMMARY, print_result, write_files
from polopt_jax.cli._result import Result
from polopt_jax.cli._running import again, do, exit_code, failures_told, is_done, restored_reference, started

LONG = 120.0
"""Seconds of a run after which the few that drawing an episode takes are nothing: `polopt play` is done for it."""


def train(options: Train, plan: Plan, arguments: Sequence[str]) -> int:
    """Trains, or goes on training; returns the exit code."""
    mesh = mesh_of(options, plan)
    check_same(plan)
    with (
        _opened(options, plan) as directory,
        failures_told(directory, arguments),
        processes.lost(lambda: say(_lost(directory, arguments))),
    ):
        plan, start, notes, done = _found(options, plan, directory)
        for note in notes:
            tell(note)
        if done:
            return _finished(options, plan, arguments, start) if processes.is_first() else 0
        return _train(options, plan, arguments, start, mesh)


@contextlib.contextmanager
def _opened(options: Train, plan: Plan) -> Iterator[Path]:
    """The directory of the run, which the first process holds, and whose name the others are told."""
    with contextlib.ExitStack() as held:

        def hold() -> str:
            default = f"{plan.name}-{plan.schedule.seed}"
            opened = runs.existing(options.out or Path()) if options.resume else runs.new(options.out, default)
            return str(held.enter_context(opened))

        yield Path(processes.first(hold))


def _found(options: Train, plan: Plan, directory: Path) -> tuple[Plan, runs.Start, Sequence[str], bool]:
    """Where the run goes on, the plan to its end, what the user should know, and whether nothing is left to do."""
    if not options.resume:
        return plan, runs.Start(directory, plan.config()), [], False

    def look() -> list[Any]:
        longer, start, notes = started(plan, directory, steps=options.steps)
        return [longer.schedule, start.update, start.rows, start.length, notes, is_done(longer, start)]

    schedule, update, rows, length, notes, done = processes.first(look)
    plan = replace(plan, schedule=runs.Schedule(*schedule))
    return plan, runs.Start(directory, plan.config(), update, tuple(rows), length), notes, done


def _lost(directory: Path, arguments: Sequence[str]) -> str:
    """What a process says whose peers are gone."""
    update = latest_step(directory / runs.CHECKPOINTS)
    saved = "what was saved is good" if update is None else f"the checkpoint of update {update} is good"
    how = shlex.join(again(arguments, directory))
    return f"polopt: {processes.name()}error: it has lost its peers; {saved}; go on, in every process, with: {how}"


def _finished(options: Train, plan: Plan, arguments: Sequence[str], start: runs.Start) -> int:
    """Shows a run that has nothing left to do, and writes of its files what a kill may have left out."""
    directory = start.directory
    result = Result(plan, start.rows)
    summary = _summary(directory / SUMMARY)
    notes = summary.get("notes", [])
    if summary.get("results") != json.loads(runs.to_json([result.summary])):
        notes = [about_reference(restored_reference(directory))] if plan.is_token else []
        runs.settle(start)
        write_files(directory, plan.title, [result], arguments, notes)
    say(f"{directory} is finished, with {plan.schedule.updates} updates; a larger --steps would go on")
    print_result(directory, [result], notes, json=options.json)
    return 0


def _summary(path: Path) -> dict[str, Any]:
    """What summary.json holds, as far as that is what this command writes; it is never read to decide anything."""
    try:
        known = json.loads(path.read_bytes())
        return known if all(isinstance(note, str) for note in known["notes"]) else {}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return {}


def _train(options: Train, plan: Plan, arguments: Sequence[str], start: runs.Start, mesh: Mesh | None) -> int:
    schedule, directory = plan.schedule, start.directory
    over = "" if mesh is None else f", on {mesh.size} devices"
    tell(f"{plan.title}: {schedule.seeds}, {schedule.steps:,} steps each, in {directory}{over}")
    with runs.stop_on_signals(acknowledge) as stop:
        result, reference = do(plan, start, stop, mesh=mesh)

        def leave() -> list[str]:
            notes = [result.failure] if result.failure else [about_reference(reference)] if reference else []
            if result.status == "finished" and result.summary["wall_seconds"] >= LONG:
                leave_page(directory)
            write_files(directory, plan.title, [result], arguments, notes)
            return notes

        notes = processes.first(leave)
    if processes.is_first():
        print_result(directory, [result], notes, json=options.json)
    return exit_code(result, stop, arguments, directory)
