"""Tables: one description of the columns, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from polopt_jax.report._numbers import NONE


class Column(NamedTuple):
    """A column: its name over two lines, how a row fills it, and what it says."""

    name: tuple[str, str]
    cell: Callable[[Any], str]
    """`row -> text`; `NONE` where the row says nothing."""
    meaning: str = ""


class Group(NamedTuple):
    """Rows that have something in common."""

    title: str
    rows: Sequence[Any]


def full_name(column: Column) -> str:
    """The column's name in one line.

    >>> full_name(Column(("CG", "residual"), str)), full_name(Column(("skip/", "honest"), str))
    ('CG residual', 'skip/honest')
    """
    return " ".join(column.name).strip().replace("/ ", "/").replace(" /", "/")


def informative(columns: Sequence[Column], groups: Sequence[Group]) -> list[Column]:
    """The columns that say something about any of the rows."""
    return [c for c in columns if any(c.cell(row) != NONE for group in groups for row in group.rows)]


def meanings(columns: Sequence[Column]) -> dict[str, str]:
    """What the columns say, by name; those that need no saying are left out."""
    return {full_name(column): column.meaning for column in columns if column.meaning}


def terminal(columns: Sequence[Column], groups: Sequence[Group], *, width: int) -> Any:
    """The table for a terminal so many columns wide, as something that rich prints; what does not fit is cut off.

    First column to the left, the others to the right, two spaces between them where there is room and else one.
    """
    from rich.console import Group as Lines
    from rich.text import Text

    cells = [[[column.cell(row) for column in columns] for row in group.rows] for group in groups]
    widths = [
        max(len(text) for text in (*column.name, *(row[i] for rows in cells for row in rows)))
        for i, column in enumerate(columns)
    ]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1

    def line(texts: Sequence[str], style: str = "") -> Text:
        placed = [text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(texts, widths, strict=True))]
        return Text((" " * gap).join(placed), style=style, no_wrap=True, overflow="crop")

    lines = [line([column.name[level] for column in columns], "bold") for level in (0, 1)]
    for group, rows in zip(groups, cells, strict=True):
        lines.append(Text(group.title, style="bold cyan", no_wrap=True, overflow="crop"))
        lines += [line(row) for row in rows]
    return Lines(*lines)
