"""A variant of chapter 7: GSPO, in which one ratio speaks for the whole sequence; its token form; and LUSPO."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term, sequence_ratio, sequence_token_ratio
from polopt_jax.ranges import check_clip_range
from polopt_jax.reductions import sequence_mean, sequence_sum
from polopt_jax.surrogates import ClipRange, clipped_surrogate
from polopt_jax.types import Term


def gspo(*, clip_eps: ClipRange = (3e-4, 4e-4)) -> Term:
    """Group Sequence Policy Optimization.

        L(θ) = -E_i[ min(s A, clip(s, 1-ε, 1+ε) A) ],    s = (π_θ(y)/π_old(y))^(1/|y|)

    What makes it GSPO: the unit that is rewarded, a row, is also the unit that is weighted and clipped. The ratio is
    the geometric mean of the row's token ratios (`sequence_ratio`), so its range is narrow and ε a thousandth of
    PPO's. The advantage is `group_relative`, one number per row. There is no reference: a penalty is added, never
    multiplied by s.

    Args:
      clip_eps: (ε_low, ε_high), or one ε for both. The default is the paper's. May be traced.

    Returns:
      A term over group batches `[N, G, T]` as a rule; rows must be whole. `ratio_term` with `sequence_ratio` and
      `sequence_mean`. Reads `action, log_prob, advantage, mask`, each [...]. Metrics: `approx_kl` (per decision),
      `clip_fraction` (decisions of clipped rows), `clamped_fraction` (of rows whose log s is beyond ±20), `num_valid`.

    Raises: ValueError if clip_eps is negative or NaN (where it is concrete), and at trace time if a field is missing
    or has another shape.

    Differs from the paper: nothing, where the advantage is one number per row. Where it is not, a row's gain is the
    mean of its decisions' gains, all of them with the row's ratio; `gspo_token` is meant for that.

    Source: Zheng et al. 2025, "Group sequence policy optimization", equations 5 and 7; the range, section 5.1.

    >>> import jax, jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2)), action=jnp.zeros((1, 2), int), mask=jnp.ones((1, 2), bool),
    ...                  advantage=jnp.ones((1, 2)), log_prob=jnp.log(jnp.full((1, 2), 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 4))))
    >>> round(float(jax.jit(gspo())(outputs, batch)[0]), 4)
    -1.0004
    """
    check_clip_range("gspo", clip_eps=clip_eps)
    gain = partial(clipped_surrogate, clip_eps=clip_eps)
    return ratio_term(gain, ratio=sequence_ratio, reduce=sequence_mean, caller="gspo")


def gspo_token(*, clip_eps: ClipRange = (3e-4, 4e-4)) -> Term:
    """GSPO whose advantage may differ from token to token.

        L(θ) = -E_i[ 1/|y| Σ_t min(s_t A_t, clip(s_t, 1-ε, 1+ε) A_t) ],    s_t = sg[s] π_θ(y_t) / sg[π_θ(y_t)]

    Every s_t has the value of the row's ratio s and the gradient of its own token (sg: no gradient through it). With
    one advantage per row, value and gradient are those of `gspo`.

    Args:
      clip_eps: as `gspo`. May be traced.

    Returns:
      A term: `ratio_term` with `sequence_token_ratio` and `sequence_mean`. Reads `action, log_prob, advantage, mask`,
      each [...]. Metrics: `approx_kl, clip_fraction, clamped_fraction, num_valid`, as `gspo`.

    Raises: as `gspo`.

    Source: Zheng et al. 2025, "Group sequence policy optimization", equations 13 and 14.

    >>> import jax, jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2)), action=jnp.zeros((1, 2), int), mask=jnp.ones((1, 2), bool),
    ...                  advantage=jnp.ones((1, 2)), log_prob=jnp.log(jnp.full((1, 2), 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 4))))
    >>> round(float(jax.jit(gspo_token())(outputs, batch)[0]), 4)
    -1.0004
    """
    check_clip_range("gspo_token", clip_eps=clip_eps)
    gain = partial(clipped_surrogate, clip_eps=clip_eps)
    return ratio_term(gain, ratio=sequence_token_ratio, reduce=sequence_mean, caller="gspo_token")


def luspo(*, clip_eps: ClipRange = (2e-3, 2.5e-3)) -> Term:
    """Length-Unbiased Sequence Policy Optimization: GSPO whose rows weigh by their lengths.

        L(θ) = -E_i[ |y| min(s A, clip(s, 1-ε, 1+ε) A) ],    s = (π_θ(y)/π_old(y))^(1/|y|)

    In GSPO the gradient of a token is divided by the length of its row, so that long rows learn less per token. Here it
    is not: `gspo` reduced by `sequence_sum`.

    Args:
      clip_eps: (ε_low, ε_high), or one ε for both. The default is the paper's. May be traced.

    Returns:
      A term: `ratio_term` with `sequence_ratio` and `sequence_sum`. Reads `action, log_prob, advantage, mask`, each
      [...]. Metrics: `approx_kl, clip_fraction, clamped_fraction, num_valid`, as `gspo`.

    Raises: as `gspo`.

    Source: "Length-unbiased sequence policy optimization", 2026, arXiv 2602.05261; the range, section 5.1.

    >>> import jax, jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2)), action=jnp.zeros((1, 2), int), mask=jnp.ones((1, 2), bool),
    ...                  advantage=jnp.ones((1, 2)), log_prob=jnp.log(jnp.full((1, 2), 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 4))))
    >>> round(float(jax.jit(luspo())(outputs, batch)[0]), 4)
    -2.005
    """
    check_clip_range("luspo", clip_eps=clip_eps)
    gain = partial(clipped_surrogate, clip_eps=clip_eps)
    return ratio_term(gain, ratio=sequence_ratio, reduce=sequence_sum, caller="luspo")
