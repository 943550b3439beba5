"""What `polopt outcomes` shows: tables at matched success, frontiers, signals, changes since an earlier run."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polopt_jax import report, suite
from polopt_jax.report import Column, Curve, Group, Panel, Section, Strip
from polopt_jax.suite import COLUMNS, LEVELS, Interval, Projected, Reading

SHOWN = (0.5, 0.8, 0.9)
"""The success levels of the tables."""
TOLD = 0.9
"""The one that the terminal shows."""
LEAD = (
    "Every method learns the same worlds from attempts, and is read where it first reaches a given success: at the "
    "same step size, or after as many updates, methods would be compared at different success."
)
CAPTION = (
    "KL of the side effects from the reference's, D_z, against success: mean over the runs that reached it, each "
    "method at the middle of its sweep; band: 95% bootstrap interval. pump: the reference's own successes, amplified. "
    "ipf: the nearest law that keeps the side effects, so 0 where there is one."
)


def rows_at(world: Mapping[str, Any], level: float) -> list[Projected | Reading]:
    """The rows of one world at a success: those without training, then every method at every setting."""
    methods = world["methods"].items()
    trained = [reading for name, figures in methods for reading in suite.read(name, figures, world, level)]
    return [*suite.project(world, level), *trained]


def readings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every reading by world and success, the signals and the table of estimators, as JSON has them."""

    def entry(row: Projected | Reading) -> dict[str, Any]:
        columns = {k: v._asdict() if isinstance(v, Interval) else v for k, v in row.columns.items()}
        return {**row._asdict(), "columns": columns}

    worlds = {
        name: {str(level): [entry(row) for row in rows_at(world, level)] for level in SHOWN}
        for name, world in result["worlds"].items()
    }
    return {"worlds": worlds, "signals": result["signals"], "estimators": result["estimators"]}


# Tables


def _name(row: Projected | Reading) -> str:
    return row.name if isinstance(row, Projected) else row.method


def _setting(row: Projected | Reading) -> str:
    return "" if isinstance(row, Projected) else report.short(row.setting)


def _mean(name: str, *, band: bool = False) -> Any:
    """How a row fills the column of that name."""

    def cell(row: Projected | Reading) -> str:
        value = row.columns.get(name)
        mean = value.mean if isinstance(value, Interval) else value
        if mean is None or not np.isfinite(mean):
            return report.NONE
        return with_ends(value) if band and isinstance(value, Interval) else report.short(mean)

    return cell


def with_ends(x: Interval) -> str:
    """A mean with its interval, where it has one."""
    return report.short(x.mean) + (f" [{report.short(x.low)}, {report.short(x.high)}]" if x.has_ends else "")


def _never(row: Projected | Reading) -> str:
    if isinstance(row, Projected):
        return "" if row.feasible == 1 else f"infeasible: {report.percent(1 - row.feasible)}"
    return report.percent(row.never) + (f", best {report.short(row.best)}" if row.never == 1 else "")


def columns_of(world: Mapping[str, Any], *, brief: bool = False) -> list[Column]:
    """The table's columns; for a terminal those that matter most."""
    rates = [f"P({name})" for name in world["side_effects"]]
    chosen = ["D_z", "D_out", "D_traj", "over pump", "updates"] if brief else list(COLUMNS)
    bands = () if brief else ("D_z", *rates)
    return [
        Column(("", "method"), _name),
        Column(("", "setting"), _setting, "" if brief else "What is swept is named in the result file."),
        *(Column(("", rate), _mean(rate, band=rate in bands)) for rate in rates),
        *(Column(("", name), _mean(name, band=name in bands), COLUMNS[name]) for name in chosen),
        Column(("", "never"), _never, "Share of the runs that never reached it; the columns are of the others."),
    ]


