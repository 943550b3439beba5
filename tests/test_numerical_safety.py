"""Hostile numbers: every function either gives the right finite answer or says what is wrong.

P26 ... are numbers of the project's list of properties; A1 ... are things that other libraries of the field get wrong.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import guards
from polopt_jax.solvers import CGStatus
from polopt_jax.surrogates import LOG_RATIO_LIMIT, clipped_surrogate, log_ratio

BIG = [0.0, 1e-8, 20.0, 88.0, 89.0, 1e3, 1e30]
LOG_RATIOS = np.array(sorted({s * x for x in BIG for s in (1, -1)}), np.float32)
INF = math.inf


def finite(tree):
    return all(np.isfinite(np.asarray(x, np.float64)).all() for x in jax.tree.leaves(tree))


def slope_of(term, batch):
    """Value and gradient of a term as a function of the logits, in one program."""
    return jax.jit(jax.value_and_grad(lambda x: term(po.Outputs(policy=po.Categorical(logits=x)), batch)[0]))


def same_bits(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


# --- extreme logits (P26, A13) ------------------------------------------------------------------------------------

EXTREME_LOGITS = {
    "huge": [1e4, -1e4, 3e3, 0.0],
    "one-hot": [1e4, 0.0, 0.0, 0.0],
    "equal-and-huge": [1e30, 1e30, 1e30, 1e30],
    "far-from-zero": [1e4, 1e4 - 1, 1e4 - 2, 1e4 - 0.5],
    "two-illegal": [0.3, -INF, 1.2, -INF],
    "one-legal": [-INF, 0.7, -INF, -INF],
    "one-legal-and-huge": [-INF, -INF, 1e4, -INF],
}


@jax.jit
def slopes_of_a_policy(logits):
    """Of its entropy, of its KL to the policy as it is and from it, and `[A, A]` of the log-probabilities."""
    of = lambda x: po.Categorical(logits=x)  # noqa: E731
    policy = of(logits)
    return (
        jax.grad(lambda x: of(x).entropy())(logits),
        jax.grad(lambda x: of(x).kl_divergence(policy))(logits),
        jax.grad(lambda x: policy.kl_divergence(of(x)))(logits),
        jax.vmap(lambda a: jax.grad(lambda x: of(x).log_prob(a))(logits))(jnp.arange(4)),
    )


@pytest.mark.parametrize("name", EXTREME_LOGITS)
def test_extreme_logits(name):
    logits = jnp.array(EXTREME_LOGITS[name])
    wide = np.asarray(logits, np.float64)
    exact_log_p = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    p = np.exp(exact_log_p)
    policy = po.Categorical(logits=logits)
    legal = np.isfinite(wide)

    log_prob = np.asarray(jax.jit(jax.vmap(policy.log_prob))(np.arange(4)))
    np.testing.assert_allclose(log_prob[legal], exact_log_p[legal], rtol=1e-6, atol=1e-6)
    assert (np.exp(log_prob)[~legal] == 0).all()
    exact_entropy = -sum(q * np.log(q) for q in p if q > 0)
    entropy = policy.entropy()
    np.testing.assert_allclose(entropy, exact_entropy, atol=1e-6)
    if legal.sum() == 1:
        assert float(entropy) == 0
    assert float(policy.kl_divergence(policy)) == 0

    gradients = slopes_of_a_policy(logits)
    gradients = [*gradients[:3], *gradients[3][legal]]
    for gradient in gradients:
        assert finite(gradient)
        assert (np.asarray(gradient)[~legal] == 0).all()
    for a, gradient in zip(np.flatnonzero(legal), gradients[3:], strict=True):
        np.testing.assert_allclose(gradient, np.eye(4)[a] - p, atol=1e-6)
    sampled = jax.jit(jax.vmap(lambda key: policy.sample(seed=key)))(jax.random.split(jax.random.key(0), 64))
    assert legal[np.asarray(sampled)].all()
    assert legal[int(policy.mode())]


def test_kl_between_policies_with_different_legal_actions():
    p = po.Categorical(logits=jnp.array([0.0, 0.0, -INF]))
    q = po.Categorical(logits=jnp.array([0.0, 0.0, 0.0]))
    np.testing.assert_allclose(p.kl_divergence(q), math.log(3 / 2), rtol=1e-6)
    assert float(q.kl_divergence(p)) == INF
    # An action of self that underflows to probability 0, and that other has not: 0 * inf must not be NaN.
    underflown = po.Categorical(logits=jnp.array([0.0, 0.0, -200.0]))
    assert float(underflown.kl_divergence(p)) in (0, INF)
    assert finite(jax.jit(jax.grad(lambda x: p.kl_divergence(po.Categorical(logits=x))))(underflown.logits))
    # The other direction: an action that *other* all but excludes.
    q = po.Categorical(logits=jnp.array([0.0, -200.0]))
    np.testing.assert_allclose(
        po.Categorical(logits=jnp.zeros(2)).kl_divergence(q), 0.5 * math.log(0.5) * 2 + 0.5 * 200, rtol=1e-6
    )


def test_all_actions_illegal():
    """Documented: log-probability -inf, entropy and KL 0; and a term masks such a decision out without a NaN."""
    nothing = po.Categorical(logits=jnp.full((2, 3), -INF))
    some = po.Categorical(logits=jnp.zeros((2, 3)))
    assert (np.asarray(nothing.log_prob(jnp.zeros(2, int))) == -INF).all()
    assert (np.asarray(nothing.entropy()) == 0).all()
    assert (np.asarray(nothing.kl_divergence(nothing)) == 0).all()
    assert (np.asarray(nothing.kl_divergence(some)) == 0).all()
    for f in (
        lambda x: po.Categorical(logits=x).entropy().sum(),
        lambda x: po.Categorical(logits=x).kl_divergence(some).sum(),
    ):
        assert finite(jax.jit(jax.grad(f))(nothing.logits))
    logits = jnp.array([[0.5, 0.1, 0.2], [-INF, -INF, -INF]])
    batch = po.Batch(
        obs=None,
        action=jnp.zeros(2, int),
        mask=jnp.array([True, False]),
        advantage=jnp.ones(2),
        log_prob=jnp.full(2, -1.0),
    )
    loss, gradient = slope_of(po.ppo(), batch)(logits)
    assert finite((loss, gradient))
    assert (np.asarray(gradient)[1] == 0).all()


@pytest.mark.parametrize("nans", [[0], [0, 1, 2]])
def test_nan_logits_are_not_taken_for_illegal_actions(nans):
    """A network gone NaN must show: not as an illegal action, not as entropy 0, not as a clamped ratio."""
    policy = po.Categorical(logits=jnp.zeros(3).at[jnp.array(nans)].set(jnp.nan))
    clean = po.Categorical(logits=jnp.zeros(3))
    for value in (
        policy.log_prob(jnp.array(1)),
        policy.entropy(),
        policy.kl_divergence(clean),
        clean.kl_divergence(policy),
    ):
        assert np.isnan(value)
    batch = po.Batch(
        obs=None, action=jnp.ones(1, int), mask=jnp.ones(1, bool), advantage=jnp.ones(1), log_prob=jnp.zeros(1)
    )
    assert np.isnan(slope_of(po.ppo(), batch)(policy.logits[None])[0])


def test_action_ids_out_of_range_are_nan():
    """A12: 256 ids with label -100 read token 156 in silence elsewhere."""
    policy = po.Categorical(logits=jnp.zeros((4, 256)))
    assert np.isnan(policy.log_prob(jnp.array([-100, 256, -1, 2**31 - 1]))).all()


# --- log-ratios (P27, A1, A3) -------------------------------------------------------------------------------------


def test_log_ratio_is_exact_to_20_and_flat_beyond():
    slope_at = jax.value_and_grad(lambda x: log_ratio(x, jnp.zeros(())))
    value, slope = jax.jit(jax.vmap(slope_at))(LOG_RATIOS)
    inside = np.abs(LOG_RATIOS) <= LOG_RATIO_LIMIT
    np.testing.assert_array_equal(value, np.clip(LOG_RATIOS, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    np.testing.assert_array_equal(slope, inside.astype(np.float32))
    for infinite in (INF, -INF):
        value, slope = slope_at(infinite)
        assert (float(value), float(slope)) == (math.copysign(20, infinite), 0)
    assert np.isnan(log_ratio(jnp.array(jnp.nan), jnp.zeros(())))


def ratio_batch(log_ratios, advantage):
    """One decision of log-probability log ½ per log-ratio, with the old log-probability that gives it."""
    n = len(log_ratios)
    old = jnp.asarray(math.log(0.5) - np.asarray(log_ratios, np.float64), jnp.float32)[:, None]
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((n, 1), int),
        mask=jnp.ones((n, 1), bool),
        log_prob=old,
        advantage=jnp.full((n, 1), advantage),
        ref_log_prob=old,
    )
    return batch, jnp.zeros((n, 1, 2))


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("name", ["surrogate", "ppo", "grpo"])
def test_any_log_ratio_gives_a_finite_loss_and_gradient(name, advantage):
    """P27; and A1: log-ratio 100 with A > 0 has a gradient of exactly 0 in PPO, where rlax has NaN."""
    batch, logits = ratio_batch(LOG_RATIOS, advantage)
    term = {"surrogate": po.surrogate(), "ppo": po.ppo(), "grpo": po.grpo(beta=0.0)}[name]

    def total(logits):
        loss, metrics = term(po.Outputs(policy=po.Categorical(logits=logits)), batch)
        return loss * len(LOG_RATIOS), metrics

    (loss, metrics), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    assert finite((loss, metrics, gradient))
    ratio = np.exp(np.clip(LOG_RATIOS.astype(np.float64), -20, 20))
    moves = np.abs(LOG_RATIOS) < 20.5
    if name != "surrogate":
        moves &= ~((advantage > 0) & (ratio > 1.2)) & ~((advantage < 0) & (ratio < 0.8))
    expected = -advantage * ratio * 0.5 * moves  # the derivative of log π(0) with respect to logit 0 is ½
    near = np.abs(np.abs(LOG_RATIOS) - 20) > 0.1  # at 20 itself, rounding of log ½ - 20 decides
    np.testing.assert_allclose(np.asarray(gradient)[near, 0, 0], expected[near], rtol=1e-6)
    assert (np.asarray(gradient)[near & ~moves] == 0).all()
    beyond = float(metrics["clamped_fraction"]) * len(LOG_RATIOS)
    assert (np.abs(LOG_RATIOS) > 20.5).sum() <= round(beyond) <= (np.abs(LOG_RATIOS) > 19.5).sum()


@pytest.mark.parametrize("old", [-INF, 1e30, -1e30, -100.0])
@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_poisonous_old_log_prob(old, advantage):
    """A1: zero advantage, or a sampler that gave the action no probability: finite loss *and* gradient."""
    batch = po.Batch(
        obs=None,
        action=jnp.zeros(2, int),
        mask=jnp.ones(2, bool),
        log_prob=jnp.array([old, -0.7]),
        advantage=jnp.array([advantage, 1.0]),
        ref_log_prob=jnp.array([old, -0.7]),
    )
    penalised = po.grpo(beta=0.1)
    for term in (po.surrogate(), po.ppo(), penalised):
        loss, gradient = slope_of(term, batch)(jnp.zeros((2, 3)))
        assert finite((loss, gradient))
        assert (np.asarray(gradient)[1] != 0).all()
        if abs(old) > 1e4 or term is not penalised:
            assert (np.asarray(gradient)[0] == 0).all()


@pytest.mark.parametrize("nats", [-5000.0, -88.0, -30.0, -21.0, -19.0, -1.0, 1.0, 19.0, 21.0, 30.0, 88.0, 5000.0])
def test_the_penalty_never_lets_go_of_a_policy_that_has_drifted(nats):
    """`nats` above the reference the gradient is 1 - e^-nats, exactly; far below it stays that of e^20, and is counted.

    The other token of the batch is at the reference, and shows that nothing is amplified but what drifted.
    """
    log_prob = math.log(0.5)
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((1, 2), int),
        mask=jnp.ones((1, 2), bool),
        log_prob=jnp.full((1, 2), log_prob),
        ref_log_prob=jnp.array([[log_prob - nats, log_prob]]),
        advantage=jnp.zeros((1, 2)),
    )

    def loss(logits):
        return po.grpo(beta=0.5)(po.Outputs(policy=po.Categorical(logits=logits)), batch)

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.zeros((1, 2, 2)))
    exponent = min(-nats, 20.0)
    slope = 1 - math.exp(exponent)
    k3 = math.exp(exponent) * (1 + max(-nats - 20.0, 0)) - 1 + nats
    np.testing.assert_allclose(value, 0.25 * k3, rtol=1e-5)
    np.testing.assert_allclose(metrics["ref_kl"], k3 / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0], [0.125 * slope, -0.125 * slope], rtol=1e-5)
    assert (np.asarray(gradient[0, 1]) == 0).all()
    assert float(metrics["ref_clamped_fraction"]) == (0.5 if nats < -20 else 0)


@pytest.mark.parametrize("garbage", [100.0, INF, math.nan])
def test_masked_log_ratio(garbage):
    """A3: multiplication by the mask, and a single where, give a NaN gradient here. The right loss is -A = -1."""
    log_prob = jnp.log(jnp.array([1 / 3, 0.5]))
    batch = po.Batch(
        obs=None,
        action=jnp.zeros(2, int),
        mask=jnp.array([True, False]),
        advantage=jnp.ones(2),
        log_prob=log_prob.at[1].set(-garbage),
    )
    loss, gradient = slope_of(po.surrogate(), batch)(jnp.zeros((2, 3)))
    np.testing.assert_allclose(loss, -1, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-2 / 3, 1 / 3, 1 / 3], [0, 0, 0]], atol=1e-6)
    assert (np.asarray(gradient)[1] == 0).all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators_near_zero(estimator):
    """Differences of 1e-8 and less are not cancelled away, and equal log-probabilities give exactly 0."""
    f = getattr(po, estimator)
    assert float(f(jnp.array(0.0))) == 0
    tiny = jnp.array([1e-8, -1e-8, 1e-4, -1e-4])
    exact = {"k1": tiny, "k2": tiny**2 / 2, "k3": tiny**2 / 2}[estimator]
    assert finite(f(tiny))
    atol = 1e-9 if estimator == "k3" else 0
    np.testing.assert_allclose(f(tiny), exact, rtol=1e-3, atol=atol)
    if estimator != "k1":
        assert (np.asarray(f(tiny)) >= 0).all()


def test_extreme_preference_margins():
    chosen = np.array([0.0, 1e3, -1e3, 1e30, -1e30], np.float32)
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((2, 5, 1), int),
        mask=jnp.ones((2, 5, 1), bool),
        ref_log_prob=jnp.asarray(np.stack([-chosen, 0 * chosen])[..., None]),
    )
    value, gradient = slope_of(po.dpo(beta=1.0), batch)(jnp.zeros((2, 5, 1, 2)))
    np.testing.assert_allclose(value, (math.log(2) + 1e3 + 1e30) / 5, rtol=1e-6)
    assert finite(gradient)
    np.testing.assert_allclose(gradient[0, :, 0, 0] * 5, [-0.25, 0, -0.5, 0, -0.5], atol=1e-6)


# --- Gaussians (P28, A6) ------------------------------------------------------------------------------------------

LOG_STDS = [-1e4, -20.0, 0.0, 20.0, 1e4]


@pytest.mark.parametrize("distribution", [po.DiagGaussian, po.TanhGaussian])
def test_extreme_gaussians_are_finite(distribution):
    action, log_std = (x.reshape(-1, 1) for x in np.meshgrid([0.0, 5.0, 9.0, 20.0, 1e4, -1e4], LOG_STDS))
    mean = jnp.zeros((len(action), 1))

    def everything(mean, log_std, action):
        policy, standard = distribution(mean=mean, log_std=log_std), distribution(mean=mean, log_std=0 * log_std)
        return {
            "log_prob": policy.log_prob(action),
            "entropy": policy.entropy(),
            "kl": policy.kl_divergence(standard),
            "squash": policy.squash(action),
            "sample": policy.sample(seed=jax.random.key(0)),
        }

    result = jax.jit(everything)(mean, jnp.asarray(log_std), jnp.asarray(action))
    assert finite(result)
    assert (np.asarray(result["kl"]) >= 0).all()
    gradient = jax.jit(
        jax.grad(lambda *x: sum(v.sum() for k, v in everything(*x).items() if k != "squash"), argnums=(0, 1))
    )(mean, jnp.asarray(log_std), jnp.asarray(action))
    assert finite(gradient)


@jax.jit
def two_divergences(p, q):
    return p.kl_divergence(p), p.kl_divergence(q)


@pytest.mark.parametrize("name", ["Categorical", "DiagGaussian", "TanhGaussian"])
def test_kl_of_a_policy_with_itself_is_exactly_zero(name):
    """A6: 8.0e-5 in brax, over 8 dimensions."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        leaves = [jnp.asarray(3 * rng.normal(size=(7, 8)), jnp.float32) for _ in range(2)]
        if name == "Categorical":
            p, q = (po.Categorical(logits=x) for x in leaves)
        else:
            p, q = (getattr(po, name)(mean=m, log_std=s / 3) for m, s in [leaves, leaves[::-1]])
        itself, other = two_divergences(p, q)
        assert (np.asarray(itself) == 0).all()
        assert (np.asarray(other) > 0).all()


