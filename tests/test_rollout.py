"""The environment loop: true final observations, fresh restarts, broken environments, whole episodes."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.envs import Box, Discrete, EnvStep, ObsReward, TimeLimit
from polopt_jax.rollout import start


def uniform(num_actions):
    def act(obs):
        logits = jnp.zeros((obs.shape[0], num_actions))
        return po.Outputs(policy=po.Categorical(logits=logits), value=obs[..., 0])

    return act


@dataclass(frozen=True)
class Walk:
    """obs = position, one step of N(action, 1) each; ends beyond 4 (terminated) or after `limit` steps (truncated).

    An environment that started above `breaks_above` goes NaN at its third step.
    """

    limit: int = 6
    breaks_above: float = jnp.inf

    obs_shape = (1,)
    action_space = Box(1)

    def reset(self, key):
        position = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return (position, jnp.int32(0), position[0] > self.breaks_above), position

    def step(self, state, action, key):
        position, time, fragile = state
        position = position + 0.5 * action + jax.random.normal(key, (1,))
        position = jnp.where(fragile & (time == 2), jnp.nan, position)
        terminated = jnp.abs(position[0]) > 4
        truncated = ~terminated & (time + 1 >= self.limit)
        return EnvStep(
            state=(position, time + 1, fragile),
            obs=position,
            reward=position[0],
            terminated=terminated,
            truncated=truncated,
            outcome={"far": jnp.abs(position[0]), "right": position[0] > 0},
        )


def gaussian(obs):
    return po.Outputs(policy=po.DiagGaussian(mean=-obs, log_std=jnp.zeros_like(obs)), value=obs[..., 0])


def outward(obs):
    """Leaves the interval soon, so that episodes have many lengths."""
    return po.Outputs(policy=po.DiagGaussian(mean=2 * obs, log_std=jnp.zeros_like(obs)), value=obs[..., 0])


def run(env, act, num_envs=64, num_steps=24, seed=0):
    loop = start(env, jax.random.key(seed), num_envs=num_envs)
    unroll = jax.jit(lambda loop, key: po.unroll(env, act, loop, key, num_steps=num_steps))
    return unroll(loop, jax.random.key(seed + 1))


def test_bootstrap_values_are_those_of_the_true_final_observation():
    """V(s) = the observation: next_value must be the observation after the step, not the one after the reset; 0 after
    an end."""
    loop, rollout = run(Walk(), gaussian)
    done = np.asarray(rollout.terminated | rollout.truncated)
    assert done.any(0).all()
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    np.testing.assert_array_equal(rollout.next_value, np.where(rollout.terminated, 0, rollout.next_obs[..., 0]))
    continues = ~done[:-1]
    np.testing.assert_array_equal(np.asarray(rollout.obs)[1:][continues], np.asarray(rollout.next_obs)[:-1][continues])
    ended = done[:-1]
    assert (np.asarray(rollout.obs)[1:][ended] != np.asarray(rollout.next_obs)[:-1][ended]).all()
    assert (np.abs(np.asarray(rollout.next_obs)[np.asarray(rollout.terminated)]) > 4).all()
    np.testing.assert_allclose(rollout.reward, rollout.next_obs[..., 0])
    np.testing.assert_allclose(rollout.log_prob, gaussian(rollout.obs).policy.log_prob(rollout.action), rtol=1e-5)


def test_each_environment_may_have_a_model_of_its_own():
    """`act` is only ever sent [B, ...], row b of which is environment b."""
    own = jnp.arange(64.0)

    def act(obs):
        return replace(gaussian(obs), value=obs[..., 0] + own)

    _, rollout = run(Walk(), act)
    assert rollout.truncated.any()
    np.testing.assert_array_equal(rollout.value, rollout.obs[..., 0] + own)
    expected = np.where(rollout.terminated, 0, rollout.next_obs[..., 0] + own)
    np.testing.assert_array_equal(rollout.next_value, expected)


def test_episodes_restart_from_fresh_states():
    _, rollout = run(ObsReward(), uniform(2), num_envs=8, num_steps=64)
    assert len(np.unique(np.asarray(rollout.obs)[:, 0])) >= 2
    _, rollout = run(Walk(limit=2), gaussian, num_envs=16, num_steps=128)
    starts = np.asarray(rollout.obs)[1:][np.asarray(rollout.terminated | rollout.truncated)[:-1]]
    assert len(np.unique(starts)) >= 0.9 * 16 * 4, "a new pool of 16 states at least every 32 steps"
    assert np.abs(starts).max() <= 1


def test_statistics_count_whole_episodes():
    loop, rollout = run(TimeLimit(), uniform(1), num_envs=3, num_steps=12)
    assert float(loop.stats.finished) == 6
    assert float(loop.stats.return_sum) == 30
    assert float(loop.stats.length_sum) == 30
    np.testing.assert_array_equal(loop.episode_length, [2, 2, 2])


def test_a_broken_environment_is_restarted_counted_and_touches_no_other():
    loop, rollout = run(Walk(breaks_above=0.8), gaussian)
    _, sound = run(Walk(), gaussian)
    broken = ~np.asarray(rollout.mask)
    assert float(loop.stats.nonfinite) == broken.sum() > 3
    for leaf in jax.tree.leaves((loop, rollout)):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    assert np.asarray(rollout.truncated)[broken].all()
    assert (np.asarray(rollout.reward)[broken] == 0).all()
    before = np.roll(broken, -1, axis=0)
    before[-1] = False
    assert np.asarray(rollout.truncated | rollout.terminated)[before].all()
    untouched = ~broken.any(0)
    assert 0 < untouched.sum() < 64
    for ours, theirs in zip(jax.tree.leaves(rollout), jax.tree.leaves(sound), strict=True):
        fragile_later = np.asarray(ours)[:, untouched] == np.asarray(theirs)[:, untouched]
        assert fragile_later[:6].all(), "until the first restart the rows are the very same"


def test_a_break_is_a_cut_not_an_end():
    """The step before the break bootstraps from the state that broke; the broken step has no weight at all."""
    _, rollout = run(Walk(breaks_above=0.8), gaussian)
    advantage, target = po.gae(rollout, gamma=0.9, lambda_=0.8)
    t, b = np.argwhere(~np.asarray(rollout.mask)[1:])[0]
    expected = rollout.reward[t, b] + 0.9 * rollout.next_value[t, b] - rollout.value[t, b]
    np.testing.assert_allclose(advantage[t, b], expected, rtol=1e-5)
    assert rollout.next_value[t, b] == rollout.obs[t + 1, b, 0]


def test_to_batch_masks_and_replaces_what_is_not_finite():
    _, rollout = run(Walk(), gaussian, num_envs=4, num_steps=8)
    rollout = replace(rollout, obs=rollout.obs.at[2, 1].set(jnp.nan))
    advantage = jnp.ones((8, 4)).at[5, 3].set(jnp.inf)
    batch = po.to_batch(rollout, advantage=advantage)
    assert batch.mask.shape == (4, 8)
    assert np.argwhere(~np.asarray(batch.mask)).tolist() == [[1, 2], [3, 5]]
    assert jnp.isfinite(batch.obs).all()
    np.testing.assert_array_equal(batch.action[2], rollout.action[:, 2])
    with pytest.raises(ValueError, match="advantage must have the rollout's shape"):
        po.to_batch(rollout, advantage=advantage.T)


@pytest.mark.parametrize("seed", range(5))
def test_episodes_are_cut_whole(seed):
    loop, rollout = run(Walk(limit=9), outward, num_envs=6, num_steps=30, seed=seed)
    whole, dropped = jax.jit(lambda r: po.episodes(r, max_length=7, num_episodes=12))(rollout)
    done = np.asarray(rollout.terminated | rollout.truncated)
    expected, lost = [], 0
    for b in range(6):
        begin = 0
        for t in range(30):
            if done[t, b]:
                part = np.asarray(rollout.reward)[begin : t + 1, b]
                expected += [part] if len(part) <= 7 else []
                lost += len(part) > 7
                begin = t + 1
        lost += begin < 30
    kept = expected[:12]
    found = [np.asarray(whole.reward)[: int(n), i] for i, n in enumerate(np.asarray(whole.mask).sum(0)) if n > 0]
    assert len(found) == len(kept) > 0
    for f, e in zip(found, kept, strict=True):
        np.testing.assert_array_equal(f, e)
    assert int(dropped) == lost + len(expected) - len(kept)
    lengths = np.asarray(whole.mask).sum(0)
    assert (np.asarray(whole.mask) == (np.arange(7)[:, None] < lengths)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start(Walk(), jax.random.key(0), num_envs=0), "num_envs"),
        (lambda: run(Walk(), gaussian, num_steps=0), "num_steps"),
        (lambda: po.episodes(run(Walk(), gaussian)[1], max_length=0, num_episodes=1), "max_length"),
    ],
)
def test_bad_sizes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_outcomes_keep_their_dtype_also_where_an_environment_breaks():
    """A flag stays a flag: what counts episodes with a side effect asks for booleans."""
    env = Walk(breaks_above=0.0)
    _, rollout = po.unroll(env, gaussian, start(env, jax.random.key(0), num_envs=16), jax.random.key(1), num_steps=6)
    broke = ~np.asarray(rollout.mask)
    assert broke.any()
    assert rollout.outcome["right"].dtype == jnp.bool_
    assert not np.asarray(rollout.outcome["right"])[broke].any()
    after = np.asarray(rollout.next_obs)[..., 0] > 0
    np.testing.assert_array_equal(np.asarray(rollout.outcome["right"])[~broke], after[~broke])


def test_what_comes_after_can_be_differentiated_backwards_too():
    """What learns through the dynamics differentiates the values it bootstraps from; episodes are cut on the way."""
    env = TimeLimit(limit=2)
    loop = po.start(env, jax.random.key(0), num_envs=2)

    def total(weight):
        def act(obs):
            logits = jnp.zeros((*obs.shape[:-1], 1))
            return po.Outputs(policy=po.Categorical(logits=logits), value=jnp.full(obs.shape[:-1], weight))

        return po.unroll(env, act, loop, jax.random.key(1), num_steps=5)[1].next_value.sum()

    assert total(1.0) == 10
    assert jax.grad(total)(2.0) == 10


@pytest.mark.parametrize("space", [Box, Discrete])
@pytest.mark.parametrize("number", [0, -1, 2.0, (2, 3), "2", None])
def test_a_space_of_no_whole_number_is_refused_where_it_is_made(space, number):
    with pytest.raises(ValueError, match=rf"{space.__name__}: \w+ must be a whole number of at least 1.*; it is "):
        space(number)
    assert space(np.int64(3)) == space(3)


def test_a_critic_that_keeps_an_axis_is_named():
    """[B, 1] against [B] would be broadcast to [B, B]."""
    act = lambda obs: po.Outputs(policy=gaussian(obs).policy, value=obs)  # noqa: E731
    with pytest.raises(ValueError, match=r"unroll: outputs.value must have shape \(5,\).*; it has \(5, 1\)"):
        run(Walk(), act, num_envs=5, num_steps=5)


class Counter:
    """Its state is its observation, or both are Python's numbers."""

    obs_shape, action_space = (), Discrete(2)

    def __init__(self, weak):
        self.weak = weak

    def reset(self, key):
        x = 0.0 if self.weak else jax.random.normal(key, ())
        return x, x

    def step(self, state, action, key):
        new = jnp.float32(state + 1)
        return EnvStep(state=new, obs=new, reward=new, terminated=new > 4, truncated=jnp.bool_(False))


