"""Recorded log-probabilities as a model: against Bernoulli laws in float64, and at the ends of the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.language import recorded

OLD, NEW = np.array([[0.9, 0.2, 1e-3], [0.5, 1e-9, 0.99]]), np.array([[0.8, 0.3, 1e-2], [0.5, 1e-7, 0.999]])


def log(p):
    return jnp.asarray(np.log(p), jnp.float32)


def test_it_says_what_was_recorded_and_something_else_with_the_rest(strict):
    policy = recorded(log(OLD), None).policy
    assert policy.batch_shape == (2, 3)
    np.testing.assert_allclose(policy.log_prob(jnp.zeros((2, 3), int)), np.log(OLD), rtol=1e-5)
    np.testing.assert_allclose(policy.log_prob(jnp.ones((2, 3), int)), np.log1p(-OLD), rtol=1e-4, atol=1e-8)
    assert recorded(log(OLD), None).value is None


def test_the_rest_keeps_its_digits_where_it_is_small():
    rest = recorded(jnp.array([-1e-5, -3e-6]), None).policy.log_prob(jnp.ones(2, int))
    np.testing.assert_allclose(np.exp(np.asarray(rest, np.float64)), -np.expm1([-1e-5, -3e-6]), rtol=1e-4)


def test_divergences_are_those_of_this_token_or_another():
    found = recorded(log(OLD), None).policy.kl_divergence(recorded(log(NEW), None).policy)
    expected = OLD * np.log(OLD / NEW) + (1 - OLD) * np.log((1 - OLD) / (1 - NEW))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_what_is_next_to_certain_is_finite_also_in_its_gradient():
    sure = jnp.array([0.0, -1e-9, -1e-6, 5e-7])
    policy = recorded(sure, None).policy
    np.testing.assert_allclose(policy.log_prob(jnp.zeros(4, int)), np.full(4, -1e-6), rtol=0.1)
    assert np.isfinite(recorded(log(np.full(4, 0.5)), None).policy.kl_divergence(policy)).all()
    for at in (sure, jnp.array([-jnp.inf, -200.0]), log(OLD)):
        zeros = jnp.zeros(at.shape, int)
        entropy = jax.grad(lambda x, zeros=zeros: recorded(x, None).policy.where(zeros == 0).entropy().sum())(at)
        assert np.isfinite(entropy).all()
    never = recorded(jnp.array([-jnp.inf]), None).policy
    assert never.log_prob(jnp.array([0])).tolist() == [-np.inf]
    assert never.log_prob(jnp.array([1])).tolist() == [0]


def test_probabilities_are_no_log_probabilities():
    said = recorded(jnp.array([0.3, -0.3, jnp.nan]), None).policy.log_prob(jnp.zeros(3, int))
    assert np.isnan(said).tolist() == [True, False, True]
    np.testing.assert_allclose(said[1], -0.3, rtol=1e-5)


@pytest.mark.parametrize("under", [np.nan, np.inf, -np.inf, 3.0])
def test_what_is_padded_may_hold_anything(under):
    mask = jnp.array([[True, True, False], [True, True, True]])
    old, new = (jnp.where(mask, log(x), under) for x in (OLD, NEW))
    batch = po.Batch(obs=None, action=jnp.zeros((2, 3), int), mask=mask, log_prob=old)

    def moved(new):
        return po.action_kl(recorded(old, None), recorded(new, None), batch)

    each = OLD * np.log(OLD / NEW) + (1 - OLD) * np.log((1 - OLD) / (1 - NEW))
    np.testing.assert_allclose(moved(new), each[np.asarray(mask)].mean(), rtol=1e-4)
    slope = np.asarray(jax.grad(moved)(new))
    assert np.isfinite(slope).all()
    assert slope[0, 2] == 0
