"""Tasks: any world is a token task, its reward comes with the last token; control scales rewards as recipes ask."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import advantages, algorithms, driver, normalization, tasks, worlds
from polopt_jax.envs import TimeLimit
from polopt_jax.language import imitate, transformer
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.worlds import skip_the_test


@dataclass(frozen=True)
class Echo:
    """A world of a user's own: three tokens, the prompt is a pair of numbers, and repeating their sum mod 3 pays.

    A sequence whose first token is 2 cannot be scored.
    """

    length: int = 4
    vocabulary: int = 3
    input_vocabulary: int = 6
    context_length: int = 1

    def prompts(self, key, num):
        return {"a": jax.random.randint(key, (num,), 0, 3), "b": jnp.ones(num, jnp.int32)}

    def wanted(self, prompt):
        return (prompt["a"] + prompt["b"]) % 3

    def context(self, prompt):
        return self.vocabulary + self.wanted(prompt)[..., None]

    def reward(self, prompt, tokens):
        share = (tokens == self.wanted(prompt)[..., None]).mean(-1)
        return jnp.where(tokens[..., 0] == 2, jnp.nan, share)

    def outcome(self, prompt, tokens):
        return {"first": tokens[..., 0] == self.wanted(prompt), "mean": tokens.mean(-1)}

    def reference(self, prompt, tokens):
        wanted = jax.nn.one_hot(self.wanted(prompt), self.vocabulary)
        return po.Categorical(logits=jnp.broadcast_to(wanted[..., None, :], (*tokens.shape, self.vocabulary)))

    def speak(self, prompt, key):
        logits = jax.nn.one_hot(self.wanted(prompt), self.vocabulary)
        return jax.random.categorical(key, logits[..., None, :], shape=(*logits.shape[:-1], self.length))


def network_for(world):
    return transformer(
        vocab_size=world.input_vocabulary,
        num_outputs=world.vocabulary,
        max_length=world.length,
        width=8,
        depth=1,
        heads=2,
    )


@pytest.fixture(scope="module")
def echo():
    network = network_for(Echo())
    params = jax.jit(network.init)(jax.random.key(0))
    return tasks.token_task(network, Echo(), params, num_prompts=5, group_size=6)


def test_a_token_task_takes_any_world_and_judges_each_answer_by_its_own_prompt(echo):
    task = echo.task
    assert task.row_shape == (5, 6)
    assert task.decisions == 5 * 6 * 4
    _, rollout, metrics = jax.jit(task.rollout)(echo.reference, (), jax.random.key(1), 1.0)
    tokens, wanted = np.asarray(rollout.action), np.asarray(rollout.obs)[0] - 3
    assert tokens.shape == (4, 5, 6)
    assert (wanted == wanted[:, :1]).all(), "a group answers one prompt"
    assert len(np.unique(wanted)) > 1
    share = (tokens == wanted).mean(0)
    unscored = tokens[0] == 2
    assert 0 < unscored.sum() < 30
    np.testing.assert_allclose(np.asarray(rollout.reward)[-1], np.where(unscored, np.nan, share))
    assert not np.any(np.asarray(rollout.reward)[:-1]), "nothing is earned before the last token"
    np.testing.assert_array_equal(rollout.outcome["first"][-1], tokens[0] == wanted)
    np.testing.assert_allclose(rollout.outcome["mean"][-1], tokens.mean(0), rtol=1e-6)
    expected = {
        "episode/finished": (~unscored).sum(),
        "episode/unscored": unscored.sum(),
        "episode/return_sum": share[~unscored].sum(),
        "episode/length_sum": 4 * (~unscored).sum(),
        "nonfinite_steps": 0,
        "outcome/first": (tokens[0] == wanted)[~unscored].mean(),
        "outcome/mean": tokens.mean(0)[~unscored].mean(),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("recipe", ["grpo", *(pytest.param(x, marks=SLOW) for x in ("ppo", "reinforce", "dpo"))])
def test_unscorable_answers_are_masked_and_training_goes_on(echo, recipe):
    sizes = {"num_minibatches": 1} if recipe in ("grpo", "ppo") else {"num_pairs": 20} if recipe == "dpo" else {}
    task = echo if recipe in ("grpo", "dpo") else echo.task
    algorithm = getattr(algorithms, recipe)(task, **sizes)
    state = jax.jit(algorithm.init)(jax.random.key(3))
    state, metrics = jax.jit(lambda s: po.train(algorithm.collect, algorithm.step, s, updates=3))(state)
    assert metrics["skipped"].max() == 0
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()
    if recipe == "dpo":
        assert "episode/return_sum" not in metrics, "no rollout is made for an update"
        measured = jax.jit(algorithm.measure)(state.params, jax.random.key(0))
        assert measured["episode/finished"] + measured["episode/unscored"] == 30
    else:
        assert metrics["episode/unscored"].max() > 0


@pytest.mark.slow
def test_imitation_learns_any_worlds_language():
    world = Echo()
    network = network_for(world)
    params, kl = jax.jit(lambda key: imitate(network, world, key, updates=120, rows=32))(jax.random.key(0))
    kl = np.asarray(kl)
    assert kl[0] > 0.05
    assert kl[-10:].mean() < 0.005
    prompt = {"a": np.array([0, 1, 2]), "b": np.ones(3, np.int32)}

    @jax.jit
    def apart(params):
        tokens = world.speak(prompt, jax.random.key(1))
        inputs = jnp.concatenate([world.context(prompt), tokens[:, :-1]], axis=-1)
        return world.reference(prompt, tokens).kl_divergence(network.apply(params, inputs).policy)

    assert apart(params).max() < 0.05


@dataclass(frozen=True)
class Counting(Echo):
    """Its language counts on from the token before, which no network can know without having read it."""

    def reference(self, prompt, tokens):
        before = jnp.concatenate([self.wanted(prompt)[..., None], tokens[..., :-1]], axis=-1)
        return po.Categorical(logits=2 * jax.nn.one_hot((before + 1) % 3, 3))

    def speak(self, prompt, key):
        def say(before, key):
            token = jax.random.categorical(key, 2 * jax.nn.one_hot((before + 1) % 3, 3))
            return token, token

        return jnp.moveaxis(jax.lax.scan(say, self.wanted(prompt), jax.random.split(key, self.length))[1], 0, -1)


def test_imitation_reads_the_token_before():
    network = network_for(Counting())
    _, kl = jax.jit(lambda key: imitate(network, Counting(), key, updates=200, rows=64))(jax.random.key(0))
    kl = np.asarray(kl)
    assert kl[-10:].mean() < 0.02 < kl[0]


def test_a_network_that_cannot_read_every_word_of_a_world_is_refused(echo):
    """Its answers to what it cannot read would be NaN, every step of imitation skipped, and no word said of it."""
    sizes = dict(num_outputs=3, max_length=4, width=8, depth=1)
    small, enough, more = (transformer(vocab_size=size, **sizes) for size in (5, 6, 7))
    said = "world.input_vocabulary = 6; its vocab_size is 5"
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda key: imitate(small, Echo(), key), jax.random.key(0))
    with pytest.raises(ValueError, match=said):
        tasks.token_task(small, Echo(), echo.reference, num_prompts=2, group_size=2)
    for network in (enough, more, enough._replace(vocab_size=None)):
        tasks.token_task(network, Echo(), echo.reference, num_prompts=2, group_size=2)
        jax.eval_shape(lambda key, network=network: imitate(network, Echo(), key, updates=1), jax.random.key(0))
    params = jax.jit(small.init)(jax.random.key(0))
    assert np.isnan(jax.jit(small.apply)(params, np.array([5, 0])).policy.logits).all(), (
        "or there would be nothing to refuse"
    )


def test_the_worlds_of_the_library_keep_the_protocol():
    world = skip_the_test(jax.random.key(0), num_worlds=3)
    prompt = jax.jit(lambda key: world.prompts(key, 40))(jax.random.key(1))
    assert prompt.shape == (40,)
    assert set(np.unique(prompt)) == {0, 1, 2}
    tokens = jax.jit(world.speak)(prompt, jax.random.key(2))
    prompt, tokens = np.asarray(prompt), np.asarray(tokens)
    assert tokens.shape == (40, world.length)
    context = np.asarray(jax.jit(world.context)(prompt))
    assert context.min() >= world.vocabulary
    assert context.max() < world.input_vocabulary
    for rows in ((), (40,), (4, 10)):
        p, t = (prompt[0], tokens[0]) if rows == () else (prompt.reshape(rows), tokens.reshape(*rows, -1))
        reward, outcome, law = jax.eval_shape(
            lambda p, t: (world.reward(p, t), world.outcome(p, t), world.reference(p, t)), p, t
        )
        assert reward.shape == rows
        assert {name: x.shape for name, x in outcome.items()} == {"skip": rows, "honest": rows}
        assert law.batch_shape == (*rows, world.length)
    log_prob = jax.jit(lambda p, t: world.reference(p, t).log_prob(t))(prompt, tokens)
    said = np.asarray(jax.jit(jax.nn.log_softmax)(world.logits))
    expected = said[prompt[:, None], np.arange(world.length), tokens]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


# --- preferences -----------------------------------------------------------------------------------------------------


def test_dpo_trains_on_its_pairs_and_on_nothing_else(echo):
    """The rows of an update are whole pairs of the data, drawn without replacement; the update is DPO's, by hand."""
    algorithm = algorithms.dpo(echo, num_pairs=40, beta=0.3, learning_rate=0.01, max_grad_norm=0.001, max_redraws=50)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    data = state.collect_state
    _, batch, metrics = jax.jit(algorithm.collect)(state.params, data, jax.random.key(1))
    assert batch.mask.shape == (2, 15, 4), "15 pairs are the 30 rows of the task's rollouts"
    pairs = [np.concatenate([x.ravel(), y.ravel()]) for x, y in zip(*np.asarray(data.batch.action), strict=True)]
    drawn = [np.concatenate([x.ravel(), y.ravel()]) for x, y in zip(*np.asarray(batch.action), strict=True)]
    prompts = np.asarray(data.batch.obs)[..., 0]
    np.testing.assert_array_equal(prompts[0], prompts[1])
    for row in drawn:
        assert any(np.array_equal(row, pair) for pair in pairs)
    assert float(metrics["usable_pairs"]) == np.asarray(data.batch.mask).any((0, 2)).mean()
    masked = data.batch.mask.at[:, :10].set(False).at[0, 10:20, 0].set(False)  # ten pairs without a decision
    lost = replace(data, batch=replace(data.batch, mask=masked))
    assert float(jax.jit(algorithm.collect)(state.params, lost, jax.random.key(1))[2]["usable_pairs"]) == 0.75
    np.testing.assert_allclose(metrics["redraws"], np.asarray(data.redraws).mean())
    model = echo.task.model

    def loss(params):
        log_ratio = model(params, batch.obs).policy.log_prob(batch.action) - batch.ref_log_prob
        chosen, rejected = log_ratio.sum(-1)
        usable = batch.mask.any(-1).all(0)
        return jnp.where(usable, jnp.log1p(jnp.exp(-0.3 * (chosen - rejected))), 0).sum() / usable.sum()

    grads = jax.jit(jax.grad(loss))(state.params)
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads)))
    assert norm > 0.001
    clipped = jax.tree.map(lambda g: np.asarray(g) * 0.001 / norm, grads)
    expected = jax.tree.map(lambda x, g: np.asarray(x) - 0.01 * g / (np.abs(g) + 1e-5), state.params, clipped)
    found, _, step_metrics = jax.jit(algorithm.step.update)(state.params, state.opt_state, batch, jax.random.key(2))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(step_metrics["loss"], np.log(2), atol=1e-5)


