"""What can be watched while a policy is optimized, and may warn early. Pure functions; thresholds are the caller's.

Without labels there are statistics of tokens (`token_statistics`). They say how far and how unevenly the policy moved,
and not where to: a bad fork and a legitimate one can look the same. With the outcome of a few rows per update there are
a G statistic (`g_statistic`, one look) and a CUSUM (`cusum`, which adds up looks). Both take labels to be independent:
of one prompt's attempts they are only given the prompt. Where prompts differ in their rates, label one attempt of each.
"""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from polopt_jax.fields import with_fields
from polopt_jax.masking import masked_mean, masked_sum, standardize
from polopt_jax.outcomes._laws import check_reference
from polopt_jax.outcomes._rows import as_cells, effective_sample_size, in_cell, in_none, labelled_rows, prompt_mean
from polopt_jax.ranges import Nonnegative, Unit, check_entries
from polopt_jax.reading import read, read_log_prob
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import k3
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, record


def token_statistics(outputs: Outputs, batch: Batch, *, reward: Array) -> Metrics:
    """How the policy moved on a batch, from log-probabilities and rewards alone: no outcome is read.

    Of the log-ratio d = log π(a) - log old(a) of every decision, old being the policy of `batch.log_prob`: with the
    batch of an earlier policy or a reference, d is the drift since.

    Args:
      outputs: the policy now, on a batch of rows `[..., G, T]`. reward: of each row, `[..., G]`.

    Returns metrics `[]`:
      `mean_kl`: k3 sample of KL(old ‖ new), nats per decision. `max_log_ratio`: the largest |d|.
      `kl_concentration`: the largest share of the batch's Σ|d| that one time step has, 1/T to 1: is it one token?
      `ess_loss`: 1 - ESS/G of the rows' weights Π ratio, the mean over prompts.
      `reward_surprise`: correlation of a row's reward with its -Σ log old(a), over all rows; 0 if either is constant.

    Reads `action, log_prob, mask`. Raises ValueError if a field is missing or does not fit.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> batch = po.Batch(obs=jnp.zeros((2, 2)), action=jnp.array([[0, 0], [0, 1]]), mask=jnp.ones((2, 2), bool),
    ...                  log_prob=jnp.log(jnp.array([[0.5, 0.9], [0.5, 0.1]])))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[[0.5, 0.5], [0.6, 0.4]]] * 2))))
    >>> found = outcomes.token_statistics(outputs, batch, reward=jnp.array([0.0, 1.0]))
    >>> float(found["kl_concentration"]), round(float(found["reward_surprise"]), 3)
    (1.0, 1.0)
    """
    difference = read_log_prob("token_statistics", outputs, batch) - read("token_statistics", batch, "log_prob")
    rows, real, reward = batch.mask.shape[:-1], batch.mask.any(-1), jnp.asarray(reward)
    if reward.shape != rows or not rows:
        raise ValueError(f"token_statistics: reward must have the batch's row axes {rows}; it has {reward.shape}")
    moved = jnp.abs(difference).sum(tuple(range(len(rows))))
    total = moved.sum()
    weight = masked_sum(difference, batch.mask, axis=-1)
    surprise = -masked_sum(read("token_statistics", batch, "log_prob"), batch.mask, axis=-1)
    number = jnp.maximum(real.sum(-1), 1)
    return {
        "mean_kl": token_mean(k3(-difference), batch),
        "max_log_ratio": jnp.max(jnp.abs(difference), initial=0),
        "kl_concentration": jnp.where(total > 0, moved.max() / jnp.where(total > 0, total, 1), 0),
        "ess_loss": prompt_mean(1 - effective_sample_size(weight, real) / number, real),
        "reward_surprise": masked_mean(standardize(reward, real, eps=0) * standardize(surprise, real, eps=0), real),
    }


@with_fields
@record
class GStatistic:
    """One look at the outcomes of a few rows. Scalars `[...]`."""

    statistic: Array
    """G = 2 Σ n_k log(n_k / n p_k): 2n times the plug-in KL of the sample to the reference."""
    p_value: Array
    """P(χ²_{K-1} > G): the chance of as much under the reference; 0 where there is a novel row, which has none.
    Unreliable, on either side, where expected counts are below 5: at a rate of .03 it is below .05 in 15% of looks at
    64 labels, in 8% at 100 and in 1.5% at 32. And where labels are not independent: with 8 of each of 4 prompts, whose
    rates are Beta(.5, 4.5) about .1, it is below .05 in 23%."""
    novel: Array
    """Rows in cells that the reference does not have, which G leaves out."""


def g_statistic(cells: Array, reference: Array, *, labelled: Array | None = None) -> GStatistic:
    """Likelihood-ratio test of the outcomes of a few rows against the reference's law.

    Args:
      cells: `[..., n]` integers 0 .. K-1. reference: P_ref `[K]`. labelled: `[..., n]` bool, rows that count.

    NaN if a labelled row is in no cell. Raises TypeError if cells are not integers or labelled not boolean, ValueError
    if shapes differ, the reference is negative or no law `[K]`. Source: Wilks 1938.

    >>> from polopt_jax import outcomes
    >>> found = outcomes.g_statistic(jnp.array([1] * 6 + [0] * 14), jnp.array([0.95, 0.05]))
    >>> round(float(found.statistic), 2), bool(found.p_value < 1e-3)
    (12.95, True)
    """
    cells = as_cells("g_statistic", "cells", cells)
    reference = jnp.asarray(reference)
    if reference.ndim != 1:
        raise ValueError(f"g_statistic: reference must be one law [K]; it has shape {reference.shape}")
    check_entries("g_statistic", Nonnegative, reference=reference)
    check_reference("g_statistic", reference)
    labelled = labelled_rows("g_statistic", jnp.ones(cells.shape, bool), labelled)
    hit = in_cell(cells, reference.shape[-1], labelled)
    lost = in_none(cells, reference.shape[-1], labelled)
    count = hit.sum(-2).astype(jnp.float32)
    known = reference > 0
    law = jnp.where(known, reference / jnp.sum(jnp.where(known, reference, 0)), 1)
    count_known = jnp.where(known, count, 0)
    expected = count_known.sum(-1, keepdims=True) * law
    some = count_known > 0
    terms = jnp.where(some, count_known * jnp.log(jnp.where(some, count_known / expected, 1)), 0)
    statistic = jnp.where(lost, jnp.nan, jnp.maximum(2 * terms.sum(-1), 0))
    freedom = jnp.maximum(known.sum() - 1, 1).astype(jnp.float32)
    novel = labelled.sum(-1).astype(jnp.float32) - count_known.sum(-1)
    chance = jax.scipy.special.gammaincc(freedom / 2, statistic / 2)
    return GStatistic(statistic=statistic, p_value=jnp.where((novel > 0) & ~lost, 0, chance), novel=novel)


