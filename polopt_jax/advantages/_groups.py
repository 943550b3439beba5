"""Estimators over a group: rewards `[..., G]` of G attempts at the same prompt.

A reward that is not finite is an attempt that nobody could score. It is left out of its group - mean, spread and size -
and its own advantage is NaN, so that `to_batch` masks the row out and counts it; its group goes on without it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, check_shape, masked_mean
from polopt_jax.ranges import Nonnegative, check_range
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
    reward = jnp.asarray(reward)
    if reward.ndim < 1 or reward.shape[-1] < 1:
        raise ValueError(f"{caller}: reward must be [..., G] with G >= 1; it has shape {reward.shape}")
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
        The last axis is the group: rewards in one row, as TRL has them, are to be reshaped to `[N, G]`, and repeated
        over tokens only afterwards.
      eps: added to the standard deviation.
      ddof: 1 is the sample standard deviation (TRL, Tunix); 0 is numpy's.

    Returns:
      `[..., G]`, a constant; NaN where the reward is not finite, which `to_batch` masks out. A group whose rewards are
      all equal, and a group of one, gives exactly 0.

    Raises:
      ValueError: reward has no group axis, eps is negative or ddof neither 0 nor 1.

    Differs from the paper: eps and ddof are stated (the paper has neither). Source: Shao et al. 2024, DeepSeekMath,
    section 4.1.2. `group_centred` leaves the division out.

    >>> group_relative(jnp.array([0.0, 1.0, jnp.nan]), eps=0.0).tolist()
    [-0.7071067690849304, 0.7071067690849304, nan]
    """
    return _relative("group_relative", reward, eps, ddof)


def _relative(caller: str, reward: Array, eps: ArrayLike, ddof: int) -> Array:
    check_range(caller, Nonnegative, eps=eps)
    if ddof not in (0, 1):
        raise ValueError(f"{caller}: ddof must be 0 or 1; it is {ddof}")
    group = _group(caller, reward)
    degrees = jnp.maximum(group.size - ddof, 1).astype(group.centred.dtype)
    largest = jnp.max(jnp.abs(group.centred), axis=-1, keepdims=True)
    unit = jnp.where(largest != 0, largest, 1)  # the squares of what is measured in it do not overflow
    share = group.centred / unit
    spread = jnp.sqrt(jnp.where(group.differ, jnp.sum(share**2, axis=-1, keepdims=True) / degrees, 1))
    advantage = jnp.where(group.differ, share / (spread + eps / unit), 0)
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


def batch_relative(reward: Array, *, eps: ArrayLike = 1e-6, ddof: int = 1) -> Array:
    """REINFORCE++'s advantage: each reward relative to the *whole* batch, whatever its prompt.

        A_i = (R_i - mean R) / (std R + eps),    over all rewards of the batch

    Prompts are not set against each other's spread, as `group_relative` does; one attempt per prompt is enough. The
    variant "with baseline" subtracts the group's mean first: it is `batch_relative(group_centred(reward))`.

    Args:
      reward: any shape `[...]` of at least one axis, as `[N]` or `[N, G]`: the whole batch, before it is split. One
        that is not finite is left out.
      eps, ddof: as `group_relative`.

    Returns:
      `[...]`, a constant; NaN where the reward is not finite, which `to_batch` masks out. Where all are equal, exactly
      0.

    Raises:
      ValueError: reward is a scalar or empty.

    Differs from the paper: eps and ddof are stated. Its rewards are per token, with the KL to the reference in them,
    and its mean is over tokens, so that long rows count more: `standardize(advantage, mask)` on the batch is that.
    Source: Hu et al. 2025, "REINFORCE++", arXiv 2501.03262.

    >>> batch_relative(jnp.array([[0.0, 1.0], [jnp.nan, 2.0]]), eps=0.0).tolist()
    [[-1.0, 0.0], [nan, 1.0]]
    """
    reward = jnp.asarray(reward)
    if reward.ndim < 1:
        raise ValueError("batch_relative: reward must have at least one axis; it is a scalar")
    return _relative("batch_relative", reward.reshape(-1), eps, ddof).reshape(reward.shape)


