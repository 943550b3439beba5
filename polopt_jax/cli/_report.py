"""What a finished command leaves: summary.json, curves.png, report.html, and the table on stdout."""

import datetime
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from polopt_jax import report, runs
from polopt_jax.cli import _recipes
from polopt_jax.cli._plan import PACKAGES, Plan, Result, Summary, versions
from polopt_jax.cli._presets import PRESETS
from polopt_jax.cli._words import flag
from polopt_jax.report import Column, Curve, Group, Panel, Section, Strip

CURVES, PAGE, SUMMARY = "curves.png", "report.html", "summary.json"
SIZES = ("num_envs", "rollout_steps", "group_size", "episode_length", "updates")


def write_files(
    directory: Path, title: str, results: Sequence[Result], arguments: Sequence[str], notes: Sequence[str]
) -> None:
    """Writes the files. summary.json comes last: where it says finished, everything is there."""
    what = facts(arguments, directory)
    shown = [result for result in results if result.rows]
    if shown:
        runs.write(directory / CURVES, report.png([strip(members) for members in by_environment(shown)]))
        runs.write(directory / PAGE, render(title, shown, what | _watching(directory), notes=notes))
    summary = {"run": what, "notes": list(notes), "results": [result.summary for result in results]}
    runs.write_json(directory / SUMMARY, summary)


def print_result(directory: Path, results: Sequence[Result], notes: Sequence[str], *, json: bool) -> None:
    """Prints the table, or the summaries as JSON, and where the files are."""
    shown = [result for result in results if result.rows]
    if json:
        print(runs.to_json({"directory": str(directory), "results": [r.summary for r in shown]}, indent=2))
        return
    if not shown:
        return
    print()
    print_table(shown)
    print()
    for note in notes:
        print(note)
    print(f"Report: {directory / PAGE}")
    for how in _watching(directory).values():
        print(f"Watch: {how.strip('`')}")
    print(f"Also in {directory}/: {', '.join((CURVES, runs.ROWS, SUMMARY))}")


def _watching(directory: Path) -> dict[str, str]:
    """How to watch what was learnt in a directory, if that holds one run."""
    return (
        {"Watch": f"`{shlex.join(['polopt', 'play', str(directory)])}`"} if (directory / runs.CONFIG).exists() else {}
    )


# The table


def _algorithm(summary: Summary) -> str:
    return summary["algorithm"] + ("" if summary["status"] == "finished" else "*")


def _rates(summary: Summary) -> str:
    skip, honest = summary.get("outcome/skip"), summary.get("outcome/honest")
    return report.NONE if skip is None or honest is None else f"{100 * skip:.0f}/{100 * honest:.0f}%"


REWARD = Column(
    ("final", "reward"),
    lambda s: report.estimate(s.get("reward"), s.get("reward_interval")),
    "Mean return of the episodes that ended in the last tenth of the updates (if none did, of those that ended last): "
    "mean over seeds ± half-width of its 95% t-interval (none with one seed).",
)
ALWAYS = (
    Column(
        ("steps", "/s"),
        lambda s: report.si(s.get("steps_per_second")),
        "A step is one decision that an update learnt from, rows x time, whatever the algorithm. All seeds together, "
        "without compilation.",
    ),
    Column(("wall", "time"), lambda s: report.seconds(s.get("wall_seconds")), "With compilation."),
    Column(
        ("KL", "old‖new"),
        lambda s: report.short(s.get("kl_old_new")),
        "KL(policy before ‖ policy after) of an update, in nats per decision, mean over all updates and seeds.",
    ),
    Column(
        ("", "entropy"),
        lambda s: report.short(s.get("entropy")),
        "Of the policy, in nats per decision, in the last tenth; of a continuous action it may be negative.",
    ),
)
COMPILE = Column(("compile", "time"), lambda s: report.seconds(s.get("compile_seconds")), "Is part of the wall time.")
SOMETIMES = (
    Column(
        ("CG", "residual"),
        lambda s: report.short(s.get("cg_residual")),
        "‖g - Fx‖ / ‖g‖ where the solve with the Fisher matrix F stopped.",
    ),
    Column(
        ("line", "search"),
        lambda s: report.percent(s.get("line_search_accepted")),
        "Share of updates in which the line search accepted a step.",
    ),
    Column(
        ("skip/", "honest"),
        _rates,
        "Share of sequences that skip the test and that pass it honestly (one may do both), in the last tenth.",
    ),
    Column(
        ("skip", "D_z"),
        lambda s: report.short(s.get("outcome/skip_kl")),
        "KL of skipping, this policy's from the reference's, in nats of an answer: per prompt, then averaged; its "
        "bias taken off. In the last tenth, on attempts that no update sees.",
    ),
    Column(
        ("", "unscored"),
        lambda s: report.si(s.get("unscored") or None),
        "Sequences that nobody could score, of all updates and seeds.",
    ),
)
"""Shown where they say something of some result."""


