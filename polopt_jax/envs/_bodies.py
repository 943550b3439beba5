"""How an environment's bodies look: capsules on links, over a level ground."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

PLANE, SPHERE, CAPSULE = 0, 2, 3
"""MuJoCo's numbers of the shapes that Brax's environments are made of."""


class Bodies(NamedTuple):
    """C capsules, each fixed to one of L links. A sphere is a capsule whose two ends are one point."""

    link: np.ndarray
    """The link of each, `[C]` int; -1 of what stands still."""
    ends: np.ndarray
    """Its two ends in the frame of the link, `[C, 2, 3]`, in metres."""
    radius: np.ndarray
    """`[C]`, in metres."""
    limb: np.ndarray
    """The limb that its link belongs to, `[C]` int: links that follow each other without a fork; -1 of what stands
    still."""
    ground: float | None
    """Height of the ground; None where there is none."""
    seconds_per_step: float
    """How long a step of the environment takes."""


def model_bodies(model: Any, *, seconds_per_step: float) -> Bodies:
    """The bodies of a MuJoCo model, whose body i + 1 is link i. Planes are ground; other shapes are left out.

    >>> from polopt_jax.envs import brax_env
    >>> bodies = brax_env("inverted_pendulum").bodies()
    >>> bodies.link.tolist(), bodies.radius.round(3).tolist(), bodies.ground
    ([-1, 0, 1], [0.02, 0.1, 0.049], None)
    """
    shape = np.asarray(model.geom_type)
    kept = (shape == SPHERE) | (shape == CAPSULE)
    half = np.where(shape == CAPSULE, model.geom_size[:, 1], 0.0)[kept]
    along = rotate(model.geom_quat[kept], np.array([0.0, 0.0, 1.0])) * half[:, None]
    centre = model.geom_pos[kept]
    link = np.asarray(model.geom_bodyid)[kept] - 1
    planes = model.geom_pos[(shape == PLANE) & (np.asarray(model.geom_bodyid) == 0)]
    return Bodies(
        link=link,
        ends=np.stack([centre - along, centre + along], axis=1),
        radius=np.array(model.geom_size[:, 0])[kept],
        limb=np.append(_limbs(np.asarray(model.body_parentid)[1:] - 1), -1)[link],
        ground=float(planes[0, 2]) if len(planes) else None,
        seconds_per_step=seconds_per_step,
    )


def _limbs(parents: np.ndarray) -> np.ndarray:
    """The limb of each link: a link begins one unless it is the only child of a link that is itself no root."""
    limbs: list[int] = []
    for parent in parents.tolist():
        goes_on = parent >= 0 and parents[parent] >= 0 and (parents == parent).sum() == 1
        limbs.append(limbs[parent] if goes_on else max(limbs, default=-1) + 1)
    return np.array(limbs, int)


def place_bodies(bodies: Bodies, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Where the ends of the capsules are in the world, `[..., C, 2, 3]`, when the links are where they are.

        x_world = position + rotation x rotation*

    Args:
      bodies: C capsules on L links.
      position: of the links' frames, `[..., L, 3]`.
      rotation: their unit quaternions (w, x, y, z), `[..., L, 4]`.

    >>> from polopt_jax.envs import brax_env
    >>> bodies = brax_env("inverted_pendulum").bodies()
    >>> upright = np.array([[1.0, 0.0, 0.0, 0.0]] * 2)
    >>> place_bodies(bodies, np.array([[1.0, 0.0, 0.0]] * 2), upright)[2].round(2).tolist()
    [[1.0, 0.0, 0.6], [1.0, 0.0, 0.0]]
    """
    origin = np.zeros((*np.shape(position)[:-2], 1, 3))
    no_turn = np.broadcast_to(np.array([1.0, 0.0, 0.0, 0.0]), (*origin.shape[:-1], 4))
    position = np.concatenate([position, origin], axis=-2)[..., bodies.link, None, :]
    rotation = np.concatenate([rotation, no_turn], axis=-2)[..., bodies.link, None, :]
    return position + rotate(rotation, bodies.ends)


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors `[..., 3]` turned by unit quaternions `[..., 4]`, (w, x, y, z)."""
    w, u = quaternion[..., :1], quaternion[..., 1:]
    twice = 2.0 * np.cross(u, vector)
    return vector + w * twice + np.cross(u, twice)
