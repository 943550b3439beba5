"""The Brax adapter: quiet, lazy, exact, and honest about how episodes end."""

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.envs import Box, _brax, brax_backends, brax_env, brax_names

SIZES = {  # observation and action
    "ant": (27, 8),
    "halfcheetah": (17, 6),
    "hopper": (11, 3),
    "humanoid": (244, 17),
    "humanoidstandup": (244, 17),
    "inverted_double_pendulum": (8, 1),
    "inverted_pendulum": (4, 1),
    "pusher": (23, 7),
    "reacher": (11, 2),
    "swimmer": (8, 2),
    "walker2d": (17, 6),
}
TRACED = ("inverted_pendulum", "swimmer")
"""Those of every test run: tracing one takes seconds."""
PUSH = jnp.ones(1)


@pytest.fixture(scope="module")
def pendulum():
    return brax_env("inverted_pendulum")


def _with_limit(env, episode_length):
    """The same compiled physics under another time limit."""
    return type(env)(**{**vars(env), "episode_length": episode_length})


@pytest.fixture(scope="module")
def play(pendulum):
    """`play(action, key, steps)`: reset, then `steps` steps in one scan, whatever the flags say."""

    @jax.jit
    def scan(actions, key, limit):
        env = _with_limit(pendulum, limit)
        state, obs = env.reset(key)

        def body(state, action):
            after = env.step(state, action, key)
            return after.state, after

        return obs, jax.lax.scan(body, state, actions)[1]

    def run(actions, key=None, limit=1000):
        return scan(jnp.asarray(actions), jax.random.key(0) if key is None else key, jnp.int32(limit))

    return run


FALL = jnp.ones((40, 1))


@pytest.fixture(scope="module")
def fall_step(play):
    """The number of steps after which a constant push has made the pendulum fall."""
    done = np.asarray(play(FALL)[1].terminated)
    assert done.any()
    return int(done.argmax()) + 1


# Specification


@pytest.mark.parametrize(
    "name", [name if name in TRACED else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
)
def test_sizes_are_known_without_compiling(name):
    env = brax_env(name, backend=brax_backends(name)[-1] if name == "swimmer" else "spring")
    obs_size, action_size = SIZES[name]
    assert (env.obs_shape, env.action_space) == ((obs_size,), Box(action_size))
    state, obs = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((action_size,), jnp.float32)
    after = jax.eval_shape(env.step, state, action, jax.random.key(0))
    spec = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after.state) == spec
    assert (obs.shape, obs.dtype) == (after.obs.shape, after.obs.dtype) == ((obs_size,), jnp.float32)
    for leaf, dtype in ((after.reward, "float32"), (after.terminated, "bool"), (after.truncated, "bool")):
        assert (leaf.shape, leaf.dtype) == ((), jnp.dtype(dtype))
    assert all((x.shape, x.dtype) == ((), jnp.float32) for x in after.outcome.values())


def test_names_and_backends_are_those_of_brax(pendulum):
    import brax.envs

    assert set(brax_names()) == set(SIZES) == set(brax.envs._envs) - {"fast"}
    assert brax_backends("swimmer") == ("generalized",)
    assert set(brax_backends("ant")) == {"generalized", "spring", "positional", "mjx"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("inverted_pendulm", {}, "name.*'inverted_pendulum'"),
        ("fast", {}, "name 'fast' is unknown"),
        ("ant", {"backend": "sprng"}, "backend.*'spring'"),
        ("swimmer", {"backend": "spring"}, "backend.*'generalized'"),
        ("ant", {"episode_length": 0}, "episode_length"),
    ],
)
def test_bad_arguments_are_named_with_the_nearest(name, settings, message):
    with pytest.raises(ValueError, match=message):
        brax_env(name, **settings)


