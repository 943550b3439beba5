"""Maps of characters in colour, for the terminal and for a page, with what the characters mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from polopt_jax.report._pages import _piece

INK = "#101112"
"""Letters, which stand on light colours whatever the page or the terminal."""


class Map(NamedTuple):
    """Rows of characters of one length, with a title."""

    title: str
    rows: Sequence[str]


class Mark(NamedTuple):
    """What a character of a map means, and the colour of its cell."""

    words: str
    """Empty for ground that needs no saying, such as a wall."""
    color: str


def maps(drawn: Sequence[Map], marks: Mapping[str, Mark]) -> Markup:
    """Maps side by side with a legend, as HTML.

    Args:
      drawn: the maps.
      marks: one for each character that stands in them. Characters of the same meaning share a line of the legend.

    Raises:
      ValueError: a map has a character without a mark.

    >>> html = maps([Map("start", ["#A"])], {"#": Mark("", "#606060"), "A": Mark("you", "#00ff00")})
    >>> "you" in html, "#606060" in html
    (True, True)
    """
    _check(drawn, marks)
    cells = [(map_.title, [[(char, marks[char]) for char in row] for row in map_.rows]) for map_ in drawn]
    return _piece("maps", cells, _legend(marks), INK)


def terminal_maps(drawn: Sequence[Map], marks: Mapping[str, Mark], *, width: int) -> Any:
    """The same for a terminal so many columns wide, as something that rich prints; legible without colour too.

    Side by side where there is room; two columns a cell, or one where the map is wide. Raises as `maps`.
    """
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    _check(drawn, marks)

    def style(char: str) -> str:
        mark = marks[char]
        return f"not bold {INK if mark.words else mark.color} on {mark.color}"

    def one(map_: Map) -> Text:
        wide = 2 * max(map(len, map_.rows)) <= width
        text = Text(map_.title, style="bold", no_wrap=True, overflow="crop", end="")
        for row in map_.rows:
            text.append("\n")
            for char in row:
                text.append(char + (" " if marks[char].words else char) * wide, style(char))
        return text

    legend = [
        Text.assemble(*((f"{char} ", style(char)) for char in chars), " ", words, no_wrap=True, overflow="crop")
        for chars, words, _ in _legend(marks)
    ]
    return Group(Columns(map(one, drawn), padding=(0, 4)), "", Columns(legend, padding=(0, 3)))


def _legend(marks: Mapping[str, Mark]) -> list[tuple[str, str, str]]:
    """The characters of each meaning, its words and its colour."""
    chars: dict[Mark, str] = {}
    for char, mark in marks.items():
        if mark.words:
            chars[mark] = chars.get(mark, "") + char
    return [(shown, mark.words, mark.color) for mark, shown in chars.items()]


def _check(drawn: Sequence[Map], marks: Mapping[str, Mark]) -> None:
    unknown = {char for map_ in drawn for row in map_.rows for char in row} - set(marks)
    if unknown:
        raise ValueError(f"marks must have every character of the maps; {''.join(sorted(unknown))!r} are missing")
