"""Every figure of exact mode, into `benchmarks/results/outcomes/`, and from them the tables of `docs/findings.md`.

python -m benchmarks.outcomes_exact [--only anchors odds tables neighbours building]    (twelve minutes on two cores)
python -m benchmarks.outcomes_exact --only                                              (the tables of what is there)
"""

import argparse
from typing import Any

import jax
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

jax.config.update("jax_enable_x64", True)

from benchmarks.outcomes_exact import anchors, building, findings, neighbours, odds, tables  # noqa: E402
from benchmarks.record import RESULTS, reckoned  # noqa: E402

FOLDER = RESULTS / "outcomes"


def save(name: str, figures: Any) -> None:
    """Writes `exact-<name>.json`, its numbers to five digits, with the versions that they were reckoned with."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"exact-{name}.json").write_text(
        reckoned(
            f"outcomes_exact {name}",
            figures,
            command=f"python -m benchmarks.outcomes_exact --only {name}",
            precision="float64",
        )
    )


SECTIONS = {
    "anchors": (1, lambda: iter([("anchors", anchors.figures())])),
    "odds": (len(odds.PARTS), odds.figures),
    "tables": (len(tables.TABLES), tables.figures),
    "neighbours": (neighbours.PARTS, neighbours.figures),
    "building": (len(building.CASES) * (len(building.ENTRIES) + 1), building.figures),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    chosen = parser.parse_args().only
    columns = (TextColumn("{task.description:<40}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for name in chosen:
            total, run = SECTIONS[name]
            task = progress.add_task(name, total=total)
            found: dict[str, list[Any]] = {}
            for part, figures in run():
                found.setdefault(part, []).append(figures)
                progress.update(task, advance=1, description=f"{name}: {part}")
            progress.update(task, completed=total, description=name)
            save(name, found)
    findings.rewrite(FOLDER)


if __name__ == "__main__":
    main()
