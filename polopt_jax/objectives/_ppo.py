"""Chapter 5: PPO. The trust region becomes a clip inside a first-order loss."""

from polopt_jax.masking import log_ratio, read, read_log_prob, token_mean
from polopt_jax.objectives._surrogate import ratio_metrics
from polopt_jax.surrogates import ClipRange, clipped_surrogate, is_clipped
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def ppo(*, clip_eps: ClipRange = 0.2, reduce: Reduction = token_mean) -> Term:
    """Clipped surrogate objective of PPO.

        L(θ) = -E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ],    ρ = π_θ(a|s) / π_old(a|s)

    The gradient is exactly 0 where (A > 0, ρ > 1+ε) or (A < 0, ρ < 1-ε), and that of `surrogate` elsewhere: the clip
    removes the reason to go further, it does not pull back. For A < 0 and ρ large the loss is unbounded.

    Args:
      clip_eps: ε, or a pair (ε_low, ε_high). May be traced.
      reduce: how decisions become one number.

    Returns:
      A term. Reads `action, log_prob, advantage, mask`, each of leading shape [...]. Metrics: `approx_kl` (k3 sample
      of KL(old ‖ new) per decision), `clip_fraction` (decisions whose gradient the clip removed), `clamped_fraction`
      (log-ratios beyond ±20, whose gradient is 0), `num_valid`.

    Raises (at trace time): ValueError if a field is missing or has another shape.

    Differs from the paper: the value and entropy terms are separate; add them with `weighted_sum`. Its KL-penalty
    variant is `surrogate` plus `kl_to_reference(model, old_params, divergence=action_kl)`, which is KL(old ‖ new).

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", equation 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> loss, metrics = ppo(clip_eps=0.2)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4)))), batch)
    >>> round(float(loss), 4), float(metrics["clip_fraction"])
    (-1.2, 1.0)
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("ppo", outputs, batch)
        old_log_prob = read("ppo", batch, "log_prob")
        advantage = read("ppo", batch, "advantage")
        ratio = log_ratio(log_prob, old_log_prob)
        loss = -reduce(clipped_surrogate(ratio, advantage, clip_eps=clip_eps), batch)
        clipped = token_mean(is_clipped(ratio, advantage, clip_eps=clip_eps), batch)
        return loss, {"clip_fraction": clipped, **ratio_metrics(log_prob, old_log_prob, batch)}

    return term
