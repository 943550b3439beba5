"""A variant of chapter 6: SimPO needs no reference; a row is worth its mean log-probability."""

from __future__ import annotations

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import mean_log_prob
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import bradley_terry
from polopt_jax.types import Array, Term


def simpo(*, beta: Nonnegative = 2.0, gamma: Nonnegative = 1.0) -> Term:
    """Simple Preference Optimization.

        L(θ) = -E[ log σ(β (s_c - s_r) - γ) ],    s = mean_t log π_θ

    The score is what generation maximises, so that training and sampling agree on which row is better; nothing but the
    learning rate holds the policy to where it began.

    Args:
      beta: what a nat per decision counts. May be traced.
      gamma: γ, the margin in the reward that is asked for. The paper recommends γ/β between 0 and 1. May be traced.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a shifted Bradley-Terry link and
      the mean log-probability as score. Reads `action, mask`. Metrics: `accuracy` (ties at a difference of 0, not of
      γ), `margin` (without γ), `chosen_log_ratio`, `rejected_log_ratio` (mean log-probabilities), `num_valid`.

    Raises: ValueError if a hyperparameter is negative or NaN (where it is concrete), and at trace time if the mask is
    not [2, N, T], or a field is missing or has another shape.

    Differs from the paper: nothing. The defaults are those of its Llama-3-Base runs.

    Source: Meng et al. 2024, "SimPO: Simple preference optimization with a reference-free reward", equation 6.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(simpo(gamma=0.0)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    0.693147
    """
    check_range("simpo", Nonnegative, beta=beta, gamma=gamma)

    def link(chosen: Array, rejected: Array) -> Array:
        return bradley_terry(chosen, rejected + gamma)

    return preference(link, mean_log_prob, beta=beta, caller="simpo")
