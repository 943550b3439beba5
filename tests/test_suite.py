"""The benchmark's parts: what is read off the figures of a method, what would have told, and every row and world."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import frontiers, outcomes, suite, worlds
from polopt_jax.suite import _estimators, _methods, _signals

MEANS = np.array([[0.968, 0.002], [0.02, 0.01]])
AT = suite.LEVELS.index(0.9)


def kl(p, q):
    return float((p * np.log(p / q)).sum())


# --- readings --------------------------------------------------------------------------------------------------------


@pytest.fixture
def figures():
    """Two settings, three runs of one world; the third run of the second setting never gets there."""
    rng = np.random.default_rng(0)
    laws = np.array([[0.08, 0.02], [0.6, 0.3]])[None] + 0.005 * rng.normal(size=(2, 3, 1, 2, 2))
    laws = np.broadcast_to(laws / laws.sum((-1, -2), keepdims=True), (2, 3, len(suite.LEVELS), 2, 2)).copy()
    flat = laws.reshape(-1, 2, 2)
    nan = np.ones((2, 3, len(suite.LEVELS)))
    nan[1, 2] = np.nan
    shape = nan.shape
    made = {
        "settings": [0.1, 0.3],
        "attempts": 128,
        "labels": True,
        "reached": np.isfinite(nan),
        "best": np.array([[0.95, 0.97, 0.96], [0.95, 0.97, 0.4]]),
        "law": laws * nan[..., None, None],
        "updates": nan * np.arange(6).reshape(2, 3, 1) + 4,
        "jump": nan * 0.05,
        "side_effect_kl": nan * np.reshape([kl(x.sum(0), MEANS.sum(0)) for x in flat], shape),
        "outcome_kl": nan * np.reshape([kl(x, MEANS) for x in flat], shape),
        "success_kl": nan * np.reshape([kl(x.sum(1), MEANS.sum(1)) for x in flat], shape),
        "trajectory_kl": nan * 5.0,
        "trajectory_kl_ref_new": nan * 7.0,
        "action_kl": nan * 0.5,
        "reward": nan,
        "hidden": nan * np.reshape([-2.0, -1.0, 0.0], (1, 3, 1)),
        "final": np.ones((2, 3)),
        "final_law": laws[:, :, 0],
    }
    made["conditional_kl"] = made["outcome_kl"] - made["success_kl"]
    return made


WORLD = {"side_effects": ["side_effect"], "reference": [MEANS.tolist()] * 3}


def test_a_reading_says_what_the_laws_say(figures):
    first, second = suite.read("some", figures, WORLD, 0.9)
    law = figures["law"][0, :, AT]
    pump = outcomes.pump(jnp.asarray(MEANS), 0.9)
    ipf = outcomes.ipf(jnp.asarray(MEANS), 0.9)
    q = np.asarray(pump.law).sum(0)
    expected = {
        "P(side_effect)": law.sum(1)[:, 1],
        "lift": law.sum(1)[:, 1] / 0.012,
        "D_z": figures["side_effect_kl"][0, :, AT],
        "D_z|s": figures["conditional_kl"][0, :, AT],
        "D_s": figures["success_kl"][0, :, AT],
        "D_out": figures["outcome_kl"][0, :, AT],
        "D_traj": [5.0] * 3,
        "D_action": [0.5] * 3,
        "leverage": figures["outcome_kl"][0, :, AT] / 5,
        "ref‖new": [7.0] * 3,
        "over pump": figures["side_effect_kl"][0, :, AT] - kl(q, MEANS.sum(0)),
        "over IPF": figures["outcome_kl"][0, :, AT] - float(ipf.kl),
        "odds": np.log(law[:, 1, 1] / law[:, 1, 0]) - np.log(0.5),
        "honest": law[:, 1, 0],
        "hidden": [-2.0, -1.0, 0.0],
        "updates": [4.0, 5.0, 6.0],
        "attempts": [512.0, 640.0, 768.0],
        "labels": [512.0, 640.0, 768.0],
        "jump": [0.05] * 3,
    }
    assert set(first.columns) == set(expected) == {"P(side_effect)", *suite.COLUMNS}
    for name, values in expected.items():
        found = first.columns[name]
        np.testing.assert_allclose(found.mean, np.mean(values), rtol=1e-4, atol=1e-5, err_msg=name)
        assert min(values) - 1e-5 <= found.low <= found.mean + 1e-9 <= found.high + 2e-9 <= max(values) + 1e-4, name
    assert (first.method, first.setting, first.never) == ("some", 0.1, 0)
    np.testing.assert_allclose(first.best, 0.96)
    assert second.setting == 0.3
    np.testing.assert_allclose(second.never, 1 / 3)
    np.testing.assert_allclose(second.columns["updates"].mean, np.mean([7.0, 8.0]), err_msg="of those that got there")


def test_what_ipf_cannot_do_is_not_compared_with_it(figures):
    """One run's reference has no honest way: IPF is of the other two."""
    entailed = [[0.9, 0.05], [0.0, 0.05]]
    first, _ = suite.read("some", figures, WORLD | {"reference": [entailed, *WORLD["reference"][1:]]}, 0.9)
    expected = figures["outcome_kl"][0, 1:, AT] - float(outcomes.ipf(jnp.asarray(MEANS), 0.9).kl)
    np.testing.assert_allclose(first.columns["over IPF"].mean, expected.mean(), rtol=1e-4)


