"""Corrections of terms: functions from a term to a term that weigh, silence or rescale what its batch says.

Each changes `batch.advantage` for the term inside and nothing else. So the denominators stay those of all real
decisions, also under `accumulate_gradients` (where `mask_low_entropy` and `standardize_advantage`, which couple rows,
raise); a penalty to a reference or a critic's loss inside is not touched; and masks are the inner term's affair. They
nest: those that weigh and silence in any order; `standardize_advantage` sees what the ones around it have left.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_loss, check_takes
from polopt_jax.combinators import couples_rows
from polopt_jax.masking import accumulate, standardize
from polopt_jax.objectives import sequence_ratio, token_ratio
from polopt_jax.objectives._ratio_term import Ratio
from polopt_jax.ranges import Nonnegative, Positive, Unit, check_range
from polopt_jax.reading import check_mask, read, read_log_prob, read_policy
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import log_ratio
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Term


def truncated_importance_sampling(term: Term, *, cap: Positive = 2.0, ratio: Ratio = token_ratio) -> Term:
    """Corrects a term for a sampler that is not quite the policy it is trained against.

        A ← w A,    w = min(π_old(a|s) / μ(a|s), c)

    The engine that samples, μ, and the one that trains compute different probabilities from the same parameters. The
    ratio of the policy that is trained to π_old stays what it is, and is clipped as before; every decision's gradient
    is multiplied by how much more probable it was to the trainer than to the sampler, up to c.

    Args:
      term: a term whose loss is proportional to the advantage up to its sign, as every ratio term here is.
      cap: c. The default is the authors'. May be traced.
      ratio: of what the weight is made, given log π_old/μ of every decision: `token_ratio`, of the decision alone, as
        the authors do; `objectives.trajectory_ratio`, of the whole row, is unbiased where nothing is truncated and of
        high variance; `objectives.sequence_ratio`, the row's geometric mean, is neither.

    Returns:
      A term. Reads `log_prob, sampler_log_prob, advantage, mask`, each [...], and what the term reads. Metrics: those
      of the term; `sampler_weight` (mean w), `truncated_fraction` (decisions whose ratio was above c).

    Raises: ValueError if cap is not above 0 or NaN (where it is concrete), and at trace time if a field is missing or
    has another shape; TypeError if the term is none.

    Differs from the source: ratios are clamped to e^±20 first.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; the cap: Espeholt
    et al. 2018 (V-trace).

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.25)), sampler_log_prob=jnp.log(jnp.array([0.5, 0.01])))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> loss, metrics = truncated_importance_sampling(po.ppo(), cap=2.0)(outputs, batch)
    >>> float(loss), float(metrics["truncated_fraction"])  # the mean of 1/2 and 2
    (-1.25, 0.5)
    """
    name = "truncated_importance_sampling"
    check_takes(name, "term", term, "outputs", "batch")
    check_range(name, Positive, cap=cap)

    def corrected(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_mask(name, batch)
        to_sampler = ratio(read(name, batch, "log_prob") - read(name, batch, "sampler_log_prob"), batch)
        weight = jnp.minimum(jnp.exp(log_ratio(to_sampler, jnp.zeros_like(to_sampler))), cap)
        weighted = replace(batch, advantage=weight * read(name, batch, "advantage"))
        loss, metrics = check_loss(f"{name}: the term", term(outputs, weighted))
        return loss, {
            **metrics,
            "sampler_weight": token_mean(weight, batch),
            "truncated_fraction": token_mean(to_sampler > jnp.log(cap), batch),
        }

    return corrected


def mask_off_policy(term: Term, *, threshold: Nonnegative) -> Term:
    """Silences bad rows that the policy has moved away from: DeepSeek-V3.2's off-policy sequence mask.

        A ← 0    where A < 0 and 1/|y| Σ_t log μ(y_t)/π_θ(y_t) > δ

    A row that was sampled by a policy unlike the present one, and turned out badly, says little of the present one's
    mistakes and can mislead it; one that turned out well is kept. The mean log-ratio is a sample of KL(μ ‖ π_θ) per
    decision, μ the policy that sampled.

    Args:
      term: any; what is silenced is what it makes of the advantage.
      threshold: δ, in nats per decision. The paper gives no number; TRL suggests 0.5. May be traced.

    Returns:
      A term; rows must be whole. Reads `action, log_prob, advantage, mask`, each [...], `sampler_log_prob` instead of
      `log_prob` where that is present (what drifted between engines counts as drift too), and what the term reads.
      Metrics: those of the term; `off_policy_fraction` (decisions that are silenced).

    Raises: ValueError if threshold is negative or NaN (where it is concrete), and at trace time if a field is missing
    or has another shape; TypeError if the term is none.

    Differs from the paper: nothing: silenced decisions count in the denominators, and a penalty to the reference goes
    on.

    Source: DeepSeek-AI 2025, "DeepSeek-V3.2", equation 9.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 1)), action=jnp.zeros((2, 1), int), mask=jnp.ones((2, 1), bool),
    ...                  advantage=jnp.array([[1.0], [-1.0]]), log_prob=jnp.log(jnp.full((2, 1), 0.9)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 1, 4))))
    >>> loss, metrics = mask_off_policy(po.surrogate(), threshold=0.5)(outputs, batch)
    >>> round(float(loss), 4), float(metrics["off_policy_fraction"])  # half of ρ = 1/3.6
    (-0.1389, 0.5)
    """
    name = "mask_off_policy"
    check_takes(name, "term", term, "outputs", "batch")
    check_range(name, Nonnegative, threshold=threshold)

    def masked(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = jax.lax.stop_gradient(read_log_prob(name, outputs, batch))
        sampled = read(name, batch, "log_prob" if batch.sampler_log_prob is None else "sampler_log_prob")
        advantage = read(name, batch, "advantage")
        silent = (advantage < 0) & (sequence_ratio(sampled - log_prob, batch) > threshold)
        loss, metrics = check_loss(
            f"{name}: the term", term(outputs, replace(batch, advantage=jnp.where(silent, 0, advantage)))
        )
        return loss, {**metrics, "off_policy_fraction": token_mean(silent, batch)}

    return masked


def mask_low_entropy(term: Term, *, quantile: Unit = 0.8) -> Term:
    """Lets only the decisions at which the policy was least sure learn: the 80/20 rule.

        A ← 0    where H(π_θ(·|s)) < q-quantile of H over the real decisions of the batch

    Most tokens of an answer follow from those before; a few are forks. Only these are reinforced.

    Args:
      term: any; what is silenced is what it makes of the advantage.
      quantile: q, so that a share of about 1-q is kept, and all decisions that are equal to the one at the quantile.
        The default is the paper's. May be traced.

    Returns:
      A term that *couples rows*, as the quantile is of the batch: it raises under `accumulate_gradients`. Reads
      `advantage, mask`, each [...], and what the term reads. Metrics: those of the term; `kept_fraction` (decisions
      that are not silenced).

    Raises: ValueError if quantile is not from 0 to 1 (where it is concrete), and at trace time if a field is missing or
    has another shape; TypeError if the term is none.

    Differs from the paper: nothing in its equation, which divides by *all* real decisions, as TRL and this do. The
    authors' code divides by those that are kept, which makes the loss of a token mean about 1/(1-q) as large.

    Source: Wang et al. 2025, "Beyond the 80/20 rule: high-entropy minority tokens drive effective reinforcement
    learning for LLM reasoning", section 5.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.array([[0.0, 0.0], [9.0, 0.0]])))
    >>> loss, metrics = mask_low_entropy(po.reinforce(), quantile=0.8)(outputs, batch)
    >>> round(float(loss), 4), float(metrics["kept_fraction"])  # half of log 2
    (0.3466, 0.5)
    """
    name = "mask_low_entropy"
    check_takes(name, "term", term, "outputs", "batch")
    check_range(name, Unit, quantile=quantile)

    def mask_low_entropy(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        entropy = accumulate(read_policy(name, outputs, batch).entropy())
        # Compared with one of themselves: the barrier lets no compiler round the two sides differently.
        entropy = jax.lax.optimization_barrier(jax.lax.stop_gradient(entropy))
        advantage = read(name, batch, "advantage")
        ordered = jnp.sort(jnp.where(batch.mask, entropy, jnp.inf).reshape(-1))
        last = jnp.maximum(batch.mask.sum() - 1, 0).astype(entropy.dtype)
        kept = (entropy >= ordered[jnp.ceil(quantile * last).astype(jnp.int32)]) & batch.mask
        loss, metrics = check_loss(
            f"{name}: the term", term(outputs, replace(batch, advantage=jnp.where(kept, advantage, 0)))
        )
        return loss, {**metrics, "kept_fraction": token_mean(kept, batch)}

    return couples_rows(mask_low_entropy)


def standardize_advantage(term: Term, *, eps: ArrayLike = 1e-8) -> Term:
    """The same term, with the advantages standardised over the batch that it is given.

        A ← (A - mean A) / (std A + eps)

    In a loop over minibatches that is PPO's usual standardisation, minibatch by minibatch, which
    `rows.standardized_shares` does for all of them at once; standardising before the batch is split is another
    algorithm (`standardize(advantage, mask)` in `to_batch`). Couples rows.

    Args:
      term: any term that reads `advantage`.
      eps: added to the standard deviation (ddof 0). May be traced.

    Returns:
      A term. Reads `advantage, mask` and what the term reads. Metrics: those of the term.

    Raises (at trace time): as the term, and ValueError on shares of a batch (`accumulate_gradients`).

    Differs from SB3 and other PyTorch code: their standard deviation has ddof 1. A minibatch of equal advantages, and
    one of a single decision, gives exactly 0.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.array([0, 1]), mask=jnp.ones(2, bool),
    ...                  log_prob=jnp.log(jnp.array([0.25, 0.5])), advantage=jnp.array([5.0, 9.0]))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 2))))
    >>> round(float(standardize_advantage(po.surrogate())(outputs, batch)[0]), 4)    # -(2 · -1 + 1 · 1) / 2
    0.5
    """
    check_takes("standardize_advantage", "term", term, "outputs", "batch")

    def standardize_advantage(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_mask("standardize_advantage", batch)
        advantage = read("standardize_advantage", batch, "advantage")
        return term(outputs, replace(batch, advantage=standardize(advantage, batch.mask, eps=eps)))

    return couples_rows(standardize_advantage)
