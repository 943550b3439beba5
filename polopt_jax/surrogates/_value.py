"""Errors of a critic, and values as laws over a grid of numbers."""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from polopt_jax.masking import accumulate
from polopt_jax.types import Array, ArrayLike


def squared_error(value: Array, target: Array) -> Array:
    """½ (value - target)².

    >>> squared_error(jnp.array([3.0]), jnp.array([1.0])).tolist()
    [2.0]
    """
    return 0.5 * (value - target) ** 2


def clipped_squared_error(value: Array, target: Array, old_value: Array, *, clip_eps: ArrayLike) -> Array:
    """½ max((V - target)², (V_old + clip(V - V_old, -ε, ε) - target)²): pessimistic about moving far.

    >>> clipped_squared_error(jnp.array([1.0]), jnp.array([1.0]), jnp.array([0.0]), clip_eps=0.5).tolist()
    [0.125]
    """
    clipped = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return jnp.maximum(squared_error(value, target), squared_error(clipped, target))


def huber(value: Array, target: Array, *, delta: ArrayLike) -> Array:
    """½ e² where |e| <= δ, and δ (|e| - ½ δ) beyond, e = value - target: as `squared_error`, with a slope of at most δ.

    δ = infinity is `squared_error`.

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2), delta=1.0).tolist()
    [0.125, 2.5]
    """
    error = jnp.abs(value - target)
    near = jnp.minimum(error, delta)
    return near * (error - 0.5 * near)


def _on_axis(support: Array, x: Array) -> Array:
    """A support `[K]` beside `x` `[..., K]`: of its dtype, and of its rank, so that nothing is promoted."""
    if np.ndim(support) != 1 or np.shape(support)[0] < 2:
        raise ValueError(f"support must have shape [K] with K >= 2; it has {np.shape(support)}")
    if not isinstance(support, jax.core.Tracer) and not (np.diff(np.asarray(support)) > 0).all():
        raise ValueError(f"support must be strictly increasing; it is {np.asarray(support).tolist()}")
    return jnp.asarray(support, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def two_hot(target: Array, support: Array) -> Array:
    """The law on `support` with mean `target` that has mass on the two points beside it alone.

        p_k = (s_{k+1} - x) / (s_{k+1} - s_k),  p_{k+1} = 1 - p_k    for s_k <= x <= s_{k+1},  0 elsewhere

    A target outside the support counts as the end that is nearer.

    Args:
      target: `[...]`.
      support: `[K]`, increasing, K at least 2; the gaps may differ.

    Returns:
      `[..., K]`, a probability per point; `probability @ support` is the target.

    Raises:
      ValueError: support is not `[K]`, or not increasing (where it is concrete).

    Source: Bellemare et al. 2017 (C51), equation 7, for a single point; "two-hot" is Schrittwieser et al. 2020's
    (MuZero).

    >>> two_hot(jnp.array([0.25, -9.0]), jnp.array([0.0, 1.0, 3.0])).tolist()
    [[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]]
    """
    target = accumulate(target)[..., None]
    points = _on_axis(support, target)
    target = jnp.clip(target, points[..., :1], points[..., -1:])
    passed = jnp.clip((target - points[..., :-1]) / jnp.diff(points), 0, 1)  # the share of each gap that lies below
    ends = jnp.ones_like(target)
    return jnp.concatenate([ends, passed], axis=-1) - jnp.concatenate([passed, jnp.zeros_like(ends)], axis=-1)


def expected_value(logits: Array, support: Array) -> Array:
    """Σ_k softmax(logits)_k s_k `[...]`, of logits `[..., K]`: the value that a law on `support` stands for.

    Raises ValueError if support is not `[K]`, or not increasing (where it is concrete).

    >>> expected_value(jnp.zeros((1, 3)), jnp.array([0.0, 1.0, 5.0])).tolist()
    [2.0]
    """
    logits = accumulate(logits)
    points = _on_axis(support, logits)
    if points.shape[-1] != logits.shape[-1]:
        raise ValueError(f"logits must have the {points.shape[-1]} points of support; they have shape {logits.shape}")
    return jnp.sum(jax.nn.softmax(logits) * points, axis=-1)


def cross_entropy(target: Array, logits: Array) -> Array:
    """-Σ_k target_k log softmax(logits)_k, `[...]`, of a law `[..., K]` and logits `[..., K]`.

    >>> round(float(cross_entropy(jnp.array([1.0, 0.0]), jnp.zeros(2))), 4)
    0.6931
    """
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
