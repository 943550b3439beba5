"""The study: where training begins, where a policy stands, and what the registered rules make of the figures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from study_figures import STARTS, figures, law, world

import polopt_jax as po
from polopt_jax import algorithms, frontiers, language, networks, outcomes, study, worlds
from polopt_jax.study import _analysis, _building, _runs, _told, _verdicts
from polopt_jax.study._ground import Standing

DOOR, HAZARD = "burning-building", "burning-building-hazard"


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(_analysis, "RESAMPLES", 400)


# --- where training begins -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow():
    """The starts of a narrow network in the building with the door, and its problem."""
    ground = study.GROUNDS[DOOR]
    starts = [study.begin(ground, "8", start, seeds=2) for start in STARTS]
    params, kl = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    learner = ground.build("8")
    standing = jax.jit(jax.vmap(jax.vmap(lambda p: learner.problem(p, jax.random.key(0)).standing(p))))(params)
    return params, kl, standing


def reference_law(**options):
    built = worlds.tabulate(worlds.burning_building())
    exact = frontiers.exact_problem(built, side_effects=("exploded", "vase"), group=built.obs.argmax(-1))
    logits = jnp.asarray(worlds.burning_building_logits(**options), jnp.float32)[: exact.num_groups]
    return np.asarray(jax.jit(lambda x: frontiers.cell_law(exact, frontiers.log_policy(exact, x)))(logits))


@pytest.mark.slow
def test_imitations_have_the_outcome_law_of_their_projection(narrow):
    _, kl, standing = narrow
    assert (kl[0] == 0).all()
    assert (kl[1:] < 0.01).all()
    assert (kl[1:] > 0).all()
    before = reference_law()
    for start, projection in ((1, outcomes.pump), (2, outcomes.ipf)):
        wanted = np.asarray(projection(jnp.asarray(before), 0.5).law)
        np.testing.assert_allclose(standing.law[start], np.stack([wanted] * 2), atol=0.012)
        np.testing.assert_allclose(standing.success[start], 0.5, atol=0.01)
    exploded = np.asarray(standing.law)[..., 2:].sum((-2, -1))
    assert (exploded[1] > 5 * exploded[2]).all(), "what only the careful one avoids"


def test_a_random_start_is_the_network_as_it_is_initialised(narrow):
    params, _, _ = narrow
    built = worlds.tabulate(worlds.burning_building())
    network = networks.mlp_actor_critic(built.obs_shape, built.action_space, hidden=(8, 8))
    keys = jax.random.split(jax.random.key(31), 2)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(jax.vmap(network.init)(keys)), strict=True):
        np.testing.assert_array_equal(np.asarray(ours)[0], theirs)


def test_where_a_policy_stands_is_against_where_it_began(narrow):
    _, _, standing = narrow
    for name in ("side_effect_kl", "trajectory_kl", "trajectory_kl_start_new"):
        np.testing.assert_allclose(getattr(standing, name), 0, atol=1e-5)
    assert np.isnan(np.asarray(standing.held_out)).all(), "nothing is held out in the building"


def test_where_a_policy_stands_is_where_exact_mode_has_it():
    learner = study.GROUNDS[DOOR].build("table")
    params, _ = learner.begin("random", jax.random.key(0))
    moved = {**params, "policy": params["policy"] + jax.random.normal(jax.random.key(1), params["policy"].shape)}
    found = learner.problem(params, jax.random.key(0)).standing(moved)
    built = worlds.tabulate(worlds.burning_building())
    seen = built.obs.argmax(-1)
    exact = frontiers.exact_problem(built, side_effects=("exploded", "vase"), group=seen)
    wanted = frontiers.standing(exact, *(frontiers.log_policy(exact, p["policy"]) for p in (params, moved)))
    for name in ("success", "law", "side_effect_kl", "trajectory_kl"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.trajectory_kl_start_new, wanted.trajectory_kl_ref_new, rtol=1e-3)
    assert abs(found.trajectory_kl - found.trajectory_kl_start_new) > 0.1


def test_the_table_begins_as_the_uniform_policy():
    learner = study.GROUNDS[HAZARD].build("table")
    params, kl = learner.begin("random", jax.random.key(0))
    assert kl == 0
    assert set(params) == {"policy", "value"}
    assert not params["policy"].any()
    problem = learner.problem(params, jax.random.key(0))
    built = worlds.tabulate(worlds.burning_building())
    exact = frontiers.exact_problem(built, side_effects=("exploded", "vase"))
    uniform = frontiers.cell_law(exact, jnp.full(built.prob.shape[:2], -np.log(6)))
    np.testing.assert_allclose(problem.standing(params).law, uniform, rtol=1e-4, atol=1e-7)


def test_a_step_towards_a_teacher_falls_on_a_cosine():
    params, loss = _building.learn(lambda x: jnp.square(x - 3.0), jnp.zeros(()), 0.1)
    np.testing.assert_allclose([params, loss], [3.0, 0.0], atol=1e-3)


@pytest.mark.parametrize(("start", "projection"), [("competent", outcomes.pump), ("careful", outcomes.ipf)])
def test_teachers_of_told_worlds_succeed_in_half_of_each(start, projection):
    asked = jax.jit(worlds.told_worlds)(jax.random.key(0))
    law = jax.jit(worlds.reference_outcome_law)
    before, after = law(asked), law(jax.jit(lambda asked: _told.teacher(asked, start))(asked))
    np.testing.assert_allclose(after.success, 0.5, atol=2e-3)
    wanted = jax.jit(jax.vmap(lambda table: projection(table, 0.5).law))(before.joint)
    np.testing.assert_allclose(after.joint, wanted, atol=2e-3)
    if start == "careful":
        np.testing.assert_allclose(after.skip, before.skip, rtol=1e-3)


def test_worlds_with_another_reference():
    asked = jax.jit(partial(worlds.told_worlds, levels=3))(jax.random.key(0))
    rates = jnp.linspace(0.1, 0.6, asked.num_worlds)
    other = worlds.with_reference(asked, p_skip=rates, p_legit=rates[::-1])
    found = jax.jit(worlds.reference_outcome_law)(other)
    np.testing.assert_allclose(found.skip, rates, rtol=1e-5)
    np.testing.assert_allclose(found.joint[:, 1, 0] / (1 - found.skip), rates[::-1], rtol=1e-4)
    np.testing.assert_array_equal(other.after_skip, asked.after_skip)
    np.testing.assert_array_equal([other.p_skip, other.p_legit], [rates, rates[::-1]])
    changed = (np.asarray(other.logits) != np.asarray(asked.logits)).any(0)
    assert set(np.argwhere(changed)[:, 0]) == {worlds.FORK, 8, 12, 16, 20}
    for name in ("p_skip", "p_legit"):
        for bad, match in ((rates[1:], "shape"), (rates * 0, "between 0 and 1"), (rates + 1, "between 0 and 1")):
            with pytest.raises(ValueError, match=rf"{name} must .*{match}"):
                worlds.with_reference(asked, **({"p_skip": rates, "p_legit": rates} | {name: bad}))


# --- where a policy stands by attempts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told():
    """Worlds of which a table speaks, so that everything is known: the last two of eight are held out."""
    eight = partial(worlds.skip_the_test, num_worlds=8, p_skip=(0.1, 0.4), p_legit=(0.2, 0.6))
    asked = jax.jit(eight)(jax.random.key(0))
    asked = jax.tree_util.tree_map(lambda x: x, asked)
    asked = type(asked)(**{**vars(asked), "asked": tuple(range(6)), "held": (6, 7)})
    network = language.token_table(num_prompts=8, length=asked.length, vocabulary=asked.vocabulary)
    reference = {"policy": asked.logits, "value": jnp.zeros((8, asked.length))}
    moved = {**reference, "policy": asked.logits + jax.random.normal(jax.random.key(1), asked.logits.shape)}
    problem = _told.told_problem(asked, network, reference, jax.random.key(2), looks=2000)
    return asked, reference, moved, problem


def test_a_policy_stands_where_its_exact_law_says(told):
    asked, reference, moved, problem = told
    found = jax.jit(problem.standing)(moved)
    log_softmax = jax.jit(jax.nn.log_softmax)
    log_new, log_old = (np.asarray(log_softmax(params["policy"])) for params in (moved, reference))
    law = jax.jit(lambda log_prob: worlds.token_outcome_law(log_prob, asked))
    new, old = (jax.tree.map(np.asarray, law(x)) for x in (log_new, log_old))
    np.testing.assert_allclose(found.law, new.joint[:6].mean(0), atol=0.015)
    np.testing.assert_allclose(found.held_out, new.joint[6:].mean(0), atol=0.03)
    np.testing.assert_allclose(found.success, new.success[:6].mean(), atol=0.015)
    p, q = np.asarray(new.skip, np.float64), np.asarray(old.skip, np.float64)
    binary = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(found.side_effect_kl, binary[:6].mean(), rtol=1e-3)
    forward = (np.exp(log_new) * (log_new - log_old)).sum((-2, -1))
    backward = (np.exp(log_old) * (log_old - log_new)).sum((-2, -1))
    np.testing.assert_allclose(found.trajectory_kl, forward[:6].mean(), rtol=1e-3)
    np.testing.assert_allclose(found.trajectory_kl_start_new, backward[:6].mean(), rtol=1e-3)
    np.testing.assert_allclose(problem.reference, old.joint[:6].mean(0), atol=0.015)


def test_attempts_at_told_worlds_have_their_outcomes(told):
    asked, reference, _, problem = told
    task = problem.group.task
    _, rollout, _ = jax.jit(task.rollout)(reference, (), jax.random.key(3), 1.0)
    assert rollout.reward.shape == (24, 8, 16), "eight prompts, 128 attempts"
    found = task.outcome(rollout)
    np.testing.assert_array_equal(found["side_effect"], rollout.action[worlds.FORK] == worlds.SKIP_TOKEN)
    np.testing.assert_array_equal(found["success"], rollout.reward.sum(0) > 0)
    assert set(np.asarray(rollout.obs[0]).ravel() - asked.vocabulary) <= set(range(6)), "held-out worlds are not asked"


def test_kl_of_rates():
    p, q = np.array([0.2, 0.9]), np.array([0.5, 0.4])
    wanted = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(_told.binary_kl(jnp.asarray(p), jnp.asarray(q)), wanted, rtol=1e-5)
    assert np.isfinite(_told.binary_kl(jnp.array(1.0), jnp.array(0.0)))


# --- runs ------------------------------------------------------------------------------------------------------------


def test_every_objective_has_its_sweep():
    rates = (0.001, 0.002, 0.003)
    for name in study.OBJECTIVES:
        network, table = study.objective(name, rates), study.objective(name, None)
        assert network.values == (table.values if name in ("npg", "trpo") else rates)
        assert len(table.values) == 3
        assert list(table.values) == sorted(table.values), "the rule takes the last that is fit"
    assert study.objective("grpo-kl", None).setting == "learning rate"
    for ground in study.GROUNDS.values():
        assert list(ground.rates) == sorted(ground.rates)
        assert ground.updates % ground.every == 0


@pytest.mark.slow
def test_grpo_with_a_penalty_is_grpo_with_that_of_its_paper():
    learner = study.GROUNDS[DOOR].build("table")
    params, _ = learner.begin("random", jax.random.key(0))
    problem = learner.problem(params, jax.random.key(0))

    def learnt(algorithm):
        state = algorithm.init(jax.random.key(1))
        return jax.jit(lambda state: po.train(algorithm.collect, algorithm.step, state, updates=3))(state)[0].params

    with_penalty = learnt(study.objective("grpo-kl", None).build(problem, 0.1))
    as_published = algorithms.grpo(problem.group, learning_rate=0.1, num_minibatches=1, beta=0.04)
    np.testing.assert_array_equal(with_penalty["policy"], learnt(as_published)["policy"])
    without = learnt(study.objective("grpo", None).build(problem, 0.1))
    assert np.abs(with_penalty["policy"] - without["policy"]).max() > 1e-3


@pytest.fixture(scope="module")
def measured():
    measure = partial(study.measure, study.GROUNDS[DOOR], "reinforce", "table", seeds=2, updates=6)
    found = study.from_starts({start: measure(start) for start in STARTS})
    return {name: np.asarray(x) if isinstance(x, list) and name != "settings" else x for name, x in found.items()}


def test_what_a_run_of_the_study_returns(measured):
    starts, settings, seeds, levels = 3, 3, 2, 3
    assert measured["starts"].tolist() == list(STARTS)
    assert measured["settings"] == [0.03, 0.1, 0.3]
    assert measured["reached"].shape == (starts, settings, seeds, levels)
    assert measured["law"].shape == (starts, settings, seeds, levels, 2, 4)
    for name in ("side_effect_kl", "trajectory_kl", "trajectory_kl_start_new", "updates", "jump"):
        assert measured[name].shape == (starts, settings, seeds, levels)
    assert measured["final_law"].shape == (starts, settings, seeds, 2, 4)
    np.testing.assert_allclose(measured["final_success"], measured["final_law"][..., 1, :].sum(-1), rtol=1e-4)
    assert (measured["begin_kl"][0] == 0).all()
    assert (measured["begin_kl"][1:] < 0.01).all()


def test_every_setting_begins_with_the_policies_of_all_seeds(monkeypatch):
    """The lanes that are learnt: the policy of a seed goes with its seed, and the seeds with every setting."""
    lanes = []

    def learning(*_):
        return lambda lane: lanes.extend(map(np.asarray, jax.tree.leaves(lane))) or {}["nothing is learnt here"]

    monkeypatch.setattr(_runs, "begin", lambda *_, seeds: ({"x": 10 * jnp.arange(seeds)}, np.zeros(seeds)))
    monkeypatch.setattr(_runs, "_learning", learning)
    with pytest.raises(KeyError, match="nothing is learnt here"):
        study.measure(study.GROUNDS[DOOR], "reinforce", "table", "careful", seeds=4, updates=2)
    params, run, setting = lanes
    assert params.tolist() == [0, 10, 20, 30] * 3
    assert run.tolist() == [0, 1, 2, 3] * 3
    np.testing.assert_allclose(setting, np.repeat([0.03, 0.1, 0.3], 4), rtol=1e-6)


@pytest.mark.slow
def test_how_many_runs_go_side_by_side_changes_nothing(measured):
    ground = study.GROUNDS[DOOR]._replace(lanes=4)
    found = study.measure(ground, "reinforce", "table", "careful", seeds=2, updates=6)
    for name in ("final_law", "begin_law", "forecast", "trajectory_kl"):
        np.testing.assert_allclose(found[name], measured[name][2], rtol=2e-3, atol=1e-6)


def test_training_moves_from_the_start_and_faster_with_larger_steps(measured):
    begun = measured["begin_law"][..., 1, :].sum(-1)
    gained = measured["final_success"] - begun[:, None]
    assert (gained[1:, 2] > 0.02).all(), "six large steps from imitations"
    assert (gained[1:, 2] > gained[1:, 0]).all()
    assert (measured["final_trajectory_kl"][:, 2] > measured["final_trajectory_kl"][:, 0]).all()


def test_the_levels_are_read_where_they_are_reached(measured):
    reached, updates = measured["reached"], measured["updates"]
    assert reached[1, 2, :, 0].all(), "imitations succeed in half of their attempts from the first"
    assert (np.isfinite(updates) == reached).all()
    assert (updates[2, :, :, 0] == 0).all(), "the careful table is there when it begins"
    assert not (updates[0] == 0).any(), "the random one is not"
    assert np.nanmax(updates) > 3, "counted in updates and not in looks, of which there are three"
    assert (updates[reached] <= 6).all()
    success = measured["law"][..., 1, :].sum(-1)
    above = reached & (updates > 0)
    np.testing.assert_allclose(success[above], np.broadcast_to(study.LEVELS, reached.shape)[above], atol=1e-4)


def test_the_forecast_is_the_share_among_the_successes_of_the_start(measured):
    won = measured["begin_law"][:, :, 1]
    share = won[..., 1:].sum(-1) / won.sum(-1)
    noise = 4 * np.sqrt(share * (1 - share) / (512 * won.sum(-1))) + 1e-3
    assert (np.abs(measured["forecast"] - share) < noise).all()


# --- the registered rules --------------------------------------------------------------------------------------------


def at_settings(reached, jump, seeds=10):
    """Figures of one start with such shares of seeds and such jumps at the settings."""
    flags = np.arange(seeds)[None] < np.round(np.asarray(reached) * seeds)[:, None]
    jumps = np.where(flags, np.asarray(jump)[:, None], np.nan)
    first = np.ones_like(flags)  # what half the success takes does not matter
    return {"reached": np.stack([first, flags], -1)[None], "jump": np.stack([0.0 * first, jumps], -1)[None]}


@pytest.mark.parametrize(
    ("reached", "jump", "wanted"),
    [
        ([1, 1, 1], [0.01, 0.05, 0.09], 2),
        ([1, 1, 1], [0.01, 0.05, 0.11], 1),
        ([1, 1, 0.8], [0.01, 0.05, 0.05], 1),
        ([1, 1, 0.9], [0.01, 0.05, 0.05], 2),
        ([0.2, 0.5, 0.4], [0.01, 0.05, 0.05], 1),
        ([1, 1, 1], [0.2, 0.3, 0.4], 0),
        ([0, 0, 0], [0.0, 0.0, 0.0], 0),
    ],
)
def test_the_step_size_rule(reached, jump, wanted):
    assert study.chosen(at_settings(reached, jump), 0) == wanted


def test_a_run_that_never_arrived_has_no_jump_whatever_stands_there():
    found = at_settings([1, 0.9], [0.01, 0.05])
    found["jump"][0, 1, :, 1] = [0.05] * 4 + [0.12] * 5 + [0.0]
    assert found["reached"][0, 1, :, 1].tolist() == [True] * 9 + [False]
    assert study.chosen(found, 0) == 0, "the median is .12 of the nine that arrived, .085 of ten"


def test_the_rule_looks_at_each_start_alone_and_never_at_side_effects():
    found = figures(np.full((3, 4), 0.3), setting=1)
    assert [study.chosen(found, k) for k in range(3)] == [1, 1, 1]
    found["reached"] = found["reached"].copy()
    found["reached"][2, 1:] = False
    assert [study.chosen(found, k) for k in range(3)] == [1, 1, 0]
    del found["law"]
    assert study.chosen(found, 0) == 1


def test_a_response_is_read_at_the_chosen_setting():
    made = world(lambda scale, objective, start, seed: 0.1 * STARTS.index(start) + 0.01 * seed, seeds=3)
    found = study.response(made, "P(z)")
    assert found.scales == ("8", "table")
    assert found.objectives == study.OBJECTIVES
    assert found.starts == STARTS
    assert found.values.shape == (2, 7, 3, 3)
    wanted = 0.1 * np.arange(3)[:, None] + 0.01 * np.arange(3)
    np.testing.assert_allclose(found.values, np.broadcast_to(wanted, found.values.shape), atol=1e-9)
    np.testing.assert_allclose(study.response(made, "updates", 0.5).values, 12.0)
    np.testing.assert_allclose(study.response(made, "updates").values, 36.0)
    np.testing.assert_allclose(study.response(made, "held-out P(z)").values, found.values)


def test_a_response_leaves_out_what_was_not_run():
    made = world(lambda *_: 0.4)
    del made["scales"]["8"]["dpo"]
    values = study.response(made, "P(z)").values
    assert np.isnan(values[0, study.OBJECTIVES.index("dpo")]).all()
    assert np.isfinite(values).sum() == values.size - 12


def test_side_effects_one_by_one():
    made = world(lambda *_: 0.4, side_effects=("exploded", "vase"))
    for found in made["scales"].values():
        for each in found.values():
            each["law"] = np.broadcast_to([[0.0] * 4, [0.1, 0.2, 0.3, 0.4]], each["law"].shape)
    rates = {name: study.response(made, name).values.mean() for name in ("P(z)", "P(exploded)", "P(vase)")}
    assert {name: round(float(rate), 6) for name, rate in rates.items()} == {
        "P(z)": 0.9,
        "P(exploded)": 0.7,
        "P(vase)": 0.6,
    }


def test_shares_are_those_of_the_classical_decomposition():
    """Against sums of squares of regressions on dummies, in their order, of a balanced design."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 4, 5)) + np.arange(2)[:, None, None, None] * 2.0
    values[:, 1, 2] += 1.5
    y = values.reshape(-1)
    levels = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), -1).reshape(-1, 4)

    def explained(factors):
        """Sum of squares of a regression on all combinations of factors."""
        key = np.unique(levels[:, factors], axis=0, return_inverse=True)[1].reshape(-1)
        dummies = np.eye(key.max() + 1)[key]
        fit = dummies @ np.linalg.lstsq(dummies, y, rcond=None)[0]
        return ((fit - y.mean()) ** 2).sum()

    total = ((y - y.mean()) ** 2).sum()
    one = {name: explained([axis]) for axis, name in enumerate(study._analysis.FACTORS)}
    two = explained([0, 1]) - one["scale"] - one["objective"]
    found = study.shares(values)
    for name, squares in one.items():
        np.testing.assert_allclose(found[name], squares / total, rtol=1e-9)
    np.testing.assert_allclose(found["scale x objective"], two / total, rtol=1e-9)
    np.testing.assert_allclose(found["seeds"], 1 - explained([0, 1, 2]) / total, rtol=1e-9)
    np.testing.assert_allclose(sum(found.values()), 1, rtol=1e-9)