def test_import_is_lazy_and_loading_is_quiet(tmp_path):
    program = """
import sys
import polopt_jax.envs as envs
loaded = {name.split(".")[0] for name in sys.modules}
if loaded & {"brax", "mujoco", "matplotlib"}:
    sys.exit(f"imported: {loaded & {'brax', 'mujoco', 'matplotlib'}}")
env = envs.brax_env("halfcheetah")
if "brax" not in sys.modules:
    sys.exit("brax was not used")
"""
    root = str(Path(__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert run.stderr == ""
    assert not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT


def test_no_warning_reaches_the_caller_and_the_handler_of_mujoco_is_restored(tmp_path, monkeypatch):
    import mujoco

    monkeypatch.chdir(tmp_path)

    def mine(message):
        raise RuntimeError(message)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(mine)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = brax_env("halfcheetah")
            jax.eval_shape(env.reset, jax.random.key(0))
        assert mujoco.get_mju_user_warning() is mine
    finally:
        mujoco.set_mju_user_warning(before)
    assert not list(tmp_path.iterdir())


# Exactness


def _compare_with_brax(name, backend, steps):
    """Drives Brax itself with its whole state, and the adapter's `unpack(pack(state))` through the same executable."""
    env = brax_env(name, backend=backend)
    raw = env._env
    from brax.envs import State

    def raw_step(physics, action):
        after = raw.step(State(physics, jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), {}, {}), action)
        return after.pipeline_state, (after.obs, after.reward, after.done)

    step = jax.jit(raw_step)
    whole = jax.jit(raw.reset)(jax.random.PRNGKey(1)).pipeline_state
    slim = whole
    for t in range(steps):
        action = 0.3 * jax.random.normal(jax.random.key(t), (env.action_space.size,))
        whole, expected = step(whole, action)
        slim, result = step(env._carry.unpack(env._carry.pack(slim)), action)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(result), strict=True):
            np.testing.assert_array_equal(a, b)
    kept, size = len(env._carry.kept), len(jax.tree.leaves(whole))
    assert kept < size


def test_the_leaves_left_out_of_the_state_are_never_read():
    _compare_with_brax("inverted_pendulum", "spring", steps=10)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "backend"), [(n, b) for n in SIZES for b in brax_backends(n)])
def test_the_leaves_left_out_of_the_state_are_never_read_in_any_environment(name, backend):
    _compare_with_brax(name, backend, steps=3)


def test_an_episode_is_that_of_brax(play, pendulum):
    actions = jax.random.uniform(jax.random.key(5), (10, 1), minval=-1, maxval=1)
    obs, after = play(actions, jax.random.key(3))
    raw = pendulum._env
    state = jax.jit(raw.reset)(jax.random.PRNGKey(3))
    np.testing.assert_allclose(obs, state.obs, rtol=1e-6, atol=1e-7)
    step = jax.jit(raw.step)
    for t in range(10):
        state = step(state, actions[t])
        np.testing.assert_allclose(after.obs[t], state.obs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after.reward[t], state.reward)
        assert bool(after.terminated[t]) == bool(state.done)


def test_typed_and_legacy_keys_give_the_same_start_and_seeds_differ(play):
    typed, legacy = play(FALL, jax.random.key(7)), play(FALL, jax.random.PRNGKey(7))
    jax.tree.map(np.testing.assert_array_equal, typed, legacy)
    assert (np.asarray(typed[0]) != np.asarray(play(FALL, jax.random.key(8))[0])).any()


def test_keys_of_another_implementation_work(pendulum):
    obs = jax.jit(pendulum.reset)(jax.random.key(0, impl="rbg"))[1]
    assert np.isfinite(obs).all()


def test_the_same_call_gives_the_same_bits(play):
    jax.tree.map(np.testing.assert_array_equal, play(FALL), play(FALL))


# Ends of episodes


def test_a_fall_is_a_termination(play, fall_step):
    after = play(FALL)[1]
    assert 1 < fall_step < 40
    assert not np.asarray(after.terminated)[: fall_step - 1].any()
    assert not np.asarray(after.truncated).any()


def test_a_time_limit_is_a_truncation(play, fall_step):
    limit = fall_step - 1
    after = play(FALL, limit=limit)[1]
    assert np.asarray(after.truncated)[:limit].tolist() == [False] * (limit - 1) + [True]
    assert not np.asarray(after.terminated)[:limit].any()


def test_a_fall_at_the_time_limit_is_a_termination_only(play, fall_step):
    after = play(FALL, limit=fall_step)[1]
    assert bool(after.terminated[fall_step - 1])
    assert not bool(after.truncated[fall_step - 1])


