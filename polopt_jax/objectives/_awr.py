"""Advantage-weighted regression: imitate what was done, the more the better it went."""

from __future__ import annotations

from polopt_jax.ranges import Positive, check_range
from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import exponential_weight
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def awr(*, beta: Positive = 0.05, cap: Positive = 20.0, reduce: Reduction = token_mean) -> Term:
    """Advantage-weighted regression.

        L(θ) = -E[ min(exp(A/β), cap) log π_θ(a|s) ]

    Maximum likelihood with weights: no ratio, so data of any age or origin may be used. The policy of least loss is the
    one that acted, times exp(A/β), which is the best within some KL of it: β is the multiplier of that bound.

    Args:
      beta: temperature, in units of the advantage: small is greedy, infinite is imitation. May be traced.
      cap: largest weight, at most e²⁰. May be traced.
      reduce: how decisions become one number.

    Returns:
      A term. Reads `action, advantage, mask`, each of leading shape [...]. Metrics: `weight_mean`, `capped_fraction`
      (decisions whose weight the cap cut), `num_valid`.

    Raises: ValueError if beta or cap is not above 0 (where it is concrete), and at trace time if a field is missing or
    has another shape.

    Differs from the paper: nothing; the advantage is the estimator's affair (theirs is a λ-return minus the value).

    Source: Peng et al. 2019, "Advantage-weighted regression", equation 11; the defaults are theirs.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  advantage=jnp.array([0.0, 9.0]))
    >>> loss, metrics = awr(cap=3.0)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4)))), batch)
    >>> round(float(loss), 4), float(metrics["weight_mean"]), float(metrics["capped_fraction"])
    (2.7726, 2.0, 0.5)
    """
    check_range("awr", Positive, beta=beta, cap=cap)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("awr", outputs, batch)
        advantage = read("awr", batch, "advantage")
        weight = exponential_weight(advantage, beta=beta, cap=cap)
        return -reduce(weight * log_prob, batch), {
            "weight_mean": token_mean(weight, batch),
            "capped_fraction": token_mean(exponential_weight(advantage, beta=beta, cap=float("inf")) > cap, batch),
            "num_valid": batch.mask.sum().astype(log_prob.dtype),
        }

    return term
