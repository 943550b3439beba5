"""Maps of characters: where things are, moves over them, boxes pushed over them, and how a state is drawn on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from polopt_jax.worlds._rules import Frame

Cell: TypeAlias = tuple[int, int]
"""Row and column, counted from the top left."""

DIRECTIONS: dict[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
WALL, FLOOR = "#", " "


def find(grid: Frame, char: str) -> tuple[Cell, ...]:
    """The cells that show `char`, row by row.

    >>> find(("#A#", "#  "), "#")
    ((0, 0), (0, 2), (1, 0))
    """
    return tuple((r, c) for r, row in enumerate(grid) for c, here in enumerate(row) if here == char)


def look(grid: Frame, cell: Cell) -> str:
    """The character at `cell`; outside the map there is wall.

    >>> look(("A ",), (0, 0)), look(("A ",), (0, -1))
    ('A', '#')
    """
    row, column = cell
    inside = 0 <= row < len(grid) and 0 <= column < len(grid[row])
    return grid[row][column] if inside else WALL


def neighbour(cell: Cell, action: str) -> Cell:
    """The next cell in the direction that `action` names; the same one for an action that is no direction.

    >>> neighbour((2, 2), "up"), neighbour((2, 2), "wait")
    ((1, 2), (2, 2))
    """
    down, right = DIRECTIONS.get(action, (0, 0))
    return cell[0] + down, cell[1] + right


def walk(grid: Frame, cell: Cell, action: str) -> Cell:
    """Where a move from `cell` leads: walls stop it.

    >>> walk(("#A #",), (0, 1), "right"), walk(("#A #",), (0, 1), "left")
    ((0, 2), (0, 1))
    """
    ahead = neighbour(cell, action)
    return cell if look(grid, ahead) == WALL else ahead


def push(grid: Frame, cell: Cell, boxes: frozenset[Cell], action: str) -> tuple[Cell, frozenset[Cell]]:
    """A move from `cell` that pushes the box ahead of it, one at a time; walls and boxes stop a box.

    >>> push(("#AX #",), (0, 1), frozenset({(0, 2)}), "right")
    ((0, 2), frozenset({(0, 3)}))
    """
    ahead = walk(grid, cell, action)
    if ahead not in boxes:
        return ahead, boxes
    beyond = walk(grid, ahead, action)
    if beyond in boxes:  # another box, or this one, which a wall keeps in its place
        return cell, boxes
    return ahead, boxes - {ahead} | {beyond}


def without(grid: Frame, chars: str) -> Frame:
    """The map with floor where it shows any of `chars`: what moves is drawn by `draw`.

    >>> without(("#AX #",), "AX")
    ('#   #',)
    """
    return tuple("".join(FLOOR if here in chars else here for here in row) for row in grid)


def draw(grid: Frame, *layers: tuple[str, Iterable[Cell]]) -> Frame:
    """The map with characters over it, the later layers over the earlier ones.

    >>> draw(("#  #",), ("X", [(0, 1), (0, 2)]), ("A", [(0, 2)]))
    ('#XA#',)
    """
    over: Mapping[Cell, str] = {cell: char for char, cells in layers for cell in cells}
    return tuple("".join(over.get((r, c), here) for c, here in enumerate(row)) for r, row in enumerate(grid))
