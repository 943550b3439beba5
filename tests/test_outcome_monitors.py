"""Monitors against numpy, scipy and simulation."""

from dataclasses import replace

import enumerated as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from polopt_jax import outcomes

OLD, NEW = world.table(0), world.table(1)


def test_token_statistics_by_hand():
    batch = world.batch(OLD)
    keep = np.array(batch.mask)
    keep[0, 3], keep[:, ::2, -1] = False, False
    batch = replace(batch, mask=keep)
    difference = (world.log_probs(NEW) - world.log_probs(OLD)) * keep
    reward = jnp.asarray(np.random.default_rng(0).normal(size=(world.N, world.G)), jnp.float32)
    outputs = jax.jit(world.model)(jnp.asarray(NEW, jnp.float32), batch.obs)
    found = jax.jit(outcomes.token_statistics)(outputs, batch, reward=reward)
    np.testing.assert_allclose(found["mean_kl"], (np.exp(difference) - 1 - difference)[keep].mean(), rtol=1e-4)
    np.testing.assert_allclose(found["max_log_ratio"], np.abs(difference).max(), rtol=1e-5)
    per_step = np.abs(difference).sum((0, 1))
    np.testing.assert_allclose(found["kl_concentration"], per_step.max() / per_step.sum(), rtol=1e-5)
    real = keep.any(-1)
    losses = []
    for n in range(world.N):
        weight = np.exp(difference[n].sum(-1))[real[n]]
        losses.append(1 - weight.sum() ** 2 / (weight**2).sum() / real[n].sum())
    np.testing.assert_allclose(found["ess_loss"], np.mean(losses), rtol=1e-4)
    surprise = -(world.log_probs(OLD) * keep).sum(-1)
    expected = np.corrcoef(np.asarray(reward)[real], surprise[real])[0, 1]
    np.testing.assert_allclose(found["reward_surprise"], expected, rtol=1e-3, atol=1e-4)


def test_token_statistics_of_a_policy_that_stands_still():
    batch = world.batch(OLD)
    outputs = world.model(jnp.asarray(OLD, jnp.float32), batch.obs)
    found = outcomes.token_statistics(outputs, batch, reward=jnp.ones((world.N, world.G)))
    for name in ("mean_kl", "max_log_ratio", "ess_loss", "reward_surprise"):
        np.testing.assert_allclose(found[name], 0, atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="reward must have the batch's row axes"):
        outcomes.token_statistics(outputs, batch, reward=jnp.ones(world.G))


def test_g_statistic_against_scipy():
    cells = np.array([0] * 30 + [1] * 15 + [2] * 5)
    reference = np.array([0.7, 0.25, 0.05])
    found = outcomes.g_statistic(jnp.asarray(cells), jnp.asarray(reference))
    expected = scipy.stats.power_divergence(np.bincount(cells), 50 * reference, lambda_="log-likelihood")
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-5)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-4)
    assert float(found.novel) == 0
    labelled = np.arange(50) % 2 == 0
    part = outcomes.g_statistic(jnp.asarray(cells), jnp.asarray(reference), labelled=jnp.asarray(labelled))
    again = scipy.stats.power_divergence(
        np.bincount(cells[labelled], minlength=3), 25 * reference, lambda_="log-likelihood"
    )
    np.testing.assert_allclose(part.statistic, again.statistic, rtol=1e-4)


def test_with_few_expected_counts_the_p_value_errs_on_either_side():
    """The docstring's shares of looks below .05, summed over the binomial law of the count."""
    rates = {}
    for n in (32, 64, 100):
        hits = np.arange(n + 1)
        cells = (np.arange(n)[None] < hits[:, None]).astype(int)
        p = np.asarray(jax.jit(outcomes.g_statistic)(cells, jnp.array([0.97, 0.03])).p_value)
        rates[n] = scipy.stats.binom.pmf(hits, n, 0.03)[p < 0.05].sum()
    np.testing.assert_allclose([rates[64], rates[100], rates[32]], [0.155, 0.079, 0.015], atol=0.001)


