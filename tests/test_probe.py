"""Probes: what they promise is recomputed by playing them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.envs import (
    ActionReward,
    Box,
    ConstantReward,
    DelayedReward,
    ObsActionReward,
    ObsReward,
    Quadratic,
    TimeLimit,
    chain,
)

PROBES = [ConstantReward(), ObsReward(), DelayedReward(), ActionReward(), ObsActionReward(), TimeLimit(), Quadratic()]
GAMMA = 0.8


def _names(env):
    return type(env).__name__


def _action(env, obs):
    if hasattr(env, "optimal_action"):
        return env.optimal_action(obs)
    return jnp.int32(0)


def _play(env, key, act):
    """One episode as a list of (obs, EnvStep)."""
    state, obs = env.reset(key)
    rows = []
    for t in range(50):
        after = env.step(state, act(obs), jax.random.fold_in(key, t))
        rows.append((obs, after))
        state, obs = after.state, after.obs
        if after.terminated or after.truncated:
            return rows
    raise AssertionError("the episode does not end")


@pytest.mark.parametrize("env", PROBES, ids=_names)
@pytest.mark.parametrize("seed", range(4))
def test_value_is_the_discounted_return_of_the_best_policy(env, seed):
    rows = _play(env, jax.random.key(seed), lambda obs: _action(env, obs))
    last_obs, last = rows[-1]
    value = float(env.value(last.obs, gamma=GAMMA)) if last.truncated else 0.0
    for obs, after in reversed(rows):
        value = float(after.reward) + GAMMA * value
        np.testing.assert_allclose(float(env.value(obs, gamma=GAMMA)), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("env", PROBES, ids=_names)
def test_the_best_action_is_at_least_as_good_as_every_other(env):
    if isinstance(env.action_space, Box):
        actions = [jnp.full(1, x) for x in np.linspace(-1, 1, 41)]
    else:
        actions = [jnp.int32(a) for a in range(env.action_space.num)]
    state, obs = env.reset(jax.random.key(0))
    rewards = [float(env.step(state, action, jax.random.key(1)).reward) for action in actions]
    best = float(env.step(state, _action(env, obs), jax.random.key(1)).reward)
    np.testing.assert_allclose(best, max(rewards), atol=1e-6)
    if hasattr(env, "optimal_action"):
        assert min(rewards) < best - 0.2  # the action matters
    else:
        assert min(rewards) == max(rewards)


@pytest.mark.parametrize("env", PROBES, ids=_names)
def test_protocol_shapes_dtypes_and_structure(env, strict):
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    after = jax.jit(env.step)(state, _action(env, obs), jax.random.key(1))
    spec = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after.state) == spec
    for array, shape, dtype in (
        (obs, env.obs_shape, jnp.float32),
        (after.obs, env.obs_shape, jnp.float32),
        (after.reward, (), jnp.float32),
        (after.terminated, (), jnp.bool_),
        (after.truncated, (), jnp.bool_),
    ):
        assert (array.shape, array.dtype) == (shape, dtype)
    assert not (after.terminated and after.truncated)
    assert env.value(jnp.zeros((5, 3, 1)), gamma=0.5).shape == (5, 3)
    assert hash(env) == hash(type(env)())  # usable as a static argument


def test_protocol_dtypes_do_not_widen_under_x64(x64):
    for env in PROBES:
        state, obs = env.reset(jax.random.key(0))
        after = env.step(state, _action(env, obs), jax.random.key(1))
        assert {obs.dtype, after.obs.dtype, after.reward.dtype} == {jnp.dtype("float32")}


def test_both_observations_occur():
    for env in (ObsReward(), ObsActionReward()):
        obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 200))[1]
        assert set(np.asarray(obs).ravel().tolist()) == {-1.0, 1.0}
        assert abs(float(obs.mean())) < 0.3


def test_time_limit_is_five_steps_and_no_termination():
    rows = _play(TimeLimit(), jax.random.key(0), lambda obs: jnp.int32(0))
    assert [bool(after.truncated) for _, after in rows] == [False, False, False, False, True]
    assert not any(bool(after.terminated) for _, after in rows)
    as_if_terminated = sum(GAMMA**t * float(after.reward) for t, (_, after) in enumerate(rows))
    assert as_if_terminated < float(TimeLimit().value(jnp.zeros(1), gamma=GAMMA)) - 1.0


def test_the_last_observation_of_the_delayed_probe_differs_from_a_first_one():
    rows = _play(DelayedReward(), jax.random.key(0), lambda obs: jnp.int32(0))
    assert [float(after.obs[0]) for _, after in rows] == [1.0, 2.0]


def test_quadratic_clips_its_action():
    env = Quadratic(target=-0.25)
    state, _ = env.reset(jax.random.key(0))
    rewards = [float(env.step(state, jnp.full(1, a), jax.random.key(0)).reward) for a in (1.0, 7.0, -0.25)]
    np.testing.assert_allclose(rewards, [-(1.25**2), -(1.25**2), 0.0], rtol=1e-6)


def test_probes_and_tables_offer_the_same_methods():
    for env in [*PROBES, chain(num_states=2, horizon=1)]:
        assert list(inspect.signature(env.reset).parameters) == ["key"]
        assert list(inspect.signature(env.step).parameters) == ["state", "action", "key"]
