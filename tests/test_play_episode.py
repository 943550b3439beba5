"""One episode, step by step; and where the bodies are that it shows, against MuJoCo's own account of them."""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.envs import Box, EnvStep, TimeLimit, brax_backends, brax_env, brax_names, chain, place_bodies
from polopt_jax.envs._bodies import CAPSULE, PLANE, SPHERE


@dataclass(frozen=True)
class Adding:
    """The state is the sum of the actions, from 1 on; above 3 the episode is over. It breaks at step `breaks_at`."""

    breaks_at: int = 1000
    obs_shape: tuple = (1,)
    action_space: Box = field(default=Box(1))

    def reset(self, key):
        return {"sum": jnp.ones(1), "step": jnp.int32(0)}, jnp.ones(1)

    def step(self, state, action, key):
        step = state["step"] + 1
        total = jnp.where(step == self.breaks_at, jnp.nan, state["sum"] + action)
        return EnvStep(
            state={"sum": total, "step": step},
            obs=total,
            reward=10 * total[0],
            terminated=total[0] > 3,
            truncated=jnp.bool_(False),
            outcome={"twice": 2 * total[0]},
        )


def half(obs):
    """Always nearly arctanh(0.5), which the environment gets as 0.5."""
    mean = jnp.full((*obs.shape[:-1], 1), np.arctanh(0.5))
    return po.Outputs(policy=po.TanhGaussian(mean=mean, log_std=jnp.full_like(mean, -30.0)))


def coin(obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))


