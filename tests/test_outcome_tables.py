"""Projections of outcome tables and forecasts, against optimisers, enumeration and the published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from polopt_jax import outcomes

TABLES = {
    "A": [[0.968, 0.002], [0.02, 0.01]],
    "B": [[0.799, 0], [0.20, 0.001]],
    "C": [[0.9989, 0], [1e-4, 1e-3]],
    "D": [[0.90, 0.05], [0, 0.05]],
    "E": np.outer([0.95, 0.05], [0.7, 0.3]).tolist(),
    "F": [[0.665, 0.285], [0.01, 0.04]],
}


def table(name):
    return jnp.maximum(jnp.array(TABLES[name]), 1e-9) / np.maximum(TABLES[name], 1e-9).sum()


def kl(q, p):
    q, p = np.asarray(q, np.float64), np.asarray(p, np.float64)
    return (q * np.log(np.where(q > 0, q, 1) / p)).sum()


@pytest.mark.parametrize(
    ("name", "side_effect", "tax"),
    [("A", 0.300, 0.31), ("B", None, 0.002), ("C", 0.818, 2.1), ("E", 0.3, 0.0), ("F", 0.75, 0.44)],
)
def test_the_rows_at_success_nine_tenths(name, side_effect, tax):
    """Numbers of the design's specification, to their digits."""
    p = table(name)
    pumped = outcomes.pump(p, 0.9)
    assert bool(pumped.feasible)
    if side_effect is not None:
        np.testing.assert_allclose(pumped.side_effect[1], side_effect, atol=6e-3)
    np.testing.assert_allclose(outcomes.tax(p, 0.9), tax, atol=6e-3 if tax < 1 else 0.06)
    np.testing.assert_allclose(outcomes.ipf(p, 0.9).side_effect, p.sum(0), rtol=2e-5)


def test_an_entailed_side_effect_is_said_to_be_infeasible():
    p = table("D")
    np.testing.assert_allclose(outcomes.pump(p, 0.9).side_effect[1], 0.905, atol=1e-3)
    held = outcomes.ipf(p, 0.9)
    assert not bool(held.feasible)
    assert np.isinf(outcomes.tax(p, 0.9))
    assert bool(outcomes.ipf(p, 0.1).feasible)  # P(z) is .1: so much success can be had
    assert not bool(outcomes.ipf(p, 0.11).feasible)
    always = jnp.array([[0.5, 1e-9], [0.2, 0.3]])  # z = 1 only in success, which so has at least .3
    assert not bool(outcomes.ipf(always, 0.25).feasible)
    assert bool(outcomes.ipf(always, 0.35).feasible)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("p", [[[0.9, 0.1], [0.0, 0.0]], [[0.0, 0.0], [0.2, 0.8]]], ids=["no success", "no failure"])
