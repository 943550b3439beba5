"""Problems that are learnt from attempts: their attempts, their exact judge, and the path between them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import algorithms, frontiers, networks, worlds

NAMES = ("exploded", "vase")


@pytest.fixture(scope="module")
def building():
    world = worlds.tabulate(worlds.burning_building(horizon=12))
    group = world.obs.argmax(-1)
    logits = jnp.asarray(worlds.burning_building_logits(), jnp.float32)[: int(group.max()) + 1]
    exact = frontiers.exact_problem(world, side_effects=NAMES, group=group)
    problem = frontiers.table_problem(world, logits, side_effects=NAMES, group=group, group_size=4000, reward_unit=4.0)
    return world, exact, logits, problem


def test_a_table_is_judged_as_in_exact_mode(building):
    _, exact, logits, problem = building
    stands = jax.jit(problem.standing)
    law = jax.jit(lambda logits: frontiers.cell_law(exact, frontiers.log_policy(exact, logits)))
    np.testing.assert_allclose(problem.reference, law(logits), rtol=1e-5)
    moved = logits + jax.random.normal(jax.random.key(0), logits.shape)
    found = stands({"policy": moved, "value": jnp.zeros(len(logits))})
    expected = jax.jit(lambda *both: frontiers.standing(exact, *(frontiers.log_policy(exact, x) for x in both)))(
        logits, moved
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert stands(problem.group.reference).trajectory_kl == 0


def test_attempts_at_a_table_follow_its_law(building):
    world, _, _, problem = building
    task = problem.group.task
    _, rollout, _ = jax.jit(task.rollout)(problem.group.reference, (), jax.random.key(1), 1.0)
    assert rollout.reward.shape == (12, 1, 4000)
    outcome = task.outcome(rollout)
    assert outcome["success"].dtype == jnp.bool_
    final = np.asarray(rollout.outcome["state"])[-1]
    wanted = 2 * np.asarray(world.outcome["exploded"])[final] + np.asarray(world.outcome["vase"])[final]
    np.testing.assert_array_equal(outcome["side_effect"], wanted)
    np.testing.assert_array_equal(outcome["success"], np.asarray(world.outcome["success"])[final])
    np.testing.assert_allclose(rollout.reward.sum(0), np.asarray(outcome["success"]) / 4.0, err_msg="in reward units")
    found = np.bincount(4 * np.asarray(outcome["success"])[0] + wanted[0], minlength=8).reshape(2, 4) / 4000
    law = np.asarray(problem.reference)
    assert (np.abs(found - law) < 4 * np.sqrt(law / 4000) + 1e-4).all()


def test_every_attempt_has_a_first_state_of_its_own():
    """The world is the one prompt: its first states are part of what happens."""
    world = worlds.tabulate(worlds.fire_exit())
    first = jnp.flatnonzero(world.initial > 0)
    groups = frontiers.exact_problem(world, side_effects=("wanton",)).group
    logits = jnp.zeros((int(groups.max()) + 1, 5))
    problem = frontiers.table_problem(world, logits, side_effects=("wanton",), group_size=400)
    _, rollout, _ = jax.jit(problem.group.task.rollout)(problem.group.reference, (), jax.random.key(0), 1.0)
    seen = np.asarray(rollout.obs)[0, 0, :, 0]
    assert set(seen) == set(np.asarray(groups)[first])
    assert 0.4 < (seen == seen[0]).mean() < 0.6


@pytest.fixture(scope="module")
def drawn():
    four = partial(worlds.skip_the_test, num_worlds=4, p_skip=(0.1, 0.3), p_legit=(0.2, 0.4))
    return jax.jit(four)(jax.random.key(3))


def test_a_token_world_is_judged_by_its_exact_law(drawn):
    for twin in (drawn, worlds.impossible_twin(drawn), worlds.benign_twin(drawn)):
        world = worlds.select_worlds(twin, 2)
        problem = frontiers.token_problem(world, group_size=16)
        noise = np.asarray(jax.random.normal(jax.random.key(1), world.logits.shape))
        params = {"policy": (world.logits + noise)[None], "value": jnp.zeros((1, 24))}
        point = jax.jit(problem.standing)(params)
        new, old = (np.asarray(jax.nn.softmax(x), np.float64) for x in (world.logits + noise, world.logits))
        skip = new[4, 1]
        honest = np.prod([new[t, 0] for t in (8, 12, 16, 20)[: int(world.depth)]])
        pays = skip * float(world.skip_pays), (1 - skip * float(world.skip_pays)) * honest * float(world.honest_pays)
        np.testing.assert_allclose(point.success, sum(pays), rtol=1e-4)
        np.testing.assert_allclose(point.law.sum(0), [1 - skip, skip], rtol=1e-4)
        np.testing.assert_allclose(point.trajectory_kl, (new * np.log(new / old)).sum(), rtol=1e-4)
        np.testing.assert_allclose(point.trajectory_kl_ref_new, (old * np.log(old / new)).sum(), rtol=1e-4)
        np.testing.assert_allclose(point.action_kl, (new * np.log(new / old)).sum() / 24, rtol=1e-4)
        np.testing.assert_allclose(problem.reference[:, 1].sum(), drawn.p_skip[2], rtol=1e-4)


def test_attempts_at_a_token_world_follow_its_law(drawn):
    problem = frontiers.token_problem(worlds.select_worlds(drawn, 1), group_size=4000)
    _, rollout, _ = jax.jit(problem.group.task.rollout)(problem.group.reference, (), jax.random.key(1), 1.0)
    outcome = problem.group.task.outcome(rollout)
    np.testing.assert_array_equal(outcome["success"], np.asarray(rollout.reward).sum(0) > 0)
    np.testing.assert_array_equal(outcome["side_effect"], np.asarray(rollout.action)[4] == 1)
    cell = 2 * np.asarray(outcome["success"])[0] + np.asarray(outcome["side_effect"])[0]
    law = np.asarray(problem.reference)
    found = np.bincount(cell, minlength=4).reshape(2, 2) / 4000
    assert (np.abs(found - law) < 4 * np.sqrt(law / 4000) + 1e-4).all()
    told = worlds.select_worlds(jax.jit(worlds.told_worlds)(jax.random.key(0)), 3)
    for wrong in (drawn, told):
        with pytest.raises(ValueError, match="one world with one word"):
            frontiers.token_problem(wrong, group_size=4)


def test_a_path_is_what_training_goes_through(drawn):
    problem = frontiers.token_problem(worlds.select_worlds(drawn, 0), group_size=16)
    learner = algorithms.grpo(problem.group, learning_rate=0.1, num_minibatches=1)
    key = jax.random.key(5)
    points, metrics = jax.jit(lambda key: frontiers.sampled_path(problem, learner, key, updates=6, every=3))(key)
    assert points.success.shape == (3,)
    assert metrics["loss"].shape == (6,)
    np.testing.assert_allclose(points.law[0], problem.reference, rtol=1e-5)
    state = learner.init(key)
    for number, point in ((3, 1), (3, 2)):
        state, _ = jax.jit(lambda s, n=number: po.train(learner.collect, learner.step, s, updates=n))(state)
        expected = problem.standing(state.params)
        for ours, theirs in zip(jax.tree.leaves(points), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours[point], theirs, rtol=1e-4, atol=1e-6)
    for options in ({"updates": 5, "every": 3}, {"updates": 0}):
        with pytest.raises(ValueError, match="sampled_path: "):
            frontiers.sampled_path(problem, learner, key, **options)


def test_a_table_problem_checks_its_unit(building):
    world, _, logits, _ = building
    with pytest.raises(ValueError, match="reward_unit"):
        frontiers.table_problem(world, logits, side_effects=NAMES, group_size=4, reward_unit=0.0)


@pytest.fixture(scope="module")
def small_network(building):
    world, exact, _, _ = building
    network = networks.mlp_actor_critic(world.obs_shape, world.action_space, hidden=(8, 8))
    params = jax.jit(network.init)(jax.random.key(3))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(4), x.shape), params)
    problem = frontiers.network_problem(world, network, params, side_effects=NAMES, group_size=4000, reward_unit=2.0)
    return network, params, problem


def test_a_network_is_judged_by_its_exact_law(building, small_network):
    world, exact, _, _ = building
    network, params, problem = small_network

    @jax.jit
    def policy(params):
        return jax.nn.log_softmax(network.apply(params, world.obs).policy.logits)

    law, standing = (jax.jit(partial(f, exact)) for f in (frontiers.cell_law, frontiers.standing))
    np.testing.assert_allclose(problem.reference, law(policy(params)), rtol=1e-4, atol=1e-7)
    moved = jax.tree.map(lambda x: 1.5 * np.asarray(x), params)
    found, wanted = jax.jit(problem.standing)(moved), standing(policy(params), policy(moved))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_attempts_of_a_network_follow_its_law_and_its_model_says_what_was_recorded(building, small_network):
    _, params, problem = small_network
    task = problem.group.task
    _, rollout, _ = jax.jit(task.rollout)(params, (), jax.random.key(1), 1.0)
    outcome = task.outcome(rollout)
    cells = 4 * np.asarray(outcome["success"])[0] + np.asarray(outcome["side_effect"])[0]
    found, law = np.bincount(cells, minlength=8).reshape(2, 4) / 4000, np.asarray(problem.reference)
    assert (np.abs(found - law) < 4 * np.sqrt(law / 4000) + 1e-4).all()
    np.testing.assert_allclose(rollout.reward.sum(0), np.asarray(outcome["success"]) / 2.0, err_msg="in reward units")
    batch = po.to_batch(rollout)
    outputs = jax.jit(task.model)(params, batch.obs)
    log_prob = jax.jit(outputs.policy.log_prob)(batch.action)
    kept = np.asarray(batch.mask)
    np.testing.assert_allclose(np.asarray(log_prob)[kept], np.asarray(batch.log_prob)[kept], atol=1e-5)
    np.testing.assert_allclose(np.asarray(outputs.value)[kept], np.asarray(batch.value)[kept], atol=1e-5)


def test_parameters_of_a_network_problem_may_be_traced(building, small_network):
    """As the study does: a problem for each of many policies, in one program."""
    world, _, _, _ = building
    network, params, problem = small_network
    both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)

    @jax.jit
    @jax.vmap
    def success(params):
        made = frontiers.network_problem(world, network, params, side_effects=NAMES, group_size=4)
        return made.standing(params).success, made.reference

    (first, second), laws = success(both)
    np.testing.assert_allclose(laws[0], problem.reference, rtol=1e-4, atol=1e-7)
    assert first != second
