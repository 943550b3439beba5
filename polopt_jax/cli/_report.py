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

from polopt_jax import report
from polopt_jax.cli import _recipes
from polopt_jax.cli._build import Reference
from polopt_jax.cli._names import flag
from polopt_jax.cli._plan import versions
from polopt_jax.cli._presets import PRESETS
from polopt_jax.cli._results import Result, by_environment, columns_of, groups
from polopt_jax.cli._run_directory import to_json, write
from polopt_jax.report import Column, Curve, Group, Panel, Section, Strip

SIZES = ("num_envs", "rollout_steps", "group_size", "episode_length", "updates")


def about_reference(reference: Reference) -> str:
    """How good the token world's reference policy is."""
    kl = report.short(float(reference.kl))
    return f"The token world starts from a transformer that imitates its language: KL(language‖it) {kl} nats per token."


def write_files(
    directory: Path, title: str, results: Sequence[Result], arguments: Sequence[str], notes: Sequence[str]
) -> None:
    """Writes the files. summary.json comes last: where it says finished, everything is there."""
    what = facts(arguments, directory)
    shown = [result for result in results if result.rows]
    if shown:
        write(directory / "curves.png", report.png([strip(members) for members in _environments(shown)]))
        write(directory / "report.html", render(title, shown, what, notes=notes))
    summary = {"run": what, "notes": list(notes), "results": [result.summary for result in results]}
    write(directory / "summary.json", to_json(summary, indent=2) + "\n")


def print_result(directory: Path, results: Sequence[Result], notes: Sequence[str], *, json: bool) -> None:
    """Prints the table, or the summaries as JSON, and where the files are."""
    shown = [result for result in results if result.rows]
    if json:
        print(to_json({"directory": str(directory), "results": [r.summary for r in shown]}, indent=2))
        return
    if not shown:
        return
    print()
    print_table(shown)
    print()
    for note in notes:
        print(note)
    names = ("report.html", "curves.png", "metrics.jsonl", "summary.json")
    print(f"Report: {directory / names[0]}")
    print(f"Also in {directory}/: {', '.join(names[1:])}")


def print_table(results: Sequence[Result]) -> None:
    """Prints the table to stdout, with what its columns mean beneath."""
    from rich.console import Console

    width = max(40, shutil.get_terminal_size().columns if sys.stdout.isatty() else 120)
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    rows = groups(results)
    columns = columns_of(rows)
    console.print(report.terminal(columns, rows, width=width))
    console.print()
    for name, meaning in report.meanings(columns).items():
        console.print(f"{name}: {meaning}", style="dim")


# Curves


def strip(results: Sequence[Result]) -> Strip:
    """What is drawn of an environment: all its algorithms on the same axes."""
    plan = results[0].plan
    title = plan.env if len(results) > 1 else f"{plan.algorithm} on {plan.env}"

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


def _environments(results: Sequence[Result]) -> list[list[Result]]:
    return list(by_environment(results).values())


# The page


def facts(arguments: Sequence[str], directory: Path) -> dict[str, str]:
    """What was run, where, on what."""
    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerators = f"{len(devices)} {devices[0].platform} device ({devices[0].device_kind}), "
    installed = versions("jax", "jaxlib", "flax", "optax", "brax") | {"Python": platform.python_version()}
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
    run = {name: what[name] for name in ("Directory", "Device", "Versions", "Date")}
    mark = lambda summary: _place(summary["algorithm"])  # noqa: E731
    table = report.table(columns, rows, mark=mark)
    sections = [
        Section("Results", [table, report.definitions(report.meanings(columns))]),
        Section("Curves", [_figure(members) for members in _environments(results)]),
        Section("What was run", [report.code(what["Command"]), report.definitions(run)]),
        Section("Sizes and hyperparameters", [_settings(results)]),
        Section("The algorithms", [_about(algorithm) for algorithm in algorithms]),
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
    rows = [Group(members[0].plan.env, members) for members in _environments(results)]
    return report.listing(columns, rows, mark=lambda result: _place(result.plan.algorithm))


def _about(algorithm: str) -> Any:
    """What the recipe says of itself: its method, how it differs from the paper, the source."""
    return report.prose(algorithm, _recipes.about(algorithm), place=_place(algorithm))