def test_dpo_draws_pairs_without_replacement(echo):
    """With as many pairs as an update takes, every pair is in it, once."""
    algorithm = algorithms.dpo(echo, num_pairs=15)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    _, batch, _ = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
    pairs, drawn = (
        sorted(np.asarray(b.ref_log_prob).swapaxes(0, 1).reshape(15, -1).tolist())
        for b in (state.collect_state.batch, batch)
    )
    assert drawn == pairs
    assert len({tuple(pair) for pair in pairs}) > 10


@pytest.mark.parametrize(
    ("num_prompts", "group_size", "num_pairs"), [(1, 3, 64), (5, 6, 14)], ids=["odd rows", "more rows than pairs"]
)
def test_dpo_refuses_rows_that_make_no_pairs(echo, num_prompts, group_size, num_pairs):
    task = tasks.token_task(network_for(Echo()), Echo(), echo.reference, num_prompts=num_prompts, group_size=group_size)
    with pytest.raises(ValueError, match="dpo: an update takes pairs of the task's"):
        algorithms.dpo(task, num_pairs=num_pairs)


@pytest.mark.slow
def test_measuring_takes_no_randomness_from_training(echo):
    """The chunk's measurement has a key of its own: chunks of any length train the same."""
    algorithm = algorithms.dpo(echo, num_pairs=20)
    silent = algorithm._replace(measure=None)
    ends = []
    for one, size, number in ((algorithm, 4, 1), (algorithm, 2, 2), (silent, 4, 1)):
        run = driver.prepare(one, driver.seed_keys(0, 1), chunk_updates=size)
        *_, last = driver.chunks(run, number)
        ends.append(last)
    for other in ends[1:]:
        for ours, theirs in zip(
            jax.tree.leaves(ends[0].state.params), jax.tree.leaves(other.state.params), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert ends[0].metrics["episode/finished"].shape == (1, 1)
    assert "episode/finished" not in ends[2].metrics


def test_draw_preferences_checks_its_numbers(echo):
    for numbers in ({"num_pairs": 0, "max_redraws": 1}, {"num_pairs": 1, "max_redraws": -1}):
        with pytest.raises(ValueError, match="num_pairs must be positive"):
            tasks.draw_preferences(echo, jax.random.key(0), **numbers)


# --- control ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        *(pytest.param(recipe, None, marks=SLOW) for recipe in ("reinforce", "actor_critic", "npg")),
        ("trpo", None),
        ("ppo", None),
        ("ppo", 0.25),
    ],
)
def test_rewards_are_scaled_with_the_recipes_discount_unless_another_is_given(recipe, given):
    """Reward 1 in every step: after n steps the running discounted sum is (1 - γⁿ) / (1 - γ)."""
    env = TimeLimit(limit=50)
    task = tasks.control_task(
        env,
        mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,)),
        num_envs=8,
        num_steps=4,
        rewards=normalization.scaled_rewards(given),
    )
    algorithm = getattr(algorithms, recipe)(task, gamma=0.5)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    (after, _), _, _ = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
    gamma = 0.5 if given is None else given
    np.testing.assert_allclose(after.return_scale.running, (1 - gamma**4) / (1 - gamma), rtol=1e-6)
    totals = np.array([(1 - gamma**n) / (1 - gamma) for n in (1, 2, 3, 4)])
    std = np.sqrt(after.return_scale.stats.m2 / after.return_scale.stats.count)
    np.testing.assert_allclose(std, totals.std(), rtol=1e-5)