@pytest.mark.parametrize("weak", [False, True])
def test_a_start_can_be_donated_and_is_of_the_types_that_steps_keep(weak):
    env, compiled = Counter(weak), []

    def act(obs):
        compiled.append(obs.shape)
        return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape, 2))))

    unroll = jax.jit(lambda loop, key: po.unroll(env, act, loop, key, num_steps=3)[0], donate_argnums=0)
    loop = unroll(start(env, jax.random.key(0), num_envs=4), jax.random.key(1))
    traces = len(compiled)
    loop = unroll(loop, jax.random.key(2))
    assert loop.episode_length.shape == (4,)
    assert len(compiled) == traces, "nothing is compiled again"


def test_steps_that_are_left_over_have_randomness_of_their_own():
    """37 steps are 32 and 5 more."""
    env = TimeLimit(limit=1000)
    loop = start(env, jax.random.key(0), num_envs=8)
    _, rollout = jax.jit(lambda loop: po.unroll(Choices(env), uniform(7), loop, jax.random.key(1), num_steps=37))(loop)
    assert (rollout.action[:5] == rollout.action[32:]).mean() < 0.5


class Choices:
    """The same environment, where there is something to choose."""

    obs_shape, action_space = (1,), Discrete(7)

    def __init__(self, env):
        self.reset, self.step = env.reset, env.step


def test_what_follows_the_last_end_and_nobody_decided_is_no_episode():
    done = jnp.array([[False, False], [True, True], [False, False]])
    mask = jnp.array([[True, True], [True, True], [False, True]])  # the first column is over
    zeros, none = jnp.zeros((3, 2)), jnp.zeros((3, 2), bool)
    rollout = po.Rollout(
        obs=zeros,
        action=zeros,
        log_prob=zeros,
        reward=zeros,
        terminated=done,
        truncated=none,
        next_obs=zeros,
        mask=mask,
    )
    whole, dropped = po.episodes(rollout, max_length=3, num_episodes=4)
    assert whole.mask.sum(0).tolist() == [2, 2, 0, 0]
    assert int(dropped) == 1
