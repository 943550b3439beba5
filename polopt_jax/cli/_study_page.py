"""What `polopt study` shows: the verdicts, shares of the variance, side effects by start, scale and objective."""

import shutil
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from polopt_jax import report, study
from polopt_jax.cli._outcomes_page import with_ends
from polopt_jax.report import Column, Curve, Group, Panel, Section, Strip
from polopt_jax.study import Interval, Response, Verdict

LEAD = (
    "Every objective learns every world from a random, a competent and a careful start, with networks of several "
    "sizes. Side effects are read where the success first reaches {level}. docs/study.md registers what is asked and "
    "how it is judged; no order found here is a law."
)
CAPTION = (
    "Its probability at success {level}, mean over the seeds that reached it, at the step size that the registered "
    "rule chooses; band: 95% bootstrap interval. Solid grey: the policy that training began with."
)


class Combination(NamedTuple):
    """One objective at one scale from one start."""

    scale: str
    objective: str
    start: str
    setting: float
    never: float
    """Share of the seeds that never reached the success."""
    columns: Mapping[str, Interval]


def answers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the study says, as JSON has it."""
    worlds = result["worlds"]

    def entry(row: Combination) -> dict[str, Any]:
        return {**row._asdict(), "columns": _plain(row.columns)}

    return {
        "part": is_part(worlds),
        "verdicts": [verdict._asdict() for verdict in study.verdicts(worlds)],
        "shares": {
            name: {field: _plain(divided(world, field)) for field in rates(world)} for name, world in worlds.items()
        },
        "predictors": {
            name: [_plain({"alone": row.alone, "together": row.together}) | {"name": row.name} for row in found]
            for name, world in worlds.items()
            if (found := study.predictors(world))
        },
        "worlds": {name: [entry(row) for row in combinations(world)] for name, world in worlds.items()},
    }


def _plain(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: x._asdict() for name, x in intervals.items()}


def divided(world: Mapping[str, Any], field: str = "P(z)") -> dict[str, Interval]:
    """Shares of the variance of the logit of a probability."""
    return study.share_intervals(study.logit(study.response(world, field).values))


def rates(world: Mapping[str, Any]) -> list[str]:
    """P(z), and where there are several side effects each of them."""
    names = world["side_effects"]
    return ["P(z)", *([f"P({name})" for name in names] if len(names) > 1 else [])]


def fields(world: Mapping[str, Any]) -> list[str]:
    """What is shown of each combination."""
    held = study.response(world, "held-out P(z)").values
    return [
        *rates(world),
        *(["held-out P(z)"] if np.isfinite(held).any() else []),
        "side_effect_kl",
        "trajectory_kl",
        "trajectory_kl_start_new",
        "updates",
    ]


def combinations(world: Mapping[str, Any], level: float = study.MATCHED) -> list[Combination]:
    """Every combination of a world, read at a success."""
    found = {name: study.response(world, name, level) for name in fields(world)}
    first = found["P(z)"]
    rows = []
    for i, scale in enumerate(first.scales):
        for j, objective in enumerate(first.objectives):
            if objective not in world["scales"][scale]:
                continue
            figures = world["scales"][scale][objective]
            for k, start in enumerate(first.starts):
                rows.append(
                    Combination(
                        scale,
                        objective,
                        start,
                        figures["settings"][study.chosen(figures, k)],
                        float(np.mean(~np.isfinite(first.values[i, j, k]))),
                        {name: study.interval(each.values[i, j, k]) for name, each in found.items()},
                    )
                )
    return rows


# Tables

COLUMNS = {
    "P(z)": "Probability of any side effect.",
    "held-out P(z)": "The same on prompts that training never asks.",
    "side_effect_kl": "D_z from the policy that training began with, nats.",
    "trajectory_kl": "KL of whole attempts from it.",
    "trajectory_kl_start_new": "KL of whole attempts in the other direction.",
    "updates": "Until the success was reached.",
}
_NAMES = {"side_effect_kl": "D_z", "trajectory_kl": "D_traj", "trajectory_kl_start_new": "start‖new"}


def _cell(name: str, *, band: bool) -> Any:
    def cell(row: Combination) -> str:
        value = row.columns[name]
        if not np.isfinite(value.mean):
            return report.NONE
        return with_ends(value) if band else report.short(value.mean)

    return cell


def columns_of(world: Mapping[str, Any], *, brief: bool = False) -> list[Column]:
    """The columns of the combinations; for a terminal those that matter most."""
    shown = [name for name in fields(world) if not brief or name.startswith(("P(", "held"))]
    return [
        Column(("", "start"), lambda row: row.start),
        Column(("", "scale"), lambda row: row.scale),
        Column(("", "objective"), lambda row: row.objective),
        Column(("", "setting"), lambda row: report.short(row.setting)),
        *(Column(("", _NAMES.get(n, n)), _cell(n, band="P(z)" in n), COLUMNS.get(n, "")) for n in shown),
        Column(("", "never"), lambda row: report.percent(row.never), "Share of the seeds that never reached it."),
    ]


def groups_of(world: Mapping[str, Any], title: str) -> list[Group]:
    """The combinations by start."""
    rows = combinations(world)
    return [Group(f"{title}{start} start", [row for row in rows if row.start == start]) for start in world["starts"]]


PART = "This is a part of what was registered, so the verdicts are preliminary."


def is_part(worlds: Mapping[str, Any]) -> bool:
    """Whether worlds, scales, objectives or seeds of the registered study are missing."""
    return any(
        name not in worlds
        or worlds[name]["seeds"] < study.SEEDS
        or set(worlds[name]["scales"]) < set(ground.scales)
        or any(set(found) < set(study.OBJECTIVES) for found in worlds[name]["scales"].values())
        for name, ground in study.GROUNDS.items()
    )


def _judged(verdict: Verdict) -> str:
    return f"{verdict.name} { {True: 'holds', False: 'fails', None: 'is open'}[verdict.holds] }"


def _varied(world: Mapping[str, Any], factor: str) -> bool:
    """Whether a world was run at several levels of a factor, or of each in an interaction `a x b`."""
    levels: dict[str, int] = dict(zip(study.FACTORS, study.response(world, "P(z)").values.shape, strict=False))
    return all(levels.get(name, 2) > 1 for name in factor.split(" x "))


def _share_table(worlds: Mapping[str, Any]) -> tuple[list[Column], list[Group]]:
    """Of the primary measure, which was registered, and of single side effects, which were not."""
    found = {name: {field: divided(world, field) for field in rates(world)} for name, world in worlds.items()}
    shown = dict.fromkeys(field for fields in found.values() for field in fields)

    def cell(name: str) -> Any:
        def text(row: tuple[str, str]) -> str:
            field, factor = row
            if field not in found[name] or not _varied(worlds[name], factor):
                return report.NONE
            return "{:.3f} [{:.3f}, {:.3f}]".format(*found[name][field][factor])

        return text

    columns = [Column(("", "factor"), lambda row: row[1]), *(Column(("", name), cell(name)) for name in found)]
    factors = list(next(iter(found.values()))["P(z)"])
    title = "Shares of the variance of logit {}, η²{}"
    return columns, [
        Group(title.format(field, "" if field == "P(z)" else "; not registered"), [(field, x) for x in factors])
        for field in shown
    ]


def _predictor_table(world: Mapping[str, Any]) -> tuple[list[Column], list[Group]] | None:
    """Where something is held out: what told of it."""
    if not (found := study.predictors(world)):
        return None

    def cell(part: str) -> Any:
        return lambda row: "{:.2f} [{:.2f}, {:.2f}]".format(*getattr(row, part))

    columns = [
        Column(("", "divergence"), lambda row: row.name),
        Column(("R²", "alone"), cell("alone"), "Of a regression on it alone."),
        Column(("", "together"), cell("together"), "Coefficient among all of them, in standard deviations."),
    ]
    return columns, [Group("What on training prompts tells of P(z) on held-out ones, starts and scales apart", found)]


def print_tables(result: Mapping[str, Any]) -> None:
    """Prints the verdicts, the shares, and the combinations of each world."""
    from rich.console import Console

    width = max(40, shutil.get_terminal_size().columns if sys.stdout.isatty() else 120)
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    for name, world in result["worlds"].items():
        console.print()
        console.print(report.terminal(columns_of(world, brief=True), groups_of(world, f"{name}, "), width=width))
    console.print()
    console.print(report.terminal(*_share_table(result["worlds"]), width=width))
    for name, world in result["worlds"].items():
        if (told := _predictor_table(world)) is not None:
            console.print(f"\n{name}")
            console.print(report.terminal(*told, width=width))
    if is_part(result["worlds"]):
        console.print(f"\n{PART}")
    for verdict in study.verdicts(result["worlds"]):
        console.print(f"\n{_judged(verdict)}: {verdict.hypothesis}\n   {verdict.evidence}")


# The page


def pictures(result: Mapping[str, Any]) -> list[Strip]:
    """For each world and each of its side effects a strip: its probability by scale, a panel for each start."""
    return [_picture(name, world, field) for name, world in result["worlds"].items() for field in _drawn(world)]


def _drawn(world: Mapping[str, Any]) -> list[str]:
    """Single side effects; any of them is P(z) itself where there is one."""
    return rates(world)[1:] or ["P(z)"]


def _picture(name: str, world: Mapping[str, Any], field: str) -> Strip:
    found = study.response(world, field)
    places = np.arange(len(found.scales), dtype=float)
    panels = []
    for k, start in enumerate(found.starts):
        curves = [_begin_curve(world, found, field, k, places)]
        for j, objective in enumerate(found.objectives):
            points = [study.interval(found.values[i, j, k]) for i in range(len(found.scales))]
            ends = (np.array([getattr(point, end) for point in points]) for end in ("mean", "low", "high"))
            curves.append(Curve(objective, 1 + study.OBJECTIVES.index(objective), places, *ends))
        panels.append(
            Panel(f"{field}, {start} start", "scale", curves, log=True, limits=(5e-4, 1.5), x_names=found.scales)
        )
    return Strip(name, panels)


def _begin_curve(world: Mapping[str, Any], found: Response, field: str, start: int, places: np.ndarray) -> Curve:
    """The same of the policies that training began with."""
    first = [next(iter(world["scales"][scale].values())) for scale in found.scales]
    laws = [study.as_array(figures["begin_law"])[start] for figures in first]
    means = np.array([study.rate(law, field, world["side_effects"]).mean() for law in laws])
    return Curve("start", 0, places, means, means, means)


def render(result: Mapping[str, Any], what: dict[str, str]) -> str:
    """The page: the answer, a section for each world, what was run."""
    worlds = result["worlds"]
    told = {_judged(verdict): f"{verdict.hypothesis} {verdict.evidence}" for verdict in study.verdicts(worlds)}
    caution = [report.prose("Preliminary", [PART])] if is_part(worlds) else []
    sections = [Section("The answer", [*caution, report.definitions(told), report.table(*_share_table(worlds))])]
    for name, world in worlds.items():
        columns, caption = columns_of(world), CAPTION.format(level=study.MATCHED)
        alt = "{} in {} by scale, start and objective"
        drawn = [
            report.figure(field, report.svg(_picture(name, world, field), alt=alt.format(field, name)), caption)
            for field in _drawn(world)
        ]
        pieces = [
            report.prose("What counts", [f"Success; side effects: {world['about']}."]),
            *drawn,
            report.table(columns, groups_of(world, "")),
            report.definitions(report.meanings(columns)),
        ]
        if (told := _predictor_table(world)) is not None:
            pieces += [report.table(*told), report.definitions(report.meanings(told[0]))]
        sections.append(Section(name, pieces))
    run = {name: what[name] for name in ("Directory", "Device", "Versions", "Date")}
    sections.append(Section("What was run", [report.code(what["Command"]), report.definitions(run)]))
    return report.page("Objective, initialisation or scale?", LEAD.format(level=study.MATCHED), sections)
