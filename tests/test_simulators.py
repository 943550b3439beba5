"""Simulators of Gymnasium's: every field of what is gathered, what is learnt from it, whole episodes."""

import functools
import os
import signal
import sys
from dataclasses import dataclass, replace

import counting_simulator as known
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import algorithms, driver, networks, normalization, simulators, tasks
from polopt_jax.envs import Box, Discrete, EnvStep, MultiDiscrete
from polopt_jax.simulators import Gathered, SimulatorError, _episodes

TRUE, FALSE = True, False


def hosted_on(fleet, recipe=algorithms.reinforce, *, num_steps, **transforms):
    sim = fleet.simulator
    network = networks.mlp_actor_critic(sim.obs_shape, sim.action_space, hidden=(4,))
    return simulators.from_simulators(recipe, fleet, network, num_steps=num_steps, **transforms)


def initial(hosted, seeds=1):
    return jax.vmap(hosted.init)(driver.seed_keys(0, seeds))


def linear(obs):
    """A policy of two actions that reads the first feature, and a value that reads both."""
    logits = jnp.stack([obs[..., 0], -obs[..., 1]], -1)
    return po.Outputs(policy=po.Categorical(logits=logits), value=obs @ jnp.array([2.0, 0.5]))


# --- what is gathered ------------------------------------------------------------------------------------------------

STEPS = [  # (episode, step) before and after, reward, terminated, truncated
    ((0, 0), (0, 1), 1, FALSE, FALSE),
    ((0, 1), (0, 2), 2, FALSE, FALSE),
    ((0, 2), (0, 3), 3, TRUE, FALSE),
    ((1, 0), (1, 1), 11, FALSE, FALSE),
    ((1, 1), (1, 2), 12, FALSE, TRUE),
    ((2, 0), (2, 1), 21, TRUE, FALSE),  # both at once: no reward can follow
    ((3, 0), (3, 1), 31, FALSE, FALSE),
    ((3, 1), (3, 2), 32, FALSE, FALSE),
]


@pytest.mark.parametrize("vector", [simulators.sync_vector, simulators.async_vector])
def test_every_field_of_what_is_gathered(vector):
    with simulators.fleet(simulators.simulator(known.Counting), num_envs=2, seeds=(0, 7), vector=vector) as fleet:
        hosted = hosted_on(fleet, num_steps=8)
        state = initial(hosted, 2)
        given, told = hosted.gather(state, 0)
        again, told_again = hosted.gather(state, 1)
        like = hosted.example(state)
    obs, next_obs, reward, terminated, truncated = (np.array(x) for x in zip(*STEPS, strict=True))
    for seed in range(2):
        for b in range(2):
            np.testing.assert_array_equal(given.obs[seed, :, b], obs)
            np.testing.assert_array_equal(given.next_obs[seed, :, b], next_obs)
            np.testing.assert_array_equal(given.reward[seed, :, b], reward)
            np.testing.assert_array_equal(given.terminated[seed, :, b], terminated)
            np.testing.assert_array_equal(given.truncated[seed, :, b], truncated)
    assert given.mask.all()
    assert given.begun.all()
    assert (given.action.min(), given.action.max()) == (0, 1)
    assert {name: x.tolist() for name, x in told.items()} == {
        "episode/finished": [6.0, 6.0],
        "episode/return_sum": [2 * (6 + 23 + 21)] * 2,
        "episode/length_sum": [12.0, 12.0],
        "nonfinite_steps": [0.0, 0.0],
    }
    assert again.obs[0, 0].tolist() == [[3, 2], [3, 2]], "it goes on where it was"
    assert not again.begun.any()
    assert told_again["episode/return_sum"][0] == 2 * ((31 + 32 + 33) + (41 + 42) + 51 + (61 + 62 + 63))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), given) == jax.tree.map(lambda x: (x.shape, x.dtype), like)