def test_what_is_not_labelled_costs_no_labels(figures):
    first, _ = suite.read("some", figures | {"labels": False}, WORLD, 0.9)
    assert first.columns["labels"].mean == 0


def test_a_reading_is_the_same_after_a_file(figures):
    """Numbers that are not there are None in JSON."""
    as_file = {k: x.astype(object) if isinstance(x, np.ndarray) else x for k, x in figures.items()}
    for name, x in as_file.items():
        if isinstance(x, np.ndarray):
            as_file[name] = np.where(np.asarray(x, float) == np.asarray(x, float), x, None).tolist()
    for ours, theirs in zip(*(suite.read("some", f, WORLD, 0.9) for f in (as_file, figures)), strict=True):
        assert ours == theirs


def test_rows_without_training(figures):
    reference, pump, ipf = suite.project(WORLD, 0.9)
    assert [row.name for row in (reference, pump, ipf)] == ["reference", "pump", "ipf"]
    np.testing.assert_allclose(pump.columns["P(side_effect)"], 0.300, atol=1e-3)
    np.testing.assert_allclose(reference.columns["P(side_effect)"], 0.012)
    np.testing.assert_allclose(ipf.columns["P(side_effect)"], 0.012, atol=1e-5)
    np.testing.assert_allclose(reference.columns["honest"], 0.02, rtol=1e-6)
    np.testing.assert_allclose(pump.columns["honest"], 0.6, rtol=1e-4, err_msg="two thirds of its successes")
    np.testing.assert_allclose(ipf.columns["D_out"] - pump.columns["D_out"], 0.31, atol=6e-3, err_msg="the tax")
    assert pump.columns["lift"] == pytest.approx(25, rel=1e-2)
    entailed = {"side_effects": ["side_effect"], "reference": [[[0.9, 0.05], [0.0, 0.05]], MEANS.tolist()]}
    _, pump, ipf = suite.project(entailed, 0.9)
    assert (pump.feasible, ipf.feasible) == (1.0, 0.5)
    np.testing.assert_allclose(ipf.columns["P(side_effect)"], 0.012, atol=1e-5, err_msg="of where it is feasible")
    np.testing.assert_allclose(pump.columns["P(side_effect)"], (0.905 + 0.3) / 2, atol=1e-3)


def test_a_reference_of_four_digits_is_a_law():
    """What a file rounds is no divergence."""
    rounded = {"side_effects": ["x", "v"], "reference": [[[0.4, 0.55, 0.004, 0.008], [0.03, 0.003, 0.003, 0.003]]]}
    reference, _, ipf = suite.project(rounded, 0.5)
    np.testing.assert_allclose([reference.columns["D_z"], ipf.columns["D_z"]], 0, atol=1e-6)
    np.testing.assert_allclose(reference.columns["lift"], 1)


def test_side_effects_are_binary_digits():
    law = np.arange(1.0, 9.0).reshape(1, 2, 4) / 36
    row = suite.project({"side_effects": ["high", "low"], "reference": law.tolist()}, 0.9)[0]
    np.testing.assert_allclose(row.columns["P(high)"], law[0, :, 2:].sum())
    np.testing.assert_allclose(row.columns["P(low)"], law[0, :, 1::2].sum())
    np.testing.assert_allclose(row.columns["lift"], 1)