def test_shares_with_runs_that_never_got_there():
    values = np.zeros((2, 2, 3, 4))
    values[:, 1] = 1.0
    values[0, 0, 0], values[1, 1, 2, 1:] = np.nan, np.nan
    found = study.shares(values)
    np.testing.assert_allclose(found["objective"], 1, atol=0.02)
    assert found["seeds"] == 0
    assert not any(study.shares(np.zeros((2, 2, 2, 2))).values()), "nothing varies"


def test_rounding_is_no_share():
    scale, objective, start = np.array([0.1, 0.3]), np.array([0.7, 0.11, 1.3]), np.array([0.2, 0.37])
    values = scale[:, None, None, None] + objective[:, None, None] + start[:, None] + np.zeros((2, 3, 2, 4))
    found = study.shares(values)
    assert {name for name, share in found.items() if share} == {"scale", "objective", "start"}


def test_intervals_resample_the_seeds_that_got_there():
    rng = np.random.default_rng(1)
    values = np.full((1, 1, 1, 10), np.nan)
    values[..., :6] = 5.0 + rng.normal(size=6)
    drawn = _analysis._resampled(values)
    assert np.isfinite(drawn).all()
    assert set(drawn.ravel()) <= set(values[..., :6].ravel())
    found = study.mean_interval(values)
    mean, error = values[..., :6].mean(), values[..., :6].std() / np.sqrt(6)
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose([found.low, found.high], [mean - 1.96 * error, mean + 1.96 * error], atol=0.8 * error)
    nothing = study.mean_interval(np.full((2, 3), np.nan))
    assert np.isnan(nothing.mean)
    assert np.isnan(nothing.low)


