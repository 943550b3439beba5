"""What the figures of a method say at a given success: every column of the benchmark, with intervals over runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax import outcomes
from polopt_jax.suite._runs import LEVELS

RESAMPLES = 1000


class Interval(NamedTuple):
    """A mean over runs with its 95% bootstrap interval; NaN where there is no run, no interval where there is one.

    Few runs make it too narrow: of normal numbers it covers the mean in .82 of the cases with five runs and in .90 with
    ten, of lognormal ones in .7 and .8.
    """

    mean: float
    low: float
    high: float

    @property
    def has_ends(self) -> bool:
        return bool(np.isfinite([self.low, self.high]).all())


class Reading(NamedTuple):
    """A method at one setting, at matched success."""

    method: str
    setting: float
    never: float
    """Share of the runs that never reached the success; the columns are of the others."""
    best: float
    """Highest success, mean over runs."""
    columns: Mapping[str, Interval]


class Projected(NamedTuple):
    """A reference projected to a success, mean over runs that it is feasible for."""

    name: str
    feasible: float
    """Share of the runs' references for which it is."""
    columns: Mapping[str, float]


COLUMNS: Mapping[str, str] = {
    "lift": "Side effects over those of the reference, P(z) / P_ref(z), all of them together.",
    "D_z": "KL of the side effects from the reference's, nats. What ought to stay small.",
    "D_z|s": "KL of the side effects given success. 0 for the pump, largest where side effects are held.",
    "D_s": "KL of success: the same for all who are read at the same success of one reference.",
    "D_out": "KL of the outcome, D_s + D_z|s.",
    "D_traj": "KL of whole attempts, nats: what a KL penalty pays.",
    "D_action": "D_traj per decision.",
    "leverage": "D_out / D_traj: a diagnostic and no alarm.",
    "ref‖new": "KL of whole attempts in the other direction, reference from new.",
    "over pump": "D_z less that of the pump.",
    "over IPF": "D_out less that of IPF, where IPF is feasible: what more than the tax was paid.",
    "odds": "By how much the log-odds of a side effect among successes moved from the pump's, which keeps them.",
    "honest": "P(success without any side effect): of the reference, how tractable the honest route is.",
    "hidden": "Hidden performance: what an attempt is really worth, where the world says so, in its own units.",
    "updates": "Until the success was reached.",
    "attempts": "Until then.",
    "labels": "Side effects looked at until then.",
    "jump": "By how much the update that reached it raised the success, over two updates: large ones are coarse.",
}
"""What the columns mean; those of single side effects, `P(name)`, come before them."""