@pytest.mark.parametrize("mean", [-1.0, 0.3])
@pytest.mark.parametrize("log_std", [-1.0, 0.0, 0.7])
def test_densities_integrate_to_one(x64, mean, log_std):
    """By the trapezoidal rule over 20 standard deviations of u; for the squashed policy over tanh(u), in (-1, 1)."""
    std = math.exp(log_std)
    u = np.linspace(mean - 10 * std, mean + 10 * std, 20001)
    leaves = dict(mean=jnp.full((len(u), 1), mean), log_std=jnp.full((len(u), 1), log_std))
    density = np.exp(po.DiagGaussian(**leaves).log_prob(jnp.asarray(u)[:, None]))
    np.testing.assert_allclose(np.trapezoid(density, u), 1, atol=1e-9)
    squashed = np.exp(po.TanhGaussian(**leaves).log_prob(jnp.asarray(u)[:, None]))
    jacobian = 1 / np.cosh(u) ** 2  # d tanh(u) / du
    np.testing.assert_allclose(np.trapezoid(squashed * jacobian, u), 1, atol=1e-6)
    # entropy = -∫ p log p over the same nodes
    gaussian = -np.trapezoid(density * np.log(density), u)
    np.testing.assert_allclose(po.DiagGaussian(**leaves).entropy()[0], gaussian, atol=1e-8)
    with np.errstate(divide="ignore", invalid="ignore"):
        integrand = np.where(squashed > 0, squashed * np.log(squashed), 0) * jacobian
    np.testing.assert_allclose(po.TanhGaussian(**leaves).entropy()[0], -np.trapezoid(integrand, u), atol=2e-4)


