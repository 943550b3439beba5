"""GAE and V-trace of one rollout: our scans, the same recursions by hand and as associative scans, and rlax's."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.entrants.estimator import ASSOCIATIVE, FORMS, HAND, OURS, arrays
from benchmarks.entrants.race import race
from benchmarks.parts._part import RLAX, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_MOST, Goal, of_times
from benchmarks.record import interleaved

SHAPES = ((16, 1024), (128, 1024), (1024, 64), (1024, 1024))
"""T and B."""
SMALL = 1 << 16
"""Decisions up to which one call is too short to be timed, so that several are timed together."""
GOALS = {("GAE", HAND): Goal(AT_MOST, 1.1)}


def measure(wanted: Wanted, estimator: str, num_steps: int, num_rows: int) -> dict[str, Any]:
    """Ours over each of the others, at one shape."""
    given, rounds = arrays(num_steps, num_rows), wanted.rounds(15)
    compiled = {name: jax.jit(FORMS[estimator][name]) for name in (OURS, HAND, ASSOCIATIVE)}
    answers = {name: f(given) for name, f in compiled.items()}
    for name, answer in answers.items():
        if not jnp.allclose(answer, answers[OURS], atol=1e-3):
            raise RuntimeError(f"{name} has another answer: the times would be of different things")
    calls = max(1, SMALL // (num_rows * num_steps))
    runs = {name: (lambda f=f: [f(given) for _ in range(calls)]) for name, f in compiled.items()}
    seconds = interleaved(runs, repeats=rounds)
    pairs = {name: (seconds[OURS], its) for name, its in seconds.items() if name != OURS}
    if wanted.peers.has(RLAX):
        options = {"estimator": estimator, "num_steps": num_steps, "num_rows": num_rows, "calls": calls}
        beside = [
            wanted.peers.program(RLAX, "estimator", {**options, "form": form}, called=form) for form in (OURS, RLAX)
        ]
        times = race(beside, repeats=rounds)
        pairs[RLAX] = (times[OURS].seconds, times[RLAX].seconds)
    shared = {"size": num_rows, "size_of": "environments"}
    what = f"{estimator}, T = {num_steps}"
    each = {name: [[t / calls for t in one] for one in pair] for name, pair in pairs.items()}
    return told([of_times(what, name, *its, goal=GOALS.get((estimator, name)), **shared) for name, its in each.items()])


def cases(wanted: Wanted) -> list[Case]:
    return [
        Case(f"{name.lower()}-{t}x{b}", lambda name=name, t=t, b=b: measure(wanted, name, t, b))
        for name in FORMS
        for t, b in (SHAPES[:1] if wanted.quick else SHAPES)
    ]


PART = Part(
    "Advantages of a rollout by GAE and V-trace: our scans beside the recursions by hand, as associative scans, and "
    "rlax's.",
    cases,
    (RLAX,),
)
