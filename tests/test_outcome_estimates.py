"""Estimates to report: bias, coverage and novel mass against enumeration."""

import dataclasses
import functools

import enumerated as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import t as student

import polopt_jax as po
from polopt_jax import outcomes

SAMPLES = 1500
LIMITS = (0.90, 0.99)
"""Of 1500 intervals that claim 95%, as the design asks."""
OF_TWO_PROMPTS = 0.997
"""At most: the interval of two prompts has room for others, and here they are the same two each time."""


def kl(p, q):
    some = p > 0
    return float((np.where(some, p, 0) * np.log(np.where(some, p, 1) / np.where(some, q, 1))).sum())


sample_estimate = jax.jit(outcomes.sample_estimate, static_argnums=2, static_argnames="between")


def repeated(estimate):
    """Many estimates at once, each field `[SAMPLES]`."""
    return jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), SAMPLES))


def coverage(found, truth):
    return float(((found.low <= truth) & (truth <= found.high)).mean())


TWO_SAMPLES = {
    "equal": ([0.5, 0.5], [0.5, 0.5], 100),
    "near": ([0.5, 0.5], [0.45, 0.55], 100),
    "far": ([0.5, 0.5], [0.25, 0.75], 200),
    "four cells": ([0.1, 0.4, 0.2, 0.3], [0.4, 0.1, 0.3, 0.2], 200),
    "four equal cells": ([0.25] * 4, [0.25] * 4, 100),
    "rare": ([0.03, 0.97], [0.1, 0.9], 400),
}


@pytest.mark.parametrize(
    "label",
    [pytest.param(x, marks=pytest.mark.slow if x in ("near", "far", "four equal cells") else ()) for x in TWO_SAMPLES],
)
def test_two_samples(label):
    p, q, size = TWO_SAMPLES[label]

    def estimate(key):
        keys = jax.random.split(key)
        first, second = (
            jax.random.choice(k, len(law), (size,), p=jnp.array(law)) for k, law in zip(keys, (p, q), strict=True)
        )
        return outcomes.sample_estimate(first, second, len(p))

    found, truth = repeated(estimate), kl(np.array(p), np.array(q))
    error = np.asarray(found.value).std() / np.sqrt(SAMPLES)
    plug_in_bias = float(found.plug_in.mean()) - truth
    assert LIMITS[0] <= coverage(found, truth) <= LIMITS[1], coverage(found, truth)
    assert abs(float(found.value.mean()) - truth) < 4 * error + 0.25 * plug_in_bias
    assert plug_in_bias > 0.7 * (len(p) - 1) / size  # (K-1)/2 from either sample
    assert (found.plug_in >= 0).all()
    assert (found.low >= 0).all()


@pytest.mark.parametrize("between", ["jensen_shannon", "chi_square"])
def test_other_divergences_have_intervals_too(between):
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.4, 0.3])
    function = getattr(outcomes, between)

    def estimate(key):
        keys = jax.random.split(key)
        samples = [jax.random.choice(k, 3, (200,), p=jnp.array(law)) for k, law in zip(keys, (p, q), strict=True)]
        return outcomes.sample_estimate(*samples, 3, between=function)

    m = (p + q) / 2
    truth = {"jensen_shannon": (kl(p, m) + kl(q, m)) / 2, "chi_square": ((p - q) ** 2 / q).sum()}[between]
    found = repeated(estimate)
    assert LIMITS[0] <= coverage(found, truth) <= LIMITS[1]
    np.testing.assert_allclose(found.value.mean(), truth, rtol=0.05)


