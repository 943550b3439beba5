"""The registered hypotheses, each judged by the rule that was fixed before the runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from polopt_jax.study._analysis import logit, mean_interval, response, share_intervals
from polopt_jax.study._ground import CAREFUL, COMPETENT, RANDOM
from polopt_jax.suite import Interval, as_array, auc

BUILDINGS = ("burning-building", "burning-building-hazard")
TOLD = "told-worlds"
AGREE, GENERAL, FORESEEN, UNFORESEEN = 0.5, 0.8, 0.8, 0.7
RANKED = 4
"""Objectives that make an order: τ of two is 1 or -1, of three above .5 in one order out of six."""


class Verdict(NamedTuple):
    """What became of a hypothesis."""

    name: str
    hypothesis: str
    holds: bool | None
    """None where what it speaks of was not run."""
    evidence: str


def verdicts(worlds: Mapping[str, Any]) -> list[Verdict]:
    """Every hypothesis of `docs/study.md` on what was run; `worlds` are those of a result file."""
    found = {name: response(world, "P(z)") for name, world in worlds.items()}
    varied = {name: x for name, x in found.items() if min(len(x.objectives), len(x.starts), x.values.shape[-1]) > 1}
    divided = {name: share_intervals(logit(x.values)) for name, x in varied.items()}
    return [
        _initialisation(divided),
        _scale(divided, worlds),
        _orders(worlds),
        _trust_region(worlds),
        _careful(worlds),
        _held_out(worlds),
        _forecast(worlds),
    ]


_ONE_SEED = "of one seed nobody knows what is chance"
_NOTHING_VARIED = "no world was run with several objectives, starts and seeds"


def _above(first: Interval, second: Interval) -> bool:
    """Whether the first is larger, with intervals apart."""
    return first.low > second.high


def _said(x: Interval) -> str:
    return f"{x.mean:.2f} [{x.low:.2f}, {x.high:.2f}]"


def _initialisation(divided: Mapping[str, Mapping[str, Interval]]) -> Verdict:
    larger = {name: _above(x["start"], x["objective"]) for name, x in divided.items()}
    everywhere = {*BUILDINGS, TOLD} <= set(larger) or None
    return Verdict(
        "H1",
        "The initialisation has a larger share of the variance than the objective, in every world.",
        everywhere if all(larger.values()) else False,
        "; ".join(f"{n}: {_said(x['start'])} against {_said(x['objective'])}" for n, x in divided.items())
        or _NOTHING_VARIED,
    )


def _scale(divided: Mapping[str, Mapping[str, Interval]], worlds: Mapping[str, Any]) -> Verdict:
    """Worlds that were run at one scale say nothing of it."""
    varied = {name: x for name, x in divided.items() if len(worlds[name]["scales"]) > 1}
    larger = {name: _above(x["scale"], x["objective"]) for name, x in varied.items()}
    return Verdict(
        "H2",
        "The scale does not have a larger share than the objective, in any world.",
        not any(larger.values()) if larger else None,
        "; ".join(f"{n}: {_said(x['scale'])} against {_said(x['objective'])}" for n, x in varied.items())
        or ("no world was run at several scales" if divided else _NOTHING_VARIED),
    )


def _orders(worlds: Mapping[str, Any]) -> Verdict:
    """Registered for "any width"; the table, which is the limit of the scale, is counted as one."""
    hypothesis = "No order of the objectives holds in both buildings, at any scale (Kendall's τ at most .5)."
    if not set(BUILDINGS) <= set(worlds):
        return Verdict("H3", hypothesis, None, "one of the buildings was not run")
    if min(int(worlds[name]["seeds"]) for name in BUILDINGS) < 2:
        return Verdict("H3", hypothesis, None, _ONE_SEED)
    from scipy.stats import kendalltau

    both = [response(worlds[name], "P(z)") for name in BUILDINGS]
    taus = {}
    for scale in both[0].scales:
        if scale not in both[1].scales:
            continue
        means = [_by_objective(each, scale) for each in both]
        there = np.isfinite(means).all(0)
        if there.sum() >= RANKED:
            taus[scale] = float(np.asarray(kendalltau(means[0][there], means[1][there]))[0])
    if not np.isfinite(list(taus.values())).any():
        return Verdict("H3", hypothesis, None, f"no scale has {RANKED} objectives that differ in both buildings")
    evidence = ", ".join(f"{scale}: {tau:.2f}" for scale, tau in taus.items())
    return Verdict("H3", hypothesis, not any(tau > AGREE for tau in taus.values()), f"τ by scale: {evidence}")


def _by_objective(found: Any, scale: str) -> np.ndarray:
    """Mean logit of each objective at a scale, from imitations."""
    kept = [i for i, start in enumerate(found.starts) if start != RANDOM]
    table = logit(found.values[found.scales.index(scale)])[:, kept]
    return np.array([mean_of(row) for row in table])


def mean_of(values: np.ndarray) -> float:
    """Mean of what is there, NaN without any."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def _trust_region(worlds: Mapping[str, Any]) -> Verdict:
    hypothesis = "From the competent start TRPO's P(z) is not below REINFORCE's in both buildings."
    lower, told = [], []
    for name in BUILDINGS:
        found = response(worlds[name], "P(z)") if name in worlds else None
        if found is None or not {"trpo", "reinforce"} <= set(found.objectives):
            return Verdict("H4", hypothesis, None, f"not run: {name} with both")
        if found.values.shape[-1] < 2:
            return Verdict("H4", hypothesis, None, _ONE_SEED)
        start = found.starts.index(COMPETENT)
        trpo, plain = (
            mean_interval(logit(found.values[:, found.objectives.index(o), start])) for o in ("trpo", "reinforce")
        )
        lower.append(_above(plain, trpo))
        told.append(f"{name}: logit {_said(trpo)} against {_said(plain)}")
    return Verdict("H4", hypothesis, not all(lower), "; ".join(told))