def test_gae_of_what_is_gathered_is_that_of_a_loop():
    """At a termination nothing follows, at a truncation the value of the true final observation does."""
    with simulators.fleet(simulators.simulator(known.Counting), num_envs=3) as fleet:
        given, _ = (made := hosted_on(fleet, num_steps=8)).gather(initial(made), 0)
    rollout = simulators.rollout_of(linear, jax.tree.map(lambda x: x[0], given))
    advantage, _ = po.gae(rollout, gamma=0.9, lambda_=0.8)
    value = lambda place: 2.0 * place[0] + 0.5 * place[1]  # noqa: E731
    expected, following = np.zeros(8), 0.0
    for t in reversed(range(8)):
        before, after, reward, terminated, truncated = STEPS[t]
        delta = reward + 0.9 * (0 if terminated else value(after)) - value(before)
        following = delta + 0.9 * 0.8 * (0 if terminated or truncated else following)
        expected[t] = following
    np.testing.assert_allclose(advantage, np.tile(expected[:, None], 3), rtol=1e-5)
    follows = [0.0 if terminated else value(after) for _, after, _, terminated, _ in STEPS]
    np.testing.assert_allclose(rollout.next_value, np.tile(np.array(follows)[:, None], 3))
    logits = np.array([[before[0], -before[1]] for before, *_ in STEPS], float)
    law = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for b in range(3):
        np.testing.assert_allclose(rollout.log_prob[:, b], law[np.arange(8), given.action[0, :, b]], rtol=1e-5)


def test_decisions_are_taken_on_what_is_made_of_the_observations():
    """1/2 - obs is positive before the first step of an episode alone; the policy is sure of 0 there, else of 1."""
    network = networks.Network(
        init=lambda key: {"sharpness": jnp.float32(1e4)},
        apply=lambda params, obs: po.Outputs(
            policy=po.Categorical(logits=params["sharpness"] * jnp.stack([obs[..., 1], -obs[..., 1]], -1)),
            value=obs[..., 0],
        ),
    )
    halves = normalization.ObsTransform(lambda obs: (), lambda state, obs: 0.5 - obs, lambda state, obs, mask: state)
    with simulators.fleet(simulators.simulator(known.Counting), num_envs=2) as fleet:
        hosted = simulators.from_simulators(algorithms.ppo, fleet, network, num_steps=8, observations=halves)
        given, _ = hosted.gather(initial(hosted), 0)
    np.testing.assert_array_equal(given.action[0, :, 1], [before[1] > 0 for before, *_ in STEPS])


def test_every_step_is_drawn_anew():
    sim = simulators.simulator(known.Counting)
    network = networks.mlp_actor_critic(sim.obs_shape, sim.action_space, hidden=(4,))
    with simulators.fleet(sim, num_envs=64) as fleet:
        hosted = simulators.from_simulators(algorithms.reinforce, fleet, network, num_steps=3)
        state = initial(hosted)
        given, _ = hosted.gather(state, 0)
    for step in range(2):
        same = (given.action[0, step] == given.action[0, step + 1]).mean()
        assert 0.2 < same < 0.8, "the first policy is nearly uniform"
    key = jax.random.split(state.key[0], 3)[1]  # that of `collect`: the others are the state's and the step's
    law = network.apply(jax.tree.map(lambda x: x[0], state.params), jnp.zeros((64, 2))).policy
    np.testing.assert_array_equal(given.action[0, 0], law.sample(seed=jax.random.split(key)[0]))


def test_what_breaks_is_masked_out_and_begins_anew():
    with simulators.fleet(simulators.simulator(known.Breaking), num_envs=1) as fleet:
        given, told = (made := hosted_on(fleet, algorithms.actor_critic, num_steps=6)).gather(initial(made), 0)
    column = {name: getattr(given, name)[0, :, 0].tolist() for name in given.__dataclass_fields__ if name != "begun"}
    assert column["obs"] == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [3, 0]]
    assert column["next_obs"] == [[0, 1], [0, 1], [1, 1], [1, 2], [2, 0], [3, 1]]
    assert column["mask"] == [TRUE, FALSE, TRUE, TRUE, FALSE, TRUE]
    assert column["reward"] == [1, 0, 11, 12, 0, 31]
    assert column["truncated"] == [TRUE, TRUE, FALSE, TRUE, TRUE, FALSE], "nothing is bootstrapped through a break"
    assert not any(column["terminated"])
    assert [float(told[name][0]) for name in ("episode/finished", "episode/return_sum", "nonfinite_steps")] == [
        1,
        23,
        2,
    ]


# --- spaces ----------------------------------------------------------------------------------------------------------


