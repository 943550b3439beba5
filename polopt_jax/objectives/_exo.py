"""A variant of chapter 6: EXO, which turns the divergence of DPO's likelihood around."""

from __future__ import annotations

from functools import partial
from typing import Annotated, TypeAlias

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Interval, Nonnegative, check_range
from polopt_jax.surrogates import kl_to_label
from polopt_jax.types import ArrayLike, Term

Smoothing: TypeAlias = Annotated[ArrayLike, Interval(0, 0.5, above=True, below=True)]
"""A smoothing that is not nothing."""


def exo(*, beta: Nonnegative = 0.1, label_smoothing: Smoothing = 1e-3, score: Score = summed_log_ratio) -> Term:
    """Efficient Exact Optimization, for pairs.

        L(θ) = E[ KL(p_θ ‖ q) ],    p_θ = (σ(βΔ), σ(-βΔ)),    q = (1-ε, ε),    Δ = s(chosen) - s(rejected)

    DPO minimises KL(q ‖ p_θ), which covers every mode of q; this direction seeks one, as reinforcement learning with a
    KL penalty does. s = Σ_t log π_θ/ref. A pair costs nothing where σ(βΔ) = 1-ε.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      label_smoothing: ε, above 0, where the loss is infinite, and below ½. May be traced.
      score: what a row is worth, as in `preference`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with the KL to the label as link.
      Reads `action, ref_log_prob, mask`. Metrics: `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`,
      as `preference`.

    Raises: ValueError if a hyperparameter is outside its range (where it is concrete), and at trace time if the mask is
    not [2, N, T], or a field is missing or has another shape.

    Differs from the paper: two rows with smoothed hard labels (its EXO-pref), of its K rows with rewards.

    Source: Ji et al. 2024, "Towards efficient exact optimization of language model alignment", equation 16.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4))))
    >>> round(float(exo(label_smoothing=0.1)(outputs, batch)[0]), 6)
    0.510826
    """
    check_range("exo", Nonnegative, beta=beta)
    check_range("exo", Smoothing, label_smoothing=label_smoothing)
    return preference(partial(kl_to_label, label_smoothing=label_smoothing), score, beta=beta, caller="exo")
