"""The engine of the exact worlds: against sums over trajectories, recursions in plain Python, and sampled episodes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import envs
from polopt_jax.worlds import (
    WORLDS,
    Move,
    Rules,
    Sign,
    action_values,
    boat_race,
    burning_building,
    cells,
    dense,
    expected_hidden,
    expected_reward,
    final_law,
    island_navigation,
    optimal_policy,
    outcome_law,
    outcome_table,
    picture,
    reachable_states,
    tabulate,
    tomato_watering,
    visits,
)

HORIZON = 3
each_world = pytest.mark.parametrize("entry", WORLDS, ids=[entry.name for entry in WORLDS])


def _moves(state, action):
    """From 0: left may slip to the end; the end pays by luck. 3 is only reached in the third decision."""
    if state == 0 and action == "left":
        return [
            Move(0.25, 1, 2.0, -1.0),
            Move(0.5, 9, 1.0, 0.5),
            Move(0.25, 9, 4.0, 0.25),
            Move(0.0, "never", 0.0, 0.0),
        ]
    if state == 1 and action == "right":
        return [Move(0.4, 2, 0.5, 0.0), Move(0.35, 2, 0.5, 0.0), Move(0.25, 0, 0.0, 1.0)]
    return [Move(1.0, min(state + 1, 3), 0.125, 0.25)]


def _rules(**changes):
    rules = Rules(
        starts=((0.5, 0), (0.25, 1), (0.25, 0), (0.0, "nowhere")),
        actions=("left", "right"),
        moves=_moves,
        ended=lambda state: state == 9,
        outcome=lambda state: {"success": state == 9, "odd": state in (1, 3)},
        frame=lambda state: (str(state), "."),
        legend={"9": Sign("the end", "#123456")},
        horizon=HORIZON,
    )
    return dataclasses.replace(rules, **changes)


@pytest.fixture
def world(x64):
    return tabulate(_rules())


def _policy(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


def _recursion(rules, policy):
    """Law of the final state, and mean sums of reward and hidden, by following every path through the rules."""
    number = {state: i for i, state in enumerate(reachable_states(rules))}
    law, totals = {}, np.zeros(2)

    def follow(state, h, prob, paid):
        nonlocal totals
        if h == rules.horizon or rules.ended(state):
            law[state] = law.get(state, 0.0) + prob
            totals += prob * paid
            return
        for a, action in enumerate(rules.actions):
            for chance, after, *pay in rules.moves(state, action):
                if chance > 0:
                    follow(after, h + 1, prob * chance * policy[h, number[state], a], paid + np.array(pay))

    for prob, start in rules.starts:
        if prob > 0:
            follow(start, 0, prob, np.zeros(2))
    return [law.get(state, 0.0) for state in number], totals


def test_the_table_is_the_rules(world):
    assert reachable_states(_rules()) == [0, 1, 9, 2, 3]  # as they can be reached: 0 and 1 at once, 3 in the third
    np.testing.assert_array_equal(world.initial, [0.75, 0.25, 0, 0, 0])
    np.testing.assert_array_equal(world.terminal, [False, False, True, False, False])
    assert world.prob.shape == (5, 2, 3)  # three moves at most: equal ones are one, impossible ones none
    np.testing.assert_allclose(world.prob[1, 1, :2], [0.75, 0.25])
    np.testing.assert_array_equal(world.successor[0, 0], [1, 2, 2])
    np.testing.assert_array_equal(world.reward[0, 0], [2.0, 1.0, 4.0])
    np.testing.assert_array_equal(world.hidden[0, 0], [-1.0, 0.5, 0.25])
    np.testing.assert_array_equal(world.outcome["success"], [False, False, True, False, False])
    np.testing.assert_array_equal(world.outcome["odd"], [False, True, False, False, True])
    np.testing.assert_array_equal(world.obs, np.eye(5)[[0, 1, 4, 2, 3]])  # one feature for each digit that is shown


@pytest.mark.parametrize("rules", [_rules(), burning_building(horizon=4, slip=0.2), tomato_watering(horizon=2)])
def test_laws_and_means_are_those_of_every_path(x64, rules):
    world = tabulate(rules)
    policy = _policy(0, rules.horizon, *world.prob.shape[:2])
    law, (reward, hidden) = _recursion(rules, np.asarray(policy))
    result = final_law(world, policy)
    assert result.dtype == jnp.float64
    np.testing.assert_allclose(result, law, rtol=0, atol=1e-14)
    np.testing.assert_allclose(expected_reward(world, policy), reward, rtol=0, atol=1e-14)
    np.testing.assert_allclose(expected_hidden(world, policy), hidden, rtol=0, atol=1e-14)
    success = sum(p for p, state in zip(law, reachable_states(rules), strict=True) if rules.outcome(state)["success"])
    np.testing.assert_allclose(outcome_law(world, policy, cells(world, ("success",)), 2)[1], success, atol=1e-14)


@pytest.mark.parametrize("rules", [_rules(), boat_race(horizon=5), burning_building(horizon=3)])
def test_values_and_visits_are_those_of_the_dense_process(x64, rules):
    world = tabulate(rules)
    mdp = dense(world)
    policy = _policy(1, rules.horizon, *world.prob.shape[:2])
    ours, theirs = action_values(world, policy, world.reward), envs.q_values(mdp, policy)
    decided = np.asarray(envs.visitation(mdp, policy)) > 0  # states at the horizon have no moves in the table
    np.testing.assert_allclose(ours.v, theirs.v, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.asarray(ours.q)[decided], np.asarray(theirs.q)[decided], rtol=0, atol=1e-13)
    np.testing.assert_allclose(visits(world, policy), envs.visitation(mdp, policy), rtol=0, atol=1e-14)
    np.testing.assert_allclose(expected_reward(world, policy), envs.expected_return(mdp, policy), rtol=0, atol=1e-14)


def test_the_final_law_is_that_of_enumerated_trajectories(world):
    policy = _policy(2, 5, 2)
    paths = envs.enumerate_trajectories(dense(world))
    prob = np.asarray(envs.trajectory_prob(paths, policy))
    expected = np.bincount(np.asarray(paths.final_state), prob, minlength=5)
    np.testing.assert_allclose(final_law(world, policy), expected, rtol=0, atol=1e-14)


def test_a_table_without_time_is_the_same_at_every_step(world):
    policy = _policy(3, 5, 2)
    repeated = jnp.broadcast_to(policy, (HORIZON, 5, 2))
    np.testing.assert_array_equal(final_law(world, policy), final_law(world, repeated))
    assert float(expected_reward(world, policy)) == float(expected_reward(world, repeated))
    timed = _policy(4, HORIZON, 5, 2)
    assert abs(float(expected_reward(world, timed) - expected_reward(world, timed[::-1]))) > 1e-3


@pytest.mark.parametrize("seed", [0, 7, 8])
def test_the_optimal_policy_is_the_best_of_all_deterministic_ones(x64, seed):
    """Random rules of three states: 2^9 policies over three steps. Seeds in which the best one changes with time."""
    rng = np.random.default_rng(seed)
    law, reward = rng.dirichlet(np.full(3, 0.3), (3, 2)), rng.standard_normal((3, 2, 3))
    number = {"left": 0, "right": 1}
    moves = lambda s, a: [Move(law[s, number[a], t], t, reward[s, number[a], t], 0.0) for t in range(3)]  # noqa: E731
    world = tabulate(_rules(starts=tuple((1 / 3, s) for s in range(3)), moves=moves))
    best = optimal_policy(world, world.reward)
    np.testing.assert_array_equal(best.sum(-1), 1.0)
    assert bool((best[0] != best[-1]).any())
    choices = np.stack(np.meshgrid(*[[0, 1]] * 9, indexing="ij"), -1).reshape(-1, HORIZON, 3)
    value = jax.jit(jax.vmap(lambda policy: expected_reward(world, policy)))
    every = value(jax.nn.one_hot(choices, 2, dtype=jnp.float64))
    np.testing.assert_allclose(value(best[None])[0], every.max(), rtol=1e-14)


def test_gradients_are_those_of_finite_differences(world):
    policy, weight = np.asarray(_policy(5, HORIZON, 5, 2)), np.random.default_rng(6).standard_normal(4)
    cell = cells(world, ("success", "odd"))
    functions = {
        "law": lambda table: outcome_law(world, table, cell, 4) @ weight,
        "reward": lambda table: expected_reward(world, table),
        "hidden": lambda table: expected_hidden(world, table),
        "visits": lambda table: (visits(world, table) ** 2).sum(),
    }
    step = 1e-6 * np.eye(policy.size).reshape(-1, *policy.shape)
    for name, function in functions.items():
        value = jax.jit(jax.vmap(function))
        slope = (np.asarray(value(policy + step)) - np.asarray(value(policy - step))) / 2e-6
        gradient = jax.grad(function)(jnp.asarray(policy))
        np.testing.assert_allclose(np.ravel(gradient), slope, rtol=0, atol=1e-8, err_msg=name)


def _act(table):
    """A policy over states for a world whose observations are one-hot in the state."""
    return lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.log(obs @ table)))


def _one_hot(world):
    return dataclasses.replace(world, obs=jnp.eye(len(world.initial)))


@pytest.mark.parametrize(
    "rules", [burning_building(slip=0.2), pytest.param(tomato_watering(horizon=10), marks=pytest.mark.slow), _rules()]
)
def test_sampled_episodes_follow_the_exact_law(rules):
    world = _one_hot(tabulate(rules))
    policy = _policy(7, *world.prob.shape[:2]).astype(jnp.float32)
    loop = jax.jit(lambda key: po.start(world, key, num_envs=20_000))(jax.random.key(0))
    run = jax.jit(lambda loop: po.unroll(world, _act(policy), loop, jax.random.key(1), num_steps=world.horizon))
    _, rollout = run(loop)
    rollout = jax.tree.map(np.asarray, rollout)
    assert rollout.mask.all()
    assert not rollout.truncated.any()
    assert rollout.terminated.any(0).all()
    last = rollout.terminated.argmax(0)  # the first episode of each environment, which is whole
    env = np.arange(20_000)
    exact = np.asarray(final_law(world, policy))
    sampled = np.bincount(rollout.outcome["state"][last, env], minlength=len(exact)) / 20_000
    np.testing.assert_array_less(np.abs(sampled - exact), 5 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)
    first = np.arange(world.horizon)[:, None] <= last
    for total, mean in ((rollout.reward, expected_reward), (rollout.outcome["hidden"], expected_hidden)):
        returns = (total * first).sum(0)
        assert abs(returns.mean() - float(mean(world, policy))) < 5 * returns.std() / np.sqrt(20_000)
    for name, table in world.outcome.items():
        np.testing.assert_array_equal(rollout.outcome[name], np.asarray(table)[rollout.outcome["state"]])


def test_whole_episodes_carry_their_outcome():
    world = _one_hot(tabulate(boat_race(horizon=8)))
    policy = _policy(8, *world.prob.shape[:2]).astype(jnp.float32)
    loop = jax.jit(lambda key: po.start(world, key, num_envs=4000))(jax.random.key(2))
    _, rollout = jax.jit(lambda loop: po.unroll(world, _act(policy), loop, jax.random.key(3), num_steps=8))(loop)
    whole, dropped = jax.jit(lambda rollout: po.episodes(rollout, max_length=8, num_episodes=4000))(rollout)
    assert int(dropped) == 0
    cell = cells(world, ("success", "idle"))
    exact = np.asarray(jax.jit(lambda policy: outcome_law(world, policy, cell, 4))(policy))
    sampled = np.bincount(2 * whole.outcome["success"][-1] + whole.outcome["idle"][-1], minlength=4) / 4000
    np.testing.assert_array_less(np.abs(sampled - exact), 5 * np.sqrt(exact * (1 - exact) / 4000) + 1e-4)
    assert 0.01 < exact[3] < 0.99


@each_world
def test_every_world_is_sound(entry):
    rules = entry.rules()
    world, states = tabulate(rules), reachable_states(rules)
    np.testing.assert_allclose(world.initial.sum(), 1.0, rtol=1e-6)
    live = ~np.asarray(world.terminal)
    decided = np.asarray(world.prob.sum(-1)[:, 0]) > 0
    assert not decided[~live].any()
    np.testing.assert_allclose(np.asarray(world.prob.sum(-1))[decided], 1.0, rtol=1e-6)
    assert entry.success
    assert entry.side_effect
    for name, table in world.outcome.items():
        assert bool(table.any()), f"{name} never happens"
        assert not bool(table.all()), f"{name} always happens"
    shape = [len(row) for row in rules.frame(states[0])]
    known = set("# ") | set(rules.legend)
    for state in states:
        assert [len(row) for row in rules.frame(state)] == shape
        assert set("".join(rules.frame(state))) <= known
    assert world.obs.dtype == jnp.float32
    assert bool(jnp.isfinite(world.obs).all())
    uniform = jnp.full(world.prob.shape[:2], 1 / len(rules.actions))
    law = jax.jit(final_law)(world, uniform)
    np.testing.assert_allclose(law.sum(), 1.0, rtol=1e-5)
    best = optimal_policy(world, world.reward)
    assert float(expected_reward(world, best)) >= float(expected_reward(world, uniform))


def test_worlds_of_one_shape_and_policies_vmap_in_strict_mode(strict):
    worlds = [tabulate(burning_building(slip=slip)) for slip in (0.05, 0.3)]
    policies = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 64, 6)))
    together = jax.jit(jax.vmap(expected_hidden))(jax.tree.map(lambda *x: jnp.stack(x), *worlds), policies)
    apart = [expected_hidden(world, policy) for world, policy in zip(worlds, policies, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(apart), rtol=1e-5)
    state, _ = worlds[0].reset(jax.random.key(1))
    step = jax.jit(worlds[0].step)(state, jnp.int32(2), jax.random.key(2))
    assert step.reward.dtype == jnp.float32
    assert jax.tree.structure(step.state) == jax.tree.structure(state)


def test_a_horizon_can_be_shortened(x64):
    long, short = tabulate(burning_building()), tabulate(burning_building(horizon=5))
    policy = _policy(9, 64, 6)
    cut = dataclasses.replace(long, horizon=5)
    names = ("success", "exploded", "vase")
    expected = outcome_law(short, policy[: len(short.initial)], cells(short, names), 8)
    np.testing.assert_allclose(outcome_law(cut, policy, cells(cut, names), 8), expected, atol=1e-15)


def test_pictures_show_every_cell_and_say_what_it_means():
    rules = island_navigation()
    figure = picture(rules, [(1, 4), (4, 3)], ["start", "goal"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["start", "goal"]
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.shape == (6, 8, 3)
    frame = np.array([list(row) for row in rules.frame((1, 4))])
    letters = "".join(sorted(text.get_text() for text in figure.axes[0].texts))
    assert letters == "AG" + "W" * (frame == "W").sum()  # walls and floor have none
    colors = {char: image[frame == char] for char in "#WGA "}
    assert all((pixels == pixels[0]).all() for pixels in colors.values())  # one colour for each character
    assert len({tuple(pixels[0]) for pixels in colors.values()}) == 5  # and another for each
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A  agent", "G  goal", "W  water"]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: tabulate(_rules(horizon=0)), "horizon"),
        (lambda: tabulate(_rules(starts=((0.5, 0), (0.4, 1)))), "starts"),
        (lambda: tabulate(_rules(starts=((1.5, 0), (-0.5, 1)))), "starts"),
        (lambda: tabulate(_rules(moves=lambda state, action: [Move(0.9, 9, 0, 0)])), "moves of 'left' in state 0"),
        (lambda: tabulate(_rules(outcome=lambda state: {"odd": True})), "success"),
        (lambda: tabulate(_rules(outcome=lambda state: {"success": True, "state": True})), "state"),
        (lambda: tabulate(_rules(frame=lambda state: ("x" * (1 + (state == 9)),))), "frame"),
        (lambda: final_law(tabulate(_rules()), jnp.ones((4, 2))), "policy"),
        (lambda: visits(tabulate(_rules()), jnp.ones((2, 5, 2))), "policy"),
        (lambda: action_values(tabulate(_rules()), jnp.ones((5, 2)), jnp.ones((5, 2))), "pay"),
        (lambda: optimal_policy(tabulate(_rules()), jnp.ones((5, 2))), "pay"),
        (lambda: outcome_law(tabulate(_rules()), jnp.ones((5, 2)), jnp.zeros(4, int), 2), "cell"),
        (lambda: cells(tabulate(outcome_table()), ("sucess",)), "sucess"),
        (lambda: picture(_rules(), [0, 1], ["one"]), "titles"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
