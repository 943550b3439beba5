"""The one table: what its columns are, for the terminal and for the report."""

import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from polopt_jax.cli import _format
from polopt_jax.cli._metrics import Result

Summary = dict[str, Any]


class Column(NamedTuple):
    """A column: its name over two lines, how to fill it, and what it says."""

    name: tuple[str, str]
    cell: Callable[[Summary], str]
    meaning: str


def full_name(column: Column) -> str:
    """The column's name in one line.

    >>> full_name(COLUMNS[-1]), full_name(COLUMNS[0])
    ('skip/honest', 'algorithm')
    """
    return " ".join(column.name).strip().replace("/ ", "/").replace(" /", "/")


def _rates(summary: Summary) -> str:
    skip, honest = summary.get("outcome/skip"), summary.get("outcome/honest")
    return _format.NONE if skip is None or honest is None else f"{100 * skip:.0f}/{100 * honest:.0f}%"


def _algorithm(summary: Summary) -> str:
    return summary["algorithm"] + ("" if summary["status"] == "finished" else "*")


COLUMNS = (
    Column(("", "algorithm"), _algorithm, "A star marks a run that did not finish."),
    Column(
        ("final", "reward"),
        lambda s: _format.reward(s.get("reward"), s.get("reward_interval")),
        "Mean return of the episodes that ended in the last tenth of the updates (if none did, of those that ended "
        "last): mean over seeds ± half-width of its 95% t-interval (none with one seed).",
    ),
    Column(("steps", "/s"), lambda s: _format.si(s.get("steps_per_second")), "All seeds together, no compilation."),
    Column(("wall", "time"), lambda s: _format.seconds(s.get("wall_seconds")), "With compilation."),
    Column(
        ("KL", "old‖new"),
        lambda s: _format.short(s.get("kl_old_new")),
        "KL(policy before ‖ policy after) of an update, in nats per decision, mean over all updates and seeds.",
    ),
    Column(
        ("", "entropy"),
        lambda s: _format.short(s.get("entropy")),
        "Of the policy, in nats per decision, in the last tenth; of a continuous action it may be negative.",
    ),
    Column(
        ("CG", "residual"),
        lambda s: _format.short(s.get("cg_residual")),
        "‖g - Fx‖ / ‖g‖ where the solve with the Fisher matrix F stopped.",
    ),
    Column(
        ("line", "search"),
        lambda s: _format.percent(s.get("line_search_accepted")),
        "Share of updates in which the line search accepted a step.",
    ),
    Column(
        ("skip/", "honest"),
        _rates,
        "Share of sequences that skip the test and that pass it honestly (one may do both), in the last tenth.",
    ),
)


def cells(results: Sequence[Result]) -> tuple[list[Column], list[list[str]]]:
    """The columns that say anything for these results, and the rows of their cells."""
    summaries = [result.summary for result in results]
    columns = [c for i, c in enumerate(COLUMNS) if i < 6 or any(c.cell(s) != _format.NONE for s in summaries)]
    return columns, [[column.cell(summary) for column in columns] for summary in summaries]


def meanings(results: Sequence[Result]) -> dict[str, str]:
    """What the columns say, by name; that of the algorithms where one is starred."""
    all_finished = all(result.status == "finished" for result in results)
    columns, _ = cells(results)
    return {full_name(column): column.meaning for column in (columns[1:] if all_finished else columns)}


def groups(results: Sequence[Result]) -> dict[str, list[int]]:
    """Indices of the results of each environment, in order."""
    found: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        found.setdefault(result.plan.env, []).append(i)
    return found


def group_title(result: Result) -> str:
    """What the results of an environment have in common."""
    plan = result.plan
    seeds = "1 seed" if plan.num_seeds == 1 else f"{plan.num_seeds} seeds"
    physics = f", {plan.backend}" if plan.backend else ""
    return f"{plan.env}{physics}: {seeds}, {_format.si(plan.steps)} steps each"


def print_table(results: Sequence[Result]) -> None:
    """Prints the table to stdout, with what its columns mean beneath."""
    from rich.console import Console

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    console = Console(file=sys.stdout, width=max(width, 40), highlight=False, markup=False, emoji=False)
    columns, rows = cells(results)
    widths = [max(len(text) for text in (*column.name, *(row[i] for row in rows))) for i, column in enumerate(columns)]
    gap = 2 if sum(widths) + 2 * len(widths) <= width else 1

    def line(texts: Sequence[str]) -> str:
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(texts, widths, strict=True))
        )
        return (" " * gap).join([first, *rest])

    for level in (0, 1):
        console.print(line([column.name[level] for column in columns]), style="bold", overflow="crop", no_wrap=True)
    for indices in groups(results).values():
        console.print(group_title(results[indices[0]]), style="bold cyan", no_wrap=True)
        for i in indices:
            console.print(line(rows[i]), overflow="crop", no_wrap=True)
    console.print()
    for name, meaning in meanings(results).items():
        console.print(f"{name}: {meaning}", style="dim")
