"""Learning, few and seeded: each recipe on probe environments whose answer is known, DPO and GRPO on a token world."""

import warnings
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import advantages, algorithms, driver, normalization, tasks
from polopt_jax.envs import ActionReward, DelayedReward, Discrete, ObsActionReward, Quadratic, TimeLimit
from polopt_jax.language import imitate, transformer
from polopt_jax.networks import Network, mlp_actor_critic, shared_actor_critic
from polopt_jax.normalization import normalize
from polopt_jax.worlds import skip_the_test

RECIPES = {
    "reinforce": {"learning_rate": 1e-2},
    "actor_critic": {"learning_rate": 1e-2},
    "npg": {"learning_rate": 0.5, "value_minibatches": 4},
    "trpo": {"radius": 0.05, "value_minibatches": 4},
    "ppo": {"learning_rate": 3e-3, "num_minibatches": 4},
}


def train_on(env, recipe, *, updates, num_steps=4, **hyperparameters):
    """The trained state (one seed), its metrics, and the network."""
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(16,))
    task = tasks.control_task(env, network, num_envs=32, num_steps=num_steps)
    algorithm = getattr(algorithms, recipe)(task, **hyperparameters)
    run = driver.prepare(algorithm, driver.seed_keys(0, 1), chunk_updates=updates)
    (chunk,) = driver.chunks(run, 1)
    return jax.tree.map(lambda x: x[0], chunk.state), chunk.metrics, network


def outputs_at(state, network, obs):
    return network.apply(state.params, normalize(state.collect_state[0].normalizer, obs))


def values_at(state, network, obs):
    """The critic's values in units of the environment's reward."""
    stats = state.collect_state[0].return_scale.stats
    std = jnp.sqrt(stats.m2 / stats.count)
    return outputs_at(state, network, obs).value * jnp.where(std > 1e-6, std, 1)


@pytest.mark.parametrize(
    "recipe", [pytest.param(x, marks=() if x in ("ppo", "trpo") else pytest.mark.slow) for x in RECIPES]
)
def test_every_recipe_finds_the_action_that_pays(recipe):
    env = ObsActionReward()
    state, metrics, network = train_on(env, recipe, updates=60, **RECIPES[recipe])
    obs = jnp.array([[-1.0], [1.0]])
    policy = outputs_at(state, network, obs).policy
    assert (jnp.exp(policy.log_prob(env.optimal_action(obs))) > 0.9).all()
    assert metrics["skipped" if "skipped" in metrics else "policy/skipped"].max() == 0
    assert np.isfinite(metrics["kl_old_new"]).all()
    assert (metrics["kl_old_new"] >= -1e-9).all()


@pytest.mark.parametrize("recipe", ["ppo", pytest.param("trpo", marks=pytest.mark.slow)])
def test_a_continuous_optimum_is_found(recipe):
    env = Quadratic()
    state, _, network = train_on(env, recipe, updates=150, **RECIPES[recipe])
    obs = jnp.zeros((1, *env.obs_shape))
    found = outputs_at(state, network, obs).policy.mode()
    np.testing.assert_allclose(found, env.optimal_action(obs), atol=0.1)


def test_the_critic_learns_a_discounted_value():
    env = DelayedReward()
    state, _, network = train_on(env, "ppo", updates=200, gamma=0.5, learning_rate=3e-3, num_minibatches=4)
    obs = jnp.array([[0.0], [1.0]])
    np.testing.assert_allclose(values_at(state, network, obs), env.value(obs, gamma=0.5), atol=0.06)


def test_a_time_limit_is_not_an_end():
    """Reward 1 for ever, cut every 5 steps: the value is 1/(1-γ) = 4 if and only if the cut is bootstrapped."""
    env = TimeLimit()
    state, _, network = train_on(env, "ppo", updates=300, gamma=0.75, learning_rate=3e-3, num_minibatches=4)
    obs = jnp.zeros((1, *env.obs_shape))
    truth = env.value(obs, gamma=0.75)
    np.testing.assert_allclose(truth, 4.0)
    np.testing.assert_allclose(values_at(state, network, obs), truth, rtol=0.05)


@pytest.mark.parametrize(
    "baseline",
    [
        pytest.param(advantages.static_baseline(0.0), marks=pytest.mark.slow),
        pytest.param(advantages.static_baseline(1.0), marks=pytest.mark.slow),
        advantages.running_mean_baseline(),
        advantages.learned_baseline(),
    ],
)
def test_reinforce_learns_with_every_baseline(baseline):
    env = ActionReward()
    state, _, network = train_on(env, "reinforce", updates=60, baseline=baseline, learning_rate=1e-2)
    obs = jnp.zeros((1, 1))
    assert jnp.exp(outputs_at(state, network, obs).policy.log_prob(env.optimal_action(obs))) > 0.9


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_fresh_state_may_be_donated(recipe):
    """Each of its arrays has memory of its own: one that stands in two places cannot be given away twice."""
    env = TimeLimit(limit=5)
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    state = getattr(algorithms, recipe)(tasks.control_task(env, network, num_envs=4, num_steps=4)).init(
        jax.random.key(0)
    )
    arrays = [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays)