def test_actions_are_sent_as_the_simulator_takes_them():
    low, high = np.array([[-2.0, 3.0], [-np.inf, 0.0]]), np.array([[2.0, 4.0], [np.inf, np.inf]])

    class Reaching(known.Counting):
        action_space = gymnasium.spaces.Box(low, high, dtype=np.float64)

    sim = simulators.simulator(Reaching)
    assert sim.action_space == Box(4)
    sent = sim.send(np.array([[0.5, -1.0, 30.0, -2.0], [-9.0, 9.0, -30.0, 2.0]]))
    np.testing.assert_array_equal(sent, [[[1.0, 3.0], [30.0, 0.0]], [[-2.0, 4.0], [-30.0, 2.0]]])
    assert sent.dtype == np.float64

    class Third(known.Counting):
        action_space = gymnasium.spaces.Discrete(4, start=3)

    with simulators.fleet(simulators.simulator(Third), num_envs=2) as fleet:
        assert fleet.simulator.action_space == Discrete(4)
        fleet.reset(np.ones(2, bool), [0, 1])
        fleet.step(np.array([0, 3]))
        assert [env.unwrapped.sent for env in fleet.vector.envs] == [[3], [6]]


def test_several_choices_are_sent_in_the_shape_and_from_the_numbers_of_the_simulator():
    for make, space, said, sent in (
        (known.Chosen, MultiDiscrete((2, 3)), [[1, 2], [0, 1]], [[[1, 7]], [[0, 6]]]),
        (
            known.Switched,
            MultiDiscrete((2, 2, 2, 2)),
            [[1, 0, 0, 1], [0, 1, 1, 1]],
            [[[1, 0], [0, 1]], [[0, 1], [1, 1]]],
        ),
    ):
        with simulators.fleet(simulators.simulator(make), num_envs=2) as fleet:
            assert fleet.simulator.action_space == space
            fleet.reset(np.ones(2, bool), [0, 1])
            fleet.step(np.array(said))
            for env, wanted in zip(fleet.vector.envs, sent, strict=True):
                (arrived,) = env.unwrapped.sent
                assert arrived.tolist() == wanted
                assert env.action_space.contains(arrived)


def test_observations_are_floats_or_one_hot():
    sim = simulators.simulator(known.Drawing)
    assert sim.obs_shape == (20,)
    assert sim.observe(np.array([3, 22])).argmax(1).tolist() == [0, 19]
    assert sim.observe(np.array([3])).sum() == 1
    outside = sim.observe(np.array([1, 2, 3, 23]))
    assert np.isnan(outside).all(1).tolist() == [True, True, False, True], "numbers that are none of its own"
    picture = simulators.simulator(known.Aiming)
    assert picture.obs_shape == (1, 1)
    with np.errstate(all="raise"):
        assert np.isinf(simulators.simulator(known.Counting).observe(np.array([[1e300, 0.0]])))[0, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("CartPol-v1", "doesn't exist. Did you mean: `CartPole`"),
        ("counting_simulator:Missing", "has no attribute 'Missing'"),
        ("nowhere_at_all:Env-v0", "nowhere_at_all:Env-v0 cannot be imported: No module named 'nowhere_at_all'$"),
        (known.failing, r"failing cannot be made: KeyError: 'nothing' \(counting_simulator.py, line \d+\)"),
        (known.Nested, r"observations must be a Box or a Discrete; they are Dict\('position': Discrete\(3\)\)"),
        (known.Spoken, "actions must be a Discrete, a MultiDiscrete, a MultiBinary or a Box of floats; they are Text"),
        (known.Old, r"step must return \(obs, reward, terminated, truncated, info\); it returned a tuple of 4"),
        (known.Outside, r"reset must return observations of its space; it returned np.int64\(-1\)"),
        (known.Wider, r"reset must return observations of its space's shape \(2,\); it is \(3,\)"),
        (known.Unrewarded, "step must return a finite number as the reward; it is None"),
    ],
)
def test_what_is_no_simulator_is_told(make, said):
    with pytest.raises(ValueError, match=said):
        simulators.simulator(make)


def test_what_makes_something_else_is_told():
    with pytest.raises(TypeError, match=r"nothing must make a gymnasium.Env; it made a int"):
        simulators.simulator(known.nothing)


def test_names_of_gymnasiums_and_of_ones_own():
    for name in ("counting_simulator:Counted-v0", "counting_simulator:Counting", "Counted-v0"):
        assert isinstance(simulators.simulator(name).make().unwrapped, known.Counting)


def test_gymnasium_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(simulators.MissingGymnasium, match=r"pip install 'polopt-jax\[gymnasium\]'"):
        simulators.simulator("CartPole-v1")


