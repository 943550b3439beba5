"""`polopt bench`."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import polopt_jax
from polopt_jax import report, runs
from polopt_jax.cli._piece_options import Bench
from polopt_jax.cli._pieces import Piece, kept, run_missing
from polopt_jax.cli._progress import say
from polopt_jax.cli._report import facts
from polopt_jax.cli._words import UsageError, choose, choose_some

RESULT, PAGE, PICTURE, PARTS = "bench.json", "report.html", "bench.png", "parts"
SUITE = "benchmarks"
FORMAT = 2
Result: TypeAlias = dict[str, list[dict[str, Any]]]
"""Of each part its cases."""


class Plan(NamedTuple):
    """What is run, decided before anything is."""

    parts: dict[str, tuple[str, ...]]
    """Of each part the cases that are asked for; all where none is named."""
    quick: bool
    pythons: tuple[str, ...]
    purejaxrl: str | None

    def config(self) -> dict[str, Any]:
        """As JSON."""
        parts = [word for name, cases in self.parts.items() for word in [f"{name}:{c}" for c in cases] or [name]]
        return {"format": FORMAT, **self._asdict(), "parts": parts, "pythons": list(self.pythons)}


def suite() -> Any:
    """The parts of the suite, from the checkout that this package is in or the working directory. Raises UsageError."""
    for root in (Path(polopt_jax.__file__).parents[1], Path.cwd()):
        if (root / SUITE / PARTS).is_dir():
            if str(root) not in sys.path:
                sys.path.append(str(root))
            return importlib.import_module(f"{SUITE}.{PARTS}")
    raise UsageError(
        "the benchmarks are in the repository and not in the package: clone it, and run polopt bench there"
    )


def asked(words: Sequence[str], known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parts, and after a colon cases of them, as `Plan.parts` has them. Raises UsageError if a part is unknown.

    >>> asked(["solvers:composition", "seeds", "solvers:fisher-4096"], ["training", "solvers", "seeds"])
    {'solvers': ('composition', 'fisher-4096'), 'seeds': ()}
    """
    found: dict[str, list[str]] = {}
    for word in words or known:
        name, _, case = word.partition(":")
        found.setdefault(choose("part", name, known), []).append(case)
    return {name: () if "" in found[name] else tuple(found[name]) for name in known if name in found}


def plan(options: Bench, known: Sequence[str]) -> Plan:
    """The plan of a command line. Raises UsageError if a name is unknown or a file or folder is not there."""
    told = [("--peers-python", path) for path in options.peers_python]
    told += [("--purejaxrl", path) for path in (options.purejaxrl,) if path is not None]
    for flag, path in told:
        if not path.exists():
            raise UsageError(f"{flag}: there is no {path}")
    if options.quick and options.publish:
        raise UsageError("--publish keeps what is measured, and --quick measures nothing that is worth it")
    pythons = options.peers_python or (Path(sys.executable),)
    return Plan(
        parts=asked(options.parts, tuple(known)),
        quick=options.quick,
        pythons=tuple(str(python.absolute()) for python in pythons),  # a link is what makes an environment
        purejaxrl=None if options.purejaxrl is None else str(options.purejaxrl.resolve()),
    )


def bench(options: Bench, arguments: Sequence[str]) -> int:
    """Runs the suite and writes its report; returns the exit code."""
    found = suite()
    wanted = plan(options, found.PARTS)
    told = found.Wanted(found.Peers(wanted.pythons, wanted.purejaxrl), wanted.quick)
    cases = {name: _cases(found.PARTS[name], name, some, told) for name, some in wanted.parts.items()}
    with kept(options.out, "bench", wanted.config(), resume=options.resume, may_change=("parts",)) as directory:
        for line in absent(found, wanted, told):
            say(line)
        pieces = {name: _pieces(name, several, directory) for name, several in cases.items()}
        run_missing([piece for several in pieces.values() for piece in several.values()], directory, arguments)
        result = {
            name: [{"case": case, **runs.read_json(piece.file)} for case, piece in several.items()]
            for name, several in pieces.items()
        }
        _finish(directory, result, arguments, options, wanted)
    return 0


def absent(found: Any, wanted: Plan, told: Any) -> list[str]:
    """A line for every peer that would stand beside us and is not there."""
    beside = dict.fromkeys(name for part in wanted.parts for name in found.PARTS[part].beside)
    reasons = {name: told.peers.missing(name) for name in beside}
    return [f"without {found.PEERS[name]}: {why}" for name, why in reasons.items() if why is not None]


def _cases(part: Any, name: str, some: Sequence[str], told: Any) -> list[Any]:
    """Those of a part that are asked for. Raises UsageError if one is unknown."""
    there = {case.name: case for case in part.cases(told)}
    return [there[case] for case in choose_some(f"case of {name}", some, tuple(there))]


def _pieces(part: str, cases: Sequence[Any], directory: Path) -> dict[str, Piece]:
    """One for each case of a part, by its name."""
    return {
        case.name: Piece(f"{part}: {case.name}", directory / PARTS / part / f"{case.name}.json", case.measure)
        for case in cases
    }


def _finish(directory: Path, result: Result, arguments: Sequence[str], options: Bench, wanted: Plan) -> None:
    """Writes the files and prints the tables."""
    page, quick = importlib.import_module(f"{SUITE}.{PARTS}.page"), wanted.quick
    what = facts(arguments, directory)
    runs.write(directory / RESULT, runs.to_json({"run": what, "quick": quick, "parts": result}) + "\n")
    drawn = page.strips(result)
    if drawn:
        runs.write(directory / PICTURE, report.png(drawn))
    runs.write(directory / PAGE, page.render(result, what, quick=quick))
    several = [name for name, some in wanted.parts.items() if some]
    for path in page.publish(result, only_some=several) if options.publish else ():
        say(f"wrote {path}")
    if options.json:
        print(runs.to_json({"directory": str(directory), "parts": result}, indent=2))
        return
    page.print_tables(result, quick=quick)
    print(f"\nReport: {directory / PAGE}")
    print(f"Also in {directory}/: {', '.join((RESULT, *([PICTURE] if drawn else [])))}")
