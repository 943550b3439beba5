"""What the scores of labelled rows are measured from: KTO's estimate of the KL, and BCO's shift.

One number for the whole batch, repeated over its rows, so that it can be cut with them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, check_shape, masked_mean, masked_sum
from polopt_jax.types import Array


def _scores(caller: str, log_prob: Array, ref_log_prob: Array, mask: Array) -> Array:
    """Σ_t log π/ref per row `[..., N]`."""
    if mask.dtype != jnp.bool_:
        raise TypeError(f"{caller}: mask must be boolean; its dtype is {mask.dtype}")
    if mask.ndim < 2:
        raise ValueError(f"{caller}: mask must be [..., N, T]; it has shape {mask.shape}")
    check_shape(caller, "log_prob", log_prob, mask.shape, of="mask")
    check_shape(caller, "ref_log_prob", ref_log_prob, mask.shape, of="mask")
    return masked_sum(accumulate(log_prob), mask, axis=-1) - masked_sum(accumulate(ref_log_prob), mask, axis=-1)


def kl_reference_point(*, log_prob: Array, ref_log_prob: Array, mask: Array) -> Array:
    """KTO's reference point: an estimate of KL(π ‖ ref), of rows whose completion was written for *another* prompt.

        z = max(0, 1/N Σ_n Σ_t log π(y_t|x', y_<t) / ref(y_t|x', y_<t)),    y the completion of x ≠ x'

    Of completions at their own prompts it would be the mean of the scores that are measured from it.

    Args:
      log_prob, ref_log_prob, mask: `[..., N, T]`, of the completions at the other prompts, say those of the next row.

    Returns:
      `[..., N]`, one number repeated, a constant: what `batch.reference_point` is to be. Rows without a real decision
      are left out of the mean.

    Raises ValueError if a shape differs or there is no row axis, TypeError if the mask is not boolean.

    Source: Ethayarajh et al. 2024, section 4.1.

    >>> kl_reference_point(log_prob=jnp.array([[-1.0], [-2.0]]), ref_log_prob=jnp.array([[-1.0], [-3.0]]),
    ...                    mask=jnp.ones((2, 1), bool)).tolist()
    [0.5, 0.5]
    """
    scores = _scores("kl_reference_point", log_prob, ref_log_prob, mask)
    point = jnp.maximum(masked_mean(scores, mask.any(-1), axis=-1), 0)[..., None]
    return jax.lax.stop_gradient(jnp.broadcast_to(point, scores.shape))


def mean_reference_point(*, log_prob: Array, ref_log_prob: Array, mask: Array, label: Array) -> Array:
    """BCO's shift: halfway between the mean score of the desirable rows and that of the undesirable ones.

        z = ½ (mean_desirable s + mean_undesirable s),    s = Σ_t log π/ref

    Args:
      log_prob, ref_log_prob, mask: `[..., N, T]`, of the rows themselves.
      label: bool `[..., N]`, whether a row is desirable.

    Returns:
      `[..., N]`, one number repeated, a constant; where one of the kinds is missing, the mean of the other. Rows
      without a real decision are left out.

    Raises ValueError if a shape differs or there is no row axis, TypeError if mask or label is not boolean.

    Differs from the paper: in nats, before β; of this batch, with no running mean over batches.
    Source: Jung et al. 2024, section 3.2.

    >>> mean_reference_point(log_prob=jnp.array([[-1.0], [-2.0]]), ref_log_prob=jnp.array([[-1.0], [-3.0]]),
    ...                      mask=jnp.ones((2, 1), bool), label=jnp.array([True, False])).tolist()
    [0.5, 0.5]
    """
    scores = _scores("mean_reference_point", log_prob, ref_log_prob, mask)
    if label.dtype != jnp.bool_:
        raise TypeError(f"mean_reference_point: label must be boolean; its dtype is {label.dtype}")
    check_shape("mean_reference_point", "label", label, scores.shape, of="mask without T")
    kinds = jnp.stack([label & mask.any(-1), ~label & mask.any(-1)])
    means = masked_mean(jnp.broadcast_to(scores, kinds.shape), kinds, axis=-1)
    point = masked_mean(means, kinds.any(-1), axis=0)[..., None]
    return jax.lax.stop_gradient(jnp.broadcast_to(point, scores.shape))
