"""A variant of chapter 6: SPPO, an update of self-play towards a Nash equilibrium of the preferences."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Positive, check_range
from polopt_jax.surrogates import squared_scores
from polopt_jax.types import Term


def sppo(*, beta: Positive = 1e-3, score: Score = summed_log_ratio) -> Term:
    """Self-Play Preference Optimization, with hard labels.

        L(θ) = E[ (s_c - 1/(2β))² + (s_r + 1/(2β))² ],    s = Σ_t log π_θ/ref

    The multiplicative-weights update of a two-player game: the log-ratio of a row is regressed on its chance to win
    less ½, times 1/β. The reference is the policy of the last iteration, not a fixed one: rows are sampled from it
    anew.

    Args:
      beta: 1/η of the game, whose η is 1e3 in the paper. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a square of each score as link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy`, `margin` (mean s_c - s_r), `chosen_log_ratio`,
      `rejected_log_ratio`, `num_valid`, as `preference`.

    Raises: ValueError if beta is not above 0 (where it is concrete), and at trace time if the mask is not [2, N, T], or
    a field is missing or has another shape.

    Differs from the paper: a winner wins with probability 1 and a loser with 0, where the paper estimates both.

    Source: Wu et al. 2024, "Self-play preference optimization for language model alignment", equation 4.7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> float(sppo(beta=0.25)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    8.0
    """
    check_range("sppo", Positive, beta=beta)
    return preference(partial(squared_scores, target=0.5 / beta), score, caller="sppo")
