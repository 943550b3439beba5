"""What a run comes to: the rows of its log, summed up in a line of the table."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from polopt_jax.cli._log import Row
from polopt_jax.cli._plan import Plan


class Result(NamedTuple):
    """A run as far as it went."""

    plan: Plan
    rows: list[Row]
    status: str
    """`finished`, `interrupted` or `non-finite`."""

    @property
    def summary(self) -> dict[str, Any]:
        """Its line of the table."""
        return summarise(self.plan, self.rows, self.status)


def tail(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of the last tenth of the updates, at least one."""
    last = rows[-1]["update"]
    return [row for row in rows if row["update"] > 0.9 * last] or rows[-1:]


def mean_of(rows: Sequence[Row], name: str) -> float | None:
    """A metric averaged over rows and seeds; None if it is nowhere finite or not there. Prefixes `0/` are ignored."""
    lists = [values for row in rows for key, values in row.items() if name in (key, key.split("/", 1)[-1])]
    found = [value for values in lists for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def final_rewards(rows: Sequence[Row]) -> list[float | None]:
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


def summarise(plan: Plan, rows: Sequence[Row], status: str) -> dict[str, Any]:
    """The line of the table: one algorithm on one environment."""
    summary: dict[str, Any] = {"algorithm": plan.algorithm, "env": plan.env, "status": status}
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
        "kl_old_new": mean_of(rows, "kl_old_new"),
        "entropy": mean_of(tail(rows), "entropy"),
        "skipped": mean_of(rows, "skipped"),
        "nonfinite_steps": mean_of(rows, "nonfinite_steps"),
    }
    for name in ("cg_iterations", "cg_residual", "line_search_accepted", "line_search_trials"):
        summary[name] = mean_of(rows, name)
    for name in ("outcome/skip", "outcome/honest"):
        summary[name] = mean_of(tail(rows), name)
    return summary
