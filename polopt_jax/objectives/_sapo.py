"""A variant of chapter 7: SAPO, in which a gate closes gradually where GRPO clips."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.ranges import Positive, check_range
from polopt_jax.reductions import sequence_mean
from polopt_jax.surrogates import gated_surrogate
from polopt_jax.types import Reduction, Term


def sapo(
    *, temperature_positive: Positive = 1.0, temperature_negative: Positive = 1.05, reduce: Reduction = sequence_mean
) -> Term:
    """Soft Adaptive Policy Optimization.

        L(θ) = -E[ (4/τ) σ(τ(ρ - 1)) A ],    ρ = π_θ(a|s) / π_old(a|s),    τ = τ_pos where A > 0, else τ_neg

    A token's gradient is weighted by 4p(1-p), p = σ(τ(ρ-1)): wholly at ρ = 1, where it is the policy gradient, and less
    the further the policy has gone, on *both* sides of 1 and for either sign of A. Nothing is cut off at an edge. The
    advantage is `group_relative`. There is no reference.

    Args:
      temperature_positive, temperature_negative: τ; the larger, the narrower the gate. Below an advantage of 0 it is
        narrower by default, as those gradients raise all other tokens. The defaults are the paper's. May be traced.
      reduce: how decisions become one number.

    Returns:
      A term over group batches `[N, G, T]` as a rule: `ratio_term` with the gated gain.
      Reads `action, log_prob, advantage, mask`, each [...]. Metrics: `approx_kl`, `clip_fraction` (decisions whose
      gate is shut to the last digit: 0 as a rule), `clamped_fraction`, `num_valid`.

    Raises: ValueError if a temperature is not above 0 or NaN (where it is concrete), and at trace time if a field is
    missing or has another shape.

    Differs from the paper: nothing. The *value* at ρ = 1 is 2A/τ; only the gradient means something.

    Source: Gao et al. 2025, "Soft adaptive policy optimization", arXiv 2511.20347.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  advantage=jnp.ones(2), log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> round(float(sapo()(outputs, batch)[0]), 4)  # -4σ(1)
    -2.9242
    """
    check_range("sapo", Positive, temperature_positive=temperature_positive, temperature_negative=temperature_negative)
    gain = partial(
        gated_surrogate, temperature_positive=temperature_positive, temperature_negative=temperature_negative
    )
    return ratio_term(gain, reduce=reduce, caller="sapo")