@pytest.mark.parametrize(
    ("step", "size"),
    [(0.05, 40), (0.5, 300), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((0.05, 300), (0.5, 40)))],
)
def test_weighted_rows(size, step):
    """Rows of the old policy, of which the new one's law is estimated by weights: `outcome_estimate` on a batch."""
    old = world.table(0)
    new = old + step * world.table(1)
    of = lambda o: o["success"]  # noqa: E731
    laws = [world.cells_law(world.law(x), world.OUTCOME["success"], 2) for x in (old, new)]
    truth = np.mean([kl(p, q) for p, q in zip(*laws, strict=True)])
    everything = world.batch(old)

    def estimate(key):
        drawn = jax.vmap(lambda k, p: jax.random.choice(k, world.G, (size,), p=p))(
            jax.random.split(key, world.N), jnp.asarray(world.law(old), jnp.float32)
        )
        pick = lambda x: jax.vmap(lambda x, i: x[i])(x, drawn)  # noqa: E731
        batch = jax.tree.map(pick, everything)
        outputs = [world.model(jnp.asarray(x, jnp.float32), batch.obs) for x in (old, new)]
        return outcomes.outcome_estimate(2, of=of)(*outputs, batch)

    found = repeated(estimate)
    assert LIMITS[0] <= coverage(found, truth) <= OF_TWO_PROMPTS, coverage(found, truth)
    error = np.asarray(found.value).std() / np.sqrt(SAMPLES)
    assert abs(float(found.value.mean()) - truth) < 4 * error + 0.05 * truth
    np.testing.assert_allclose(found.ess_p, size, rtol=1e-5)  # the sampler is the old policy
    assert (found.ess_q < size).all()


def u_statistic(x, y, bandwidth):
    """Gretton et al. 2012, equation 3."""
    k = lambda a, b: np.exp(-0.5 * (a[:, None] - b[None, :]) ** 2 / bandwidth**2)  # noqa: E731
    within = lambda a: (k(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))  # noqa: E731
    return within(x) + within(y) - 2 * k(x, y).mean()


@pytest.mark.parametrize("shift", [0.0, pytest.param(0.1, marks=pytest.mark.slow), 1.0])
def test_mmd_of_two_samples(shift):
    """Against the U-statistic, and the truth for two normal laws."""
    draw = lambda key: (jax.random.normal(key, (80,)), shift + jax.random.normal(jax.random.fold_in(key, 1), (60,)))  # noqa: E731
    x, y = (np.asarray(a, np.float64) for a in draw(jax.random.key(0)))
    found = jax.jit(lambda x, y: outcomes.sample_mmd(x, y, bandwidth=1.0))(x, y)
    np.testing.assert_allclose(found.value, u_statistic(x, y, 1.0), atol=5e-4)
    several = repeated(lambda key: outcomes.sample_mmd(*draw(key), bandwidth=1.0))
    # E k(X, X') for N(0, s²) differences: s²=2 within, and shifted between.
    truth = 2 / np.sqrt(3) * (1 - np.exp(-(shift**2) / 6))
    assert LIMITS[0] <= coverage(several, truth) <= LIMITS[1], coverage(several, truth)
    error = np.asarray(several.value).std() / np.sqrt(SAMPLES)
    assert abs(float(several.value.mean()) - truth) < 4 * error + 1e-3
    assert float(several.plug_in.mean()) > truth + 0.005


def test_mmd_moments_are_derivatives(x64):
    """Bias and variances against derivatives of the plug-in value with respect to every row's weight."""
    from polopt_jax.outcomes._mmd import _of_features

    rng = np.random.default_rng(0)
    z, old, new = rng.normal(size=(9, 2)), rng.normal(size=9), rng.normal(size=9)
    real = np.arange(9) != 4
    of_prompt = jax.jit(_of_features(0.8))
    found = of_prompt(z, real, old, new)
    value = lambda u: of_prompt(z, real, old + jnp.log(u), new + jnp.log(u)).plug_in  # noqa: E731
    gradient, hessian = (np.asarray(jax.jit(of(value))(np.ones(9))) for of in (jax.grad, jax.hessian))
    np.testing.assert_allclose(found.bias, np.trace(hessian) / 2, rtol=1e-9)
    np.testing.assert_allclose(found.slope_variance, gradient @ gradient, rtol=1e-9)
    np.testing.assert_allclose(found.floor_variance, (hessian**2).sum() / 2, rtol=1e-9)