def test_share_intervals_hold_the_share_and_are_narrow_where_seeds_agree():
    noise = np.random.default_rng(0).normal(size=(2, 3, 3, 10))
    signal = np.zeros_like(noise)
    signal[:, :, 1] = 2.0
    wide, narrow = study.share_intervals(signal + noise)["start"], study.share_intervals(signal + 0.05 * noise)["start"]
    for found in (wide, narrow):
        assert found.low < found.mean < found.high
    assert narrow.high - narrow.low < 0.1 * (wide.high - wide.low)
    assert narrow.mean > 0.95


def test_logits_are_clipped():
    np.testing.assert_allclose(study.logit(np.array([0.0, 0.5, 1.0])), [-9.21024, 0, 9.21024], atol=1e-4)


# --- verdicts --------------------------------------------------------------------------------------------------------


def rates(by_start=(0.2, 0.6, 0.1), by_objective=(0,) * 7, by_scale=(0, 0)):
    """P(z) by additive logits, with a little noise of the seeds."""

    def rate(scale, objective, start, seed):
        base = by_start[STARTS.index(start)]
        x = np.log(base / (1 - base)) + by_objective[study.OBJECTIVES.index(objective)]
        x += by_scale[("8", "table").index(scale)] + 0.01 * (seed - 1.5)
        return 1 / (1 + np.exp(-x))

    return rate


