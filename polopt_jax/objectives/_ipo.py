"""A variant of chapter 6: IPO, whose loss has a finite optimum on every pair."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, mean_log_ratio
from polopt_jax.ranges import Positive, check_range
from polopt_jax.surrogates import squared_margin
from polopt_jax.types import Term


def ipo(*, beta: Positive = 0.1, score: Score = mean_log_ratio) -> Term:
    """Identity Preference Optimization.

        L(θ) = E[ (Δ - 1/(2β))² ],    Δ = s(chosen) - s(rejected),    s = mean_t log π_θ/ref

    A pair costs nothing where its margin is 1/(2β), and something again beyond: preferences that are never violated do
    not drive the policy arbitrarily far from the reference, as they do in `dpo`.

    Args:
      beta: strength of the KL to the reference, the paper's τ. May be traced.
      score: what a row is worth. The default is per decision; `summed_log_ratio` is the formula as it is printed, whose
        loss grows with the square of the length.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a quadratic link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy`, `margin` (mean Δ), `chosen_log_ratio`,
      `rejected_log_ratio`, `num_valid`, as `preference`.

    Raises: ValueError if beta is not above 0 (where it is concrete), and at trace time if the mask is not [2, N, T], or
    a field is missing or has another shape.

    Differs from the paper: the mean instead of the sum over a row. TRL averages as well, and has it from the authors
    that the paper's results were made that way.

    Source: Azar et al. 2023, "A general theoretical paradigm to understand learning from human preferences",
    equation 17.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> float(ipo(beta=0.25)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    4.0
    """
    check_range("ipo", Positive, beta=beta)
    return preference(partial(squared_margin, target=0.5 / beta), score, caller="ipo")
