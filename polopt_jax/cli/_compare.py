"""`polopt compare`."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from polopt_jax import runs
from polopt_jax.cli._build import Reference, about_reference
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import acknowledge, say
from polopt_jax.cli._report import print_result, write_files
from polopt_jax.cli._result import Result
from polopt_jax.cli._running import again, do, failures_told, has_begun, is_done, restored_reference, started
from polopt_jax.cli._table import group_title
from polopt_jax.cli._words import BROKEN_DOWN, CommandError


def compare(
    out: Path | None, plans: Sequence[Plan], arguments: Sequence[str], *, go_on: bool = False, json: bool = False
) -> int:
    """Does the runs one after the other, each in a directory of its own, and prints one table; returns the exit code.

    To go on is to do those that are not finished.
    """
    opened = runs.existing(out or Path()) if go_on else runs.new(out, "compare")
    with opened as directory, failures_told(directory, arguments):
        if not go_on:
            runs.write_json(directory / runs.CONFIG, {"runs": [plan.config() for plan in plans]})
        with runs.stop_on_signals(acknowledge) as stop:
            results, notes = _run_all(plans, directory, stop)
            broken = [result.failure for result in results if result.failure]
            notes += broken
            names = ", ".join(dict.fromkeys(result.plan.env for result in results))
            write_files(directory, f"Comparison on {names}", results, arguments, notes)
        print_result(directory, results, notes, json=json)
    if stop.signal_number is not None and (len(results) < len(plans) or results[-1].status == "interrupted"):
        finished = sum(result.status == "finished" for result in results)
        how = shlex.join(again(arguments, directory))
        message = f"interrupted, with {finished} of {len(plans)} runs finished; go on with: {how}"
        raise CommandError(message, 128 + stop.signal_number)
    if broken:
        raise CommandError("; ".join(broken), BROKEN_DOWN)
    return 0


def _run_all(plans: Sequence[Plan], directory: Path, stop: runs.Stop) -> tuple[list[Result], list[str]]:
    """The results as far as they get, and what there is to note."""
    results: list[Result] = []
    reference: Reference | None = None
    for plan in plans:
        if stop:
            break
        if not results or results[-1].plan.env != plan.env:
            say(group_title([other for other in plans if other.env == plan.env]))
        result, own = _run_one(plan, directory / plan.name, reference, stop)
        results.append(result)
        reference = own or reference
    return results, [] if reference is None else [about_reference(reference)]


def _run_one(
    plan: Plan, directory: Path, reference: Reference | None, stop: runs.Stop
) -> tuple[Result, Reference | None]:
    """One run from where it stands; one that is finished as it is."""
    go_on = has_begun(directory)
    with runs.existing(directory) if go_on else runs.new(directory, plan.name):
        start = runs.Start(directory, plan.config())
        if go_on:
            plan, start, notes = started(plan, directory)
            for note in notes:
                say(note)
        if is_done(plan, start):
            say(f"{plan.title} is finished")
            return Result(plan, start.rows), restored_reference(directory) if plan.is_token else None
        return do(plan, start, stop, reference)