def test_every_step_is_there_and_nothing_after_the_last():
    seen = po.play_episode(Adding(), half, jax.random.key(0), max_steps=8, show=lambda state: state["step"])
    assert int(seen.length) == 5  # 1.5, 2, 2.5, 3, 3.5
    np.testing.assert_allclose(seen.obs[:, 0], [1, 1.5, 2, 2.5, 3, 3.5, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(seen.action[:, 0], [0.5] * 5 + [0] * 3, atol=1e-6)
    np.testing.assert_allclose(seen.reward, [15, 20, 25, 30, 35, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(seen.outcome["twice"], [3, 4, 5, 6, 7, 0, 0, 0], atol=1e-4)
    assert seen.shown.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0]
    assert seen.terminated.tolist() == [False] * 4 + [True] + [False] * 3
    assert not seen.truncated.any()
    assert not seen.broken


def test_the_step_at_which_an_episode_breaks_does_not_count():
    seen = po.play_episode(Adding(breaks_at=3), half, jax.random.key(0), max_steps=8, show=lambda state: state["sum"])
    assert (int(seen.length), bool(seen.broken)) == (2, True)
    np.testing.assert_allclose(seen.obs[:, 0], [1, 1.5, 2] + [0] * 6, atol=1e-5)
    np.testing.assert_allclose(seen.shown[:, 0], [1, 1.5, 2] + [0] * 6, atol=1e-5)
    np.testing.assert_allclose(seen.reward, [15, 20] + [0] * 6, atol=1e-4)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(seen))


def test_an_episode_that_goes_on_is_shown_so_far():
    seen = po.play_episode(TimeLimit(limit=9), coin, jax.random.key(0), max_steps=4)
    assert (int(seen.length), bool(seen.truncated.any()), seen.shown) == (4, False, ())
    assert po.play_episode(TimeLimit(limit=4), coin, jax.random.key(0), max_steps=4).truncated.tolist()[-1]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_episode_that_is_counted(seed):
    env, key = chain(num_states=5, horizon=9), jax.random.key(seed)
    seen = jax.jit(lambda key: po.play_episode(env, coin, key, max_steps=30))(key)
    counted = jax.jit(lambda key: po.evaluate_policy(env, coin, key, episodes=1))(key)
    assert int(seen.length) == int(counted.length[0])
    assert float(seen.reward.sum()) == pytest.approx(float(counted.episode_return[0]))


def test_the_steps_must_be_some():
    with pytest.raises(ValueError, match="play_episode: max_steps must be at least 1"):
        po.play_episode(TimeLimit(), coin, jax.random.key(0), max_steps=0)


# Bodies


@functools.cache
def robot(name):
    """An environment, made once."""
    return brax_env(name, backend="generalized")


def truth(model, qpos):
    """Ends of the capsules and spheres by MuJoCo, and the poses of its bodies but the world."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    shown = np.flatnonzero(np.isin(model.geom_type, (SPHERE, CAPSULE)))
    half = np.where(model.geom_type == CAPSULE, model.geom_size[:, 1], 0.0)[shown, None]
    along = data.geom_xmat.reshape(-1, 3, 3)[shown, :, 2] * half
    centre = data.geom_xpos[shown]
    return np.stack([centre - along, centre + along], 1), data.xpos[1:], data.xquat[1:]


@pytest.mark.parametrize("name", ["ant", pytest.param("halfcheetah", marks=pytest.mark.slow), "pusher", "reacher"])
def test_bodies_are_where_mujoco_has_them(name):
    env = robot(name)
    model, bodies = env._env.sys.mj_model, env.bodies()
    rng = np.random.default_rng(0)
    qpos = model.qpos0 + rng.uniform(-0.7, 0.7, (6, model.nq))
    if name == "ant":
        qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    ends, position, rotation = (np.stack(x) for x in zip(*(truth(model, q) for q in qpos), strict=True))
    placed = place_bodies(bodies, position, rotation)
    assert placed.shape == (6, len(bodies.link), 2, 3)
    np.testing.assert_allclose(placed, ends, atol=1e-9)
    np.testing.assert_allclose(place_bodies(bodies, position[0], rotation[0]), ends[0], atol=1e-9)
    assert (np.ptp(placed, axis=0).max((-1, -2)) > 0)[bodies.link >= 0].any()
    assert (np.ptp(placed, axis=0) == 0)[bodies.link < 0].all()


def test_limbs_and_ground_of_known_robots():
    ant, cart, pusher = (robot(name).bodies() for name in ("ant", "inverted_pendulum", "pusher"))
    torso, *legs = (sorted(ant.link[ant.limb == limb]) for limb in range(5))
    assert set(torso) == {0}
    assert [set(leg) for leg in legs] == [{1, 2}, {3, 4}, {5, 6}, {7, 8}]
    assert (ant.ground, cart.ground, pusher.ground) == (0.0, None, pytest.approx(-0.325))
    assert cart.limb.tolist() == [-1, 0, 1]
    assert (ant.seconds_per_step, cart.seconds_per_step) == (pytest.approx(0.05), pytest.approx(0.04))


@pytest.mark.slow
@pytest.mark.parametrize("name", brax_names())
def test_every_environment_is_made_of_shapes_that_are_drawn(name):
    model = brax_env(name, backend=brax_backends(name)[0])._env.sys.mj_model
    assert set(model.geom_type.tolist()) <= {PLANE, SPHERE, CAPSULE}
    planes = model.geom_quat[model.geom_type == PLANE]
    np.testing.assert_array_equal(planes, np.tile([1.0, 0, 0, 0], (len(planes), 1)))


@pytest.fixture(scope="module")
def fall():
    """An episode of the pendulum, pushed at random, and its bodies."""
    env = robot("inverted_pendulum").posed()

    def act(obs):
        mean = jnp.zeros((*obs.shape[:-1], 1))
        return po.Outputs(policy=po.TanhGaussian(mean=mean, log_std=mean))

    run = jax.jit(lambda key: po.play_episode(env, act, key, max_steps=60, show=env.poses))
    return jax.device_get(run(jax.random.key(2))), env.bodies()


def test_the_pole_is_where_the_observation_says(fall):
    """Of the pendulum, q is the place of the cart and the angle of the pole, and both are observed."""
    seen, bodies = fall
    seen_states = slice(0, int(seen.length) + 1)
    position, rotation = (x[seen_states] for x in seen.shown)
    ends = place_bodies(bodies, position, rotation)
    x, angle = seen.obs[seen_states, 0], seen.obs[seen_states, 1]
    assert np.ptp(x) > 0.05
    assert np.ptp(angle) > 0.1
    tip = np.stack([x + 0.6 * np.sin(angle), 0 * x, 0.6 * np.cos(angle)], -1)
    np.testing.assert_allclose(ends[:, 2, 0], tip, atol=2e-3)
    np.testing.assert_allclose(ends[:, 1].mean(1), np.stack([x, 0 * x, 0 * x], -1), atol=1e-5)


def test_only_a_posed_environment_carries_poses():
    env = brax_env("inverted_pendulum", backend="mjx")
    state = jax.eval_shape(lambda key: env.reset(key)[0], jax.random.key(0))
    with pytest.raises(ValueError, match="poses: the states of this environment do not have them"):
        env.poses(state)
    posed = env.posed()
    more = jax.eval_shape(lambda key: posed.reset(key)[0], jax.random.key(0))
    assert len(more.physics) > len(state.physics)
    assert len(jax.eval_shape(lambda key: env.reset(key)[0], jax.random.key(0)).physics) == len(state.physics)
    assert [x.shape for x in jax.eval_shape(posed.poses, more)] == [(2, 3), (2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"), [(name, backend) for name in brax_names() for backend in brax_backends(name)]
)
def test_first_poses_of_every_environment_and_backend(name, backend):
    """Brax adds noise to the first quaternion of what floats and places the limbs with it as it is, not of unit length:
    up to some centimetres from where MuJoCo, which makes it one, has them."""
    env = brax_env(name, backend=backend).posed()
    model, key = env._env.sys.mj_model, jax.random.key(3)
    position, rotation = jax.jit(lambda key: env.poses(env.reset(key)[0]))(key)
    qpos = np.asarray(jax.jit(lambda key: env._env.reset(key).pipeline_state.q)(key))
    ends, _, turned = truth(model, qpos)
    floats = (model.jnt_type == mujoco.mjtJoint.mjJNT_FREE).any() and backend != "mjx"
    np.testing.assert_allclose(np.abs((turned * rotation).sum(-1)), 1.0, atol=1e-5)
    np.testing.assert_allclose(place_bodies(env.bodies(), position, rotation), ends, atol=0.06 if floats else 2e-4)