def test_the_policy_phase_of_trpo_leaves_the_critic_alone():
    env = ObsActionReward()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(16,))
    task = tasks.control_task(env, network, num_envs=32, num_steps=4)
    algorithm = algorithms.trpo(task, value_learning_rate=lambda update: 0.0, value_minibatches=4)
    run = driver.prepare(algorithm, driver.seed_keys(0, 1), chunk_updates=1)
    before = jax.tree.map(jnp.copy, run.state.params)
    (chunk,) = driver.chunks(run, 1)
    obs = jax.random.normal(jax.random.key(0), (5, 1))
    (old, new) = (network.apply(jax.tree.map(lambda x: x[0], p), obs) for p in (before, chunk.state.params))
    np.testing.assert_array_equal(old.value, new.value)
    assert (old.policy.logits != new.policy.logits).all()


# --- tokens ------------------------------------------------------------------------------------------------------


def token_world():
    return skip_the_test(jax.random.key(0), num_worlds=2, p_skip=(0.1, 0.2), p_legit=(0.1, 0.2))


@pytest.fixture(scope="module")
def tokens():
    worlds = token_world()
    network = transformer(vocab_size=worlds.input_vocabulary, num_outputs=6, max_length=24, width=16, depth=1, heads=2)
    reference, kl = jax.jit(lambda key: imitate(network, worlds, key, updates=150, rows=32))(jax.random.key(1))
    assert kl[-10:].mean() < 0.02 < kl[0]
    return tasks.token_task(network, worlds, reference, num_prompts=8, group_size=8)


def token_rewards(algorithm, updates):
    run = driver.prepare(algorithm, driver.seed_keys(0, 1), chunk_updates=updates)
    (chunk,) = driver.chunks(run, 1)
    return (chunk.metrics["episode/return_sum"] / chunk.metrics["episode/finished"])[0], chunk


def test_grpo_raises_the_reward_of_a_token_policy(tokens):
    reward, chunk = token_rewards(algorithms.grpo(tokens, learning_rate=3e-3), 40)
    assert reward[:3].mean() < 0.6
    assert reward[-3:].mean() > 0.8
    assert chunk.metrics["ref_kl"][0, 0] < 0.1 < chunk.metrics["ref_kl"][0, -1]


def rloo(group):
    """REINFORCE Leave-One-Out as a recipe of one's own."""

    def estimate(rollout):
        advantage = po.leave_one_out(rollout.reward.sum(0))
        return po.to_batch(rollout, advantage=jnp.broadcast_to(advantage, rollout.reward.shape))

    term = po.reinforce(reduce=po.sequence_sum)
    step = po.make_step((po.objective(group.task.model, term), algorithms.adam(3e-3, 1.0)))
    return algorithms.assemble(group.task, step, estimate, gamma=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [partial(algorithms.grpo, learning_rate=3e-3, beta=0.01), rloo], ids=["grpo", "rloo"]
)
def test_five_seeds_solve_the_token_world_from_what_was_imitated(tokens, recipe):
    run = driver.prepare(recipe(tokens), driver.seed_keys(0, 5), chunk_updates=150)
    (chunk,) = driver.chunks(run, 1)
    reward = chunk.metrics["episode/return_sum"] / chunk.metrics["episode/finished"]
    assert reward.shape == (5, 150)
    assert (reward[:, :3].mean(1) < 0.6).all()
    assert (reward[:, -10:].mean(1) > 0.97).all(), reward[:, -10:].mean(1)


def test_dpo_raises_the_reward_from_preferences_alone(tokens):
    algorithm = algorithms.dpo(tokens, learning_rate=3e-3, num_pairs=128)
    measure = jax.jit(algorithm.measure)
    before = measure(tokens.reference, jax.random.key(5))
    reward, chunk = token_rewards(algorithm, 60)
    assert reward.shape == (1,), "measured once in a chunk, not at every update"
    again = measure(jax.tree.map(lambda x: x[0], chunk.state.params), jax.random.key(6))
    for reward in (reward[0], float(again["episode/return_sum"] / again["episode/finished"])):
        assert reward > float(before["episode/return_sum"] / before["episode/finished"]) + 0.25
    np.testing.assert_allclose(chunk.metrics["loss"][0, 0], np.log(2), atol=1e-4)
    assert chunk.metrics["accuracy"][0, -5:].mean() > 0.8


