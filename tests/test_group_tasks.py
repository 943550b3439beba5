"""Group tasks: whole attempts at prompts, at an environment's first states and at a token world's questions."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import algorithms, driver, envs, networks, outcomes, tasks, worlds
from polopt_jax.envs import TimeLimit
from polopt_jax.language import sample_tokens, token_table
from polopt_jax.networks import tabular_actor_critic

H = 16


@pytest.fixture(scope="module")
def building():
    """The burning building with four first states, and a reference that often succeeds."""
    world = worlds.tabulate(worlds.burning_building())
    live = np.flatnonzero(~np.asarray(world.terminal) & ~np.asarray(world.outcome["vase"]))
    starts = np.zeros(world.initial.shape, np.float32)
    starts[live[:16:4]] = 0.25
    states = np.asarray(world.obs).argmax(-1, keepdims=True).astype(np.float32)
    world = replace(world, initial=jnp.asarray(starts), obs=jnp.asarray(states))
    network = tabular_actor_critic(60, world.action_space)
    logits = jnp.asarray(worlds.burning_building_logits(), jnp.float32)
    reference = {"policy": logits, "value": jnp.linspace(0, 1, logits.shape[0])}
    return world, network, reference


def episode_task(building, **sizes):
    world, network, reference = building
    sizes = {"num_prompts": 3, "group_size": 50, "num_steps": H} | sizes
    return tasks.episode_task(world, network, reference, **sizes)


@pytest.fixture(scope="module")
def rollout(building):
    group = episode_task(building, num_prompts=6, group_size=500)
    _, rollout, metrics = jax.jit(group.task.rollout)(group.reference, (), jax.random.key(1), 1.0)
    return rollout, metrics


def test_attempts_of_a_group_begin_alike_and_are_whole_episodes(building, rollout):
    rollout, _ = rollout
    assert rollout.reward.shape == (H, 6, 500)
    first = np.asarray(rollout.obs[0, ..., 0])
    assert (first == first[:, :1]).all()
    assert len(np.unique(first[:, 0])) > 1
    mask = np.asarray(rollout.mask)
    assert mask[0].all()
    assert (mask[1:] <= mask[:-1]).all(), "what is masked is the end"
    length = mask.sum(0)
    ended = np.take_along_axis(np.asarray(rollout.terminated), length[None] - 1, 0)[0]
    assert ended.all()
    assert np.asarray(rollout.terminated).sum(0).max() == 1
    assert length.min() < H == length.max()


def test_the_outcome_is_that_of_the_episodes_end(building, rollout):
    world, _, _ = building
    rollout, metrics = rollout
    final = np.asarray(rollout.outcome["state"])[-1]
    assert not np.asarray(rollout.outcome["state"])[:-1].any()
    for name, table in world.outcome.items():
        np.testing.assert_array_equal(np.asarray(rollout.outcome[name])[-1], np.asarray(table)[final], err_msg=name)
    total = np.asarray(rollout.reward).sum(0)
    np.testing.assert_allclose(total, np.asarray(rollout.outcome["success"])[-1])
    assert metrics["episode/finished"] == 3000
    assert metrics["episode/unscored"] == 0
    np.testing.assert_allclose(metrics["episode/return_sum"], total.sum())
    assert metrics["episode/length_sum"] == np.asarray(rollout.mask).sum()
    np.testing.assert_allclose(metrics["outcome/vase"], np.asarray(rollout.outcome["vase"])[-1].mean(), rtol=1e-6)


def test_the_outcomes_are_a_sample_of_the_exact_law(building):
    world, network, reference = building
    group = episode_task(building, num_prompts=4000, group_size=1)
    _, rollout, _ = jax.jit(group.task.rollout)(reference, (), jax.random.key(2), 1.0)
    cell = worlds.cells(world, ("success", "exploded", "vase"))
    found = np.bincount(np.asarray(cell)[np.asarray(rollout.outcome["state"])[-1, :, 0]], minlength=8) / 4000
    law = jax.jit(lambda table: worlds.outcome_law(world, jax.nn.softmax(table[world.obs[:, 0].astype(int)]), cell, 8))
    exact = np.asarray(law(reference["policy"]))
    assert (np.abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000) + 1e-4).all()
    assert exact[4:].sum() > 0.01


def test_values_along_an_attempt(building, rollout):
    """`next_value` is the critic's of the next state, and 0 where nothing can follow."""
    _, _, reference = building
    rollout, _ = rollout
    table, mask = np.asarray(reference["value"]), np.asarray(rollout.mask)
    np.testing.assert_allclose(
        np.asarray(rollout.value)[mask], table[np.asarray(rollout.obs)[..., 0].astype(int)][mask], rtol=1e-6
    )
    after = np.where(rollout.terminated, 0, table[np.asarray(rollout.next_obs)[..., 0].astype(int)])
    np.testing.assert_allclose(np.asarray(rollout.next_value)[mask], after[mask], rtol=1e-6)


