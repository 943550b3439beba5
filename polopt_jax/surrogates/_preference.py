"""Links: what a preference costs.

Of a pair, given the scores of the chosen and of the rejected row, `(chosen [N], rejected [N]) -> [N]`; or of one row
that is desirable, given its score, `[N] -> [N]` (an undesirable row costs what a desirable one of the opposite score
does).
Slopes: what f-DPO makes of a log-ratio before the link sees it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.ranges import PositiveUnit, check_range
from polopt_jax.surrogates._ratio import expm1_with_tangent
from polopt_jax.types import Array, ArrayLike

# --- links of a pair --------------------------------------------------------------------------------------------------


def bradley_terry(chosen: Array, rejected: Array) -> Array:
    """-log σ(chosen - rejected): the negative log-likelihood of the Bradley-Terry model, never through log(sigmoid).

    >>> round(float(bradley_terry(jnp.zeros(()), jnp.zeros(()))), 6)
    0.693147
    """
    return -jax.nn.log_sigmoid(chosen - rejected)


def smoothed_bradley_terry(chosen: Array, rejected: Array, *, label_smoothing: ArrayLike) -> Array:
    """(1-ε) × the Bradley-Terry link + ε × that of the swapped pair: its expectation where labels flip at rate ε.

    >>> round(float(smoothed_bradley_terry(jnp.array(1.0), jnp.array(0.0), label_smoothing=0.5)), 6)
    0.813262
    """
    right, flipped = bradley_terry(chosen, rejected), bradley_terry(rejected, chosen)
    return (1 - label_smoothing) * right + label_smoothing * flipped


def unbiased_bradley_terry(chosen: Array, rejected: Array, *, label_smoothing: ArrayLike) -> Array:
    """((1-ε) × the Bradley-Terry link - ε × that of the swapped pair) / (1-2ε).

    Where labels flip at rate ε, its expectation over the flips is the Bradley-Terry link of the true label.

    >>> float(unbiased_bradley_terry(jnp.array(1.0), jnp.array(0.0), label_smoothing=0.0)) == float(
    ...     bradley_terry(jnp.array(1.0), jnp.array(0.0)))
    True
    """
    right, flipped = bradley_terry(chosen, rejected), bradley_terry(rejected, chosen)
    return ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def hinge(chosen: Array, rejected: Array) -> Array:
    """max(0, 1 - (chosen - rejected)): nothing to gain beyond a margin of 1.

    >>> hinge(jnp.array([0.25, 2.0]), jnp.zeros(2)).tolist()
    [0.75, 0.0]
    """
    return jnp.maximum(1 - (chosen - rejected), 0)


def squared_margin(chosen: Array, rejected: Array, *, target: ArrayLike) -> Array:
    """(chosen - rejected - target)²: a margin to be reached and not to be passed.

    >>> squared_margin(jnp.array([1.0]), jnp.array([0.5]), target=2.0).tolist()
    [2.25]
    """
    return jnp.square(chosen - rejected - target)


def squared_scores(chosen: Array, rejected: Array, *, target: ArrayLike) -> Array:
    """(chosen - target)² + (rejected + target)²: each row has a score of its own to reach.

    >>> squared_scores(jnp.array([1.0]), jnp.array([0.0]), target=2.0).tolist()
    [5.0]
    """
    return jnp.square(chosen - target) + jnp.square(rejected + target)


def noise_contrastive(chosen: Array, rejected: Array) -> Array:
    """-log σ(chosen) - ½ log σ(-chosen) - ½ log σ(-rejected): is the row the chosen one, or one of the two at random?

    >>> round(float(noise_contrastive(jnp.zeros(()), jnp.zeros(()))), 6)
    1.386294
    """
    return jax.nn.softplus(-chosen) + 0.5 * jax.nn.softplus(chosen) + 0.5 * jax.nn.softplus(rejected)


def kl_to_label(chosen: Array, rejected: Array, *, label_smoothing: ArrayLike) -> Array:
    """KL(p ‖ q) of p = (σ(x), σ(-x)), x = chosen - rejected, to the label q = (1-ε, ε): the mode-seeking direction.

    >>> abs(round(float(kl_to_label(jnp.log(jnp.array(9.0)), jnp.array(0.0), label_smoothing=0.1)), 6))
    0.0
    """
    right, flipped = -bradley_terry(chosen, rejected), -bradley_terry(rejected, chosen)
    return jnp.exp(right) * (right - jnp.log1p(-label_smoothing)) + jnp.exp(flipped) * (
        flipped - jnp.log(label_smoothing)
    )


def anchored_zero(chosen: Array, rejected: Array) -> Array:
    """σ(-chosen) + σ(rejected): the chosen row up, the rejected row down, each against the reference.

    >>> anchored_zero(jnp.zeros(1), jnp.zeros(1)).tolist()
    [1.0]
    """
    return jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)


def anchored_down(chosen: Array, rejected: Array) -> Array:
    """σ(chosen) + σ(rejected - chosen): both rows down, the rejected one further.

    >>> anchored_down(jnp.zeros(1), jnp.zeros(1)).tolist()
    [1.0]
    """
    return jax.nn.sigmoid(chosen) + jax.nn.sigmoid(rejected - chosen)


def modulated(chosen: Array, rejected: Array, *, temperature: ArrayLike) -> Array:
    """(1-m) × the Bradley-Terry link + m exp(-x), with x = chosen - rejected and m = σ(x / temperature).

    exp(-x) goes on along its tangent where x < -20; there m is 0 anyway unless the temperature is large.

    >>> round(float(modulated(jnp.zeros(()), jnp.zeros(()), temperature=0.05)), 6)
    0.846574
    """
    margin = chosen - rejected
    mixed = jax.nn.sigmoid(margin / temperature)
    return (1 - mixed) * bradley_terry(chosen, rejected) + mixed * (1 + expm1_with_tangent(-margin))


def log_odds(log_prob: Array) -> Array:
    """log(p / (1-p)) of a log-probability log p, which is held 1e-7 below 0: ORPO's score.

    >>> round(float(log_odds(jnp.log(jnp.array(0.8)))), 5)
    1.38629
    """
    log_prob = jnp.minimum(log_prob, -1e-7)
    return log_prob - jnp.log(-jnp.expm1(log_prob))


# --- links of one row -------------------------------------------------------------------------------------------------


def saturating(score: Array) -> Array:
    """σ(-score): what is far off is given up, as what is far enough is left alone.

    >>> saturating(jnp.zeros(1)).tolist()
    [0.5]
    """
    return jax.nn.sigmoid(-score)


def binary_cross_entropy(score: Array) -> Array:
    """-log σ(score): the cost of a classifier of desirable rows whose logit is the score.

    >>> round(float(binary_cross_entropy(jnp.zeros(()))), 6)
    0.693147
    """
    return jax.nn.softplus(-score)


# --- slopes -----------------------------------------------------------------------------------------------------------


def reverse_kl_slope(log_ratio: Array) -> Array:
    """log u of a log-ratio log u: f'(u) up to a constant of f(u) = u log u, whose f-divergence is KL(π ‖ ref).

    >>> reverse_kl_slope(jnp.array([2.0])).tolist()
    [2.0]
    """
    return log_ratio


def jensen_shannon_slope(log_ratio: Array) -> Array:
    """log(2u / (1+u)) of a log-ratio log u: f'(u) of the Jensen-Shannon divergence.

    Never above log 2, so that a chosen row is pushed the less the more probable it has become.

    >>> jensen_shannon_slope(jnp.zeros(1)).tolist()
    [0.0]
    """
    return jax.nn.log_sigmoid(log_ratio) + jnp.log(2.0).astype(log_ratio.dtype)


def alpha_slope(log_ratio: Array, *, alpha: ArrayLike = 1.0) -> Array:
    """(1 - u^-α) / α of a log-ratio log u: f'(u) of an α-divergence, 0 < α <= 1.

    α = 1 is the forward KL(ref ‖ π), 1 - 1/u; α → 0 the reverse one, log u. Where u^-α is more than e^20 it goes on
    along its tangent, so that the slope of a row that has become very improbable stays finite.

    >>> alpha_slope(jnp.log(jnp.array([2.0]))).tolist()
    [0.5]
    """
    check_range("alpha_slope", PositiveUnit, alpha=alpha)
    return -expm1_with_tangent(-alpha * log_ratio) / alpha
