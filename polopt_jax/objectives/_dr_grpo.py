"""A variant of chapter 7: Dr. GRPO, GRPO without its two biases."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.ranges import Positive, check_clip_range, check_range
from polopt_jax.reductions import constant_length
from polopt_jax.surrogates import ClipRange, clipped_surrogate
from polopt_jax.types import Term


def dr_grpo(*, length: Positive, clip_eps: ClipRange = 0.2) -> Term:
    """Dr. GRPO: "GRPO done right".

        L(θ) = -E_i[ 1/L Σ_t min(ρ A, clip(ρ, 1-ε, 1+ε) A) ],    ρ = π_θ(a|s) / π_old(a|s)

    What makes it Dr. GRPO: the advantage is `group_centred`, not divided by the standard deviation, which favours
    questions that are nearly always or nearly never answered; and a row's *sum* is divided by a constant, not by the
    row's own length, which favours short right answers and long wrong ones. There is no reference.

    Args:
      length: L, the same for every row and batch, as the most tokens that an answer may have. Only a scale. May be
        traced.
      clip_eps: ε, or a pair (ε_low, ε_high). May be traced.

    Returns:
      A term over group batches `[N, G, T]` as a rule: `ppo` reduced by `constant_length(length)`.
      Reads `action, log_prob, advantage, mask`, each [...]. Metrics: `approx_kl, clip_fraction, clamped_fraction,
      num_valid`, as `ppo`.

    Raises: ValueError if length is not above 0, clip_eps is negative or either NaN (where it is concrete), and at trace
    time if a field is missing or has another shape.

    Differs from the paper: nothing. Its advantage is (G-1)/G of `leave_one_out`, which has no bias of scale.

    Source: Liu et al. 2025, "Understanding R1-Zero-like training: a critical perspective", section 3.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2)), action=jnp.zeros((1, 2), int), mask=jnp.ones((1, 2), bool),
    ...                  advantage=jnp.ones((1, 2)), log_prob=jnp.log(jnp.full((1, 2), 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 4))))
    >>> round(float(dr_grpo(length=4.0)(outputs, batch)[0]), 4)
    -0.6
    """
    check_range("dr_grpo", Positive, length=length)
    check_clip_range("dr_grpo", clip_eps=clip_eps)
    return ratio_term(partial(clipped_surrogate, clip_eps=clip_eps), reduce=constant_length(length), caller="dr_grpo")
