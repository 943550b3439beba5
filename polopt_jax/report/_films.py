"""Pictures that something else has drawn, one after another, as a GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

REST = 1500
"""Milliseconds for which the last picture is seen."""


def film_gif(frames: Sequence[np.ndarray], *, seconds_per_frame: float) -> bytes:
    """Pictures `[H, W, 3]` uint8 as a GIF, over and over, with a rest on the last.

    Raises ValueError if there are none, or they are no pictures of one size.

    >>> film_gif([np.zeros((4, 6, 3), np.uint8)], seconds_per_frame=0.1)[:6]
    b'GIF89a'
    """
    from PIL import Image

    shapes = {(np.shape(frame), np.asarray(frame).dtype.name) for frame in frames}
    if len(shapes) != 1 or any(kind != "uint8" or len(shape) != 3 or shape[2] != 3 for shape, kind in shapes):
        raise ValueError(f"frames must be pictures [H, W, 3] uint8 of one size; they are {sorted(shapes)}")

    def image(frame: np.ndarray) -> Any:
        return Image.fromarray(np.asarray(frame)).quantize(dither=Image.Dither.NONE)

    first, *others = map(image, frames)
    milliseconds = [max(20, round(1000 * seconds_per_frame))] * len(others) + [REST]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()
