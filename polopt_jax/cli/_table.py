"""The table of runs: a line for each, with the columns that say something, and how any table is printed."""

import shutil
import sys
from collections.abc import Sequence

from polopt_jax import report, runs
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._result import Result, Summary
from polopt_jax.report import Column, Group


def _algorithm(summary: Summary) -> str:
    return summary["algorithm"] + ("" if summary["status"] == "finished" else "*")


def _rates(summary: Summary) -> str:
    skip, honest = summary.get("outcome/skip"), summary.get("outcome/honest")
    return report.NONE if skip is None or honest is None else f"{100 * skip:.0f}/{100 * honest:.0f}%"


REWARD = Column(
    ("final", "reward"),
    lambda s: report.mean_or_extent(s.get("reward"), s.get("reward_interval"), s.get("reward_by_seed", ())),
    "Mean return of the episodes that ended in the last tenth of the updates (if none did, of those that ended last): "
    f"mean over seeds ± half-width of its 95% t-interval; of fewer than {runs.FEW_SEEDS} the lowest and the highest.",
)
ALWAYS = (
    Column(
        ("steps", "/s"),
        lambda s: report.si(s.get("steps_per_second")),
        "A step is one decision that an update learnt from, rows x time, whatever the algorithm. All seeds together, "
        "without compilation.",
    ),
    Column(("wall", "time"), lambda s: report.seconds(s.get("wall_seconds")), "With compilation."),
    Column(
        ("KL", "old‖new"),
        lambda s: report.short(s.get("kl_old_new")),
        "KL(policy before ‖ policy after) of an update, in nats per decision, mean over all updates and seeds.",
    ),
    Column(
        ("", "entropy"),
        lambda s: report.short(s.get("entropy")),
        "Of the policy, in nats per decision, in the last tenth; of a continuous action it may be negative.",
    ),
)
COMPILE = Column(("compile", "time"), lambda s: report.seconds(s.get("compile_seconds")), "Is part of the wall time.")
SOMETIMES = (
    Column(
        ("eval", "return"),
        lambda s: report.mean_or_extent(
            s.get("eval_return"), s.get("eval_return_interval"), s.get("eval_return_by_seed", ())
        ),
        "Mean return of the last evaluation: whole episodes, the most probable action; over seeds as the reward.",
    ),
    Column(
        ("eval", "ended"),
        lambda s: report.percent(s.get("eval_ended")),
        "Share of the episodes of the last evaluation that ended; the mean return is of these alone.",
    ),
    Column(
        ("CG", "residual"),
        lambda s: report.short(s.get("cg_residual")),
        "‖g - Fx‖ / ‖g‖ where the solve with the Fisher matrix F stopped.",
    ),
    Column(
        ("line", "search"),
        lambda s: report.percent(s.get("line_search_accepted")),
        "Share of updates in which the line search accepted a step.",
    ),
    Column(
        ("skip/", "honest"),
        _rates,
        "Share of sequences that skip the test and that pass it honestly (one may do both), in the last tenth.",
    ),
    Column(
        ("skip", "D_z"),
        lambda s: report.short(s.get("outcome/skip_kl")),
        "KL of skipping, this policy's from the reference's, in nats of an answer: per prompt, then averaged; its "
        "bias taken off. In the last tenth, on attempts that no update sees.",
    ),
    Column(
        ("", "unscored"),
        lambda s: report.si(s.get("unscored") or None),
        "Sequences that nobody could score, of all updates and seeds.",
    ),
    Column(
        ("", "broken"),
        lambda s: report.si(s.get("nonfinite_steps") or None),
        "Steps that were not finite, of all updates and seeds: none was learnt from, and an episode began anew.",
    ),
)
"""Shown where they say something of some result."""


def by_environment(results: Sequence[Result]) -> list[list[Result]]:
    """The results of each environment, in order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.plan.env, []).append(result)
    return list(found.values())


def group_title(plans: Sequence[Plan]) -> str:
    """What the runs on an environment have in common; steps are rounded up for each algorithm."""
    plan, steps = plans[0], sorted({plan.schedule.steps for plan in plans})
    physics = f", {plan.backend}" if plan.backend else ""
    many = " to ".join(dict.fromkeys(report.si(end) for end in (steps[0], steps[-1])))
    return f"{plan.env}{physics}: {plan.schedule.seeds}, {many} steps each"


def groups(results: Sequence[Result]) -> list[Group]:
    """The rows of the table: a summary for each result, by environment."""
    return [
        Group(group_title([result.plan for result in members]), [result.summary for result in members])
        for members in by_environment(results)
    ]


def columns_of(rows: Sequence[Group]) -> list[Column]:
    """The columns that say anything. A star is explained where there is one, and how a reward came about otherwise."""
    summaries = [summary for group in rows for summary in group.rows]
    starred = any(summary["status"] != "finished" for summary in summaries)
    apart = list(dict.fromkeys(summary["algorithm"] for summary in summaries if summary["measured_apart"]))
    how = f" That of {' and '.join(apart)} is measured once per chunk of updates, on rollouts that no update sees."
    return [
        Column(("", "algorithm"), _algorithm, "A star marks a run that did not finish." if starred else ""),
        REWARD._replace(meaning=REWARD.meaning + how) if apart else REWARD,
        *ALWAYS,
        *report.informative(SOMETIMES, rows),
        COMPILE,
    ]


def print_table(results: Sequence[Result]) -> None:
    """Prints the table to stdout, with what its columns mean beneath."""
    rows = groups(results)
    show_table(columns_of(rows), rows)


def show_table(columns: Sequence[Column], rows: Sequence[Group]) -> None:
    """Prints any table so."""
    from rich.console import Console

    width = max(40, shutil.get_terminal_size().columns if sys.stdout.isatty() else 120)
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    console.print(report.terminal(columns, rows, width=width))
    console.print()
    for name, meaning in report.meanings(columns).items():
        console.print(f"{name}: {meaning}", style="dim")
