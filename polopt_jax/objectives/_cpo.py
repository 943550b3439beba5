"""A variant of chapter 6: CPO, DPO with a uniform reference and the likelihood of the chosen rows."""

from __future__ import annotations

from polopt_jax.combinators import on_chosen, weighted_sum
from polopt_jax.objectives._likelihood import negative_log_likelihood
from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import summed_log_prob
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import bradley_terry
from polopt_jax.types import Reduction, Term


def cpo(*, beta: Nonnegative = 0.1, likelihood_weight: Nonnegative = 1.0, reduce: Reduction = token_mean) -> Term:
    """Contrastive Preference Optimization.

        L(θ) = -E[ log σ(β (s_c - s_r)) ] - w E[ log π_θ(chosen) ],    s = Σ_t log π_θ

    It *is* `weighted_sum(preference=(1, preference(bradley_terry, summed_log_prob)), likelihood=(w,
    on_chosen(negative_log_likelihood())))`: no reference is evaluated or kept, and the likelihood keeps the policy near
    the chosen rows in its place.

    Args:
      beta: what a nat of difference counts. May be traced.
      likelihood_weight: w. May be traced.
      reduce: how the likelihood of the chosen rows becomes one number; the paper prints `sequence_sum`, and its code
        has the default.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `action, mask`. Metrics: those of
      `preference` and `negative_log_likelihood`, under `preference/` and `likelihood/`.

    Raises: ValueError if a hyperparameter is negative or NaN (where it is concrete), and at trace time if the mask is
    not [2, N, T], or a field is missing or has another shape.

    Source: Xu et al. 2024, "Contrastive preference optimization".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4))))
    >>> round(float(cpo(likelihood_weight=0.0)(outputs, batch)[0]), 6)
    0.693147
    """
    check_range("cpo", Nonnegative, beta=beta, likelihood_weight=likelihood_weight)
    return weighted_sum(
        preference=(1.0, preference(bradley_terry, summed_log_prob, beta=beta, caller="cpo")),
        likelihood=(likelihood_weight, on_chosen(negative_log_likelihood(reduce=reduce))),
    )
