"""Moving bodies in the picture: a camera, its projection, and what is drawn, from the back to the front.

`templates/player.js` draws the same stage through the same camera in a browser. World axes: x and y along the ground,
z up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from polopt_jax.report._styles import COLORS, style

INK, PAPER, GROUND, SHADOW = "#101112", "#ffffff", "#e9edf2", "#ccd3dc"
"""Colours of a picture that cannot ask its page."""
VIEW = math.radians(35)
"""The angle within which the bodies stand."""
TILES, ROUND = 12, 8
"""Tiles of ground to each side; corners of half a circle."""


class Stage(NamedTuple):
    """C capsules over F frames. A sphere is a capsule whose two ends are one point."""

    ends: np.ndarray
    """Where their ends are, `[F, C, 2, 3]`."""
    radius: np.ndarray
    """`[C]`."""
    limb: np.ndarray
    """`[C]` int: capsules of one limb have one colour; -1 of what stands still."""
    ground: float | None
    """Height of the ground, if there is one."""


class Camera(NamedTuple):
    """Looks at `target` from `distance` away: from `azimuth` around z, counted from x, and `elevation` above."""

    target: np.ndarray
    """`[F, 3]`."""
    azimuth: float
    """Radians."""
    elevation: float
    """Radians."""
    distance: float
    tile: float
    """Side of a tile of the ground."""


class Polygon(NamedTuple):
    """A filled polygon of corners `[N, 2]`, in pixels."""

    corners: np.ndarray
    color: str


class Bar(NamedTuple):
    """A line with round ends between two points `[2, 2]`, in pixels."""

    points: np.ndarray
    width: float
    color: str


def camera_of(stage: Stage) -> Camera:
    """A camera that has everything in view. It goes with bodies that go far, smoothly, and else stands still.

    Raises ValueError if the stage is empty, its arrays do not fit each other, or a position is not finite.

    >>> ends = np.array([[[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]])
    >>> camera = camera_of(Stage(ends, np.array([0.1]), np.array([0]), 0.0))
    >>> camera.target.tolist(), round(camera.distance, 2)
    ([[0.0, 0.0, 0.5]], 2.0)
    """
    _check(stage)
    moves = stage.limb >= 0 if (stage.limb >= 0).any() else stage.limb < 0
    points = stage.ends[:, moves].reshape(len(stage.ends), -1, 3)
    centre = points.mean(1)
    size = float((np.linalg.norm(points - centre[:, None], axis=-1)).max() + stage.radius[moves].max())
    if np.linalg.norm(np.ptp(centre, axis=0)) > 1.5 * size:
        target, view = _smoothed(centre), 1.1 * size
        target[:, 2] = centre[:, 2].mean()
    else:
        still = stage.ends[0, ~moves].reshape(-1, 3)
        near = still[np.linalg.norm(still - centre.mean(0), axis=-1) < 4 * size]
        seen = np.concatenate([points.reshape(-1, 3), near])
        middle = (seen.max(0) + seen.min(0)) / 2
        target = np.tile(middle, (len(points), 1))
        view = float(np.linalg.norm(seen - middle, axis=-1).max() + stage.radius.max())
    wide, deep, high = (points - centre[:, None]).reshape(-1, 3).std(0) + 1e-9
    flat, from_the_side = high < 0.15 * max(wide, deep), deep < 0.1 * max(wide, high)
    return Camera(
        target=target,
        azimuth=math.radians(-78 if from_the_side else -90 if flat else -58),
        elevation=math.radians(55 if flat else 12 if from_the_side else 24),
        distance=view / math.sin(VIEW / 2),
        tile=_round_number(0.6 * size),
    )


def _smoothed(path: np.ndarray, window: int = 25) -> np.ndarray:
    """A moving average of points `[F, 3]` over `window` frames, or fewer at the ends."""
    sums = np.concatenate([np.zeros((1, path.shape[1])), path.cumsum(0)])
    places = np.arange(len(path))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(path))
    return (sums[high] - sums[low]) / (high - low)[:, None]


def _round_number(x: float) -> float:
    """The largest of ..., 0.1, 0.2, 0.5, 1, 2, 5, ... that is not above x."""
    power = 10.0 ** math.floor(math.log10(x))
    return power * max(digit for digit in (1, 2, 5) if digit * power <= x * (1 + 1e-9))


def project(points: np.ndarray, camera: Camera, frame: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where points `[..., 3]` are in a picture of `(width, height)` pixels, and how large things are there.

        out = (cos ε cos α, cos ε sin α, sin ε),   right = (-sin α, cos α, 0),   up = out x right
        depth = distance - out·(p - target),   scale = focal / depth
        (x, y) = (width / 2 + scale right·(p - target), height / 2 - scale up·(p - target))

    with focal = min(width, height) / (2 tan(VIEW / 2)).

    Returns:
      Pixels `[..., 2]` and scale `[...]`, in pixels per unit of length. The scale is negative behind the camera.

    >>> camera = Camera(np.zeros((1, 3)), azimuth=0.0, elevation=0.0, distance=2.0, tile=1.0)
    >>> pixels, scale = project(np.array([0.0, 0.5, 0.0]), camera, 0, (200, 100))
    >>> (pixels - scale * np.array([0.5, 0.0])).tolist()
    [100.0, 50.0]
    """
    a, e = camera.azimuth, camera.elevation
    out = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.0])
    from_target = points - camera.target[frame]
    depth = camera.distance - from_target @ out
    scale = min(size) / (2 * math.tan(VIEW / 2)) / np.where(abs(depth) < 1e-6, 1e-6, depth)
    x, y = size[0] / 2 + scale * (from_target @ right), size[1] / 2 - scale * (from_target @ np.cross(out, right))
    return np.stack([x, y], axis=-1), scale


