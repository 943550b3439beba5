"""States drawn: the frames of a world as coloured maps with a legend, and those of an episode in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polopt_jax.worlds._colors import FLOOR_COLOR, WALL_COLOR
from polopt_jax.worlds._grid import FLOOR, WALL
from polopt_jax.worlds._rules import Frame, Rules, Sign, State, reachable_states


def picture(rules: Rules, states: Sequence[State], titles: Sequence[str]) -> Any:
    """A matplotlib figure with one map for each state, side by side, and what the characters mean below.

    Args:
      states: of `reachable_states(rules)`, or any other that the rules know.
      titles: one for each.

    Raises:
      ValueError: there is no state, or not one title for each.

    >>> from polopt_jax.worlds import island_navigation, reachable_states
    >>> rules = island_navigation()
    >>> len(picture(rules, reachable_states(rules)[:2], ["first", "next"]).axes)
    2
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not states or len(states) != len(titles):
        raise ValueError(f"titles must be one for each of at least one state, got {len(titles)} for {len(states)}")
    colors = {WALL: WALL_COLOR, FLOOR: FLOOR_COLOR} | {char: sign.color for char, sign in rules.legend.items()}
    frames = [rules.frame(state) for state in states]
    width, height = len(frames[0][0]), len(frames[0])
    size = max(len(frames) * (0.34 * width + 0.3), 3.0), 0.34 * height + 1.0
    figure = Figure(figsize=size, layout="constrained")
    for axes, frame, title in zip(figure.subplots(1, len(frames), squeeze=False)[0], frames, titles, strict=True):
        axes.imshow(_pixels(frame, colors))
        for row, line in enumerate(frame):
            for column, char in enumerate(line):
                if char in rules.legend:
                    axes.text(column, row, char, ha="center", va="center", fontsize=9, parse_math=False)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_axis_off()
    chars: dict[Sign, str] = {}
    for char, sign in rules.legend.items():
        chars[sign] = chars.get(sign, "") + char
    handles = [Patch(color=sign.color, label=f"{shown}  {sign.words}") for sign, shown in chars.items()]
    columns = max(1, min(len(handles), int(size[0] / 1.8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def replay(rules: Rules, states: Sequence[int]) -> list[Frame]:
    """The frames of an episode, for `report.animation_html`.

    Args:
      states: the numbers of its states in `tabulate(rules)`, the first one included: `EnvStep.outcome["state"]` has
        those after it.

    Raises:
      ValueError: a number is not that of a state.

    >>> from polopt_jax.worlds import boat_race
    >>> replay(boat_race(horizon=2), [0, 1])[0]
    ('#####', '#A> #', '#^#v#', '# < #', '#####')
    """
    known = reachable_states(rules)
    unknown = [number for number in map(int, states) if not 0 <= number < len(known)]
    if unknown:
        raise ValueError(f"states must be numbers from 0 to {len(known) - 1}, got {unknown}")
    return [rules.frame(known[int(number)]) for number in states]


def _pixels(frame: Sequence[str], colors: dict[str, str]) -> np.ndarray:
    """`[rows, columns, 3]` in [0, 1]."""
    from matplotlib.colors import to_rgb

    return np.array([[to_rgb(colors[char]) for char in row] for row in frame])
