"""Pages: one HTML file that needs nothing else and opens offline. Everything put into it is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from polopt_jax.report._styles import COLORS, style
from polopt_jax.report._tables import Column, Group, full_name

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""A page's Content-Security-Policy: no scripts, nothing loaded."""


class Section(NamedTuple):
    """A heading and what stands under it: pieces that the functions below made."""

    title: str
    pieces: Sequence[Markup]


def page(
    title: str, lead: str, sections: Sequence[Section], *, notes: Sequence[str] = (), script: Markup | None = None
) -> str:
    """The whole file: a title, a line below it, notes, sections.

    `script` is the only one that the page may run, whatever else is in it: its digest stands in the policy.
    """
    policy = POLICY
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"{POLICY}; script-src 'sha256-{digest}'"
    template = _templates().get_template("page.html")
    return template.render(title=title, lead=lead, notes=notes, sections=sections, policy=policy, script=script)


def table(columns: Sequence[Column], groups: Sequence[Group], *, mark: Callable[[Any], int] | None = None) -> Markup:
    """A table of figures, with a line above each group that has a title.

    `mark` gives a row's place among the things that are compared (`style`), which colours it.
    """
    return _table("figures", columns, groups, mark)


def listing(columns: Sequence[Column], groups: Sequence[Group], *, mark: Callable[[Any], int] | None = None) -> Markup:
    """The same with cells of words, which stand to the left and may take several lines."""
    return _table("words", columns, groups, mark)


def definitions(entries: Mapping[str, str]) -> Markup:
    """Names and what they mean."""
    return _piece("definitions", {name: _text(meaning) for name, meaning in entries.items()})


def code(text: str) -> Markup:
    """Text as it was typed."""
    return _piece("code", text)


def figure(title: str, drawing: Markup, caption: str) -> Markup:
    """A drawing of `svg` with a title above it and words below."""
    return _piece("figure", title, drawing, caption)


def prose(title: str, paragraphs: Sequence[str], *, place: int | None = None) -> Markup:
    """Paragraphs, in which what stands between backticks is code, under a title in the colour of its `place`."""
    return _piece("prose", title, [_text(paragraph) for paragraph in paragraphs], _swatch(place))


def settings(values: Mapping[str, Any]) -> Markup:
    """Names with their values, which no line break parts. For a cell of a `listing`."""
    return _piece("settings", values)


def _table(kind: str, columns: Sequence[Column], groups: Sequence[Group], mark: Callable[[Any], int] | None) -> Markup:
    shown = [
        (group.title, [(_swatch(mark and mark(row)), [c.cell(row) for c in columns]) for row in group.rows])
        for group in groups
    ]
    return _piece("table", kind, [full_name(column) for column in columns], shown)


def _swatch(place: int | None) -> Markup:
    """A patch of colour; hollow from the second round of colours on, as the lines are dashed."""
    if place is None:
        return Markup()
    return _piece("swatch", style(place).color, "filled" if place < len(COLORS) else "hollow")


def _text(paragraph: str) -> Markup:
    """Escaped, and what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(paragraph))))


def _piece(name: str, *arguments: Any) -> Markup:
    """What one of the macros of pieces.html makes of its arguments."""
    return getattr(_templates().get_template("pieces.html").module, name)(*arguments)


@functools.cache
def _templates() -> Any:
    """The templates beside this file, with every value escaped that is not already HTML."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("polopt_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
