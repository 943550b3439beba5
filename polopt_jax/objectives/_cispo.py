"""A variant of chapter 7: CISPO, which caps the weight of a token and never drops its gradient."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp

from polopt_jax.objectives._ratio_term import ratio_loss, token_ratio
from polopt_jax.ranges import AtLeastOne, check_range
from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import capped_score
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def cispo(*, cap: AtLeastOne = 5.0, reduce: Reduction = token_mean) -> Term:
    """Clipped Importance-Sampling-weight Policy Optimization.

        L(θ) = -E[ sg[min(ρ, c)] A log π_θ(a|s) ],    ρ = π_θ(a|s) / π_old(a|s)

    PPO's clip takes the whole gradient from tokens that moved far, often rare ones on which an argument turns. Here
    they keep theirs, and only the weight is bounded (sg: no gradient through it). Where ρ ≤ c the gradient is that of
    `surrogate`. The advantage is `group_relative` as a rule. There is no reference.

    Args:
      cap: c, a bound of the ratio *itself* and not an offset from 1, so it is no `clip_eps`. The default is ScaleRL's.
        May be traced.
      reduce: how decisions become one number; the default is the paper's.

    Returns:
      A term over group batches `[N, G, T]` as a rule: `ratio_term` with the capped score as gain.
      Reads `action, log_prob, advantage, mask`, each [...]. Metrics: `approx_kl`, `clip_fraction` (0: no gradient is
      removed), `capped_fraction` (decisions whose ratio is above c), `clamped_fraction`, `num_valid`.

    Raises: ValueError if cap is below 1 or NaN (where it is concrete), and at trace time if a field is missing or has
    another shape.

    Differs from the paper: the value is written with log ρ in place of log π, which differs by a constant, so that it
    is 0 at ρ = 1. The paper has a lower bound of the weight as well and sets it to nothing. Beyond log-ratios of ±20
    the gradient is 0.

    Source: MiniMax 2025, "MiniMax-M1", arXiv 2506.13585; the bound as an absolute one: Khatri et al. 2025, "The art of
    scaling reinforcement learning compute for LLMs", arXiv 2510.13786.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  advantage=jnp.ones(2), log_prob=jnp.log(jnp.full(2, 0.025)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> loss, metrics = cispo(cap=5.0)(outputs, batch)  # ρ = 10
    >>> round(float(loss), 3), float(metrics["capped_fraction"])
    (-11.513, 1.0)
    """
    check_range("cispo", AtLeastOne, cap=cap)
    gain = partial(capped_score, cap=cap)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("cispo", outputs, batch)
        loss, metrics = ratio_loss("cispo", log_prob, batch, gain, token_ratio, reduce)
        capped = log_prob - read("cispo", batch, "log_prob") > jnp.log(cap)
        return loss, {**metrics, "capped_fraction": token_mean(capped, batch)}

    return term