def test_mmd_of_weighted_rows_and_of_features_with_nobody_near():
    old, new = world.table(0), world.table(0) + 0.5 * world.table(1)
    z = world.SENTENCES.sum(-1) / 3
    kernel = np.exp(-0.5 * (z[:, None] - z[None, :]) ** 2 / 0.25)
    difference = world.law(old) - world.law(new)
    truth = np.einsum("ng,gh,nh->n", difference, kernel, difference).mean()
    everything = world.batch(old)

    def estimate(key):
        drawn = jax.vmap(lambda k, p: jax.random.choice(k, world.G, (100,), p=p))(
            jax.random.split(key, world.N), jnp.asarray(world.law(old), jnp.float32)
        )
        pick = lambda x: jax.vmap(lambda x, i: x[i])(x, drawn)  # noqa: E731
        batch = jax.tree.map(pick, everything)
        batch = dataclasses.replace(batch, outcome=batch.action.sum(-1) / 3)
        outputs = [world.model(jnp.asarray(x, jnp.float32), batch.obs) for x in (old, new)]
        return outcomes.mmd_estimate(lambda o: o, bandwidth=0.5)(*outputs, batch)

    found = repeated(estimate)
    assert LIMITS[0] <= coverage(found, truth) <= OF_TWO_PROMPTS, coverage(found, truth)
    far = outcomes.sample_mmd(jnp.array([0.0, 0.1, 9.0, 9.1]), jnp.array([0.0, 0.2, 0.1, 0.3]), bandwidth=0.5)
    assert float(far.novel_mass) == 0.5
    edge = outcomes.sample_mmd(jnp.array([1.4, 1.6]), jnp.zeros(4), bandwidth=0.5)  # near is within 3 bandwidths
    assert float(edge.novel_mass) == 0.5
    with pytest.raises(ValueError, match="second must have"):
        outcomes.sample_mmd(jnp.zeros(3), jnp.zeros((3, 2)))