ORDER, REVERSED = tuple(0.1 * np.arange(7)), tuple(-0.1 * np.arange(7))


def judged(first=None, second=None, third=None):
    first, second, third = first or rates(), second or rates(), third or rates()
    made = {DOOR: world(first), HAZARD: world(second), "told-worlds": world(third)}
    return {verdict.name: verdict for verdict in study.verdicts(made)}


def test_verdicts_where_the_start_decides():
    found = judged(rates(by_objective=ORDER), rates(by_objective=REVERSED))
    assert {name: verdict.holds for name, verdict in found.items()} == {
        "H1": True,
        "H2": True,
        "H3": True,
        "H4": True,
        "H5": True,
        "H6": True,
        "H7": None,
    }


def test_the_objective_may_decide():
    found = judged(rates(by_start=(0.5, 0.5, 0.49), by_objective=tuple(np.arange(7.0))))
    assert found["H1"].holds is False
    assert DOOR in found["H1"].evidence


def test_the_scale_may_decide():
    assert judged(third=rates(by_scale=(0, 3.0)))["H2"].holds is False


def test_a_world_at_one_scale_says_nothing_of_scales():
    one = world(rates(by_scale=(0, 3.0)))
    one = {**one, "scales": {"8": one["scales"]["8"]}}
    (found,) = (verdict for verdict in study.verdicts({"told-worlds": one}) if verdict.name == "H2")
    assert (found.holds, found.evidence) == (None, "no world was run at several scales")
    both = {DOOR: world(rates()), "told-worlds": one}
    (found,) = (verdict for verdict in study.verdicts(both) if verdict.name == "H2")
    assert found.holds is True
    assert "told-worlds" not in found.evidence