def test_what_is_too_long_is_not_scored():
    env = TimeLimit(limit=5)
    network = networks.mlp_actor_critic(env.obs_shape, env.action_space, hidden=())
    params = jax.jit(network.init)(jax.random.key(0))
    for steps, unscored in ((5, 0), (4, 6)):
        group = tasks.episode_task(env, network, params, num_prompts=2, group_size=3, num_steps=steps)
        found = jax.jit(group.task.rollout)(params, (), jax.random.key(0), 1.0)
        _, rollout, metrics = jax.tree.map(np.asarray, found)
        assert metrics["episode/unscored"] == unscored
        assert np.asarray(rollout.mask).any(0).sum() == 6 - unscored
        assert np.isfinite(rollout.reward.sum(0)).sum() == 6 - unscored
        assert metrics["episode/length_sum"] == 5 * (6 - unscored)
        if not unscored:
            value = jax.jit(network.apply)(params, rollout.next_obs[-1]).value
            np.testing.assert_allclose(rollout.next_value[-1], value, rtol=1e-5)


RECIPES = {
    "reinforce": {"learning_rate": 0.1, "gamma": 1.0},
    "actor_critic": {"learning_rate": 0.1, "gamma": 1.0},
    "npg": {"learning_rate": 1.0, "gamma": 1.0, "value_minibatches": 1},
    "trpo": {"radius": 0.05, "gamma": 1.0, "value_minibatches": 1},
    "ppo": {"learning_rate": 0.05, "gamma": 1.0, "num_minibatches": 1},
    "dpo": {"learning_rate": 0.1, "num_pairs": 128},
    "grpo": {"learning_rate": 0.1, "num_minibatches": 1},
}


def some_slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow if name in names else ()) for name in RECIPES]


@pytest.mark.parametrize("recipe", some_slow("reinforce", "npg", "actor_critic", "trpo", "dpo"))
def test_every_recipe_learns_from_whole_episodes(building, recipe):
    group = episode_task(building, num_prompts=2, group_size=64)
    given = group if recipe in ("dpo", "grpo") else group.task
    algorithm = getattr(algorithms, recipe)(given, **RECIPES[recipe])
    state, metrics = jax.jit(
        lambda key: po.train(algorithm.collect, algorithm.step, algorithm.init(key), updates=15),
        compiler_options=driver.compiler_options(),
    )(jax.random.key(0))
    world = building[0]
    expected = jax.jit(
        lambda p: worlds.expected_reward(world, jax.nn.softmax(p["policy"][world.obs[:, 0].astype(int)]))
    )
    before, after = (float(expected(p)) for p in (group.reference, state.params))
    assert after > before + 0.1
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()


def test_a_batch_has_the_outcome_of_its_rows(building):
    group = episode_task(building)
    algorithm = algorithms.ppo(group.task, num_minibatches=1)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    _, batch, _ = jax.eval_shape(algorithm.collect, state.params, state.collect_state, jax.random.key(1))
    assert {name: x.shape for name, x in batch.outcome.items()}["vase"] == (3, 50)
    assert batch.mask.shape == (3, 50, H)


