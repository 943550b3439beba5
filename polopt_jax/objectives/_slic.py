"""A variant of chapter 6: SLiC, whose pairs cost nothing once they are far enough apart."""

from __future__ import annotations

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import hinge
from polopt_jax.types import Term


def slic(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Sequence Likelihood Calibration: a hinge in place of DPO's logistic link.

        L(θ) = E[ max(0, 1 - β Δ) ],    Δ = s(chosen) - s(rejected),    s = Σ_t log π_θ/ref

    Pairs whose margin βΔ is above 1 have no gradient, so the policy stops when the preferences are satisfied.

    Args:
      beta: what a nat of margin counts; 1/β is the margin that is asked for. May be traced.
      score: what a row is worth. The default is RSO's normalised hinge and TRL's `hinge`; `summed_log_prob` is
        SLiC-HF's calibration loss, which has no reference, with δ = 1/β and divided by δ.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a hinge as link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`,
      as `preference`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Differs from the paper: SLiC-HF adds the likelihood of supervised targets; add
    `on_chosen(negative_log_likelihood())` with `weighted_sum`.

    Source: Zhao et al. 2023, "SLiC-HF"; Liu et al. 2023, "Statistical rejection sampling improves preference
    optimization" (the normalised hinge).

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> float(slic()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    1.0
    """
    check_range("slic", Nonnegative, beta=beta)
    return preference(hinge, score, beta=beta, caller="slic")