def by_environment(results: Sequence[Result]) -> list[list[Result]]:
    """The results of each environment, in order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.plan.env, []).append(result)
    return list(found.values())


def group_title(plan: Plan) -> str:
    """What the runs on an environment have in common."""
    physics = f", {plan.backend}" if plan.backend else ""
    return f"{plan.env}{physics}: {plan.schedule.seeds}, {report.si(plan.schedule.steps)} steps each"


def groups(results: Sequence[Result]) -> list[Group]:
    """The rows of the table: a summary for each result, by environment."""
    return [
        Group(group_title(members[0].plan), [result.summary for result in members])
        for members in by_environment(results)
    ]


def columns_of(rows: Sequence[Group]) -> list[Column]:
    """The columns that say anything. A star is explained where there is one, and how a reward came about otherwise."""
    summaries = [summary for group in rows for summary in group.rows]
    starred = any(summary["status"] != "finished" for summary in summaries)
    apart = list(dict.fromkeys(summary["algorithm"] for summary in summaries if summary["measured_apart"]))
    how = f" That of {' and '.join(apart)} is measured once per chunk of updates, on rollouts that no update sees."
    return [
        Column(("", "algorithm"), _algorithm, "A star marks a run that did not finish." if starred else ""),
        REWARD._replace(meaning=REWARD.meaning + how) if apart else REWARD,
        *ALWAYS,
        *report.informative(SOMETIMES, rows),
        COMPILE,
    ]


def print_table(results: Sequence[Result]) -> None:
    """Prints the table to stdout, with what its columns mean beneath."""
    rows = groups(results)
    show_table(columns_of(rows), rows)


def show_table(columns: Sequence[Column], rows: Sequence[Group]) -> None:
    """Prints any table so."""
    from rich.console import Console

    width = max(40, shutil.get_terminal_size().columns if sys.stdout.isatty() else 120)
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    console.print(report.terminal(columns, rows, width=width))
    console.print()
    for name, meaning in report.meanings(columns).items():
        console.print(f"{name}: {meaning}", style="dim")


# Curves


def strip(results: Sequence[Result]) -> Strip:
    """What is drawn of an environment: all its algorithms on the same axes."""
    plan = results[0].plan
    title = plan.env if len(results) > 1 else plan.title

    def panel(metric: str, name: str, **axes: Any) -> Panel:
        return Panel(name, "steps (decisions) per seed", [curve(result, metric) for result in results], **axes)

    shared = [panel("reward", "Reward"), panel("kl_old_new", "KL(old‖new) per update, nats / decision", log=True)]
    if not plan.is_token:
        return Strip(title, [*shared, panel("entropy", "Entropy, nats / decision")])
    share = (-0.02, 1.02)
    skip = panel("outcome/skip", "Share that skip the test", limits=share)
    return Strip(title, [*shared, skip, panel("outcome/honest", "Share that pass it honestly", limits=share)])


def curve(result: Result, metric: str) -> Curve:
    """A metric, mean and range over seeds, where there is anything to draw."""
    table = np.array([[np.nan if x is None else x for x in row[metric]] for row in result.rows], float)
    steps = np.array([row["steps"] for row in result.rows], float)
    seen = ~np.isnan(table).all(1)
    steps, table = steps[seen], table[seen]
    over_seeds = (np.nanmean(table, 1), np.nanmin(table, 1), np.nanmax(table, 1)) if seen.any() else (steps,) * 3
    return Curve(result.plan.algorithm, _place(result.plan.algorithm), steps, *over_seeds)


def _place(algorithm: str) -> int:
    """An algorithm's place in the history, which is its style on every page."""
    return list(PRESETS).index(algorithm)


