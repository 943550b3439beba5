"""What `polopt bench` shows: tables, curves over sizes, the page, and the files that are kept in the repository."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import parts
from benchmarks.parts.rows import Row, from_json
from benchmarks.record import RESULTS, device_name
from polopt_jax import report
from polopt_jax.cli._versions import PACKAGES, processor, versions
from polopt_jax.report import Column, Curve, Group, Panel, Section, Strip

Result = Mapping[str, Sequence[Mapping[str, Any]]]
"""Of each part its cases, as their files have them."""
REPORT = RESULTS.parent / "report.md"
PLOTS = "plots"
"""Beside the report, a picture for each part of which there is something to draw."""
LEAD = (
    "Ours and what stands beside it, in the same rounds: a ratio is of one round, and the median over the rounds is "
    "shown with its quartiles; of what is learnt, the ratio of interquartile means over seeds with 95% of a bootstrap. "
    "Of rates a ratio above 1 says that ours is faster, of times and memory one below 1."
)
QUICK = "A quick run: the smallest sizes and three rounds. It says that everything runs, and nothing of how fast."
MARGIN = 1.5
"""Of a panel of ratios that are all alike."""


def rows_of(cases: Sequence[Mapping[str, Any]]) -> list[Row]:
    """All rows of a part."""
    return [row for case in cases for row in from_json(case["rows"])]


def spread(row: Row) -> str:
    """The ratio, its quartiles and the rounds."""
    if row.ratio is None:
        return report.NONE
    extent = "" if row.low is None or row.high is None else f" ({row.low:.2f} to {row.high:.2f}, n = {row.rounds})"
    return f"{row.ratio:.2f}{extent}"


def goal(row: Row) -> str:
    """What it should be, and whether it is."""
    if row.goal is None or row.ratio is None:
        return report.NONE
    return f"{row.goal.sense} {row.goal.ratio:g}: {'met' if row.goal.met(row.ratio) else 'MISSED'}"


def amount(x: float | None, unit: str) -> str:
    """A figure with its unit."""
    return report.NONE if x is None else f"{report.si(x) if abs(x) >= 1000 else report.short(x)} {unit}"


COLUMNS = (
    Column(("", "what"), lambda row: row.what),
    Column(("", "size"), lambda row: f"{row.size:,} {row.size_of}" if row.size else report.NONE),
    Column(("", "ours"), lambda row: amount(row.ours, row.unit)),
    Column(("", "beside"), lambda row: row.beside or report.NONE),
    Column(("", "theirs"), lambda row: amount(row.theirs, row.unit)),
    Column(("ours /", "theirs"), spread, "the median of the ratios of the rounds, and their quartiles"),
    Column(("", "goal"), goal),
)


ON_PAGE = (
    Column(("", "beside"), lambda row: row.beside or report.NONE),
    Column(("", "theirs"), lambda row: amount(row.theirs, row.unit)),
    Column(("ours /", "theirs"), lambda row: report.NONE if row.ratio is None else f"{row.ratio:.2f}"),
    Column(("", "spread"), lambda row: report.NONE if row.low is None else f"{row.low:.2f} to {row.high:.2f}"),
    Column(("", "n"), lambda row: report.NONE if row.low is None else f"{row.rounds}"),
    Column(("", "goal"), goal),
)
"""What the rows of one group have that is not in its title."""


def grouped(rows: Sequence[Row]) -> list[Group]:
    """A group for each thing that was measured at one size, with our figure."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        size = f", {row.size:,} {row.size_of}" if row.size else ""
        found.setdefault(f"{row.what}{size}: {amount(row.ours, row.unit)}", []).append(row)
    return [Group(title, its) for title, its in found.items()]


def columns(*, quick: bool) -> Sequence[Column]:
    """The columns; goals are of sizes that a quick run has not."""
    return COLUMNS[:-1] if quick else COLUMNS


def print_tables(result: Result, *, quick: bool) -> None:
    """Of each part a table, on stdout."""
    from rich.console import Console

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    for name, cases in result.items():
        print()
        Console(width=max(width, 80)).print(
            report.terminal(columns(quick=quick), [Group(name, rows_of(cases))], width=width)
        )


# Curves


def over_sizes(rows: Sequence[Row]) -> Iterator[Panel]:
    """For each thing that was measured at several sizes a panel: the ratio against the size, a curve per peer."""
    places = {beside: place for place, beside in enumerate(dict.fromkeys(row.beside for row in rows))}
    for what in dict.fromkeys(row.what for row in rows):
        own = [row for row in rows if row.what == what and row.ratio is not None and row.size]
        sizes = sorted({row.size for row in own if row.size})
        curves = []
        for beside in dict.fromkeys(row.beside for row in own):
            its = sorted((row for row in own if row.beside == beside), key=lambda row: row.size or 0)
            if len(its) > 1:
                ratios = [(row.ratio, row.low or row.ratio, row.high or row.ratio) for row in its]
                at = np.asarray([sizes.index(row.size) for row in its])
                curves.append(Curve(f"over {beside}", places[beside], at, *map(np.asarray, zip(*ratios, strict=True))))
        if curves:
            title = what if len(places) > 1 else f"{what}, {curves[0].label}"
            yield Panel(title, own[0].size_of, curves, x_names=[f"{size:,}" for size in sizes])


