"""How things that are compared are told apart: by their place in a list."""

from __future__ import annotations

from typing import Any, NamedTuple

COLORS = ("#7f7f7f", "#56b4e9", "#e69f00", "#d55e00", "#0072b2", "#cc79a7", "#009e73")
"""Grey, and Okabe and Ito's colours that show on white and on black: the colour-blind tell them apart."""
MARKERS = ("o", "v", "^", "s", "D", "P", "X", "*", "<", ">")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)))


class Style(NamedTuple):
    """Colour, marker and line of one of several things."""

    color: str
    marker: str
    dashes: Any
    """A line style of matplotlib."""


def style(place: int) -> Style:
    """The style of the thing at `place`, 0, 1, ...; the first 21 differ in colour or dashes.

    >>> style(0).color, style(7) == style(0), style(7).color == style(0).color
    ('#7f7f7f', False, True)
    """
    round_ = place // len(COLORS)
    return Style(COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)], DASHES[round_ % len(DASHES)])
