"""Weights of imitation, from what an action was worth."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.surrogates._ratio import LOG_RATIO_LIMIT
from polopt_jax.types import Array, ArrayLike


def exponential_weight(advantage: Array, *, beta: ArrayLike, cap: ArrayLike) -> Array:
    """min(exp(A/β), cap), and at most e²⁰; the exponential itself never overflows.

    >>> exponential_weight(jnp.array([-jnp.inf, 0.0, 1e9]), beta=1.0, cap=5.0).round(4).tolist()
    [0.0, 1.0, 5.0]
    """
    return jnp.minimum(jnp.exp(jnp.minimum(advantage / beta, LOG_RATIO_LIMIT)), cap)
