"""`polopt outcomes`."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polopt_jax import report, runs
from polopt_jax.cli._options import Outcomes
from polopt_jax.cli._progress import counted
from polopt_jax.cli._report import facts
from polopt_jax.cli._words import CommandError, UsageError, choose

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
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out DIR, the run to go on with")

    def chosen(kind: str, given: Sequence[str], known: Sequence[str], few: Sequence[str]) -> tuple[str, ...]:
        names = {choose(kind, name, known) for name in given} or set(few if options.quick else known)
        return tuple(name for name in known if name in names)

    return Plan(
        worlds=chosen("world", options.worlds, tuple(suite.CASES), QUICK_WORLDS),
        methods=chosen("method", options.methods, tuple(suite.METHODS), QUICK_METHODS),
        seeds=min(options.seeds, QUICK_SEEDS) if options.quick else options.seeds,
        quick=options.quick,
    )


def outcomes(options: Outcomes, arguments: Sequence[str]) -> int:
    """Runs the benchmark and writes its report; returns the exit code."""
    wanted = plan(options)
    earlier = None if options.against is None else _read_earlier(options.against)
    with _directory(options, wanted) as directory, runs.stop_on_signals() as stop:
        result = _run(wanted, directory, stop)
        if stop.signal_number is not None and any(_missing(wanted, directory)):
            done = len(result["worlds"])
            message = f"interrupted, with {done} of {len(wanted.worlds)} worlds finished; go on with --resume"
            raise CommandError(f"{message} --out {directory}", 128 + stop.signal_number)
        _finish(directory, wanted, result, earlier, arguments, json=options.json)
    return 0


@contextlib.contextmanager
def _directory(options: Outcomes, wanted: Plan) -> Iterator[Path]:
    if not options.resume:
        with runs.new(options.out, "outcomes") as directory:
            runs.write_json(directory / runs.CONFIG, wanted.config())
            (directory / WORLDS).mkdir()
            yield directory
        return
    with runs.existing(options.out or Path()) as directory:
        before = runs.read_json(directory / runs.CONFIG)
        for name, value in wanted.config().items():
            if name not in ("worlds", "methods") and before.get(name) != value:
                raise UsageError(f"--resume: {name} was {before.get(name)} in {directory}; it is {value} now")
        yield directory


class Missing(NamedTuple):
    """What is wanted and not there yet."""

    pairs: list[tuple[str, str]]
    """Worlds and methods."""
    signals: bool
    parts: list[str]
    """Of the table of estimators."""


def _missing(wanted: Plan, directory: Path) -> Missing:
    from polopt_jax import suite

    pairs = [(world, method) for world in wanted.worlds for method in wanted.methods]
    return Missing(
        pairs=[pair for pair in pairs if not _file(directory, *pair).exists()],
        signals=suite.WATCHED in wanted.worlds and not (directory / SIGNALS).exists(),
        parts=[part for part in _judged(wanted) if not _judgement(directory, part).exists()],
    )


def _run(wanted: Plan, directory: Path, stop: runs.Stop) -> dict[str, Any]:
    """The worlds and signals, what is there already read and the rest run, as far as they get."""
    from polopt_jax import suite

    missing = _missing(wanted, directory)
    with counted(len(missing.pairs) + missing.signals + len(missing.parts)) as begin:
        for world, method in missing.pairs:
            if stop:
                break
            begin(f"{world}: {method}")
            case, row = _case(wanted, world), suite.METHODS[method]
            row = suite.middle(row) if wanted.quick else row
            figures = suite.measure(case, row, seeds=wanted.seeds, updates=case.updates)
            about = {"setting": row.setting, "labels": row.labels}
            _file(directory, world, method).parent.mkdir(parents=True, exist_ok=True)
            runs.write(_file(directory, world, method), runs.to_json(about | _plain(figures)) + "\n")
        if missing.signals and not stop:
            begin("monitors and forecasts")
            case = _case(wanted, suite.WATCHED)
            told = suite.monitors(worlds=case.num_worlds, updates=case.updates)
            runs.write_json(directory / SIGNALS, _plain(told | {"forecasts": suite.forecasts(case)}))
        for part in missing.parts:
            if stop:
                break
            begin(f"estimators: {part}")
            rows = [row._asdict() for row in suite.qualities(part, repeats=REPEATS)]
            (directory / ESTIMATORS).mkdir(exist_ok=True)
            runs.write_json(_judgement(directory, part), {"rows": _plain(rows)})
    finished = [world for world in wanted.worlds if all(_file(directory, world, m).exists() for m in wanted.methods)]
    return {
        "config": wanted.config(),
        "worlds": {world: _world(wanted, directory, world) for world in finished},
        "signals": runs.read_json(directory / SIGNALS) if (directory / SIGNALS).exists() else None,
        "estimators": [
            row
            for path in (_judgement(directory, part) for part in _judged(wanted))
            if path.exists()
            for row in runs.read_json(path)["rows"]
        ],
    }


def _file(directory: Path, world: str, method: str) -> Path:
    """Where the figures of a method in a world are kept."""
    return directory / WORLDS / world / f"{method}.json"


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
        "reference": _plain(suite.references(case, seeds=wanted.seeds)),
        "methods": {method: runs.read_json(_file(directory, name, method)) for method in wanted.methods},
    }


def _case(wanted: Plan, name: str) -> Any:
    from polopt_jax import suite

    case = suite.CASES[name]
    if not wanted.quick:
        return case
    updates = 2 * math.ceil(QUICK_UPDATES * case.updates / 2)
    return case._replace(num_worlds=min(case.num_worlds, QUICK_OF_MANY), updates=updates)


def _plain(value: Any) -> Any:
    """Lists of numbers to four significant digits."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return value.tolist()
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value


def _read_earlier(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"--against: there is no file {path}")
    earlier = runs.read_json(path)
    if earlier.get("config", {}).get("format") != FORMAT or "worlds" not in earlier:
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