# --- standardisation and groups (A4, A5, A13) ---------------------------------------------------------------------


@jax.jit
def group_advantages(reward, eps):
    return (
        po.group_relative(reward, eps=eps),
        po.group_relative(reward, eps=eps, ddof=0),
        po.group_centred(reward),
        po.leave_one_out(reward),
    )


def test_groups_of_equal_rewards_have_exactly_no_advantage():
    """A5: not zero in 788 of 1271 groups with the usual formula in float32."""
    values = [*np.linspace(-2, 2, 41), 0.1, 0.35, 1e8, -0.0, 1e-30, 3e38, 1 / 3]
    checked = 0
    for size in (1, 2, 3, 5, 7, 8, 16, 32):
        reward = np.repeat(np.array(values, np.float32)[:, None], size, axis=1)
        for eps in (0.0, 1e-8) if size in (1, 7) else (1e-8,):
            for advantage in group_advantages(reward, eps):
                assert (np.asarray(advantage) == 0).all()
                checked += len(values)
    assert checked >= 1271


def test_standardize_degenerate_inputs():
    """A4: one valid token, an empty mask, NaN under the mask, equal values."""
    full, none, one = jnp.ones(4, bool), jnp.zeros(4, bool), jnp.arange(4) == 2
    for value in (0.1, 0.35, 1e8, -0.0, 1 / 3):
        assert (np.asarray(po.standardize(jnp.asarray(np.full(4, value, np.float32)), full, eps=0.0)) == 0).all()
    x = jnp.array([1.0, -2.0, 5.0, 0.5])
    assert (np.asarray(po.standardize(x, one)) == 0).all()
    assert (np.asarray(po.standardize(x, none)) == 0).all()
    hidden = x.at[0].set(jnp.nan).at[1].set(jnp.inf)
    np.testing.assert_allclose(po.standardize(hidden, jnp.arange(4) >= 2), [0, 0, 1, -1], atol=1e-6)
    # What is not finite and not masked is left out, and is no silent zero.
    for lost in (jnp.nan, jnp.inf, -jnp.inf):
        np.testing.assert_allclose(
            po.standardize(x.at[1].set(lost), full), po.standardize(x, full & (x != -2.0)).at[1].set(jnp.nan)
        )
    assert np.isnan(po.standardize(jnp.full(4, jnp.nan), full)).all()
    # The gradient at equal values, where jnp.std has NaN.
    for mask in (full, one, none):
        assert finite(jax.jit(jax.grad(lambda x, mask=mask: (po.standardize(x, mask) ** 2).sum()))(jnp.ones(4)))


