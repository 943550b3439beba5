"""A variant of chapter 6: BCO trains a classifier of good and bad rows; its logit is the log-ratio to the reference."""

from __future__ import annotations

from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.objectives._unpaired import unpaired_preference
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import binary_cross_entropy
from polopt_jax.types import Term


def bco(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Binary Classifier Optimization.

        L(θ) = -E[ log σ(y β (s - z)) ],    s = Σ_t log π_θ/ref,    y = 1 of a desirable row, -1 of an undesirable one

    The loss bounds DPO's from above where z is the mean reward of both kinds, `mean_reference_point`; the bound is the
    closer, the nearer that shift.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over `[N, T]`: `unpaired_preference` with the logistic loss as link.
      Reads `action, label, reference_point, ref_log_prob, mask`. Metrics: `accuracy, margin, log_ratio,
      desirable_fraction, num_valid`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if a field is missing or has
    another shape; TypeError if the label is not boolean.

    Differs from the paper: the two kinds are averaged together, each row counting the same, and the weights for
    prompts that differ between the kinds (its density ratio) are left out. The shift is read, not kept as a running
    mean: keep that mean in a state of your own.

    Source: Jung et al. 2024, "Binary classifier optimization for large language model alignment".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((3, 1)), action=jnp.zeros((3, 1), int), mask=jnp.ones((3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((3, 1), 0.25)), label=jnp.array([True, False, True]),
    ...                  reference_point=jnp.zeros(3))
    >>> round(float(bco()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((3, 1, 4)))), batch)[0]), 6)
    0.693147
    """
    check_range("bco", Nonnegative, beta=beta)
    return unpaired_preference(binary_cross_entropy, score, beta=beta, caller="bco")
