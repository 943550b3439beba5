"""The seam of every importance-weighted objective: a gain of (log-ratio, advantage), a ratio, a reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from polopt_jax.masking import masked_mean, masked_sum
from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import LOG_RATIO_LIMIT, k3, log_ratio
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term

Gain: TypeAlias = Callable[[Array, Array], Array]
"""`(log ρ, A) -> gain`, elementwise, to be maximised."""
Ratio: TypeAlias = Callable[[Array, Batch], Array]
"""`(log π_θ/π_old of every decision, batch) -> log ρ`, both `[...]`."""


def token_ratio(difference: Array, batch: Batch) -> Array:
    """Every decision's own log-ratio: `difference` as it is."""
    del batch
    return difference


def sequence_ratio(difference: Array, batch: Batch) -> Array:
    """The mean log-ratio of a row's real decisions, repeated over them: ρ is their geometric mean (GSPO).

    log s = 1/|y| Σ_t log π_θ/π_old
    """
    mean = masked_mean(difference, batch.mask, axis=-1)
    return jnp.broadcast_to(mean[..., None], difference.shape)


def sequence_token_ratio(difference: Array, batch: Batch) -> Array:
    """The value of `sequence_ratio`, with the gradient of each decision's own log-ratio (GSPO-token).

    log s_t = sg[log s] + log π_θ - sg[log π_θ]
    """
    constant = jax.lax.stop_gradient
    own = jnp.where(jnp.isfinite(difference), difference, 0)  # an infinite one has no gradient, and inf - inf no value
    return constant(sequence_ratio(difference, batch)) + own - constant(own)


def trajectory_ratio(difference: Array, batch: Batch) -> Array:
    """The sum of the log-ratios of a row's real decisions, repeated over them: the ratio of the row's probabilities."""
    total = masked_sum(difference, batch.mask, axis=-1)
    return jnp.broadcast_to(total[..., None], difference.shape)


def ratio_term(
    gain: Gain, *, ratio: Ratio = token_ratio, reduce: Reduction = token_mean, caller: str | None = None
) -> Term:
    """An importance-weighted policy objective, of which `surrogate`, `ppo` and `grpo` are members.

        L(θ) = -E[ gain(log ρ, A) ],    ρ = π_θ(a|s) / π_old(a|s)

    A member is its gain: `surrogate` has ρA, `ppo` the clipped one. Log-ratios are clamped to ±20 before the gain
    sees them (the gradient beyond is 0; `clamped_fraction` counts them).

    Args:
      gain: elementwise function of the log-ratio and the advantage, e.g. `lambda log_ratio, advantage: ...`.
      ratio: which log-ratio the gain sees, given that of every decision and the batch; `token_ratio` is the
        decision's own. One of a whole row must be repeated over its decisions, as `sequence_ratio` is.
      reduce: how decisions become one number.
      caller: the name that errors give; that of this function if None.

    Returns:
      A term. Reads `action, log_prob, advantage, mask`, each of leading shape [...]. Metrics: `approx_kl` (k3 sample of
      KL(old ‖ new) per decision, of log-ratios clamped to ±20), `clip_fraction` (decisions with an advantage of whose
      gradient the gain or the ratio leaves nothing), `clamped_fraction` (log-ratios beyond ±20), `num_valid`.

    Raises (at trace time): ValueError if a field is missing or has another shape.

    Source: the importance-weighted surrogate is Kakade & Langford 2002's.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> truncated = ratio_term(lambda log_ratio, advantage: jnp.minimum(jnp.exp(log_ratio), 1.5) * advantage)
    >>> loss, metrics = truncated(outputs, batch)
    >>> float(loss), float(metrics["clip_fraction"])
    (-1.5, 1.0)
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        name = caller or "ratio_term"
        return ratio_loss(name, read_log_prob(name, outputs, batch), batch, gain, ratio, reduce)

    return term


def ratio_loss(
    caller: str, log_prob: Array, batch: Batch, gain: Gain, ratio: Ratio, reduce: Reduction
) -> tuple[Array, Metrics]:
    """`ratio_term` from log-probabilities that were read already, for members that need them once more."""
    old_log_prob = read(caller, batch, "log_prob")
    advantage = read(caller, batch, "advantage")
    difference = log_prob - old_log_prob
    log_rho = ratio(difference, batch)
    clamped = log_ratio(log_rho, jnp.zeros_like(log_rho))
    constant = jax.lax.stop_gradient((difference, clamped))
    _, pull = jax.vjp(lambda x: ratio(x, batch), constant[0])
    _, slope = jax.jvp(lambda x: gain(x, advantage), (constant[1],), (jnp.ones_like(constant[1]),))
    removed = (slope == 0) | (pull(jnp.ones_like(log_rho))[0] == 0)
    to_old = log_ratio(old_log_prob, log_prob)
    return -reduce(gain(clamped, advantage), batch), {
        "approx_kl": token_mean(k3(to_old), batch),
        "clip_fraction": token_mean(removed & (advantage != 0), batch),
        "clamped_fraction": token_mean(jnp.abs(log_rho) > LOG_RATIO_LIMIT, batch),
        "num_valid": batch.mask.sum().astype(log_prob.dtype),
    }