def test_standardize_keeps_precision_far_from_zero():
    x = 1e6 + np.array([0.0, 1.0, 2.0, 3.0])
    expected = (x - x.mean()) / x.std()
    np.testing.assert_allclose(po.standardize(jnp.asarray(x, jnp.float32), jnp.ones(4, bool)), expected, rtol=1e-5)


def test_a_broken_reward_stays_in_its_group_and_its_episode():
    reward = jnp.array([[0.0, 1.0, 2.0], [0.0, jnp.nan, 1.0], [3.0, 1.0, 2.0]])
    for f in map(jax.jit, (po.group_relative, po.group_centred, po.leave_one_out)):
        clean = f(reward.at[1, 1].set(0.0))
        assert np.isnan(f(reward)[1]).any()
        np.testing.assert_array_equal(f(reward)[::2], clean[::2])
    # Two episodes in one environment: what breaks in the second says nothing of the first.
    no, gae, returns_of = jnp.zeros((4, 1), bool), jax.jit(po.gae), jax.jit(po.discounted_returns)
    for ends in (dict(terminated=no.at[1].set(True), truncated=no), dict(terminated=no, truncated=no.at[1].set(True))):
        ones = jnp.ones((4, 1))
        for bad in (jnp.nan, jnp.inf):
            advantage, target = gae(reward=ones.at[2].set(bad), value=ones, next_value=ones, **ends)
            expected, _ = gae(reward=ones, value=ones, next_value=ones, **ends)
            np.testing.assert_array_equal(advantage[:2], expected[:2])
            np.testing.assert_array_equal(advantage[3], expected[3])
            assert not np.isfinite(advantage[2]).any()
            assert not np.isfinite(target[2]).any()
            returns = returns_of(reward=ones.at[2].set(bad), next_value=ones, **ends)
            np.testing.assert_array_equal(returns[:2], returns_of(reward=ones, next_value=ones, **ends)[:2])


