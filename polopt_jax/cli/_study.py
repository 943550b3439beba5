"""`polopt study`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polopt_jax import report, runs
from polopt_jax.cli._piece_options import Study
from polopt_jax.cli._pieces import Piece, kept, run_missing
from polopt_jax.cli._report import facts
from polopt_jax.cli._words import UsageError, choose_some

RESULT, PAGE, PICTURE, PARTS = "study.json", "report.html", "study.png", "parts"
QUICK_WORLDS, QUICK_SCALES = ("burning-building", "burning-building-hazard"), ("8", "table")
QUICK_OBJECTIVES, QUICK_SEEDS, QUICK_UPDATES = ("reinforce", "trpo", "grpo"), 3, 0.5
"""Seeds, and the share of the updates."""
FORMAT = 2


class Plan(NamedTuple):
    """What is run, decided before anything is."""

    worlds: tuple[str, ...]
    objectives: tuple[str, ...]
    scales: tuple[str, ...]
    seeds: int
    quick: bool

    def config(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": FORMAT,
            **{name: list(x) if isinstance(x, tuple) else x for name, x in self._asdict().items()},
        }


def plan(options: Study) -> Plan:
    """The plan of a command line. Raises UsageError if a name is unknown or a number makes no sense."""
    from polopt_jax import study

    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1; it is {options.seeds}")
    few = lambda names: names if options.quick else ()  # noqa: E731
    scales = tuple(dict.fromkeys(scale for ground in study.GROUNDS.values() for scale in ground.scales))
    wanted = Plan(
        worlds=choose_some("world", options.worlds or few(QUICK_WORLDS), tuple(study.GROUNDS)),
        objectives=choose_some("objective", options.objectives or few(QUICK_OBJECTIVES), study.OBJECTIVES),
        scales=choose_some("scale", options.scales or few(QUICK_SCALES), scales),
        seeds=min(options.seeds, QUICK_SEEDS) if options.quick else options.seeds,
        quick=options.quick,
    )
    without = [world for world in wanted.worlds if not set(study.GROUNDS[world].scales) & set(wanted.scales)]
    if without and options.worlds:
        own = ", ".join(study.GROUNDS[without[0]].scales)
        raise UsageError(f"--scales: {without[0]} has none of {', '.join(wanted.scales)}; it has {own}")
    return wanted._replace(worlds=tuple(world for world in wanted.worlds if world not in without))


def study(options: Study, arguments: Sequence[str]) -> int:
    """Runs the study and writes its report; returns the exit code."""
    wanted = plan(options)
    may_change = ("worlds", "objectives", "scales")
    with kept(options.out, "study", wanted.config(), resume=options.resume, may_change=may_change) as directory:
        run_missing(_pieces(wanted, directory), directory, arguments)
        _finish(directory, _gather(wanted, directory), arguments, json=options.json)
    return 0


def _pieces(wanted: Plan, directory: Path) -> list[Piece]:
    """One for each start of each objective at each scale of each world."""
    from polopt_jax import study

    def piece(world: str, scale: str, objective: str, start: str) -> Piece:
        ground = study.GROUNDS[world]
        updates = ground.every * math.ceil((QUICK_UPDATES if wanted.quick else 1) * ground.updates / ground.every)
        return Piece(
            f"{world}, scale {scale}: {objective}, {start} start",
            _file(directory, world, scale, objective, start),
            lambda: study.measure(ground, objective, scale, start, seeds=wanted.seeds, updates=updates),
        )

    return [
        piece(world, scale, objective, start)
        for world, scale in _scales(wanted)
        for objective in wanted.objectives
        for start in study.GROUNDS[world].starts
    ]


def _scales(wanted: Plan) -> list[tuple[str, str]]:
    """The scales of each world: the world's own of those that are wanted."""
    from polopt_jax import study

    return [
        (world, scale) for world in wanted.worlds for scale in study.GROUNDS[world].scales if scale in wanted.scales
    ]


def _file(directory: Path, world: str, scale: str, objective: str, start: str) -> Path:
    return directory / PARTS / world / scale / objective / f"{start}.json"


def _gather(wanted: Plan, directory: Path) -> dict[str, Any]:
    """All of the result, from the files."""
    from polopt_jax import study

    worlds: dict[str, Any] = {}
    for name, scale in _scales(wanted):
        ground = study.GROUNDS[name]
        world = worlds.setdefault(
            name,
            {
                "about": ground.about,
                "side_effects": list(ground.side_effects),
                "starts": list(ground.starts),
                "seeds": wanted.seeds,
                "scales": {},
            },
        )
        world["scales"][scale] = {
            objective: study.from_starts(
                {start: runs.read_json(_file(directory, name, scale, objective, start)) for start in ground.starts}
            )
            for objective in wanted.objectives
        }
    return {"config": wanted.config(), "worlds": worlds}


def _finish(directory: Path, result: dict[str, Any], arguments: Sequence[str], *, json: bool) -> None:
    """Writes the files and prints the tables."""
    from polopt_jax.cli import _study_page as page

    what = facts(arguments, directory)
    runs.write(directory / RESULT, runs.to_json({"run": what, **result}) + "\n")
    runs.write(directory / PICTURE, report.png(page.pictures(result)))
    runs.write(directory / PAGE, page.render(result, what))
    if json:
        print(runs.to_json({"directory": str(directory), **page.answers(result)}, indent=2))
        return
    page.print_tables(result)
    print(f"\nReport: {directory / PAGE}")
    print(f"Also in {directory}/: {RESULT}, {PICTURE}")
