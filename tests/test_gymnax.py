"""gymnax's environments behind the protocol: a stand-in of its interface, and gymnax itself where it is installed."""

import importlib.util
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import polopt_jax as po
from polopt_jax import algorithms, networks, tasks
from polopt_jax.cli import main
from polopt_jax.cli._kinds import kind_of
from polopt_jax.envs import Box, Discrete, check_env, gymnax_env
from polopt_jax.envs._families import FAMILIES, Family, family_of

has_gymnax = importlib.util.find_spec("gymnax") is not None
installed = pytest.mark.skipif(not has_gymnax, reason="gymnax is not installed: pip install gymnax")


@struct.dataclass
class Settings:
    goal: float = 3.0
    max_steps_in_episode: int = 5


@struct.dataclass
class Place:
    x: jax.Array
    time: int


class Walk:
    """As gymnax writes one: the clock begins as a plain number, `step` resets, and `done` says nothing of why."""

    space = SimpleNamespace(n=2, shape=(), dtype=jnp.int32)

    def action_space(self, params):
        return self.space

    def reset_env(self, key, params):
        x = 0.1 * jax.random.uniform(key)
        return jnp.stack([x, params.goal]), Place(x, 0)

    def step_env(self, key, state, action, params):
        x = state.x + jnp.sin(1.0 * jnp.sum(action)) / jnp.sin(1.0)
        state = Place(x, state.time + 1)
        done = (x >= params.goal) | (state.time >= params.max_steps_in_episode)
        return jnp.stack([x, params.goal]), state, x - params.goal, done, {"discount": 1.0 - done}


class Boxed(Walk):
    def __init__(self, low, high, shape=(2,), dtype=jnp.float32):
        self.space = SimpleNamespace(low=low, high=high, shape=shape, dtype=dtype)


def walk(env, actions, key=0):
    """The steps of one episode."""
    state, _ = env.reset(jax.random.key(key))
    steps = []
    for action in actions:
        steps.append(env.step(state, jnp.asarray(action), jax.random.key(1)))
        state = steps[-1].state
    return steps


def test_an_end_is_told_from_a_limit():
    env = gymnax_env(Walk(), Settings())
    assert env.obs_shape == (2,)
    assert env.action_space == Discrete(2)
    check_env(env)
    reached = walk(env, [1, 1, 1])
    assert [bool(step.terminated) for step in reached] == [False, False, True]
    assert not any(bool(step.truncated) for step in reached)
    assert float(reached[-1].obs[0]) >= 3.0  # the last observation, and no first one
    stopped = walk(env, [0, 1, 0, 1, 0])
    assert [bool(step.truncated) for step in stopped] == [False] * 4 + [True]
    assert not any(bool(step.terminated) for step in stopped)
    both = walk(env, [0, 0, 1, 1, 1])[-1]  # at the goal in the last step that there is
    assert bool(both.terminated)
    assert not bool(both.truncated)


def test_without_a_limit_every_end_is_one_and_the_limit_has_the_name_that_is_said():
    env = gymnax_env(Walk(), Settings(), limit=None)
    last = walk(env, [0] * 5)[-1]
    assert bool(last.terminated)
    assert not bool(last.truncated)
    env = gymnax_env(Walk(), Settings(), limit="goal")  # infinite then: only the clock is an end
    last = walk(env, [1, 1, 1])[-1]
    assert bool(last.truncated)
    assert not bool(last.terminated)
    with pytest.raises(ValueError, match=r"limit 'max_timesteps' must be the field of params .* there are goal, max_s"):
        gymnax_env(Walk(), Settings(), limit="max_timesteps")


def test_states_keep_their_types_and_numbers():
    env, theirs = gymnax_env(Walk(), Settings()), Walk()
    key = jax.random.key(3)
    state, obs = env.reset(key)
    assert state.time.dtype == jnp.int32
    assert not state.time.weak_type
    expected, place = theirs.reset_env(key, Settings())
    np.testing.assert_array_equal(obs, expected)
    step = env.step(state, jnp.int32(1), key)
    expected, place, reward, _, _ = theirs.step_env(key, place, 1, Settings())
    np.testing.assert_array_equal(step.obs, expected)
    assert float(step.reward) == float(reward)
    assert float(step.state.x) == float(place.x)


def test_asking_under_no_limit_costs_nothing():
    env, theirs = gymnax_env(Walk(), Settings()), Walk()
    args = env.reset(jax.random.key(0))[0], jnp.int32(1), jax.random.key(1)
    own = lambda state, action, key: theirs.step_env(key, state, action, Settings())  # noqa: E731
    sines = [jax.jit(step).lower(*args).compile().as_text().count(" sine(") for step in (env.step, own)]
    assert sines[0] == sines[1] > 0


