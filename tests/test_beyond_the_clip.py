"""Discovered PO and Simple PO: loops over decisions, and what their slopes do beyond PPO's edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.surrogates import discovered_surrogate, quadratic_surrogate

SHAPE, ACTIONS = (6, 7), 4
pytestmark = pytest.mark.usefixtures("x64")


def discovered(ratio, advantage, alpha, beta):
    """The gain, and its slope in log ρ by hand."""
    sech2 = lambda x: 1 / np.cosh(x) ** 2  # noqa: E731
    if advantage >= 0:
        x = (ratio - 1) * advantage
        gone = x - alpha * np.tanh(x / alpha)
        slope = ratio * advantage * (1 - sech2(x / alpha))
    else:
        x = np.log(ratio) * advantage
        gone = x - beta * np.tanh(x / beta)
        slope = advantage * (1 - sech2(x / beta))
    return ratio * advantage - max(gone, 0), ratio * advantage - (slope if gone > 0 else 0)


def simple(ratio, advantage, clip_eps):
    gain = ratio * advantage - abs(advantage) / (2 * clip_eps) * (ratio - 1) ** 2
    return gain, ratio * (advantage - abs(advantage) / clip_eps * (ratio - 1))


@pytest.mark.parametrize(
    ("make", "by_hand", "hyper"),
    [
        (po.discovered_policy_optimization, discovered, {"alpha": 1.5, "beta": 0.4}),
        (po.simple_policy_optimization, simple, {"clip_eps": 0.3}),
    ],
)
def test_value_and_gradient_are_a_loop_over_decisions(make, by_hand, hyper):
    rng = np.random.default_rng(0)
    logits, action = rng.normal(size=(*SHAPE, ACTIONS)), rng.integers(ACTIONS, size=SHAPE)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_prob = np.take_along_axis(log_p, action[..., None], -1)[..., 0]
    old, advantage = log_prob + 0.7 * rng.normal(size=SHAPE), 2 * rng.normal(size=SHAPE)
    mask = rng.random(SHAPE) < 0.7
    batch = po.Batch(
        obs=None, action=jnp.asarray(action), mask=jnp.asarray(mask), log_prob=jnp.asarray(old),
        advantage=jnp.asarray(advantage),
    )  # fmt: skip
    loss = lambda x: make(**hyper)(po.Outputs(policy=po.Categorical(logits=x)), batch)  # noqa: E731
    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(logits))
    total, expected, quadrants = 0.0, np.zeros((*SHAPE, ACTIONS)), set()
    for index in map(tuple, np.argwhere(mask)):
        ratio = np.exp(log_prob[index] - old[index])
        gain, slope = by_hand(ratio, advantage[index], **hyper)
        quadrants.add((ratio > 1, advantage[index] > 0))
        total -= gain / mask.sum()
        expected[index] = -slope * (np.eye(ACTIONS)[action[index]] - np.exp(log_p[index])) / mask.sum()
    assert len(quadrants) == 4
    np.testing.assert_allclose(value, total, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, atol=1e-13)
    assert float(metrics["clip_fraction"]) == 0.0


def slope(gain, ratio, advantage):
    """d gain / d ρ."""
    return jnp.vectorize(jax.grad(lambda r, a: gain(jnp.log(r), a)))(jnp.asarray(ratio), jnp.asarray(advantage))


def test_at_the_old_policy_both_are_the_surrogate():
    advantage = np.array([-3.0, -0.1, 0.0, 0.5, 4.0])
    for gain in (
        lambda x, a: discovered_surrogate(x, a, alpha=2.0, beta=0.6),
        lambda x, a: quadratic_surrogate(x, a, clip_eps=0.2),
    ):
        np.testing.assert_allclose(slope(gain, 1.0, advantage), advantage, atol=1e-14)


@pytest.mark.parametrize("advantage", [-1.7, 0.8])
def test_simple_pos_gain_is_greatest_at_the_edge_of_ppos_range_and_pulls_back_beyond(advantage):
    gain = lambda x, a: quadratic_surrogate(x, a, clip_eps=0.2)  # noqa: E731
    edge = 1 + 0.2 * np.sign(advantage)
    np.testing.assert_allclose(slope(gain, edge, advantage), 0, atol=1e-13)
    inside, outside = slope(gain, edge + 0.05 * np.sign(advantage) * np.array([-1, 1]), advantage)
    assert inside * advantage > 0 > outside * advantage


def test_discovered_po_fades_for_good_actions_and_turns_around_for_bad_ones():
    gain = lambda x, a: discovered_surrogate(x, a, alpha=2.0, beta=0.6)  # noqa: E731
    ratio = np.array([0.9, 1.0, 1.5, 2.0, 4.0])
    good = slope(gain, ratio, 2.0)
    assert np.all(np.diff(good[1:]) < 0)
    assert good[-1] > 0
    np.testing.assert_allclose(good[0], 2.0)  # no drift where the ratio has not gone where it was sent
    bad = slope(gain, np.array([1.2, 1.0, 0.2]), -2.0)
    np.testing.assert_allclose(bad[:2], -2.0)
    assert bad[2] > 0


@pytest.mark.parametrize("wild", [-1e30, -40.0, 40.0, 1e30])
def test_wild_ratios_stay_finite(wild):
    with jax.enable_x64(False):
        batch = po.Batch(
            obs=None, action=jnp.zeros(2, int), mask=jnp.ones(2, bool), log_prob=jnp.full(2, -wild),
            advantage=jnp.array([1e3, -1e3]),
        )  # fmt: skip
        for term in (po.discovered_policy_optimization(), po.simple_policy_optimization()):
            loss = lambda x, t=term: t(po.Outputs(policy=po.Categorical(logits=x)), batch)[0]  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(jnp.zeros((2, 3)))
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()


def test_scales_are_positive():
    for make, bad in (
        (po.discovered_policy_optimization, {"alpha": 0.0}),
        (po.discovered_policy_optimization, {"beta": -1.0}),
        (po.simple_policy_optimization, {"clip_eps": 0.0}),
    ):
        with pytest.raises(ValueError, match="must be above 0"):
            make(**bad)