def test_an_order_that_holds_in_both_buildings():
    """Random starts are left out: there the two buildings are the same runs."""
    found = judged(rates(by_objective=ORDER), rates(by_objective=ORDER))["H3"]
    assert found.holds is False
    assert "8: 1.00" in found.evidence

    def turned(scale, objective, start, seed):
        return rates(by_objective=tuple(5 * np.arange(7.0)) if start == "random" else REVERSED)(
            scale, objective, start, seed
        )

    assert judged(rates(by_objective=ORDER), turned)["H3"].holds is True


@pytest.mark.parametrize(("number", "holds"), [(2, None), (3, None), (4, False)])
def test_two_or_three_objectives_make_no_order(number, holds):
    """With two of them τ is 1 as often as not: it was a verdict."""
    some = study.OBJECTIVES[:number]
    both = [world(rates(by_objective=ORDER), objectives=some) for _ in range(2)]
    found = {verdict.name: verdict for verdict in study.verdicts(dict(zip((DOOR, HAZARD), both, strict=True)))}
    assert found["H3"].holds is holds
    assert ("no scale has 4 objectives" in found["H3"].evidence) is (holds is None)


def test_a_trust_region_that_protects_in_both_buildings():
    protected = rates(by_objective=(0, 0, -1.0, 0, 0, 0, 0))
    assert judged(protected, protected)["H4"].holds is False
    assert judged(protected, rates())["H4"].holds is True, "in one of them only"
    hardly = rates(by_objective=(0, 0, -0.001, 0, 0, 0, 0))
    assert judged(hardly, hardly)["H4"].holds is True, "by less than the seeds differ"
    assert study.OBJECTIVES[2] == "trpo"


