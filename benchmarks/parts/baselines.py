"""Ours on Brax beside Stable-Baselines3's on MuJoCo's simulator of the same task: what a person changes who moves over.

The physics differ, and so does what an environment costs; a ratio is of two ways to the same task and not of two
programs that do the same. Both of the usual questions are asked: as much work on each decision, and everything as it
comes.
"""

from typing import Any

from benchmarks.entrants import NUM_STEPS
from benchmarks.entrants.race import Program, Timed, race
from benchmarks.parts._part import SB3, SB3_CONTRIB, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, Goal, Row, of_times
from benchmarks.parts.training import BACKEND

ENV, SIMULATED = "inverted_pendulum", "InvertedPendulum-v5"
SIMULATORS, STEPS = 64, 256
"""Theirs, for as many decisions of an update as ours of `AS_MANY` environments."""
AS_MANY = SIMULATORS * STEPS // NUM_STEPS
OURS, ALIKE, DEFAULTS = "ours", "as much work", "defaults"
GOALS = {ALIKE: Goal(AT_LEAST, 6.0), DEFAULTS: Goal(AT_LEAST, 40.0)}
NUM_ENVS = 64
"""Of the command by default, with as many steps of each as everybody; hyperparameters are the recipe's."""
THREADS = 1
"""Of torch: two are no faster on networks of this size."""


def programs(wanted: Wanted, algorithm: str) -> dict[str, list[Program]]:
    """Ours and theirs, for each question that can be asked."""
    updates = 1 if wanted.quick else 2

    def ours(num_envs: int, updates: int) -> Program:
        its = {"env": ENV, "backend": BACKEND, "num_envs": num_envs, "updates": updates, "algorithm": algorithm}
        return Program(OURS, "ours", its)

    simulated = {"env": SIMULATED, "updates": updates, "threads": THREADS}
    found = {}
    if algorithm == "ppo":
        alike = {**simulated, "num_envs": SIMULATORS, "num_steps": STEPS}
        found[ALIKE] = [ours(AS_MANY, 10 * updates), wanted.peers.program(SB3, "stable_baselines", alike)]
    whose = SB3 if algorithm == "ppo" else SB3_CONTRIB
    usual = wanted.peers.program(whose, "sb3_defaults", {**simulated, "algorithm": algorithm})
    found[DEFAULTS] = [ours(NUM_ENVS, 100 * updates), usual]
    return found


def row_of(algorithm: str, question: str, times: dict[str, Timed]) -> Row:
    """Decisions a second of ours over theirs."""
    ours, (name, its) = times[OURS], next((name, its) for name, its in times.items() if name != OURS)
    note = f"{question}: ours: {ours.told['differs']}; theirs: {SIMULATED}, other physics; {its.told['differs']}"
    size = AS_MANY if question == ALIKE else NUM_ENVS
    more = {"size": size, "size_of": "environments", "goal": GOALS[question], "note": note, "unit": "decisions/s"}
    return of_times(f"{algorithm.upper()}, {ENV}, {question}", name, ours.each, its.each, work=1.0, **more)


def measure(wanted: Wanted, algorithm: str) -> dict[str, Any]:
    """Every question."""
    asked = programs(wanted, algorithm)
    return told([row_of(algorithm, question, race(its, repeats=wanted.rounds(7))) for question, its in asked.items()])


def cases(wanted: Wanted) -> list[Case]:
    peers = {"ppo": SB3, "trpo": SB3_CONTRIB}
    there = [name for name, peer in peers.items() if wanted.peers.has(peer)]
    return [Case(name, lambda name=name: measure(wanted, name)) for name in there]


PART = Part(
    "PPO and TRPO on Brax beside Stable-Baselines3's and SB3-contrib's on MuJoCo: other physics, the same task.",
    cases,
    (SB3, SB3_CONTRIB),
)
