"""The gait of the half-cheetah, read off its observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.envs import brax_env
from polopt_jax.worlds import halfcheetah_outcome


def test_features_are_means_of_the_real_steps():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(6, 3, 17)) * 3
    mask = np.ones((6, 3), bool)
    mask[4:, 0] = False
    mask[:, 2] = False
    obs[~mask] = np.nan
    flags, zeros = jnp.zeros((6, 3), bool), jnp.zeros((6, 3))
    rollout = po.Rollout(
        obs=jnp.zeros((6, 3, 17)),
        action=zeros,
        log_prob=zeros,
        reward=zeros,
        terminated=flags,
        truncated=flags,
        next_obs=jnp.asarray(obs),
        mask=jnp.asarray(mask),
    )
    found = po.per_episode(halfcheetah_outcome, rollout)
    for i, length in enumerate((4, 6)):
        np.testing.assert_allclose(found["speed"][i], obs[:length, i, 8].mean(), rtol=1e-5)
        np.testing.assert_allclose(found["upside_down"][i], (np.cos(obs[:length, i, 1]) < 0).mean(), rtol=1e-6)
    assert float(found["speed"][2]) == float(found["upside_down"][2]) == 0


def test_other_observations_are_refused():
    flags, zeros = jnp.zeros(2, bool), jnp.zeros(2)
    episode = po.Rollout(
        obs=zeros,
        action=zeros,
        log_prob=zeros,
        reward=zeros,
        terminated=flags,
        truncated=flags,
        next_obs=jnp.zeros((2, 11)),
        mask=~flags,
    )
    with pytest.raises(ValueError, match="must have 17 entries; it has 11"):
        halfcheetah_outcome(episode)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_observation_has_pitch_and_speed_where_the_features_look():
    """Against Brax's own state: the torso's height axis, and the reward's speed."""
    env = brax_env("halfcheetah")
    key = jax.random.PRNGKey(0)
    state, _ = jax.jit(env.reset)(key)
    step = jax.jit(env.step)
    speeds, paid = [], []
    for i in range(60):
        action = jnp.sin(jnp.arange(6) + 0.7 * i)
        result = step(state, action, key)
        state = result.state
        speeds.append(float(result.obs[8]))
        paid.append(float(result.reward) + 0.1 * float(jnp.sum(action**2)))
    # The velocity at the end of a step against the mean velocity over it.
    assert np.corrcoef(speeds, paid)[0, 1] > 0.5
    np.testing.assert_allclose(np.mean(speeds), np.mean(paid), atol=0.25)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_turned_by_pi_it_is_upside_down():
    from brax.envs import get_environment

    env = get_environment("halfcheetah", backend="spring")
    state = jax.jit(env.reset)(jax.random.PRNGKey(0))
    for angle, up in ((0.0, 1.0), (np.pi, -1.0)):
        turned = env.pipeline_init(state.pipeline_state.q.at[2].set(angle), 0 * state.pipeline_state.qd)
        obs = env._get_obs(turned)
        np.testing.assert_allclose(jnp.cos(obs[1]), up, atol=1e-5)
        w, x, y, z = turned.x.rot[0]
        np.testing.assert_allclose(1 - 2 * (x**2 + y**2), up, atol=1e-4)  # the torso's own up, along the world's
