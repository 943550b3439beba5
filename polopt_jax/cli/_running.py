"""One run in its directory: where it starts, and its updates. `polopt train` does one, `polopt compare` many."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from jax.sharding import Mesh

from polopt_jax import checkpoint, processes, runs
from polopt_jax.cli._build import Reference, blank_reference, build, imitate_reference, restore_reference
from polopt_jax.cli._devices import kept_flags
from polopt_jax.cli._kinds import SIMULATOR
from polopt_jax.cli._loggers import telling
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import Progress, progress, say
from polopt_jax.cli._result import Result
from polopt_jax.cli._simulated import about_simulators, simulating
from polopt_jax.cli._text_plan import TextPlan
from polopt_jax.cli._words import BROKEN_DOWN, FILE_FAILED, CommandError, UsageError, with_out
from polopt_jax.simulators import SimulatorError

AnyPlan = TypeVar("AnyPlan", Plan, TextPlan)
REFERENCE = "reference"
"""Where a run keeps the reference policy of the token world."""


def has_begun(directory: Path) -> bool:
    """Whether there is a run in the directory."""
    return (directory / runs.CONFIG).exists()


def again(arguments: Sequence[str], directory: Path) -> list[str]:
    """The command line that goes on with what is in a directory, or that begins it where it has not begun."""
    if has_begun(directory):
        told = ["--json"] if "--json" in arguments else []
        return ["polopt", arguments[0], "--out", str(directory), "--resume", *kept_flags(arguments), *told]
    return with_out(["polopt", *(word for word in arguments if word != "--resume")], directory)


@contextlib.contextmanager
def failures_told(directory: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Says of a file that cannot be used, or of a simulator that failed, how to go on when that is mended."""
    try:
        yield
    except BrokenPipeError:  # stdout or stderr, not a file
        raise
    except (checkpoint.SaveError, OSError) as error:
        told = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        said = f"{told}; what was saved is intact; when that is mended, {shlex.join(again(arguments, directory))}"
        raise CommandError(said, FILE_FAILED) from error
    except SimulatorError as error:
        said = f"{error}; what was saved is intact; when that is mended, {shlex.join(again(arguments, directory))}"
        raise CommandError(said, BROKEN_DOWN) from error


def started(plan: AnyPlan, directory: Path, *, steps: int | None = None) -> tuple[AnyPlan, runs.Start, list[str]]:
    """Where the run in a directory goes on, its plan to the end or to `steps`, and what the user should know.

    Raises RunError and CheckpointError if that cannot be, UsageError if it cannot become longer.
    """
    schedule, notes = runs.continued(plan.schedule, plan.config(), directory, steps=steps)
    stored = runs.read_config(directory)
    if plan.rate != "constant" and schedule.updates > stored["updates"]:
        raise UsageError(
            f"the learning rate of this run is down to 0 after its {stored['steps']:,} steps (--schedule {plan.rate}), "
            "so it cannot become longer; load its policy, or begin another run"
        )
    plan = replace(plan, schedule=schedule)
    start = runs.find_start(directory, plan.config(), schedule)
    return plan, start, [*notes, *start.notes]


def is_done(plan: Plan | TextPlan, start: runs.Start) -> bool:
    """Whether nothing is left to do. Raises CheckpointError if its last checkpoint is damaged."""
    if start.update != plan.schedule.updates:
        return False
    checkpoint.check(start.directory / runs.CHECKPOINTS, step=start.update)
    return True


def do(
    plan: Plan, start: runs.Start, stop: runs.Stop, known: Reference | None = None, mesh: Mesh | None = None
) -> tuple[Result, Reference | None]:
    """Does the updates that are left: the result, and the reference of a token world.

    The reference is `known`, if the run has none of its own, or else learnt. Of several processes only the first
    touches the directory, and shows how it goes.
    """
    if start.update is None:
        processes.first(lambda: runs.settle(start))
    for note in about_simulators(start) if plan.kind is SIMULATOR else []:
        say(note)
    with contextlib.ExitStack() as opened:
        shown, log, tell = opened.enter_context(progress(plan.algorithm)), runs.NoLog(), lambda row: None

        def begin() -> None:
            nonlocal log, tell
            log = opened.enter_context(contextlib.closing(runs.Log(start.directory / runs.ROWS)))
            tell = opened.enter_context(telling(plan, start))

        reference = _agreed_reference(start, shown, known) if plan.is_token else None
        processes.first(begin)
        simulated = opened.enter_context(simulating(plan)) if plan.kind is SIMULATOR else None
        made = runs.run(
            plan.schedule,
            simulated or (lambda: build(plan, reference)),
            log,
            shown,
            stop,
            start,
            evaluate_every=plan.eval_every,
            tell=tell,
            mesh=mesh,
        )
    return Result(plan, *made), reference


def exit_code(result: Result, stop: runs.Stop, arguments: Sequence[str], directory: Path) -> int:
    """0 of a run that did what it should. Raises CommandError of one that broke down, or was interrupted."""
    if result.failure is not None:
        raise CommandError(result.failure, BROKEN_DOWN)
    if stop.signal_number is not None and result.status == "interrupted":
        done = f"saved at update {result.rows[-1]['update']}" if result.rows else "before the first update was done"
        how = shlex.join(again(arguments, directory))
        raise CommandError(f"interrupted, {done}; go on with: {how}", 128 + stop.signal_number)
    return 0


def restored_reference(directory: Path) -> Reference:
    """The reference that the run in a directory keeps."""
    return restore_reference(directory / REFERENCE)


def _agreed_reference(start: runs.Start, shown: Progress, known: Reference | None) -> Reference:
    """The reference policy of the token world, which the first of several processes learns or reads for all."""
    found: list[Reference] = []
    processes.first(lambda: found.append(_reference(start, shown, known)))
    return processes.from_first(found[0] if found else blank_reference())


def _reference(start: runs.Start, shown: Progress, known: Reference | None) -> Reference:
    """The reference policy of the token world, the same for a run directory ever after.

    Raises CheckpointError if a run that has begun has lost it.
    """
    store = start.directory / REFERENCE
    if start.update is not None or checkpoint.latest_step(store) is not None:
        return restore_reference(store)
    reference = imitate_reference(shown) if known is None else known
    checkpoint.save(store, 0, reference)
    return reference