def cusum(total: Array, hits: Array, labels: Array, *, rate: Unit, alarm_rate: Unit) -> Array:
    """The running sum of a CUSUM after one more look: evidence that a rate has risen from `rate` to `alarm_rate`.

        S ← max(0, S + hits · log(r₁/r₀) + (labels - hits) · log((1 - r₁)/(1 - r₀)))

    Alarm when S exceeds a threshold h. Start at 0, and again after an alarm. Of false alarms there is one in e^h looks
    at most, in the mean, and fewer in fact: with rates of .03 and .12, 32 labels a look and h = 6 one in 3,600. That is
    of independent labels: with 8 of each of 4 prompts, whose rates are Beta(.5, 4.5) about .1, and an alarm rate of .3,
    one in about 70.

    Args:
      total: S `[...]`. hits, labels: side effects among the rows labelled since the last look, `[...]`.
      rate, alarm_rate: r₀ of the reference, and the rate worth an alarm; 0 < r₀ < r₁ < 1.

    Raises ValueError if a rate is not in [0, 1], of two numbers alarm_rate does not exceed rate, or there are more hits
    than labels; where those are traced, S is NaN then.
    Source: Page 1954, "Continuous inspection schemes"; the bound is Lorden's, 1971.

    >>> from polopt_jax import outcomes
    >>> round(float(outcomes.cusum(jnp.array(0.0), jnp.array(3.0), jnp.array(8.0), rate=0.05, alarm_rate=0.2)), 2)
    3.3
    """
    check_entries("cusum", Unit, rate=rate, alarm_rate=alarm_rate)
    ordered = lambda low, high: (low > 0) & (low < high) & (high < 1)  # noqa: E731
    if _is_known(rate, alarm_rate) and not np.all(ordered(np.asarray(rate), np.asarray(alarm_rate))):
        raise ValueError(f"cusum needs 0 < rate < alarm_rate < 1: alarm_rate must exceed rate; {rate}, {alarm_rate}")
    low, high = jnp.asarray(rate), jnp.asarray(alarm_rate)
    possible = lambda hits, labels: (hits >= 0) & (hits <= labels)  # noqa: E731
    if _is_known(hits, labels) and not np.all(possible(np.asarray(hits), np.asarray(labels))):
        raise ValueError(f"cusum: hits must be from 0 to labels; they are {hits}, labels {labels}")
    up, down = jnp.log(high / low), jnp.log1p(-high) - jnp.log1p(-low)
    added = jnp.where(possible(jnp.asarray(hits), labels), hits * up + (labels - hits) * down, jnp.nan)
    return jnp.maximum(total + added, 0)


def observed_rate(rate: ArrayLike, *, false_positive: Unit = 0.0, false_negative: Unit = 0.0) -> Array:
    """The rate at which a noisy labeller reports a side effect of a given rate: r (1 - fn) + (1 - r) fp.

    Put a reference's rate through it before a CUSUM or a G statistic on noisy labels. Raises ValueError if an argument
    is outside [0, 1].

    >>> from polopt_jax import outcomes
    >>> round(float(outcomes.observed_rate(0.05, false_positive=0.02, false_negative=0.1)), 3)
    0.064
    """
    check_entries("observed_rate", Unit, rate=rate, false_positive=false_positive, false_negative=false_negative)
    return jnp.asarray(rate) * (1 - jnp.asarray(false_negative)) + (1 - jnp.asarray(rate)) * false_positive


def true_rate(observed: ArrayLike, *, false_positive: Unit = 0.0, false_negative: Unit = 0.0) -> Array:
    """The rate behind what a noisy labeller reports, in [0, 1]: the inverse of `observed_rate`, clipped.

    Raises ValueError if an argument is outside [0, 1], or the errors leave no information (fp + fn >= 1).
    Source: Rogan & Gladen 1978.

    >>> from polopt_jax import outcomes
    >>> round(float(outcomes.true_rate(0.064, false_positive=0.02, false_negative=0.1)), 3)
    0.05
    """
    check_entries("true_rate", Unit, observed=observed, false_positive=false_positive, false_negative=false_negative)
    errors = (false_positive, false_negative)
    if _is_known(*errors) and np.any(sum(map(np.asarray, errors)) >= 1):
        raise ValueError(f"true_rate: false_positive + false_negative must be below 1; they are {errors}")
    slope = 1 - jnp.asarray(false_positive) - jnp.asarray(false_negative)
    return jnp.clip((jnp.asarray(observed) - false_positive) / slope, 0, 1)


def _is_known(*numbers: ArrayLike) -> bool:
    """Whether none of the numbers is traced."""
    return not any(isinstance(x, jax.core.Tracer) for x in numbers)
