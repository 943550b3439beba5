"""An episode that plays by itself: frames of characters in colour, each with a line of words, over and over.

Drawn once, as boxes and words, and then put into one of two envelopes: a piece of HTML, which is a picture within the
page, without scripts and without a name that could meet another's; and a GIF, for where HTML does not go.
"""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from polopt_jax.report._maps import INK, Map, Mark, _check, _legend
from polopt_jax.report._pages import _templates

PAPER, FAINT = "#ffffff", "#606060"
"""What it is drawn on, whatever the page; and the counter's colour."""
EDGE, CELL, WIDEST, LINE, TEXT = 14, 44, 528, 22, 15
"""Pixels: margin, side of a cell, all cells of a row at most, line of words, size of letters."""
EM = 0.62
"""Width of a letter over its size, on the large side."""
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""What XML cannot hold, or a line."""


class Box(NamedTuple):
    """A rectangle, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int
    color: str


class Words(NamedTuple):
    """A line of words, from the left end of the line that they stand on, or from its middle."""

    x: int
    y: int
    size: int
    color: str
    text: str
    centred: bool = False


class Drawing(NamedTuple):
    """Boxes, and words over them."""

    boxes: Sequence[Box]
    words: Sequence[Words]


class Scene(NamedTuple):
    """What stands still, the frames that follow each other, and how long each is seen."""

    width: int
    height: int
    ground: Drawing
    frames: Sequence[Drawing]
    seconds: Sequence[float]


def animation_html(
    frames: Sequence[Sequence[str]],
    marks: Mapping[str, Mark],
    captions: Sequence[str],
    *,
    seconds_per_frame: float = 0.9,
    seconds_at_end: float = 3.0,
) -> Markup:
    """An episode as a piece of HTML that plays by itself, over and over, with a rest on the last frame.

    One picture (SVG in a data address, moved by CSS): no script, nothing from outside, and nothing that a page's own
    style could meet, so that it plays in a page of `page`, in a notebook and in a file of its own. Where the reader
    asks for less motion it stands still on the first frame; a screen reader reads the captions.

    Args:
      frames: rows of characters, all of one shape: `worlds.replay(rules, states)`, say.
      marks: one for each character that stands in them, as for `maps`.
      captions: one for each frame: what was done, and what came of it.
      seconds_per_frame: how long each is seen.
      seconds_at_end: how long the last is.

    Raises:
      ValueError: there is no frame, they differ in shape, a character has no mark, there is not one caption for each,
        or a time is not positive and finite.

    >>> marks = {" ": Mark("", "#f4f4f4"), "A": Mark("you", "#56b4e9")}
    >>> html = animation_html([["A "], [" A"]], marks, ["start", "right"])
    >>> html.startswith("<picture><source media="), "1. start 2. right" in html
    (True, True)
    """
    scene = _scene(frames, marks, captions, seconds_per_frame, seconds_at_end)
    still, moving = (_address(_svg(part)) for part in (scene._replace(frames=scene.frames[:1]), scene))
    said = " ".join(f"{number}. {_printable(caption)}" for number, caption in enumerate(captions, 1))
    return Markup(
        '<picture><source media="(prefers-reduced-motion: reduce)" srcset="{}">'
        '<img src="{}" width="{}" height="{}" alt="{}" style="max-width:100%;height:auto"></picture>'
    ).format(still, moving, scene.width, scene.height, said)


def animation_gif(
    frames: Sequence[Sequence[str]],
    marks: Mapping[str, Mark],
    captions: Sequence[str],
    *,
    seconds_per_frame: float = 0.9,
    seconds_at_end: float = 3.0,
) -> bytes:
    """The same as a GIF, for slides and messages. It cannot stand still for who asks for less motion.

    Arguments and errors: as `animation_html`. A GIF counts time in hundredths of a second.

    >>> marks = {" ": Mark("", "#f4f4f4"), "A": Mark("you", "#56b4e9")}
    >>> animation_gif([["A "], [" A"]], marks, ["start", "right"])[:6]
    b'GIF89a'
    """
    scene = _scene(frames, marks, captions, seconds_per_frame, seconds_at_end)
    first, *others = (_raster(scene, frame) for frame in scene.frames)
    buffer = io.BytesIO()
    milliseconds = [max(10, round(1000 * seconds)) for seconds in scene.seconds]
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()


