"""What a run comes to: the numbers that its rows add up to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polopt_jax.runs._log import Row

SOLVER = ("cg_iterations", "cg_residual", "line_search_accepted", "line_search_trials")
OVERALL = ("kl_old_new", "skipped", *SOLVER)
"""Metrics that a summary has averaged over all updates."""
FEW_SEEDS = 5
"""Of fewer no interval over seeds is given."""
LATE = ("entropy", "outcome/skip", "outcome/honest", "outcome/skip_kl")
"""Metrics that it has averaged over the last tenth."""


def tail(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of the last tenth of the updates, with the one in which that begins; at least one."""
    last = rows[-1]["update"]
    return [row for row in rows if row["update"] > 0.9 * last] or rows[-1:]


def values_of(rows: Sequence[Row], name: str) -> list[float]:
    """The known values of a metric in all rows and seeds.

    Where no metric has just this name, it is that of every phase (`policy/skipped` and `critic/skipped`).
    """
    names = {key for row in rows for key in row}
    keys = [name] if name in names else sorted(key for key in names if key.split("/", 1)[-1] == name)
    return [value for row in rows for key in keys for value in row.get(key, ()) if value is not None]


def mean_of(rows: Sequence[Row], name: str) -> float | None:
    """A metric averaged over rows and seeds; None if it is nowhere known."""
    found = values_of(rows, name)
    return math.fsum(found) / len(found) if found else None


def final_rewards(rows: Sequence[Row]) -> list[float | None]:
    """For each seed the mean return of the episodes that ended last; None where none ever ended.

    Those of the last tenth of the updates, or where that holds none (episodes of one length begun together end
    together, far apart) those of the last chunk in which any ended.
    """

    first_of_tail = tail(rows)[0]["update"]

    if "episode/finished" not in rows[-1]:
        return [None] * len(rows[-1]["reward"])

    def of_seed(seed: int) -> float | None:
        with_ends = [row for row in rows if row["episode/finished"][seed]]
        last = [row for row in with_ends if row["update"] >= first_of_tail] or with_ends[-1:]
        returns, number = (
            math.fsum(row[name][seed] or 0.0 for row in last) for name in ("episode/return_sum", "episode/finished")
        )
        return returns / number if number else None

    return [of_seed(seed) for seed in range(len(rows[-1]["reward"]))]


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


def over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """As `interval`, with no width for fewer than `FEW_SEEDS` values: it would say more of t than of them.

    >>> over_seeds([1.0, 2.0, 3.0])
    (2.0, None)
    """
    mean, half_width = interval(values)
    return mean, half_width if sum(value is not None for value in values) >= FEW_SEEDS else None


def _evaluated(rows: Sequence[Row]) -> dict[str, Any]:
    """The last evaluation in which an episode ended; nothing of a run that has none.

    The share of the episodes of the last evaluation that ended is told where it is not all of them.
    """
    known = [row["eval/return"] for row in rows if any(x is not None for x in row.get("eval/return", ()))]
    shares = [row["eval/ended"] for row in rows if any(x is not None for x in row.get("eval/ended", ()))]
    ended = over_seeds(shares[-1])[0] if shares else None
    share = {} if ended is None or ended == 1 else {"eval_ended": ended}
    if not known:
        return share
    mean, half_width = over_seeds(known[-1])
    return {"eval_return": mean, "eval_return_interval": half_width, "eval_return_by_seed": known[-1], **share}


def _held_out(rows: Sequence[Row]) -> dict[str, Any]:
    """What was measured last on examples that nothing was learnt from, `held/...`; nothing of a run that has none."""
    names = sorted({name for row in rows for name in row if name.startswith("held/")})
    last = {name: next((r[name] for r in reversed(rows) if any(x is not None for x in r[name])), []) for name in names}
    return (
        {"held": {name.removeprefix("held/"): over_seeds(values)[0] for name, values in last.items()}} if last else {}
    )


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers of a run as far as it went; none if it has no rows. A metric that it has not is None."""
    if not rows:
        return {}
    last, rewards = rows[-1], final_rewards(rows)
    mean, half_width = over_seeds(rewards)
    return {
        "updates": last["update"],
        "steps": last["steps"],
        "num_seeds": len(rewards),
        "reward": mean,
        "reward_interval": half_width,
        "reward_by_seed": rewards,
        **_evaluated(rows),
        **_held_out(rows),
        "steps_per_second": last["steps"] * len(rewards) / max(last["seconds"], 1e-9),
        "wall_seconds": last["seconds"] + last["compile_seconds"],
        "compile_seconds": last["compile_seconds"],
        "unscored": math.fsum(values_of(rows, "episode/unscored")),
        "nonfinite_steps": math.fsum(values_of(rows, "nonfinite_steps")),
        **{name: mean_of(rows, name) for name in OVERALL},
        **{name: mean_of(tail(rows), name) for name in LATE},
    }
