"""A variant of chapter 6: ORPO, supervised learning with a penalty on the odds of the rejected row."""

from __future__ import annotations

from polopt_jax.combinators import on_chosen, weighted_sum
from polopt_jax.objectives._likelihood import negative_log_likelihood
from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import mean_log_prob
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import bradley_terry, log_odds
from polopt_jax.types import Array, Reduction, Term


def orpo(*, odds_weight: Nonnegative = 0.1, reduce: Reduction = token_mean) -> Term:
    """Odds Ratio Preference Optimization.

        L(θ) = -E[ log π_θ(chosen) ] - λ E[ log σ(log odds(chosen) - log odds(rejected)) ],    odds = p / (1-p)

    p = exp(mean_t log π_θ), the geometric mean of a row's probabilities. One stage in place of two: the likelihood of
    the chosen rows is learnt, and the penalty keeps that of the rejected ones from rising along with it. No reference.

    Args:
      odds_weight: λ. May be traced.
      reduce: how the likelihood of the chosen rows becomes one number.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): a `weighted_sum` of `on_chosen(
      negative_log_likelihood())` and `preference` with the odds ratio as link and the mean log-probability as score.
      Reads `action, mask`. Metrics: those of the two, under `likelihood/` and `preference/`.

    Raises: ValueError if odds_weight is negative or NaN (where it is concrete), and at trace time if the mask is not
    [2, N, T], or a field is missing or has another shape.

    Differs from the paper: p is held 1e-7 below 1, where the odds are infinite.

    Source: Hong et al. 2024, "ORPO: Monolithic preference optimization without reference model", equations 6 and 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4))))
    >>> round(float(orpo(odds_weight=1.0)(outputs, batch)[0] - jnp.log(4.0)), 6)
    0.693147
    """
    check_range("orpo", Nonnegative, odds_weight=odds_weight)

    def link(chosen: Array, rejected: Array) -> Array:
        return bradley_terry(log_odds(chosen), log_odds(rejected))

    return weighted_sum(
        preference=(odds_weight, preference(link, mean_log_prob, caller="orpo")),
        likelihood=(1.0, on_chosen(negative_log_likelihood(reduce=reduce))),
    )
