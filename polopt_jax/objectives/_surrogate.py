"""Chapters 3 and 4: the surrogate of the natural policy gradient and of TRPO. The rest of both is a solver."""

import jax.numpy as jnp

from polopt_jax.masking import LOG_RATIO_LIMIT, log_ratio, read, read_log_prob, token_mean
from polopt_jax.surrogates import k3
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def ratio_metrics(log_prob: Array, old_log_prob: Array, batch: Batch) -> Metrics:
    """What every importance-weighted term reports, as means over decisions."""
    clamped = jnp.abs(log_prob - old_log_prob) > LOG_RATIO_LIMIT
    new_over_old = log_ratio(log_prob, old_log_prob)
    return {
        "approx_kl": token_mean(k3(jnp.zeros_like(new_over_old), new_over_old), batch),
        "clamped_fraction": token_mean(clamped, batch),
        "num_valid": batch.mask.sum().astype(log_prob.dtype),
    }


def surrogate(*, reduce: Reduction = token_mean) -> Term:
    """The importance-weighted policy gradient that NPG and TRPO improve.

        L(θ) = -E[ ρ A ],    ρ = π_θ(a|s) / π_old(a|s)

    At θ_old its gradient is the policy gradient; away from it, it is what `trpo` checks for improvement. Log-ratios
    are clamped to ±20 (the gradient beyond is 0; `clamped_fraction` counts them).

    Returns a term. Reads `action, log_prob, advantage, mask`, each of leading shape [...]. Metrics: `approx_kl` (k3
    sample of KL(old ‖ new) per decision), `clamped_fraction`, `num_valid`. Raises ValueError if a field is missing or
    has another shape. Source: Kakade & Langford 2002; Schulman et al. 2015 (TRPO), equation 14.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> float(surrogate()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4)))), batch)[0])
    -2.0
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("surrogate", outputs, batch)
        old_log_prob = read("surrogate", batch, "log_prob")
        advantage = read("surrogate", batch, "advantage")
        loss = -reduce(jnp.exp(log_ratio(log_prob, old_log_prob)) * advantage, batch)
        return loss, ratio_metrics(log_prob, old_log_prob, batch)

    return term