def test_novel_outcomes_are_counted_and_no_infinity():
    found = outcomes.g_statistic(jnp.array([0, 0, 1, 2, 2]), jnp.array([0.5, 0.5, 0.0]))
    assert float(found.novel) == 2
    expected = scipy.stats.power_divergence([2, 1], [1.5, 1.5], lambda_="log-likelihood")
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-5)
    assert float(found.p_value) == 0  # the reference never does this
    lost = outcomes.g_statistic(jnp.array([0, 2, 5]), jnp.array([0.5, 0.5, 0.0]))
    assert np.isnan(lost.p_value)
    known = outcomes.g_statistic(jnp.array([0, 0, 1]), jnp.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(known.p_value, expected.pvalue, rtol=1e-4)  # one degree of freedom, not two


def test_a_cusum_of_what_cannot_be_is_nan_where_it_is_traced():
    look = jax.jit(lambda hits: outcomes.cusum(jnp.zeros(()), hits, 8, rate=0.05, alarm_rate=0.2))
    assert [bool(np.isnan(look(jnp.array(hits)))) for hits in (-1, 0, 8, 9)] == [True, False, False, True]


def test_looks_until_a_false_alarm_are_as_many_as_it_says():
    """At the threshold and the rates of the docstring one in 3,600; by Lorden fewer than one in e^6."""
    rng = np.random.default_rng(0)
    hits = jnp.asarray(rng.binomial(32, 0.03, size=(3000, 500)))

    def look(carry, hits):
        total, alarms = carry
        total = outcomes.cusum(total, hits, 32, rate=0.03, alarm_rate=0.12)
        return (jnp.where(total > 6, 0, total), alarms + (total > 6).sum()), None

    (_, alarms), _ = jax.jit(lambda hits: jax.lax.scan(look, (jnp.zeros(500), 0), hits))(hits)
    share = int(alarms) / hits.size
    assert 3000 < 1 / share < 4400
    assert share < np.exp(-6)


def test_cusum_is_a_sum_that_does_not_go_below_zero_and_warns():
    rate, alarm = 0.05, 0.2
    total = outcomes.cusum(jnp.array(1.0), jnp.array(2.0), jnp.array(8.0), rate=rate, alarm_rate=alarm)
    expected = 1 + 2 * np.log(0.2 / 0.05) + 6 * np.log(0.8 / 0.95)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert float(outcomes.cusum(jnp.array(0.1), jnp.array(0.0), jnp.array(8.0), rate=rate, alarm_rate=alarm)) == 0

    def run(key, truth):
        def look(total, key):
            hits = jax.random.bernoulli(key, truth, (8,)).sum().astype(jnp.float32)
            total = outcomes.cusum(total, hits, jnp.array(8.0), rate=rate, alarm_rate=alarm)
            return total, total

        return jax.lax.scan(look, jnp.array(0.0), jax.random.split(key, 50))[1].max()

    keys = jax.random.split(jax.random.key(0), 500)
    quiet, risen = (np.asarray(jax.jit(jax.vmap(run, (0, None)))(keys, t)) for t in (rate, alarm))
    assert (quiet > 6).mean() < 50 * np.exp(-6)
    assert (risen > 6).mean() > 0.99


def test_label_noise_there_and_back():
    for rate in (0.0, 0.05, 0.6, 1.0):
        seen = outcomes.observed_rate(rate, false_positive=0.02, false_negative=0.3)
        np.testing.assert_allclose(seen, rate * 0.7 + (1 - rate) * 0.02, rtol=1e-6)
        np.testing.assert_allclose(
            outcomes.true_rate(float(seen), false_positive=0.02, false_negative=0.3), rate, atol=1e-6
        )
    assert float(outcomes.true_rate(0.01, false_positive=0.02, false_negative=0.3)) == 0


def test_errors():
    with pytest.raises(ValueError, match="alarm_rate must exceed rate"):
        outcomes.cusum(jnp.zeros(()), jnp.zeros(()), jnp.ones(()), rate=0.2, alarm_rate=0.1)
    with pytest.raises(ValueError, match="below 1"):
        outcomes.true_rate(0.5, false_positive=0.6, false_negative=0.5)
    with pytest.raises(ValueError, match="false_positive"):
        outcomes.observed_rate(0.5, false_positive=1.6)
    with pytest.raises(TypeError, match="cells must be integer"):
        outcomes.g_statistic(jnp.zeros(3), jnp.ones(2) / 2)


@pytest.mark.parametrize("errors", [(1, 0), (0.0, 1), (np.float32(0.6), np.float32(0.6)), (jnp.array([0.1, 0.5]), 0.5)])
def test_labels_that_say_nothing_are_refused_whatever_type_the_numbers_have(errors):
    with pytest.raises(ValueError, match="must be below 1"):
        outcomes.true_rate(0.5, false_positive=errors[0], false_negative=errors[1])
    with pytest.raises(ValueError, match="0 < rate < alarm_rate < 1"):
        outcomes.cusum(jnp.zeros(()), jnp.ones(()), jnp.ones(()), rate=jnp.zeros(()), alarm_rate=0.2)