def test_what_a_law_says_is_read_from_the_law_and_not_between_two_points():
    """Between two laws a KL, which is convex, lies above that of the law between: so it is not read itself."""
    rng = np.random.default_rng(3)
    reference, first, last = rng.dirichlet(np.ones(6), (3, 5)).reshape(3, 5, 2, 3)
    between = 0.4 * first + 0.6 * last
    found = suite.table_kl(between, reference)
    kl = lambda q, p: (q * np.log(q / p)).sum(-1)  # noqa: E731
    expected = {
        "D_z": kl(between.sum(1), reference.sum(1)),
        "D_s": kl(between.sum(2), reference.sum(2)),
        "D_out": kl(between.reshape(5, 6), reference.reshape(5, 6)),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    np.testing.assert_allclose(found["D_z|s"], expected["D_out"] - expected["D_s"], rtol=1e-12)
    ends = [suite.table_kl(law, reference)["D_z"] for law in (first, last)]
    assert (found["D_z"] < 0.4 * ends[0] + 0.6 * ends[1]).all()
    np.testing.assert_allclose(suite.table_kl(1.0002 * between, reference)["D_out"], expected["D_out"], rtol=1e-9)


def test_an_interval_covers_the_mean():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = suite.interval(np.append(rng.normal(3.0, 1.0, 30), np.nan))
        hits += found.low <= 3.0 <= found.high
    assert 0.88 < hits / 200 < 0.99
    assert np.isnan(suite.interval(np.array([np.nan])).mean)
    one = suite.interval(np.array([2.0, np.nan]))
    assert (one.mean, one.has_ends, found.has_ends) == (2.0, False, True)
    assert np.isnan([one.low, one.high]).all()


@pytest.mark.parametrize(("draw", "mean", "share"), [("normal", 0.0, 0.82), ("lognormal", np.exp(0.5), 0.7)])
def test_of_five_runs_an_interval_covers_what_is_said(draw, mean, share):
    rng = np.random.default_rng(2)
    found = [suite.interval(getattr(rng, draw)(0.0, 1.0, 5)) for _ in range(1500)]
    assert np.mean([x.low <= mean <= x.high for x in found]) == pytest.approx(share, abs=0.04)


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_score_is_taken_before_success():
    found = {"success": np.array([[0.1, 0.2, 0.6, 0.9], [0.1, 0.1, 0.1, 0.2]]), "m": np.array([[1.0, 3, 5, 9]] * 2)}
    assert _signals._score(found, "m").tolist() == [5.0, 9.0]


def test_a_lead_is_from_the_first_alarm_to_the_crossing():
    found = {
        "side_effect": np.array([[0.1, 0.2, 0.3, 0.6], [0.1, 0.6, 0.7, 0.8], [0.0, 0.0, 0.7, 0.8]]),
        "m": np.array([[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0], [9.0, 9.0, 9.0, 9.0]]),
    }
    lead = _signals._leads(found, "m", np.array([True, True, False]), 1.0)
    assert lead[0] == 2
    assert np.isnan(lead[1]), "too late"
    assert len(lead) == 2


def test_auc():
    assert suite.auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert suite.auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert np.isnan(suite.auc(np.array([]), np.array([1.0])))


def test_a_watched_run_reports_its_labels():
    """CUSUM and G are of the first attempts' side effects, rising with them; tokens say how far the policy moved."""
    drawn = jax.jit(functools.partial(worlds.skip_the_test, p_skip=(0.3, 0.31)))(jax.random.key(0))
    problem = frontiers.token_problem(worlds.select_worlds(drawn, 0), group_size=64)
    learner = suite.middle(suite.METHODS["grpo"]).build(problem, 0.1)
    watched = _signals.watched(learner, problem)
    state = jax.jit(watched.init)(jax.random.key(0))
    _, batch, _ = jax.jit(watched.collect)(state.params, state.collect_state, jax.random.key(1))
    args = (state.params, state.opt_state, batch, jax.random.key(2))
    params, _, metrics = jax.jit(watched.step.update)(*args)
    bare, _, _ = jax.jit(learner.step.update)(*args)
    jax.tree.map(np.testing.assert_array_equal, params, bare)
    seen = np.asarray(batch.outcome["side_effect"])[0, : _signals.LABELS]
    assert metrics["watch/hits"] == seen.sum()
    assert 0 < seen.sum() < _signals.LABELS
    g = outcomes.g_statistic(jnp.asarray(seen), problem.reference.sum(0)).statistic
    np.testing.assert_allclose(metrics["watch/g"], g, rtol=1e-5)
    log_prob = jax.jit(lambda params, batch: problem.group.task.model(params, batch.obs).policy.log_prob(batch.action))
    d = np.asarray(log_prob(params, batch)) - np.asarray(batch.log_prob)
    np.testing.assert_allclose(metrics["watch/max_log_ratio"], np.abs(d).max(), rtol=1e-4)


def test_the_cusum_asks_for_four_times_the_rate():
    total = np.asarray(_signals._cusum(jnp.array([[0.0, 8.0], [1.0, 0.0]]), jnp.array([0.1, 0.02])))
    up = lambda low, high: np.log(high / low)  # noqa: E731
    down = lambda low, high: np.log((1 - high) / (1 - low))  # noqa: E731
    np.testing.assert_allclose(total[0], [0, 8 * up(0.1, 0.4)], rtol=1e-4)
    first = up(0.02, 0.25) + 7 * down(0.02, 0.25)
    np.testing.assert_allclose(total[1], [max(first, 0), max(max(first, 0) + 8 * down(0.02, 0.25), 0)], atol=1e-4)


def test_forecasts_are_of_the_reference():
    """The share of side effects among rewarded attempts, against its exact value in each world."""
    case = suite.CASES["skip-the-test"]._replace(num_worlds=6)
    found = suite.forecasts(case)
    table = suite.references(case, seeds=1)
    exact = table[:, 1, 1] / table[:, 1].sum(-1)
    inside = (np.array(found["low"]) <= exact) & (exact <= np.array(found["high"]))
    assert inside.sum() >= 5
    np.testing.assert_allclose(np.array(found["successes"]) / _signals.ROLLOUTS, table[:, 1].sum(-1), atol=0.05)


# --- worlds and methods ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_world_has_a_reference_that_sometimes_succeeds():
    for name, case in suite.CASES.items():
        problem = case.build()(jnp.int32(0))
        law = np.asarray(problem.reference)
        assert law.shape == (2, 2 ** len(case.side_effects)), name
        np.testing.assert_allclose(law.sum(), 1, rtol=1e-4, err_msg=name)
        assert 1e-4 < law[1].sum() < 0.96, name
        assert problem.group.task.row_shape == (1, 128)


def test_a_measurement_reads_each_run_at_its_success():
    case = suite.CASES["table-means"]._replace(updates=40)
    found = suite.measure(case, suite.METHODS["grpo"]._replace(values=(0.1, 0.3)), seeds=2, updates=40)
    shape = (2, 2, len(suite.LEVELS))
    assert found["reached"].shape == found["updates"].shape == found["trajectory_kl"].shape == shape
    np.testing.assert_array_equal(np.isnan(found["jump"]), ~found["reached"])
    assert found["reached"][1].all()
    np.testing.assert_allclose(found["law"][1, :, AT, 1].sum(-1), 0.9, atol=1e-3)
    assert (np.diff(found["updates"][1], axis=-1) >= 0).all()
    assert found["updates"][1].max() <= 40
    assert found["updates"][1, :, -1].min() > 4, "in updates, not in points"
    assert (found["updates"][1, :, AT] < found["updates"][0, :, AT]).all(), "the larger step is the faster one"
    assert not np.allclose(found["law"][1, 0], found["law"][1, 1]), "seeds differ"
    assert found["final"].shape == (2, 2)
    np.testing.assert_allclose(found["final_law"][..., 1, :].sum(-1), found["final"], rtol=1e-5)


def test_runs_of_many_worlds_are_those_worlds():
    case = suite.CASES["skip-the-test"]._replace(num_worlds=3)
    table = suite.references(case, seeds=5)
    assert table.shape == (5, 2, 2)
    np.testing.assert_array_equal(table[:2], table[3:])
    assert not np.allclose(table[0], table[1])
    assert suite.references(case, seeds=2).shape == (3, 2, 2)
    still = suite.measure(case, suite.METHODS["grpo"]._replace(values=(1e-6,)), seeds=5, updates=2)
    np.testing.assert_allclose(still["final_law"][0], table, atol=1e-4)


def test_imitation_is_of_the_reference():
    """Whatever the policy is by now, what it learns from is the reference's, and of that the successes."""
    problem = suite.CASES["table-means"].build()(jnp.int32(0))
    learner = suite.METHODS["imitation"].build(problem, 0.1)
    start = learner.init(jax.random.key(0))
    moved = jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), start.params)
    batches = [jax.jit(learner.collect)(p, start.collect_state, jax.random.key(1))[1] for p in (start.params, moved)]
    np.testing.assert_array_equal(batches[0].action, batches[1].action)
    np.testing.assert_array_equal(batches[0].advantage[..., 0], batches[0].outcome["success"])
    assert 0 < float(batches[0].outcome["success"].mean()) < 0.2


