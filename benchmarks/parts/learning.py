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
from benchmarks.parts._part import BRAX, PURE_JAX_RL, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, AT_MOST, Goal, Row
from polopt_jax.networks import INITIAL_LOG_STD

BACKEND = "spring"
BESIDE = (PURE_JAX_RL, BRAX)
TRPO = "our TRPO"
NARROWER = "ours, narrower at first"
"""From this library's own first policy, where else it has a deviation of 1 as PureJaxRL's. Brax's is another again."""
SLICES, LAST = 40, 4
"""Points of a curve, and how many of them at the end are what was learnt in the end."""
DRAWS = 2000
STEPS = {
    "inverted_pendulum": (1_000_000, 64),
    "inverted_double_pendulum": (1_500_000, 64),
    "hopper": (2_000_000, 64),
    "ant": (2_000_000, 256),
    "halfcheetah": (2_048_000, 256),
}
"""Decisions of each seed, and environments side by side; where no episode ends early, whole episodes."""
STATED = {"inverted_pendulum": 500.0, "inverted_double_pendulum": 8000.0, "hopper": 400.0, "ant": 100.0}
"""Returns whose seconds are told, where one is stated."""
SEEDS = 5


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


def in_the_end(said: dict[str, Any], end: int | None = None) -> np.ndarray:
    """Of each seed, the mean return of the episodes that ended in the last slices before `end`; NaN where none did."""
    sums, finished = (np.asarray(said[name])[:, :end][:, -LAST:].sum(1) for name in ("return_sum", "finished"))
    return np.where(finished > 0, sums / np.maximum(finished, 1), np.nan)


def on_the_way(said: dict[str, Any]) -> np.ndarray:
    """Of each seed, the mean over the slices in which an episode ended: how soon, and how well it is kept."""
    return np.nanmean(curves(said), axis=1)


def programs(wanted: Wanted, env: str, updates: int, num_envs: int, seeds: int) -> list[Program]:
    """Our PPO, those of others, our TRPO, and our PPO from the first policy that it has by default."""
    shared = {"env": env, "backend": BACKEND, "updates": updates, "num_envs": num_envs, "seeds": seeds}
    shared = {**shared, "slices": SLICES}
    beside = [wanted.peers.program(name, name, shared) for name in BESIDE if wanted.peers.has(name)]
    trpo = Program(TRPO, "ours", {**shared, "algorithm": "trpo"})
    narrower = Program(NARROWER, "ours", {**shared, "initial_log_std": INITIAL_LOG_STD})
    return [Program("ours", "ours", shared), *beside, trpo, narrower]


def measure(wanted: Wanted, env: str, steps: int, num_envs: int, seeds: int) -> dict[str, Any]:
    """All of them on one environment: what they had learnt in the end, and the curves."""
    updates = max(SLICES, round(steps / (num_envs * NUM_STEPS)))
    decisions = updates * NUM_STEPS * num_envs
    said = {
        program.name: race([program], repeats=0)[program.name].told  # one after the other, none slows another down
        for program in programs(wanted, env, updates, num_envs, seeds)
    }
    for name, its in said.items():
        if np.isnan(in_the_end(its)).any():
            raise RuntimeError(f"{name}, {env}: in the last tenth no episode of some seed ended, so nothing is known")
    drawn = {
        name: {"returns": curves(its).tolist(), "seconds": its["first_seconds"], "end": in_the_end(its).tolist()}
        for name, its in said.items()
    }
    axis = {"env": env, "decisions": decisions, "curves": drawn}
    return told(rows_of(env, decisions, said), learning=axis)


def rows_of(env: str, decisions: int, said: dict[str, dict[str, Any]]) -> list[Row]:
    """Ours over each of the others, and the same of ours when it is narrower at first."""
    found = []
    for mine, how in (("ours", env), (NARROWER, f"{env}, narrower at first")):
        others = [name for name in said if name not in (mine, NARROWER)]
        found += [row for name in others if mine in said for row in ours_over(name, how, env, decisions, said, mine)]
    return found


def ours_over(name: str, how: str, env: str, decisions: int, said: dict[str, dict[str, Any]], mine: str) -> list[Row]:
    """Ours over another: in the end, on the way, to a stated return, and when the faster of the two was through."""
    ours, its = said[mine], said[name]
    seconds = [one["first_seconds"] for one in (ours, its)]
    is_peer = name not in (TRPO, "ours")
    goal = Goal(AT_LEAST, 1.0) if is_peer else None
    note = f"ours: {ours['differs']}; theirs: {its['differs']}"
    row = over(f"return in the end, {how}", name, in_the_end(ours), in_the_end(its))
    found = [row._replace(size=decisions, size_of="decisions", goal=goal, note=note)]
    row = over(f"mean return on the way, {how}", name, on_the_way(ours), on_the_way(its))
    found.append(row._replace(size=decisions, size_of="decisions"))
    if None not in seconds and env in STATED:
        reached = [seconds_to(STATED[env], one) for one in (ours, its)]
        row = to_return(f"to a return of {STATED[env]:g}, {how}", name, *reached)
        found.append(row._replace(goal=Goal(AT_MOST, 1.0) if is_peer else None))
    if None not in seconds and is_peer:
        ends = [max(LAST, int(SLICES * min(seconds) / its_own)) for its_own in seconds]
        row = over(f"return after as long, {how}", name, *map(in_the_end, (ours, its), ends))
        found.append(row._replace(size=round(min(seconds)), size_of="seconds"))
    return found


def seconds_to(wanted: float, said: dict[str, Any]) -> float | None:
    """Of the run, until the interquartile mean of a slice's returns is there; None if it never is.

    Where some seed ended no episode in a slice, its mean is NaN, which is nowhere.
    """
    returns = curves(said)
    there = [i for i in range(returns.shape[1]) if iqm(returns[:, i]) >= wanted]
    return (there[0] + 1) / returns.shape[1] * said["first_seconds"] if there else None


def to_return(what: str, name: str, ours: float | None, theirs: float | None) -> Row:
    """Seconds of both, of all seeds; no ratio where one never comes there."""
    return Row(what, name, "s", ours, theirs, None if ours is None or theirs is None else ours / theirs)


def over(what: str, name: str, ours: np.ndarray, theirs: np.ndarray) -> Row:
    """Interquartile means, and the extent of their ratio under the bootstrap."""
    low, high = ratio_interval(ours, theirs)
    return Row(what, name, "return", iqm(ours), iqm(theirs), iqm(ours) / iqm(theirs), low, high, len(ours))


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
