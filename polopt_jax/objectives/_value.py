"""The critic's regression, which accompanies a policy loss."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.reading import read, read_value
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import clipped_squared_error, squared_error
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def value_loss(*, reduce: Reduction = token_mean) -> Term:
    """Squared error of the critic.

        L(θ) = E[ ½ (V_θ(s) - target)² ]

    Returns a term. Reads `target, mask`, each [...], and `outputs.value`. Metrics: `value_mean`. Raises ValueError
    if the model has no critic or a field is missing or has another shape.

    The ½ is part of the definition here; brax multiplies by another ½, so its coefficient means half as much.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2))
    >>> float(value_loss()(po.Outputs(policy=None, value=jnp.zeros(2)), batch)[0])
    0.5
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("value_loss", outputs, batch)
        target = read("value_loss", batch, "target")
        return reduce(squared_error(value, target), batch), {"value_mean": token_mean(value, batch)}

    return term


def clipped_value_loss(*, clip_eps: Nonnegative = 0.2, reduce: Reduction = token_mean) -> Term:
    """Squared error of the critic, pessimistic about moving far from the value it had.

        L(θ) = E[ ½ max( (V_θ - target)², (V_old + clip(V_θ - V_old, -ε, ε) - target)² ) ]

    `clip_eps` is in units of the return, so its meaning depends on the reward scale (unlike PPO's, a ratio). Returns
    a term. Reads `value, target, mask`, each [...], and `outputs.value`. Metrics: `value_mean, clip_fraction`.
    Raises as `value_loss`, and ValueError if clip_eps is negative or NaN.

    Source: the PPO code of OpenAI baselines; the paper does not have it.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2),
    ...                  value=jnp.zeros(2))
    >>> round(float(clipped_value_loss(clip_eps=0.2)(po.Outputs(policy=None, value=jnp.ones(2)), batch)[0]), 3)
    0.32
    """
    check_range("clipped_value_loss", Nonnegative, clip_eps=clip_eps)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("clipped_value_loss", outputs, batch)
        target = read("clipped_value_loss", batch, "target")
        old = read("clipped_value_loss", batch, "value")
        return reduce(clipped_squared_error(value, target, old, clip_eps=clip_eps), batch), {
            "value_mean": token_mean(value, batch),
            "clip_fraction": token_mean(jnp.abs(value - old) > clip_eps, batch),
        }

    return term