def test_a_one_sided_price_charges_side_effects_alone():
    """It charged what came up too often, also where that was to bring about no side effect."""
    charge = suite._methods._too_frequent(jnp.array([0.4, -0.1, 0.2, 0.0]))
    np.testing.assert_allclose(charge, [0, 0, 0.2, 0], rtol=1e-6)


FAST = ("price-one-sided",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in suite.METHODS]
)
def test_every_method_raises_the_success(name):
    case = suite.CASES["table-means"]
    found = suite.measure(case, suite.middle(suite.METHODS[name]), seeds=2, updates=60)
    start = suite.references(case, seeds=1)[0, 1].sum()
    assert found["best"].min() > start + 0.05


@pytest.mark.slow
def test_a_price_holds_more_than_what_it_prices():
    """P(z) at success .9 in the table, whose reference has .012 and whose pump .3, of PPO with and without a price."""
    case, rate = suite.CASES["table-means"], {}
    for name, value in (("price", 0.1), ("ppo", 0.03)):
        found = suite.measure(case, suite.METHODS[name]._replace(values=(value,)), seeds=3, updates=100)
        assert found["reached"][0, :, AT].all()
        rate[name] = found["law"][0, :, AT].sum(1)[:, 1].mean()
    assert rate["price"] < 0.7 * rate["ppo"]


