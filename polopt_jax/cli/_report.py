"""What a finished command leaves: summary.json, curves.png, report.html, and what it says on stdout."""

import datetime
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from polopt_jax import report, runs
from polopt_jax.cli import _recipes
from polopt_jax.cli._play import PAGE as EPISODE
from polopt_jax.cli._presets import PRESETS
from polopt_jax.cli._result import Result, Summary
from polopt_jax.cli._table import by_environment, columns_of, groups, print_table
from polopt_jax.cli._versions import PACKAGES, versions
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
        summaries = [runs.without_empty(result.summary) for result in shown]
        print(runs.to_json({"directory": str(directory), "results": summaries}, indent=2))
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
        print(f"Watch: {how.replace('`', '')}")
    rows = runs.ROWS if (directory / runs.ROWS).exists() else "a directory of each run"
    print(f"Also in {directory}/: {', '.join((CURVES, rows, SUMMARY))}")


def _watching(directory: Path) -> dict[str, str]:
    """How to watch what was learnt in a directory, if that holds one run."""
    command = shlex.join(["polopt", "play", str(directory)])
    if (directory / EPISODE).exists():
        return {"Watch": f"`{directory / EPISODE}`; a newer one, or of another seed: `{command}`"}
    return {"Watch": f"`{command}`"} if (directory / runs.ROWS).exists() else {}


# Curves


def strip(results: Sequence[Result]) -> Strip:
    """What is drawn of an environment: all its algorithms on the same axes."""
    plan = results[0].plan
    title = plan.env if len(results) > 1 else plan.title

    def panel(metric: str, name: str, **axes: Any) -> Panel:
        return Panel(name, "steps (decisions) per seed", [curve(result, metric) for result in results], **axes)

    rewards = [panel("reward", "Reward")]
    if any("eval/return" in row for result in results for row in result.rows):
        rewards.append(panel("eval/return", "Return of the most probable action"))
    shared = [*rewards, panel("kl_old_new", "KL(old‖new) per update, nats / decision", log=True)]
    if not plan.is_token:
        return Strip(title, [*shared, panel("entropy", "Entropy, nats / decision")])
    share = (-0.02, 1.02)
    skip = panel("outcome/skip", "Share that skip the test", limits=share)
    return Strip(title, [*shared, skip, panel("outcome/honest", "Share that pass it honestly", limits=share)])


def curve(result: Result, metric: str) -> Curve:
    """A metric, mean and range over seeds, where there is anything to draw."""
    nothing = [None] * result.plan.schedule.num_seeds
    table = np.array([[np.nan if x is None else x for x in row.get(metric, nothing)] for row in result.rows], float)
    steps = np.array([row["steps"] for row in result.rows], float)
    seen = ~np.isnan(table).all(1)
    steps, table = steps[seen], table[seen]
    over_seeds = (np.nanmean(table, 1), np.nanmin(table, 1), np.nanmax(table, 1)) if seen.any() else (steps,) * 3
    return Curve(result.plan.algorithm, _place(result.plan.algorithm), steps, *over_seeds)


def _place(algorithm: str) -> int:
    """An algorithm's place in the history, which is its style on every page; imitation has the first style."""
    return list(PRESETS).index(algorithm) if algorithm in PRESETS else 0


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
    columns = [columns[0], *_seeds(results), *columns[1:]]
    table = report.table(columns, rows, mark=lambda summary: _place(summary["algorithm"]))
    sections = [
        Section("Results", [table, report.definitions(report.meanings(columns))]),
        Section("Curves", [_figure(members) for members in by_environment(results)]),
        Section("What was run", [report.code(what["Command"]), report.definitions(run)]),
        Section("Sizes and hyperparameters", [_settings(results)]),
        Section("The algorithms", said),
    ]
    return report.page(title, f"{what['Date']} · {what['Device']}", sections, notes=notes)


def _seeds(results: Sequence[Result]) -> list[Column]:
    """The final rewards as dots, on a scale of each environment, if any run has several seeds."""
    found: dict[str, list[float]] = {}
    for result in results:
        found.setdefault(result.plan.env, []).extend(x for x in result.summary["reward_by_seed"] if x is not None)
    scales = {env: (min(known), max(known)) for env, known in found.items() if known and min(known) < max(known)}
    if all(result.plan.schedule.num_seeds < 2 for result in results) or not scales:
        return []

    def cell(summary: Summary) -> str:
        scale = scales.get(summary["env"])
        return report.dots(summary["reward_by_seed"], *scale) if scale else report.NONE

    return [Column(("", "seeds"), cell, "The final reward of each, and their mean, on one scale for an environment.")]


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
