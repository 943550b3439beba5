"""A few numbers as dots on a line, where a mean and an interval would say more than is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from polopt_jax.report._numbers import NONE, short

WIDTH, HEIGHT, RADIUS = 120, 16, 3
"""Pixels: the line, its height, a dot."""


def dots(values: Sequence[float | None], low: float, high: float) -> Markup:
    """A dot for each number, and a stroke at their mean, from `low` on the left to `high` on the right.

    A piece of SVG in the colour of the words around it, which a screen reader reads as the numbers. What is not known,
    or not finite, has no dot.

    Raises:
      ValueError: `low` is not below `high`, or not both are finite.

    >>> "cx=\\"60.0\\"" in dots([1.0, 2.0, 3.0], 1.0, 3.0), str(dots([None], 0.0, 1.0))
    (True, '-')
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"dots needs low < high, both finite; they are {low} and {high}")
    known = [x for x in values if x is not None and math.isfinite(x)]
    if not known:
        return Markup(NONE)

    def place(x: float) -> str:
        share = min(max((x - low) / (high - low), 0.0), 1.0)
        return f"{RADIUS + share * (WIDTH - 2 * RADIUS):.1f}"

    middle = place(math.fsum(known) / len(known))
    circles = Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="{}" fill-opacity="0.55"/>').format(place(x), HEIGHT // 2, RADIUS)
        for x in known
    )
    return Markup(
        '<svg role="img" aria-label="{}" width="{}" height="{}" fill="currentColor">'
        '<path d="M{} 1v{}" stroke="currentColor" stroke-width="1.5"/>{}</svg>'
    ).format(", ".join(map(short, known)), WIDTH, HEIGHT, middle, HEIGHT - 2, circles)
