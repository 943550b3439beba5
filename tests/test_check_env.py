"""Environments that are none are told by name: by `check_env`, and what shapes tell by `start` and `unroll` too."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import polopt_jax as po
from polopt_jax import algorithms, envs, networks, tasks, worlds
from polopt_jax.envs import Box, Discrete, EnvStep, MultiDiscrete, check_env


@dataclasses.dataclass(frozen=True)
class Walk:
    """A right one: a number that actions move; `change` makes its steps wrong."""

    obs_shape: tuple = (2,)
    action_space: object = Discrete(2)
    change: object = staticmethod(lambda step, state: step)
    begin: object = staticmethod(lambda state, obs: (state, obs))

    def reset(self, key):
        state = {"x": jax.random.normal(key), "n": jnp.int32(0)}
        return self.begin(state, self._obs(state))

    def step(self, state, action, key):
        after = {"x": state["x"] + jnp.asarray(action, jnp.float32).mean(), "n": state["n"] + 1}
        step = EnvStep(
            state=after,
            obs=self._obs(after),
            reward=after["x"],
            terminated=jnp.bool_(False),
            truncated=after["n"] >= 6,
        )
        return self.change(step, after)

    @staticmethod
    def _obs(state):
        return jnp.stack([state["x"], state["n"].astype(jnp.float32)])


def discrete(obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))


def gaussian(size):
    def act(obs):
        mean = jnp.zeros((*obs.shape[:-1], size))
        return po.Outputs(policy=po.DiagGaussian(mean=mean, log_std=mean))

    return act


def unrolled(env, act=discrete):
    """Traced and nothing more."""

    def run(key):
        return po.unroll(env, act, po.start(env, key, num_envs=3), key, num_steps=4)

    return jax.eval_shape(run, jax.random.key(0))


@pytest.mark.parametrize(
    "env",
    [
        Walk(),
        Walk(action_space=Box(3)),
        Walk(action_space=MultiDiscrete((2, 3))),
        envs.TimeLimit(limit=3),
        envs.Quadratic(),
        envs.ObsActionReward(),
        envs.chain(num_states=4, horizon=5),
        worlds.tabulate(worlds.burning_building()),
    ],
    ids=lambda env: type(env).__name__,
)
def test_what_is_right_passes(env):
    check_env(env)
    check_env(env, jax.random.key(3), num_steps=7)


def test_random_steps_are_within_every_choice():
    nums = (2, 5, 3)
    within = lambda action: jnp.where((action >= 0).all() & (action < jnp.array(nums)).all(), 0.0, jnp.nan)  # noqa: E731

    class Strict(Walk):
        def step(self, state, action, key):
            return replace(super().step(state, jnp.int32(1), key), reward=within(action))

    check_env(Strict(action_space=MultiDiscrete(nums)))


def test_an_environment_without_outcomes_need_not_say_so():
    step = Walk().step(*Walk().reset(jax.random.key(0))[:1], jnp.int32(1), jax.random.key(1))
    assert step.outcome == {}
    assert unrolled(Walk())[1].outcome == {}


STEPS = [
    (
        lambda step, state: (step.state, step.obs, step.reward, False, {}),
        TypeError,
        "EnvStep; it returned a tuple of 5",
    ),
    (lambda step, state: replace(step, reward=step.reward[None]), ValueError, r"reward must be a scalar \[\].*\[1\]"),
    (lambda step, state: replace(step, reward=jnp.int32(1)), TypeError, "reward must be a float; it is int32"),
    (
        lambda step, state: replace(step, terminated=jnp.float32(0)),
        TypeError,
        "terminated must be boolean; it is f",
    ),
    (lambda step, state: replace(step, truncated=jnp.zeros(2, bool)), ValueError, r"truncated must be a scalar \[\]"),
    (lambda step, state: replace(step, obs=jnp.zeros(3)), ValueError, "obs must stay what reset gave, float32"),
    (
        lambda step, state: replace(step, state={"x": state["x"]}),
        ValueError,
        "state must keep the structure that",
    ),
    (
        lambda step, state: replace(step, state={**state, "n": jnp.float32(0)}),
        ValueError,
        r"state\['n'\] must stay what reset gave, int32.*; it is float32",
    ),
    (lambda step, state: replace(step, outcome=3), TypeError, "outcome must be a dict of features"),
    (
        lambda step, state: replace(step, outcome={"a": jnp.zeros(2)}),
        ValueError,
        r"outcome\['a'\] must be a scalar",
    ),
]


@pytest.mark.parametrize(("change", "error", "said"), STEPS, ids=[said for _, _, said in STEPS])
def test_steps_that_are_wrong_are_told_by_check_env_and_by_the_loop(change, error, said):
    env = Walk(change=change)
    with pytest.raises(error, match=rf"Walk\.step.*{said}"):
        check_env(env)
    with pytest.raises(error, match=rf"Walk\.step.*{said}"):
        unrolled(env)
    with pytest.raises(error, match=rf"Walk\.step.*{said}"):
        jax.eval_shape(lambda key: po.evaluate_policy(env, discrete, key, episodes=2), jax.random.key(0))


def test_a_reset_returns_a_pair():
    env = Walk(begin=lambda state, obs: obs)
    for run in (check_env, unrolled):
        with pytest.raises(TypeError, match=r"Walk\.reset must return \(state, obs\); it returned float32\[.*2\]"):
            run(env)


def not_pure():
    count = iter(range(10**6))
    return lambda step, state: replace(step, reward=jnp.float32(next(count)))


@pytest.mark.parametrize(
    ("env", "error", "said"),
    [
        (Walk(obs_shape=[2]), TypeError, r"Walk\.obs_shape must be a tuple of whole numbers; it is \[2\]"),
        (Walk(obs_shape=(3,)), ValueError, r"obs must have obs_shape \[3\]; it is float32\[2\]"),
        (Walk(action_space=4), TypeError, "action_space must be a Discrete, a MultiDiscrete or a Box; it is 4"),
        (
            Walk(begin=lambda state, obs: (state, obs.astype(jnp.int32))),
            TypeError,
            r"obs must be float32 .*; it is int32\[2\]",
        ),
        (Walk(change=not_pure()), ValueError, r"Walk\.step must be a pure function: with one key \.reward came out"),
        (
            Walk(change=lambda step, state: replace(step, reward=jnp.where(state["n"] > 3, jnp.nan, 0.0))),
            ValueError,
            "not finite after random step 3",
        ),
        (
            Walk(change=lambda step, state: replace(step, terminated=step.truncated)),
            ValueError,
            "random step 5 is terminated and truncated",
        ),
    ],
)
def test_what_only_check_env_sees(env, error, said):
    with pytest.raises(error, match=said):
        check_env(env)


def test_a_reset_that_is_not_pure():
    numbers = np.random.default_rng(0)
    env = Walk(begin=lambda state, obs: ({**state, "x": jnp.float32(numbers.random())}, obs))
    with pytest.raises(ValueError, match=r"Walk\.reset must be a pure function: with one key \[0\]\['x'\] came out"):
        check_env(env)


def test_nothing_is_asked_of_an_episode_that_ended():
    """A time limit comes after six steps; what would break after the seventh is never met."""
    check_env(Walk(change=lambda step, state: replace(step, reward=jnp.where(state["n"] > 6, jnp.nan, 0.0))))


def test_it_looks_at_as_many_steps_as_it_is_told():
    breaks = Walk(change=lambda step, state: replace(step, reward=jnp.where(state["n"] > 3, jnp.nan, 0.0)))
    check_env(breaks, num_steps=3)
    with pytest.raises(ValueError, match="check_env: num_steps must be at least 1"):
        check_env(Walk(), num_steps=0)


@pytest.mark.parametrize(
    ("space", "act", "error", "said"),
    [
        (Box(3), discrete, TypeError, r"takes 3 real numbers.*DiagGaussian or TanhGaussian.*are int32\[3\]"),
        (Discrete(2), gaussian(1), TypeError, r"whole numbers from 0 to 1.*Categorical.*are float32\[3, 1\]"),
        (MultiDiscrete((2, 3)), gaussian(2), TypeError, r"takes 2 whole numbers.*a MultiCategorical.*float32\[3, 2\]"),
        (MultiDiscrete((2, 3)), discrete, ValueError, r"takes actions of shape \[3, 2\] .*; they are int32\[3\]"),
        (Box(3), gaussian(2), ValueError, r"takes actions of shape \[3, 3\] .*; they are float32\[3, 2\]"),
        (Discrete(2), lambda obs: obs, TypeError, r"unroll: a model must return po\.Outputs.*it returned float32"),
    ],
)
def test_policies_that_do_not_fit_the_environment(space, act, error, said):
    with pytest.raises(error, match=said):
        unrolled(Walk(action_space=space), act)
    with pytest.raises(error, match=said.replace("unroll", "evaluate_policy")):
        jax.eval_shape(
            lambda key: po.evaluate_policy(Walk(action_space=space), act, key, episodes=3), jax.random.key(0)
        )


@pytest.mark.slow
def test_brax_is_an_environment():
    check_env(envs.brax_env("inverted_pendulum"), num_steps=3)


def test_an_observation_may_have_flags_beside_its_numbers():
    """And the task leaves them as they are, so that what is legal stays so."""
    tree = lambda obs: {"x": obs, "legal": jnp.ones(3, bool).at[2].set(False), "turn": jnp.int32(2)}  # noqa: E731
    begin, change = lambda state, obs: (state, tree(obs)), lambda step, state: replace(step, obs=tree(step.obs))  # noqa: E731
    env = Walk(begin=begin, change=change, action_space=Discrete(3))
    check_env(env)

    def apply(params, obs):
        logits = obs["x"] @ params + jnp.zeros(3)
        return po.Outputs(policy=po.Categorical(logits=logits).only(obs["legal"]), value=obs["x"].sum(-1))

    network = networks.Network(init=lambda key: jnp.zeros((2, 3)), apply=apply)
    task = tasks.control_task(env, network, num_envs=4, num_steps=8)
    state = task.init(jax.random.key(0))
    for key in jax.random.split(jax.random.key(1), 3):
        state, rollout, _ = task.rollout(jnp.zeros((2, 3)), state, key, 0.99)
    assert rollout.obs["legal"].dtype == bool
    assert not rollout.obs["legal"][..., 2].any()
    assert rollout.obs["legal"][..., :2].all()
    assert set(np.unique(rollout.action)) == {0, 1}
    assert jnp.isfinite(rollout.log_prob).all()


class SelfResetting(Walk):
    """As gymnax's `step` does it: a first observation stands where the last of the episode was."""

    def step(self, state, action, key):
        step = super().step(state, action, key)
        fresh, obs = self.reset(key)
        pick = lambda new, old: jnp.where(step.truncated, new, old)  # noqa: E731
        return replace(step, state=jax.tree.map(pick, fresh, step.state), obs=pick(obs, step.obs))


