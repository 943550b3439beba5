"""`polopt compare`."""

from collections.abc import Sequence
from pathlib import Path

from polopt_jax.cli import _run_directory
from polopt_jax.cli._build import Reference, build, imitate_reference
from polopt_jax.cli._errors import Interrupted, NonFiniteError
from polopt_jax.cli._log import Log, Row
from polopt_jax.cli._loop import run_plan
from polopt_jax.cli._options import Compare
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import progress, say
from polopt_jax.cli._report import about_reference, print_result, write_files
from polopt_jax.cli._results import Result, group_title
from polopt_jax.cli._signals import Stop, stop_on_signals


def compare(options: Compare, plans: Sequence[Plan], arguments: Sequence[str]) -> int:
    """Runs the plans one after the other and prints one table; returns the exit code."""
    with _run_directory.new(options.out, "compare") as directory:
        configs = {"runs": [plan.config() for plan in plans]}
        _run_directory.write(directory / _run_directory.CONFIG, _run_directory.to_json(configs, indent=2) + "\n")
        with stop_on_signals() as stop:
            results, notes, broken = _run_all(plans, directory, stop)
            notes += broken
            names = ", ".join(dict.fromkeys(result.plan.env for result in results))
            write_files(directory, f"Comparison on {names}", results, arguments, notes)
        print_result(directory, results, notes, json=options.json)
    if stop.signal_number is not None and (len(results) < len(plans) or results[-1].status == "interrupted"):
        finished = sum(result.status == "finished" for result in results)
        raise Interrupted(f"interrupted, with {finished} of {len(plans)} runs finished", stop.signal_number)
    if broken:
        raise NonFiniteError("; ".join(broken))
    return 0


def _run_all(plans: Sequence[Plan], directory: Path, stop: Stop) -> tuple[list[Result], list[str], list[str]]:
    """The results, what there is to note, and why runs were given up."""
    results: list[Result] = []
    notes: list[str] = []
    broken: list[str] = []
    reference: Reference | None = None
    for plan in plans:
        if stop:
            break
        if not results or results[-1].plan.env != plan.env:
            say(group_title(Result(plan, [], "planned")))
        if plan.is_token and reference is None:
            with progress("reference") as shown:
                shown.stage("imitating the reference...")
                reference = imitate_reference()
                shown.stage("reference learnt")
                notes.append(about_reference(reference))
        result, complaints = _run_one(plan, directory, reference if plan.is_token else None, stop)
        results.append(result)
        broken += complaints
    return results, notes, broken


def _run_one(plan: Plan, directory: Path, reference: Reference | None, stop: Stop) -> tuple[Result, list[str]]:
    """One run as far as it gets, and why it was given up, if it was."""
    rows: list[Row] = []
    log = Log(directory / _run_directory.ROWS, extra={"env": plan.env, "algorithm": plan.algorithm})
    try:
        with progress(plan.algorithm) as shown:
            run_plan(plan, lambda: build(plan, reference), rows, log, shown, stop)
    except NonFiniteError as error:
        return Result(plan, rows, "non-finite"), [str(error)]
    finally:
        log.close()
    finished = bool(rows) and rows[-1]["update"] >= plan.updates
    return Result(plan, rows, "finished" if finished else "interrupted"), []