def _scene(
    frames: Sequence[Sequence[str]], marks: Mapping[str, Mark], captions: Sequence[str], each: float, end: float
) -> Scene:
    """Map to the left, legend to the right, caption below."""
    _check_frames(frames, marks, captions)
    for name, seconds in (("seconds_per_frame", each), ("seconds_at_end", end)):
        if not 0 < seconds < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {seconds}")
    rows, columns = len(frames[0]), len(frames[0][0])
    cell = max(10, min(CELL, WIDEST // columns))
    legend = _legend(marks)
    beside = max([len(chars) + len(words) for chars, words, _ in legend], default=0)
    left = 2 * EDGE + columns * cell
    width = max(left + 2 * EDGE + math.ceil((beside + 1) * EM * TEXT), 360)
    below = EDGE + max(rows * cell, len(legend) * LINE) + LINE
    counter = math.ceil(EM * TEXT * len(f"{len(frames)}/{len(frames)}  "))
    letters = int((width - 2 * EDGE - counter) / (EM * TEXT))
    wrapped = [textwrap.wrap(_printable(caption), letters) or [""] for caption in captions]
    height = below + (max(map(len, wrapped)) - 1) * LINE + EDGE
    drawn = []
    for number, (frame, lines) in enumerate(zip(frames, wrapped, strict=True), 1):
        count = Words(EDGE, below, TEXT, FAINT, f"{number}/{len(frames)}")
        caption = [Words(EDGE + counter, below + i * LINE, TEXT, INK, line) for i, line in enumerate(lines)]
        drawn.append(_cells(frame, marks, cell, [count, *caption]))
    ground = _ground(Box(0, 0, width, height, PAPER), left, legend)
    return Scene(width, height, ground, drawn, [each] * (len(frames) - 1) + [end])


def _cells(frame: Sequence[str], marks: Mapping[str, Mark], cell: int, caption: Sequence[Words]) -> Drawing:
    """A frame: a box for each cell, and the letters of those that mean something."""
    boxes, letters = [], []
    for i, row in enumerate(frame):
        for j, char in enumerate(row):
            x, y = EDGE + j * cell, EDGE + i * cell
            boxes.append(Box(x, y, cell - 1, cell - 1, marks[char].color))
            if marks[char].words:
                letters.append(Words(x + cell // 2, y + int(0.66 * cell), cell // 2, INK, _printable(char), True))
    return Drawing(boxes, [*letters, *caption])


def _ground(paper: Box, left: int, legend: Sequence[tuple[str, str, str]]) -> Drawing:
    """The paper, and what the characters mean."""
    boxes, words = [paper], []
    for i, (chars, meaning, color) in enumerate(legend):
        y, wide = EDGE + i * LINE, max(LINE - 4, math.ceil(EM * TEXT * len(chars)) + 6)
        boxes.append(Box(left, y, wide, LINE - 4, color))
        words.append(Words(left + wide // 2, y + 14, TEXT - 1, INK, _printable(chars), True))
        words.append(Words(left + wide + 8, y + 14, TEXT - 1, INK, _printable(meaning)))
    return Drawing(boxes, words)


def _svg(scene: Scene) -> str:
    """A document of its own; with one frame, a still."""
    return _templates().get_template("animation.svg").render(scene=scene, total=sum(scene.seconds))


def _address(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _raster(scene: Scene, frame: Drawing) -> Any:
    """A Pillow image of one frame."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (scene.width, scene.height), PAPER)
    pen = ImageDraw.Draw(image)
    for drawing in (scene.ground, frame):
        for x, y, width, height, color in drawing.boxes:
            pen.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        for words in drawing.words:
            anchor = "ms" if words.centred else "ls"
            pen.text((words.x, words.y), words.text, words.color, _letters(words.size), anchor=anchor)
    return image


def _letters(size: int) -> Any:
    """The font of pictures, which comes with matplotlib, for Pillow."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\ufffd", text)


def _check_frames(frames: Sequence[Sequence[str]], marks: Mapping[str, Mark], captions: Sequence[str]) -> None:
    if not frames or not frames[0] or not frames[0][0]:
        raise ValueError("frames must be at least one, of at least one character")
    shape = [len(frames[0][0])] * len(frames[0])
    for number, frame in enumerate(frames):
        if [len(row) for row in frame] != shape:
            raise ValueError(f"frames must have one shape; frame {number} has another than the first")
    if isinstance(captions, str) or len(captions) != len(frames):
        raise ValueError(f"captions must be one for each of {len(frames)} frames, got {captions!r}")
    _check([Map("", frame) for frame in frames], marks)