@pytest.mark.parametrize(
    ("low", "high", "shape", "action", "sent"),
    [
        (-2.0, 2.0, (2,), [0.5, -3.0], [1.0, -2.0]),
        (jnp.array([0.0, -1.0]), jnp.array([4.0, 1.0]), (2,), [-1.0, 0.5], [0.0, 0.5]),
        (-jnp.inf, jnp.inf, (2,), [7.0, -3.0], [7.0, -3.0]),
        (-3.0, 1.0, (), [1.0], 1.0),
        (-3.0, 3.0, (1, 2), [1.0, 0.0], [[3.0, 0.0]]),
    ],
)
def test_actions_are_stretched_to_the_bounds(low, high, shape, action, sent):
    env = gymnax_env(Boxed(low, high, shape), Settings())
    assert env.action_space == Box(len(action))
    said = env._send(jnp.array(action))
    assert said.shape == shape
    np.testing.assert_allclose(said, sent)
    check_env(env)


def test_observations_of_other_kinds():
    class Flags(Walk):
        def reset_env(self, key, params):
            _, state = super().reset_env(key, params)
            return jnp.array([[True, False]]), state

        def step_env(self, key, state, action, params):
            _, *rest = super().step_env(key, state, action, params)
            return jnp.array([[True, True]]), *rest

    env = gymnax_env(Flags(), Settings())
    assert env.obs_shape == (1, 2)
    assert env.reset(jax.random.key(0))[1].dtype == jnp.float32

    class Tree(Flags):
        def reset_env(self, key, params):
            flags, state = super().reset_env(key, params)
            return {"flags": flags, "x": state.x.astype(jnp.bfloat16)}, state

        def step_env(self, key, state, action, params):
            flags, after, *rest = super().step_env(key, state, action, params)
            return {"flags": flags, "x": after.x.astype(jnp.bfloat16)}, after, *rest

    env = gymnax_env(Tree(), Settings())
    obs = env.reset(jax.random.key(0))[1]
    assert env.obs_shape == ()
    assert obs["flags"].dtype == bool
    assert obs["x"].dtype == jnp.float32
    check_env(env)


def test_what_is_none_is_told():
    with pytest.raises(TypeError, match=r"it is a tuple of 2: gymnax_env\(\*gymnax.make\(name\)\)"):
        gymnax_env((Walk(), Settings()), None)

    class Wrapper:
        def __init__(self, env):
            self._env = env

        def __getattr__(self, name):
            return getattr(self._env, name)

    with pytest.raises(TypeError, match="must be no wrapper, which would not be asked; it is a Wrapper around a Walk"):
        gymnax_env(Wrapper(Walk()), Settings())
    with pytest.raises(ValueError, match="actions must be a Discrete or a Box of floats; they are a SimpleNamespace"):
        gymnax_env(Boxed(0, 255, dtype=jnp.int32), Settings())

    class Grows(Walk):
        def step_env(self, key, state, action, params):
            obs, state, *rest = super().step_env(key, state, action, params)
            return obs, (state, state), *rest

    with pytest.raises(ValueError, match="the state of Grows has another structure after a step"):
        gymnax_env(Grows(), Settings())


def test_it_is_learnt():
    env = gymnax_env(Walk(), Settings())
    network = networks.mlp_actor_critic(env.obs_shape, env.action_space, hidden=(16,))
    algorithm = algorithms.ppo(tasks.control_task(env, network, num_envs=16, num_steps=8), learning_rate=1e-2)
    state, _ = jax.jit(lambda key: po.train(algorithm.collect, algorithm.step, algorithm.init(key), updates=20))(
        jax.random.key(0)
    )
    act = algorithm.act(state)
    worth = po.evaluate_policy(env, po.greedy(act), jax.random.key(1), episodes=8)
    np.testing.assert_array_equal(worth.length, 3)  # always ahead


# --- the command -----------------------------------------------------------------------------------------------------


def test_families():
    assert [family.prefix for family in FAMILIES] == ["playground:", "gymnax:"]
    for family in FAMILIES:
        assert list(family.names()) == sorted(family.names())
    assert family_of("gymnasium:CartPole-v1") is None
    assert family_of("my.module:Env") is None
    assert kind_of("gymnax:CartPole-v1").called == "an environment of gymnax's"
    assert [kind_of(name).episode_length for name in ("ant", "playground:CheetahRun", "gymnax:Pong-misc")] == [
        1000,
        1000,
        None,
    ]