def learned(cases: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """Of every environment that something was learnt on, the return against decisions: mean and extent over seeds."""
    for case in cases:
        if "learning" not in case:
            continue
        told = case["learning"]
        curves = []
        for place, (name, its) in enumerate(told["curves"].items()):
            returns = np.asarray(its["returns"], float)
            known = np.isfinite(returns).any(0)
            x = told["decisions"] * (np.arange(returns.shape[1]) + 1.0)[known] / returns.shape[1]
            shown = returns[:, known]
            curves.append(Curve(name, place, x, np.nanmean(shown, 0), np.nanmin(shown, 0), np.nanmax(shown, 0)))
        yield Panel(told["env"], "decisions of each seed", curves)


def strips(result: Result) -> list[Strip]:
    """All that is drawn, part by part, at most three panels in a line."""
    found = []
    for name, cases in result.items():
        panels = [*over_sizes(rows_of(cases)), *learned(cases)]
        found += [Strip(name if i == 0 else "", panels[i : i + 3]) for i in range(0, len(panels), 3)]
    return found


# The page


def render(result: Result, what: dict[str, str], *, quick: bool) -> str:
    """The page."""
    sections = []
    for name, cases in result.items():
        rows = rows_of(cases)
        shown = ON_PAGE[:-1] if quick else ON_PAGE
        pieces = [
            report.prose("What stands beside ours", [parts.PARTS[name].about]),
            report.table(shown, grouped(rows)),
        ]
        drawn = [strip for strip in strips({name: cases}) if strip.panels]
        captions = "Ratios of ours over theirs against the size; the band has the quartiles of the rounds."
        if name == "learning":
            captions = "Return against decisions: the mean over seeds; the band has the worst and the best seed."
        pieces += [report.figure("", report.svg(strip, alt=captions), captions) for strip in drawn]
        if differs := differences(rows):
            pieces.append(report.prose("What still differs", differs))
        sections.append(Section(name, pieces))
    return report.page(
        "polopt bench",
        LEAD,
        [*sections, Section("This run", [report.definitions(what)])],
        notes=[QUICK] if quick else [],
    )


def differences(rows: Sequence[Row]) -> list[str]:
    """What is not alike between us and a peer, once for each."""
    return [f"{name}: {note}" for name, note in {(row.beside, row.note): None for row in rows if row.note}]


# What the repository keeps


def publish(result: Result, *, only_some: Collection[str] = ()) -> list[Path]:
    """Writes a result file for each part, the report over all that are kept, and its pictures; returns their paths.

    Of the parts of which `only_some` cases were measured, the others stay.
    """
    directory = RESULTS / device_name() / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, cases in result.items():
        path = directory / f"{name}.json"
        before = json.loads(path.read_text())["cases"] if name in only_some and path.exists() else []
        path.write_text(json.dumps(record(name, cases, before), indent=1) + "\n")
        written.append(path)
    return [*written, *write_report()]


def write_report() -> list[Path]:
    """Writes the report over all that are kept, and its pictures; returns their paths."""
    files = kept()
    plots = REPORT.parent / PLOTS
    plots.mkdir(exist_ok=True)
    written = []
    for title, file in files.items():
        if drawn := strips({title: file["cases"]}):
            written.append(plots / picture_of(title))
            written[-1].write_bytes(report.png(drawn))
    REPORT.write_text(markdown(files))
    return [*written, REPORT]


def picture_of(title: str) -> str:
    """The file of a part's picture.

    >>> picture_of("cpu-2: solvers")
    'cpu-2-solvers.png'
    """
    return f"{title.replace(': ', '-')}.png"


def record(name: str, cases: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A part, each case with what it was measured on; new cases in the place of those of their name."""
    made = {"date": date.today().isoformat(), "processor": processor("model name"), "python": platform.python_version()}
    made["versions"] = {package: it for package, it in versions(*PACKAGES, "brax").items() if it}
    both = {case["case"]: case for case in before} | {case["case"]: {**case, "made": made} for case in cases}
    return {"benchmark": name, "device": device_name(), "cases": list(both.values())}


def kept() -> dict[str, dict[str, Any]]:
    """What the repository has, by device and part."""
    return {
        f"{path.parts[-3]}: {path.stem}": json.loads(path.read_text())
        for path in sorted(RESULTS.glob("*/bench/*.json"))
    }


def markdown(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The report over all files, as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        LEAD,
        "",
        "`polopt bench --publish` in a checkout makes this file, and the results it is made of.",
    ]
    for title, file in files.items():
        rows = rows_of(file["cases"])
        lines += ["", f"## {title}", "", *made_of(file["cases"]), ""]
        lines += ["| " + " | ".join(report.full_name(column) for column in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        lines += ["| " + " | ".join(column.cell(row) for column in COLUMNS) + " |" for row in rows]
        lines += ["", *(f"- {line}" for line in differences(rows))] if differences(rows) else []
        if strips({title: file["cases"]}):
            of_learning = "return against decisions" if any("learning" in case for case in file["cases"]) else None
            shown = of_learning or "ratios of ours over theirs against the size"
            lines += ["", f"![{title}: {shown}]({PLOTS}/{picture_of(title)})"]
    return "\n".join(lines) + "\n"


def made_of(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """When and with what; which cases, where not all are of one day and one environment."""
    found: dict[str, list[str]] = {}
    for case in cases:
        made = case["made"]
        packages = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        on = f"{made['processor']}, " if made.get("processor") else ""  # results from before it was noted lack it
        found.setdefault(f"{made['date']}, {on}Python {made['python']}, {packages}.", []).append(case["case"])
    if len(found) == 1:
        return list(found)
    return [f"- {', '.join(names)}: {line}" for line, names in found.items()]
