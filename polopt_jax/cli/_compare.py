"""`polopt compare`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from polopt_jax import runs
from polopt_jax.cli._build import Reference, about_reference, build, imitate_reference
from polopt_jax.cli._options import Compare
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import progress, say
from polopt_jax.cli._report import group_title, print_result, write_files
from polopt_jax.cli._result import Result
from polopt_jax.cli._words import BROKEN_DOWN, CommandError


def compare(options: Compare, plans: Sequence[Plan], arguments: Sequence[str]) -> int:
    """Runs the plans one after the other and prints one table; returns the exit code."""
    with runs.new(options.out, "compare") as directory:
        runs.write_json(directory / runs.CONFIG, {"runs": [plan.config() for plan in plans]})
        with runs.stop_on_signals() as stop:
            results, notes = _run_all(plans, directory, stop)
            broken = [result.failure for result in results if result.failure]
            notes += broken
            names = ", ".join(dict.fromkeys(result.plan.env for result in results))
            write_files(directory, f"Comparison on {names}", results, arguments, notes)
        print_result(directory, results, notes, json=options.json)
    if stop.signal_number is not None and (len(results) < len(plans) or results[-1].status == "interrupted"):
        finished = sum(result.status == "finished" for result in results)
        message = f"interrupted, with {finished} of {len(plans)} runs finished"
        raise CommandError(message, 128 + stop.signal_number)
    if broken:
        raise CommandError("; ".join(broken), BROKEN_DOWN)
    return 0


def _run_all(plans: Sequence[Plan], directory: Path, stop: runs.Stop) -> tuple[list[Result], list[str]]:
    """The results as far as they get, and what there is to note."""
    results: list[Result] = []
    notes: list[str] = []
    reference: Reference | None = None
    for plan in plans:
        if stop:
            break
        if not results or results[-1].plan.env != plan.env:
            say(group_title(plan))
        if plan.is_token and reference is None:
            with progress("reference") as shown:
                reference = imitate_reference(shown)
                notes.append(about_reference(reference))
        results.append(_run_one(plan, directory, reference if plan.is_token else None, stop))
    return results, notes


def _run_one(plan: Plan, directory: Path, reference: Reference | None, stop: runs.Stop) -> Result:
    log = runs.Log(directory / runs.ROWS, extra={"env": plan.env, "algorithm": plan.algorithm})
    with contextlib.closing(log), progress(plan.algorithm) as shown:
        return Result(plan, *runs.run(plan.schedule, lambda: build(plan, reference), log, shown, stop))