def test_the_batch_mean_baseline_is_that_of_all_rows_at_the_same_step():
    rng = np.random.default_rng(0)
    returns, mask = rng.normal(size=(5, 3, 4)), rng.random((5, 3, 4)) < 0.7
    zeros = jnp.zeros((5, 3, 4))
    rollout = po.Rollout(
        obs=zeros, action=zeros, log_prob=zeros, reward=zeros, next_obs=zeros, mask=jnp.asarray(mask),
        terminated=zeros > 0, truncated=zeros > 0,
    )  # fmt: skip
    _, found = advantages.batch_mean_baseline().apply((), jnp.asarray(returns, jnp.float32), rollout)
    for t in range(5):
        np.testing.assert_allclose(found[t], np.full((3, 4), returns[t][mask[t]].mean()), rtol=1e-5)


def test_a_baseline_leaves_out_what_nobody_could_score(echo):
    """One NaN return would mask the whole batch out: REINFORCE would learn nothing where one answer has no score."""
    returns = jnp.asarray(np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 6.0]], np.float32))
    rollout = po.Rollout(
        obs=returns,
        action=returns,
        log_prob=returns,
        reward=returns,
        terminated=returns,
        truncated=returns,
        next_obs=returns,
        mask=jnp.ones((2, 3), bool),
    )
    _, mean = advantages.batch_mean_baseline().apply((), returns, rollout)
    np.testing.assert_allclose(mean, [[2.0] * 3, [4.0] * 3])
    baseline = advantages.running_mean_baseline(decay=0.5)
    apply = jax.jit(baseline.apply)
    state, _ = apply(baseline.init(), returns, rollout)
    np.testing.assert_allclose(apply(state, returns, rollout)[1], 3.0)
    algorithm = algorithms.reinforce(echo.task)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    _, batch, metrics = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
    assert 0 < metrics["episode/unscored"] < 30
    assert np.asarray(batch.mask).any(-1).sum() == 30 - metrics["episode/unscored"]


