"""A variant of chapters 5 and 7: the dual clip, which bounds what a bad action that has become likely can cost."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.ranges import AboveOne, check_clip_range, check_range
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import ClipRange, dual_clipped_surrogate
from polopt_jax.types import Reduction, Term


def dual_clip(*, clip_eps: ClipRange = 0.2, cap: AboveOne = 3.0, reduce: Reduction = token_mean) -> Term:
    """PPO with a second clip, and GRPO's two-sided clip.

        L(θ) = -E[ max(g, c A) where A < 0, else g ],    g = min(ρ A, clip(ρ, 1-ε, 1+ε) A),    ρ = π_θ(a|s) / π_old(a|s)

    For A < 0 PPO's loss grows with ρ without bound, and one token that became likely by accident decides the step. Here
    it stays below c|A|, and the gradient is exactly 0 where ρ > c. With c = ∞ it is `ppo`.

    Args:
      clip_eps: ε, or a pair (ε_low, ε_high). May be traced.
      cap: c, a bound of the ratio itself and not an offset from 1; it should be above 1+ε_high. The default is the
        paper's; INTELLECT-2, whose δ it is, has 4. May be traced.
      reduce: how decisions become one number; `sequence_mean` is GRPO's.

    Returns:
      A term: `ratio_term` with the dual-clipped gain. Reads `action, log_prob, advantage, mask`, each [...]. Metrics:
      `approx_kl, clip_fraction` (of either clip), `clamped_fraction, num_valid`, as `ppo`.

    Raises: ValueError if clip_eps is negative, cap not above 1 or either NaN (where it is concrete), and at trace time
    if a field is missing or has another shape.

    Differs from the paper: nothing. The two-sided clip min(min(ρ, δ) A, clip(ρ, 1-ε, 1+ε) A) is the same function for
    every δ of at least 1+ε_high, and its authors ask for one above.

    Source: Ye et al. 2020, "Mastering complex control in MOBA games with deep reinforcement learning"; Prime
    Intellect 2025, "INTELLECT-2", section 4.1.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  advantage=-jnp.ones(2), log_prob=jnp.log(jnp.full(2, 0.01)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> loss, metrics = dual_clip(cap=3.0)(outputs, batch)
    >>> float(loss), float(metrics["clip_fraction"])
    (3.0, 1.0)
    """
    check_clip_range("dual_clip", clip_eps=clip_eps)
    check_range("dual_clip", AboveOne, cap=cap)
    gain = partial(dual_clipped_surrogate, clip_eps=clip_eps, cap=cap)
    return ratio_term(gain, reduce=reduce, caller="dual_clip")
