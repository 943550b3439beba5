"""Chapter 6: Direct Preference Optimization (not Discovered Policy Optimisation, which some libraries call dpo).

The KL-regularised optimum is inverted, so that a preference between two whole rows trains the policy directly. Two
members say what becomes of it where some labels are wrong.
"""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.ranges import Minority, Nonnegative, check_range
from polopt_jax.surrogates import bradley_terry, smoothed_bradley_terry, unbiased_bradley_terry
from polopt_jax.types import Term


def dpo(*, beta: Nonnegative = 0.1, score: Score = summed_log_ratio) -> Term:
    """Direct Preference Optimization.

        L(θ) = -E[ log σ(β Δ) ],    Δ = Σ_t log(π_θ/ref)(chosen) - Σ_t log(π_θ/ref)(rejected)

    Log-probabilities are *summed* over a row's real decisions, never averaged. The KL that β weighs is to the fixed
    reference policy, not to the policy before the update. At π_θ = ref the margin is exactly 0 and the loss log 2.

    Args:
      beta: strength of the implicit KL to the reference: the optimum is π ∝ ref exp(r/β). May be traced.
      score: what a row is worth. `objectives.mean_log_ratio` makes the length-normalised DPO, with a β to match;
        `objectives.summed_log_prob` one without a reference, that is with a uniform one.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with the Bradley-Terry link and the
      summed log-ratio as score. Reads `action, ref_log_prob, mask`. Averages over pairs whose two rows both have a
      real decision. Metrics: `accuracy` (share with Δ > 0, ties count ½), `margin` (mean βΔ), `chosen_log_ratio`,
      `rejected_log_ratio` (mean log π/ref per row), `num_valid`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not
    [2, N, T], or a field is missing or has another shape.

    Differs from the paper: nothing; label smoothing has names of its own, `conservative_dpo` and `robust_dpo`.

    Source: Rafailov et al. 2023, "Direct preference optimization", equation 7.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> loss, metrics = dpo(beta=0.1)(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)
    >>> round(float(loss), 6), float(metrics["accuracy"])
    (0.693147, 0.5)
    """
    check_range("dpo", Nonnegative, beta=beta)
    return preference(bradley_terry, score, beta=beta, caller="dpo")


def conservative_dpo(
    *, beta: Nonnegative = 0.1, label_smoothing: Minority = 0.1, score: Score = summed_log_ratio
) -> Term:
    """DPO with smoothed labels (cDPO).

        L(θ) = -E[ (1-ε) log σ(βΔ) + ε log σ(-βΔ) ],    Δ = s(chosen) - s(rejected)

    Has a finite optimum on every pair, σ(βΔ) = 1-ε: a label that may be wrong is not believed beyond that. It is DPO's
    expectation if the labels that are seen flipped once more, so that it corrects nothing where they have: a pair that
    was labelled so in a share q of all cases has its optimum at (1-ε) q + ε (1-q), nearer to a tie than `dpo`'s q.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      label_smoothing: ε, the rate at which the pairs are labelled the wrong way around, below ½. May be traced.
      score: what a row is worth, as in `dpo`: Σ_t log π_θ/ref.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with a mixture of Bradley-Terry links
      as link. Reads `action, ref_log_prob, mask`. Metrics:
      `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`, as `dpo`.

    Raises: ValueError if a hyperparameter is outside its range (where it is concrete), and at trace time if the mask is
    not [2, N, T], or a field is missing or has another shape.

    Source: Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(conservative_dpo()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    0.693147
    """
    check_range("conservative_dpo", Nonnegative, beta=beta)
    check_range("conservative_dpo", Minority, label_smoothing=label_smoothing)
    link = partial(smoothed_bradley_terry, label_smoothing=label_smoothing)
    return preference(link, score, beta=beta, caller="conservative_dpo")


def robust_dpo(*, beta: Nonnegative = 0.1, label_smoothing: Minority = 0.1, score: Score = summed_log_ratio) -> Term:
    """DPO made unbiased under labels that flip (rDPO).

        L(θ) = -E[ (1-ε) log σ(βΔ) - ε log σ(-βΔ) ] / (1-2ε),    Δ = s(chosen) - s(rejected)

    Where labels flip at rate ε, its expectation over the flips is DPO's loss on the true labels. Of a single pair it is
    not bounded from below: it goes on paying for margin as ε/(1-2ε) βΔ does, which `conservative_dpo` does not.

    Args:
      beta: strength of the implicit KL to the reference. May be traced.
      label_smoothing: ε, the rate at which the pairs are labelled the wrong way around, below ½. May be traced.
      score: what a row is worth, as in `dpo`: Σ_t log π_θ/ref.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with the unbiased Bradley-Terry link
      as link. Reads `action, ref_log_prob, mask`. Metrics:
      `accuracy, margin, chosen_log_ratio, rejected_log_ratio, num_valid`, as `dpo`.

    Raises: ValueError if a hyperparameter is outside its range (where it is concrete), and at trace time if the mask is
    not [2, N, T], or a field is missing or has another shape.

    Source: Chowdhury et al. 2024, "Provably robust DPO: Aligning language models with noisy feedback".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> round(float(robust_dpo()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0]), 6)
    0.693147
    """
    check_range("robust_dpo", Nonnegative, beta=beta)
    check_range("robust_dpo", Minority, label_smoothing=label_smoothing)
    link = partial(unbiased_bradley_terry, label_smoothing=label_smoothing)
    return preference(link, score, beta=beta, caller="robust_dpo")
