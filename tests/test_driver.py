"""The host's loop: compiled once, safe under vmap over seeds, resumable to the bit."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax import algorithms, checkpoint, driver, tasks
from polopt_jax.envs import chain
from polopt_jax.leaves import leaves_of
from polopt_jax.networks import mlp_actor_critic

SEEDS_SCRIPT = """
import jax
from polopt_jax import algorithms, driver, tasks
from polopt_jax.envs import chain
from polopt_jax.leaves import leaves_of
from polopt_jax.networks import mlp_actor_critic

env = chain(num_states=4, horizon=8)
task = tasks.control_task(env, mlp_actor_critic(env.obs_shape, env.action_space), num_envs=4, num_steps=128)
run = driver.prepare(algorithms.ppo(task, num_minibatches=4), driver.seed_keys(0, 8), chunk_updates=40)
for chunk in driver.chunks(run, 2):
    print(chunk.update)
"""


def make(recipe="ppo", **hyperparameters):
    env = chain(num_states=4, horizon=6)
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,))
    task = tasks.control_task(env, network, num_envs=8, num_steps=4)
    return getattr(algorithms, recipe)(task, **hyperparameters)


def finish(run, num_chunks):
    *_, last = driver.chunks(run, num_chunks)
    return last


def same(a, b):
    ours, theirs = leaves_of(a), checkpoint._leaves(b)
    return ours.keys() == theirs.keys() and all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)


@pytest.mark.timeout(400)
def test_a_run_vmapped_over_seeds_does_not_hang():
    """On jax 0.10's CPU backend it does under the default scheduler, hence a process of its own and a time limit."""
    done = subprocess.run([sys.executable, "-c", SEEDS_SCRIPT], timeout=300, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["40", "80"]


@pytest.mark.parametrize("recipe", ["ppo", "trpo"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(recipe, tmp_path):
    algorithm = make(recipe)
    keys = driver.seed_keys(3, 2)
    run = driver.prepare(algorithm, keys, chunk_updates=3)
    like = jax.tree.map(jnp.copy, run.state)
    for chunk in driver.chunks(run, 4):
        if chunk.update == 6:
            checkpoint.save(tmp_path, chunk.update, chunk.state)
    state, step = checkpoint.restore(tmp_path, like)
    assert step == 6
    resumed = finish(driver.prepare(algorithm, keys, chunk_updates=3, state=state), 2)
    assert resumed.update == chunk.update == 12
    assert same(resumed.state, chunk.state)
    for name in chunk.metrics:
        assert resumed.metrics[name].tobytes() == chunk.metrics[name].tobytes()


def test_one_seed_repeats_and_two_differ():
    algorithm = make()
    first, again = (finish(driver.prepare(algorithm, driver.seed_keys(0, 1), chunk_updates=3), 1) for _ in range(2))
    other = finish(driver.prepare(algorithm, driver.seed_keys(1, 1), chunk_updates=3), 1)
    assert same(first.state, again.state)
    assert not same(first.state.params, other.state.params)


def test_a_seed_beside_others_is_the_seed_alone():
    algorithm = make()
    alone = finish(driver.prepare(algorithm, driver.seed_keys(5, 1), chunk_updates=3), 1)
    beside = finish(driver.prepare(algorithm, driver.seed_keys(4, 3), chunk_updates=3), 1)
    for one, many in zip(jax.tree.leaves(alone.state.params), jax.tree.leaves(beside.state.params), strict=True):
        np.testing.assert_allclose(one[0], many[1], rtol=1e-4, atol=1e-5)


def test_chunk_sizes_do_not_change_the_result():
    algorithm = make()
    keys = driver.seed_keys(0, 1)
    whole = finish(driver.prepare(algorithm, keys, chunk_updates=6), 1)
    parts = finish(driver.prepare(algorithm, keys, chunk_updates=2), 3)
    assert whole.update == parts.update == 6
    for a, b in zip(jax.tree.leaves(whole.state.params), jax.tree.leaves(parts.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_donated_state_is_gone_and_nothing_recompiles():
    run = driver.prepare(make(), driver.seed_keys(0, 1), chunk_updates=2)
    compilations = []
    listener = lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    held = []
    for chunk in driver.chunks(run, 5):
        held.append(chunk.state)
    assert compilations == []
    assert all(x.is_deleted() for x in jax.tree.leaves(held[0].params))


def test_the_first_ratio_of_every_update_is_one():
    """The normaliser is frozen within an update: what the policy acted on is what it is trained on."""
    algorithm = make("reinforce", learning_rate=0.0)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    collect = jax.jit(algorithm.collect)
    network = mlp_actor_critic((4,), chain(num_states=4, horizon=6).action_space, hidden=(8,))
    for key in jax.random.split(jax.random.key(1), 3):
        collect_state, batch, _ = collect(state.params, state.collect_state, key)
        log_prob = network.apply(state.params, batch.obs).policy.log_prob(batch.action)
        np.testing.assert_allclose(log_prob, batch.log_prob, atol=1e-6)
        state = type(state)(**{**vars(state), "collect_state": collect_state})