# --- what is learnt --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PureLine:
    """`known.Line` as a pure function."""

    terminated: bool

    obs_shape = (2,)
    action_space = Discrete(1)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(2)

    def step(self, state, action, key):
        t = state + 1
        over, real = t == 5, t.astype(jnp.float32)
        return EnvStep(
            state=t,
            obs=jnp.stack([real, real**2]),
            reward=real,
            terminated=over & self.terminated,
            truncated=over & (not self.terminated),
        )


@pytest.mark.parametrize(
    ("recipe", "terminated"),
    [("ppo", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("actor_critic", "trpo"))],
)
def test_a_run_is_that_of_the_same_world_as_a_pure_function(recipe, terminated):
    """With a single action nothing is left to chance but parameters and shuffles, which are drawn alike."""
    env, learn = PureLine(terminated), functools.partial(getattr(algorithms, recipe), lambda_=0.7)
    network = networks.mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    pure = learn(tasks.control_task(env, network, num_envs=8, num_steps=7))
    expected = driver.prepare(pure, driver.seed_keys(3, 1), chunk_updates=3)
    *_, wanted = driver.chunks(expected, 2)
    make = functools.partial(known.Line, terminated)
    with simulators.fleet(simulators.simulator(make), num_envs=8, seeds=(3,)) as fleet:
        hosted = simulators.from_simulators(learn, fleet, network, num_steps=7)
        *_, found = driver.chunks(driver.prepare(hosted, driver.seed_keys(3, 1), chunk_updates=3), 2)
    (ours, _), (theirs, _) = found.state.collect_state, wanted.state.collect_state
    pairs = [
        (found.state.params, wanted.state.params),
        (ours.normalizer, theirs.normalizer),
        (ours.return_scale, theirs.return_scale),
    ]
    for one, other in pairs:
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)
    times = np.arange(6 * 7) % 5
    assert ours.normalizer.count.tolist() == [6 * 7 * 8]
    np.testing.assert_allclose(ours.normalizer.mean[0], [times.mean(), (times**2).mean()], rtol=1e-5)
    assert found.metrics.keys() == wanted.metrics.keys()
    for name in ("episode/finished", "episode/return_sum", "episode/length_sum", "nonfinite_steps"):
        np.testing.assert_allclose(found.metrics[name], wanted.metrics[name])


@pytest.mark.parametrize("recipe", ["reinforce", "actor_critic", "npg", "trpo", "ppo"])
def test_every_recipe_takes_simulators(recipe):
    with simulators.fleet(simulators.simulator(known.Counting), num_envs=8) as fleet:
        hosted = hosted_on(fleet, getattr(algorithms, recipe), num_steps=3)
    state = jax.eval_shape(hosted.init, jax.random.key(0))
    like = jax.tree.map(lambda x: x[0], hosted.example(initial(hosted)))
    after, metrics = jax.eval_shape(hosted.learn, state, like)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"kl_old_new", "entropy"} <= metrics.keys()


def test_what_is_best_is_learnt():
    """The best action is 0.5 for a sign of 1, and -0.5 for -1: 6 and 4 of [3, 7]. A uniform one earns some -2.3."""
    sim = simulators.simulator(known.Aiming)
    network = networks.mlp_actor_critic(sim.obs_shape, sim.action_space, hidden=(8,), initial_log_std=0.0)
    recipe = functools.partial(algorithms.ppo, learning_rate=2e-2, num_minibatches=2, entropy_weight=0.0)
    with simulators.fleet(sim, num_envs=16) as fleet:
        hosted = simulators.from_simulators(
            recipe, fleet, network, num_steps=8, observations=normalization.raw_observations()
        )
        *_, last = driver.chunks(driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=30), 1)
    params = jax.tree.map(lambda x: x[0], last.state.params)
    signs = jnp.array([[[1.0]], [[-1.0]]])
    mean = network.apply(params, signs).policy.mean[..., 0]
    np.testing.assert_allclose(sim.send(np.asarray(mean)[:, None])[:, 0], [6, 4], atol=0.3)
    reward = last.metrics["episode/return_sum"] / last.metrics["episode/finished"]
    assert reward[0, 0] < -2
    assert reward[0, -1] > -0.5


