"""Loss and gradient of terms, with respect to what a model says: beside what is written by hand, and beside rlax's.

What is written by hand knows no mask, checks nothing and measures nothing. A network around it costs far more than
either.
"""

from typing import Any

import jax.numpy as jnp

from benchmarks.entrants.race import race
from benchmarks.entrants.term import BY_HAND, HAND, IN_RLAX, OURS, STEPS, batches, gradient
from benchmarks.parts._part import RLAX, Case, Part, Wanted, told
from benchmarks.parts.rows import Row, of_times
from benchmarks.record import interleaved

ROWS, CALLS = 1024, 10


def different(name: str, form: str, value: float, ours: float) -> RuntimeError:
    """What is raised where two forms do not compute the same."""
    return RuntimeError(f"{name}, {form}: {value} where ours is {ours}: the times would be of different things")


def by_hand(rows: int, rounds: int) -> list[Row]:
    """Every term over the same by hand."""
    given, runs, values = batches(rows, STEPS), {}, {}
    for name, (*_, kind) in BY_HAND.items():
        for form in (OURS, HAND):
            compiled, arguments = gradient(name, form), given[kind]
            values[name, form] = compiled(*arguments)[0]
            runs[name, form] = lambda f=compiled, its=arguments: [f(*its) for _ in range(CALLS)]
        ours, theirs = values[name, OURS], values[name, HAND]
        if not jnp.allclose(theirs, ours, rtol=1e-4, atol=1e-5):
            raise different(name, HAND, float(theirs), float(ours))
    seconds = interleaved(runs, repeats=rounds)
    return [over(name, HAND, rows, seconds[name, OURS], seconds[name, HAND]) for name in BY_HAND]


def in_rlax(wanted: Wanted, rows: int, rounds: int) -> list[Row]:
    """Those that rlax has over rlax's, where that is installed."""
    found = []
    for name in IN_RLAX if wanted.peers.has(RLAX) else ():
        options = {"name": name, "rows": rows, "calls": CALLS}
        forms = [wanted.peers.program(RLAX, "term", {**options, "form": form}, called=form) for form in (OURS, RLAX)]
        times = race(forms, repeats=rounds)
        ours, theirs = times[OURS], times[RLAX]
        if not jnp.allclose(theirs.told["value"], ours.told["value"], rtol=1e-4, atol=1e-5):
            raise different(name, RLAX, theirs.told["value"], ours.told["value"])
        found.append(over(name, RLAX, rows, ours.seconds, theirs.seconds))
    return found


def over(name: str, beside: str, rows: int, ours: list[float], theirs: list[float]) -> Row:
    """A row, of the seconds of so many calls."""
    each = [[t / CALLS for t in seconds] for seconds in (ours, theirs)]
    return of_times(name, beside, *each, size=rows * STEPS, size_of="decisions")


def measure(wanted: Wanted, rows: int) -> dict[str, Any]:
    """All of them at one size."""
    rounds = wanted.rounds(15)
    return told([*by_hand(rows, rounds), *in_rlax(wanted, rows, rounds)])


def cases(wanted: Wanted) -> list[Case]:
    return [Case(f"terms-{rows}", lambda rows=rows: measure(wanted, rows)) for rows in wanted.sizes(64, ROWS)]


PART = Part("Loss and gradient of terms on Gaussian policies, beside the same by hand and rlax's.", cases, (RLAX,))