# --- further terms, constraints, prices -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", some_slow("reinforce", "actor_critic", "npg", "dpo", "grpo", "trpo"))
def test_a_further_term_is_added_to_the_loss_with_its_weight(building, recipe):
    """`terms` of a recipe: the loss and its metrics, beside the recipe's own."""
    group = episode_task(building)

    def half(outputs, batch):
        return 0.5 + 0 * outputs.value.mean(), {"seen": batch.outcome["vase"].mean()}

    given = group if recipe in ("dpo", "grpo") else group.task
    plain, more = (
        getattr(algorithms, recipe)(given, **RECIPES[recipe], terms=terms) for terms in (None, {"my": (3.0, half)})
    )
    state = jax.jit(plain.init)(jax.random.key(0))
    _, batch, _ = jax.jit(plain.collect)(state.params, state.collect_state, jax.random.key(1))
    batch = replace(batch, outcome={"vase": jnp.ones(batch.mask.shape[:-1])})
    step = jax.jit(plain.step.update)(state.params, state.opt_state, batch, jax.random.key(2))[2]
    longer = jax.jit(more.step.update)(state.params, state.opt_state, batch, jax.random.key(2))[2]
    phase = "policy/" if recipe in ("npg", "trpo") else ""
    np.testing.assert_allclose(longer[f"{phase}loss"], step[f"{phase}loss"] + 1.5, rtol=1e-4)
    assert longer[f"{phase}my/seen"] == 1.0
    assert set(step) < set(longer)


@pytest.mark.slow
def test_trpo_bounds_the_divergence_and_the_constraints_that_it_is_given(building):
    group = episode_task(building, group_size=200)
    held = outcomes.outcome_kl(2, of=lambda outcome: outcome["success"])
    region = po.weighted_divergence(path=(1.0, po.trajectory_kl), success=(30.0, held))

    def moved(**options):
        algorithm = algorithms.trpo(group.task, gamma=1.0, value_minibatches=1, **options)
        state = jax.jit(algorithm.init)(jax.random.key(0))
        _, batch, _ = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
        params, _, metrics = jax.jit(algorithm.step.update)(state.params, state.opt_state, batch, jax.random.key(2))

        @jax.jit
        def distances(before, after, batch):
            old, new = (group.task.model(p, batch.obs) for p in (before, after))
            return [d(old, new, batch) for d in (po.trajectory_kl, held, region)]

        return (*map(float, distances(state.params, params, batch)), metrics)

    plain = moved(radius=0.02, divergence=po.trajectory_kl)
    assert 0.01 < plain[0] <= 0.0201
    assert plain[1] > 1e-4
    bounded = moved(radius=0.02, divergence=po.trajectory_kl, constraints=[(held, plain[1] / 4)])
    assert plain[1] / 8 < bounded[1] <= plain[1] / 4
    assert bounded[3]["policy/line_search_accepted"] == 1
    both = moved(radius=0.02, divergence=region)
    assert 0.005 < both[2] <= 0.0201
    assert both[1] / both[0] < 0.3 * plain[1] / plain[0]


@pytest.mark.slow
def test_npg_preconditions_with_the_divergence_that_it_is_given(building):
    """Twice the divergence is twice the Fisher matrix: half the step."""
    group = episode_task(building)

    def step(divergence):
        algorithm = algorithms.npg(group.task, divergence=divergence, damping=0.0, value_minibatches=1, cg_iters=2)
        state = jax.jit(algorithm.init)(jax.random.key(0))
        _, batch, _ = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
        params, _, _ = jax.jit(algorithm.step.update)(state.params, state.opt_state, batch, jax.random.key(2))
        return np.asarray(params["policy"] - state.params["policy"])

    double = po.weighted_divergence(both=(2.0, po.action_kl))
    np.testing.assert_allclose(step(po.action_kl), 2 * step(double), rtol=1e-3, atol=1e-6)


