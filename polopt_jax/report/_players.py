"""An episode to watch: bodies that move, curves that go with them, and a page that plays them; or a GIF."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from polopt_jax.report._animations import _letters
from polopt_jax.report._pages import Section, _piece, _templates, page
from polopt_jax.report._stages import (
    INK,
    PAPER,
    Bar,
    Camera,
    Polygon,
    Stage,
    body_shapes,
    camera_of,
    ground_shapes,
    limb_color,
)
from polopt_jax.report._styles import COLORS, style

MISSING = 65535
"""The code of a number that is not there."""
PICTURE, SHARPER = (480, 320), 2
"""Pixels of a GIF; how many times as large each frame is drawn before it is made smaller, which smooths edges."""


class Track(NamedTuple):
    """Curves over the frames, on one pair of axes."""

    title: str
    values: np.ndarray
    """`[F, K]`; what is not finite is not drawn."""


class Recording(NamedTuple):
    """F frames of an episode. The first two tracks are also shown over the picture."""

    steps: np.ndarray
    """The step that each frame shows, from 0 on, rising, `[F]` int."""
    seconds_per_step: float
    """How long a step is shown."""
    timed: bool
    """Whether that is a time of the world that is shown."""
    tracks: Sequence[Track]
    stage: Stage | None = None
    """What is seen; None where there is nothing but curves."""


def player_html(title: str, lead: str, recording: Recording, *, notes: Sequence[str] = ()) -> str:
    """A page that plays an episode: play and pause, a scrubber, speeds, curves; bodies can be turned and come near.

    One file, which needs nothing else: no font, no library, no network; the only script that it may run is its own.
    It begins to play unless the reader asks for less motion.

    Raises:
      ValueError: arrays of the recording do not fit each other, `steps` does not rise from 0, a time is not positive
        and finite, or a position is not finite.

    >>> recording = Recording(np.arange(3), 0.1, True, [Track("reward", np.ones((3, 1)))])
    >>> html = player_html("ant", "100 steps", recording)
    >>> html.startswith("<!doctype html>"), "http" in html.replace("http-equiv", "")
    (True, False)
    """
    script = Markup(_templates().loader.get_source(_templates(), "player.js")[0])
    return page(title, lead, [Section("", [player(recording, name=title)])], notes=notes, script=script)


def player(recording: Recording, *, name: str) -> Markup:
    """The player of a recording, as a piece of a page that has its script."""
    _check(recording)
    data = json.dumps(payload(recording), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    titles = [track.title for track in recording.tracks]
    return _piece("player", name if recording.stage else "", titles, Markup(data), int(recording.steps[-1]))


def payload(recording: Recording) -> dict[str, Any]:
    """What the script is given, as JSON."""
    return {
        "steps": [int(step) for step in recording.steps],
        "seconds_per_step": recording.seconds_per_step,
        "timed": recording.timed,
        "tracks": [
            {"title": track.title, "colors": _colors(track.values.shape[1]), "values": packed(track.values)}
            for track in recording.tracks
        ],
        "stage": None if recording.stage is None else _staged(recording.stage, camera_of(recording.stage)),
    }


def _staged(stage: Stage, camera: Camera) -> dict[str, Any]:
    return {
        "ends": packed(stage.ends),
        "radius": [round(float(radius), 5) for radius in stage.radius],
        "color": [limb_color(int(limb)) for limb in stage.limb],
        "moves": [int(limb >= 0) for limb in stage.limb],
        "ground": stage.ground,
        "target": packed(camera.target),
        "azimuth": camera.azimuth,
        "elevation": camera.elevation,
        "distance": camera.distance,
        "tile": camera.tile,
    }


def _colors(number: int) -> list[str]:
    return [style(1 + place % (len(COLORS) - 1)).color for place in range(number)]


def packed(values: np.ndarray) -> dict[str, Any]:
    """Numbers `[..., K]` as 16 bits each: 65534 steps from the least to the most of their place in K, and one code for
    what is not finite. Each is off by half a step at most.

    >>> packed(np.array([[0.0], [65534.0]]))
    {'low': [0.0], 'step': [1.0], 'data': 'AAD+/w=='}
    """
    values = np.asarray(values, np.float64)
    known = np.where(np.isfinite(values), values, np.nan).reshape(-1, values.shape[-1])
    there = ~np.isnan(known)
    low = np.where(there, known, np.inf).min(0)
    high = np.where(there, known, -np.inf).max(0)
    low, high = (np.where(there.any(0), x, 0.0) for x in (low, high))
    step = (high - low) / (MISSING - 1)
    codes = np.round((known - low) / np.where(step > 0, step, 1.0))
    data = np.where(there, codes, MISSING).astype("<u2").tobytes()
    return {"low": low.tolist(), "step": step.tolist(), "data": base64.b64encode(data).decode()}


def player_gif(recording: Recording, captions: Sequence[str]) -> bytes:
    """The bodies of a recording as a GIF, over and over, each frame with a line of words.

    Drawn without a graphics card, at about fifty frames a second. A GIF counts time in hundredths of a second.

    Args:
      recording: with a stage.
      captions: one for each frame.

    Raises:
      ValueError: as `player_html`; or there is no stage, or not one caption for each frame.

    >>> stage = Stage(np.zeros((1, 1, 2, 3)), np.array([0.1]), np.array([0]), 0.0)
    >>> player_gif(Recording(np.arange(1), 0.1, True, [], stage), ["start"])[:6]
    b'GIF89a'
    """
    _check(recording)
    if recording.stage is None:
        raise ValueError("recording: it has no stage, and a GIF shows nothing else")
    if isinstance(captions, str) or len(captions) != len(recording.steps):
        raise ValueError(f"captions must be one for each of {len(recording.steps)} frames, got {captions!r}")
    camera = camera_of(recording.stage)
    drawn = [_shapes(recording.stage, camera, frame) for frame in range(len(captions))]
    palette = _palette({shape.color for shape in drawn[0]} | {INK, PAPER})
    first, *others = [
        _raster(shapes, caption).quantize(palette=palette, dither=0)
        for shapes, caption in zip(drawn, captions, strict=True)
    ]
    gaps = np.diff(recording.steps, append=recording.steps[-1] + round(1.5 / recording.seconds_per_step))
    milliseconds = [max(20, round(1000 * recording.seconds_per_step * int(gap))) for gap in gaps]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()


def _shapes(stage: Stage, camera: Camera, frame: int) -> list[Polygon | Bar]:
    size = (SHARPER * PICTURE[0], SHARPER * PICTURE[1])
    return [*ground_shapes(stage, camera, frame, size), *body_shapes(stage, camera, frame, size)]


def _raster(shapes: Sequence[Polygon | Bar], caption: str) -> Any:
    """A Pillow image of one frame."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SHARPER * PICTURE[0], SHARPER * PICTURE[1]), PAPER)
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, Polygon):
            pen.polygon([tuple(corner) for corner in shape.corners], fill=shape.color)
            continue
        pen.line([tuple(point) for point in shape.points], fill=shape.color, width=max(1, round(shape.width)))
        for x, y in shape.points:
            r = shape.width / 2
            pen.ellipse((x - r, y - r, x + r, y + r), fill=shape.color)
    pen.text((20, image.height - 20), caption, INK, _letters(26), anchor="ls")
    return image.reduce(SHARPER)


def _palette(colors: set[str]) -> Any:
    """An image whose palette has these colours, as far as there is room for them."""
    from PIL import Image, ImageColor

    image = Image.new("P", (1, 1))
    image.putpalette([channel for color in sorted(colors)[:256] for channel in ImageColor.getrgb(color)])
    return image


def _check(recording: Recording) -> None:
    steps = np.asarray(recording.steps)
    if steps.ndim != 1 or not len(steps) or steps[0] != 0 or (np.diff(steps) <= 0).any():
        raise ValueError("steps must be [F], rising from 0")
    if not 0 < recording.seconds_per_step < math.inf:
        raise ValueError(f"seconds_per_step must be positive and finite, got {recording.seconds_per_step}")
    for track in recording.tracks:
        if np.ndim(track.values) != 2 or len(track.values) != len(steps):
            raise ValueError(f"{track.title} must be [{len(steps)}, K]; it has shape {np.shape(track.values)}")
    if recording.stage is not None and len(recording.stage.ends) != len(steps):
        raise ValueError(f"ends must be of {len(steps)} frames; they are of {len(recording.stage.ends)}")