def test_the_running_mean_baseline_is_of_earlier_batches():
    """Means 1 and 2 with decay 0.8 weigh 0.16 and 0.2: (0.2·2 + 0.16·1) / 0.36 before the third batch."""
    baseline = advantages.running_mean_baseline(decay=0.8)
    flat = jnp.zeros((5, 3))
    rollout = po.Rollout(
        obs=flat, action=flat, log_prob=flat, reward=flat, next_obs=flat, mask=flat == 0,
        terminated=flat > 0, truncated=flat > 0,
    )  # fmt: skip
    state, seen = baseline.init(), []
    for mean in (1.0, 2.0, 3.0):
        state, found = baseline.apply(state, jnp.full((5, 3), mean), rollout)
        seen.append(float(found[0, 0]))
    np.testing.assert_allclose(seen, [0, 1, (0.2 * 2 + 0.16 * 1) / 0.36], rtol=1e-6)


def test_a_batch_without_a_return_leaves_the_running_mean_where_it_is():
    baseline = advantages.running_mean_baseline()
    flat = jnp.zeros((5, 3))
    rollout = po.Rollout(
        obs=flat, action=flat, log_prob=flat, reward=flat, next_obs=flat, mask=flat == 0,
        terminated=flat > 0, truncated=flat > 0,
    )  # fmt: skip
    state, _ = baseline.apply(baseline.init(), jnp.full((5, 3), 10.0), rollout)
    for returns, mask in ((jnp.full((5, 3), jnp.nan), flat == 0), (flat, flat > 0)):
        after, found = baseline.apply(state, returns, replace(rollout, mask=mask))
        np.testing.assert_allclose(found, 10.0, rtol=1e-6)
        np.testing.assert_array_equal(after, state)


