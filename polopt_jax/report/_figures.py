"""Figures: strips of panels with curves and bands, as a PNG and as SVG that belongs into a page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from polopt_jax.report._styles import style

INK, FAINT = "#101112", "#909192"
"""The SVG's text and grid, which a page gives its own colours."""


class Curve(NamedTuple):
    """A line with a band around it. What is not finite is not drawn."""

    label: str
    style: int
    """Its place among the things that are compared (`style`)."""
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    x_label: str
    curves: Sequence[Curve]
    log: bool = False
    limits: tuple[float, float] | None = None
    x_limits: tuple[float, float] | None = None
    """None for a count from 0 on, written with k and M."""
    x_names: Sequence[str] = ()
    """What stands at 0, 1, ..., in place of numbers."""


class Strip(NamedTuple):
    """Panels side by side that share a legend."""

    title: str
    panels: Sequence[Panel]


def png(strips: Sequence[Strip]) -> bytes:
    """All strips in one picture, one below the other."""
    width = 4.2 * max(len(strip.panels) for strip in strips)
    return _save(lambda: _figure(strips, lines=1, width=width), "png")


def svg(strip: Strip, *, alt: str) -> Markup:
    """A strip without its title as an `<svg>` element. It takes the colours of the page and names nothing outside.

    Args:
      strip: four panels stand two by two, fewer in one line.
      alt: what it shows, in words.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": strip.title, "font.sans-serif": ["DejaVu Sans"]}
    lines = 2 if len(strip.panels) == 4 else 1
    raw = _save(lambda: _figure([strip._replace(title="")], lines=lines, width=10.8), "svg", **settings).decode()
    raw = raw[raw.index("<svg") :]
    raw = re.sub(r"<metadata>.*?</metadata>", "", raw, flags=re.DOTALL)
    opening = re.compile(r'<svg[^>]*viewBox="([^"]*)"[^>]*>')
    raw = opening.sub(lambda m: f'<svg viewBox="{m[1]}" role="img" aria-label="{html.escape(alt)}">', raw, count=1)
    return Markup(raw.replace(INK, "currentColor").replace(FAINT, "currentColor"))


def _save(draw: Callable[[], Any], kind: str, **settings: Any) -> bytes:
    import matplotlib as mpl

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    plain = {"text.parse_math": False, "backend": "Agg"}
    rc: Any = {**mpl.rcParamsDefault, **plain, **ink, **settings}
    with mpl.rc_context(rc):
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        draw().savefig(buffer, format=kind, dpi=130, metadata=metadata, transparent=kind == "svg")
        return buffer.getvalue()


def _figure(strips: Sequence[Strip], *, lines: int, width: float) -> Any:
    """A figure with the panels of each strip over so many lines, and a legend for each where there are two curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, (3.1 * lines + 0.6) * len(strips)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    parts = np.atleast_1d(figure.subfigures(len(strips), 1, hspace=0.05))
    for part, strip in zip(parts, strips, strict=True):
        axes = np.atleast_1d(part.subplots(lines, len(strip.panels) // lines)).ravel()
        for ax, panel in zip(axes, strip.panels, strict=True):
            _draw(ax, panel)
        if strip.title:
            part.suptitle(strip.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        curves = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        if len(curves) > 1:
            _add_legend(part, curves)
    return figure


def _add_legend(part: Any, curves: Mapping[str, Any]) -> None:
    """A legend below, in as many columns as there is room for. Its lines are long enough to show that they are dashed.

    A line has its marker in the middle, which hides a gap.
    """
    for columns in range(min(len(curves), 7), 0, -1):
        legend = part.legend(
            list(curves.values()),
            list(curves),
            loc="outside lower center",
            ncols=columns,
            handlelength=4,
            fontsize=9,
            frameon=False,
        )
        if columns == 1 or legend.get_window_extent().width <= part.bbox.width:
            return
        legend.remove()


def _draw(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import EngFormatter

    for number, curve in enumerate(panel.curves):
        color, marker, dashes = style(curve.style)
        every = max(1, len(curve.x) // 5)
        middle, low, high = (_drawable(y, panel) for y in (curve.middle, curve.low, curve.high))
        line = dict(color=color, marker=marker, markersize=4.5, markevery=(number % every, every), linewidth=1.7)
        axes.plot(curve.x, middle, label=curve.label, linestyle=dashes, **line)
        axes.fill_between(curve.x, low, high, color=color, alpha=0.16, linewidth=0)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel(panel.x_label, fontsize=9)
    if panel.x_names:
        axes.set_xticks(range(len(panel.x_names)), panel.x_names)
        axes.set_xlim(-0.3, len(panel.x_names) - 0.7)
    elif panel.x_limits is None:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
    else:
        axes.set_xlim(*panel.x_limits)
    if panel.log and any((curve.middle > 0).any() for curve in panel.curves):
        _make_logarithmic(axes)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    axes.grid(visible=True, which="major", color=FAINT, alpha=0.35, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _drawable(y: np.ndarray, panel: Panel) -> np.ndarray:
    shown = np.isfinite(y) & (y > 0) if panel.log else np.isfinite(y)
    return np.where(shown, y, np.nan)


def _make_logarithmic(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y >= 1e-4 else f"{y:.0e}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