# --- estimators ------------------------------------------------------------------------------------------------------


def test_the_quality_of_an_estimate():
    """Bias, its standard error and coverage, from four made-up samples."""
    value, low, high = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.5, 2.5, 3.5]), np.array([2.0, 2.5, 3.5, 4.5])
    nothing = np.zeros(4)
    fields = dict.fromkeys(outcomes.Estimate.__dataclass_fields__, nothing)
    found = outcomes.Estimate(**{**fields, "value": value, "low": low, "high": high, "plug_in": value + 1})
    laws = [np.array([0.25, 0.75]), np.array([0.5, 0.5])]
    row = _estimators.quality(found, 2.0, laws, world="w", feature="f", divergence="KL", step=0.1, rows=100)
    assert (row.bias, row.plug_in_bias, row.coverage, row.rarest) == (0.5, 1.5, 0.5, 25.0)
    np.testing.assert_allclose(row.standard_error, value.std() / 2)
    assert (row.world, row.truth, row.rows) == ("w", 2.0, 100)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_estimates_are_judged_by_the_truth():
    """Large samples: hardly any bias left, and intervals that cover; the truth from the tables and the dynamics."""
    rows = {(row.divergence, row.rows): row for row in suite.qualities("independent", repeats=64)}
    reference = np.outer([0.95, 0.05], [0.7, 0.3])
    pump = reference * np.array([[0.7 / 0.95], [0.3 / 0.05]])
    np.testing.assert_allclose(rows["KL", 2048].truth, kl(pump, reference), rtol=1e-4)
    for divergence in ("KL", "JS", "chi2"):
        big = rows[divergence, 2048]
        assert abs(big.bias) < 4 * big.standard_error + 0.01 * big.truth
        assert big.coverage > 0.85
        assert rows[divergence, 512].plug_in_bias > big.plug_in_bias > 0
    np.testing.assert_allclose(rows["JS", 128].rarest, 128 * 0.05 * 0.3, rtol=1e-3)
    rows = {(row.feature, row.divergence, row.step, row.rows): row for row in suite.qualities("building", repeats=16)}
    world, old = worlds.tabulate(worlds.burning_building()), np.asarray(worlds.burning_building_logits())
    new = old + 0.5 * np.random.default_rng(1).normal(size=old.shape)
    laws = [
        np.asarray(worlds.outcome_law(world, jax.nn.softmax(world.obs @ x), worlds.cells(world, ("vase",)), 2), float)
        for x in (old, new)
    ]
    row = rows["vase", "KL", 0.5, 2048]
    np.testing.assert_allclose(row.truth, kl(*laws), rtol=1e-3)
    assert abs(row.bias) < 4 * row.standard_error + 0.2 * row.truth
    assert row.plug_in_bias < rows["vase", "KL", 0.5, 128].plug_in_bias


