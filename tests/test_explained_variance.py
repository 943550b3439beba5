"""What a critic knew: `po.explained_variance` against its definition in float64, and where it is reported."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import algorithms, envs, networks, tasks


def batch_of(value, target, mask=None):
    mask = np.ones(np.shape(target), bool) if mask is None else mask
    as_array = lambda x: None if x is None else jnp.asarray(x, jnp.float32)  # noqa: E731
    return po.Batch(obs=None, action=None, mask=jnp.asarray(mask), value=as_array(value), target=as_array(target))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_it_is_one_minus_the_share_of_the_error(scale, offset):
    rng = np.random.default_rng(0)
    target = scale * (rng.normal(size=(6, 5)) + offset)
    value = 0.7 * target + scale * (0.4 * rng.normal(size=(6, 5)) - 3)
    mask = rng.random((6, 5)) < 0.6
    expected = 1 - np.var((target - value)[mask]) / np.var(target[mask])
    hidden = [np.where(mask, x, np.nan) for x in (value, target)]
    assert 0.5 < expected < 0.95
    np.testing.assert_allclose(po.explained_variance(batch_of(*hidden, mask)), expected, rtol=2e-4)


def test_its_ends():
    target = np.arange(6.0).reshape(2, 3)
    assert po.explained_variance(batch_of(target + 7, target)) == 1  # a constant is no error
    assert po.explained_variance(batch_of(np.full((2, 3), 2.0), target)) == 0
    assert po.explained_variance(batch_of(-target, target)) == -3
    assert po.explained_variance(batch_of(target, np.full((2, 3), 2.0))) == 0
    assert po.explained_variance(batch_of(target, target, np.zeros((2, 3), bool))) == 0


def test_it_is_a_constant():
    target = jnp.arange(6.0).reshape(2, 3)
    slope = jax.grad(lambda value: po.explained_variance(replace(batch_of(target, target), value=value)))(2 * target)
    assert (slope == 0).all()


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="explained_variance needs batch.value"):
        po.explained_variance(batch_of(None, np.zeros((2, 3))))
    with pytest.raises(ValueError, match="explained_variance needs batch.target"):
        po.explained_variance(batch_of(np.zeros((2, 3)), None, np.ones((2, 3), bool)))
    with pytest.raises(ValueError, match="value"):
        po.explained_variance(batch_of(np.zeros((2, 1)), np.zeros((2, 3))))


def metrics_of(recipe, **kwargs):
    env = envs.ActionReward()
    network = networks.mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,))
    task = tasks.control_task(env, network, num_envs=16, num_steps=8)
    algorithm = recipe(task, **kwargs)
    state = algorithm.init(jax.random.key(0))
    _, batch, _ = algorithm.collect(state.params, state.collect_state, jax.random.split(state.key, 3)[1])
    return po.train(algorithm.collect, algorithm.step, state, updates=2)[1], batch


def test_recipes_with_a_critic_report_it_of_the_batch_as_collected():
    found, batch = metrics_of(algorithms.ppo)
    assert found["explained_variance"].shape == (2,)
    assert (found["explained_variance"] <= 1).all()
    np.testing.assert_allclose(po.explained_variance(batch), found["explained_variance"][0], rtol=1e-5)
    estimate = lambda rollout: po.to_batch(rollout, advantage=rollout.reward)  # noqa: E731
    found, _ = metrics_of(algorithms.reinforce, estimate=estimate)
    assert "explained_variance" not in found  # where nothing is learnt by a critic


@pytest.mark.parametrize(("constant", "size"), [(0.1, 7), (0.1, 1000), (123.4, 96), (-1e6, 33)])
def test_what_does_not_vary_has_nothing_to_explain(constant, size):
    """The mean of equal float32 numbers need not be that number."""
    batch = batch_of(np.linspace(0, 1, size), np.full(size, constant))
    assert po.explained_variance(batch) == 0
    assert po.explained_variance(replace(batch, mask=batch.mask.at[0].set(False))) == 0