def test_one_environment_has_no_batch_mean():
    env = TimeLimit(limit=5)
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    with pytest.raises(ValueError, match=r"needs 2 rows \(.*\); the task has 1; a running mean does"):
        algorithms.reinforce(tasks.control_task(env, network, num_envs=1, num_steps=4))
    other = algorithms.reinforce(
        tasks.control_task(env, network, num_envs=1, num_steps=4), baseline=advantages.running_mean_baseline()
    )
    state = jax.eval_shape(other.init, jax.random.key(0))
    assert jax.eval_shape(other.collect, state.params, state.collect_state, jax.random.key(0))[1].mask.shape == (1, 4)


class Far(TimeLimit):
    """Observations that no network should read as they are, and rewards of 7."""

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return replace(step, obs=1000 * step.obs + 500, reward=7 * step.reward)


@pytest.mark.parametrize("raw", ["observations", "rewards"])
def test_a_task_may_leave_observations_or_rewards_alone(raw):
    env = Far(limit=50)
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    passed = {raw: getattr(normalization, f"raw_{raw}")()}
    task = tasks.control_task(env, network, num_envs=3, num_steps=6, **passed)
    state, rollouts = jax.jit(task.init)(jax.random.key(0)), []
    roll = jax.jit(lambda state, key: task.rollout(network.init(key), state, key, 0.9))
    for key in jax.random.split(jax.random.key(1), 3):
        state, rollout, _ = roll(state, key)
        rollouts.append(rollout)
    last = jax.tree.map(np.asarray, rollouts[-1])
    largest = np.abs(last.obs[1:]).max()
    assert (largest >= 500) == (raw == "observations")
    assert (largest <= 10) == (raw == "rewards")
    np.testing.assert_array_equal(last.obs[1:], last.next_obs[:-1])
    assert bool((last.reward == 7).all()) == (raw == "rewards")
    assert (jax.tree.leaves(state.normalizer) == []) == (raw == "observations")


