"""Return against decisions and against seconds, of PPO beside PureJaxRL's and brax's, over several seeds.

Scores are interquartile means over seeds, and over environments where these are pooled, with intervals by a bootstrap
that draws seeds anew within each environment (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice").
"""

from typing import Any

import numpy as np
from scipy import stats

from benchmarks.entrants import NUM_STEPS
from benchmarks.entrants.race import Program, race
from benchmarks.parts._part import BRAX, PEERS, PURE_JAX_RL, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, Goal, Row

BACKEND = "spring"
BESIDE = (PURE_JAX_RL, BRAX)
SLICES, LAST = 40, 4
"""Points of a curve, and how many of them at the end are what was learnt in the end."""
DRAWS = 2000
STEPS = {
    "inverted_pendulum": (1_000_000, 64),
    "inverted_double_pendulum": (1_500_000, 64),
    "hopper": (2_000_000, 64),
    "ant": (2_000_000, 256),
    "halfcheetah": (2_000_000, 256),
}
"""Decisions of each seed, and environments side by side."""
SEEDS = 6


def iqm(scores: np.ndarray) -> float:
    """The mean of the middle half."""
    return float(stats.trim_mean(scores, 0.25, axis=None))


def interval(scores: np.ndarray, *, draws: int = DRAWS) -> tuple[float, float]:
    """95% of the interquartile means of scores `[environments, seeds]` whose seeds are drawn anew in each row."""
    draw = np.random.default_rng(0)
    seeds = draw.integers(scores.shape[1], size=(draws, *scores.shape))
    found = [iqm(np.take_along_axis(scores, s, axis=1)) for s in seeds]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def curves(said: dict[str, Any]) -> np.ndarray:
    """Mean return of the episodes that ended in each slice, `[seeds, slices]`; NaN where none did."""
    sums, finished = (np.asarray(said[name]) for name in ("return_sum", "finished"))
    return np.where(finished > 0, sums / np.maximum(finished, 1), np.nan)


def in_the_end(said: dict[str, Any]) -> np.ndarray:
    """Of each seed, the mean return of the episodes that ended in the last slices; NaN where none did."""
    sums, finished = (np.asarray(said[name])[:, -LAST:].sum(1) for name in ("return_sum", "finished"))
    return np.where(finished > 0, sums / np.maximum(finished, 1), np.nan)


def measure(wanted: Wanted, env: str, steps: int, num_envs: int, seeds: int) -> dict[str, Any]:
    """All of them on one environment: what they had learnt in the end, and the curves."""
    updates = max(SLICES, round(steps / (num_envs * NUM_STEPS)))
    shared = {"env": env, "backend": BACKEND, "updates": updates, "num_envs": num_envs, "seeds": seeds}
    peers = wanted.peers
    found = [Program("ours", "ours", {**shared, "slices": SLICES})]
    found += [
        Program(name, name, {**shared, "slices": SLICES, **peers.options(name)}, peers.python)
        for name in BESIDE
        if peers.has(name)
    ]
    drawn, ends, differs = {}, {}, {}
    for program in found:  # one after the other, or they would slow each other down
        said = race([program], repeats=0)[program.name].told
        name = PEERS.get(program.name, "ours").split(" (")[0]
        curve, ends[name], differs[name] = curves(said), in_the_end(said), said["differs"]
        drawn[name] = {"returns": curve.tolist(), "seconds": said["first_seconds"], "end": ends[name].tolist()}
    decisions = updates * NUM_STEPS * num_envs
    axis = {"env": env, "decisions": decisions, "curves": drawn}
    return told(list(rows_of(env, decisions, ends, differs)), learning=axis)


def rows_of(env: str, decisions: int, ends: dict[str, np.ndarray], differs: dict[str, str]) -> list[Row]:
    """Ours over each peer's, with the extent of the ratio under the bootstrap."""
    ours = ends["ours"]
    what = f"return in the end, {env}"
    shared = {"size": decisions, "size_of": "decisions"}
    if len(ends) == 1:
        return [Row(what, "", "return", iqm(ours), rounds=len(ours), **shared)]
    found = []
    for name, theirs in ends.items():
        if name != "ours":
            low, high = ratio_interval(ours, theirs)
            row = Row(what, name, "return", iqm(ours), iqm(theirs), iqm(ours) / iqm(theirs), low, high, len(ours))
            note = f"ours: {differs['ours']}; theirs: {differs[name]}"
            found.append(row._replace(goal=Goal(AT_LEAST, 1.0), note=note, **shared))
    return found


def ratio_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95% of the ratios of interquartile means when both sets of seeds are drawn anew."""
    draw = np.random.default_rng(0)
    again = lambda x: iqm(x[draw.integers(len(x), size=len(x))])  # noqa: E731
    low, high = np.quantile([again(ours) / again(theirs) for _ in range(DRAWS)], (0.025, 0.975))
    return float(low), float(high)


def cases(wanted: Wanted) -> list[Case]:
    if wanted.quick:
        return [Case("inverted_pendulum", lambda: measure(wanted, "inverted_pendulum", 5_000, 8, 2))]
    return [
        Case(env, lambda env=env, s=steps, n=n: measure(wanted, env, s, n, SEEDS)) for env, (steps, n) in STEPS.items()
    ]


PART = Part("What PPO has learnt after as many decisions and as many seconds, over seeds.", cases, BESIDE)