# The page


def facts(arguments: Sequence[str], directory: Path) -> dict[str, str]:
    """What was run, where, on what."""
    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerators = f"{len(devices)} {devices[0].platform} device ({devices[0].device_kind}), "
    installed = versions(*PACKAGES, "brax") | {"Python": platform.python_version()}
    return {
        "Command": shlex.join(["polopt", *arguments]),
        "Directory": str(directory),
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Device": f"{'' if devices[0].platform == 'cpu' else accelerators}{cores} CPU cores",
        "Versions": ", ".join(f"{name} {version or '(not installed)'}" for name, version in installed.items()),
    }


def render(title: str, results: Sequence[Result], what: dict[str, str], *, notes: Sequence[str] = ()) -> str:
    """The page."""
    rows = groups(results)
    columns = columns_of(rows)
    algorithms = dict.fromkeys(result.plan.algorithm for result in results)
    said = [report.prose(name, _recipes.about(name), place=_place(name)) for name in algorithms]
    run = {name: what[name] for name in ("Directory", "Watch", "Device", "Versions", "Date") if name in what}
    table = report.table(columns, rows, mark=lambda summary: _place(summary["algorithm"]))
    sections = [
        Section("Results", [table, report.definitions(report.meanings(columns))]),
        Section("Curves", [_figure(members) for members in by_environment(results)]),
        Section("What was run", [report.code(what["Command"]), report.definitions(run)]),
        Section("Sizes and hyperparameters", [_settings(results)]),
        Section("The algorithms", said),
    ]
    return report.page(title, f"{what['Date']} · {what['Device']}", sections, notes=notes)


def _figure(results: Sequence[Result]) -> Any:
    """The curves of one environment, with their end points in words for those who cannot see them."""
    drawn = strip(results)
    ends = "; ".join(
        f"{result.plan.algorithm} ends at {report.estimate(result.summary.get('reward'))}" for result in results
    )
    panels = ", ".join(panel.title for panel in drawn.panels)
    alt = f"Curves on {results[0].plan.env} against steps: {panels}. Reward: {ends}."
    caption = (
        "Line: mean over seeds. Band: lowest to highest seed. "
        "Reward is that of the episodes that ended since the last point."
    )
    return report.figure(results[0].plan.env, report.svg(drawn, alt=alt), caption)


def _settings(results: Sequence[Result]) -> Any:
    """A line per run: its sizes and hyperparameters, named as the flags are."""

    def flags(values: dict[str, Any]) -> str:
        return report.settings({flag(name)[2:]: value for name, value in values.items() if value is not None})

    columns = [
        Column(("", "algorithm"), lambda result: result.plan.algorithm),
        Column(("", "sizes"), lambda result: flags({name: result.plan.config()[name] for name in SIZES})),
        Column(("", "hyperparameters"), lambda result: flags(result.plan.config()["hyperparameters"])),
    ]
    rows = [Group(members[0].plan.env, members) for members in by_environment(results)]
    return report.listing(columns, rows, mark=lambda result: _place(result.plan.algorithm))
