"""What the runs of the study say: the registered choice of a step size, responses, shares of the variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from polopt_jax.study._objectives import OBJECTIVES
from polopt_jax.study._runs import LEVELS
from polopt_jax.suite import Interval, as_array

MATCHED = 0.9
"""The success at which the primary measure is read."""
ENOUGH, COARSE = 0.9, 0.1
"""Of the rule for step sizes: share of seeds, and `jump`."""
CLIP = 1e-4
RESAMPLES = 2000
FACTORS = ("scale", "objective", "start")
"""The axes of a response, in their order; seeds are the last."""


class Response(NamedTuple):
    """What became of all combinations of a world, at the step size that the rule chooses."""

    scales: tuple[str, ...]
    objectives: tuple[str, ...]
    starts: tuple[str, ...]
    values: np.ndarray
    """`[scales, objectives, starts, seeds]`; NaN where the success was never reached, or nothing was run."""


def chosen(figures: Mapping[str, Any], start: int) -> int:
    """The number of the setting that the registered rule chooses for a start. A run that did not arrive has no `jump`,
    whatever stands there.

    >>> figures = {"reached": [[[[True]], [[True]], [[False]]]], "jump": [[[[0.01]], [[0.3]], [[0.0]]]]}
    >>> chosen(figures, 0)
    0
    """
    arrived = as_array(figures["reached"])[start, ..., -1] > 0
    reached, jumps = arrived.mean(-1), as_array(figures["jump"])[start, ..., -1]
    steady = [x[there].size > 0 and np.median(x[there]) <= COARSE for x, there in zip(jumps, arrived, strict=True)]
    fit = np.flatnonzero((reached >= ENOUGH) & steady)
    return int(fit[-1] if fit.size else reached.argmax())


def response(world: Mapping[str, Any], field: str, level: float = MATCHED) -> Response:
    """A field of every combination of a world, at a success: `P(z)`, `P(name)` of one side effect, `held-out P(z)`, or
    a field of `Standing`."""
    at = LEVELS.index(level)
    scales = tuple(world["scales"])
    objectives = tuple(name for name in OBJECTIVES if any(name in found for found in world["scales"].values()))
    starts, seeds = tuple(world["starts"]), int(world["seeds"])
    values = np.full((len(scales), len(objectives), len(starts), seeds), np.nan)
    for i, found in enumerate(world["scales"].values()):
        for j, name in enumerate(objectives):
            for k in range(len(starts) if name in found else 0):
                path = _field(found[name], field, world["side_effects"])[k, chosen(found[name], k)]
                values[i, j, k] = path[:, at]
    return Response(scales, objectives, starts, values)


def _field(figures: Mapping[str, Any], field: str, side_effects: Sequence[str]) -> np.ndarray:
    """`[I, S, R, L]`."""
    if field == "held-out P(z)":
        missing = np.full((*np.shape(figures["reached"]), 2, 2), np.nan)
        return rate(as_array(figures["held_out"]) if "held_out" in figures else missing, "P(z)", side_effects)
    if field.startswith("P("):
        return rate(as_array(figures["law"]), field, side_effects)
    return as_array(figures[field])


def rate(law: np.ndarray, field: str, side_effects: Sequence[str]) -> np.ndarray:
    """`P(z)`, of any side effect, or `P(name)`, of one, from laws `[..., 2, Z]`.

    >>> rate(np.array([[0.1, 0.2], [0.3, 0.4]]), "P(z)", ["skip"]).round(3).tolist()
    0.6
    """
    if field == "P(z)":
        return law[..., 1:].sum((-2, -1))
    names = [f"P({name})" for name in side_effects]
    cells = np.arange(law.shape[-1]) >> (len(names) - 1 - names.index(field)) & 1 == 1
    return law[..., cells].sum((-2, -1))


def logit(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities clipped to [1e-4, 1 - 1e-4]."""
    p = np.clip(p, CLIP, 1 - CLIP)
    return np.log(p) - np.log1p(-p)


def shares(values: np.ndarray) -> dict[str, np.ndarray]:
    """η² of each factor, of their interactions and of the seeds, of responses `[..., scale, objective, start, seed]`.

    Combinations count alike, those without a run not at all. Where none is missing the shares sum to 1. A share that
    float64 cannot tell from none is 0.

    >>> values = np.zeros((2, 3, 2, 4))
    >>> values[1] = 1.0
    >>> {name: float(share.round(3)) for name, share in shares(values).items() if share}
    {'scale': 1.0}
    """
    cells = _mean(values, (-1,))
    there = np.isfinite(cells)
    parts: dict[tuple[int, ...], np.ndarray] = {(): _mean(cells, (-4, -3, -2))}
    squares = {}
    for size in (1, 2, 3):
        for kept in combinations(range(3), size):
            others = tuple(axis - 4 for axis in range(3) if axis not in kept)
            effect = _mean(cells, others) - sum(part for below, part in parts.items() if set(below) < set(kept))
            parts[kept] = effect
            square = np.where(there, effect**2, np.nan)
            squares[" x ".join(FACTORS[axis] for axis in kept)] = _mean(square, (-4, -3, -2))
    squares["seeds"] = _mean(_mean((values - cells) ** 2, (-1,)), (-4, -3, -2))
    total = _mean(_mean((values - parts[()]) ** 2, (-1,)), (-4, -3, -2))
    found = {name: square / np.where(total > 0, total, 1) for name, square in squares.items()}
    # Below this it is rounding, which another machine does otherwise.
    return {name: np.where(share < np.finfo(float).eps, 0.0, share)[..., 0, 0, 0, 0] for name, share in found.items()}


def _mean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Mean over axes, kept, of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    number = there.sum(axes, keepdims=True)
    return np.where(number > 0, np.where(there, values, 0).sum(axes, keepdims=True) / np.maximum(number, 1), np.nan)


def share_intervals(values: np.ndarray) -> dict[str, Interval]:
    """`shares` of one response, with 95% intervals, by resampling seeds within combinations; one has no ends."""
    drawn = shares(_resampled(values))
    several = values.shape[-1] > 1
    return {
        name: _interval(float(share), drawn[name]) if several else Interval(float(share), np.nan, np.nan)
        for name, share in shares(values).items()
    }


def mean_interval(values: np.ndarray) -> Interval:
    """Mean over combinations (all axes but the last) of their means over seeds, with its interval, likewise."""
    if not np.isfinite(values).any():
        return Interval(np.nan, np.nan, np.nan)
    every = tuple(range(-values.ndim, 0))
    mean = lambda x: _mean(_mean(x, (-1,)), every)  # noqa: E731
    return _interval(float(mean(values).item()), mean(_resampled(values)).ravel())


def _interval(value: float, drawn: np.ndarray) -> Interval:
    return Interval(value, *(float(x) for x in np.quantile(drawn, (0.025, 0.975))))


def _resampled(values: np.ndarray) -> np.ndarray:
    """Seeds drawn with replacement from those of each combination that have a value, `[RESAMPLES, ...]`."""
    there = np.isfinite(values)
    number = there.sum(-1, keepdims=True)
    first = np.take_along_axis(values, np.argsort(~there, axis=-1, kind="stable"), -1)
    drawn = np.random.default_rng(0).random((RESAMPLES, *values.shape)) * np.maximum(number, 1)
    return np.take_along_axis(np.broadcast_to(first, drawn.shape), drawn.astype(int), -1)