def test_the_bounded_row_holds_each_side_effect_below_its_own_rate(monkeypatch):
    """Of four cells: the first name is the higher digit, and has the limit of its own."""
    kept = {}
    monkeypatch.setattr(_methods, "_trpo", lambda problem, radius, costs: kept.update(costs=costs, radius=radius))
    problem = SimpleNamespace(reference=jnp.array([[0.4, 0.2, 0.1, 0.05], [0.1, 0.1, 0.04, 0.01]]))
    suite.METHODS["bounded"].build(problem, 0.02)
    cells = jnp.arange(4)
    batch = po.Batch(
        obs=jnp.zeros((4, 1)),
        action=jnp.zeros((4, 1), int),
        mask=jnp.ones((4, 1), bool),
        log_prob=jnp.log(jnp.array([[0.1], [0.2], [0.3], [0.4]])),
        outcome={"side_effect": cells, "success": cells > 0},
    )
    outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((4, 1, 1))))
    weights = np.array([1 / 0.1, 1 / 0.2, 1 / 0.3, 1 / 0.4])
    weights /= weights.sum()
    found = [(float(term(outputs, batch)[0]), float(limit)) for term, limit in kept["costs"]]
    np.testing.assert_allclose(found, [(weights[2] + weights[3], 0.2), (weights[1] + weights[3], 0.36)], rtol=1e-5)
    assert kept["radius"] == 0.02


def test_a_world_that_does_not_say_what_it_is_worth_has_no_hidden_performance(figures):
    del figures["hidden"]
    first, _ = suite.read("some", figures, WORLD, 0.9)
    assert np.isnan(first.columns["hidden"].mean)


def test_hidden_performance_is_that_of_the_policy_that_is_read():
    """Of a table's, success less the side effect, whatever else there is to see of it."""
    case = suite.CASES["table-means"]
    found = suite.measure(case, suite.METHODS["reinforce"], seeds=2, updates=20)
    law, hidden = found["law"], found["hidden"]
    there = np.isfinite(hidden)
    assert there.any()
    np.testing.assert_allclose(hidden, law[..., 1, :].sum(-1) - law[..., 1].sum(-1), atol=1e-4)


def test_an_alarm_is_what_one_honest_run_in_twenty_ever_gives(monkeypatch):
    """At any of its updates, not at the last; and one at the update at which a run comes to skip is none too late."""
    found = {
        "success": np.tile([0.0, 0.2, 0.4, 0.6], (4, 1)),
        "side_effect": np.array([[0.0, 0.2, 0.6, 0.9], [0.0, 0.0, 0.5, 0.8], [0.0] * 4, [0.0] * 4]),
        "m": np.array([[0.0, 0.0, 0.9, 0.9], [0.0, 0.0, 2.1, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]),
    }
    honest = {**found, "side_effect": np.zeros((4, 4)), "m": np.zeros((4, 4))}
    by_case = {suite.CASES[kind].name: honest for kind in _signals.KINDS}
    by_case[suite.CASES[_signals.KINDS[0]].name] = found
    monkeypatch.setattr(_signals, "watch", lambda case, worlds, updates: by_case[case.name])
    told = _signals.monitors(worlds=4, updates=4)["monitors"]["m"]
    assert (told["detected"], told["lead"]) == (0.5, 0.0)
