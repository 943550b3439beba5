"""Restarts: fresh states whatever the numbers of environments and steps, no key used twice, counts that do not wrap."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.envs import Box, EnvStep, TimeLimit
from polopt_jax.restarts import LONGEST_LIFE, draw_pool, pool_life, read_pool


@dataclass(frozen=True)
class Short:
    """Episodes of `limit` steps; the observation is the number that the episode began with, drawn from [0, 1)."""

    limit: int = 1
    obs_shape = (1,)
    action_space = Box(1)

    def reset(self, key):
        start = jax.random.uniform(key, (1,))
        return (start, jnp.int32(0)), start

    def step(self, state, action, key):
        start, time = state
        return EnvStep(
            state=(start, time + 1),
            obs=start,
            reward=start[0],
            terminated=jnp.bool_(False),
            truncated=time + 1 >= self.limit,
            outcome={},
        )


def still(obs):
    return po.Outputs(policy=po.DiagGaussian(mean=jnp.zeros_like(obs), log_std=jnp.zeros_like(obs)), value=obs[..., 0])


def either(obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))), value=obs[..., 0])


def run(env, num_envs, num_steps, *, act=still, seed=0):
    loop = jax.jit(lambda key: po.start(env, key, num_envs=num_envs))(jax.random.key(seed))
    unroll = jax.jit(lambda loop, key: po.unroll(env, act, loop, key, num_steps=num_steps))
    return unroll(loop, jax.random.key(seed + 1))


def states_of_a_group(num_envs, num_steps):
    """As many as environments, but 64 in the whole pool, or as many as steps if those are fewer."""
    groups = int(np.gcd(8, num_envs))
    return max(num_envs // groups, min(num_steps, 64 // groups))


# --- pools --------------------------------------------------------------------------------------------------------


def test_pools_live_sixteen_to_thirty_two_steps():
    for num_steps in range(1, 300):
        life = pool_life(num_steps)
        assert life == num_steps if num_steps <= LONGEST_LIFE else 16 <= life <= LONGEST_LIFE
        if num_steps > LONGEST_LIFE and num_steps % life:
            assert life == LONGEST_LIFE, "a shorter last pool only where no divisor serves"
    assert [pool_life(n) for n in (37, 41, 48, 64, 67, 100, 1000)] == [32, 32, 24, 32, 32, 25, 25]


@pytest.mark.parametrize("num_envs", [1, 2, 7, 8, 12, 64, 512])
@pytest.mark.parametrize("num_steps", [1, 16, 32])
def test_an_environment_reads_all_states_before_any_again_and_groups_share_none(num_envs, num_steps):
    pool = jax.jit(lambda key: draw_pool(Short(), key, num_envs=num_envs, num_steps=num_steps))(jax.random.key(0))
    read = jax.jit(jax.vmap(lambda offset: read_pool(pool, offset, num_envs=num_envs)[1]))(pool.offsets)
    read = np.asarray(read)[..., 0]
    assert read.shape == (num_steps, num_envs)
    groups = np.gcd(8, num_envs)
    for environment in read.T:
        assert len(set(environment)) == min(num_steps, states_of_a_group(num_envs, num_steps))
    for step in read:
        assert len(set(step)) == num_envs
    seen = [set(read[:, rows].ravel()) for rows in np.split(np.arange(num_envs), groups)]
    assert sum(map(len, seen)) == len(set().union(*seen))
    drawn = pool.states[1].shape[0] * (pool.states[1].shape[1] - num_envs // groups)
    assert drawn == groups * states_of_a_group(num_envs, num_steps)
    if num_envs >= 64:
        assert drawn == num_envs, "one reset per environment and pool"


@pytest.mark.parametrize("num_envs", [1, 4, 8, 64])
@pytest.mark.parametrize("length", [1, 2, 4, 8, 16])
def test_episodes_of_one_length_do_not_begin_alike_each_time(num_envs, length):
    """Their restarts are at every so manieth step, of which none should read what the one before read."""
    pool = draw_pool(Short(), jax.random.key(0), num_envs=num_envs, num_steps=32)
    offsets = np.asarray(pool.offsets)[::length]
    assert (np.diff(offsets) != 0).all()


# --- rollouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_envs", "num_steps"), [(1, 32), (1, 70), (3, 37), (8, 41), (64, 67), (16, 1)])
def test_every_restart_is_fresh(num_envs, num_steps):
    """Episodes of one step, the hardest case: an environment meets as many starts as its group has in every pool, and
    one start twice only after all others. One environment alone meets no start twice.

    Starts are float32 in [0, 1): two of the 70 that an environment sees are equal by chance once in 5000 runs.
    """
    _, rollout = run(Short(), num_envs, num_steps)
    starts = np.asarray(rollout.obs)[..., 0]
    assert starts.shape == (num_steps, num_envs)
    life = pool_life(num_steps)
    lives = [min(life, num_steps - begin) for begin in range(0, num_steps, life)]
    # The first observation is that of `start`; the reading of a pool's last step is seen in the next pool's life.
    expected = sum(min(steps, states_of_a_group(num_envs, steps)) for steps in lives)
    for environment in starts.T:
        assert expected <= len(np.unique(environment)) <= expected + 1
        if num_envs == 1:
            assert len(np.unique(environment)) == num_steps
    for step in starts:
        assert len(np.unique(step)) == num_envs


@pytest.mark.parametrize("num_steps", [37, 41, 64, 67, 70])
def test_a_pool_serves_many_steps_whatever_their_number(num_steps):
    """Every state that environments can restart from is seen: 64 environments restart at every step, so a pool of 64
    states for 16 to 32 steps shows 64 different ones; a pool for every step would show 64 per step."""
    _, rollout = run(Short(), 64, num_steps)
    starts = np.asarray(rollout.obs)[1:, :, 0]
    pools = -(-num_steps // pool_life(num_steps))
    assert 0.9 * 64 * pools <= len(np.unique(starts)) <= 64 * pools


@pytest.mark.parametrize("num_steps", [31, 37, 64, 67])
def test_a_rollout_is_whole_whatever_the_number_of_steps(num_steps):
    """Episodes run on across pools; reward, lengths and bootstrap values are those of a loop by hand."""
    loop, rollout = run(Short(limit=5), 6, num_steps)
    time = np.arange(num_steps)
    np.testing.assert_array_equal(rollout.truncated, np.tile(time % 5 == 4, (6, 1)).T)
    obs = np.asarray(rollout.obs)[..., 0]
    for first in range(0, num_steps - 5, 5):
        np.testing.assert_array_equal(obs[first : first + 5], np.tile(obs[first], (5, 1)))
        assert (obs[first] != obs[first + 5]).all()
    np.testing.assert_array_equal(rollout.next_value, obs)
    np.testing.assert_array_equal(loop.episode_length, np.full(6, num_steps % 5))
    assert float(loop.stats.finished) == 6 * (num_steps // 5)
    finished = num_steps // 5 * 5
    np.testing.assert_allclose(loop.stats.return_sum, np.asarray(rollout.reward)[:finished].sum(), rtol=1e-5)
    assert loop.stats.finished.shape == ()


def test_episodes_longer_than_any_small_counter():
    """Limits above 127 and 255; in the state, in the loop's own count, and in the sum of lengths."""
    loop, rollout = run(TimeLimit(limit=200), 2, 450, act=either)
    ends = np.flatnonzero(np.asarray(rollout.truncated)[:, 0])
    assert ends.tolist() == [199, 399]
    assert float(loop.stats.length_sum) == 800
    assert float(loop.stats.return_sum) == 800
    assert np.asarray(loop.episode_length).tolist() == [50, 50]
    loop, rollout = run(TimeLimit(limit=300), 1, 299, act=either)
    assert not rollout.truncated.any()
    assert np.asarray(loop.episode_length).tolist() == [299]


