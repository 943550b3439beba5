"""The tables of `docs/findings-sampled.md` that go over all worlds: every method at the middle of its sweep."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.outcomes_exact.findings import show, table
from polopt_jax import suite
from polopt_jax.suite import Interval, Projected, Reading

SUCCESS = 0.9
HELD = ("region", "bounded", "penalty", "price", "price-one-sided")
"""What is meant to hold the rate of a side effect."""
SHORT = {
    "skip-the-test": "skip",
    "burning-building": "door",
    "burning-building-hazard": "hazard",
    "side-effects-sokoban": "sokoban",
    "island-navigation": "island",
    "whisky-and-gold": "whisky",
    "absent-supervisor": "supervisor",
    "tomato-watering": "tomatoes",
    "camera-dropbox": "dropbox",
}
"""Names of columns where that of the world is long and its first part says nothing."""


def short(world: str) -> str:
    """A world as the head of a column."""
    return SHORT.get(world, world.removeprefix("skip-").removeprefix("table-").replace("-", " "))


def rate(world: dict[str, Any]) -> str:
    """The column of the first side effect that a world names."""
    return f"P({world['side_effects'][0]})"


ROUNDING = 1e-4
"""Of what is shown: a file has laws to four digits."""


def beside(x: Interval, pump: float, rounding: float = 0.0) -> str:
    """Whether an interval is above or below the pump by more than rounding; nothing is said of a single run."""
    if pump + rounding < x.low < x.high:
        return " ↑"
    return " ↓" if x.low < x.high < pump - rounding else ""


def reached(reading: Reading, column: str, against: tuple[str, float]) -> str:
    """A reading in a cell: the mean, its side of the pump, a star if some runs never got there.

    The best success in parentheses if none did. `against` is the column that is compared, with what the pump has in it.
    """
    if reading.never == 1:
        return f"({show(reading.best)})"
    mean = reading.columns[column].mean
    if not math.isfinite(mean):
        return "-"
    compared, pump = against
    side = beside(reading.columns[compared], pump, ROUNDING * abs(mean))
    return show(mean) + side + ("*" if reading.never > 0 else "")


def projected(row: Projected, column: str) -> str:
    """A row without training in a cell, without what single precision leaves of 0."""
    if row.feasible == 0:
        return "infeasible"
    return show(0.0 if abs(row.columns[column]) < 1e-6 else row.columns[column])


def middle(method: str, world: dict[str, Any]) -> Reading:
    """A method at the middle of its sweep."""
    readings = suite.read(method, world["methods"][method], world, SUCCESS)
    return readings[len(readings) // 2]


def matrix(results: dict[str, Any], cell: Callable[[dict[str, Any], Reading], str], top: list[list[str]]) -> str:
    """Methods by worlds, below the rows without training; a dash where a method was not run."""
    worlds = results["worlds"]

    def shown(method: str, world: dict[str, Any]) -> str:
        return cell(world, middle(method, world)) if method in world["methods"] else "-"

    rows = [[method, *(shown(method, world) for world in worlds.values())] for method in suite.METHODS]
    return table(("", *map(short, worlds)), [*top, *rows])


def rates(results: dict[str, Any]) -> str:
    """P of the first side effect, and on which side of the pump's it is."""

    def cell(world: dict[str, Any], reading: Reading) -> str:
        _, pump, _ = suite.project(world, SUCCESS)
        return reached(reading, rate(world), (rate(world), pump.columns[rate(world)]))

    return matrix(results, cell, untrained(results, rate))


def odds(results: dict[str, Any]) -> str:
    """How far the log-odds of a side effect among successes moved; the pump keeps them."""
    return matrix(results, lambda world, reading: reached(reading, "odds", ("odds", 0.0)), [])


def divergences(results: dict[str, Any]) -> str:
    """D_z, and on which side of the pump's it is, world by world."""
    _, *top = untrained(results, lambda world: "D_z")
    return matrix(results, lambda world, reading: reached(reading, "D_z", ("over pump", 0.0)), top)


def untrained(results: dict[str, Any], column: Callable[[dict[str, Any]], str]) -> list[list[str]]:
    """The reference, the pump and IPF in all worlds."""
    found = [[(row, column(world)) for row in suite.project(world, SUCCESS)] for world in results["worlds"].values()]
    return [[cells[0][0].name, *(projected(*cell) for cell in cells)] for cells in zip(*found, strict=True)]


def learnt(results: dict[str, Any]) -> str:
    """The worlds that have been run, what is rewarded in each, how much was run, and when."""
    rows = []
    for name, world in results["worlds"].items():
        reference, figures = suite.as_array(world["reference"]), world["methods"].values()
        success = float((reference[:, 1].sum(-1) / reference.sum((1, 2))).mean())
        minutes = sum(made["seconds"] for made in figures) / 60
        date = world["run"]["Date"].split()[0]
        rows.append([name, world["about"], success, len(reference), round(minutes), date])
    return table(("world", "success; side effect", "success of the reference", "runs", "minutes", "date"), rows)


def settings(world: dict[str, Any], method: str) -> str:
    """D_z at every setting of a sweep."""
    readings = suite.read(method, world["methods"][method], world, SUCCESS)
    return " · ".join(reached(reading, "D_z", ("over pump", 0.0)) for reading in readings)


def held(results: dict[str, Any]) -> str:
    """D_z of what is meant to hold it, at every setting, beside the pump and PPO."""
    rows = []
    for name, world in results["worlds"].items():
        _, pump, ipf = suite.project(world, SUCCESS)
        feasible = "yes" if ipf.feasible == 1 else "no"
        ppo = reached(middle("ppo", world), "D_z", ("over pump", 0.0))
        sweeps = [settings(world, method) for method in HELD]
        rows.append([short(name), feasible, projected(pump, "D_z"), ppo, *sweeps])
    return table(("world", "IPF feasible", "pump", "ppo", *map(sweep, HELD)), rows)


def ends(results: dict[str, Any]) -> str:
    """P of the first side effect after all updates, whatever was reached on the way, with the success there."""
    shown = ("grpo", "trpo", "ppo", *HELD)
    rows = [[short(name), *ended(world, shown)] for name, world in results["worlds"].items()]
    return table(("world", "reference", *shown), rows)


def ended(world: dict[str, Any], methods: tuple[str, ...]) -> Iterator[str]:
    """The cells of a world: its reference, then each method at the middle of its sweep."""
    reference, *_ = suite.project(world, SUCCESS)
    yield show(reference.columns[rate(world)])
    # the first name is the highest digit of z
    half = 2 ** (len(world["side_effects"]) - 1)
    for method in methods:
        figures = world["methods"][method]
        law = suite.as_array(figures["final_law"])[len(figures["settings"]) // 2]
        yield f"{show(float(law[:, :, half:].sum((1, 2)).mean()))} ({show(float(law[:, 1].sum(-1).mean()))})"


def sweep(method: str) -> str:
    """A method with what is swept, as the head of a column."""
    row = suite.METHODS[method]
    return f"{method}, {row.setting} {' · '.join(f'{value:g}' for value in row.values)}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "everywhere-run": learnt,
    "everywhere-rate": rates,
    "everywhere-odds": odds,
    "everywhere-kl": divergences,
    "everywhere-held": held,
    "everywhere-end": ends,
}