@pytest.mark.slow
def test_seeds_side_by_side_are_those_alone():
    sim = simulators.simulator(known.Aiming)

    def of(seeds):
        with simulators.fleet(sim, num_envs=4, seeds=seeds) as fleet:
            hosted = hosted_on(fleet, num_steps=5)
            run = driver.prepare(hosted, driver.seed_keys(seeds[0], len(seeds)), chunk_updates=3)
            (chunk,) = driver.chunks(run, 1)
        return chunk

    both, alone = of((4, 5)), of((5,))
    for x, y in zip(jax.tree.leaves(both.state.params), jax.tree.leaves(alone.state.params), strict=True):
        np.testing.assert_allclose(x[1], y[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both.metrics["episode/return_sum"][1], alone.metrics["episode/return_sum"][0])
    assert not np.allclose(*both.metrics["episode/return_sum"])


def test_simulators_that_begin_later_draw_other_numbers_and_carry_nothing_over():
    sim = simulators.simulator(known.Drawing)
    first = {}
    for update in (0, 9):
        with simulators.fleet(sim, num_envs=4, seeds=(0, 1)) as fleet:
            hosted = hosted_on(fleet, num_steps=3)
            given, _ = hosted.gather(initial(hosted, 2), update)
        assert given.begun.all()
        first[update], other = given.obs[:, 0].argmax(-1).tolist()
        assert first[update] != other, "each seed has numbers of its own"
    assert first[0] != first[9]


@pytest.mark.parametrize("begun", [True, False])
def test_the_running_return_is_that_of_the_episodes_that_run(begun):
    """Rewards of 1, γ = 1/2: the running sum after two steps is 1.5, and with 8 before 3.5. Old sums stay counted."""
    with simulators.fleet(simulators.simulator(known.Counting), num_envs=2) as fleet:
        hosted = hosted_on(fleet, functools.partial(algorithms.reinforce, gamma=0.5), num_steps=2)
        state = jax.tree.map(lambda x: x[0], initial(hosted))
    flags, zeros = jnp.zeros((2, 2), bool), jnp.zeros((2, 2, 2))
    given = Gathered(
        obs=zeros, action=jnp.zeros((2, 2), int), reward=jnp.ones((2, 2)), terminated=flags, truncated=flags,
        next_obs=zeros, mask=~flags, begun=jnp.bool_(begun),
    )  # fmt: skip
    task_state, rest = state.collect_state
    scale = task_state.return_scale
    scale = replace(scale, running=jnp.full(2, 8.0), stats=replace(scale.stats, count=jnp.float32(6)))
    state = replace(state, collect_state=(replace(task_state, return_scale=scale), rest))
    after, _ = jax.jit(hosted.learn)(state, given)
    scale = after.collect_state[0].return_scale
    np.testing.assert_allclose(scale.running, [1.5 if begun else 3.5] * 2)
    assert float(scale.stats.count) == 10


def test_a_fleet_of_other_seeds_than_the_keys_is_told():
    with simulators.fleet(simulators.simulator(known.Counting), num_envs=2, seeds=(0, 1)) as fleet:
        hosted = hosted_on(fleet, num_steps=2)
        with pytest.raises(ValueError, match="what gathers for 2 seeds needs as many keys; they are 3"):
            driver.prepare(hosted, driver.seed_keys(0, 3), chunk_updates=1)
        with pytest.raises(ValueError, match="num_steps"):
            hosted_on(fleet, num_steps=0)


# --- the fleet -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*ERROR")  # Gymnasium tells of a process what happened in it
@pytest.mark.parametrize("vector", [simulators.sync_vector, simulators.async_vector])
def test_a_simulator_that_fails_is_named(vector):
    with simulators.fleet(simulators.simulator(known.Stuck), num_envs=2, vector=vector) as fleet:
        hosted = hosted_on(fleet, num_steps=5)
        state = initial(hosted)
        with pytest.raises(SimulatorError, match=r"Stuck: step failed: RuntimeError: the motor is stuck"):
            hosted.gather(state, 0)


def test_an_interrupt_is_not_for_the_processes():
    """Ctrl-C goes to all of them; the run goes on until its chunk is done."""
    sim = simulators.simulator(known.Counting)
    with simulators.fleet(sim, num_envs=2, vector=simulators.async_vector) as fleet:
        fleet.reset(np.ones(2, bool), [0, 1])
        for process in fleet.vector.processes:
            os.kill(process.pid, signal.SIGINT)
        assert fleet.step(np.zeros(2, int)).reward.tolist() == [1, 1]
        processes = fleet.vector.processes
    assert not any(process.is_alive() for process in processes)


def test_no_process_outlives_an_error():
    sim, processes = simulators.simulator(known.Counting), []

    def use():
        with simulators.fleet(sim, num_envs=2, vector=simulators.async_vector) as fleet:
            processes.extend(fleet.vector.processes)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)