def test_the_last_observation_is_the_true_one(play, fall_step):
    first, after = play(FALL)
    angle = np.abs(np.asarray(after.obs)[:, 1])
    assert abs(float(first[1])) <= 0.01
    assert angle[fall_step - 2] <= 0.2 < angle[fall_step - 1]  # fallen, not reset to a start within 0.01
    same_without_limit = play(FALL, limit=fall_step - 1)[1]
    np.testing.assert_array_equal(after.obs, same_without_limit.obs)


# Actions


def test_actions_are_clipped_to_the_box(play):
    for sign in (-1.0, 1.0):
        inside, outside, smaller = (play(sign * scale * FALL) for scale in (1.0, 30.0, 0.9))
        jax.tree.map(np.testing.assert_array_equal, inside, outside)
        assert (np.asarray(inside[1].obs) != np.asarray(smaller[1].obs)).any()


def test_the_clipped_action_is_the_one_that_costs():
    env = brax_env("reacher", backend="generalized")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    rewards = [float(step(state, jnp.full(2, a), jax.random.key(0)).reward) for a in (1.0, 9.0)]
    assert rewards[0] == rewards[1]
    assert rewards[0] < -2.0  # two actuators at full control cost 2


# Composition


def test_vmap_gives_different_starts_and_the_same_steps_as_one_at_a_time(pendulum, play):
    keys = jax.random.split(jax.random.key(0), 4)
    state, obs = jax.jit(jax.vmap(pendulum.reset))(keys)
    assert len(np.unique(np.asarray(obs), axis=0)) == 4
    after = jax.jit(jax.vmap(pendulum.step))(state, jnp.ones((4, 1)), keys)
    for i in range(4):
        np.testing.assert_allclose(after.obs[i], play(FALL, keys[i])[1].obs[0], rtol=1e-4, atol=1e-6)


def test_works_in_strict_mode_and_when_made_inside_jit(strict):
    @jax.jit
    def first_reward(key):
        env = brax_env("inverted_pendulum")
        state, _ = env.reset(key)
        return env.step(state, PUSH, key).reward

    assert float(first_reward(jax.random.key(0))) == 1.0


def test_outcome_features_of_the_cheetah_tell_when_it_lies_on_its_back():
    env = brax_env("halfcheetah")
    step = jax.jit(env.step)

    @jax.jit
    def start(pitch):
        physics = env._env.pipeline_init(env._env.sys.init_q.at[1].set(5.0).at[2].set(pitch), jnp.zeros(9))
        return env._state(physics, jnp.int32(0))

    upright = []
    for pitch in (0.0, np.pi / 2, np.pi):
        after = step(start(pitch), jnp.zeros(6), jax.random.key(0))
        assert set(after.outcome) == {"x_position", "x_velocity", "upright"}
        upright.append(float(after.outcome["upright"]))
        # The reward is the velocity here, because the control cost of no action is nothing.
        np.testing.assert_allclose(after.reward, after.outcome["x_velocity"], atol=1e-6)
    np.testing.assert_allclose(upright, [1.0, 0.0, -1.0], atol=0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "backend"), [(n, b) for n in SIZES for b in brax_backends(n)])
def test_every_environment_steps_on_every_backend(name, backend):
    env = brax_env(name, backend=backend, episode_length=4)
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    flags = []
    for t in range(4):
        after = step(state, jnp.full(env.action_space.size, 0.1), jax.random.key(t))
        state = after.state
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.obs, after.reward, after.outcome)))
        flags.append((bool(after.terminated), bool(after.truncated)))
    assert flags == [(False, False)] * 3 + [(False, True)]
    assert (np.asarray(obs) != np.asarray(after.obs)).any()


@pytest.mark.parametrize("name", ["reacher", "pusher"])
def test_the_distance_of_a_target_is_one(name):
    """Brax rewards the nearness of it."""
    step = SimpleNamespace(metrics={"reward_dist": jnp.float32(-0.25)})
    assert _brax._outcome(name, step) == {"target_distance": 0.25}
