"""A variant of chapter 6: NCA raises the chosen row itself, not only its distance from the rejected one."""

from __future__ import annotations

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import noise_contrastive
from polopt_jax.types import Term


def nca(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Noise Contrastive Alignment, for pairs.

        L(θ) = -E[ log σ(β s_c) + ½ log σ(-β s_c) + ½ log σ(-β s_r) ],    s = Σ_t log π_θ/ref

    s_c and s_r are the scores of the chosen and of the rejected row. DPO sees their difference alone and often lowers
    both; here each is measured against the reference, and the chosen row is pushed up while β s_c is below log 2, and
    back above it. Where rows share parameters it may still fall at first, pulled down with the rejected one.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a noise-contrastive link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`,
      as `preference`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Differs from the paper: two rows with hard labels, of its K rows with rewards.

    Source: Chen et al. 2024, "Noise contrastive alignment of language models with explicit rewards".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(nca()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    1.386294
    """
    check_range("nca", Nonnegative, beta=beta)
    return preference(noise_contrastive, score, beta=beta, caller="nca")