def test_a_price_follows_the_outcomes_and_is_taken_off_the_advantages(building):
    group = episode_task(building, group_size=200)
    plain = algorithms.grpo(group, num_minibatches=1)
    reference = np.array([0.9, 0.1], np.float32)
    vase = lambda outcome: outcome["vase"]  # noqa: E731
    cap = lambda charge: jnp.maximum(charge, 0)  # noqa: E731
    algorithm = algorithms.priced(plain, reference, of=vase, integral=0.5, proportional=2.0, labelled=0.4, allowed=cap)
    state, collect = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.collect)
    (_, price), batch, metrics = collect(state.params, state.collect_state, jax.random.key(1))
    _, bare, _ = jax.jit(plain.collect)(state.params, ((), ()), jax.random.split(jax.random.key(1))[1])
    np.testing.assert_array_equal(batch.action, bare.action)
    charged = (np.asarray(bare.advantage) - np.asarray(batch.advantage))[..., 0]
    broken = np.asarray(bare.outcome["vase"])
    labelled = charged != 0
    assert 0.3 < labelled.mean() < 0.5
    rate = broken[labelled].mean()
    assert rate > 0.3
    np.testing.assert_allclose(price.integral, np.maximum(0.5 * np.array([0.1 - rate, rate - 0.1]), 0), rtol=1e-4)
    charge = np.maximum(2.5 * np.array([0.1 - rate, rate - 0.1]), 0)
    np.testing.assert_allclose(metrics["price"], charge[1], rtol=1e-4)
    negative = algorithms.priced(plain, reference, of=vase, labelled=0.4, allowed=lambda charge: jnp.minimum(charge, 0))
    refunded = jax.jit(negative.collect)(state.params, state.collect_state, jax.random.key(1))[2]
    assert refunded["price"] > 0.1  # the largest in size, whatever its sign
    for n in range(3):
        known = labelled[n]
        paid = charge[broken[n].astype(int)]
        wanted = (paid - paid[known].mean()) * (200 - 1) / (known.sum() - 1)
        np.testing.assert_allclose(charged[n][known], wanted[known], rtol=1e-3, atol=1e-5)
    (_, again), _, _ = collect(state.params, (state.collect_state[0], price), jax.random.key(1))
    np.testing.assert_allclose(again.integral, 2 * np.asarray(price.integral), rtol=1e-4)


@pytest.mark.parametrize(
    ("problem", "reference", "options"),
    [
        ("labelled", jnp.ones(2) / 2, {"labelled": 1.5}),
        ("integral", jnp.ones(2) / 2, {"integral": -1.0}),
        ("reference must be rates", jnp.ones((2, 2)) / 2, {}),
    ],
)
def test_a_price_refuses_what_it_cannot_be(building, problem, reference, options):
    with pytest.raises(ValueError, match=problem):
        algorithms.priced(algorithms.grpo(episode_task(building)), reference, **options)


# --- tables of tokens ------------------------------------------------------------------------------------------------


