"""A variant of chapter 6: DiscoPOP, a link that a language model proposed and experiments chose."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Nonnegative, Positive, check_range
from polopt_jax.surrogates import modulated
from polopt_jax.types import Term


def discopop(*, beta: Nonnegative = 0.05, temperature: Positive = 0.05, score: Score = summed_log_ratio) -> Term:
    """Discovered Preference Optimization: the log-ratio-modulated loss.

        L(θ) = E[ -(1-m) log σ(x) + m exp(-x) ],    x = βΔ,    m = σ(x/τ),    Δ = s(chosen) - s(rejected)

    Logistic where the pair is in the wrong order, exponential where it is in the right one; s = Σ_t log π_θ/ref. It is
    *not convex*: between, near x = 0, the loss rises with the margin where τ is below (1 - log 2)/3 = .102, as it is by
    default. At π_θ = ref, where training begins, every pair is at x = 0, and its gradient *lowers* the margin.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      temperature: τ of the blend. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a blend of two losses as link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`,
      as `preference`.

    Raises: ValueError if beta is negative or temperature not above 0 (where they are concrete), and at trace time if
    the mask is not [2, N, T], or a field is missing or has another shape.

    Source: Lu et al. 2024, "Discovering preference optimization algorithms with and for large language models",
    equation 5.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(discopop()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    0.846574
    """
    check_range("discopop", Nonnegative, beta=beta)
    check_range("discopop", Positive, temperature=temperature)
    return preference(partial(modulated, temperature=temperature), score, beta=beta, caller="discopop")
