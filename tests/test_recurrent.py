"""Policies with a memory: what is remembered is what a loop in plain Python would have remembered."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import polopt_jax as po
from polopt_jax import algorithms, envs, networks, recurrent, tasks, training
from polopt_jax.envs import Box, Discrete, EnvStep, MemoryEnv, Remembered, TimeLimit
from polopt_jax.normalization import of_seen, raw_observations, standardized_observations
from polopt_jax.rows import shuffled_decisions, shuffled_parts


class Told:
    """A bit is shown at the first of `length` steps and to be said at the last."""

    obs_shape, action_space = (2,), Discrete(2)

    def __init__(self, length=4, *, cut=False):
        self.length, self.cut = length, cut

    def seen(self, state):
        bit, time = state
        return jnp.stack([jnp.where(time == 0, 2.0 * bit - 1, 0.0), 1.0 * (time == self.length - 1)])

    def reset(self, key):
        state = jax.random.bernoulli(key).astype(jnp.float32), jnp.int32(0)
        return state, self.seen(state)

    def step(self, state, action, key):
        bit, time = state
        ends = time == self.length - 1
        state = bit, time + 1
        never = jnp.bool_(False)
        reward = jnp.where(ends, (action == bit).astype(jnp.float32), 0.0)
        flags = (never, ends) if self.cut else (ends, never)
        return EnvStep(state=state, obs=self.seen(state), reward=reward, terminated=flags[0], truncated=flags[1])


INITIAL = np.array([0.5, -0.25, 0.125])


def leaky():
    """A network that is written down in two lines, with an initial memory that is not 0."""

    def init(key):
        keys = jax.random.split(key, 4)
        shapes = {"w": (3, 3), "u": (2, 3), "p": (3, 2), "v": (3,)}
        return {name: jax.random.normal(k, shapes[name]) for k, name in zip(keys, shapes, strict=True)}

    return recurrent.Recurrent(
        init=init,
        initial=jnp.asarray(INITIAL, jnp.float32),
        torso=lambda params, obs: obs @ params["u"],
        core=lambda params, memory, x: (jnp.tanh(memory @ params["w"] + x),) * 2,
        head=lambda params, x: po.Outputs(policy=po.Categorical(logits=x @ params["p"]), value=x @ params["v"]),
    )


def acted(network, env, params, *, num_envs=5, num_steps=7, windows=2, key=3):
    """Rollouts of some windows, one after the other."""
    act = lambda obs: network.apply(params, obs)  # noqa: E731
    loop, rollouts = po.start(env, jax.random.key(1), num_envs=num_envs), []
    for window in range(windows):
        loop, rollout = po.unroll(env, act, loop, jax.random.key(key + window), num_steps=num_steps)
        rollouts.append(rollout)
    return rollouts


def remembered_in_numpy(params, rollouts, network_step):
    """Values `[T, B]` of a loop in float64 that forgets where an episode ended."""
    params = {name: np.asarray(x, np.float64) for name, x in params.items()}
    seen = np.concatenate([np.asarray(r.obs.seen, np.float64) for r in rollouts])
    done = np.concatenate([np.asarray(r.terminated | r.truncated) for r in rollouts])
    following = np.concatenate([np.asarray(r.next_obs.seen, np.float64) for r in rollouts])
    memory = np.tile(INITIAL, (seen.shape[1], 1))
    values, after, memories = [], [], []
    for t in range(len(seen)):
        memories.append(memory)
        memory = network_step(params, memory, seen[t])
        values.append(memory @ params["v"])
        after.append(network_step(params, memory, following[t]) @ params["v"])
        memory = np.where(done[t][:, None], INITIAL, memory)
    return np.stack(values), np.stack(after), np.stack(memories), done


def leak(params, memory, seen):
    return np.tanh(memory @ params["w"] + seen @ params["u"])


@pytest.mark.parametrize("cut", [False, True])
def test_a_rollout_remembers_what_plain_python_does(cut):
    env, network = recurrent.with_memory(Told(cut=cut), leaky())
    params = network.init(jax.random.key(0))
    rollouts = acted(network, env, params)
    values, after, memories, done = remembered_in_numpy(params, rollouts, leak)
    assert done.any()
    assert not done.all()
    joined = lambda get: np.concatenate([np.asarray(get(r)) for r in rollouts])  # noqa: E731
    np.testing.assert_allclose(joined(lambda r: r.value), values, atol=1e-5)
    np.testing.assert_allclose(joined(lambda r: r.obs.memory), memories, atol=1e-5)
    bootstrapped = np.where(done & (not cut), 0, after)  # at a time limit: the last observation, with its memory
    np.testing.assert_allclose(joined(lambda r: r.next_value), bootstrapped, atol=1e-5)
    begins = joined(lambda r: r.obs.begins)
    assert begins[0].all()
    np.testing.assert_array_equal(begins[1:], done[:-1])
    assert not joined(lambda r: r.next_obs.begins).any()


def cells():
    space = Box(2)
    return {
        "gru": recurrent.gru_actor_critic((2,), Discrete(2), memory=6, hidden=(5,)),
        "shared": recurrent.shared_gru_actor_critic((2,), Discrete(2), memory=6, hidden=()),
        "lstm": recurrent.gru_actor_critic((2,), Discrete(2), memory=6, hidden=(5, 4), cell=nn.OptimizedLSTMCell),
        "real": recurrent.shared_gru_actor_critic((2,), space, gaussian=po.TanhGaussian, memory=4),
        "own": leaky(),
    }


class Real(Told):
    """The same with real actions."""

    action_space = Box(2)

    def step(self, state, action, key):
        return super().step(state, action[0] > 0, key)


@pytest.mark.parametrize(
    "name", ["gru", "lstm", "own", *(pytest.param(x, marks=pytest.mark.slow) for x in ("shared", "real"))]
)
def test_whole_rows_say_what_was_said_when_they_were_acted(name):
    env, network = recurrent.with_memory(Real(3) if name == "real" else Told(3), cells()[name])
    params = network.init(jax.random.key(0))
    for rollout in acted(network, env, params):
        batch = po.to_batch(rollout, advantage=jnp.zeros(rollout.reward.shape), target=rollout.reward)
        outputs = network.apply(params, batch.obs)
        assert outputs.memory is None
        np.testing.assert_allclose(outputs.policy.log_prob(batch.action), batch.log_prob, atol=2e-6)
        np.testing.assert_allclose(outputs.value, jnp.swapaxes(rollout.value, 0, 1), atol=2e-6)
        grouped = jax.tree.map(lambda x: x[None], batch.obs)  # [N, G, T]
        np.testing.assert_allclose(network.apply(params, grouped).value[0], outputs.value, atol=1e-6)


def test_policy_and_critic_are_separate_and_shared_ones_are_not():
    def moved(network):
        env, network = recurrent.with_memory(Told(3), network)
        params = network.init(jax.random.key(0))
        obs = jax.tree.map(lambda x: x[None], env.reset(jax.random.key(0))[1])
        gradient = jax.grad(lambda params: network.apply(params, obs).value.sum())(params)
        return {
            jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(gradient) if (x != 0).any()
        }

    apart = moved(recurrent.gru_actor_critic((2,), Discrete(2), memory=4))
    assert apart
    assert all("critic" in name or "value" in name for name in apart)
    assert any("core" in name and "trunk" in name for name in moved(cells()["shared"]))


def test_a_gradient_goes_back_to_where_the_episode_began_and_no_further():
    env, network = recurrent.with_memory(Told(3), leaky())
    params = network.init(jax.random.key(0))
    rollout = acted(network, env, params, windows=1, num_envs=1)[0]
    obs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rollout.obs)
    jacobian = jax.jacobian(lambda seen: network.apply(params, replace(obs, seen=seen)).value[0])(obs.seen)
    reads = np.asarray(jnp.abs(jacobian[:, 0]).sum(-1) > 0)  # [T, T]
    number = np.cumsum(np.asarray(obs.begins[0]))
    expected = (number[:, None] == number[None, :]) & np.tri(7, dtype=bool)
    np.testing.assert_array_equal(reads, expected)
    # of stored memories only that of the row's first step is read, unless an episode begins with it
    stored = jax.jacobian(lambda memory: network.apply(params, replace(obs, memory=memory)).value[0])(obs.memory)
    assert not np.asarray(stored).any()
    later = jax.tree.map(lambda x: x[:, 1:], obs)
    stored = jax.jacobian(lambda memory: network.apply(params, replace(later, memory=memory)).value[0])(later.memory)
    read = np.asarray(jnp.abs(stored[:, 0]).sum(-1) > 0)
    assert read[:2, 0].all()
    assert not read[2:].any()
    assert not read[:, 1:].any()


def parity():
    """Says 0 at even steps and 1 at odd ones: it has to count."""
    far = 20.0
    return recurrent.Recurrent(
        init=lambda key: {},
        initial=(jnp.zeros((), jnp.int32),),
        torso=lambda params, obs: obs,
        core=lambda params, memory, x: ((memory[0] + 1,), memory[0] % 2),
        head=lambda params, odd: po.Outputs(
            policy=po.Categorical(logits=far * jax.nn.one_hot(odd, 2)), value=0.0 * odd
        ),
    )


class Odd(TimeLimit):
    """Whether the action is 1 at odd steps."""

    action_space = Discrete(2)

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return replace(step, reward=jnp.where(action == jnp.int32(state) % 2, 1.0, 0.0))


def test_an_evaluation_and_an_episode_hand_memories_on():
    env, network = recurrent.with_memory(Odd(limit=5), parity())
    act = lambda obs: network.apply({}, obs)  # noqa: E731
    found = po.evaluate_policy(env, act, jax.random.key(0), episodes=4)
    assert found.episode_return.tolist() == [5.0] * 4
    episode = po.play_episode(env, po.greedy(act), jax.random.key(0), max_steps=8)
    assert episode.action.tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    assert episode.obs.memory[0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0]
    loop = po.start(env, jax.random.key(0), num_envs=3)
    loop, rollout = po.unroll(env, act, loop, jax.random.key(1), num_steps=12)  # the third begins at step 10
    assert rollout.reward.all()
    assert rollout.obs.memory[0][-2:].tolist() == [[0] * 3, [1] * 3]


def test_ppo_learns_what_has_to_be_remembered():
    def right(env, network):
        task = tasks.control_task(env, network, num_envs=64, num_steps=12)
        algorithm = algorithms.ppo(task, learning_rate=5e-3, num_minibatches=4)
        run = lambda key: training.train(algorithm.collect, algorithm.step, algorithm.init(key), updates=40)  # noqa: E731
        state, _ = jax.jit(run)(jax.random.key(0))
        found = po.evaluate_policy(env, po.greedy(algorithm.act(state)), jax.random.key(1), episodes=200)
        return float(found.episode_return.mean())

    network = recurrent.shared_gru_actor_critic((2,), Discrete(2), memory=8, hidden=(8,))
    assert right(*recurrent.with_memory(Told(), network)) == 1.0
    assert right(Told(), networks.shared_actor_critic((2,), Discrete(2), hidden=(8,))) < 0.7


def test_trpo_bounds_the_kl_of_whole_rows():
    env, network = recurrent.with_memory(Told(), recurrent.gru_actor_critic((2,), Discrete(2), memory=4, hidden=(4,)))
    task = tasks.control_task(env, network, num_envs=32, num_steps=8)
    algorithm = algorithms.trpo(task, radius=0.01, value_minibatches=4)

    def run(key):  # vmapped over seeds, too
        return training.train(algorithm.collect, algorithm.step, algorithm.init(key), updates=4)[1]

    metrics = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
    assert metrics["kl_old_new"].shape == (2, 4)
    assert (metrics["kl_old_new"] <= 0.0101).all()
    assert (metrics["kl_old_new"] > 0.001).any()


def test_a_task_standardises_what_is_seen_and_learns_from_whole_rows():
    env, network = recurrent.with_memory(Told(), leaky())
    task = tasks.control_task(env, network, num_envs=4, num_steps=6)
    assert task.shuffle is shuffled_parts
    assert (
        tasks.control_task(env, network, num_envs=4, num_steps=6, shuffle=shuffled_decisions).shuffle
        is shuffled_decisions
    )
    assert tasks.control_task(
        Told(), networks.mlp_actor_critic((2,), Discrete(2)), num_envs=4, num_steps=6
    ).shuffle is (shuffled_decisions)
    params, state = task.init_params(jax.random.key(0)), task.init(jax.random.key(1))
    for number in range(2):
        before = state.normalizer
        state, rollout, _ = task.rollout(params, state, jax.random.key(2 + number), 0.9)
    # the memory is that of a network that saw standardised observations, and was not standardised itself
    _, _, memories, _ = remembered_in_numpy(params, [rollout], leak)
    first = np.asarray(rollout.obs.memory[0])
    assert not np.allclose(first, INITIAL)
    forget = np.asarray(rollout.obs.begins)
    memory = np.where(forget[0][:, None], INITIAL, first)
    for t in range(6):
        np.testing.assert_allclose(rollout.obs.memory[t], np.where(forget[t][:, None], INITIAL, memory), atol=1e-5)
        start = np.where(forget[t][:, None], INITIAL, memory)
        memory = leak({n: np.asarray(x, np.float64) for n, x in params.items()}, start, np.asarray(rollout.obs.seen[t]))
    assert before.mean.shape == (2,)
    assert not np.allclose(
        rollout.obs.seen, acted(network, env, params, windows=1, num_envs=4, num_steps=6)[0].obs.seen
    )


def test_of_seen_leaves_the_rest():
    obs = Remembered(
        seen=jnp.array([[[1.0]], [[3.0]]]), memory=jnp.array([[[7.0]], [[8.0]]]), begins=jnp.array([[True], [False]])
    )
    one = jax.tree.map(lambda x: x[0, 0], obs)
    transform = of_seen(standardized_observations())
    state = transform.update(transform.init(one), obs, jnp.ones((2, 1), bool))
    read = transform.apply(state, obs)
    assert read.seen.ravel().tolist() == [-1.0, 1.0]
    assert read.memory.ravel().tolist() == [7.0, 8.0]
    assert read.begins.ravel().tolist() == [True, False]
    raw = of_seen(raw_observations())
    assert raw.apply(raw.init(one), obs).seen.ravel().tolist() == [1.0, 3.0]


def test_a_loop_of_ones_own_learns_too():
    env, network = recurrent.with_memory(Told(), cells()["shared"])
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))
    step = po.epochs(po.make_step((po.objective(network.apply, term), optax.adam(1e-2))), 2, 2)
    params = network.init(jax.random.key(0))
    rollout = acted(network, env, params, num_envs=6, windows=1)[0]
    advantage, target = po.gae(rollout, gamma=0.99, lambda_=0.95)
    batch = po.to_batch(rollout, advantage=advantage, target=target)
    after, _, metrics = jax.jit(step.update)(params, step.init(params), batch, jax.random.key(1))
    assert metrics["policy/approx_kl"] > 0
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), params["core"], after["core"])
    assert all(jax.tree.leaves(moved))


def test_check_env_takes_it_and_what_shows_nothing_else():
    env, _ = recurrent.with_memory(Told(), leaky())
    envs.check_env(env)
    assert isinstance(env, MemoryEnv)
    assert (env.obs_shape, env.action_space) == ((2,), Discrete(2))


def test_what_is_something_else_is_said():
    network = networks.mlp_actor_critic((2,), Discrete(2))
    with pytest.raises(TypeError, match="with_memory: network must be a Recurrent; it is a Network"):
        recurrent.with_memory(Told(), network)
    with pytest.raises(TypeError, match="with_memory: env must be an environment"):
        recurrent.with_memory(None, leaky())
    with pytest.raises(ValueError, match="action_space must be"):
        recurrent.gru_actor_critic((2,), None)
    with pytest.raises(ValueError, match="gru_actor_critic: memory must be"):
        recurrent.gru_actor_critic((2,), Discrete(2), memory=0)
    with pytest.raises(TypeError, match="shared_gru_actor_critic: hidden must be a tuple"):
        recurrent.shared_gru_actor_critic((2,), Discrete(2), hidden=4)
    with pytest.raises(TypeError, match="control_task: network must be a Network.*with_memory"):
        tasks.control_task(Told(), leaky(), num_envs=2, num_steps=2)
    env, remembers = recurrent.with_memory(Told(), leaky())
    params, loop = remembers.init(jax.random.key(0)), po.start(env, jax.random.key(0), num_envs=2)
    with pytest.raises(TypeError, match="reads Remembered observations.*it was given float32"):
        remembers.apply(params, jnp.zeros((2, 2)))
    _, wider = recurrent.with_memory(Told(), recurrent.gru_actor_critic((3,), Discrete(2)))
    with pytest.raises(ValueError, match=r"obs must have shape \[..., 3\]; it has \(2, 2\)"):
        wider.apply(wider.init(jax.random.key(0)), loop.obs)
    forgets = lambda obs: replace(remembers.apply(params, obs), memory=None)  # noqa: E731
    with pytest.raises(TypeError, match="keeps a memory, and the model's outputs have none"):
        po.unroll(env, forgets, loop, jax.random.key(0), num_steps=1)
    remembering = lambda obs: po.Outputs(policy=po.Categorical(logits=obs), memory=obs)  # noqa: E731
    with pytest.raises(TypeError, match="outputs have a memory, and the environment keeps none"):
        po.evaluate_policy(Told(), remembering, jax.random.key(0), episodes=2)
    for changed, message in (
        (lambda x: x[:, :2], r"must stay like the initial memory, float32\[2, 3\]; it is float32\[2, 2\]"),
        (lambda x: (x,), "must be like the initial memory"),
        (lambda x: x.astype(jnp.bfloat16), "bfloat16"),
    ):
        other = lambda obs: replace(said := remembers.apply(params, obs), memory=changed(said.memory))  # noqa: E731, B023
        with pytest.raises(ValueError, match=message):
            po.unroll(env, other, loop, jax.random.key(0), num_steps=1)


@pytest.mark.parametrize("make", [recurrent.gru_actor_critic, recurrent.shared_gru_actor_critic])
def test_both_are_made_of_what_was_said(make):
    network = make(
        (2,),
        Box(2),
        memory=3,
        hidden=(4, 5),
        cell=nn.OptimizedLSTMCell,
        activation=lambda x: jnp.abs(x) + 7,
        gaussian=po.TanhGaussian,
        initial_log_std=-2.5,
    )
    params = network.init(jax.random.key(0))
    assert params["head"]["log_std"].tolist() == [-2.5, -2.5]
    features = network.torso(params, jnp.ones((6, 2)))
    for name, memory in network.initial.items():
        assert [x.shape for x in memory] == [(3,), (3,)]
        assert features[name].shape == (6, 5)
        assert (features[name] >= 7).all()
    said = network.head(params, {name: jnp.ones((6, 3)) for name in network.initial})
    assert isinstance(said.policy, po.TanhGaussian)
    assert said.value.shape == (6,)


def test_outputs_of_ones_own_kind_need_no_memory():
    """Nor a field of that name: a policy and a value are enough to act."""

    class Said(NamedTuple):
        policy: Any
        value: Any

    env = TimeLimit(limit=3)
    act = lambda obs: Said(po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))), obs[..., 0])  # noqa: E731
    loop = po.start(env, jax.random.key(0), num_envs=2)
    assert po.unroll(env, act, loop, jax.random.key(1), num_steps=3)[1].reward.tolist() == [[1, 1]] * 3
    assert po.evaluate_policy(env, act, jax.random.key(0), episodes=2).episode_return.tolist() == [3, 3]