def greedy_centred(reward: Array, greedy: Array) -> Array:
    """ReMax's advantage: the reward less that of the greedy attempt at the same prompt.

        A_i = R_i - R(greedy)

    The baseline costs one more answer per prompt, the policy's most probable one, and no attempt is in it, so that it
    is unbiased for a group of one too.

    Args:
      reward: `[..., G]`, one number per attempt.
      greedy: `[...]`, the reward of the greedy attempt of each prompt, which is itself not learnt from.

    Returns:
      `[..., G]`, a constant; NaN where the reward is not finite, or the greedy one of its prompt is not, which
      `to_batch` masks out.

    Raises:
      ValueError: reward has no group axis, or greedy another shape.

    Source: Li et al. 2024, "ReMax: a simple, effective, and efficient reinforcement learning method for aligning large
    language models".

    >>> greedy_centred(jnp.array([[0.0, 1.0], [1.0, jnp.inf]]), jnp.array([0.5, 1.0])).tolist()
    [[-0.5, 0.5], [0.0, nan]]
    """
    reward, greedy = jnp.asarray(reward), jnp.asarray(greedy)
    if reward.ndim < 1:
        raise ValueError(f"greedy_centred: reward must be [..., G]; it has shape {reward.shape}")
    check_shape("greedy_centred", "greedy", greedy, reward.shape[:-1], of="reward without its last axis")
    reward, baseline = jax.lax.stop_gradient((accumulate(reward), accumulate(greedy)[..., None]))
    scored = jnp.isfinite(reward) & jnp.isfinite(baseline)
    return jnp.where(scored, jnp.where(scored, reward, 0) - jnp.where(scored, baseline, 0), jnp.nan)


def decoupled_relative(reward: Array, weight: Array, *, eps: ArrayLike = 1e-6, ddof: int = 1) -> Array:
    """GDPO's advantage of several rewards: each is made relative to its group before they are added.

        A_i = batch_relative( Σ_k w_k group_relative(R_k)_i )

    Added first, rewards that differ in scale or in how often they are given drown each other, and different
    combinations get the same advantage. Here each has spread 1 in every group in which it varies, and w is all that
    ranks them.

    Args:
      reward: `[K, ..., G]`: K rewards of every attempt. One that is not finite is left out of its reward's group and of
        its attempt's sum; an attempt that no reward scored is unscorable.
      weight: `[K]`.
      eps, ddof: of each of the two divisions, as `group_relative`.

    Returns:
      `[..., G]`, a constant; NaN where no reward is finite, which `to_batch` masks out.

    Raises:
      ValueError: reward is not [K, ..., G], or weight is not [K].

    Differs from the paper: eps and ddof are stated. Source: Liu et al. 2026, "GDPO: group reward-decoupled
    normalization policy optimization for multi-reward RL optimization", arXiv 2601.05242.

    >>> correct, brief = jnp.array([[0.0, 1.0], [0.0, 1.0]]), jnp.array([[9.0, 9.0], [0.0, 70.0]])
    >>> decoupled_relative(jnp.stack([correct, brief]), jnp.array([1.0, 0.5])).round(3).tolist()
    [[-0.6790000200271606, 0.6790000200271606], [-1.0190000534057617, 1.0190000534057617]]
    """
    reward, weight = jnp.asarray(reward), jnp.asarray(weight)
    if reward.ndim < 2:
        raise ValueError(f"decoupled_relative: reward must be [K, ..., G]; it has shape {reward.shape}")
    check_shape("decoupled_relative", "weight", weight, reward.shape[:1], of="reward's first axis")
    each = _relative("decoupled_relative", reward, eps, ddof)
    scored = jnp.isfinite(each)
    weight = jax.lax.stop_gradient(weight.astype(each.dtype)).reshape(-1, *[1] * (each.ndim - 1))
    total = jnp.sum(weight * jnp.where(scored, each, 0), axis=0)
    return batch_relative(jnp.where(scored.any(0), total, jnp.nan), eps=eps, ddof=ddof)