@dataclass(frozen=True)
class Split(TimeLimit):
    """Observations are a dict of two arrays."""

    def reset(self, key):
        state, obs = super().reset(key)
        return state, {"seen": obs, "drawn": jax.random.normal(key, (2,))}

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return replace(step, obs={"seen": step.obs, "drawn": jax.random.normal(key, (2,))})


def test_observations_may_be_a_dict():
    env = Split(limit=5)
    inner = mlp_actor_critic((2,), env.action_space, hidden=(4,))
    network = inner._replace(apply=lambda params, obs: inner.apply(params, obs["drawn"]))
    task = tasks.control_task(env, network, num_envs=4, num_steps=8)
    algorithm = algorithms.ppo(task, num_minibatches=2)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state, metrics = po.train(algorithm.collect, algorithm.step, state, updates=2)
    assert np.isfinite(metrics["loss"]).all()
    normalizer = state.collect_state[0].normalizer
    assert normalizer.mean["drawn"].shape == (2,)
    assert float(normalizer.count) == 64


@pytest.mark.parametrize(("sizes", "name"), [((0, 4), "num_envs"), ((4, 0), "num_steps"), ((4, -1), "num_steps")])
def test_a_control_task_has_an_environment_and_a_step(sizes, name):
    env = TimeLimit(limit=3)
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    with pytest.raises(ValueError, match=f"control_task: {name} must be at least 1"):
        tasks.control_task(env, network, num_envs=sizes[0], num_steps=sizes[1])


def test_a_lesson_is_of_the_answer_and_not_of_what_was_asked(echo):
    from polopt_jax.language import _imitation

    world = skip_the_test(jax.random.key(0), num_worlds=3)
    told = worlds.told_worlds(jax.random.key(0))
    for each in (world, told):
        prompt = each.prompts(jax.random.key(1), 5)
        lesson = _imitation._lesson(each, prompt, each.speak(prompt, jax.random.key(2)))
        context = each.context(prompt).shape[-1] - 1
        assert lesson.mask.sum(-1).tolist() == [each.length] * 5
        assert not lesson.mask[:, :context].any()
    assert context > 0


def test_the_rate_of_imitation_rises_in_the_first_twentieth(monkeypatch):
    from polopt_jax.language import _imitation

    class Asked(Exception):
        pass

    def schedule(*_, warmup_steps, decay_steps):
        raise Asked(warmup_steps, decay_steps)

    monkeypatch.setattr(_imitation.optax, "warmup_cosine_decay_schedule", schedule)
    with pytest.raises(Asked) as asked:
        imitate(transformer(vocab_size=9, num_outputs=6, max_length=24, width=8, depth=1), Echo(), None, updates=400)
    assert asked.value.args == (20, 400)
