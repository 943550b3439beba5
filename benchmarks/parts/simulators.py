"""PPO on Gymnasium's simulators: ours beside stepping alone and beside Stable-Baselines3, each a process of its own."""

from typing import Any

from benchmarks.entrants.race import Program, race
from benchmarks.parts._part import PEERS, SB3, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, Goal, Row, of_times

ENV, DECISIONS = "CartPole-v1", 1024
"""What is learnt, and the decisions of an update."""
SIZES = (8, 64)
UPDATES = 16
"""Of a chunk."""
STEPPING, OURS = "stepping", "ours"
THREADS = {"one thread": 1, "all threads": 0}
"""Of torch; all is what it takes by itself."""


def programs(wanted: Wanted, num_envs: int) -> list[Program]:
    """Ours, and what is beside it, on so many simulators."""
    shared = {"env": ENV, "num_envs": num_envs, "num_steps": max(1, DECISIONS // num_envs)}
    shared["updates"] = 2 if wanted.quick else UPDATES
    found = [Program(STEPPING, "stepping", shared), Program(OURS, "simulated", shared)]
    if wanted.peers.has(SB3):
        found += [
            wanted.peers.program(SB3, "stable_baselines", {**shared, "threads": n}, called=name)
            for name, n in THREADS.items()
        ]
    return found


def measure(wanted: Wanted, num_envs: int) -> dict[str, Any]:
    """Ours over each of the others."""
    times = race(programs(wanted, num_envs), repeats=wanted.rounds(9))
    ours = times[OURS]

    def over(name: str) -> Row:
        its = times[name]
        called = "the simulators alone" if name == STEPPING else f"{PEERS[SB3]}, {name}"
        each = [[t / timed.told["decisions"] for t in timed.seconds] for timed in (ours, its)]
        goal = None if name == STEPPING else Goal(AT_LEAST, 1.0)
        note = "" if name == STEPPING else f"ours: {ours.told['differs']}; theirs: {its.told['differs']}"
        more = {"size": num_envs, "size_of": "simulators", "unit": "decisions/s", "goal": goal, "note": note}
        return of_times(f"PPO, {ENV}", called, *each, work=1.0, **more)

    return told([over(name) for name in times if name != OURS])


def cases(wanted: Wanted) -> list[Case]:
    return [Case(f"{ENV}-{n}", lambda n=n: measure(wanted, n)) for n in wanted.sizes(*SIZES)]


PART = Part("PPO on Gymnasium's simulators: beside stepping alone, and beside Stable-Baselines3's.", cases, (SB3,))
