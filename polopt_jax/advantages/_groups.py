"""Estimators over a group: rewards `[..., G]` of G attempts at the same prompt.

A reward that is not finite is an attempt that nobody could score. It is left out of its group - mean, spread and size -
and its own advantage is NaN, so that `to_batch` masks the row out and counts it; its group goes on without it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, masked_mean
from polopt_jax.types import Array, ArrayLike


class _Group(NamedTuple):
    scored: Array
    """bool `[..., G]`."""
    centred: Array
    """Reward minus the mean of the scored ones, `[..., G]`; 0 where not scored."""
    differ: Array
    """bool `[..., 1]`: whether the scored rewards differ at all."""
    size: Array
    """Number of scored rewards, `[..., 1]`."""


def _group(caller: str, reward: Array) -> _Group:
    """The first scored reward is subtracted before the mean is taken, so that a constant group gives exact zeros: the
    float mean of G equal numbers is often not that number, and a division by a tiny std would amplify the residue.
    """
    if jnp.ndim(reward) < 1 or reward.shape[-1] < 1:
        raise ValueError(f"{caller}: reward must be [..., G] with G >= 1; it has shape {jnp.shape(reward)}")
    reward = jax.lax.stop_gradient(accumulate(reward))
    scored = jnp.isfinite(reward)
    first = jnp.take_along_axis(reward, jnp.argmax(scored, axis=-1, keepdims=True), axis=-1)
    shifted = jnp.where(scored, reward - first, 0)
    centred = jnp.where(scored, shifted - masked_mean(shifted, scored, axis=-1)[..., None], 0)
    return _Group(scored, centred, (shifted != 0).any(-1, keepdims=True), scored.sum(-1, keepdims=True))


def group_relative(reward: Array, *, eps: ArrayLike = 1e-6, ddof: int = 1) -> Array:
    """GRPO's advantage: each reward relative to the others of its group.

        A_i = (R_i - mean_j R_j) / (std_j R_j + eps)

    Args:
      reward: `[..., G]`, one number per attempt at the same prompt. One that is not finite is left out of its group.
      eps: added to the standard deviation.
      ddof: 1 is the sample standard deviation (TRL, Tunix); 0 is numpy's.

    Returns:
      `[..., G]`, a constant; NaN where the reward is not finite, which `to_batch` masks out. A group whose rewards are
      all equal, and a group of one, gives exactly 0.

    Raises:
      ValueError: reward has no group axis.

    Differs from the paper: eps and ddof are stated (the paper has neither). Source: Shao et al. 2024, DeepSeekMath,
    section 4.1.2. `group_centred` leaves the division out.

    >>> group_relative(jnp.array([0.0, 1.0, jnp.nan]), eps=0.0).tolist()
    [-0.7071067690849304, 0.7071067690849304, nan]
    """
    group = _group("group_relative", reward)
    degrees = jnp.maximum(group.size - ddof, 1).astype(group.centred.dtype)
    variance = jnp.sum(group.centred**2, axis=-1, keepdims=True) / degrees
    advantage = jnp.where(group.differ, group.centred / (jnp.sqrt(jnp.where(group.differ, variance, 1)) + eps), 0)
    return jnp.where(group.scored, advantage, jnp.nan)


def group_centred(reward: Array) -> Array:
    """A_i = R_i - mean_j R_j on rewards `[..., G]`: GRPO's advantage without the division (Dr.GRPO).

    The mean includes the attempt itself, which shortens the expected gradient by (G-1)/G; `leave_one_out` does not.
    Rewards that are not finite, and what it raises, as `group_relative`.
    Source: Liu et al. 2025, "Understanding R1-Zero-like training".

    >>> group_centred(jnp.array([0.0, 1.0])).tolist()
    [-0.5, 0.5]
    """
    group = _group("group_centred", reward)
    return jnp.where(group.scored, group.centred, jnp.nan)


def leave_one_out(reward: Array) -> Array:
    """RLOO's advantage on rewards `[..., G]`: the baseline is the mean of the *other* attempts.

        A_i = R_i - mean_{j≠i} R_j = G/(G-1) (R_i - mean_j R_j)

    Unbiased, as no attempt is in its own baseline. A group of one has no other attempt: exactly 0. G counts the
    scored attempts. Rewards that are not finite, and what it raises, as `group_relative`.
    Source: Kool et al. 2019; Ahmadian et al. 2024.

    >>> leave_one_out(jnp.array([0.0, 1.0, 2.0])).tolist()
    [-1.5, 0.0, 1.5]
    """
    group = _group("leave_one_out", reward)
    size = group.size.astype(group.centred.dtype)
    return jnp.where(group.scored, group.centred * (size / jnp.maximum(size - 1, 1)), jnp.nan)