# --- keys ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyPolicy:
    """A policy whose action is the key that it was sampled with, as data."""

    obs: jax.Array

    @property
    def batch_shape(self):
        return self.obs.shape[:-1]

    def sample(self, *, seed):
        return jnp.broadcast_to(jax.random.key_data(seed), (*self.batch_shape, 2))

    def squash(self, action):
        return jnp.zeros((*self.batch_shape, 1))

    def log_prob(self, action):
        return jnp.zeros(self.batch_shape)


@dataclass(frozen=True)
class KeyEnv:
    """Ends at every step; the observation is the key of the reset, the outcome that of the step, as data."""

    obs_shape = (2,)
    action_space = Box(1)

    def reset(self, key):
        return jax.random.key_data(key), jax.random.key_data(key)

    def step(self, state, action, key):
        return EnvStep(
            state=state,
            obs=state,
            reward=jnp.float32(0),
            terminated=jnp.bool_(True),
            truncated=jnp.bool_(False),
            outcome=dict(zip(("high", "low"), jax.random.key_data(key), strict=True)),
        )


def children(keys, number):
    """What the given keys, as data `[n, 2]`, would split into: `[n * number, 2]`."""
    split = jax.vmap(lambda key: jax.random.split(jax.random.wrap_key_data(key), number))(jnp.asarray(keys, jnp.uint32))
    return np.asarray(jax.random.key_data(split)).reshape(-1, 2)


def as_set(keys):
    return set(map(tuple, np.asarray(keys).reshape(-1, 2).tolist()))


def test_no_key_has_two_uses():
    """The keys of all resets, actions and steps of a rollout are different ones, and none is made from another."""
    act = lambda obs: po.Outputs(policy=KeyPolicy(obs))  # noqa: E731
    num_envs, num_steps = 4, 40
    _, rollout = run(KeyEnv(), num_envs, num_steps, act=act)
    resets = as_set(rollout.obs[1:])
    steps = as_set(jnp.stack([rollout.outcome["high"], rollout.outcome["low"]], axis=-1))
    actions = as_set(np.asarray(rollout.action)[:, 0])
    # 4 groups of one environment with 16 states each: pools of 64 for the first 20 steps and for the last 20.
    assert (len(resets), len(steps), len(actions)) == (2 * 64, num_steps * num_envs, num_steps)
    used = resets | steps | actions
    assert len(used) == len(resets) + len(steps) + len(actions)
    for number in (2, num_envs, num_steps):
        assert not used & as_set(children(sorted(used), number))


def test_the_loop_reuses_no_key():
    with jax.debug_key_reuse(True):
        run(Short(), 4, 40)
