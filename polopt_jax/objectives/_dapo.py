"""A variant of chapter 7: DAPO, GRPO that clips less from above and counts every token the same."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.ranges import check_clip_range
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import ClipRange, clipped_surrogate
from polopt_jax.types import Term


def dapo(*, clip_eps: ClipRange = (0.2, 0.28)) -> Term:
    """Decoupled clip and dynamic sampling policy optimization (DAPO).

        L(θ) = -1/Σ_i|y_i| Σ_i Σ_t min(ρ A, clip(ρ, 1-ε_low, 1+ε_high) A),    ρ = π_θ(a|s) / π_old(a|s)

    What makes it DAPO: the advantage is `group_relative`, one number per row; the clip leaves more room above, where an
    unlikely token becomes likely; and the mean is over the real decisions of the *whole* batch, `token_mean`, so that a
    long row weighs more than a short one. There is no reference.

    Args:
      clip_eps: (ε_low, ε_high), or one ε for both. The default is the paper's. May be traced.

    Returns:
      A term over group batches `[N, G, T]` as a rule: `ppo` with these defaults.
      Reads `action, log_prob, advantage, mask`, each [...]. Metrics: `approx_kl, clip_fraction, clamped_fraction,
      num_valid`, as `ppo`.

    Raises: ValueError if clip_eps is negative or NaN (where it is concrete), and at trace time if a field is missing
    or has another shape.

    Differs from the paper: its equation divides by the decisions of one group, its code and this by those of the batch
    (under `accumulate_gradients` too). Dynamic sampling (no group whose rewards are all equal) and the punishment of
    answers that are too long (`overlong_penalty`) are made before there is a batch; here the former have advantage 0
    but are counted.

    Source: Yu et al. 2025, "DAPO: an open-source LLM reinforcement learning system at scale", equation 8, section 4.1.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  advantage=jnp.ones(2), log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> round(float(dapo()(outputs, batch)[0]), 4)
    -1.28
    """
    check_clip_range("dapo", clip_eps=clip_eps)
    return ratio_term(partial(clipped_surrogate, clip_eps=clip_eps), reduce=token_mean, caller="dapo")