# --- the guard around an update (P29, A10) ------------------------------------------------------------------------


def linear_objective(params, batch):
    """An objective whose gradient is the advantage of the batch's only row."""
    return jnp.sum(params * batch.advantage[0]), {}


def gradient_batch(gradient):
    gradient = jnp.asarray(gradient, jnp.float32)[None]
    return po.Batch(obs=None, action=None, mask=jnp.ones(gradient.shape, bool), advantage=gradient)


def guarded(optimizer=None):
    optimizer = optimizer or optax.chain(po.clip_by_global_norm(1.0), optax.adam(0.1))
    step = po.make_step((linear_objective, optimizer))
    return step, jax.jit(step.update)


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_a_step_that_is_not_finite_is_skipped_bit_for_bit(bad):
    """Ten bad gradients in a row, where apply_if_finite lets the fourth through; then training goes on."""
    step, update = guarded()
    params = jnp.array([1.0, -0.0, 0.0])
    params, state, _ = update(params, step.init(params), gradient_batch([0.5, 0.0, 0.0]), None)
    assert finite((params, state))
    kept, kept_state = params, state
    for _ in range(10):
        kept, kept_state, metrics = update(kept, kept_state, gradient_batch([0.3, bad, 0.1]), None)
        assert float(metrics["skipped"]) == 1
    assert same_bits((kept, kept_state), (params, state))
    params, state, metrics = update(kept, kept_state, gradient_batch([0.3, 0.2, 0.1]), None)
    assert float(metrics["skipped"]) == 0
    assert finite((params, state))
    assert not same_bits(params, kept)


