"""A variant of chapter 6: APO says which way either row of a pair is to move."""

from __future__ import annotations

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import anchored_down, anchored_zero
from polopt_jax.types import Term


def apo_zero(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Anchored Preference Optimization, zero.

        L(θ) = E[ σ(-β s_c) + σ(β s_r) ],    s = Σ_t log π_θ/ref

    The chosen row becomes more probable than under the reference and the rejected one less. For a policy whose own rows
    are worse than the chosen ones.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with an anchored link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`,
      as `preference`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Source: D'Oosterlinck et al. 2024, "Anchored preference optimization and contrastive revisions", equation 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> float(apo_zero()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    1.0
    """
    check_range("apo_zero", Nonnegative, beta=beta)
    return preference(anchored_zero, score, beta=beta, caller="apo_zero")


def apo_down(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Anchored Preference Optimization, down.

        L(θ) = E[ σ(β s_c) + σ(β (s_r - s_c)) ],    s = Σ_t log π_θ/ref

    Both rows become less probable, the rejected one further. For a policy whose own rows are better than the chosen
    ones: it keeps what they say of the order, and does not imitate them.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with an anchored link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`,
      as `preference`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Source: D'Oosterlinck et al. 2024, "Anchored preference optimization and contrastive revisions", equation 8.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> float(apo_down()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    1.0
    """
    check_range("apo_down", Nonnegative, beta=beta)
    return preference(anchored_down, score, beta=beta, caller="apo_down")
