"""The host's loop: compiled once, safe under vmap over seeds, resumable to the bit."""

import subprocess
import sys
from dataclasses import replace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax import algorithms, checkpoint, driver, tasks
from polopt_jax.cli import _build
from polopt_jax.cli._options import Train
from polopt_jax.cli._plan import plan_train
from polopt_jax.envs import chain
from polopt_jax.leaves import leaves_of
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.runs._log import chunk_row
from polopt_jax.training import TrainState

SEEDS_SCRIPT = """
import jax
from polopt_jax import algorithms, driver, tasks
from polopt_jax.envs import chain
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.runs._log import chunk_row

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
    ours, theirs = leaves_of(a), leaves_of(b)
    return ours.keys() == theirs.keys() and all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_vmapped_over_seeds_does_not_hang():
    """On jax 0.10's CPU backend it does under the default scheduler, hence a process of its own and a time limit."""
    done = subprocess.run([sys.executable, "-c", SEEDS_SCRIPT], timeout=300, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["40", "80"]


@pytest.mark.parametrize("recipe", ["ppo", pytest.param("trpo", marks=pytest.mark.slow)])
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
    algorithm = make("reinforce")
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
    with pytest.raises(ValueError, match=r"go on with run\._replace\(state=chunk\.state\)"):
        finish(run, 1)
    assert finish(run._replace(state=held[-1]), 1).update == 12


def test_the_first_ratio_of_every_update_is_one():
    """The normaliser is frozen within an update: what the policy acted on is what it is trained on."""
    algorithm = make("reinforce", learning_rate=lambda update: 0.0)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    collect = jax.jit(algorithm.collect)
    network = mlp_actor_critic((4,), chain(num_states=4, horizon=6).action_space, hidden=(8,))
    log_prob_of = jax.jit(lambda params, batch: network.apply(params, batch.obs).policy.log_prob(batch.action))
    for key in jax.random.split(jax.random.key(1), 3):
        collect_state, batch, _ = collect(state.params, state.collect_state, key)
        log_prob = log_prob_of(state.params, batch)
        np.testing.assert_allclose(log_prob, batch.log_prob, atol=1e-6)
        state = type(state)(**{**vars(state), "collect_state": collect_state})


def test_the_time_of_a_chunk_ends_when_its_result_is_there(monkeypatch):
    """A clock that only the work moves: 1 second to hand the chunk over, 5 until its numbers have arrived."""
    clock = [100.0]

    def takes(seconds, result):
        def work(*_):
            clock[0] += seconds
            return result

        return work

    state, metrics = TrainState(params=(), opt_state=(), collect_state=(), key=None, update=np.array([3])), {"x": 1}
    run = driver.Run(state, takes(1.0, (state, metrics)), 2, 0.0)
    monkeypatch.setattr(driver.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(driver.jax, "device_get", takes(5.0, metrics))
    assert [(chunk.update, chunk.seconds) for chunk in driver.chunks(run, 2)] == [(5, 6.0), (7, 6.0)]


def test_sums_are_added_over_a_chunk_and_the_rest_averaged():
    """Two seeds, a chunk of three updates; the numbers on the right are worked out by hand."""
    metrics = {
        "episode/finished": [[0, 2, 1], [0, 0, 0]],
        "episode/return_sum": [[0.0, 7.0, 5.0], [0.0, 0.0, 0.0]],
        "episode/length_sum": [[0.0, 20.0, 11.0], [0.0, 0.0, 0.0]],
        "nonfinite_steps": [[1, 0, 4], [0, 0, 2]],
        "kl_old_new": [[0.25, 0.5, 0.75], [1.0, 2.0, 6.0]],
        "policy/loss": [[1.0, np.inf, 2.0], [-1.0, 0.0, 1.0]],
        "episodes": [[3.0, 6.0, 9.0], [0.0, 0.0, 3.0]],
    }
    plan = plan_train("ppo", Train(env="inverted_pendulum", num_envs=8, rollout_steps=5, num_seeds=2))
    chunk = driver.Chunk(6, {name: np.array(x, np.float32) for name, x in metrics.items()}, 0.5, None)
    assert chunk_row(plan.schedule, chunk, seconds=1.23456, compile_seconds=2.0) == {
        "update": 6,
        "steps": 240,
        "seconds": 1.235,
        "compile_seconds": 2.0,
        "reward": [4.0, None],
        "episode/finished": [3.0, 0.0],
        "episode/return_sum": [12.0, 0.0],
        "episode/length_sum": [31.0, 0.0],
        "nonfinite_steps": [5.0, 2.0],
        "kl_old_new": [0.5, 3.0],
        "policy/loss": [None, 0.0],
        "episodes": [6.0, 1.0],
    }


@pytest.mark.parametrize(
    ("version", "backend", "scheduler"),
    [
        ("0.10.0", "cpu", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
        ("0.10.2", "cpu", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
        ("0.9.1", "cpu", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
        ("0.10.2", "gpu", None),
        ("0.11.0", "cpu", None),
        ("0.12.0.1", "cpu", None),
        ("1.0.0", "cpu", None),
    ],
)
def test_the_scheduler_is_chosen_where_the_default_hangs(version, backend, scheduler, monkeypatch):
    monkeypatch.setattr(jax, "__version__", version)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert driver.compiler_options() == (scheduler and {"xla_cpu_scheduler_type": scheduler})


@pytest.mark.parametrize(
    "compile_all",
    [
        lambda: driver.prepare(make(), driver.seed_keys(0, 2), chunk_updates=1),
        lambda: _build.imitate_reference(mock.Mock()),
    ],
    ids=["prepare", "imitate_reference"],
)
def test_every_compilation_of_a_training_loop_is_given_the_options(compile_all, monkeypatch):
    """Whatever the version here: `jax.jit` is asked what it was given, and compiles nothing."""
    given = []

    def jit(f, *, compiler_options=None, **_):
        given.append(compiler_options)
        return stub

    def stub(*_):
        return jnp.zeros(())

    stub.lower = lambda *_: stub
    stub.compile = lambda: stub
    wanted = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    monkeypatch.setattr(driver, "compiler_options", lambda: wanted)
    monkeypatch.setattr(_build, "compiler_options", lambda: wanted)
    monkeypatch.setattr(jax, "jit", jit)
    compile_all()
    assert given
    assert given == [wanted] * len(given)


def test_what_gathers_and_what_learns_have_metrics_of_their_own():
    state = TrainState(params=jnp.zeros(()), opt_state=(), collect_state=(), key=jax.random.key(0), update=jnp.int32(0))

    def learn(state, given):
        return replace(state, params=state.params + given, update=state.update + 1), {"loss": given}

    def run(name):
        gather = lambda state, update: (np.ones(1, np.float32), {name: np.full(1, 7.0)})  # noqa: E731
        hosted = driver.Hosted(lambda key: state, gather, learn, lambda state: np.ones(1, np.float32))
        (chunk,) = driver.chunks(driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=2), 1)
        return chunk.metrics

    found = run("scored")
    assert {name: x.tolist() for name, x in found.items()} == {"scored": [[7.0, 7.0]], "loss": [[1.0, 1.0]]}
    with pytest.raises(ValueError, match="what gathers and what learns both have a metric 'loss'"):
        run("loss")


def test_what_is_measured_has_randomness_of_its_own():
    """No key that the next update will split."""
    algorithm = make()
    said = lambda params, key: dict(zip("ab", jax.random.key_data(key).astype(jnp.float32), strict=True))  # noqa: E731
    (chunk,) = driver.chunks(
        driver.prepare(algorithm._replace(measure=said), driver.seed_keys(0, 1), chunk_updates=1), 1
    )
    own = np.asarray(jax.random.key_data(chunk.state.key), np.float32).ravel()
    assert not np.array_equal([float(chunk.metrics[name].item()) for name in "ab"], own)
