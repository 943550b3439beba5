"""`polopt train`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polopt_jax import runs
from polopt_jax.cli._build import about_reference
from polopt_jax.cli._options import Train
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._play import leave_page
from polopt_jax.cli._progress import acknowledge, say
from polopt_jax.cli._report import SUMMARY, print_result, write_files
from polopt_jax.cli._result import Result
from polopt_jax.cli._running import do, exit_code, failures_told, is_done, restored_reference, started

LONG = 120.0
"""Seconds of a run after which the few that drawing an episode takes are nothing: `polopt play` is done for it."""


def train(options: Train, plan: Plan, arguments: Sequence[str]) -> int:
    """Trains, or goes on training; returns the exit code."""
    default = f"{plan.name}-{plan.schedule.seed}"
    opened = runs.existing(options.out or Path()) if options.resume else runs.new(options.out, default)
    with opened as directory, failures_told(directory, arguments):
        start, notes = runs.Start(directory, plan.config()), []
        if options.resume:
            plan, start, notes = started(plan, directory, steps=options.steps)
        for note in notes:
            say(note)
        if is_done(plan, start):
            return _finished(options, plan, arguments, start)
        return _train(options, plan, arguments, start)


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


def _train(options: Train, plan: Plan, arguments: Sequence[str], start: runs.Start) -> int:
    schedule, directory = plan.schedule, start.directory
    say(f"{plan.title}: {schedule.seeds}, {schedule.steps:,} steps each, in {directory}")
    with runs.stop_on_signals(acknowledge) as stop:
        result, reference = do(plan, start, stop)
        notes = [result.failure] if result.failure else [about_reference(reference)] if reference else []
        if result.status == "finished" and result.summary["wall_seconds"] >= LONG:
            leave_page(directory)
        write_files(directory, plan.title, [result], arguments, notes)
    print_result(directory, [result], notes, json=options.json)
    return exit_code(result, stop, arguments, directory)