def test_a_token_table_has_a_row_for_every_prompt_and_position():
    network = token_table(num_prompts=3, length=5, vocabulary=4)
    key = jax.random.key(0)
    rng = np.random.default_rng(0)
    params = {"policy": rng.normal(size=(3, 5, 4)).astype(np.float32), "value": np.arange(15.0).reshape(3, 5)}
    params = jax.tree.map(jnp.asarray, params)

    @jax.jit
    def sampled():
        rollout = sample_tokens(network, params, jnp.array([[4], [6], [5], [4]]), key, length=5)
        batch = po.to_batch(rollout)
        again = network.apply(params, batch.obs)
        return rollout, batch, again.policy.log_prob(batch.action), again.value

    rollout, batch, log_prob, value = sampled()
    prompt = np.array([0, 2, 1, 0])
    expected = np.moveaxis(np.asarray(jax.nn.log_softmax(params["policy"]))[prompt], 1, 0)
    found = np.take_along_axis(expected, np.asarray(rollout.action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(rollout.log_prob, found, rtol=1e-5)
    np.testing.assert_array_equal(rollout.value, np.asarray(params["value"])[prompt].T)
    np.testing.assert_allclose(log_prob, batch.log_prob, rtol=1e-5)
    np.testing.assert_array_equal(value, batch.value)
    with pytest.raises(ValueError, match="T <= 5"):
        network.apply(params, jnp.zeros((2, 6), int))
    with pytest.raises(ValueError, match="num_prompts must be at least 1"):
        token_table(num_prompts=0, length=5, vocabulary=4)


def test_a_table_needs_numbered_states_and_actions():
    with pytest.raises(ValueError, match="a Discrete"):
        tabular_actor_critic(3, envs.Box(2))
    with pytest.raises(ValueError, match="needs states"):
        tabular_actor_critic(0, envs.Discrete(2))
    network = tabular_actor_critic(3, envs.Discrete(2))
    with pytest.raises(ValueError, match=r"of shape \[..., 1\]"):
        network.apply(network.init(jax.random.key(0)), jnp.zeros((2, 4)))


def test_an_attempt_needs_no_outcome(building):
    group = episode_task(building)
    attempt = group.attempt
    bare = lambda *arguments: replace(attempt(*arguments), outcome=None)  # noqa: E731
    sizes = {"num_prompts": 3, "group_size": 50, "num_steps": H}
    group = tasks.group_task(group.task.model, group.reference, group.prompts, bare, **sizes)
    algorithm = algorithms.grpo(group)
    state = algorithm.init(jax.random.key(0))
    _, batch, metrics = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
    assert batch.outcome == {}
    assert not [name for name in metrics if name.startswith("outcome/")]


def test_the_outcome_of_an_estimate_stays(building):
    group = episode_task(building)

    def estimate(rollout):
        return po.to_batch(rollout, advantage=rollout.reward, outcome=lambda episode: {"own": episode.reward.sum()})

    for recipe, has in ((algorithms.grpo(group, estimate=estimate), "own"), (algorithms.grpo(group), "vase")):
        state = recipe.init(jax.random.key(0))
        _, batch, _ = jax.jit(recipe.collect)(state.params, state.collect_state, jax.random.key(1))
        assert set(batch.outcome) >= {has}
        assert ("own" in batch.outcome) == (has == "own")


@pytest.mark.parametrize("recipe", [algorithms.grpo, algorithms.dpo])
def test_a_state_holds_a_policy(building, recipe):
    group = episode_task(building, num_prompts=4)
    algorithm = recipe(group) if recipe is algorithms.grpo else recipe(group, num_pairs=200)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    obs = building[0].obs[:3]
    expected = group.task.model(state.params, obs).policy.logits
    np.testing.assert_array_equal(algorithm.act(state)(obs).policy.logits, expected)
    if recipe is algorithms.grpo:
        asked = algorithm._replace(evaluate=lambda state: {"updates": state.update + state.collect_state[0]})
        bare = replace(state, collect_state=(5, ()))
        priced = algorithms.priced(asked, jnp.ones(2) / 2)
        whole = replace(bare, collect_state=(bare.collect_state, "the price"))
        np.testing.assert_array_equal(priced.act(whole)(obs).policy.logits, expected)
        assert priced.evaluate(whole)["updates"] == 5


def test_what_learns_from_pairs_has_no_price(building):
    group = episode_task(building, num_prompts=2, group_size=4)
    algorithm = algorithms.priced(algorithms.dpo(group, num_pairs=8), jnp.array([0.5, 0.5]))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    with pytest.raises(ValueError, match="priced: the batches of the algorithm have no advantage; .* DPO from pairs"):
        jax.eval_shape(algorithm.collect, state.params, state.collect_state, jax.random.key(1))