def test_many_prompts_widen_the_interval_by_how_they_differ():
    rng = np.random.default_rng(0)
    alike = jnp.asarray(rng.choice(2, (20, 200), p=[0.5, 0.5])), jnp.asarray(rng.choice(2, (20, 200), p=[0.3, 0.7]))
    shares = np.linspace(0.05, 0.95, 20)[:, None]
    unlike = jnp.asarray((rng.random((20, 200)) < shares).astype(int))
    one, other = (sample_estimate(unlike[i], alike[1][i], 2) for i in (0, 19))
    several = sample_estimate(unlike, alike[1], 2)
    widths = [float(e.high - e.low) for e in (sample_estimate(*alike, 2), several)]
    assert widths[1] > 4 * widths[0]
    assert float(one.value) > 0.3
    assert float(one.value) != float(other.value)
    separate = np.asarray(jax.vmap(lambda a, b: sample_estimate(a, b, 2).value)(unlike, alike[1]))
    np.testing.assert_allclose(several.value, np.mean(separate), rtol=1e-5)
    between_prompts = 2 * 1.96 * np.std(separate, ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(widths[1], between_prompts, rtol=0.1)


@pytest.mark.slow
def test_the_interval_of_several_prompts_is_of_those_that_they_are_a_sample_of():
    """Half of all prompts move; with many attempts each, what is uncertain is which prompts these 20 are."""
    moved, number, rows = kl(np.array([0.7, 0.3]), np.array([0.9, 0.1])), 20, 400

    def estimate(key):
        prompts, *keys = jax.random.split(key, 3)
        rate = jnp.where(jax.random.bernoulli(prompts, 0.5, (number, 1)), 0.3, 0.1)
        first, second = (jax.random.bernoulli(k, p, (number, rows)) for k, p in zip(keys, (rate, 0.1), strict=True))
        of_one = jax.vmap(lambda first, second: outcomes.sample_estimate(first, second, 2))(first, second)
        its_own = jnp.where(rate[:, 0] > 0.2, moved, 0)
        return outcomes.sample_estimate(first, second, 2), ((of_one.low <= its_own) & (its_own <= of_one.high)).mean()

    found, own = repeated(estimate)
    assert LIMITS[0] <= coverage(found, moved / 2) <= LIMITS[1]
    assert LIMITS[0] <= float(own.mean()) <= LIMITS[1]


def test_novel_mass_is_apart_and_the_rest_is_finite():
    new, reference = jnp.array([0] * 50 + [1] * 40 + [2] * 10), jnp.array([0] * 60 + [1] * 40)
    found = sample_estimate(new, reference, 3)
    np.testing.assert_allclose(found.novel_mass, 0.1, rtol=1e-6)
    np.testing.assert_allclose(found.plug_in, kl(np.array([50, 40]) / 90, np.array([60, 40]) / 100), rtol=1e-4)
    assert np.isinf(found.high)  # that KL is infinite on this sample, and nobody may read its upper end
    assert np.isfinite([float(x) for x in jax.tree.leaves(dataclasses.replace(found, high=found.low))]).all()
    symmetric = sample_estimate(new, reference, 3, between=outcomes.jensen_shannon)
    p, q = np.array([0.5, 0.4, 0.1]), np.array([0.6, 0.4, 0])
    np.testing.assert_allclose(symmetric.plug_in, (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2, rtol=1e-4)
    assert np.isfinite(symmetric.high)
    back = sample_estimate(reference, new, 3)
    assert float(back.novel_mass) == 0
    np.testing.assert_allclose(back.plug_in, kl(np.array([0.6, 0.4, 0]), np.array([0.5, 0.4, 0.1])), rtol=1e-4)


def test_laws_without_a_cell_in_common():
    """Nothing is left of a KL but what is novel; what is bounded is at its bound."""
    first, second = jnp.zeros(20, int), jnp.ones(20, int)
    found = sample_estimate(first, second, 2)
    assert (float(found.value), float(found.low), float(found.novel_mass)) == (0, 0, 1)
    assert np.isinf(found.high)
    bounded = sample_estimate(first, second, 2, between=outcomes.jensen_shannon)
    np.testing.assert_allclose(bounded.plug_in, np.log(2), rtol=1e-6)
    assert bounded.low < np.log(2) < bounded.high
    among = sample_estimate(jnp.stack([first, jnp.arange(20) % 2]), jnp.stack([second, jnp.arange(20) % 2]), 2)
    assert np.isfinite(among.value)
    assert float(among.novel_mass) == 0.5


def test_no_rows_are_no_certainty():
    """It was 0 [0, 0], and an interval without a width from one row of each."""
    one, none, some = np.array([1]), np.zeros((0,), int), np.array([0, 1, 1])
    for first, second in ((none, one), (one, none), (none, some), (some, none)):
        for found in (sample_estimate(first, second, 2), outcomes.sample_mmd(first * 1.0, second * 1.0)):
            assert np.isnan(found.value)
            assert np.isnan(found.plug_in)
            assert (float(found.low), float(found.high)) == (0, np.inf)
    for first, second in ((one, one), (one, some), (some, one)):
        for found in (sample_estimate(first, second, 2), outcomes.sample_mmd(first * 1.0, second * 2.0)):
            assert np.isfinite(found.value)
            assert (float(found.low), float(found.high)) == (0, np.inf)
    assert np.isfinite(outcomes.sample_mmd(some * 1.0, some * 2.0).high)


def exact_coverage(p, q, size):
    """Of KL(P ‖ Q) between two rates: the chance that the interval from so many rows of each holds it."""
    chances = [binom.pmf(np.arange(size + 1), size, rate) for rate in (p, q)]
    truth = kl(np.array([1 - p, p]), np.array([1 - q, q])) if p != q else 0.0
    found = every_two_samples(size)
    return float((np.outer(*chances) * ((found.low <= truth + 1e-12) & (truth <= found.high))).sum())


@functools.lru_cache
def every_two_samples(size):
    """Of every number of hits in either sample, `[size + 1, size + 1]`."""
    samples = jnp.asarray(np.arange(size) < np.arange(size + 1)[:, None], int)
    of_two = jax.vmap(lambda x, y: outcomes.sample_estimate(x, y, 2), (None, 0))
    return jax.device_get(jax.jit(jax.vmap(of_two, (0, None)))(samples, samples))


@pytest.mark.parametrize(
    ("p", "q", "size", "least"),
    [
        (0.03, 0.001, 20, 0.95),  # .47 while a cell that was not drawn had no noise
        (0.05, 0.01, 20, 0.95),  # .71
        (0.01, 0.05, 20, 0.93),  # .65
        (0.03, 0.03, 20, 0.93),  # .75
        (0.01, 0.01, 100, 0.90),  # .77
        (0.002, 0.002, 100, 0.95),  # .85
        (0.01, 0.05, 100, 0.87),  # .82
        (0.5, 0.3, 100, 0.95),
    ],
)
def test_what_was_not_drawn_is_no_certainty(p, q, size, least):
    assert exact_coverage(p, q, size) >= least
    found = every_two_samples(size)
    assert (found.high > 0).all()
    assert float(found.value[0, 0]) == 0  # of nothing seen, no bias is taken off
    assert float(found.low[0, 1]) == 0  # none against one is no difference


def test_rows_of_both_laws_that_miss_a_cell_are_no_certainty():
    """A rate that goes from .01 to .05, rows of one prompt: .55 while a cell that was not drawn had no noise."""
    size, old, new = 100, 0.01, 0.05
    truth = kl(np.array([1 - old, old]), np.array([1 - new, new]))
    hits = np.arange(size + 1)
    drawn = jnp.asarray(np.arange(size) < hits[:, None], int)
    model = lambda p, obs: po.Outputs(policy=po.Categorical(logits=jnp.log(p) + jnp.zeros((*obs.shape, 2))))  # noqa: E731
    laws = [jnp.array([1 - p, p]) for p in (old, new)]

    def estimate(cells):
        batch = po.Batch(
            obs=jnp.zeros((size, 1)),
            action=cells[:, None],
            mask=jnp.ones((size, 1), bool),
            log_prob=jnp.log(laws[0])[cells][:, None],
            outcome=cells,
        )
        return outcomes.outcome_estimate(2)(*(model(p, batch.obs) for p in laws), batch)

    found = jax.jit(jax.vmap(estimate))(drawn)
    chance = binom.pmf(hits, size, old)
    assert float((chance * ((found.low <= truth) & (truth <= found.high))).sum()) >= 0.9
    assert (found.high > 0).all()


@pytest.mark.parametrize(("number", "least"), [(2, 0.9), (4, 0.9), (8, 0.92)])
def test_a_few_prompts_are_a_small_sample_of_all(number, least):
    """Prompts whose log-odds move by .8 and something of their own: with the normal's quantile .79, .87 and .90."""
    rows, start = 400, 0.3

    def moved(noise):
        return 1 / (1 + np.exp(-(np.log(start / (1 - start)) + 0.8 + 0.3 * noise)))

    many = moved(np.random.default_rng(0).normal(size=200_000))
    truth = float(np.mean(many * np.log(many / start) + (1 - many) * np.log((1 - many) / (1 - start))))

    def estimate(key):
        own, *keys = jax.random.split(key, 3)
        logit = jnp.log(start / (1 - start)) + 0.8 + 0.3 * jax.random.normal(own, (number, 1))
        rates = jax.nn.sigmoid(logit), start
        drawn = [jax.random.bernoulli(k, p, (number, rows)) for k, p in zip(keys, rates, strict=True)]
        return outcomes.sample_estimate(*drawn, 2)

    assert least <= coverage(repeated(estimate), truth) <= 0.99


@pytest.mark.parametrize("number", [2, 3, 4])
def test_of_prompts_that_are_known_well_the_interval_is_students(number):
    size = 4000
    cells = lambda rate: (np.arange(size) < rate * size).astype(int)  # noqa: E731
    rates = np.array([0.3, 0.2, 0.1, 0.05])[:number]
    first, second = (jnp.asarray(np.stack([cells(r) for r in x])) for x in (np.full(number, 0.5), rates))
    found = jax.jit(lambda: outcomes.sample_estimate(first, second, 2))()
    each = 0.5 * np.log(0.5 / rates) + 0.5 * np.log(0.5 / (1 - rates))
    np.testing.assert_allclose(found.value, each.mean(), rtol=0.01)
    half = student.ppf(0.975, number - 1) * each.std(ddof=1) / np.sqrt(number)
    np.testing.assert_allclose(found.high - found.value, half, rtol=0.05)


def test_a_prompt_with_one_row_has_no_law_to_move():
    """It counted as one that had not moved, and halved what was said of the other."""
    cells = jnp.asarray(np.random.default_rng(0).random((2, 200)) < 0.3, int)
    whole = jnp.ones((2, 200, 1), bool)
    alone = whole.at[1, 1:].set(False)

    def model(p, obs):
        logits = jnp.log(jnp.array([1 - p, p])) + jnp.zeros((*obs.shape, 2))
        return po.Outputs(policy=po.Categorical(logits=logits))

    batch = po.Batch(
        obs=jnp.zeros((2, 200, 1)),
        action=cells[..., None],
        mask=whole,
        log_prob=jnp.log(jnp.where(cells == 1, 0.3, 0.7))[..., None],
        outcome=cells,
    )
    old, new = model(0.3, batch.obs), model(0.6, batch.obs)
    first = jax.tree.map(lambda x: x[:1], (old, new, batch))
    without = dataclasses.replace(batch, mask=alone)
    for divergence in (outcomes.outcome_kl(2), outcomes.outcome_mmd(lambda o: o.astype(float), bandwidth=1.0)):
        np.testing.assert_allclose(divergence(old, new, without), divergence(*first), rtol=1e-6)
    estimates = [outcomes.outcome_estimate(2)(*x) for x in ((old, new, without), first)]
    for name in ("value", "plug_in", "ess_p", "ess_q"):
        np.testing.assert_allclose(*(getattr(x, name) for x in estimates), rtol=1e-5)
    penalty = outcomes.outcome_penalty(jnp.array([0.9, 0.1]))
    np.testing.assert_allclose(penalty(new, without)[0], penalty(first[1], first[2])[0], rtol=1e-5)
    itself = lambda o: o  # noqa: E731
    reports = [
        outcomes.outcome_report(model, 0.3, 0.6, x, success=itself, side_effect=itself) for x in (without, first[2])
    ]
    np.testing.assert_allclose(*(report.old_new.rows_kl for report in reports), rtol=1e-5)
    none = dataclasses.replace(batch, mask=whole.at[:, 1:].set(False))
    assert float(outcomes.outcome_kl(2)(old, new, none)) == 0
    assert np.isnan(outcomes.outcome_estimate(2)(old, new, none).value)


def test_few_effective_rows_are_seen():
    """One row has nearly all the weight: the estimate says that it rests on one."""
    batch = world.batch(world.table(0))
    outputs = [world.model(jnp.asarray(x, jnp.float32), batch.obs) for x in (world.table(0), 60 * world.table(1))]
    found = jax.jit(outcomes.outcome_estimate(2, of=lambda o: o["success"]))(*outputs, batch)
    assert float(found.ess_q) < 1.5
    assert float(found.ess_p) > 10
    assert "ESS" in str(found)


def test_a_row_in_no_cell_makes_the_estimate_nan():
    found = sample_estimate(jnp.array([0, 1, 2]), jnp.array([0, 1, 1]), 2)
    assert np.isnan(found.value)
    assert np.isnan(found.plug_in)


def test_errors():
    with pytest.raises(TypeError, match="first must be integer cells"):
        outcomes.sample_estimate(jnp.zeros(3), jnp.zeros(3, int), 2)
    with pytest.raises(ValueError, match="second must have shape"):
        outcomes.sample_estimate(jnp.zeros((2, 3), int), jnp.zeros((3, 3), int), 2)
    for estimate in (lambda **a: outcomes.outcome_estimate(2, **a), lambda **a: sample_estimate([0], [0], 2, **a)):
        with pytest.raises(ValueError, match="between must be smooth, and total_variation has a kink"):
            estimate(between=outcomes.total_variation)
    outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 1, 2))))
    batch = po.Batch(obs=None, action=jnp.zeros((2, 1), int), mask=jnp.ones((2, 1), bool), log_prob=jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"outcome_estimate needs batch\.outcome"):
        outcomes.outcome_estimate(2)(outputs, outputs, batch)