def test_a_careful_start_that_is_not_careful():
    def turned(scale, objective, start, seed):
        if (scale, objective, start) == ("table", "dpo", "careful"):
            return 0.9
        return rates()(scale, objective, start, seed)

    found = judged(second=turned)["H5"]
    assert found.holds is False
    assert f"{HAZARD}, table, dpo" in found.evidence
    assert "41 of 42" in found.evidence


def test_held_out_prompts_that_go_another_way():
    made = {"told-worlds": world(rates(by_objective=ORDER), held_out=rates((0.8, 0.4, 0.9), REVERSED))}
    found = {verdict.name: verdict for verdict in study.verdicts(made)}
    assert found["H6"].holds is False
    assert found["H1"].holds is None, "one world of three"
    assert found["H3"].holds is None
    assert found["H4"].holds is None


def test_forecasts_are_judged_from_imitations_and_from_random_starts_apart():
    def alternating(scale, objective, start, seed):
        return 0.9 if seed % 2 else 0.1

    def told(scale, objective, start, seed):
        return 0.5 if start == "random" else 0.8 * (seed % 2)

    found = {v.name: v for v in study.verdicts({DOOR: world(alternating, forecast=told)})}["H7"]
    assert found.holds is True
    assert found.evidence == "AUC 1.00 from imitations, 0.50 from random initialisations"

    def always(scale, objective, start, seed):
        return 0.8 * (seed % 2)

    assert {v.name: v for v in study.verdicts({DOOR: world(alternating, forecast=always)})}["H7"].holds is False


