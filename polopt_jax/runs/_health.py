"""Whether training still works: which seeds are broken, by what, and since which update.

A seed is broken in an update in which a loss, the KL of the update or the entropy is not finite, or every step was
skipped, or no decision was left to learn from (every step of its environments broke, no answer of the network was
finite, no pair had a better side), or nothing of all that was answered could be scored, or the policy went so far that
float32 knows no probability ratio to the one before. It stays broken while the policy stands still after that; and it
is broken from the start while the policy does not move at all under a gradient that is not zero. A policy that no
longer moves because it has converged is not broken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from polopt_jax.driver import Chunk
from polopt_jax.runs._log import Row
from polopt_jax.runs._schedule import Schedule
from polopt_jax.types import Params

GIVE_UP_AFTER = 10
"""Updates in a row for which every seed is broken, after which a run is given up."""
TOO_FAR = -math.log(np.finfo(np.float32).tiny)
"""A KL, in nats per decision, at which exp(-KL), the likely ratio, is no normal float32: 87."""

_Seed = tuple[int | None, tuple[str, ...]]
"""`(since, what)` of one seed, as `Health` has them of all."""
_WATCHED = ("loss", "kl_old_new", "entropy")
_STILL, _LOST = "the policy did not move", "parameters not finite"
_UNSCORED, _UNSOUND, _EMPTY = "no answer could be scored", "no decision left", "nothing to learn from"
_ADVICE = {
    _UNSCORED: "look at the reward",
    _UNSOUND: "look at the environment",
    _EMPTY: "look at the network, whose outputs may not be finite, and at the reward",
}


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
    kl, pushed, faults = chunk.metrics["kl_old_new"], _has_gradient(chunk.metrics), _faults(chunk.metrics)
    suspect = np.any([kl == 0.0, *faults.values()], axis=(0, 2))
    finite = _all_finite(chunk.state.params)
    seeds: list[_Seed] = []
    for seed, before in enumerate(zip(*health, strict=True)):
        since, what = None, ()
        if suspect[seed]:
            wrong = {name: table[seed] for name, table in faults.items()}
            since, what = _look_at_seed(before, kl[seed], pushed[seed], wrong, chunk.update)
        if not finite[seed]:
            since, what = since or (before[0] if _LOST in before[1] else None) or chunk.update, (*what, _LOST)
        seeds.append((since, what))
    return Health(*zip(*seeds, strict=True))


def is_broken(health: Health) -> bool:
    """Whether something was wrong with every seed in its latest update."""
    return all(health.what)


def complaint(health: Health, schedule: Schedule, update: int) -> str | None:
    """Why to give up after `update`: every seed was broken for long, or to the end. None if there is no reason."""
    if not is_broken(health):
        return None
    since = max(number for number in health.since if number is not None)
    ended_badly = update >= schedule.updates and all(set(what) - {_STILL, _UNSCORED, _EMPTY} for what in health.what)
    if update - since + 1 < min(GIVE_UP_AFTER, schedule.updates) and not ended_badly:
        return None
    reasons = list(dict.fromkeys(reason for what in health.what for reason in what))
    seeds = "" if schedule.num_seeds == 1 else " in every seed"
    advice = next((_ADVICE[reason] for reason in reasons if reason in _ADVICE), "try a smaller step or smaller weights")
    return f"broken{seeds} since update {since} ({', '.join(reasons)}), stopped at update {update}; {advice}"


def _look_at_seed(before: _Seed, kl: np.ndarray, pushed: np.ndarray, faults: dict[str, np.ndarray], last: int) -> _Seed:
    """A seed after the updates of which these are the tables, each `[updates]`."""
    since, what = before
    for number, update in enumerate(range(last - len(kl) + 1, last + 1)):
        wrong = [name.format(kl[number]) for name, table in faults.items() if table[number]]
        stands = not wrong and kl[number] == 0.0 and since is not None
        if stands and (what or pushed[number]):
            wrong = [_STILL]
        if wrong:
            since, what = since or update, tuple(dict.fromkeys((*what, *wrong)))
        elif stands:
            since = update + 1  # it has still to show that it can move
        else:
            since, what = None, ()
    return since, what


def _faults(metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What may be wrong with an update, and with which it is, `[seeds, updates]` bool; `{}` stands for the KL.

    >>> one = {"loss": math.inf, "value/loss": 1.0, "skipped": 1.0, "kl_old_new": 5e29}
    >>> [name for name, wrong in _faults({name: np.array([[x]]) for name, x in one.items()}).items() if wrong]
    ['loss not finite', 'every step skipped', 'kl_old_new of {:.2g} nats']
    """
    kl = metrics["kl_old_new"]
    metrics = {name: x for name, x in metrics.items() if x.shape == kl.shape}  # not what is measured once per chunk
    lost = {f"{name} not finite": ~np.isfinite(x) for name, x in metrics.items() if name.split("/")[-1] in _WATCHED}
    skipped = [x >= 1.0 for name, x in metrics.items() if name.split("/")[-1] == "skipped"]
    every = np.any([np.zeros_like(kl, bool), *skipped], axis=0)
    counts = [x == 0 for name, x in metrics.items() if name.split("/")[-1] == "num_valid"]
    broke = metrics.get("nonfinite_steps", np.zeros_like(kl)) > 0
    empty = np.all([np.full_like(broke, bool(counts)), *counts], axis=0)
    unscored = metrics.get("episode/unscored", np.zeros_like(kl))
    mute = (unscored > 0) & (metrics.get("episode/finished", unscored) == 0)
    every &= ~empty  # what has nothing to learn from is skipped, which is told by why it has
    lost |= {_UNSOUND: empty & broke, _EMPTY: empty & ~broke & ~mute, "every step skipped": every, _UNSCORED: mute}
    return {**lost, "kl_old_new of {:.2g} nats": (kl > TOO_FAR) & np.isfinite(kl)}


def _has_gradient(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """Where the gradient of the policy (of its phase, or of the only one) is not zero and no line search refused.

    >>> zeros = np.zeros((1, 2))
    >>> _has_gradient({"kl_old_new": zeros, "critic/grad_norm": zeros, "policy/grad_norm": np.array([[0.0, 1.0]])})
    array([[False,  True]])
    """
    moves = [np.ones_like(metrics["kl_old_new"], bool)]
    moves += [metrics[name] != 0.0 for name in ("grad_norm", "policy/grad_norm") if name in metrics]
    moves += [x > 0.0 for name, x in metrics.items() if name.split("/")[-1] == "line_search_accepted"]
    return np.all(moves, axis=0)


def _all_finite(params: Params) -> np.ndarray:
    """For each seed, whether all of its parameters are finite, `[seeds]` bool."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(params))]
    return np.all([np.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in leaves], axis=0)