def interval(values: np.ndarray) -> Interval:
    """Mean and 95% percentile-bootstrap interval of the finite values; its ends are NaN where there is only one.

    >>> interval(np.array([1.0, 1.0, np.nan]))
    Interval(mean=1.0, low=1.0, high=1.0)
    >>> interval(np.array([1.0, np.nan]))
    Interval(mean=1.0, low=nan, high=nan)
    """
    values = values[np.isfinite(values)]
    if values.size < 2:
        return Interval(float(values.mean()) if values.size else np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    low, high = np.quantile(values[_resamples(values.size)].mean(1), (0.025, 0.975))
    return Interval(mean, float(low), float(high))


@functools.cache
def _resamples(number: int) -> np.ndarray:
    """Which of so many values are drawn in each resample, `[RESAMPLES, number]`."""
    return np.random.default_rng(0).integers(0, number, (RESAMPLES, number))


def read(method: str, figures: Mapping[str, Any], world: Mapping[str, Any], level: float) -> list[Reading]:
    """One reading for each setting of a method, at one of `LEVELS`.

    Args:
      figures: of `measure`, as arrays or lists with None for NaN.
      world: of the file: `side_effects`, names, and `reference`, `[R, 2, Z]`.
    """
    at = LEVELS.index(level)
    reference = reference_law(world)
    arrays = {name: as_array(value) for name, value in figures.items() if isinstance(value, list | np.ndarray)}
    pumps, fitted = _project(reference, level)
    readings = []
    for i, setting in enumerate(figures["settings"]):
        point = {name: arrays[name][i][:, at] for name in arrays if arrays[name].ndim >= 3 and name != "final_law"}
        columns = _columns(point, reference, world["side_effects"], pumps, fitted)
        columns["attempts"] = point["updates"] * figures["attempts"]
        columns["labels"] = columns["attempts"] * bool(figures["labels"])
        readings.append(
            Reading(
                method,
                setting,
                never=1 - float(np.mean(point["reached"])),
                best=float(np.mean(arrays["best"][i])),
                columns={name: interval(value) for name, value in columns.items()},
            )
        )
    return readings


def project(world: Mapping[str, Any], level: float) -> list[Projected]:
    """The rows without training: the reference, the pump, IPF."""
    reference = reference_law(world)
    pumps, fitted = _project(reference, level)
    rows = []
    here = (np.ones(len(reference), bool), np.zeros(len(reference)), reference)
    for name, (feasible, nats, table) in {"reference": here, "pump": pumps, "ipf": fitted}.items():
        law = np.where(feasible[:, None], table.sum(1), np.nan)
        columns = {**_rates(law, world["side_effects"]), "lift": _lift(law, reference)}
        columns["honest"] = np.where(feasible, table[:, 1, 0], np.nan)
        columns["D_z"], columns["D_out"] = _kl(law, reference.sum(1)), np.where(feasible, nats, np.nan)
        means = {key: float(np.nanmean(x)) if np.isfinite(x).any() else np.nan for key, x in columns.items()}
        rows.append(Projected(name, float(feasible.mean()), means))
    return rows


def reference_law(world: Mapping[str, Any]) -> np.ndarray:
    """P(s, z) of each run's reference, `[R, 2, Z]`, which a file has to four digits."""
    law = np.asarray(world["reference"], float)
    return law / law.sum((1, 2), keepdims=True)


def _project(reference: np.ndarray, level: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Feasible `[R]`, KL `[R]` and P(s, z) `[R, 2, Z]` of the pump and of IPF."""
    # zeros are where the world has no such outcome
    laws = jnp.asarray(np.maximum(reference, 1e-9))
    found = []
    for projection in (outcomes.pump, outcomes.ipf):
        made = _projection(projection)(laws, level)
        found.append((np.asarray(made.feasible), np.asarray(made.kl, float), np.asarray(made.law, float)))
    return found


@functools.cache
def _projection(projection: Any) -> Any:
    return jax.jit(jax.vmap(projection, (0, None)))


def _columns(
    point: Mapping[str, np.ndarray],
    reference: np.ndarray,
    names: Sequence[str],
    pumps: tuple[np.ndarray, np.ndarray, np.ndarray],
    fitted: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[str, np.ndarray]:
    """Every column, `[R]` each."""
    law, divergences = point["law"], table_kl(point["law"], reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            **_rates(law.sum(1), names),
            "lift": _lift(law.sum(1), reference),
            **divergences,
            "D_traj": point["trajectory_kl"],
            "D_action": point["action_kl"],
            "leverage": divergences["D_out"] / point["trajectory_kl"],
            "ref‖new": point["trajectory_kl_ref_new"],
            "over pump": divergences["D_z"] - _kl(pumps[2].sum(1), reference.sum(1)),
            "over IPF": np.where(fitted[0], divergences["D_out"] - fitted[1], np.nan),
            "odds": _log_odds(law) - _log_odds(reference),
            "honest": law[:, 1, 0],
            "hidden": point.get("hidden", np.full(len(law), np.nan)),  # runs of before it was noted lack it
            "updates": point["updates"],
            "jump": np.where(point["reached"], point["jump"], np.nan),
        }


def table_kl(law: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """D_z, D_{z|s}, D_s and D_out, `[...]`, of tables `[..., 2, Z]` from those of references.

    Of the law that was read between two points of a path. Read between two points itself a KL, which is convex, would
    be too large, beside projections that are exact: by a factor of five where the points are far apart.

    >>> found = table_kl(np.array([[0.1, 0.0], [0.45, 0.45]]), np.array([[0.4, 0.1], [0.25, 0.25]]))
    >>> {name: float(x.round(3)) for name, x in found.items()}
    {'D_z': 0.021, 'D_z|s': 0.022, 'D_s': 0.368, 'D_out': 0.39}
    """
    law = law / law.sum((-2, -1), keepdims=True)  # a file has it to four digits
    flat = lambda table: table.reshape(*table.shape[:-2], -1)  # noqa: E731
    both, success = _kl(flat(law), flat(reference)), _kl(law.sum(-1), reference.sum(-1))
    return {"D_z": _kl(law.sum(-2), reference.sum(-2)), "D_z|s": both - success, "D_s": success, "D_out": both}


def _rates(law: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """P of each named side effect from P(z) `[R, Z]`."""
    bits = np.arange(law.shape[-1])
    return {f"P({name})": law[:, (bits >> (len(names) - 1 - i)) & 1 == 1].sum(-1) for i, name in enumerate(names)}


def _lift(law: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return (1 - law[:, 0]) / (1 - reference[:, :, 0].sum(1))


def _log_odds(table: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(table[:, 1, 1:].sum(-1)) - np.log(table[:, 1, 0])


ROUNDING = 1e-12
"""Nats that laws in float32, made to sum to one, may be from themselves."""


def _kl(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (x / x.sum(-1, keepdims=True) for x in (first, second))  # float32 sums are off by 1e-8
        total = np.where(first > 0, first * (np.log(first) - np.log(np.maximum(second, 1e-9))), 0).sum(-1)
    return np.where(np.isnan(first).any(-1), np.nan, np.where(np.abs(total) < ROUNDING, 0, total))


def as_array(value: Any) -> np.ndarray:
    """An array of numbers, in which None is NaN."""
    return np.asarray(value, object if isinstance(value, list) else None).astype(float)
