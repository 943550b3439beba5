"""`polopt outcomes`."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polopt_jax import report, runs
from polopt_jax.cli._piece_options import Outcomes
from polopt_jax.cli._pieces import Piece, kept, plain, run_missing
from polopt_jax.cli._report import facts
from polopt_jax.cli._words import OWN, UsageError, choose_some

RESULT, PAGE, PICTURE, WORLDS = "outcomes.json", "report.html", "frontier.png", "worlds"
SIGNALS, ESTIMATORS = "signals.json", "estimators"
STORY = "burning-building"
"""The world with which the estimators are judged."""
QUICK_WORLDS = (STORY, "skip-the-test", "table-means")
QUICK_METHODS = ("reinforce", "trpo", "ppo", "dpo", "grpo", "region", "price")
QUICK_OF_MANY, QUICK_SEEDS, QUICK_UPDATES = 12, 3, 0.6
"""Worlds of a kind that has many, seeds, and the share of the updates."""
REPEATS = 400
"""Samples that every estimate is judged by."""
FORMAT = 1


class Plan(NamedTuple):
    """What is run, decided before anything is."""

    worlds: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: int
    quick: bool

    def config(self) -> dict[str, Any]:
        """As JSON."""
        return {"format": FORMAT, **self._asdict(), "worlds": list(self.worlds), "methods": list(self.methods)}


def plan(options: Outcomes) -> Plan:
    """The plan of a command line. Raises UsageError if a name is unknown or a number makes no sense."""
    from polopt_jax import suite

    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1; it is {options.seeds}")
    few = lambda names: names if options.quick else ()  # noqa: E731
    return Plan(
        worlds=_worlds(options.worlds or few(QUICK_WORLDS)),
        methods=choose_some("method", options.methods or few(QUICK_METHODS), tuple(suite.METHODS)),
        seeds=min(options.seeds, QUICK_SEEDS) if options.quick else options.seeds,
        quick=options.quick,
    )


def _worlds(names: Sequence[str]) -> tuple[str, ...]:
    """The worlds of the benchmark that are named, in its order, and then one's own. Raises UsageError."""
    from polopt_jax import suite

    own = tuple(dict.fromkeys(name for name in names if ":" in name))
    try:
        for name in own:
            _own_case(name)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--worlds: {error}") from error
    known = [name for name in names if ":" not in name]
    return (*(choose_some("world", known, tuple(suite.CASES), OWN) if known or not own else ()), *own)


@functools.cache
def _own_case(name: str) -> Any:
    """A world of one's own, which is looked at once and not for each of its pieces."""
    from polopt_jax import suite

    return suite.import_case(name)


def outcomes(options: Outcomes, arguments: Sequence[str]) -> int:
    """Runs the benchmark and writes its report; returns the exit code."""
    wanted = plan(options)
    earlier = None if options.against is None else _read_earlier(options.against)
    may_change = ("worlds", "methods")
    with kept(options.out, "outcomes", wanted.config(), resume=options.resume, may_change=may_change) as directory:
        run_missing(_pieces(wanted, directory), directory, arguments)
        _finish(directory, wanted, _gather(wanted, directory), earlier, arguments, json=options.json)
    return 0


def _pieces(wanted: Plan, directory: Path) -> list[Piece]:
    """Every method in every world, then what signals and estimators are judged by."""
    watched = [Piece("monitors and forecasts", directory / SIGNALS, lambda: _watch(wanted))]
    return [
        *(_method(wanted, directory, world, method) for world in wanted.worlds for method in wanted.methods),
        *(watched if _watches(wanted) else []),
        *(_judge(directory, part) for part in _judged(wanted)),
    ]


def _method(wanted: Plan, directory: Path, world: str, method: str) -> Piece:
    def make() -> dict[str, Any]:
        from polopt_jax import suite

        case, row = _case(wanted, world), suite.METHODS[method]
        row = suite.middle(row) if wanted.quick else row
        figures = suite.measure(case, row, seeds=wanted.seeds, updates=case.updates)
        return {"setting": row.setting, "labels": row.labels, **figures}

    return Piece(f"{world}: {method}", _file(directory, world, method), make)


