"""What runs come to: a summary of each one's rows, and the table that the summaries stand in."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from polopt_jax import report
from polopt_jax.cli._plan import Plan, measured_apart
from polopt_jax.report import Column, Group

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""A row per chunk of updates, as metrics.jsonl has them: a metric is a list with a value per seed."""

Summary: TypeAlias = dict[str, Any]


class Result(NamedTuple):
    """A run as far as it went."""

    plan: Plan
    rows: Rows
    status: str
    """`finished`, `interrupted` or `non-finite`."""

    @property
    def summary(self) -> Summary:
        """Its line of the table."""
        return summarise(self.plan, self.rows, self.status)


def tail(rows: Rows) -> Rows:
    """The rows of the last tenth of the updates, at least one."""
    last = rows[-1]["update"]
    return [row for row in rows if row["update"] > 0.9 * last] or rows[-1:]


def values_of(rows: Rows, name: str) -> list[float]:
    """The known values of a metric in all rows and seeds.

    Where no metric has just this name, it is that of every phase (`policy/skipped` and `critic/skipped`).
    """
    names = {key for row in rows for key in row}
    keys = [name] if name in names else sorted(key for key in names if key.split("/", 1)[-1] == name)
    return [value for row in rows for key in keys for value in row.get(key, ()) if value is not None]


def mean_of(rows: Rows, name: str) -> float | None:
    """A metric averaged over rows and seeds; None if it is nowhere known."""
    found = values_of(rows, name)
    return math.fsum(found) / len(found) if found else None


def final_rewards(rows: Rows) -> list[float | None]:
    """For each seed the mean return of the episodes that ended last; None where none ever ended.

    Those of the last tenth of the updates, or where that holds none (episodes of one length begun together end
    together, far apart) those of the last chunk in which any ended.
    """

    first_of_tail = tail(rows)[0]["update"]

    def of_seed(seed: int) -> float | None:
        with_ends = [row for row in rows if row["episode/finished"][seed]]
        last = [row for row in with_ends if row["update"] >= first_of_tail] or with_ends[-1:]
        returns, number = (
            math.fsum(row[name][seed] or 0.0 for row in last) for name in ("episode/return_sum", "episode/finished")
        )
        return returns / number if number else None

    return [of_seed(seed) for seed in range(len(rows[-1]["episode/finished"]))]


def interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and half-width of the 95% t-interval of the mean; no width for a single value.

    >>> interval([1.0, 2.0, 3.0])
    (2.0, 2.484...)
    >>> interval([1.0]), interval([None])
    ((1.0, None), (None, None))
    """
    from scipy.special import stdtrit

    known = [value for value in values if value is not None]
    if not known:
        return None, None
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, None
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / (len(known) - 1))
    return mean, float(stdtrit(len(known) - 1, 0.975)) * spread / math.sqrt(len(known))


def summarise(plan: Plan, rows: Rows, status: str) -> Summary:
    """The line of the table: one algorithm on one environment."""
    summary: Summary = {"algorithm": plan.algorithm, "env": plan.env, "status": status}
    summary["measured_apart"] = measured_apart(plan)
    if not rows:
        return summary
    last, rewards = rows[-1], final_rewards(rows)
    mean, half_width = interval(rewards)
    summary |= {
        "updates": last["update"],
        "steps": last["steps"],
        "num_seeds": plan.num_seeds,
        "reward": mean,
        "reward_interval": half_width,
        "reward_by_seed": rewards,
        "steps_per_second": last["steps"] * plan.num_seeds / max(last["seconds"], 1e-9),
        "wall_seconds": last["seconds"] + last["compile_seconds"],
        "compile_seconds": last["compile_seconds"],
        "entropy": mean_of(tail(rows), "entropy"),
        "unscored": math.fsum(values_of(rows, "episode/unscored")),
    }
    for name in ("kl_old_new", "skipped", "nonfinite_steps"):
        summary[name] = mean_of(rows, name)
    for name in ("cg_iterations", "cg_residual", "line_search_accepted", "line_search_trials"):
        summary[name] = mean_of(rows, name)
    for name in ("outcome/skip", "outcome/honest"):
        summary[name] = mean_of(tail(rows), name)
    return summary


# The table


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
    ]