def test_helpers_of_the_figures():
    np.testing.assert_allclose(law(0.9, 0.3).sum(), 1)
    assert _verdicts.mean_of(np.array([np.nan, 2.0])) == 2.0
    assert np.isnan(_verdicts.mean_of(np.array([np.nan])))
    assert Standing.__doc__


# --- what tells of held-out prompts ----------------------------------------------------------------------------------


def with_divergences(held_out, **divergences):
    """A told world whose divergences at every success are functions of (scale, objective, start, seed)."""
    made = world(lambda *_: 0.5, seeds=6, held_out=held_out)
    for scale, found in made["scales"].items():
        for objective, each in found.items():
            for name, function in divergences.items():
                table = [[function(scale, objective, start, seed) for seed in range(6)] for start in STARTS]
                each[name] = np.broadcast_to(np.array(table)[:, None, :, None], each[name].shape)
    return made


def drawn(seed, spread=1.0):
    rng, table = np.random.default_rng(seed), {}
    return lambda *key: table.setdefault(key, float(np.exp(spread * rng.normal())))


def test_a_regression_finds_the_divergence_that_tells():
    first, other, third = drawn(0), drawn(1), drawn(2)

    def held_out(scale, objective, start, seed):
        x = 0.8 * np.log(first(scale, objective, start, seed)) + 3.0 * STARTS.index(start) - 3.0
        return 1 / (1 + np.exp(-x))

    made = with_divergences(
        held_out, side_effect_kl=first, trajectory_kl=other, trajectory_kl_start_new=lambda *key: third(*key)
    )
    z, path, back = study.predictors(made)
    assert (z.name, path.name, back.name) == ("D_z", "D_traj", "start‖new")
    np.testing.assert_allclose([*z.alone, *z.together], 1.0, atol=1e-6, err_msg="the start's own level is taken off")
    for none in (path, back):
        assert none.alone.mean < 0.05
        assert none.together.low <= 1e-9
        assert none.together.high >= -1e-9


