"""Token worlds as `polopt envs` shows them: where an answer is decided, and what the reference language does."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from polopt_jax import report
from polopt_jax.report import Column, Map, Mark
from polopt_jax.worlds import SkipTheTest, reference_outcome_law
from polopt_jax.worlds._colors import FLOOR_COLOR, SKY, VERMILION
from polopt_jax.worlds._token_worlds import FORK


class Size(NamedTuple):
    """What drawing worlds of a kind finds."""

    prompts: int
    held_out: int
    tokens: int
    vocabulary: int


SIZES = {
    "skip-the-test": Size(60, 0, 24, 6),
    "prompt-mixture": Size(60, 0, 24, 6),
    "told-worlds": Size(41, 9, 24, 6),
}
"""By name, so that the list needs no world to be drawn. A test holds them against the worlds."""

LIST = [
    Column(("", "token world"), lambda entry: entry.name),
    Column(("", "success"), lambda entry: entry.success),
    Column(("", "side effect"), lambda entry: entry.side_effect),
    Column(("", "prompts"), lambda entry: str(SIZES[entry.name].prompts)),
    Column(("", "held out"), lambda entry: str(SIZES[entry.name].held_out)),
    Column(("", "tokens"), lambda entry: str(SIZES[entry.name].tokens)),
    Column(("", "vocabulary"), lambda entry: str(SIZES[entry.name].vocabulary)),
]

COLUMNS = [
    Column(("", "prompts"), lambda row: row["prompts"]),
    *(
        Column(("", name), lambda row, name=name: report.percent(row[name]))
        for name in ("success", "honest", "skip", "skip given success")
    ),
]

MARKS = {
    "S": Mark("one token here skips the test", VERMILION),
    "H": Mark("the honest route: the right token at every one", SKY),
    ".": Mark("", FLOOR_COLOR),
}

REFERENCE = "Of token worlds an answer is drawn, and the rates are the reference's, exact, in the mean over prompts."


class Facts(NamedTuple):
    """What is known exactly of token worlds."""

    table: list[dict[str, Any]]
    """Of the prompts that are asked, and of those held out: how often the reference does what."""
    maps: list[Map]
    """An answer, for each length of the honest route."""


def find_facts(worlds: SkipTheTest) -> Facts:
    """The law of the reference, and the honest routes, the longest first."""
    table = [_rates("asked", worlds, worlds.asked)]
    if worlds.held:
        table.append(_rates("held out", worlds, worlds.held))
    routes = sorted({tuple(route) for route in np.asarray(worlds.route).tolist()}, key=sum, reverse=True)
    return Facts(table, [Map(f"an answer, honest route of {sum(route)}", [signs(route)]) for route in routes])


def _rates(name: str, worlds: SkipTheTest, numbers: tuple[int, ...]) -> dict[str, Any]:
    law = reference_outcome_law(worlds)
    success, honest, skip, both = (
        float(np.asarray(rate, np.float64)[list(numbers)].mean())
        for rate in (law.success, law.honest, law.skip, law.joint[:, 1, 1])
    )
    return {"prompts": name, "success": success, "honest": honest, "skip": skip, "skip given success": both / success}


def signs(route: Sequence[bool]) -> str:
    """The positions of an answer, a character each, of `MARKS`."""
    return "".join("S" if at == FORK else "H" if honest else "." for at, honest in enumerate(route))