def test_an_environment_that_resets_itself_is_suspected():
    with pytest.warns(
        UserWarning, match="SelfResetting: the last observation of an episode depends on the key, and no"
    ):
        check_env(SelfResetting())


def test_an_environment_may_have_methods_of_its_own():
    class Own(Walk):
        def step_env(self):
            pass

    check_env(Own())
    po.start(Own(), jax.random.key(0), num_envs=2)


class Noisy(Walk):
    """Every step draws, the last among them."""

    def step(self, state, action, key):
        return super().step(state, jnp.asarray(action, jnp.float32) + jax.random.normal(key), key)


class OneStep(Noisy):
    """All that there is to see is the end."""

    def step(self, state, action, key):
        return replace(super().step(state, action, key), truncated=jnp.bool_(True))


@pytest.mark.parametrize("env", [Walk(), Noisy(), OneStep(), envs.ActionReward()])
def test_what_draws_at_every_step_or_ends_with_each_is_not(env, recwarn):
    check_env(env)
    assert not [warned for warned in recwarn if warned.category is UserWarning]


def test_a_limit_that_is_an_end_as_well_is_seen_in_episodes_of_some_length():
    def both(step, state):
        ended = state["n"] >= 400
        return replace(step, terminated=ended, truncated=ended)

    with pytest.raises(ValueError, match="random step 399 is terminated and truncated"):
        check_env(Walk(change=both))