def test_negative_zero_survives_a_skipped_step():
    step, update = guarded(optax.sgd(0.1))
    params, _, _ = update(jnp.array([-0.0, 0.0]), step.init(jnp.zeros(2)), gradient_batch([math.nan, 0.0]), None)
    assert np.signbit(np.asarray(params)).tolist() == [True, False]


@pytest.mark.parametrize("scale", [1e30, 1e18, 1.0, 1e-20, 1e-40, 0.0])
def test_extreme_gradients_keep_everything_finite(scale):
    gradient = scale * np.array([3.0, -4.0, 0.0])
    step, update = guarded()
    params, state, metrics = update(jnp.ones(3), step.init(jnp.ones(3)), gradient_batch(gradient), None)
    assert float(metrics["skipped"]) == 0
    assert finite((params, state, metrics))
    step, update = guarded(optax.chain(po.clip_by_global_norm(1.0), optax.sgd(1.0)))
    params, _, _ = update(jnp.zeros(3), step.init(jnp.zeros(3)), gradient_batch(gradient), None)
    if scale >= 1:  # A10: 1e30 is clipped, not zeroed, and keeps its direction
        np.testing.assert_allclose(params, [-0.6, 0.8, 0], rtol=1e-6)
    elif scale > 1e-38:
        np.testing.assert_allclose(params, -gradient, rtol=1e-6)


def test_one_poisoned_phase_leaves_the_others():
    """Phase 0 breaks and is skipped; phase 1 goes on from the untouched parameters."""
    broken = lambda params, batch: (jnp.sum(params) * jnp.nan, {})  # noqa: E731
    step = po.make_step(broken=(broken, optax.adam(0.1)), sound=(linear_objective, optax.sgd(1.0)))
    params, _, metrics = step.update(
        jnp.ones(2), step.init(jnp.ones(2)), gradient_batch([0.5, 0.25]), jax.random.key(0)
    )
    np.testing.assert_array_equal(params, [0.5, 0.75])
    assert (float(metrics["broken/skipped"]), float(metrics["sound/skipped"])) == (1, 0)


# --- one poisoned environment (P30, A8) ---------------------------------------------------------------------------

STEPS, ENVS, POISONED = 4, 3, 1


def make_rollout():
    rng = np.random.default_rng(3)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    flat = (STEPS, ENVS)
    terminated = jnp.zeros(flat, bool).at[1, 0].set(True)
    return po.Rollout(
        obs=normal(*flat, 2), next_obs=normal(*flat, 2), action=normal(*flat, 1), log_prob=-1.0 + 0.3 * normal(*flat),
        reward=normal(*flat), terminated=terminated, truncated=jnp.zeros(flat, bool), mask=jnp.ones(flat, bool),
        value=normal(*flat), next_value=normal(*flat),
    )  # fmt: skip


def model(params, obs):
    mean = obs @ params
    return po.Outputs(policy=po.DiagGaussian(mean=mean, log_std=0 * mean - 0.5), value=mean[..., 0])


@jax.jit
def ppo_pipeline(params, rollout):
    """Loss, gradient and the batch that they come from: gae, to_batch, standardize, ppo and the critic."""
    advantage, target = po.gae(rollout)
    batch = po.to_batch(rollout, advantage=advantage, target=target)
    batch = replace(batch, advantage=po.standardize(batch.advantage, batch.mask))
    loss = po.objective(model, po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss())))
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch)
    return (value, metrics, gradient), batch


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
@pytest.mark.parametrize("field", ["reward", "obs", "log_prob", "value", "next_value"])
def test_one_poisoned_environment_leaves_the_others(field, bad):
    """A8: in brax one NaN reward makes *all* advantages NaN. Here the run without those decisions gives the same."""
    rollout, params = make_rollout(), jnp.array([[0.3], [-0.2]])
    x = getattr(rollout, field)
    poisoned = replace(rollout, **{field: x.at[-1, POISONED].set(bad)})
    result, batch = ppo_pipeline(params, poisoned)
    assert finite(result)
    lost = ~np.asarray(batch.mask)
    assert lost.any()
    assert set(np.argwhere(lost)[:, 0]) == {POISONED}
    clean = replace(rollout, mask=jnp.asarray(~lost.T))
    expected, clean_batch = ppo_pipeline(params, clean)
    for a, e in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    others = [i for i in range(ENVS) if i != POISONED]
    np.testing.assert_allclose(batch.advantage[jnp.array(others)], clean_batch.advantage[jnp.array(others)], atol=1e-6)
    assert float(result[1]["policy/num_valid"]) == STEPS * ENVS - lost.sum()
    if field in ("reward", "value", "next_value"):  # the whole row is lost, and nothing else
        assert lost.sum() == STEPS


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_a_poisoned_action_is_masked_out(bad):
    rollout, params = make_rollout(), jnp.array([[0.3], [-0.2]])
    result, batch = ppo_pipeline(params, replace(rollout, action=rollout.action.at[2, POISONED].set(bad)))
    expected, _ = ppo_pipeline(params, replace(rollout, mask=rollout.mask.at[2, POISONED].set(False)))
    assert finite(result)
    assert int((~batch.mask).sum()) == 1
    for a, e in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