def ground_shapes(stage: Stage, camera: Camera, frame: int, size: tuple[int, int]) -> list[Polygon]:
    """The tiles of the ground around the target, which fade into the distance."""
    if stage.ground is None:
        return []
    middle = np.round(camera.target[frame, :2] / camera.tile).astype(int)
    i, j = (grid.ravel() for grid in np.mgrid[-TILES:TILES, -TILES:TILES])
    fade = 1 - np.hypot(i + 0.5, j + 0.5) / TILES
    i, j = i + middle[0], j + middle[1]
    drawn = (fade > 0) & ((i + j) % 2 == 0)
    corner = np.stack([i, j, np.zeros_like(i)], axis=-1)[drawn, None] + np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    )
    pixels, scale = project(corner * [camera.tile, camera.tile, 0.0] + [0.0, 0.0, stage.ground], camera, frame, size)
    return [
        Polygon(corners, mix(PAPER, GROUND, min(1.0, 2 * share)))
        for corners, scales, share in zip(pixels, scale, fade[drawn], strict=True)
        if (scales > 0).all()
    ]


def body_shapes(stage: Stage, camera: Camera, frame: int, size: tuple[int, int]) -> list[Polygon | Bar]:
    """Shadows, then what stands still, then the bodies, the farthest first."""
    ends = stage.ends[frame]
    pixels, scale = project(ends, camera, frame, size)
    order = sorted(np.flatnonzero((scale > 0).all(1)), key=lambda c: (stage.limb[c] >= 0, scale[c].mean()))
    shapes: list[Polygon | Bar] = []
    if stage.ground is not None:
        for c in order:
            outline = np.append(_outline(ends[c, :, :2], stage.radius[c]), np.full((2 * ROUND + 2, 1), stage.ground), 1)
            corners, scales = project(outline, camera, frame, size)
            if (scales > 0).all():
                shapes.append(Polygon(corners, SHADOW))
    for c in order:
        width, color = 2 * stage.radius[c] * scale[c].mean(), limb_color(int(stage.limb[c]))
        shapes += [
            Bar(pixels[c], width + 2, mix(color, INK, 0.55)),
            Bar(pixels[c], width, color),
            Bar(pixels[c] - [0.1 * width, 0.2 * width], 0.34 * width, mix(color, PAPER, 0.4)),
        ]
    return shapes


def _outline(ends: np.ndarray, radius: float) -> np.ndarray:
    """Corners `[2 ROUND + 2, 2]` of what is within `radius` of the line between two points `[2, 2]`."""
    along = ends[1] - ends[0]
    turn = np.linspace(-math.pi / 2, math.pi / 2, ROUND + 1) + math.atan2(along[1], along[0])
    half = radius * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return np.concatenate([ends[1] + half, ends[0] - half])


def limb_color(limb: int) -> str:
    """Grey for what stands still, the other colours in turn for limbs."""
    return style(0).color if limb < 0 else style(1 + limb % (len(COLORS) - 1)).color


def mix(color: str, other: str, share: float) -> str:
    """A colour with so much of another one in it.

    >>> mix("#000000", "#ffffff", 0.5)
    '#808080'
    """
    pairs = [(int(color[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round((1 - share) * a + share * b):02x}" for a, b in pairs)


def _check(stage: Stage) -> None:
    shape = np.shape(stage.ends)
    if len(shape) != 4 or shape[2:] != (2, 3) or 0 in shape:
        raise ValueError(f"ends must be [F, C, 2, 3] of at least one frame and one capsule; it has shape {shape}")
    for name, array in (("radius", stage.radius), ("limb", stage.limb)):
        if np.shape(array) != shape[1:2]:
            raise ValueError(f"{name} must have shape [{shape[1]}]; it has {np.shape(array)}")
    if not np.isfinite(stage.ends).all():
        raise ValueError("ends must be finite")
