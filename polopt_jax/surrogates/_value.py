"""Errors of a critic."""

from __future__ import annotations

import jax.numpy as jnp

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
