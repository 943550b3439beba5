"""A variant of chapter 6: KTO learns from rows that are labelled good or bad one by one, without pairs."""

from __future__ import annotations

from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.objectives._unpaired import unpaired_preference
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import saturating
from polopt_jax.types import Term


def kto(
    *,
    beta: Nonnegative = 0.1,
    desirable_weight: Nonnegative = 1.0,
    undesirable_weight: Nonnegative = 1.0,
    score: Score = summed_log_ratio,
) -> Term:
    """Kahneman-Tversky Optimization.

        L(θ) = E[ λ_y σ(-y β (s - z)) ],    s = Σ_t log π_θ/ref,    y = 1 of a desirable row, -1 of an undesirable one

    A value function that is concave for gains and convex for losses: rows that are far on the wrong side teach little,
    as do those that are far on the right one. z is the reference point, an estimate of KL(π ‖ ref) that has no
    gradient: `kl_reference_point` makes it of rows whose completion belongs to another prompt.

    Args:
      beta: β, the aversion to risk. May be traced.
      desirable_weight, undesirable_weight: λ_D and λ_U; the paper wants λ_D n_D / (λ_U n_U) between 1 and 3/2, where
        n counts rows. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over `[N, T]`: `unpaired_preference` with a sigmoid as link.
      Reads `action, label, reference_point, ref_log_prob, mask`. Metrics: `accuracy, margin, log_ratio,
      desirable_fraction, num_valid`.

    Raises: ValueError if a hyperparameter is negative or NaN (where it is concrete), and at trace time if a field is
    missing or has another shape; TypeError if the label is not boolean.

    Differs from the paper: its constant λ_y is left out of the loss, λ_y - v, so that the loss is never negative. The
    reference point is read, not made here; one of zeros gives APO-zero on unpaired rows (TRL's `apo_zero_unpaired`).

    Source: Ethayarajh et al. 2024, "KTO: Model alignment as prospect theoretic optimization".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((3, 1)), action=jnp.zeros((3, 1), int), mask=jnp.ones((3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((3, 1), 0.25)), label=jnp.array([True, False, True]),
    ...                  reference_point=jnp.zeros(3))
    >>> float(kto()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((3, 1, 4)))), batch)[0])
    0.5
    """
    weights = dict(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    check_range("kto", Nonnegative, beta=beta, **weights)
    return unpaired_preference(saturating, score, beta=beta, **weights, caller="kto")
