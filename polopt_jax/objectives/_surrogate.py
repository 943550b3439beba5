"""Chapters 3 and 4: the surrogate of the natural policy gradient and of TRPO. The rest of both is a solver."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.reductions import token_mean
from polopt_jax.types import Array, Reduction, Term


def importance_weighted(log_ratio: Array, advantage: Array) -> Array:
    """The gain ρA."""
    return jnp.exp(log_ratio) * advantage


def surrogate(*, reduce: Reduction = token_mean) -> Term:
    """The importance-weighted policy gradient that NPG and TRPO improve.

        L(θ) = -E[ ρ A ],    ρ = π_θ(a|s) / π_old(a|s)

    At θ_old its gradient is the policy gradient; away from it, it is what `trpo` checks for improvement. Log-ratios
    are clamped to ±20 (the gradient beyond is 0; `clamped_fraction` counts them).

    Returns a term: `ratio_term` with the gain ρA. Reads `action, log_prob, advantage, mask`, each of leading shape
    [...]. Metrics: `approx_kl` (k3 sample of KL(old ‖ new) per decision), `clip_fraction` (0: nothing is clipped),
    `clamped_fraction`, `num_valid`. Raises ValueError if a field is missing or has another shape.

    Source: Kakade & Langford 2002; Schulman et al. 2015 (TRPO), equation 14.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> float(surrogate()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4)))), batch)[0])
    -2.0
    """

    return ratio_term(importance_weighted, reduce=reduce, caller="surrogate")
