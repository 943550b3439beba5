"""Penalties on the KL to the reference, from the actions that were taken alone: what a large vocabulary leaves."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import LOG_RATIO_LIMIT, k2, k3, log_ratio, weighted_k3
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def sampled_kl_to_reference(*, estimator: Callable[[Array], Array] = k2, reduce: Reduction = token_mean) -> Term:
    """Penalty term on actions that *the policy itself* took: an estimator of KL(π_θ ‖ ref), as a loss.

        L(θ) = E_{a~π_θ}[ k(log π_θ(a|s) - log ref(a|s)) ]

    Which KL it lowers is the estimator's affair, and not that which its value estimates. In expectation:

        estimator    value                gradient
        k1           KL(π ‖ ref)          0: no penalty at all. In the reward it is one (`reward_minus_kl`)
        k2           biased               ∇KL(π ‖ ref), exactly
        k3           KL(π ‖ ref)          ∇KL(ref ‖ π), the other direction: GRPO's penalty

    All of it holds on-policy only. On data of another policy, an older one among them, none does:
    `corrected_kl_to_reference` is for those. Where every action can be summed over, `kl_to_reference` needs no samples.

    Args:
      estimator: elementwise function of log π/ref: `k2`, `k3`, or one of your own.
      reduce: how decisions become one number.

    Returns:
      A term, to be added with a positive weight. Reads `action, ref_log_prob, mask`, each of leading shape [...].
      Metrics: `ref_kl` (mean k3 per decision), `ref_clamped_fraction` (decisions more than 20 nats less probable than
      under the reference, where k3 goes on along its tangent).

    Raises (at trace time): ValueError if a field is missing or has another shape.

    It is a KL per decision, at the states of the batch: that the policy also decides which states come is not
    differentiated. Only `reward_minus_kl` has the gradient of the KL of whole trajectories.

    Source: Schulman 2020, "Approximating KL divergence"; the gradients: Tang & Munos 2025.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  ref_log_prob=jnp.log(jnp.full(2, 0.25)) - 2.0)
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> float(sampled_kl_to_reference(estimator=po.k2)(outputs, batch)[0])
    2.0
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        name = "sampled_kl_to_reference"
        to_ref = read_log_prob(name, outputs, batch) - read(name, batch, "ref_log_prob")
        return reduce(estimator(to_ref), batch), {
            "ref_kl": token_mean(k3(to_ref), batch),
            "ref_clamped_fraction": token_mean(to_ref < -LOG_RATIO_LIMIT, batch),
        }

    return term


def corrected_kl_to_reference(
    *, estimator: Callable[[Array, Array], Array] = weighted_k3, reduce: Reduction = token_mean
) -> Term:
    """Penalty term on actions that *any* policy μ took: an estimator of KL(π_θ ‖ ref) with its importance weight.

        L(θ) = E_{a~μ}[ k(log π_θ(a|s) - log ref(a|s), log π_θ(a|s) - log μ(a|s)) ]

    Both estimators of the library have the gradient of KL(π_θ ‖ ref) in expectation, exactly, on- and off-policy:

        weighted_k3  (π/μ) k3, the weight differentiated:  value and gradient are those of KL(π ‖ ref)
        weighted_k2  (π/μ) k2, the weight held constant:   the gradient alone

    Args:
      estimator: elementwise function of log π/ref and of log π/μ, the latter clamped to ±20.
      reduce: how decisions become one number.

    Returns:
      A term, to be added with a positive weight. Reads `action, log_prob, ref_log_prob, mask`, each of leading shape
      [...]; and `sampler_log_prob` in place of `log_prob` where that is present. Metrics: `ref_kl` (mean weighted k3
      per decision), `clamped_fraction` (weights beyond e^±20, whose gradient is 0).

    Raises (at trace time): ValueError if a field is missing or has another shape.

    It is a KL per decision at the states of the batch, as that of `sampled_kl_to_reference`; a sequence's weight would
    be the product of its decisions'.

    Source: Tang & Munos 2025; the weighted k3 is DeepSeek-V3.2's.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  log_prob=jnp.log(jnp.full(2, 0.5)), ref_log_prob=jnp.log(jnp.full(2, 0.25)) - 2.0)
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> round(float(corrected_kl_to_reference()(outputs, batch)[0]), 4)              # 0.5 (e^-2 - 1 + 2)
    0.5677
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        name = "corrected_kl_to_reference"
        log_prob = read_log_prob(name, outputs, batch)
        sampler = read(name, batch, "log_prob" if batch.sampler_log_prob is None else "sampler_log_prob")
        to_ref, weight = log_prob - read(name, batch, "ref_log_prob"), log_ratio(log_prob, sampler)
        return reduce(estimator(to_ref, weight), batch), {
            "ref_kl": token_mean(weighted_k3(to_ref, weight), batch),
            "clamped_fraction": token_mean(jnp.abs(log_prob - sampler) > LOG_RATIO_LIMIT, batch),
        }

    return term