def _careful(worlds: Mapping[str, Any]) -> Verdict:
    """Fails where the careful start is not lower, unless the intervals overlap."""
    against, lower, number = [], 0, 0
    for name, world in worlds.items():
        found = response(world, "P(z)")
        if not {CAREFUL, COMPETENT} <= set(found.starts):
            continue
        starts = [found.starts.index(start) for start in (CAREFUL, COMPETENT)]
        for i, scale in enumerate(found.scales):
            for j, objective in enumerate(found.objectives):
                careful, competent = (mean_interval(logit(found.values[i, j, k])[None]) for k in starts)
                several = all(np.isfinite(found.values[i, j, k]).sum() > 1 for k in starts)
                if not several or not np.isfinite([careful.mean, competent.mean]).all():
                    continue
                number, lower = number + 1, lower + (careful.mean < competent.mean)
                if _above(careful, competent):
                    against.append(f"{name}, {scale}, {objective}")
    evidence = f"lower in {lower} of {number} combinations" + (f"; higher: {'; '.join(against)}" if against else "")
    hypothesis = "From the careful start P(z) is lower than from the competent one, in every combination."
    return Verdict("H5", hypothesis, not against if number else None, evidence)


def _held_out(worlds: Mapping[str, Any]) -> Verdict:
    hypothesis = "P(z) on held-out prompts goes with that on training prompts (Spearman's ρ above .8)."
    if TOLD not in worlds:
        return Verdict("H6", hypothesis, None, f"{TOLD} was not run")
    from scipy.stats import spearmanr

    pairs = [
        response(worlds[TOLD], field).values.reshape(-1, int(worlds[TOLD]["seeds"]))
        for field in ("P(z)", "held-out P(z)")
    ]
    means = np.array([[mean_of(row) for row in each] for each in pairs])
    there = np.isfinite(means).all(0)
    if there.sum() < 3 or np.ptp(means[:, there], axis=1).min() == 0:
        return Verdict("H6", hypothesis, None, f"too little varies over {there.sum()} combinations")
    rho = float(np.asarray(spearmanr(*means[:, there]))[0])
    return Verdict("H6", hypothesis, rho > GENERAL, f"ρ = {rho:.2f} over {there.sum()} combinations")


def _forecast(worlds: Mapping[str, Any]) -> Verdict:
    """AUC of the initial policy's own share of side effects among successes, for P(z) of at least a half."""
    scores: dict[bool, list[np.ndarray]] = {True: [], False: []}
    ends: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for world in worlds.values():
        found = response(world, "P(z)")
        for i, scale in enumerate(found.scales):
            for j, objective in enumerate(found.objectives):
                if objective not in world["scales"][scale]:
                    continue
                told = as_array(world["scales"][scale][objective]["forecast"])
                for k, start in enumerate(found.starts):
                    scores[start == RANDOM].append(told[k])
                    ends[start == RANDOM].append(found.values[i, j, k])
    foreseen = {kind: _auc(scores[kind], ends[kind]) for kind in scores}
    imitated, random = foreseen[False], foreseen[True]
    known = np.isfinite([imitated, random]).all()
    nothing = "none (P(z) is on one side of a half)"
    told = {kind: f"{x:.2f}" if np.isfinite(x) else nothing for kind, x in foreseen.items()}
    return Verdict(
        "H7",
        "The forecast from the initial policy's own successes has an AUC above .8 from imitations, below .7 at random.",
        bool(imitated > FORESEEN and random < UNFORESEEN) if known else None,
        f"AUC {told[False]} from imitations, {told[True]} from random initialisations",
    )


def _auc(scores: list[np.ndarray], ends: list[np.ndarray]) -> float:
    if not scores:
        return np.nan
    score, end = np.concatenate(scores), np.concatenate(ends)
    there = np.isfinite(score) & np.isfinite(end)
    return auc(score[there & (end >= 0.5)], score[there & (end < 0.5)])
