"""A variant of chapter 7: GMPO, in which tokens are clipped one by one and then averaged geometrically."""

from __future__ import annotations

from polopt_jax.objectives._ratio_term import ratio_term, sequence_ratio
from polopt_jax.objectives._surrogate import importance_weighted
from polopt_jax.ranges import check_clip_range
from polopt_jax.reading import read
from polopt_jax.reductions import sequence_mean
from polopt_jax.surrogates import ClipRange, one_sided_clip
from polopt_jax.types import Array, Batch, Term


def gmpo(*, log_clip: ClipRange = 0.4) -> Term:
    """Geometric-Mean Policy Optimization.

        L(θ) = -E_i[ exp(1/|y| Σ_t c_t) A ],    c_t = min(log ρ_t, ε_high) for A > 0, max(log ρ_t, -ε_low) for A < 0

    GRPO's arithmetic mean of token ratios follows its outliers, a geometric mean does not; so the clip can be wide.
    Unlike GSPO's, it is of each token and comes *before* the mean. The advantage is `group_relative`, one number per
    row. There is no reference.

    Args:
      log_clip: ε, or a pair (ε_low, ε_high), in *nats* of log ρ: the default lets a ratio reach from e^-0.4 to e^0.4,
        as the paper does. It is no `clip_eps`, which is an offset of the ratio from 1. May be traced.

    Returns:
      A term over group batches `[N, G, T]` as a rule; rows must be whole. `ratio_term` with the gain ρA, the mean of
      clipped log-ratios as ratio, and `sequence_mean`. Reads `action, log_prob, advantage, mask`, each [...]. Metrics:
      `approx_kl`, `clip_fraction` (tokens whose gradient the clip removed), `clamped_fraction` (of rows whose mean is
      beyond ±20), `num_valid`.

    Raises: ValueError if log_clip is negative or NaN (where it is concrete), and at trace time if a field is missing
    or has another shape.

    Differs from the paper: nothing, where the advantage is one number per row. Where it is not, each token is clipped
    by the sign of its own, and the row's ratio is multiplied by their mean.

    Source: Zhao et al. 2025, "Geometric-mean policy optimization", arXiv 2507.20673; the range, section 4.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2)), action=jnp.zeros((1, 2), int), mask=jnp.ones((1, 2), bool),
    ...                  advantage=jnp.ones((1, 2)), log_prob=jnp.log(jnp.full((1, 2), 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 4))))
    >>> round(float(gmpo(log_clip=0.4)(outputs, batch)[0]), 4)  # -e^0.4: both ratios are 2
    -1.4918
    """
    check_clip_range("gmpo", log_clip=log_clip)

    def ratio(difference: Array, batch: Batch) -> Array:
        return sequence_ratio(one_sided_clip(difference, read("gmpo", batch, "advantage"), log_clip=log_clip), batch)

    return ratio_term(importance_weighted, ratio=ratio, reduce=sequence_mean, caller="gmpo")