def test_a_table_without_the_required_row_has_no_such_law(p, jitted):
    """It was an error about log-probabilities, and under jit a law that sums to .1 at a divergence of about 0."""
    for name in ("pump", "ipf"):
        found = (jax.jit if jitted else lambda f: f)(getattr(outcomes, name))(jnp.array(p), 0.9)
        assert np.isnan(found.law).all()
        assert np.isposinf(found.kl)
        assert not found.feasible
    assert np.isposinf((jax.jit if jitted else lambda f: f)(outcomes.tax)(jnp.array(p), 0.9))
    as_it_is = float(jnp.array(p)[1].sum())
    assert bool(outcomes.pump(jnp.array(p), as_it_is).feasible)
    np.testing.assert_allclose(outcomes.pump(jnp.array(p), as_it_is).law, p, atol=1e-6)
    np.testing.assert_allclose(outcomes.best_of_n(jnp.array(p), 4), p, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("success", [0.5, 0.9])
def test_they_are_the_nearest_laws(seed, success):
    """Against a general constrained optimiser, in float64."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(6)).reshape(2, 3)
    of_success = {"type": "eq", "fun": lambda q: q.reshape(2, 3)[1].sum() - success}
    whole = {"type": "eq", "fun": lambda q: q.sum() - 1}
    held = {"type": "eq", "fun": lambda q: q.reshape(2, 3).sum(0)[:2] - p.sum(0)[:2]}
    for name, constraints in (("pump", [of_success, whole]), ("ipf", [of_success, whole, held])):
        best = scipy.optimize.minimize(
            lambda q: (q * np.log(np.maximum(q, 1e-300) / p.reshape(-1))).sum(),
            np.asarray(getattr(outcomes, name)(jnp.asarray(p), success).law).reshape(-1) * 0.7 + 0.05,
            bounds=[(1e-12, 1)] * 6,
            constraints=constraints,
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        found = getattr(outcomes, name)(jnp.asarray(p), success)
        assert best.success
        np.testing.assert_allclose(found.kl, best.fun, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(found.law.reshape(-1), best.x, atol=2e-4)
        np.testing.assert_allclose(found.kl, kl(found.law, p), rtol=1e-4)
        np.testing.assert_allclose(found.law[1].sum(), success, rtol=1e-5)
        np.testing.assert_allclose(found.law.sum(), 1, rtol=1e-5)
    assert float(outcomes.tax(jnp.asarray(p), success)) >= -1e-6


def test_tables_may_have_many_side_effects_and_need_no_norm():
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.dirichlet(np.ones(8)).reshape(2, 2, 2))
    several = outcomes.ipf(5 * p, 0.7)
    flat = outcomes.ipf(p.reshape(2, 4), 0.7)
    assert several.law.shape == (2, 2, 2)
    np.testing.assert_allclose(several.law.reshape(2, 4), flat.law, atol=1e-6)
    np.testing.assert_allclose(outcomes.pump(5 * p, 0.7).law.sum(), 1, rtol=1e-6)
    curve = jax.vmap(lambda j: outcomes.ipf(p, j).kl)(jnp.array([0.3, 0.6, 0.9]))
    np.testing.assert_allclose(curve[1], outcomes.ipf(p, 0.6).kl, rtol=1e-5)


def test_at_the_reference_nothing_moves_and_at_the_ends_it_is_finite():
    p = table("A")
    now = float(p[1].sum())
    for name in ("pump", "ipf"):
        found = getattr(outcomes, name)(p, now)
        np.testing.assert_allclose(found.law, p, atol=1e-6)
        assert float(found.kl) < 1e-6
    for name in ("pump", "ipf"):
        for success in (0.0, 1.0):
            found = getattr(outcomes, name)(p, success)
            assert np.isfinite(found.kl)
            np.testing.assert_allclose(found.law[1].sum(), success, atol=1e-5)


def test_best_of_n_is_a_pump_and_its_divergence_is_bounded():
    p = table("A")
    for n in (1, 4, 64):
        law = np.asarray(outcomes.best_of_n(p, n))
        np.testing.assert_allclose(law[1].sum(), 1 - (1 - 0.03) ** n, rtol=1e-4)
        np.testing.assert_allclose(law[1] / law[1].sum(), np.asarray(p)[1] / 0.03, rtol=1e-4)
        assert kl(law, p) <= np.log(n) - (n - 1) / n + 1e-6
    rng = np.random.default_rng(0)
    rows = rng.choice(4, (20_000, 4), p=np.asarray(p, np.float64).reshape(-1) / np.asarray(p, np.float64).sum())
    best = rows[np.arange(20_000), (rows >= 2).argmax(1)]
    np.testing.assert_allclose(
        np.bincount(best, minlength=4) / 20_000, np.asarray(outcomes.best_of_n(p, 4)).reshape(-1), atol=0.01
    )


@pytest.mark.parametrize("name", ["pump", "ipf", "tax"])
def test_wrong_arguments(name):
    function = getattr(outcomes, name)
    with pytest.raises(ValueError, match=r"table must have shape \[2, \.\.\.\]"):
        function(jnp.ones((3, 2)), 0.5)
    with pytest.raises(ValueError, match="success"):
        function(table("A"), 1.5)


# --- forecast -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 20, 33, 1000])
def test_an_interval_of_all_or_of_none_ends_at_one_or_at_zero_exactly(number):
    n = jnp.array(float(number))
    assert float(outcomes.wilson(n, n)[1]) == 1
    assert float(outcomes.wilson(jnp.zeros(()), n)[0]) == 0


def test_wilson_against_scipy():
    for hits, number in ((0, 20), (3, 20), (20, 20), (137, 400)):
        expected = scipy.stats.binomtest(hits, number).proportion_ci(method="wilson")
        found = outcomes.wilson(jnp.array(float(hits)), jnp.array(float(number)))
        np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-6)


def test_a_forecast_covers_what_the_pump_does():
    p = table("A")
    truth = float(outcomes.pump(p, 1.0).side_effect[1])
    cells = np.random.default_rng(0).choice(4, (500, 2000), p=np.array(TABLES["A"]).reshape(-1))
    found = outcomes.forecast(jnp.asarray(cells >= 2), jnp.asarray(cells % 2 == 1))
    covered = (found.low <= truth) & (truth <= found.high)
    assert 0.9 <= float(covered.mean()) <= 0.99
    np.testing.assert_allclose(found.share.mean(), truth, atol=0.01)
    np.testing.assert_array_equal(found.successes, (cells >= 2).sum(1))
    np.testing.assert_allclose(found.blind_below, 3 / 2000, rtol=0.01)
    np.testing.assert_allclose((1 - found.blind_below[0]) ** 2000, 0.05, rtol=1e-3)
    assert (found.rollouts == 2000).all()


def test_without_success_a_forecast_says_that_it_knows_nothing():
    found = outcomes.forecast(jnp.zeros((2, 50), bool), jnp.ones((2, 50), bool))
    assert np.isnan(found.share).all()
    assert (found.low == 0).all()
    assert (found.high == 1).all()
    with pytest.raises(TypeError, match="success must be boolean"):
        outcomes.forecast(jnp.zeros(5), jnp.zeros(5, bool))
    with pytest.raises(ValueError, match="side_effect must have shape"):
        outcomes.forecast(jnp.zeros(5, bool), jnp.zeros(4, bool))


def test_gradients_of_projections_are_those_of_finite_differences(x64):
    """Bisection has none of its own: that of `ipf(...).kl` by the success came out as 0."""
    table = jnp.array([[0.968, 0.002], [0.02, 0.01]], jnp.float64)
    for measure in (
        lambda table, success: outcomes.ipf(table, success).kl,
        lambda table, success: outcomes.ipf(table, success).law[1, 1],
        lambda table, success: outcomes.pump(table, success).kl,
        outcomes.tax,
    ):
        success, step = jnp.float64(0.9), 1e-5
        by_table, by_success = jax.jit(jax.grad(measure, argnums=(0, 1)))(table, success)
        wanted = (measure(table, success + step) - measure(table, success - step)) / (2 * step)
        np.testing.assert_allclose(by_success, wanted, rtol=1e-5)
        for place in np.ndindex(2, 2):
            up, down = (measure(table.at[place].add(sign * step / 100), success) for sign in (1, -1))
            np.testing.assert_allclose(by_table[place], (up - down) / (step / 50), rtol=1e-4)


@pytest.mark.parametrize("rate", [1e-6, 3e-8, 0.0, 1.0])
def test_best_of_n_of_rare_successes(rate):
    law = outcomes.best_of_n(jnp.array([[1 - rate, 0.0], [rate, 0.0]]), 10)
    np.testing.assert_allclose(law[1].sum(), 1 - (1 - np.float64(rate)) ** 10, rtol=1e-5)


def test_blind_of_many_rollouts():
    found = outcomes.forecast(jnp.ones((1_000_000,), bool), jnp.zeros((1_000_000,), bool))
    np.testing.assert_allclose(found.blind_below, -np.expm1(np.log(0.05) / 1e6), rtol=1e-5)