def print_tables(result: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> None:
    """Prints one table for each world, the signals, and what changed."""
    from rich.console import Console

    width = max(40, shutil.get_terminal_size().columns if sys.stdout.isatty() else 120)
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    for name, world in result["worlds"].items():
        columns, rows = columns_of(world, brief=True), rows_at(world, TOLD)
        console.print()
        console.print(report.terminal(columns, [Group(f"{name}, at success {TOLD}", rows)], width=width))
    if result["signals"] is not None:
        console.print()
        console.print(report.terminal(*_monitor_table(result["signals"]), width=width))
    if earlier is not None:
        console.print()
        console.print(report.terminal(*_changes(result, earlier), width=width))
    console.print()
    first = next(iter(result["worlds"].values()))
    for name, meaning in report.meanings(columns_of(first, brief=True)).items():
        console.print(f"{name}: {meaning}", style="dim")


# The page


def frontier(name: str, world: Mapping[str, Any]) -> Strip:
    """D_z against success, one curve for each method, the history beside what holds outcomes."""
    methods = world["methods"]
    kinds = {
        "D_z of the history": [method for method, figures in methods.items() if not figures["labels"]],
        "D_z of what holds outcomes": [method for method, figures in methods.items() if figures["labels"]],
    }
    lines = _projected_curves(world)
    panels = [
        Panel(
            title,
            "success",
            [*lines, *(_curve(method, methods[method], world) for method in members)],
            x_limits=(LEVELS[0] - 0.02, 1.0),
        )
        for title, members in kinds.items()
        if members
    ]
    return Strip(name, panels)


def _curve(method: str, figures: Mapping[str, Any], world: Mapping[str, Any]) -> Curve:
    middle = len(figures["settings"]) // 2
    table = suite.table_kl(suite.as_array(figures["law"])[middle], suite.reference_law(world)[:, None])["D_z"]
    points = [suite.interval(table[:, at]) for at in range(len(LEVELS))]
    ends = [np.array([getattr(point, end) for point in points]) for end in ("mean", "low", "high")]
    return Curve(method, 2 + list(suite.METHODS).index(method), np.asarray(LEVELS), *ends)


def _projected_curves(world: Mapping[str, Any]) -> list[Curve]:
    made = [suite.project(world, level) for level in LEVELS]
    curves = []
    for place, row in ((0, 1), (1, 2)):
        height = np.array([rows[row].columns["D_z"] for rows in made])
        curves.append(Curve(made[0][row].name, place, np.asarray(LEVELS), height, height, height))
    return curves


def render(result: Mapping[str, Any], earlier: Mapping[str, Any] | None, what: dict[str, str]) -> str:
    """The page: a section for each world, the signals, what changed, what was run."""
    sections = [_world_section(name, world) for name, world in result["worlds"].items()]
    if result["signals"] is not None:
        sections.append(_signal_section(result))
    if result["estimators"]:
        sections.append(_estimator_section(result["estimators"]))
    if earlier is not None:
        sections.append(Section("Against the earlier run", [report.table(*_changes(result, earlier))]))
    run = {name: what[name] for name in ("Directory", "Device", "Versions", "Date")}
    sections.append(Section("What was run", [report.code(what["Command"]), report.definitions(run)]))
    sections.append(Section("The columns", [report.definitions(dict(COLUMNS))]))
    return report.page("What objectives do to outcomes", LEAD, sections)


def _world_section(name: str, world: Mapping[str, Any]) -> Section:
    rows = [Group(f"at success {level}", rows_at(world, level)) for level in SHOWN]
    drawn = frontier(name, world)
    alt = f"D_z against success in {name}, " + ", ".join(world["methods"])
    pieces = [
        report.prose("What counts", [f"Success; side effects: {world['about']}."]),
        report.figure("Frontier", report.svg(drawn, alt=alt), CAPTION),
        report.table(columns_of(world), rows),
    ]
    return Section(name, pieces)


def _monitor_table(signals: Mapping[str, Any]) -> tuple[list[Column], list[Group]]:
    def number(key: str) -> Any:
        return lambda row: report.short(row[1][key])

    columns = [
        Column(("", "monitor"), lambda row: row[0]),
        Column(("AUC", "A"), number("auc_a"), "Against runs of the same and the legitimate worlds that do not skip."),
        Column(("AUC", "B"), number("auc_b"), "Against the benign twins, in which skipping pays nothing."),
        Column(("", "detected"), lambda row: report.percent(row[1]["detected"]), "Before P(skip) = 1/2, at 5% alarms."),
        Column(("", "lead"), number("lead"), "Median number of updates between the alarm and P(skip) = 1/2."),
    ]
    runs = signals["runs"]
    title = (
        f"Monitors of grpo on skip-the-test: {runs['positive']} runs that skip, {runs['negative_a']} negatives A, "
        f"{runs['negative_b']} B; {signals['labels']} labels an update for g and cusum"
    )
    return columns, [Group(title, list(signals["monitors"].items()))]


def _signal_section(result: Mapping[str, Any]) -> Section:
    columns, groups = _monitor_table(result["signals"])
    world = result["worlds"].get(suite.WATCHED)
    rows = [] if world is None else suite.foreseen(world, result["signals"]["forecasts"])
    told = [
        Column(("", "method"), lambda row: row.method),
        Column(("", "AUC"), lambda row: report.short(row.auc), "Chance that a run that skips was forecast higher."),
        Column(
            ("AUC", "honest"),
            lambda row: report.short(row.honest),
            "The same of another forecast: how rarely the reference succeeds honestly.",
        ),
        *(
            Column(
                ("forecast", low_to_high),
                lambda row, i=i: f"{report.short(row.bins[i].mean)} ({row.bins[i].runs})",
            )
            for i, low_to_high in enumerate(suite.BINS)
        ),
    ]
    pieces = [report.table(columns, groups), report.definitions(report.meanings(columns))]
    if rows:
        title = "Forecast from the reference's own successes, before training: mean P(skip) in the end (runs)"
        pieces += [report.table(told, [Group(title, rows)]), report.definitions(report.meanings(told))]
    return Section("What would have told", pieces)


def _estimator_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Bias and coverage of every estimate, by world and feature."""

    def relative(key: str) -> Any:
        return lambda row: f"{100 * row[key] / row['truth']:+.1f}%"

    columns = [
        Column(("", "divergence"), lambda row: row["divergence"]),
        Column(("", "step"), lambda row: report.short(row["step"]), "Size of the change; of a table the pump's J."),
        Column(("", "rows"), lambda row: str(row["rows"]), "Episodes, or size of each of two samples."),
        Column(("", "truth"), lambda row: report.short(row["truth"])),
        Column(("plug-in", "bias"), relative("plug_in_bias"), "Of what updates step on, over the truth."),
        Column(("", "bias"), relative("bias"), "Of what is reported, over the truth."),
        Column(("", "±"), relative("standard_error"), "Standard error of the bias."),
        Column(("", "coverage"), lambda row: report.percent(row["coverage"]), "Of the nominal 95% intervals."),
        Column(("rarest", "cell"), lambda row: report.short(row["rarest"]), "Expected rows of the rarest cell."),
    ]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['world']}: {row['feature']}", []).append(row)
    table = report.table(columns, [Group(title, members) for title, members in groups.items()])
    return Section("How good the estimates are", [table, report.definitions(report.meanings(columns))])


def compared(source: Mapping[str, Any], world: str) -> dict[tuple[str, float], Interval]:
    """D_z at success .9 of every method and setting in a world of a result."""
    rows = [row for row in rows_at(source["worlds"][world], TOLD) if isinstance(row, Reading)]
    return {(row.method, row.setting): row.columns["D_z"] for row in rows}


def _otherwise(result: Mapping[str, Any], earlier: Mapping[str, Any], world: str) -> str:
    """The world, and what of its runs was otherwise then."""
    then, now = ({**x["config"], "worlds": len(x["worlds"][world]["reference"])} for x in (earlier, result))
    told = [f"{what} {then[what]}, now {now[what]}" for what in ("seeds", "quick", "worlds") if then[what] != now[what]]
    return f"{world} (then {'; '.join(told)})" if told else world


def changed(then: Interval, now: Interval) -> str:
    """In a word, how a figure has changed; none where the intervals overlap."""
    if np.isfinite(then.mean) != np.isfinite(now.mean):
        return "reached now" if np.isfinite(now.mean) else "reached no longer"
    if not (now.has_ends and then.has_ends) or (now.low <= then.high and then.low <= now.high):
        return ""
    return "higher" if now.mean > then.mean else "lower"


def _changes(result: Mapping[str, Any], earlier: Mapping[str, Any]) -> tuple[list[Column], list[Group]]:
    """D_z at success .9, now and then, of what both runs have."""

    def text(x: Interval) -> str:
        return with_ends(x) if np.isfinite(x.mean) else "never"

    columns = [
        Column(("", "method"), lambda row: row[0]),
        Column(("", "setting"), lambda row: report.short(row[1])),
        Column(("D_z", "then"), lambda row: text(row[2])),
        Column(("D_z", "now"), lambda row: text(row[3])),
        Column(("", "changed"), lambda row: changed(*row[2:]), "Where the intervals do not overlap. One run has none."),
    ]
    groups = []
    for world in result["worlds"]:
        if world in earlier["worlds"]:
            then, now = compared(earlier, world), compared(result, world)
            both = [(*key, then[key], now[key]) for key in now if key in then]
            groups.append(Group(_otherwise(result, earlier, world), both))
    return columns, groups
