"""Training beside other people's programs and beside the environment alone, each in a process of its own, in turns.

What is beside ours, and what all of them learn with, is in `benchmarks.entrants`.
"""

from typing import Any

import jax

from benchmarks.entrants import NUM_STEPS
from benchmarks.entrants.race import Program, Timed, race
from benchmarks.parts._part import BRAX, PEERS, PURE_JAX_RL, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, AT_MOST, Goal, Row, of_numbers, of_times

ENVIRONMENT, MULTIPLYING, COLLECTING, OURS = "environment", "multiplying", "collecting", "ours"
BACKEND = "spring"
BESIDE = (PURE_JAX_RL, "rejax", BRAX)
DECISIONS = {"inverted_pendulum": 200_000, "inverted_double_pendulum": 100_000}
"""Of a chunk, so that it takes a second or two; of every other environment a tenth of the first."""
SIZES = {"inverted_pendulum": (64, 1024, 8192), "ant": (256, 1024), "halfcheetah": (256,)}
"""Environments side by side on a CPU."""
LARGE = {"ant": (2048, 16384, 65536), "halfcheetah": (2048, 16384, 65536)}
"""The same on an accelerator, where a chunk has `FASTER` times as many decisions."""
FASTER = 50
OTHERS = ("reinforce", "actor_critic", "npg", "trpo")
"""Algorithms that are measured on the first environment, at its second size."""
LIMIT = "the limit"
"""What stands beside us there: nobody's program."""
GOALS = {("inverted_pendulum", 1024): 0.6, ("ant", 256): 0.92, ("ant", 1024): 0.92}
"""Shares of the environment alone."""
TIMES = {PURE_JAX_RL: 1.2, "rejax": 1.3, BRAX: 1.5}
"""How many times as fast as a peer PPO should be."""


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def programs(wanted: Wanted, env: str, num_envs: int, algorithm: str, seeds: int = 1) -> list[Program]:
    """The environment alone, our rollouts alone, ours, and those beside it, on `num_envs` environments of each seed.

    Multiplying alone is what PPO on one seed asks of the network.
    """
    rows = num_envs * seeds
    decisions = DECISIONS.get(env, 20_000) * (1 if _on_cpu() else FASTER)
    updates = max(2, round(decisions / (rows * NUM_STEPS)))
    shared = {"env": env, "backend": BACKEND, "updates": 2 if wanted.quick else updates}
    learners = {**shared, "num_envs": num_envs, "seeds": seeds}
    found = [
        Program(ENVIRONMENT, "environment", {**shared, "num_envs": rows}),
        Program(COLLECTING, "collecting", {**shared, "num_envs": rows, "algorithm": algorithm}),
        Program(OURS, "ours", {**learners, "algorithm": algorithm}),
    ]
    if algorithm != "ppo":
        return found
    if seeds == 1:
        found.append(Program(MULTIPLYING, "multiplying", {**shared, "num_envs": rows}))
    beside = [name for name in BESIDE if wanted.peers.has(name) and not (name == BRAX and seeds > 1)]
    return found + [wanted.peers.program(name, name, learners, called=name) for name in beside]


def rows_of(what: str, env: str, num_envs: int, times: dict[str, Timed]) -> list[Row]:
    """Our rate over that of everything beside it, our rollouts' over the environment's, and the first updates."""
    shared = {"size": num_envs, "size_of": "environments", "unit": "decisions/s"}

    def each(*of: Timed) -> list[float]:
        """Seconds a decision in each round; of several programs, one after the other."""
        return [sum(seconds) for seconds in zip(*(timed.each for timed in of), strict=True)]

    def over(name: str, one: Timed, *others: Timed, beside: str, **more: Any) -> Row:
        return of_times(name, beside, each(one), each(*others), work=1.0, **shared, **more)

    ours, environment = times[OURS], times[ENVIRONMENT]
    share = GOALS.get((env, num_envs)) if what.startswith("PPO") else None
    found = [
        over(what, ours, environment, beside="the environment alone", goal=share and Goal(AT_LEAST, share)),
        over(f"rollouts of {what}", times[COLLECTING], environment, beside="the environment alone"),
    ]
    if MULTIPLYING in times:
        both = (environment, times[MULTIPLYING])
        note = "the environment alone, and then the network's products in large matrices"
        found.append(over(what, ours, *both, beside=LIMIT, note=note))
    for name in BESIDE:
        if name in times:
            called, its = PEERS[name], times[name]
            goal, differs = Goal(AT_LEAST, TIMES[name]), f"ours: {ours.told['differs']}; theirs: {its.told['differs']}"
            found.append(over(what, ours, its, beside=called, goal=goal, note=differs))
            first = [timed.told["first_update_seconds"] for timed in (ours, its)]
            more = {**shared, "unit": "s", "goal": Goal(AT_MOST, 1.0)}
            unit = more.pop("unit")
            found.append(of_numbers(f"{what}: to the first update", called, unit, *first, **more))
    return found


def measure(wanted: Wanted, env: str, num_envs: int, algorithm: str = "ppo", seeds: int = 1) -> dict[str, Any]:
    """One environment, at one size."""
    times = race(programs(wanted, env, num_envs, algorithm, seeds), repeats=wanted.rounds(9))
    several = f", {seeds} seeds of so many" if seeds > 1 else ""
    what = f"{algorithm.upper() if len(algorithm) < 5 else algorithm.replace('_', '-')}, {env}{several}"
    peaks = {name: {peak: timed.told[peak] for peak in ("peak_mb", "device_peak_mb")} for name, timed in times.items()}
    return told(rows_of(what, env, num_envs, times), peaks=peaks, backend=BACKEND)


def cases(wanted: Wanted) -> list[Case]:
    sizes = SIZES if _on_cpu() else LARGE
    first = next(iter(sizes))
    if wanted.quick:
        return [Case(f"ppo-{first}-8", lambda: measure(wanted, first, 8))]
    found = [
        Case(f"ppo-{env}-{n}", lambda env=env, n=n: measure(wanted, env, n))
        for env, sizes in sizes.items()
        for n in sizes
    ]
    least, second, *_ = sizes[first]
    found.append(Case(f"ppo-{first}-{least}-8-seeds", lambda: measure(wanted, first, least, seeds=8)))
    return found + [
        Case(f"{name}-{first}-{second}", lambda name=name: measure(wanted, first, second, name)) for name in OTHERS
    ]


PART = Part("Decisions a second, of PPO and the others: beside the environment alone, and beside peers.", cases, BESIDE)
