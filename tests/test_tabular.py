"""Tabular worlds against float64 recursions written as plain loops, and against sampled episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.envs import (
    TabularMDP,
    bandit,
    chain,
    enumerate_trajectories,
    expected_return,
    q_values,
    random_mdp,
    trajectory_log_prob,
    trajectory_prob,
    visitation,
)

GAMMAS = (1.0, 0.9)


def _policy(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


def _numpy(mdp):
    fields = (mdp.initial, mdp.transition, mdp.reward, mdp.terminal)
    return tuple(np.asarray(x, np.float64) for x in fields)


def _q_recursive(mdp, policy, gamma, h, s, a):
    """Q by the definition: one decision after the other, no table, no vectorisation."""
    _, transition, reward, terminal = _numpy(mdp)
    if terminal[s] or h == mdp.horizon:
        return 0.0
    total = reward[s, a]
    for after in range(len(terminal)):
        for action in range(reward.shape[1]):
            chance = transition[s, a, after] * policy[min(h + 1, mdp.horizon - 1), after, action]
            total += gamma * chance * _q_recursive(mdp, policy, gamma, h + 1, after, action)
    return total


def _return_recursive(mdp, policy, gamma):
    initial = _numpy(mdp)[0]
    states, actions = mdp.reward.shape
    return sum(
        initial[s] * policy[0, s, a] * _q_recursive(mdp, policy, gamma, 0, s, a)
        for s in range(states)
        for a in range(actions)
    )


@pytest.fixture
def world(x64):
    return random_mdp(jax.random.key(3), num_states=3, num_actions=2, horizon=3)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_q_values_are_those_of_the_definition(world, gamma):
    policy = _policy(0, 3, 3, 2)
    values = q_values(world, policy, gamma=gamma)
    assert values.q.dtype == jnp.float64
    for h, s, a in np.ndindex(3, 3, 2):
        expected = _q_recursive(world, np.asarray(policy), gamma, h, s, a)
        np.testing.assert_allclose(values.q[h, s, a], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(values.v, (np.asarray(policy) * np.asarray(values.q)).sum(-1), atol=1e-14)
    assert not np.asarray(values.q)[:, 2].any()  # the terminal state is worth nothing


@pytest.mark.parametrize("gamma", GAMMAS)
def test_expected_return_is_the_mean_over_all_trajectories(world, gamma):
    policy = _policy(1, 3, 2)
    trajectories = enumerate_trajectories(world)
    prob = np.asarray(trajectory_prob(trajectories, policy))
    returns = (np.asarray(trajectories.rewards) * gamma ** np.arange(3)).sum(1)
    np.testing.assert_allclose(prob.sum(), 1.0, rtol=0, atol=1e-14)
    result = float(expected_return(world, policy, gamma=gamma))
    np.testing.assert_allclose(result, prob @ returns, rtol=0, atol=1e-14)
    by_recursion = _return_recursive(world, np.broadcast_to(policy, (3, 3, 2)), gamma)
    np.testing.assert_allclose(result, by_recursion, rtol=0, atol=1e-14)


def test_a_stationary_policy_is_the_same_table_at_every_step(world):
    policy = _policy(2, 3, 2)
    repeated = jnp.broadcast_to(policy, (3, 3, 2))
    trajectories = enumerate_trajectories(world)
    assert float(expected_return(world, policy)) == float(expected_return(world, repeated))
    np.testing.assert_array_equal(visitation(world, policy), visitation(world, repeated))
    np.testing.assert_array_equal(trajectory_prob(trajectories, policy), trajectory_prob(trajectories, repeated))


def test_a_time_dependent_policy_is_read_at_the_right_step(world):
    policy = _policy(3, 3, 3, 2)
    trajectories = enumerate_trajectories(world)
    prob = np.asarray(trajectory_prob(trajectories, policy))
    mean = prob @ np.asarray(trajectories.rewards).sum(1)
    np.testing.assert_allclose(mean, _return_recursive(world, np.asarray(policy), 1.0), rtol=0, atol=1e-14)
    assert abs(mean - float(expected_return(world, policy[::-1]))) > 1e-3


@pytest.mark.parametrize("gamma", GAMMAS)
def test_visitation_counts_the_decisions_of_the_trajectories(world, gamma):
    policy = _policy(4, 3, 3, 2)
    trajectories = enumerate_trajectories(world)
    prob = np.asarray(trajectory_prob(trajectories, policy))
    expected = np.zeros((3, 3))
    for k, h in np.ndindex(*trajectories.mask.shape):
        if trajectories.mask[k, h]:
            expected[h, int(trajectories.states[k, h])] += gamma**h * prob[k]
    np.testing.assert_allclose(visitation(world, policy, gamma=gamma), expected, rtol=0, atol=1e-14)


def test_every_trajectory_occurs_once_and_obeys_the_world(world):
    trajectories = jax.tree.map(np.asarray, enumerate_trajectories(world))
    initial, transition, reward, terminal = _numpy(world)
    seen = set()
    for k in range(len(trajectories.dynamics)):
        length = int(trajectories.mask[k].sum())
        assert trajectories.mask[k, :length].all()
        states = [*trajectories.states[k, :length].tolist(), int(trajectories.final_state[k])]
        actions = trajectories.actions[k, :length].tolist()
        seen.add((tuple(states), tuple(actions)))
        assert length == 3 or terminal[states[-1]]
        assert not terminal[states[:-1]].any()
        prob = initial[states[0]]
        for t, action in enumerate(actions):
            prob *= transition[states[t], action, states[t + 1]]
            assert trajectories.rewards[k, t] == reward[states[t], action]
        np.testing.assert_allclose(trajectories.dynamics[k], prob, rtol=1e-14)
        assert not trajectories.rewards[k, length:].any()
    # From 2 live states: 1 decision ends in the terminal state (2 * 2), or goes on (2 * 2 * 2 ways), and so on.
    assert len(seen) == len(trajectories.dynamics) == 4 + 8 * 2 + 8 * 4 * 6


def test_log_prob_is_the_log_of_prob_and_minus_infinity_at_zero(world):
    policy = _policy(5, 3, 2).at[0].set(jnp.array([0.0, 1.0]))
    trajectories = enumerate_trajectories(world)
    prob = np.asarray(trajectory_prob(trajectories, policy))
    log_prob = np.asarray(trajectory_log_prob(trajectories, policy))
    assert (prob == 0).any()
    np.testing.assert_array_equal(np.isneginf(log_prob), prob == 0)
    np.testing.assert_allclose(np.exp(log_prob), prob, rtol=1e-13)


def test_gradient_of_the_return_is_that_of_finite_differences(world):
    policy = _policy(6, 3, 3, 2)
    gradient = np.asarray(jax.grad(lambda table: expected_return(world, table, gamma=0.9))(policy))
    table, step = np.asarray(policy), 1e-6
    for index in np.ndindex(*table.shape):
        change = np.zeros_like(table)
        change[index] = step
        up, down = (_return_recursive(world, table + sign * change, 0.9) for sign in (1, -1))
        np.testing.assert_allclose(gradient[index], (up - down) / (2 * step), rtol=0, atol=1e-8)


def test_gradient_of_prob_is_finite_at_a_deterministic_policy(world):
    trajectories = enumerate_trajectories(world)
    table = jnp.array([[0.0, 1.0]] * 3)
    gradient = jax.grad(lambda policy: (trajectory_prob(trajectories, policy) * trajectories.rewards.sum(1)).sum())
    exact = jax.grad(lambda policy: expected_return(world, policy))
    # Along the simplex: off it, a sum over trajectories and a dynamic programme extend the return differently.
    np.testing.assert_allclose(np.diff(gradient(table)), np.diff(exact(table)), rtol=0, atol=1e-13)
    assert np.abs(np.diff(exact(table))[:2]).min() > 0.1


@pytest.mark.slow
def test_functions_vmap_over_policies_and_work_in_strict_mode(strict):
    world = random_mdp(jax.random.key(0), num_states=4, num_actions=3, horizon=5)
    policies = jax.nn.softmax(jax.random.normal(jax.random.key(1), (6, 4, 3)))
    batched = jax.jit(jax.vmap(lambda policy: expected_return(world, policy, gamma=0.9)))(policies)
    single = [float(expected_return(world, policy, gamma=0.9)) for policy in policies]
    np.testing.assert_allclose(batched, single, rtol=1e-6)
    trajectories = enumerate_trajectories(chain(num_states=3, horizon=4, slip=0.1))
    prob = trajectory_prob(trajectories, jnp.full((4, 3, 2), 0.5))
    np.testing.assert_allclose(prob.sum(), 1.0, rtol=1e-6)
    assert visitation(world, policies[0]).shape == (5, 4)


def _episodes(mdp, policy, key, count):
    """Sampled episodes: states, returns and lengths, through `reset` and `step` alone."""

    def episode(key):
        start, key = jax.random.split(key)
        state, obs = mdp.reset(start)

        def decide(carry, key):
            state, obs, alive = carry
            choose, move = jax.random.split(key)
            action = jax.random.categorical(choose, jnp.log(obs @ policy))
            after = mdp.step(state, action, move)
            row = (obs.argmax(), after.reward * alive, alive, after.truncated, after.outcome["state"])
            return (after.state, after.obs, alive & ~after.terminated), row

        carry = (state, obs, jnp.bool_(True))
        (_, _, alive), rows = jax.lax.scan(decide, carry, jax.random.split(key, mdp.horizon))
        return alive, rows

    return jax.jit(jax.vmap(episode))(jax.random.split(key, count))


def test_sampled_episodes_follow_the_exact_law():
    mdp = random_mdp(jax.random.key(7), num_states=4, num_actions=2, horizon=4)
    policy = _policy(8, 4, 2).astype(jnp.float32)
    count = 40_000
    running, (states, rewards, alive, truncated, _) = _episodes(mdp, policy, jax.random.key(1), count)
    assert not running.any()  # the horizon ends every episode, as a termination
    assert not truncated.any()
    returns = np.asarray(rewards, np.float64).sum(1)
    error = returns.std() / np.sqrt(count)
    assert abs(returns.mean() - float(expected_return(mdp, policy))) < 5 * error
    exact = np.asarray(visitation(mdp, policy))
    for h in range(4):
        counts = np.bincount(np.asarray(states)[np.asarray(alive)[:, h], h], minlength=4) / count
        np.testing.assert_allclose(counts, exact[h], rtol=0, atol=5 * 0.5 / np.sqrt(count))


def test_step_pays_moves_and_ends():
    mdp = chain(num_states=3, horizon=3)
    assert (mdp.obs_shape, mdp.action_space.num) == ((3,), 2)
    state, obs = mdp.reset(jax.random.key(0))
    np.testing.assert_array_equal(obs, [1, 0, 0])
    one = mdp.step(state, jnp.int32(1), jax.random.key(1))
    assert (float(one.reward), bool(one.terminated), bool(one.truncated)) == (0.0, False, False)
    np.testing.assert_array_equal(one.obs, [0, 1, 0])
    goal = mdp.step(one.state, jnp.int32(1), jax.random.key(1))
    assert (float(goal.reward), bool(goal.terminated), int(goal.outcome["state"])) == (1.0, True, 2)
    back = mdp.step(one.state, jnp.int32(0), jax.random.key(1))
    assert (float(back.reward), bool(back.terminated), int(back.outcome["state"])) == (0.0, False, 0)
    late = mdp.step(back.state, jnp.int32(0), jax.random.key(1))  # the third decision is the last
    assert (bool(late.terminated), bool(late.truncated)) == (True, False)
    assert goal.obs.dtype == goal.reward.dtype == jnp.float32


def test_chain_reward_is_the_chance_of_the_goal():
    mdp = chain(num_states=4, horizon=2, slip=0.25)
    np.testing.assert_allclose(mdp.reward, [[0, 0], [0, 0], [0.25, 0.75], [0, 0]])
    np.testing.assert_allclose(mdp.transition.sum(-1), 1.0)
    np.testing.assert_allclose(mdp.transition[0, 0], [0.75, 0.25, 0, 0])


def test_bandit_is_one_decision():
    mdp = bandit([1.0, -2.0, 4.0])
    policy = jnp.array([[0.5, 0.25, 0.25]])
    assert float(expected_return(mdp, policy, gamma=0.1)) == 1.0
    trajectories = enumerate_trajectories(mdp)
    np.testing.assert_array_equal(trajectories.rewards[:, 0], [1.0, -2.0, 4.0])
    assert bool(mdp.step(*_start(mdp), jax.random.key(0)).terminated)


def _start(mdp):
    return mdp.reset(jax.random.key(0))[0], jnp.int32(0)


def test_a_terminal_first_state_is_a_trajectory_without_decisions():
    mdp = chain(num_states=2, horizon=2)
    mdp = TabularMDP(
        initial=jnp.array([0.75, 0.25]),
        transition=mdp.transition,
        reward=mdp.reward,
        terminal=mdp.terminal,
        horizon=2,
    )
    policy = jnp.array([[0.5, 0.5], [0.5, 0.5]])
    trajectories = enumerate_trajectories(mdp)
    empty = ~np.asarray(trajectories.mask).any(1)
    assert empty.sum() == 1
    assert int(trajectories.final_state[empty][0]) == 1
    prob = trajectory_prob(trajectories, policy)
    assert float(prob[empty][0]) == 0.25
    assert float(prob.sum()) == 1.0
    assert float(expected_return(mdp, policy)) == 0.75 * 0.75


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: chain(num_states=1, horizon=2), "num_states"),
        (lambda: chain(num_states=3, horizon=0), "horizon"),
        (lambda: chain(num_states=3, horizon=1, slip=1.5), "slip"),
        (lambda: bandit(2.0), "reward"),
        (lambda: random_mdp(jax.random.key(0), num_states=2, num_actions=0, horizon=1), "num_actions"),
        (lambda: q_values(chain(num_states=3, horizon=2), jnp.ones((2, 3))), "policy"),
        (lambda: visitation(chain(num_states=3, horizon=2), jnp.ones((3, 3, 2))), "policy"),
        (lambda: trajectory_prob(enumerate_trajectories(bandit([1.0])), jnp.ones((2, 1, 1))), "policy"),
        (lambda: enumerate_trajectories(chain(num_states=5, horizon=6, slip=0.5), limit=50), "limit"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
