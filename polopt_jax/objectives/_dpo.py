"""Chapter 6: Direct Preference Optimization (not Discovered Policy Optimisation, which some libraries call dpo).

The KL-regularised optimum is inverted, so that a preference between two whole rows trains the policy directly.
"""

import jax.numpy as jnp

from polopt_jax.masking import check_mask, counts, masked_sum, read, read_log_prob, zero_where_masked
from polopt_jax.surrogates import preference_loss
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Term


def dpo(*, beta: ArrayLike = 0.1) -> Term:
    """Direct Preference Optimization.

        L(θ) = -E[ log σ(β Δ) ],    Δ = Σ_t log(π_θ/ref)(chosen) - Σ_t log(π_θ/ref)(rejected)

    Log-probabilities are *summed* over a row's real decisions, never averaged. The KL that β weighs is to the fixed
    reference policy, not to the policy before the update. At π_θ = ref the margin is exactly 0 and the loss log 2.

    Args:
      beta: strength of the implicit KL to the reference: the optimum is π ∝ ref exp(r/β). May be traced.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `action, ref_log_prob, mask`. Averages over
      pairs whose two rows both have a real decision. Metrics: `accuracy` (share with Δ > 0, ties count ½), `margin`
      (mean βΔ), `chosen_log_ratio`, `rejected_log_ratio` (mean log π/ref per row), `num_valid`.

    Raises (at trace time): ValueError if the mask is not [2, N, T], or a field is missing or has another shape.

    Differs from the paper: no label smoothing.

    Source: Rafailov et al. 2023, "Direct preference optimization", equation 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> loss, metrics = dpo(beta=0.1)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)
    >>> round(float(loss), 6), float(metrics["accuracy"])
    (0.693147, 0.5)
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_mask("dpo", batch)
        if batch.mask.ndim < 3 or batch.mask.shape[0] != 2:
            raise ValueError(f"dpo needs a preference batch [2, N, T] (chosen, rejected); mask has {batch.mask.shape}")
        log_prob = read_log_prob("dpo", outputs, batch)
        ref_log_prob = read("dpo", batch, "ref_log_prob")
        chosen, rejected = masked_sum(log_prob - ref_log_prob, batch.mask, axis=-1)
        valid = batch.mask.any(-1).all(0)
        number = jnp.maximum(counts(batch).pairs, 1).astype(chosen.dtype)

        def mean(x: Array) -> Array:
            return masked_sum(x, valid) / number

        margin = zero_where_masked(beta * (chosen - rejected), valid)
        return mean(preference_loss(margin)), {
            "accuracy": mean(0.5 * (jnp.sign(margin) + 1)),
            "margin": mean(margin),
            "chosen_log_ratio": mean(chosen),
            "rejected_log_ratio": mean(rejected),
            "num_valid": batch.mask.sum().astype(chosen.dtype),
        }

    return term
