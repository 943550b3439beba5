"""What a path is made of, and reading it at matched success."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated_world import Enumerated, small_world

from polopt_jax import frontiers, outcomes
from polopt_jax.worlds import burning_building, burning_building_logits, tabulate

LOGITS = np.random.default_rng(1).standard_normal((2, 3))


@pytest.fixture
def small(x64):
    problem = frontiers.exact_problem(small_world(), side_effects=("hurt",))
    return problem, Enumerated(problem)


def test_where_a_policy_stands(small):
    """All divergences, in the direction KL(new ‖ reference), from the list of episodes."""
    problem, listed = small
    new = LOGITS + np.random.default_rng(5).standard_normal((2, 3))
    policies = [frontiers.log_policy(problem, jnp.asarray(x)) for x in (LOGITS, new)]
    point = frontiers.standing(problem, *policies)
    before, after = listed.table(LOGITS), listed.table(new)
    kl = lambda q, p: (q * np.log(q / p)).sum()  # noqa: E731
    lengths = np.array([len(decided) for _, decided, _, _ in listed.episodes])
    expected = {
        "success": after[1].sum(),
        "reward": listed.reward(new),
        "law": after,
        "side_effect": after.sum(0),
        "side_effect_kl": kl(after.sum(0), before.sum(0)),
        "success_kl": kl(after.sum(1), before.sum(1)),
        "conditional_kl": kl(after, before) - kl(after.sum(1), before.sum(1)),
        "outcome_kl": kl(after, before),
        "trajectory_kl": listed.kl(new, LOGITS),
        "trajectory_kl_ref_new": listed.kl(LOGITS, new),
        "action_kl": listed.kl(new, LOGITS) / (listed.law(new) @ lengths),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(point, name), value, rtol=1e-10, err_msg=name)


def test_a_path_begins_at_its_reference_and_goes_where_the_method_goes(small):
    problem, listed = small
    method = frontiers.gradient_ascent(frontiers.reward(problem), step_size=1.0)
    points = frontiers.path(problem, jnp.asarray(LOGITS), method, updates=3)
    logits, seen = LOGITS, []
    for _ in range(4):
        seen.append([listed.table(logits)[1].sum(), listed.kl(logits, LOGITS)])
        logits = logits + listed.gradient(logits)
    np.testing.assert_allclose(np.stack([points.success, points.trajectory_kl], -1), seen, atol=1e-12)
    with pytest.raises(ValueError, match="updates"):
        frontiers.path(problem, jnp.asarray(LOGITS), method, updates=0)


def test_a_path_hands_on_what_its_method_remembers(small):
    """Prices that are forgotten at every update would be zero at every update."""
    problem, _ = small
    start, goal = jnp.asarray(LOGITS), frontiers.reward(problem)
    table = frontiers.cell_law(problem, frontiers.log_policy(problem, start))
    ascend = lambda objective: frontiers.gradient_ascent(objective, step_size=1.0)  # noqa: E731
    method = frontiers.priced(problem, ascend, goal, table, dual_step=3.0)
    logits, memory = start, method.init(start)
    for _ in range(3):
        logits, memory = method.step(logits, memory)
    last = frontiers.path(problem, start, method, updates=3).law[-1]
    np.testing.assert_allclose(last, frontiers.cell_law(problem, frontiers.log_policy(problem, logits)), atol=1e-12)


def made_up(success):
    zeros = jnp.zeros(len(success))
    names = ("reward", "hidden", "side_effect_kl", "conditional_kl", "success_kl", "outcome_kl")
    more = ("trajectory_kl", "trajectory_kl_ref_new", "action_kl")
    fields = dict.fromkeys((*names, *more), zeros)
    law = jnp.arange(4.0 * len(success)).reshape(-1, 2, 2) / 2
    return frontiers.Point(success=jnp.asarray(success), law=law, **fields)


def test_matched_success_is_read_between_the_two_updates_around_it():
    read = frontiers.at_success(made_up([0.1, 0.3, 0.7, 0.6, 0.9]), 0.5)
    assert bool(read.reached)
    assert float(read.updates) == pytest.approx(1.5)
    assert float(read.jump) == pytest.approx(0.4)
    np.testing.assert_allclose(read.point.law, [[3.0, 3.5], [4.0, 4.5]], rtol=1e-6)
    np.testing.assert_allclose(read.point.side_effect, [7.0, 8.0], rtol=1e-6)
    # the first time counts, although the path falls below it again
    assert float(frontiers.at_success(made_up([0.1, 0.3, 0.7, 0.6, 0.9]), 0.65).updates) == pytest.approx(1.875)


def test_a_success_that_is_never_reached_is_said_to_be():
    read = frontiers.at_success(made_up([0.1, 0.4, 0.3]), 0.5)
    assert not bool(read.reached)
    assert float(read.best) == pytest.approx(0.4)
    assert np.isnan(float(read.updates))
    assert np.isnan(np.asarray(read.point.law)).all()


def test_a_path_that_begins_there_is_read_at_its_beginning():
    read = frontiers.at_success(made_up([0.6, 0.7]), 0.5)
    assert float(read.updates) == 0.0
    np.testing.assert_allclose(read.point.law, [[0.0, 0.5], [1.0, 1.5]])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="success"):
        frontiers.at_success(made_up([0.1, 0.4]), 1.5)
    with pytest.raises(ValueError, match="points"):
        frontiers.at_success(jax.tree.map(lambda x: x[None], made_up([0.1, 0.4])), 0.5)


def building(**arguments):
    world = tabulate(burning_building(**arguments))
    return frontiers.exact_problem(world, side_effects=("exploded", "vase"), group=world.obs.argmax(-1))


def test_in_the_burning_building_the_held_marginal_is_the_projection_and_trpo_is_beyond_the_pump(x64):
    """The anchor of the exact benchmark: open building, its reference, success 0.9."""
    problem, logits = building(), burning_building_logits()
    table = frontiers.cell_law(problem, frontiers.log_policy(problem, logits))
    pump, ipf = outcomes.pump(table, 0.9), outcomes.ipf(table, 0.9)
    goal = frontiers.reward(problem)

    def read(weight):
        method = frontiers.trust_region(problem, goal, held=frontiers.marginal, weight=weight)
        return frontiers.at_success(frontiers.path(problem, logits, method, updates=40), 0.9)

    plain, held = (jax.jit(read)(weight) for weight in (0.0, 1e3))
    assert bool(plain.reached & held.reached)
    exploded = lambda law: float(law[2] + law[3])  # noqa: E731
    assert exploded(plain.point.side_effect) > 2 * exploded(pump.side_effect)
    np.testing.assert_allclose(held.point.side_effect, ipf.side_effect, atol=5e-3)
    assert float(held.point.outcome_kl) == pytest.approx(float(ipf.kl), abs=0.01)
    assert float(held.point.action_kl) > float(plain.point.action_kl)