class Foreign:
    """Another library's environment, with gymnax's names."""

    def reset(self, key):
        pass

    def step(self, key, state, action):
        pass

    step_env = step


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Walk, r"it is the class Walk; make one: Walk\(\)"),
        (Foreign(), "it is a Foreign; envs.gymnax_env makes one of it"),
        ("ant", "it is a str; envs.brax_env makes one of a name"),
        ((Walk(), None), "it is a tuple of 2"),
        (None, "it is None"),
    ],
)
def test_what_is_no_environment_is_told_by_whoever_is_given_it(env, said):
    network = networks.mlp_actor_critic((2,), Discrete(2))
    calls = {
        "check_env": lambda: check_env(env),
        "start": lambda: po.start(env, jax.random.key(0), num_envs=2),
        "evaluate_policy": lambda: po.evaluate_policy(env, discrete, jax.random.key(0), episodes=2),
        "control_task": lambda: tasks.control_task(env, network, num_envs=2, num_steps=2),
        "episode_task": lambda: tasks.episode_task(env, network, None, num_prompts=1, group_size=2, num_steps=2),
    }
    for caller, call in calls.items():
        with pytest.raises(TypeError, match=f"{caller}: env must be an environment, with reset and step; {said}"):
            call()


def test_what_is_no_network_is_told():
    class Module(nn.Module):
        @nn.compact
        def __call__(self, obs):
            return obs

    makers = (
        lambda network: tasks.control_task(Walk(), network, num_envs=2, num_steps=2),
        lambda network: tasks.episode_task(Walk(), network, None, num_prompts=1, group_size=2, num_steps=2),
    )
    for make in makers:
        with pytest.raises(
            TypeError, match=r"network must be a Network.*it is a Module; networks.Network\(init=lambda"
        ):
            make(Module())
        with pytest.raises(TypeError, match=r"it is the function discrete; networks.Network\(init=..., apply=...\)"):
            make(discrete)


@pytest.mark.parametrize("recipe", ["reinforce", "actor_critic", "npg", "trpo", "ppo"])
def test_what_is_no_task_is_told(recipe):
    learn = getattr(algorithms, recipe)
    with pytest.raises(TypeError, match=rf"{recipe}: task must be a Task, as tasks.control_task\(.*; it is a Walk"):
        learn(Walk())
    network = networks.mlp_actor_critic((2,), Discrete(2))
    group = tasks.episode_task(Walk(), network, None, num_prompts=1, group_size=2, num_steps=6)
    with pytest.raises(TypeError, match="must be a Task, as task.task is; it is a GroupTask"):
        learn(group)


@pytest.mark.parametrize("recipe", ["dpo", "grpo"])
def test_what_is_no_group_is_told(recipe):
    with pytest.raises(TypeError, match=f"{recipe}: group must be a GroupTask, as tasks.token_task.*; it is a Walk"):
        getattr(algorithms, recipe)(Walk())
