"""Pictures of a simulator that draws itself: the first seconds of an episode."""

import math
from typing import Any

import numpy as np

from polopt_jax import report
from polopt_jax.simulators import Simulator

WIDEST = 480
"""Pixels; larger pictures are made smaller, by a whole number."""


class Film:
    """Takes pictures while an episode runs: every one of so many a second or less, as long as there is film."""

    def __init__(self, simulator: Simulator, *, seconds: float, frames_per_second: float):
        self._every = max(1, math.ceil(simulator.frames_per_second / frames_per_second))
        self._seconds_per_frame = self._every / simulator.frames_per_second
        self._most = max(1, round(seconds / self._seconds_per_frame))
        self._seen = 0
        self._frames: list[np.ndarray] = []

    def look(self, env: Any) -> tuple[()]:
        """Looks at an environment in its next state."""
        if self._seen % self._every == 0 and len(self._frames) < self._most:
            self._frames.append(smaller(np.asarray(env.render())))
        self._seen += 1
        return ()

    def gif(self) -> bytes:
        """What was seen. Raises ValueError if that is no pictures."""
        return report.film_gif(self._frames, seconds_per_frame=self._seconds_per_frame)


def smaller(frame: np.ndarray) -> np.ndarray:
    """A picture `[H, W, 3]` at most `WIDEST` pixels wide, each the mean of a square of it.

    >>> smaller(np.full((500, 1000, 3), 7, np.uint8)).shape
    (166, 333, 3)
    """
    times = math.ceil(frame.shape[1] / WIDEST) if frame.ndim == 3 else 1
    if times == 1:
        return frame
    height, width = frame.shape[0] // times, frame.shape[1] // times
    squares = frame[: height * times, : width * times].reshape(height, times, width, times, -1)
    return squares.mean((1, 3)).round().astype(frame.dtype)