def _watches(wanted: Plan) -> bool:
    from polopt_jax import suite

    return suite.WATCHED in wanted.worlds


def _watch(wanted: Plan) -> dict[str, Any]:
    """The tables of monitors and forecasts."""
    from polopt_jax import suite

    case = _case(wanted, suite.WATCHED)
    told = suite.monitors(worlds=case.num_worlds, updates=case.updates)
    return {**told, "forecasts": suite.forecasts(case)}


def _judge(directory: Path, part: str) -> Piece:
    def make() -> dict[str, Any]:
        from polopt_jax import suite

        return {"rows": [row._asdict() for row in suite.qualities(part, repeats=REPEATS)]}

    return Piece(f"estimators: {part}", _judgement(directory, part), make)


def _gather(wanted: Plan, directory: Path) -> dict[str, Any]:
    """All of the result, from the files."""
    return {
        "config": wanted.config(),
        "worlds": {world: _world(wanted, directory, world) for world in wanted.worlds},
        "signals": runs.read_json(directory / SIGNALS) if _watches(wanted) else None,
        "estimators": [row for part in _judged(wanted) for row in runs.read_json(_judgement(directory, part))["rows"]],
    }


def _file(directory: Path, world: str, method: str) -> Path:
    """Where the figures of a method in a world are kept."""
    return directory / WORLDS / world.replace(":", ".") / f"{method}.json"


def _judged(wanted: Plan) -> tuple[str, ...]:
    """The parts of the table of estimators that are wanted."""
    from polopt_jax import suite

    return tuple(suite.PARTS) if STORY in wanted.worlds and not wanted.quick else ()


def _judgement(directory: Path, part: str) -> Path:
    """Where a part of the table of estimators is kept."""
    return directory / ESTIMATORS / f"{part}.json"


def _world(wanted: Plan, directory: Path, name: str) -> dict[str, Any]:
    from polopt_jax import suite

    case = _case(wanted, name)
    return {
        "about": case.about,
        "side_effects": list(case.side_effects),
        "reference": plain(suite.references(case, seeds=wanted.seeds)),
        "methods": {method: runs.read_json(_file(directory, name, method)) for method in wanted.methods},
    }


def _case(wanted: Plan, name: str) -> Any:
    from polopt_jax import suite

    case = _own_case(name) if ":" in name else suite.CASES[name]
    if not wanted.quick:
        return case
    updates = 2 * math.ceil(QUICK_UPDATES * case.updates / 2)
    return case._replace(num_worlds=min(case.num_worlds, QUICK_OF_MANY), updates=updates)


def _read_earlier(path: Path) -> dict[str, Any]:
    """The result of an earlier run. Raises UsageError, before anything is run, where it cannot be compared with."""
    from polopt_jax.cli import _outcomes_page as page

    if not path.is_file():
        raise UsageError(f"--against: there is no file {path}")
    earlier = runs.read_json(path)
    try:
        readable = earlier["config"]["format"] == FORMAT and {"seeds", "quick"} <= set(earlier["config"])
        for name in earlier["worlds"]:
            page.compared(earlier, name)
    except (KeyError, IndexError, TypeError, ValueError):
        readable = False
    if not readable:
        raise UsageError(f"--against: {path} is no {RESULT} of this version of the benchmark")
    return earlier


def _finish(
    directory: Path,
    wanted: Plan,
    result: dict[str, Any],
    earlier: dict[str, Any] | None,
    arguments: Sequence[str],
    *,
    json: bool,
) -> None:
    """Writes the files and prints the tables."""
    from polopt_jax.cli import _outcomes_page as page

    what = facts(arguments, directory)
    runs.write(directory / RESULT, runs.to_json({"run": what, **result}) + "\n")
    drawn = [page.frontier(name, world) for name, world in result["worlds"].items()]
    runs.write(directory / PICTURE, report.png(drawn))
    runs.write(directory / PAGE, page.render(result, earlier, what))
    if json:
        print(runs.to_json({"directory": str(directory), **page.readings(result)}, indent=2))
        return
    page.print_tables(result, earlier)
    print(f"\nReport: {directory / PAGE}")
    print(f"Also in {directory}/: {RESULT}, {PICTURE}")
