"""MuJoCo Playground's environments behind the protocol, against Playground itself, where that is installed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.cli import main
from polopt_jax.envs import Box, _playground, check_env, has_playground, place_bodies, playground_env, playground_names
from polopt_jax.envs._families import Family

installed = pytest.mark.skipif(not has_playground(), reason="playground is not installed: pip install playground")


# --- without Playground ----------------------------------------------------------------------------------------------


def test_wrong_names_and_lengths_are_told():
    with pytest.raises(ValueError, match="name 'CheetaRun' is unknown; did you mean 'CheetahRun'?"):
        playground_env("CheetaRun")
    with pytest.raises(ValueError, match="episode_length must be at least 1, got 0"):
        playground_env("CheetahRun", episode_length=0)
    assert list(playground_names()) == sorted(playground_names())


def test_playground_may_be_missing(monkeypatch, capsys):
    monkeypatch.setattr(_playground, "has_playground", lambda: False)
    with pytest.raises(_playground.MissingPlayground, match=r"pip install 'polopt-jax\[playground\]'"):
        playground_env("CheetahRun")
    monkeypatch.setattr(Family, "is_installed", lambda family: False)
    assert main(["train", "ppo", "--env", "playground:cheetahrun"]) == 2
    assert "needs the package playground: pip install 'polopt-jax[playground]'" in capsys.readouterr().err
    assert main(["envs"]) == 0
    assert "playground:NAME" not in capsys.readouterr().out
    assert "mujoco_playground" not in sys.modules or has_playground()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "ppo --env playground:CheetaRun",
            "unknown environment of Playground's 'CheetaRun'; did you mean 'CheetahRun'?",
        ),
        ("ppo --env playground:CheetahRun --backend mjx", "--backend does not apply to an environment of Playground's"),
        ("grpo --env playground:CheetahRun", "grpo learns token worlds only"),
    ],
)
def test_wrong_options(line, said, monkeypatch, capsys):
    monkeypatch.setattr(Family, "is_installed", lambda family: True)
    assert main(["train", *line.split()]) == 2
    assert said in capsys.readouterr().err


# --- with it ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pendulum():
    return playground_env("PendulumSwingup", episode_length=4)


@pytest.fixture(scope="module")
def suite():
    return pytest.importorskip("mujoco_playground").dm_control_suite


@installed
def test_the_names_are_those_of_the_suite(suite):
    assert set(playground_names()) == set(suite.ALL_ENVS)
    for name in playground_names():
        assert suite.get_default_config(name).action_repeat == 1


def compare(name, suite, steps):
    """Observations and rewards of the same actions, some of them beyond the box; ours carries less between steps."""
    ours, config = playground_env(name, episode_length=steps), suite.get_default_config(name)
    config.impl = "jax"
    theirs = suite.load(name, config=config)
    assert theirs.mj_model.actuator_ctrlrange.tolist() == [[-1.0, 1.0]] * ours.action_space.size
    key = jax.random.key(5)
    (state, obs), other = jax.jit(ours.reset)(key), jax.jit(theirs.reset)(jax.random.PRNGKey(jax.random.bits(key)))
    assert obs.shape == ours.obs_shape
    np.testing.assert_allclose(obs, other.obs, atol=1e-5)
    actions = jax.random.uniform(jax.random.key(6), (steps, ours.action_space.size), minval=-1.5, maxval=1.5)
    step, other_step = jax.jit(ours.step), jax.jit(theirs.step)
    for t in range(steps):
        after, other = step(state, actions[t], key), other_step(other, jnp.clip(actions[t], -1, 1))
        np.testing.assert_allclose(after.obs, other.obs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(after.reward, other.reward, rtol=1e-3, atol=1e-4)
        assert (bool(after.terminated), bool(after.truncated)) == (False, t == steps - 1)
        state = after.state
    assert len(state.physics) < len(jax.tree.leaves(other)) / 2


@installed
def test_a_step_is_that_of_playground(suite):
    compare("PendulumSwingup", suite, steps=5)


@installed
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in playground_names() if name != "PendulumSwingup"])
def test_every_environment_is_that_of_playground(name, suite):
    compare(name, suite, steps=3)


@installed
def test_an_environment_is_one(pendulum, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_env(pendulum)
    assert (pendulum.obs_shape, pendulum.action_space) == ((3,), Box(1))
    assert not list(tmp_path.iterdir()), "it wrote files"


@installed
def test_a_rollout_keeps_the_true_final_observations(pendulum):
    act = lambda obs: po.Outputs(policy=po.DiagGaussian(mean=obs[..., :1], log_std=obs[..., :1] * 0), value=obs[..., 0])  # noqa: E731
    loop = po.start(pendulum, jax.random.key(0), num_envs=3)
    run = jax.jit(lambda loop, key: po.unroll(pendulum, act, loop, key, num_steps=9))
    loop, rollout = run(loop, jax.random.key(1))
    assert rollout.truncated.sum(0).tolist() == [2, 2, 2]
    assert not rollout.terminated.any()
    moves = jnp.abs(rollout.next_obs - rollout.obs).max()
    np.testing.assert_array_equal(rollout.obs[1:4], rollout.next_obs[:3])
    assert jnp.abs(rollout.next_obs[3] - rollout.obs[4]).max() > 2 * moves, "a new episode begins elsewhere"
    np.testing.assert_allclose(rollout.next_value[3], rollout.next_obs[3, :, 0], rtol=1e-6)
    assert float(loop.stats.finished) == 6


@installed
def test_a_posed_state_says_where_the_bodies_are(pendulum):
    """The bob hangs at the end of its rod, which is as long in every state."""
    posed = pendulum.posed()
    state, _ = jax.jit(posed.reset)(jax.random.key(2))
    bodies, places = posed.bodies(), []
    np.testing.assert_allclose(posed.poses(state)[0][0], posed._env.mj_model.body_pos[1], atol=1e-6)  # the pivot
    assert np.abs(posed._env.mj_model.body_pos[1]).max() > 0.1
    for t in range(3):
        ends = place_bodies(bodies, *(np.asarray(x) for x in posed.poses(state)))
        places.append(ends[bodies.link == bodies.link.max()].reshape(-1, 3))
        state = jax.jit(posed.step)(state, jnp.ones(1), jax.random.key(t)).state
    lengths = [np.linalg.norm(place[:, None] - place[None], axis=-1) for place in places]
    np.testing.assert_allclose(lengths[0], lengths[2], atol=1e-4)
    assert np.abs(places[0] - places[2]).max() > 1e-4
    with pytest.raises(ValueError, match="those of its posed"):
        pendulum.poses(pendulum.reset(jax.random.key(0))[0])


@installed
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_learns_evaluates_and_plays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "train ppo --env playground:pendulumswingup --num-envs 8 --rollout-steps 5 --steps 80 --episode-length 5"
    assert main([*line.split(), "--out", "run"]) == 0
    assert po.load("run").env.name == "PendulumSwingup"
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    assert main(["play", "run"]) == 0
    assert "reached its time limit" in capsys.readouterr().out
    assert main(["envs"]) == 0
    assert "playground:NAME is one of Playground's: AcrobotSwingup" in capsys.readouterr().out
