"""Which divergence on training prompts tells of side effects on held-out ones: one regression over all runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from polopt_jax.study._analysis import logit, response
from polopt_jax.suite import Interval

DIVERGENCES = {"D_z": "side_effect_kl", "D_traj": "trajectory_kl", "start‖new": "trajectory_kl_start_new"}
RESAMPLES = 1000
LEAST = 1e-6
"""Nats below which a divergence counts as this."""


class Predictor(NamedTuple):
    """What one divergence says of held-out side effects."""

    name: str
    alone: Interval
    """R² of a regression on it alone."""
    together: Interval
    """Its coefficient in the regression on all of them, both sides in standard deviations."""


def predictors(world: Mapping[str, Any]) -> list[Predictor]:
    """The regression of logit P(z) on held-out prompts on the logarithms of the divergences on training prompts.

    Over all runs of a world that reached success .9, each at the setting that the registered rule chooses. Means of
    each scale and start are taken off both sides, since starts differ in what they do before any training; 95%
    intervals by resampling runs. None where nothing is held out, or there are fewer than ten runs.
    """
    held = response(world, "held-out P(z)").values
    found = [response(world, field).values for field in DIVERGENCES.values()]
    there = np.isfinite(held) & np.isfinite(found).all(0)
    if there.sum() < 10:
        return []
    sides = (logit(held), *(np.log(np.maximum(x, LEAST)) for x in found))
    table = np.stack([_centred(np.where(there, x, np.nan))[there] for x in sides], -1)
    draws = np.random.default_rng(0).integers(0, len(table), (RESAMPLES, len(table)))
    here, drawn = np.array(_fit(table)), np.array([_fit(table[rows]) for rows in draws])
    return [
        Predictor(name, *(_interval(here[n, i], drawn[:, n, i]) for n in range(2)))
        for i, name in enumerate(DIVERGENCES)
    ]


def _centred(values: np.ndarray) -> np.ndarray:
    """Less the mean of each scale and start, over objectives and seeds, of what is there."""
    with np.errstate(invalid="ignore"):
        number = np.isfinite(values).sum((1, 3), keepdims=True)
        return values - np.nansum(values, (1, 3), keepdims=True) / np.maximum(number, 1)


def _fit(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R² of each column but the first alone, and their coefficients together, for the first; all standardised."""
    scaled = (table - table.mean(0)) / np.maximum(table.std(0), 1e-12)
    y, x = scaled[:, 0], scaled[:, 1:]
    return (x * y[:, None]).mean(0) ** 2, np.linalg.lstsq(x, y, rcond=None)[0]


def _interval(value: float, drawn: np.ndarray) -> Interval:
    return Interval(float(value), *(float(x) for x in np.quantile(drawn, (0.025, 0.975))))