def test_wrong_fleets_are_told():
    sim = simulators.simulator(known.Counting)
    own = lambda make, rows: gymnasium.vector.SyncVectorEnv([make] * rows)  # noqa: E731
    few = lambda make, rows: simulators.sync_vector(make, rows - 1)  # noqa: E731
    for wrong, said in (
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 1, "seeds": ()}, "at least one"),
        ({"num_envs": 2, "vector": own}, "with AutoresetMode.DISABLED; it made one with AutoresetMode.NEXT_STEP"),
        ({"num_envs": 2, "vector": few}, "one of 2 simulators; it made one of 1"),
    ):
        with pytest.raises(ValueError, match=said), simulators.fleet(sim, **wrong):
            pass

    class Unready(known.Counting):
        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed)
            return (obs if self.time == 0 and seed == 0 else obs * np.nan), info

    with (
        pytest.raises(SimulatorError, match="its first observation is not finite"),
        simulators.fleet(simulators.simulator(Unready), num_envs=1) as fleet,
    ):
        fleet.reset(np.ones(1, bool), [5])


# --- whole episodes --------------------------------------------------------------------------------------------------


def only(obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))


def test_every_episode_that_begins_is_counted_once(monkeypatch):
    """Lengths are drawn from the episodes' own numbers: they are the same however many are played side by side."""
    sim, key = simulators.simulator(known.Drawing), jax.random.key(3)
    wide = simulators.evaluate_simulator(sim, only, key, episodes=30)
    monkeypatch.setattr(_episodes, "SIDE_BY_SIDE", 4)
    narrow = simulators.evaluate_simulator(sim, only, key, episodes=30)
    assert wide.length.tolist() == narrow.length.tolist()
    assert len(set(wide.length.tolist())) > 8
    np.testing.assert_array_equal(narrow.episode_return, narrow.length**2)
    assert narrow.ended.all()
    assert not narrow.broken.any()
    other = simulators.evaluate_simulator(sim, only, jax.random.key(4), episodes=30)
    assert other.length.tolist() != wide.length.tolist()
    seen = simulators.simulate_episode(sim, only, key, max_steps=50)
    assert int(seen.length) == wide.length[0]
    assert float(seen.reward.sum()) == wide.episode_return[0]
    assert seen.terminated.tolist() == [False] * (int(seen.length) - 1) + [True]


@pytest.mark.parametrize("make", ["counting_simulator:Drawn-v0", known.drawn])
def test_an_episode_is_seen_in_pictures(make):
    sim, key = simulators.simulator(make), jax.random.key(3)
    assert sim.frames_per_second == 50
    seen = simulators.simulate_episode(sim.filmed(), only, key, show=lambda env: env.render()[0, 0])
    drawn = int(seen.length)
    assert seen.shown.tolist() == [[10 * left] * 3 for left in range(drawn, -1, -1)]
    assert seen.reward.tolist() == [drawn] * drawn
    for other in (known.Drawing, known.Drawn):
        with pytest.raises(ValueError, match="draws nothing: it has no render_mode 'rgb_array'"):
            simulators.simulator(other).filmed()


def test_episodes_that_do_not_end_are_given_up_and_those_that_break_are_told():
    sim = simulators.simulator(known.Endless)
    act = lambda obs: linear(obs)  # noqa: E731
    short = simulators.evaluate_simulator(sim, act, jax.random.key(0), episodes=3, max_steps=7)
    assert (short.length.tolist(), short.ended.any(), short.broken.any()) == ([7, 7, 7], False, False)
    assert np.isnan(short.episode_return).all()
    long = simulators.evaluate_simulator(sim, act, jax.random.key(0), episodes=2)
    assert (long.length.tolist(), long.ended.any(), long.broken.all()) == ([99, 99], False, True)
    seen = simulators.simulate_episode(sim, act, jax.random.key(0), max_steps=200)
    assert (int(seen.length), bool(seen.broken), seen.obs.shape) == (99, True, (100, 2))
    for call in (simulators.evaluate_simulator, simulators.simulate_episode):
        with pytest.raises(ValueError, match="max_steps"):
            call(sim, act, jax.random.key(0), max_steps=0)
