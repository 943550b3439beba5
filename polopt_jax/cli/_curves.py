"""Curves: a row per environment, all its algorithms on the same axes; as a PNG, and as SVG for the report."""

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from polopt_jax.cli._metrics import Result
from polopt_jax.cli._table import groups

STYLES = {
    "reinforce": ("#7f7f7f", "o"),
    "actor_critic": ("#56b4e9", "v"),
    "npg": ("#e69f00", "^"),
    "trpo": ("#d55e00", "s"),
    "ppo": ("#0072b2", "D"),
    "dpo": ("#cc79a7", "P"),
    "grpo": ("#009e73", "X"),
}
"""Colour and marker of each algorithm: Okabe and Ito's colours, which the colour-blind tell apart."""
INK, FAINT = "#101112", "#909192"
"""The SVG's text and grid. The report gives them the page's own colours."""


class Panel(NamedTuple):
    """One pair of axes."""

    metric: str
    title: str
    log: bool
    limits: tuple[float, float] | None = None


def panels(result: Result) -> list[Panel]:
    """What is drawn of an environment."""
    shared = [
        Panel("reward", "Reward", log=False),
        Panel("kl_old_new", "KL(old‖new) per update, nats / decision", log=True),
    ]
    if not result.plan.is_token:
        return [*shared, Panel("entropy", "Entropy, nats / decision", log=False)]
    skip = Panel("outcome/skip", "Share that skip the test", log=False, limits=(-0.02, 1.02))
    return [*shared, skip, skip._replace(metric="outcome/honest", title="Share that pass it honestly")]


def curve(result: Result, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`(steps, mean, lowest, highest)` over seeds, where there is anything to draw."""
    table = np.array([[np.nan if x is None else x for x in row[metric]] for row in result.rows], float)
    steps = np.array([row["steps"] for row in result.rows], float)
    seen = ~np.isnan(table).all(1)
    steps, table = steps[seen], table[seen]
    if not seen.any():
        return steps, steps, steps, steps
    return steps, np.nanmean(table, 1), np.nanmin(table, 1), np.nanmax(table, 1)


def _draw(axes: Any, panel: Panel, results: Sequence[Result]) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    for number, result in enumerate(results):
        color, marker = STYLES[result.plan.algorithm]
        steps, mean, low, high = curve(result, panel.metric)
        if panel.log:
            mean, low, high = (np.where(x > 0, x, np.nan) for x in (mean, low, high))
        every = max(1, len(steps) // 5)
        style = dict(color=color, marker=marker, markersize=4.5, markevery=(number % every, every), linewidth=1.7)
        axes.plot(steps, mean, label=result.plan.algorithm, **style)
        axes.fill_between(steps, low, high, color=color, alpha=0.16, linewidth=0)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel("environment steps per seed", fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    if panel.log and any((curve(result, panel.metric)[1] > 0).any() for result in results):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y >= 1e-4 else f"{y:.0e}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    axes.grid(visible=True, which="major", color=FAINT, alpha=0.35, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _figure(groups: Sequence[Sequence[Result]], *, titles: Sequence[str], lines: int, width: float) -> Any:
    """A figure with a strip of panels, over so many lines, and a legend for each group of results."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, (3.1 * lines + 0.6) * len(groups)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    strips = np.atleast_1d(figure.subfigures(len(groups), 1, hspace=0.05))
    for strip, results, title in zip(strips, groups, titles, strict=True):
        drawn = panels(results[0])
        axes = np.atleast_1d(strip.subplots(lines, len(drawn) // lines)).ravel()
        for ax, panel in zip(axes, drawn, strict=True):
            _draw(ax, panel, results)
        if title:
            strip.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        handles, labels = axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            strip.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _save(draw: Callable[[], Any], kind: str, **settings: Any) -> bytes:
    import matplotlib as mpl

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    style: Any = {**mpl.rcParamsDefault, "backend": "Agg", **ink, **settings}
    with mpl.rc_context(style):
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        draw().savefig(buffer, format=kind, dpi=130, metadata=metadata, transparent=kind == "svg")
        return buffer.getvalue()


def png(results: Sequence[Result]) -> bytes:
    """All environments in one picture."""
    rows = [[results[i] for i in indices] for indices in groups(results).values()]
    titles = [row[0].plan.env if len(row) > 1 else f"{row[0].plan.algorithm} on {row[0].plan.env}" for row in rows]
    width = 4.2 * max(len(panels(row[0])) for row in rows)
    return _save(lambda: _figure(rows, titles=titles, lines=1, width=width), "png")


def svg(results: Sequence[Result], alt: str) -> str:
    """One environment as an `<svg>` element that takes the colours of the page around it and names nothing outside."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": results[0].plan.env, "font.sans-serif": ["DejaVu Sans"]}
    lines = 2 if len(panels(results[0])) == 4 else 1
    draw = lambda: _figure([results], titles=[""], lines=lines, width=10.8)  # noqa: E731
    raw = _save(draw, "svg", **settings).decode()
    raw = raw[raw.index("<svg") :]
    raw = re.sub(r"<metadata>.*?</metadata>", "", raw, flags=re.DOTALL)
    raw = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", raw)
    opening = re.compile(r'<svg[^>]*viewBox="([^"]*)"[^>]*>')
    raw = opening.sub(lambda m: f'<svg viewBox="{m[1]}" role="img" aria-label="{html.escape(alt)}">', raw, count=1)
    return raw.replace(INK, "currentColor").replace(FAINT, "currentColor")
