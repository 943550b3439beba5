"""Progress on stderr: a bar on a terminal, a line now and then in a log."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from polopt_jax import processes, report
from polopt_jax.runs import Progress, Row, Schedule

LINE_EVERY = 10.0
"""Seconds between two lines of a log, at least."""


def say(text: str) -> None:
    """A line on stderr. Where it cannot be written, all goes on without."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def tell(text: str) -> None:
    """A line on stderr of how the run goes, which of several processes the first alone says."""
    if processes.is_first():
        say(text)


def acknowledge() -> None:
    """Says of an interrupt that it was heard, and what another one does."""
    say("\ninterrupt heard: it stops when this chunk, or the compilation, is done, and saves; another one ends it now")


def silence(stream: TextIO) -> None:
    """Sends a stream that nobody reads to nowhere, also what it still holds: at the exit that would fail once more."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Gives stdout and stderr, where they were closed from the first, somewhere to go.

    Else the next file that is opened would take their place, and `print` writes to stdout what is meant for stderr.
    """
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


@contextlib.contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Shows one run, or a stage of its own, under a label; in the first of several processes."""
    if not processes.is_first():
        yield _Silence()
        return
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield _Lines(label)
        return
    with _make_bar() as bar:
        task = bar.add_task(label, total=None, state="", reward="", speed="", kl="", left="")
        try:
            yield _Bar(bar, task)
        finally:
            if bar.tasks[0].total is None:  # stop the animation of a stage that had nothing to count
                bar.update(task, total=1, completed=1)


@contextlib.contextmanager
def counted(total: int) -> Iterator[Callable[[str], None]]:
    """Shows how many of `total` parts are done: call what is given with the name of each part as it begins."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        began, parts = time.monotonic(), iter(range(total))
        yield lambda name: say(f"{next(parts)} of {total} done, {report.seconds(time.monotonic() - began)}: {name}")
        return
    from rich import progress as rich_progress
    from rich.console import Console

    shown = rich_progress.Progress(
        rich_progress.BarColumn(bar_width=24),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(elapsed_when_finished=False),
        rich_progress.TextColumn("{task.description}"),
        console=Console(file=sys.stderr),
    )
    with shown as bar:
        task = bar.add_task("", total=total, completed=-1)
        yield lambda name: bar.update(task, advance=1, description=name)
        bar.update(task, completed=total, description="")


def _told(row: Row, schedule: Schedule) -> dict[str, str]:
    """What there is to say of a row, in the order of the bar."""

    def mean(name: str) -> float | None:
        known = [x for x in row[name] if x is not None]
        return sum(known) / len(known) if known else None

    seen = "loss" if "loss" in row and "episode/finished" not in row else "reward"
    return {
        "state": f"{100 * row['update'] // schedule.updates}%",
        "reward": f"{seen} {report.estimate(mean(seen))}",
        "speed": f"{report.si(row['steps'] * schedule.num_seeds / max(row['seconds'], 1e-9))} steps/s",
        "kl": f"KL {report.short(mean('kl_old_new'))}",
        **_left(row, schedule),
    }


def _left(row: Row, schedule: Schedule) -> dict[str, str]:
    """How long the rest will take, if it goes on as it went; nothing at the end."""
    rest = row["seconds"] * (schedule.updates - row["update"]) / row["update"]
    return {"left": f"{report.seconds(rest)} left" if rest else ""}


class _Silence:
    def stage(self, text: str) -> None: ...

    def advance(self, row: Row, schedule: Schedule) -> None: ...


class _Lines:
    def __init__(self, label: str):
        self._label, self._next = label, 0.0

    def stage(self, text: str) -> None:
        say(f"{self._label}: {text}")

    def advance(self, row: Row, schedule: Schedule) -> None:
        if time.monotonic() < self._next and row["update"] < schedule.updates:
            return
        self._next = time.monotonic() + LINE_EVERY
        done, *rest = _told(row, schedule).values()
        steps = f"{report.si(row['steps'])} of {report.si(schedule.steps)} steps"
        say(f"{self._label}: {', '.join([done, steps, *filter(None, rest)])}")


class _Bar:
    def __init__(self, bar: Any, task: Any):
        self._bar, self._task = bar, task

    def stage(self, text: str) -> None:
        self._bar.update(self._task, state=text)

    def advance(self, row: Row, schedule: Schedule) -> None:
        self._bar.update(self._task, total=schedule.updates, completed=row["update"], **_told(row, schedule))


def _make_bar() -> Any:
    from rich import progress as rich_progress
    from rich.console import Console

    def field(name: str) -> Any:
        return rich_progress.TextColumn("{task.fields[" + name + "]}")

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description:<13}"),
        rich_progress.BarColumn(bar_width=14),
        *(field(name) for name in ("state", "reward", "speed", "kl", "left")),
        rich_progress.TimeElapsedColumn(),
        console=Console(file=sys.stderr),
    )
