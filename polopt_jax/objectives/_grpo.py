"""Chapter 7: GRPO. The group takes the place of the critic, and the reference comes back as a penalty."""

import jax.numpy as jnp

from polopt_jax.masking import log_ratio, read, read_log_prob, sequence_mean, token_mean
from polopt_jax.objectives._surrogate import ratio_metrics
from polopt_jax.surrogates import ClipRange, clipped_surrogate, is_clipped, k3
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Reduction, Term


def grpo(*, clip_eps: ClipRange = 0.2, beta: ArrayLike = 0.04, reduce: Reduction = sequence_mean) -> Term:
    """Group Relative Policy Optimization.

        L(θ) = -E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) - β k3(π_θ, ref) ],    k3 = ref/π_θ - 1 - log(ref/π_θ)

    What makes it GRPO is that the advantage is `group_relative`, one number per row, repeated over its decisions.
    The clip is relative to the policy that *sampled*, the penalty to the frozen *reference*.

    Args:
      clip_eps: ε, or a pair (ε_low, ε_high) as DAPO has it. May be traced.
      beta: weight of the penalty, per decision. May be traced. The literal 0 (a Python number) drops the penalty and
        with it the need for `ref_log_prob`.
      reduce: the default is GRPO's, the mean over rows of each row's mean; `token_mean` is DAPO's,
        `constant_length(L)` Dr.GRPO's.

    Returns:
      A term, over group batches `[N, G, T]` as a rule. Reads `action, log_prob, advantage, mask` and, unless beta is
      the literal 0, `ref_log_prob`, each [...]. Metrics: `clip_fraction, approx_kl, clamped_fraction, num_valid` as
      `ppo`, and `ref_kl` (mean k3 per decision; the log-ratio to the reference is clamped to ±20 as well).

    Raises (at trace time): ValueError if a field is missing or has another shape.

    Differs from the paper: nothing in the formula. Note that k3 *as a loss* has the gradient of KL(ref ‖ π), not of
    the KL(π ‖ ref) that it estimates; for that penalty use `grpo(beta=0)` with `kl_to_reference`.

    Source: Shao et al. 2024, DeepSeekMath, equations 3 and 4.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> log_prob = jnp.log(jnp.full((1, 2, 1), 0.25))
    >>> batch = po.Batch(obs=jnp.zeros((1, 2, 1)), action=jnp.zeros((1, 2, 1), int), mask=jnp.ones((1, 2, 1), bool),
    ...                  log_prob=log_prob, ref_log_prob=log_prob,
    ...                  advantage=po.group_relative(jnp.array([[0.0, 1.0]]))[..., None])
    >>> loss, metrics = grpo()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 1, 4)))), batch)
    >>> float(loss), float(metrics["ref_kl"])
    (-0.0, 0.0)
    """
    penalised = not (isinstance(beta, int | float) and beta == 0)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("grpo", outputs, batch)
        old_log_prob = read("grpo", batch, "log_prob")
        advantage = read("grpo", batch, "advantage")
        ratio = log_ratio(log_prob, old_log_prob)
        gain = clipped_surrogate(ratio, advantage, clip_eps=clip_eps)
        metrics = {
            "clip_fraction": token_mean(is_clipped(ratio, advantage, clip_eps=clip_eps), batch),
            **ratio_metrics(log_prob, old_log_prob, batch),
        }
        if penalised:
            to_ref = log_ratio(log_prob, read("grpo", batch, "ref_log_prob"))
            penalty = k3(to_ref, jnp.zeros_like(to_ref))
            gain = gain - beta * penalty
            metrics["ref_kl"] = token_mean(penalty, batch)
        return -reduce(gain, batch), metrics

    return term