def test_the_regression_is_least_squares():
    one, two, noise = drawn(3), drawn(4), drawn(5)

    def both(*key):
        return float(one(*key) * two(*key))

    def held_out(*key):
        return 1 / (1 + 1 / (one(*key) ** 0.5 * noise(*key)))

    made = with_divergences(held_out, side_effect_kl=one, trajectory_kl=both, trajectory_kl_start_new=noise)
    found = study.predictors(made)
    names = ("held-out P(z)", "side_effect_kl", "trajectory_kl", "trajectory_kl_start_new")
    sides = [study.response(made, name).values for name in names]
    y, *x = (f(v) for f, v in zip((study.logit, np.log, np.log, np.log), sides, strict=True))
    y, *x = ((v - v.mean((1, 3), keepdims=True)).ravel() for v in (y, *x))
    raw = np.linalg.solve(np.array([[a @ b for b in x] for a in x]), [a @ y for a in x])
    for row, column, slope in zip(found, x, raw, strict=True):
        np.testing.assert_allclose(row.alone.mean, np.corrcoef(y, column)[0, 1] ** 2, rtol=1e-6)
        np.testing.assert_allclose(row.together.mean, slope * column.std() / y.std(), rtol=1e-6, atol=1e-9)
        assert row.alone.low <= row.alone.mean <= row.alone.high
        assert row.together.low < row.together.mean < row.together.high


def test_nothing_tells_where_nothing_is_held_out():
    made = world(lambda *_: 0.5)
    for found in made["scales"].values():
        for each in found.values():
            del each["held_out"]
    assert study.predictors(made) == []


@pytest.mark.parametrize("little", [{"seeds": 1}, {"objectives": ("ppo",)}])
def test_what_was_not_varied_is_not_judged(little):
    """One seed had intervals without a width, and one objective a share of exactly nothing."""
    told = {
        "told-worlds": world(
            lambda scale, objective, start, seed: 0.1 + 0.2 * STARTS.index(start) + 0.01 * seed, **little
        )
    }
    found = {verdict.name: verdict for verdict in study.verdicts(told)}
    for name in ("H1", "H2"):
        assert found[name].holds is None
        assert found[name].evidence == "no world was run with several objectives, starts and seeds"
    if little == {"seeds": 1}:
        assert found["H5"].holds is None
        both = dict.fromkeys((DOOR, HAZARD), told["told-worlds"])
        judged = {verdict.name: verdict for verdict in study.verdicts(both)}
        assert judged["H3"].evidence == judged["H4"].evidence == "of one seed nobody knows what is chance"
        shares = study.share_intervals(study.logit(study.response(told["told-worlds"], "P(z)").values))
        assert np.isfinite(shares["start"].mean)
        assert np.isnan([shares["start"].low, shares["start"].high]).all()
