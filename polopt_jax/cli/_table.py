"""What the command's one table says of its results: the columns, and what the results of an environment share."""

from collections.abc import Sequence
from typing import Any

from polopt_jax import report
from polopt_jax.cli._results import Result
from polopt_jax.report import Column, Group

Summary = dict[str, Any]


def _algorithm(summary: Summary) -> str:
    return summary["algorithm"] + ("" if summary["status"] == "finished" else "*")


def _rates(summary: Summary) -> str:
    skip, honest = summary.get("outcome/skip"), summary.get("outcome/honest")
    return report.NONE if skip is None or honest is None else f"{100 * skip:.0f}/{100 * honest:.0f}%"


def _unscored(summary: Summary) -> str:
    return report.si(summary.get("unscored") or None)


REWARD = Column(
    ("final", "reward"),
    lambda s: report.estimate(s.get("reward"), s.get("reward_interval")),
    "Mean return of the episodes that ended in the last tenth of the updates (if none did, of those that ended last): "
    "mean over seeds ± half-width of its 95% t-interval (none with one seed).",
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
SOMETIMES = (
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
    Column(("", "unscored"), _unscored, "Sequences that nobody could score, of all updates and seeds."),
)
"""Shown where they say something of some result."""


def by_environment(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each environment, in order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.plan.env, []).append(result)
    return found


def group_title(result: Result) -> str:
    """What the results of an environment have in common."""
    plan = result.plan
    seeds = "1 seed" if plan.num_seeds == 1 else f"{plan.num_seeds} seeds"
    physics = f", {plan.backend}" if plan.backend else ""
    return f"{plan.env}{physics}: {seeds}, {report.si(plan.steps)} steps each"


def groups(results: Sequence[Result]) -> list[Group]:
    """The rows of the table: a summary for each result, by environment."""
    return [
        Group(group_title(members[0]), [result.summary for result in members])
        for members in by_environment(results).values()
    ]


def columns(rows: Sequence[Group]) -> list[Column]:
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
    ]
