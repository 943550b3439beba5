"""Whether training still works: which seeds are broken, by what, and since which update.

A seed is broken in an update in which a loss, the KL of the update or the entropy is not finite, or every step was
skipped, or the policy went so far that float32 knows no probability ratio to the one before. It stays broken while the
policy stands still after that; and it is broken from the start while the policy does not move at all under a gradient
that is not zero. A policy that no longer moves because it has converged is not broken.
"""

import math
from typing import NamedTuple

import numpy as np

from polopt_jax.cli._build import all_finite
from polopt_jax.cli._log import Row
from polopt_jax.cli._plan import Plan
from polopt_jax.driver import Chunk

GIVE_UP_AFTER = 10
"""Updates in a row for which every seed is broken, after which a run is given up."""
TOO_FAR = -math.log(np.finfo(np.float32).tiny)
"""A KL, in nats per decision, at which exp(-KL), the likely ratio, is no normal float32: 87."""

_WATCHED = ("loss", "kl_old_new", "entropy")
_STILL, _LOST = "the policy did not move", "parameters not finite"


class Health(NamedTuple):
    """The state of each seed after some updates."""

    since: tuple[int | None, ...]
    """The first of the updates for which it has been broken without a pause; None where it is not."""
    what: tuple[tuple[str, ...], ...]
    """What was wrong in these updates, in the order in which it was first seen."""


def healthy(num_seeds: int, rows: list[Row]) -> Health:
    """The state to begin with. Where no row has seen the policy move, it has to show that it can."""
    moved = [any(row["kl_old_new"][seed] for row in rows) for seed in range(num_seeds)]
    first = rows[-1]["update"] + 1 if rows else 1
    return Health(tuple(None if m else first for m in moved), ((),) * num_seeds)


def look(health: Health, chunk: Chunk) -> Health:
    """The state after a chunk more."""
    sound = all_finite(chunk.state.params)
    suspect = _suspect(chunk.metrics)
    seeds: list[tuple[int | None, tuple[str, ...]]] = [
        _look_at_seed(since, what, {name: x[seed] for name, x in chunk.metrics.items()}, chunk.update)
        if suspect[seed]
        else (None, ())
        for seed, (since, what) in enumerate(zip(*health, strict=True))
    ]
    for seed in np.flatnonzero(~sound):
        since, what = seeds[seed]
        before = health.since[seed] if _LOST in health.what[seed] else None
        seeds[seed] = (since or before or chunk.update, (*what, _LOST))
    return Health(tuple(since for since, _ in seeds), tuple(what for _, what in seeds))


def is_broken(health: Health) -> bool:
    """Whether something was wrong with every seed in its latest update."""
    return all(health.what)


def complaint(health: Health, plan: Plan, update: int) -> str | None:
    """Why to give up after `update`: every seed was broken for long, or to the end. None if there is no reason."""
    if not is_broken(health):
        return None
    since = max(number for number in health.since if number is not None)
    ended_badly = update >= plan.updates and all(set(what) != {_STILL} for what in health.what)
    if update - since + 1 < min(GIVE_UP_AFTER, plan.updates) and not ended_badly:
        return None
    reasons = ", ".join(dict.fromkeys(reason for what in health.what for reason in what))
    seeds = "" if plan.num_seeds == 1 else " in every seed"
    return (
        f"{plan.algorithm} on {plan.env}: broken{seeds} since update {since} ({reasons}), stopped at update {update}; "
        "try a smaller step or smaller weights"
    )


def _suspect(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """For each seed, whether there is any update in the chunk to look at more closely, `[seeds]` bool."""
    kl = metrics["kl_old_new"]
    tables = [~((kl > 0) & (kl < TOO_FAR))]
    tables += [~np.isfinite(x) for name, x in metrics.items() if name.split("/")[-1] in _WATCHED]
    tables += [x >= 1.0 for name, x in metrics.items() if name.split("/")[-1] == "skipped"]
    return np.any(tables, axis=(0, 2))


def _look_at_seed(
    since: int | None, what: tuple[str, ...], metrics: dict[str, np.ndarray], last: int
) -> tuple[int | None, tuple[str, ...]]:
    """`(since, what)` of a seed after the updates of which these are the metrics, each `[updates]`."""
    num_updates = len(metrics["kl_old_new"])
    for number in range(num_updates):
        update = last - num_updates + number + 1
        values = {name: float(x[number]) for name, x in metrics.items()}
        wrong = _faults(values)
        stands = not wrong and values["kl_old_new"] == 0.0 and since is not None
        if stands and (what or _has_gradient(values)):
            wrong = [_STILL]
        if wrong:
            since, what = since or update, tuple(dict.fromkeys((*what, *wrong)))
        elif stands:
            since = update + 1  # it has still to show that it can move
        else:
            since, what = None, ()
    return since, what


def _faults(values: dict[str, float]) -> list[str]:
    """What is wrong with the metrics of an update.

    >>> _faults({"loss": math.inf, "value/loss": 1.0, "skipped": 1.0, "kl_old_new": 0.0})
    ['loss not finite', 'every step skipped']
    >>> _faults({"policy/loss": 1.0, "kl_old_new": 5e29})
    ['kl_old_new of 5e+29 nats']
    """
    wrong = [
        f"{name} not finite" for name, x in values.items() if name.split("/")[-1] in _WATCHED and not math.isfinite(x)
    ]
    if any(x >= 1.0 for name, x in values.items() if name.split("/")[-1] == "skipped"):
        wrong.append("every step skipped")
    if TOO_FAR < values["kl_old_new"] < math.inf:
        wrong.append(f"kl_old_new of {values['kl_old_new']:.2g} nats")
    return wrong


def _has_gradient(values: dict[str, float]) -> bool:
    """Whether the gradient of the policy (of its phase, or of the only one) is not zero, and no line search refused.

    >>> _has_gradient({"critic/grad_norm": 0.0, "policy/grad_norm": 1.0}), _has_gradient({"grad_norm": 0.0})
    (True, False)
    """
    norms = [values[name] for name in ("grad_norm", "policy/grad_norm") if name in values]
    accepted = [x for name, x in values.items() if name.split("/")[-1] == "line_search_accepted"]
    return norms != [0.0] and all(x > 0.0 for x in accepted)