def test_wrong_names_and_options(monkeypatch, capsys):
    monkeypatch.setattr(Family, "is_installed", lambda family: True)
    for line, said in {
        "ppo --env gymnax:Cartpole": "unknown environment of gymnax's 'Cartpole'; did you mean 'CartPole-v1'?",
        "ppo --env gymnax:CartPole-v1 --backend mjx": "--backend does not apply to an environment of gymnax's",
    }.items():
        assert main(["train", *line.split()]) == 2
        assert said in capsys.readouterr().err
    assert main(["envs"]) == 0
    assert "gymnax:NAME is one of gymnax's: Acrobot-v1" in capsys.readouterr().out
    monkeypatch.setattr(Family, "is_installed", lambda family: False)
    assert main(["train", "ppo", "--env", "gymnax:CartPole-v1"]) == 2
    assert "needs the package gymnax: pip install 'polopt-jax[gymnax]'" in capsys.readouterr().err
    assert main(["envs", "gymnax:CartPole-v1"]) == 2
    assert main(["envs"]) == 0
    assert "gymnax:NAME" not in capsys.readouterr().out


def test_a_run_by_name(monkeypatch, tmp_path, capsys):
    """With a stand-in of gymnax: made by name, with a length, and once more from what was saved."""
    asked = []

    def make(name):
        asked.append(name)
        return Walk(), Settings()

    monkeypatch.setattr(Family, "is_installed", lambda family: True)
    monkeypatch.setitem(sys.modules, "gymnax", SimpleNamespace(make=make))
    line = "train ppo --env gymnax:cartpole-v1 --num-envs 8 --rollout-steps 4 --steps 32 --hidden 8"
    assert main([*line.split(), "--out", str(tmp_path / "usual")]) == 0
    assert main([*line.split(), "--episode-length", "2", "--out", str(tmp_path / "short")]) == 0
    assert set(asked) == {"CartPole-v1"}
    capsys.readouterr()
    for name, longest in (("usual", 5), ("short", 2)):
        policy = po.load(tmp_path / name)
        steps = walk(policy.env, [0] * longest)
        assert bool(steps[-1].truncated)
        assert not any(bool(step.truncated) for step in steps[:-1])


def test_where_the_time_is_seen_its_end_is_an_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", SimpleNamespace(make=lambda name: (Walk(), Settings())))
    ends = {
        name: walk(family_of("gymnax:").make(name, None), [0] * 5)[-1] for name in ("MetaMaze-misc", "Catch-bsuite")
    }
    assert bool(ends["MetaMaze-misc"].terminated)
    assert bool(ends["Catch-bsuite"].truncated)


# --- with gymnax -----------------------------------------------------------------------------------------------------


@installed
def test_names_are_gymnaxs():
    gymnax = pytest.importorskip("gymnax")
    named = next(family.names() for family in FAMILIES if family.prefix == "gymnax:")
    assert set(gymnax.registered_envs) - set(named) == {"MNISTBandit-bsuite", "SimpleBandit-bsuite"}
    assert set(named) <= set(gymnax.registered_envs)


@installed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", next(family.names() for family in FAMILIES if family.prefix == "gymnax:"))
def test_every_environment_is_that_of_gymnax(name):
    """Ours against gymnax's `step_env` over an episode's end: the same numbers, and `done` is either of our two."""
    family = family_of("gymnax:")
    theirs, params = pytest.importorskip("gymnax").make(name)
    ours = family.make(name, None)
    check_env(ours)
    key = jax.random.key(0)
    state, obs = ours.reset(key)
    expected, place = theirs.reset_env(key, params)
    np.testing.assert_array_equal(obs, np.asarray(expected, np.float32))
    step, their_step = jax.jit(ours.step), jax.jit(theirs.step_env)
    space = theirs.action_space(params)
    for number in range(40):
        act_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        action = space.sample(act_key)
        if isinstance(ours.action_space, Box):
            low, high = (np.broadcast_to(np.asarray(x), space.shape) for x in (space.low, space.high))
            said = (2 * (action - low) / (high - low) - 1).reshape(-1)
        else:
            said = action
        after = step(state, said, step_key)
        expected, place, reward, done, _ = their_step(step_key, place, action, params)
        np.testing.assert_allclose(after.obs, np.asarray(expected, np.float32), atol=1e-5)
        np.testing.assert_allclose(after.reward, reward, rtol=1e-5, atol=1e-5)
        assert bool(after.terminated | after.truncated) == bool(done)
        state = after.state
        if bool(done):
            break


@installed
@pytest.mark.parametrize(("name", "truncated"), [("Pendulum-v1", True), ("PointRobot-misc", False)])
def test_lengths_of_gymnax(name, truncated):
    """Five steps, as they are said: the end of a task whose observation tells the time, and a limit where none does."""
    env = family_of("gymnax:").make(name, 5)
    last = walk(env, [[0.0] * env.action_space.size] * 5)[-1]
    assert (bool(last.truncated), bool(last.terminated)) == (truncated, not truncated)