def test_preferences_differ_in_reward_and_the_better_is_chosen(tokens):
    """Scored again from the tokens alone, by the rules of the world that each pair's own prompt names."""
    world = token_world()

    def draw(max_redraws):
        draw = partial(tasks.draw_preferences, tokens, num_pairs=64, max_redraws=max_redraws)
        return jax.jit(draw)(jax.random.key(0))

    data, few = jax.tree.map(np.asarray, (draw(64), draw(0)))
    said = jax.jit(lambda batch: tokens.task.model(tokens.reference, batch.obs).policy.log_prob(batch.action))
    rewarded = jax.jit(world.reward)
    usable = np.asarray(few.batch.mask.any((0, 2)))
    assert data.batch.mask.any((0, 2)).mean() > 0.95
    assert 0 < data.redraws.mean() < 20
    assert 0.1 < usable.mean() < 0.7
    assert (few.redraws == 0).all()
    assert few.batch.mask.shape == (2, 64, 24)
    np.testing.assert_array_equal(few.batch.mask, np.broadcast_to(usable[None, :, None], (2, 64, 24)))
    for pairs in (data.batch, few.batch):
        prompt = pairs.obs[..., 0] - world.vocabulary
        np.testing.assert_array_equal(prompt[0], prompt[1], "both rows answer the same prompt")
        assert len(np.unique(prompt)) == 2
        chosen, rejected = np.asarray(rewarded(prompt, pairs.action))
        kept = np.asarray(pairs.mask.any((0, 2)))
        assert (chosen > rejected)[kept].all()
        assert (chosen == rejected)[~kept].all()
        np.testing.assert_array_equal(pairs.obs[..., 1:], pairs.action[..., :-1])
        np.testing.assert_allclose(said(pairs), pairs.ref_log_prob, atol=1e-5)


@pytest.mark.parametrize("transform", [normalization.standardized_observations, normalization.raw_observations])
def test_the_policy_of_a_state_reads_observations_as_the_environment_gives_them(transform):
    env = Quadratic()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(16,))
    task = tasks.control_task(env, network, num_envs=32, num_steps=4, observations=transform())
    algorithm = algorithms.ppo(task, num_minibatches=4)
    run = jax.jit(lambda key: po.train(algorithm.collect, algorithm.step, algorithm.init(key), updates=3)[0])
    state, obs = run(jax.random.key(0)), 5 + jax.random.normal(jax.random.key(1), (7, *env.obs_shape))
    normalizer = state.collect_state[0].normalizer
    read = normalize(normalizer, obs) if transform is normalization.standardized_observations else obs
    said, expected = algorithm.act(state)(obs), network.apply(state.params, read)
    jax.tree.map(np.testing.assert_array_equal, said, expected)
    if read is not obs:
        assert jnp.abs(said.value - network.apply(state.params, obs).value).max() > 0.01
    found = po.evaluate_policy(env, po.greedy(algorithm.act(state)), jax.random.key(2), episodes=3)
    assert jnp.isfinite(found.episode_return).all()


@pytest.mark.parametrize("recipe", ["npg", "trpo"])
def test_a_critic_that_moves_the_policy_is_told(recipe, monkeypatch):
    """With a shared trunk, and a radius of .01, updates of TRPO were .04 long in the mean (inverted_pendulum)."""
    env = ObsActionReward()

    def traced(network):
        task = tasks.control_task(env, network, num_envs=8, num_steps=4)
        algorithm = getattr(algorithms, recipe)(task, value_epochs=1, value_minibatches=1)
        run = lambda key: po.train(algorithm.collect, algorithm.step, algorithm.init(key), updates=1)  # noqa: E731
        jax.eval_shape(run, jax.random.key(0))

    shared = shared_actor_critic(env.obs_shape, env.action_space, hidden=(8,))

    def stopped(params, obs):
        trunk = {name: leaf if "trunk" not in name else jax.lax.stop_gradient(leaf) for name, leaf in params.items()}
        return replace(shared.apply(params, obs), value=shared.apply(trunk, obs).value)

    with pytest.warns(UserWarning, match=r"policy and critic share params\['trunk_0'\]\['bias'\] and 1 more"):
        traced(shared)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="value"):
            traced(Network(shared.init, lambda params, obs: replace(shared.apply(params, obs), value=None)))
        traced(mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,)))
        traced(Network(shared.init, stopped))
        monkeypatch.delattr("jax.interpreters.partial_eval.dce_jaxpr")
        traced(mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,)))  # nothing is said where nothing is known


@pytest.mark.parametrize(
    ("schedule", "error", "said"),
    [
        (lambda update: None, TypeError, "its value must be a number; it is None: is a return missing"),
        (lambda update: -3e-4, ValueError, "its value must be at least 0; it is -0.0003"),
        (lambda update: jnp.ones(2), ValueError, r"its value must be one number .*shape \(2,\)"),
        (lambda update: "fast", TypeError, "its value must be a number; it is a str"),
    ],
)
def test_a_schedule_gives_a_rate(schedule, error, said):
    """Without one Adam's step would be taken as it is, of length 1 and upwards."""
    task = tasks.control_task(TimeLimit(limit=3), mlp_actor_critic((1,), Discrete(1)), num_envs=8, num_steps=2)
    for make in (algorithms.ppo, algorithms.npg, algorithms.reinforce):
        name = "value_learning_rate" if make is algorithms.npg else "learning_rate"
        with pytest.raises(error, match=rf"^{name}\(update\): {said}"):
            make(task, **{name: schedule})