# --- conjugate gradients (P14, A11) -------------------------------------------------------------------------------

MATRIX = np.diag([1.0, 4.0, 9.0]) + 0.5
RHS = np.array([1.0, -2.0, 0.5])


def solve(matrix, b, **options):
    """Compiled once per options; the matrix and the right-hand side are traced."""
    return jax.jit(lambda m, b: po.conjugate_gradient(lambda v: m @ v, b, **options))(
        jnp.asarray(matrix, jnp.float32), jnp.asarray(b, jnp.float32)
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-8, 1.0, 1e8, 1e20, 1e30])
def test_solution_is_equivariant_in_scale(scale):
    """A11: jax's own returns 0 below 1e-20 without a word."""
    exact = np.linalg.solve(MATRIX, RHS)
    x, info = solve(MATRIX, scale * RHS, iters=10, tol=1e-6)
    np.testing.assert_allclose(np.asarray(x, np.float64) / scale, exact, rtol=1e-5)
    assert int(info.status) == CGStatus.CONVERGED
    assert float(info.residual) <= 1e-6


@pytest.mark.parametrize(
    ("matrix", "rhs", "status"),
    [
        (MATRIX, 0 * RHS, CGStatus.CONVERGED),
        (0 * MATRIX, RHS, CGStatus.NONPOSITIVE_CURVATURE),
        (np.diag([1.0, -1.0, 2.0]), RHS, CGStatus.NONPOSITIVE_CURVATURE),
        (-MATRIX, RHS, CGStatus.NONPOSITIVE_CURVATURE),
        (MATRIX * np.nan, RHS, CGStatus.NONFINITE),
        (MATRIX, RHS * np.array([1, np.nan, 1]), CGStatus.NONFINITE),
        (MATRIX, RHS * np.array([1, np.inf, 1]), CGStatus.NONFINITE),
        (np.diag([3e38, 1.0, 1.0]), RHS, CGStatus.NONFINITE),
    ],
)
def test_degenerate_systems_say_so(matrix, rhs, status):
    x, info = solve(matrix, rhs, iters=10, tol=1e-6)
    assert finite(x)
    assert int(info.status) == status
    if status == CGStatus.CONVERGED:
        assert (np.asarray(x) == 0).all()
        assert float(info.residual) == 0


def test_convergence_is_never_claimed_falsely():
    """A Hilbert matrix, of condition 1e16 in float64: float32 cannot reach the tolerance, and does not say it did."""
    n = 12
    hilbert = 1 / (np.arange(n)[:, None] + np.arange(n) + 1.0)
    for tol in (1e-4, 1e-7):
        x, info = solve(hilbert, np.ones(n), iters=200, tol=tol)
        residual = np.linalg.norm(np.ones(n) - hilbert @ np.asarray(x, np.float64)) / np.sqrt(n)
        assert residual / 3 - 1e-6 <= float(info.residual) <= 3 * residual + 1e-6
        assert int(info.status) != CGStatus.CONVERGED or residual <= 10 * tol
    x, info = solve(MATRIX, RHS, iters=1, tol=1e-6)
    assert int(info.status) == CGStatus.ITERATION_LIMIT
    assert float(info.residual) > 1e-2


def test_vmapped_systems_stop_one_by_one():
    matrices = jnp.asarray(np.stack([MATRIX, 0 * MATRIX, MATRIX * np.nan, np.eye(3)]), jnp.float32)
    b = jnp.asarray(RHS, jnp.float32)
    x, info = jax.jit(jax.vmap(lambda m: po.conjugate_gradient(lambda v: m @ v, b, iters=10, tol=1e-6)))(matrices)
    assert finite(x)
    np.testing.assert_allclose(x[0], np.linalg.solve(MATRIX, RHS), rtol=1e-5)
    np.testing.assert_allclose(x[3], RHS, rtol=1e-6)
    expected = [CGStatus.CONVERGED, CGStatus.NONPOSITIVE_CURVATURE, CGStatus.NONFINITE, CGStatus.CONVERGED]
    assert info.status.tolist() == expected


