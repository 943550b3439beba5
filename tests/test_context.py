"""Rows that begin with a context: masked steps that a model reads and nobody decided. Nothing else may see them."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import A
from test_tasks import Echo

import polopt_jax as po
from polopt_jax import advantages, algorithms, outcomes, tasks
from polopt_jax.language import imitate, sample_tokens, transformer

CONTEXT = 2


def after_context(x, axis, fill):
    """`x` with two steps of `fill` before it along the axis of time."""
    x = np.asarray(x)
    width = [(CONTEXT, 0) if a == axis % x.ndim else (0, 0) for a in range(x.ndim)]
    return jnp.asarray(np.pad(x, width, constant_values=fill))


def batch_after_context(batch):
    """Masked steps first, in which everything that may be broken is: words that cannot be said, NaN numbers."""
    time = batch.mask.ndim - 1
    per_step = {
        name: after_context(getattr(batch, name), time, np.nan)
        for name in ("log_prob", "advantage", "value", "target", "ref_log_prob", "sampler_log_prob")
        if getattr(batch, name) is not None
    }
    broken = A + 3 if np.issubdtype(batch.action.dtype, np.integer) else np.nan
    return replace(
        batch,
        obs=after_context(batch.obs, time, 0.0),
        action=after_context(batch.action, time, broken),
        mask=after_context(batch.mask, time, fill=False),
        **per_step,
    )


def outcome_case():
    """Rows of five decisions, with two masked steps after them and with two before them: one shape, compiled once."""
    rng = np.random.default_rng(0)
    action = rng.integers(0, A, (2, 32, 5))
    per_step = jnp.asarray(rng.normal(size=action.shape), jnp.float32)
    plain = po.Batch(
        obs=jnp.asarray(rng.normal(size=(*action.shape, A)), jnp.float32),
        action=jnp.asarray(action),
        mask=jnp.ones(action.shape, bool),
        log_prob=jnp.full(action.shape, -np.log(A), jnp.float32),
        **dict.fromkeys(("advantage", "value", "target", "ref_log_prob"), per_step),
    )
    before = batch_after_context(plain)
    after = jax.tree.map(lambda x: jnp.asarray(np.roll(x, -CONTEXT, axis=2)), before)
    outcome = {"won": jnp.asarray(action[..., 1] == 0), "broke": jnp.asarray(action[..., 3] == 1)}
    return [replace(batch, outcome=outcome) for batch in (after, before)]


def shifted_policy(params, obs):
    return po.Outputs(policy=po.Categorical(logits=params * obs))


WON, BROKE = (lambda outcome: outcome["won"]), (lambda outcome: outcome["broke"])


def test_a_context_changes_no_outcome_report():
    measure = jax.jit(
        lambda batch: outcomes.outcome_report(shifted_policy, 0.0, 0.4, batch, success=WON, side_effect=BROKE)
    )
    expected, found = (measure(batch).metrics() for batch in outcome_case())
    assert expected["old_new/trajectory_kl"] > 0.1
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_fork_profile_has_nothing_at_a_context_and_the_answer_after_it():
    measure = jax.jit(lambda batch: outcomes.fork_profile(shifted_policy, 0.0, 1.5, batch, 2, of=WON))
    expected, found = (measure(batch) for batch in outcome_case())
    assert expected.outcome.plug_in[1] > 1e-3
    for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(y[CONTEXT:], x[:-CONTEXT], rtol=1e-5, atol=1e-6)
    for nothing in (found.outcome.plug_in, found.action_kl, found.decisions):
        np.testing.assert_array_equal(nothing[:CONTEXT], 0)


def test_a_context_changes_no_monitor_and_no_price():
    plain, longer = outcome_case()
    reward = plain.outcome["won"].astype(jnp.float32)
    charge = np.array([0.0, 0.7], np.float32)

    @jax.jit
    def both(batch):
        said = outcomes.token_statistics(shifted_policy(0.4, batch.obs), batch, reward=reward)
        return said, outcomes.outcome_price(batch, charge, of=BROKE).advantage

    statistics, priced = zip(*(both(batch) for batch in (plain, longer)), strict=True)
    priced = [np.asarray(x) for x in priced]
    np.testing.assert_allclose(priced[1][..., CONTEXT:], priced[0][..., :-CONTEXT], rtol=1e-5, atol=1e-6)
    for name, expected in statistics[0].items():
        np.testing.assert_allclose(statistics[1][name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_context_changes_no_estimate_over_time():
    """The answers have the returns, advantages and baselines that they have without it."""
    rng = np.random.default_rng(1)
    shape = (4, 2, 3)
    reward, value = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    reward, value = np.asarray(reward), np.asarray(value)
    end = np.broadcast_to(np.arange(4)[:, None, None] == 3, shape)
    plain = po.Rollout(
        obs=reward, action=reward, log_prob=reward, reward=reward, terminated=end, truncated=end & ~end,
        next_obs=reward, mask=np.ones(shape, bool), value=value,
        next_value=np.concatenate([value[1:], np.zeros_like(value[:1])]),
    )  # fmt: skip
    plain = jax.tree.map(jnp.asarray, plain)
    longer = jax.tree.map(lambda x: np.array(after_context(x, 0, x.dtype.type(0))), plain)
    longer.value[:CONTEXT], longer.next_value[0], longer.next_value[CONTEXT - 1] = 7, 7, value[0]
    longer = jax.tree.map(jnp.asarray, longer)

    @jax.jit
    def estimates(rollout):
        returns = po.discounted_returns(rollout, gamma=0.9)
        advantage, target = po.gae(rollout, gamma=0.9, lambda_=0.8)
        _, batch_mean = advantages.batch_mean_baseline().apply((), returns, rollout)
        standard = po.standardize(advantage, rollout.mask)
        return {"returns": returns, "gae": advantage, "target": target, "mean": batch_mean, "standard": standard}

    found, expected = estimates(longer), estimates(plain)
    for name, x in expected.items():
        np.testing.assert_allclose(np.asarray(found[name])[CONTEXT:], x, rtol=1e-5, atol=1e-6, err_msg=name)
    after = jax.jit(lambda returns, rollout: advantages.running_mean_baseline().apply((0.0, 0.0), returns, rollout)[0])
    state = [after(e["returns"], r) for e, r in ((found, longer), (expected, plain))]
    np.testing.assert_allclose(state[0], state[1], rtol=1e-5)


# --- a world whose prompt is three words ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum(Echo):
    """Echo, but the prompt says two numbers and `equals`: what is wanted is nowhere said."""

    input_vocabulary: int = 7
    context_length: int = 3

    def prompts(self, key, num):
        a, b = jax.random.randint(key, (2, num), 0, 3)
        return {"a": a, "b": b}

    def reward(self, prompt, tokens):
        return (tokens == self.wanted(prompt)[..., None]).mean(-1)

    def context(self, prompt):
        return jnp.stack([3 + prompt["a"], 3 + prompt["b"], jnp.full_like(prompt["a"], 6)], axis=-1)


NETWORK = transformer(vocab_size=7, num_outputs=3, max_length=6, width=16, depth=1)


@pytest.fixture(scope="module")
def summing():
    learn = jax.jit(lambda key: imitate(NETWORK, Sum(), key, updates=300, rows=64))
    params, kl = learn(jax.random.key(0))
    return tasks.token_task(NETWORK, Sum(), params, num_prompts=8, group_size=6), kl


def wanted_of(obs):
    """The sum mod 3 that the first two words of inputs `[6, ...]` say."""
    return (np.asarray(obs[0]) - 3 + np.asarray(obs[1]) - 3) % 3


def test_imitation_reads_the_whole_context(summing):
    """Of the last two words alone nothing can be told of the sum: the mixture over `a` costs 0.1 nats per token."""
    task, kl = summing
    kl = np.asarray(kl)
    assert kl[0] > 0.05
    assert kl[-10:].mean() < 0.005
    prompt = {"a": np.array([0, 1, 2, 2]), "b": np.array([0, 0, 0, 2])}

    @jax.jit
    def apart(params):
        tokens = Sum().speak(prompt, jax.random.key(1))
        inputs = jnp.concatenate([Sum().context(prompt), tokens[:, :-1]], axis=-1)
        said = NETWORK.apply(params, inputs).policy.logits[:, CONTEXT:]
        return Sum().reference(prompt, tokens).kl_divergence(po.Categorical(logits=said)).max()

    assert apart(task.reference) < 0.05


def test_a_token_task_scores_the_answers_alone(summing):
    tokens, _ = summing
    task = tokens.task
    assert task.decisions == 8 * 6 * 4
    _, rollout, metrics = jax.jit(task.rollout)(tokens.reference, (), jax.random.key(1), 1.0)
    assert rollout.action.shape == (6, 8, 6)
    answer, wanted = np.asarray(rollout.action)[CONTEXT:], wanted_of(rollout.obs)
    assert answer.max() < 3 <= np.asarray(rollout.action)[:CONTEXT].min()
    assert len(np.unique(wanted)) == 3
    share = (answer == wanted).mean(0)
    np.testing.assert_allclose(rollout.reward[-1], share)
    np.testing.assert_array_equal(rollout.reward[:-1], 0)
    np.testing.assert_array_equal(rollout.outcome["first"][-1], answer[0] == wanted)
    np.testing.assert_allclose(metrics["episode/length_sum"], 4 * 8 * 6)
    np.testing.assert_allclose(metrics["episode/return_sum"], share.sum(), rtol=1e-6)
    np.testing.assert_array_equal(rollout.mask.all((1, 2)), np.arange(6) >= CONTEXT)
    np.testing.assert_array_equal(rollout.mask.any((1, 2)), np.arange(6) >= CONTEXT)


def test_preferences_are_between_answers_and_masked_before_them(summing):
    tokens, _ = summing
    draw = jax.jit(lambda key: tasks.draw_preferences(tokens, key, num_pairs=30, max_redraws=50))
    batch = draw(jax.random.key(2)).batch
    assert batch.mask.shape == (2, 30, 6)
    usable = np.asarray(batch.mask).any((0, 2))
    assert usable.sum() > 20
    for side in batch.mask:
        np.testing.assert_array_equal(side, (np.arange(6) >= CONTEXT) & usable[:, None])
    answer, wanted = np.asarray(batch.action)[..., CONTEXT:], wanted_of(np.moveaxis(np.asarray(batch.obs), -1, 0))
    np.testing.assert_array_equal(batch.obs[0, :, :3], batch.obs[1, :, :3])
    share = (answer == wanted[..., None]).mean(-1)
    assert (share[0] > share[1])[usable].all()
    log_prob = jax.jit(lambda batch: NETWORK.apply(tokens.reference, batch.obs).policy.log_prob(batch.action))
    found = np.where(batch.mask, log_prob(batch), 0)
    np.testing.assert_allclose(found, np.where(batch.mask, batch.ref_log_prob, 0), atol=1e-5)


@pytest.mark.parametrize("recipe", ["grpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "dpo"))])
def test_recipes_train_on_rows_with_a_context(summing, recipe):
    tokens, _ = summing
    sizes = {"num_pairs": 48} if recipe == "dpo" else {"num_minibatches": 2}
    algorithm = getattr(algorithms, recipe)(tokens.task if recipe == "ppo" else tokens, **sizes)
    state = jax.jit(algorithm.init)(jax.random.key(3))
    start = state.params
    state, metrics = jax.jit(lambda s: po.train(algorithm.collect, algorithm.step, s, updates=3))(state)
    assert metrics["skipped"].max() == 0
    moved = jax.tree.map(lambda new, old: np.abs(np.asarray(new) - np.asarray(old)).max(), state.params, start)
    assert 0 < max(jax.tree.leaves(moved)) < 1


def test_the_gradient_of_a_rollout_is_that_of_its_decisions(summing):
    """Of Σ advantage · log π(a) over the answers, by hand, with the context read."""
    tokens, _ = summing
    prompt = Sum().context(Sum().prompts(jax.random.key(4), 5))
    sample = jax.jit(lambda params, key: po.to_batch(sample_tokens(NETWORK, params, prompt, key, length=4)))
    batch = sample(tokens.reference, jax.random.key(5))
    advantage = jax.random.normal(jax.random.key(6), batch.mask.shape)
    batch = replace(batch, advantage=advantage)
    slope = jax.jit(jax.grad(po.objective(NETWORK.apply, po.reinforce(reduce=po.sequence_sum)), has_aux=True))
    found = slope(tokens.reference, batch)[0]

    def by_hand(params):
        logits = NETWORK.apply(params, batch.obs).policy.logits[:, CONTEXT:]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.action[:, CONTEXT:, None], axis=-1)[..., 0]
        return -(advantage[:, CONTEXT:] * chosen).sum() / 5

    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(jax.grad(by_hand))(tokens.reference)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
