"""Chapter 5: PPO. The trust region becomes a clip inside a first-order loss."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.ranges import check_clip_range
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import ClipRange, clipped_surrogate
from polopt_jax.types import Reduction, Term


def ppo(*, clip_eps: ClipRange = 0.2, reduce: Reduction = token_mean) -> Term:
    """Clipped surrogate objective of PPO.

        L(θ) = -E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ],    ρ = π_θ(a|s) / π_old(a|s)

    The gradient is exactly 0 where (A > 0, ρ > 1+ε) or (A < 0, ρ < 1-ε), and that of `surrogate` elsewhere: the clip
    removes the reason to go further, it does not pull back. For A < 0 and ρ large the loss is unbounded.

    Args:
      clip_eps: ε, or a pair (ε_low, ε_high); infinity does not clip. May be traced.
      reduce: how decisions become one number.

    Returns:
      A term: `ratio_term` with the clipped gain. Reads `action, log_prob, advantage, mask`, each of leading shape
      [...]. Metrics: `approx_kl` (k3 sample of KL(old ‖ new) per decision), `clip_fraction` (decisions whose gradient
      the clip removed), `clamped_fraction` (log-ratios beyond ±20, whose gradient is 0), `num_valid`.

    Raises: ValueError if clip_eps is negative or NaN (where it is concrete), and at trace time if a field is missing
    or has another shape.

    Differs from the paper: the value and entropy terms are separate; add them with `weighted_sum`. Its KL-penalty
    variant is `surrogate` plus `kl_to_reference(model, old_params, divergence=action_kl)`, which is KL(old ‖ new), with
    a weight that `update_kl_penalty` adapts.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", equation 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> loss, metrics = ppo(clip_eps=0.2)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4)))), batch)
    >>> round(float(loss), 4), float(metrics["clip_fraction"])
    (-1.2, 1.0)
    """

    check_clip_range("ppo", clip_eps=clip_eps)
    return ratio_term(partial(clipped_surrogate, clip_eps=clip_eps), reduce=reduce, caller="ppo")
