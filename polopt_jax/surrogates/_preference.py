"""Links: what a preference costs, given the scores of the chosen and of the rejected row."""

from __future__ import annotations

import jax

from polopt_jax.types import Array


def bradley_terry(chosen: Array, rejected: Array) -> Array:
    """-log σ(chosen - rejected): the negative log-likelihood of the Bradley-Terry model, never through log(sigmoid).

    >>> import jax.numpy as jnp
    >>> round(float(bradley_terry(jnp.zeros(()), jnp.zeros(()))), 6)
    0.693147
    """
    return -jax.nn.log_sigmoid(chosen - rejected)
