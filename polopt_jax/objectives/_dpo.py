"""Chapter 6: Direct Preference Optimization (not Discovered Policy Optimisation, which some libraries call dpo).

The KL-regularised optimum is inverted, so that a preference between two whole rows trains the policy directly.
"""

from __future__ import annotations

from polopt_jax.objectives._preference import preference, summed_log_ratio
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import bradley_terry
from polopt_jax.types import Term


def dpo(*, beta: Nonnegative = 0.1) -> Term:
    """Direct Preference Optimization.

        L(θ) = -E[ log σ(β Δ) ],    Δ = Σ_t log(π_θ/ref)(chosen) - Σ_t log(π_θ/ref)(rejected)

    Log-probabilities are *summed* over a row's real decisions, never averaged. The KL that β weighs is to the fixed
    reference policy, not to the policy before the update. At π_θ = ref the margin is exactly 0 and the loss log 2.

    Args:
      beta: strength of the implicit KL to the reference: the optimum is π ∝ ref exp(r/β). May be traced.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with the Bradley-Terry link and the
      summed log-ratio as score. Reads `action, ref_log_prob, mask`. Averages over pairs whose two rows both have a
      real decision. Metrics: `accuracy` (share with Δ > 0, ties count ½), `margin` (mean βΔ), `chosen_log_ratio`,
      `rejected_log_ratio` (mean log π/ref per row), `num_valid`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not
    [2, N, T], or a field is missing or has another shape.

    Differs from the paper: no label smoothing.

    Source: Rafailov et al. 2023, "Direct preference optimization", equation 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> loss, metrics = dpo(beta=0.1)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)
    >>> round(float(loss), 6), float(metrics["accuracy"])
    (0.693147, 0.5)
    """

    check_range("dpo", Nonnegative, beta=beta)
    return preference(bradley_terry, summed_log_ratio, beta=beta, caller="dpo")
