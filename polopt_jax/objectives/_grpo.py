"""Chapter 7: GRPO. The group takes the place of the critic, and the reference comes back as a penalty."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_loss, token_ratio
from polopt_jax.ranges import Nonnegative, check_clip_range, check_range
from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import sequence_mean, token_mean
from polopt_jax.surrogates import LOG_RATIO_LIMIT, ClipRange, clipped_surrogate, k3
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def grpo(*, clip_eps: ClipRange = 0.2, beta: Nonnegative = 0.04, reduce: Reduction = sequence_mean) -> Term:
    """Group Relative Policy Optimization.

        L(θ) = -E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) - β k3(π_θ, ref) ],    k3 = ref/π_θ - 1 - log(ref/π_θ)

    What makes it GRPO is that the advantage is `group_relative`, one number per row, repeated over its decisions.
    The clip is relative to the policy that *sampled*, the penalty to the frozen *reference*.

    Args:
      clip_eps: ε, or a pair (ε_low, ε_high). May be traced.
      beta: weight of the penalty, per decision. May be traced. Where there is to be no penalty and so no reference,
        GRPO is `ppo(clip_eps=..., reduce=sequence_mean)` on the same batch.
      reduce: the default is GRPO's, the mean over rows of each row's mean. Variants with other means have names of
        their own: `dapo`, `dr_grpo`.

    Returns:
      A term, over group batches `[N, G, T]` as a rule. Reads `action, log_prob, advantage, ref_log_prob, mask`, each
      [...]. Metrics: `clip_fraction, approx_kl, clamped_fraction, num_valid` as `ppo`; `ref_kl` (mean k3 per
      decision); `ref_clamped_fraction` (decisions more than 20 nats less probable than under the reference, where the
      exponential of k3 goes on along its tangent). The penalty's gradient vanishes nowhere but at the reference.

    Raises: ValueError if clip_eps or beta is negative or NaN (where it is concrete), and at trace time if a field is
    missing or has another shape.

    Differs from the paper: nothing in the formula. Note that k3 *as a loss* has the gradient of KL(ref ‖ π), not of
    the KL(π ‖ ref) that it estimates; for that penalty add `kl_to_reference` to
    `ppo(clip_eps=..., reduce=sequence_mean)`.

    Source: Shao et al. 2024, DeepSeekMath, equations 3 and 4.

    >>> import jax, jax.numpy as jnp, polopt_jax as po
    >>> log_prob = jnp.log(jnp.full((1, 2, 1), 0.25))
    >>> batch = po.Batch(obs=jnp.zeros((1, 2, 1)), action=jnp.zeros((1, 2, 1), int), mask=jnp.ones((1, 2, 1), bool),
    ...                  log_prob=log_prob, ref_log_prob=log_prob,
    ...                  advantage=po.group_relative(jnp.array([[0.0, 1.0]]))[..., None])
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 1, 4))))
    >>> loss, metrics = jax.jit(grpo())(outputs, batch)
    >>> float(loss), float(metrics["ref_kl"])
    (0.0, 0.0)
    """
    check_clip_range("grpo", clip_eps=clip_eps)
    check_range("grpo", Nonnegative, beta=beta)
    gain = partial(clipped_surrogate, clip_eps=clip_eps)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("grpo", outputs, batch)
        loss, metrics = ratio_loss("grpo", log_prob, batch, gain, token_ratio, reduce)
        if batch.ref_log_prob is None:
            raise ValueError(
                "grpo needs batch.ref_log_prob, which is None; without a reference GRPO is "
                "po.ppo(clip_eps=..., reduce=po.sequence_mean), or po.dapo()"
            )
        to_ref = log_prob - read("grpo", batch, "ref_log_prob")
        penalty = k3(to_ref)
        return loss + beta * reduce(penalty, batch), {
            **metrics,
            "ref_kl": token_mean(penalty, batch),
            "ref_clamped_fraction": token_mean(to_ref < -LOG_RATIO_LIMIT, batch),
        }

    return term