@pytest.mark.parametrize("make", [po.npg, po.trpo])
def test_deterministic_policy_has_no_fisher_information(make):
    """A11: a zero Fisher matrix gives infinities elsewhere; here a finite step, or none."""
    policy_model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None] * jnp.array([1e4, 0.0])))  # noqa: E731
    batch = po.Batch(
        obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool), advantage=jnp.ones(1), log_prob=jnp.zeros(1)
    )
    loss = po.objective(policy_model, po.surrogate())
    step = po.make_step((loss, make(policy_model, damping=0.0)))
    params, state, metrics = jax.jit(step.update)(jnp.ones(2), step.init(jnp.ones(2)), batch, None)
    assert finite((params, state, metrics))
    np.testing.assert_array_equal(params, jnp.ones(2))


@pytest.mark.parametrize("step", [1e-1, 1e-2, 1e-3, 1e-4])
def test_the_kl_of_nearly_equal_policies_keeps_its_digits(step):
    """A float32 sum of p log(p/q) is all rounding at a step of 1e-4; the truth is taken in float64."""
    logits = np.array([0.3, -1.0, 0.7, 0.1])
    other = logits + step * np.array([1.0, -1.0, 0.5, 0.0])
    log_p, log_q = (x - np.log(np.exp(x).sum()) for x in (logits, other))
    truth = (np.exp(log_p) * (log_p - log_q)).sum()
    old, new = (po.Categorical(logits=jnp.asarray(x, jnp.float32)[None]) for x in (logits, other))
    np.testing.assert_allclose(float(old.kl_divergence(new)[0]), truth, rtol=1e-5 / step)


def test_a_gradient_that_is_not_finite_is_seen_though_the_optimizer_hides_it():
    """The sign of an infinite slope is 1: a finite loss, finite updates, finite parameters."""
    step = po.make_step((lambda params, batch: (jnp.sqrt(params).sum(), {}), optax.sign_sgd(0.1)))
    params = jnp.array([0.0, 1.0])
    after, _, metrics = jax.jit(step.update)(params, step.init(params), None, None)
    assert metrics["skipped"] == 1
    np.testing.assert_array_equal(after, params)


@pytest.mark.parametrize("rate", [INF, math.nan, 3e38])
def test_updates_that_are_not_finite_or_overflow_are_seen_though_loss_and_gradient_are_sound(rate):
    step = po.make_step((lambda params, batch: (-params.sum(), {}), optax.sgd(rate)))
    params = jnp.array([3e38, 1.0])
    after, _, metrics = jax.jit(step.update)(params, step.init(params), None, None)
    assert metrics["skipped"] == 1
    np.testing.assert_array_equal(after, params)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_what_is_clamped_is_itself_within_and_constant_beyond():
    x = jnp.array([-INF, -3.0, -2.0, -0.5, 0.0, 2.0, 2.5, INF, jnp.nan])
    value, slope = jax.jvp(lambda x: guards.clamped(x, 2.0), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(value, [-2, -2, -2, -0.5, 0, 2, 2, 2, np.nan])
    np.testing.assert_array_equal(slope[:-1], [0, 0, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(jax.grad(lambda x: guards.clamped(x, 2.0)[:-1].sum())(x)[:-1], slope[:-1])


def test_a_nan_of_the_ratio_or_of_a_bound_is_not_clipped_away():
    for log, clip_eps in ((jnp.nan, 0.2), (0.0, jnp.float32(jnp.nan)), (3.0, (jnp.nan, jnp.nan))):
        for advantage in (1.0, -1.0):
            assert np.isnan(clipped_surrogate(jnp.float32(log), jnp.float32(advantage), clip_eps=clip_eps))


@pytest.mark.parametrize("clip_eps", [0.2, (0.1, 0.3), jnp.float32(0.2)])
def test_the_clip_is_the_smaller_of_both_products(clip_eps):
    """As it is written in the paper, in float64; and its slope is A ρ where the unclipped product is the smaller."""
    low, high = clip_eps if isinstance(clip_eps, tuple) else (float(clip_eps),) * 2
    ratio, advantage = (x.ravel() for x in np.meshgrid(np.linspace(0.063, 2.037, 40), [-2.0, -1e-3, 0.0, 0.5, 1e30]))
    whole, clipped = ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage
    log = jnp.log(jnp.asarray(ratio, jnp.float32))
    surrogate = lambda x: clipped_surrogate(x, jnp.asarray(advantage, jnp.float32), clip_eps=clip_eps)  # noqa: E731
    np.testing.assert_allclose(surrogate(log), np.minimum(whole, clipped), rtol=2e-6)
    slope = jax.jvp(surrogate, (log,), (jnp.ones_like(log),))[1]
    np.testing.assert_allclose(slope, np.where(whole <= clipped, whole, 0), rtol=2e-6)
