"""report.html: what was run and what came of it, in one file that needs nothing else and opens offline."""

import datetime
import html
import importlib.metadata
import inspect
import os
import platform
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from polopt_jax import __version__
from polopt_jax.cli import _curves, _format, _table
from polopt_jax.cli._hyperparameters import flag, recipe
from polopt_jax.cli._metrics import Result

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --paper: #ffffff; --line: #d9dee5; --tint: #f4f6f9;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --paper: #14171c; --line: #313843;
  --tint: #1c2128; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3em; }
h2 { font-size: 1.25rem; margin: 2.2em 0 .6em; padding-bottom: .25em; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6em 0 .3em; }
p { max-width: 75ch; } p.lead { color: var(--soft); margin-top: 0; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; font-size: .88em; }
pre { background: var(--tint);
  border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; overflow-x: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; vertical-align: bottom; }
tr.group th { text-align: left; background: var(--tint); font-size: .95rem; }
table.wrap td { text-align: left; vertical-align: top; } table.wrap td:nth-child(n+3) { white-space: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35em 1.4em; margin: 1em 0; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); max-width: 75ch; }
figure { margin: 1.2em 0 2em; } figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5em; }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .55em; }
.whole { white-space: nowrap; }
.note { border-left: 3px solid var(--accent); padding-left: 12px; color: var(--soft); }
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def text(value: Any) -> str:
    """A value as HTML text or as the content of an attribute."""
    return html.escape(str(value), quote=True)


def facts(arguments: Sequence[str], directory: Path) -> dict[str, str]:
    """What was run, where, on what."""

    def version(package: str) -> str:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            return f"{package} (not installed)"

    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "Command": shlex.join(["polopt", *arguments]),
        "Directory": str(directory),
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Device": f"{len(devices)} {devices[0].platform} device ({devices[0].device_kind}), {cores} CPU cores"
        if devices[0].platform != "cpu"
        else f"{cores} CPU cores",
        "Versions": ", ".join(
            [
                f"polopt-jax {__version__}",
                *map(version, ("jax", "optax", "flax", "brax")),
                f"Python {platform.python_version()}",
            ]
        ),
    }


def render(title: str, results: Sequence[Result], what: dict[str, str], *, notes: Sequence[str] = ()) -> str:
    """The page."""
    parts = [
        f"<h1>{text(title)}</h1>",
        f'<p class="lead">{text(what["Date"])} · {text(what["Device"])}</p>',
        *(f'<p class="note">{text(note)}</p>' for note in notes),
        "<h2>Results</h2>",
        _results(results),
        "<h2>Curves</h2>",
        *(_figure([results[i] for i in indices]) for indices in _table.groups(results).values()),
        "<h2>What was run</h2>",
        f"<pre>{text(what['Command'])}</pre>",
        _definitions({name: what[name] for name in ("Directory", "Device", "Versions", "Date")}),
        "<h2>Sizes and hyperparameters</h2>",
        _hyperparameters(results),
        "<h2>The algorithms</h2>",
        *(_about(result) for result in {result.plan.algorithm: result for result in results}.values()),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _swatch(algorithm: str) -> str:
    return f'<span class="swatch" style="background:{_curves.STYLES[algorithm][0]}"></span>'


def _results(results: Sequence[Result]) -> str:
    columns, rows = _table.cells(results)
    head = "".join(f'<th scope="col">{text(_table.full_name(column))}</th>' for column in columns)
    body = []
    for indices in _table.groups(results).values():
        title = _table.group_title(results[indices[0]])
        body.append(f'<tr class="group"><th colspan="{len(columns)}" scope="colgroup">{text(title)}</th></tr>')
        for i in indices:
            first, *rest = rows[i]
            cells = "".join(f"<td>{text(cell)}</td>" for cell in rest)
            body.append(f"<tr><td>{_swatch(results[i].plan.algorithm)}{text(first)}</td>{cells}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>{_definitions(_table.meanings(results))}'


def _definitions(entries: dict[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in entries.items())}</dl>"


def _figure(results: Sequence[Result]) -> str:
    """The curves of one environment, with their end points in words for those who cannot see them."""
    plan = results[0].plan
    ends = "; ".join(
        f"{result.plan.algorithm} ends at {_format.reward(result.summary.get('reward'))}" for result in results
    )
    drawn = ", ".join(panel.title for panel in _curves.panels(results[0]))
    alt = f"Curves on {plan.env} against environment steps: {drawn}. Reward: {ends}."
    caption = (
        "Line: mean over seeds. Band: lowest to highest seed. "
        "Reward is that of the episodes that ended since the last point."
    )
    return (
        f"<figure><h3>{text(plan.env)}</h3>{_curves.svg(results, alt) if all(r.rows for r in results) else ''}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _hyperparameters(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        config = result.plan.config()
        sizes = {
            name: config[name] for name in ("num_envs", "rollout_steps", "group_size", "episode_length", "updates")
        }
        given = _settings({name: value for name, value in sizes.items() if value is not None})
        values = _settings(config["hyperparameters"])
        rows.append(
            f"<tr><td>{_swatch(result.plan.algorithm)}{text(result.plan.algorithm)}</td><td>{text(result.plan.env)}</td>"
            f"<td>{given}</td><td>{values}</td></tr>"
        )
    head = "".join(
        f'<th scope="col" style="text-align:left">{name}</th>'
        for name in ("algorithm", "environment", "sizes", "hyperparameters")
    )
    table = f'<table class="wrap"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _settings(values: dict[str, Any]) -> str:
    """Names, as the flags have them, with their values; no line breaks within one."""
    return ", ".join(
        f'<span class="whole">{text(flag(name)[2:])} {text(value)}</span>' for name, value in values.items()
    )


def _about(result: Result) -> str:
    """What the recipe says of itself: its method, how it differs from the paper, the source."""
    name = result.plan.algorithm
    paragraphs = (inspect.getdoc(recipe(name)) or "").split("\n\n")
    marked = [re.sub(r"`([^`]+)`", r"<code>\1</code>", text(paragraph)) for paragraph in paragraphs]
    return f"<h3>{_swatch(name)}{text(name)}</h3>" + "".join(f"<p>{paragraph}</p>" for paragraph in marked)
