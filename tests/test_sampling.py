"""Token sampling: the record it makes, its log-probabilities, and its frequencies against the probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from polopt_jax.distributions import Categorical
from polopt_jax.language import TokenNetwork, sample_tokens, transformer
from polopt_jax.types import Outputs

sample = jax.jit(sample_tokens, static_argnums=0, static_argnames="length")


@pytest.fixture(scope="module")
def case():
    """A transformer over 3 tokens and a start token, with a policy far from uniform."""
    network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=16, depth=2)
    params = jax.jit(network.init)(jax.random.key(0))
    params["policy"]["kernel"] = 100 * params["policy"]["kernel"]
    params["value"]["bias"] = params["value"]["bias"] + 0.5
    return network._replace(apply=jax.jit(network.apply)), params


@jax.jit
def log_prob(policy, action):
    return policy.log_prob(action)


def bigram(table):
    """A network without parameters, cache or critic: log-odds `table[token]` for the next token."""

    def outputs(token):
        return Outputs(policy=Categorical(logits=table[token]))

    return TokenNetwork(
        init=lambda key: {},
        apply=lambda params, obs: outputs(obs),
        init_cache=lambda batch_size: (),
        decode=lambda params, cache, tokens, position: (cache, outputs(tokens)),
        max_length=100,
    )


def test_the_record(case):
    network, params = case
    prompt = jnp.array([3, 4, 3])
    rollout = sample_tokens(network, params, prompt[:, None], jax.random.key(1), length=5)
    for name in (
        "obs",
        "action",
        "log_prob",
        "reward",
        "terminated",
        "truncated",
        "next_obs",
        "mask",
        "value",
        "next_value",
    ):
        assert getattr(rollout, name).shape == (5, 3), name
    np.testing.assert_array_equal(rollout.obs[0], prompt)
    np.testing.assert_array_equal(rollout.obs[1:], rollout.action[:-1])
    np.testing.assert_array_equal(rollout.next_obs, rollout.action)
    np.testing.assert_array_equal(rollout.terminated, np.arange(5)[:, None].repeat(3, 1) == 4)
    np.testing.assert_array_equal(rollout.next_value[:-1], rollout.value[1:])
    np.testing.assert_array_equal(rollout.next_value[-1], 0)
    assert rollout.mask.all()
    assert not rollout.truncated.any()
    assert not rollout.reward.any()
    assert rollout.action.dtype == rollout.obs.dtype == prompt.dtype
    assert rollout.terminated.dtype == rollout.truncated.dtype == rollout.mask.dtype == bool
    assert ((rollout.action >= 0) & (rollout.action < 3)).all()


def test_the_record_of_a_prompt_of_three_tokens(case):
    network, params = case
    prompt = np.array([[3, 4, 0], [4, 4, 3]], np.int32)
    rollout = jax.tree.map(np.asarray, sample(network, params, prompt, jax.random.key(1), length=4))
    np.testing.assert_array_equal(rollout.obs[:3].T, prompt)
    np.testing.assert_array_equal(rollout.obs[3:], rollout.action[2:-1])
    np.testing.assert_array_equal(rollout.action[:2].T, prompt[:, 1:])
    np.testing.assert_array_equal(rollout.next_obs, rollout.action)
    np.testing.assert_array_equal(rollout.mask, np.arange(6)[:, None].repeat(2, 1) >= 2)
    np.testing.assert_array_equal(rollout.terminated, np.arange(6)[:, None].repeat(2, 1) == 5)
    np.testing.assert_array_equal(rollout.log_prob[:2], 0)
    np.testing.assert_array_equal(rollout.next_value[:-1], rollout.value[1:])
    outputs = network.apply(params, rollout.obs.T)
    said = log_prob(outputs.policy, np.where(rollout.mask, rollout.action, 0).T)
    np.testing.assert_allclose(rollout.log_prob[2:].T, np.asarray(said)[:, 2:], atol=1e-5)
    np.testing.assert_allclose(rollout.value.T, outputs.value, atol=1e-5)
    assert not rollout.reward.any()
    assert not rollout.truncated.any()


def test_a_network_without_a_critic_reads_a_prompt_too():
    table = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.25, 0.0, 0.75]]))
    rollout = sample(bigram(table), {}, np.array([[2, 1, 0], [0, 0, 2]]), jax.random.key(0), length=8)
    assert rollout.value is None
    assert rollout.action[2, 0] == 1, "only 1 follows the last word of the prompt"
    np.testing.assert_allclose(rollout.log_prob[2:], table[rollout.obs, rollout.action][2:], atol=1e-6)


def test_recorded_log_prob_and_value_are_those_of_the_training_pass(strict, case):
    network, params = case
    rollout = sample(network, params, jnp.full((32, 1), 3), jax.random.key(1), length=6)
    rollout = jax.tree.map(np.asarray, rollout)
    outputs = network.apply(params, rollout.obs.T)
    np.testing.assert_allclose(rollout.log_prob.T, log_prob(outputs.policy, rollout.action.T), atol=1e-5)
    np.testing.assert_allclose(rollout.value.T, outputs.value, atol=1e-5)


@pytest.mark.parametrize("prompt", [(3,), (4,), (3, 0, 4)])
def test_sequence_frequencies_are_the_policy_probabilities(case, prompt):
    network, params = case
    sequences = np.array(list(itertools.product(range(3), repeat=3)))
    inputs = np.concatenate([np.tile(prompt, (27, 1)), sequences[:, :-1]], axis=1)
    said = np.asarray(network.apply(params, inputs).policy.logits)[:, len(prompt) - 1 :]
    probabilities = np.exp(np.asarray(log_prob(Categorical(logits=said), sequences), np.float64).sum(-1))
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-5)
    assert probabilities.max() > 3 * probabilities.min()  # or the test could not tell it from uniform

    rollout = sample(network, params, np.tile(prompt, (8192, 1)), jax.random.key(7), length=3)
    counts = np.bincount(np.asarray(rollout.action)[-3:].T @ [9, 3, 1], minlength=27)
    assert stats.chisquare(counts, 8192 * probabilities / probabilities.sum()).pvalue > 1e-3
    assert stats.chisquare(counts).pvalue < 1e-6


def test_any_network_that_decodes_will_do_and_impossible_tokens_never_come():
    table = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.25, 0.0, 0.75]]))
    rollout = sample(bigram(table), {}, jnp.zeros((512, 1), jnp.int32), jax.random.key(0), length=8)
    assert rollout.value is None
    assert rollout.next_value is None
    np.testing.assert_allclose(rollout.log_prob, table[rollout.obs, rollout.action], atol=1e-6)
    assert np.isfinite(rollout.log_prob).all()
    transitions = np.zeros((3, 3))
    np.add.at(transitions, (np.asarray(rollout.obs), np.asarray(rollout.action)), 1)
    np.testing.assert_allclose(transitions / transitions.sum(1, keepdims=True), np.exp(table), atol=0.05)


def test_the_key_decides_and_rows_and_steps_have_their_own_randomness():
    uniform = bigram(jnp.zeros((1000, 1000)))
    prompt = np.zeros((40, 1), np.int32)
    draw = [np.asarray(sample(uniform, {}, prompt, jax.random.key(s), length=40).action) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] == draw[2]).mean() < 0.01
    assert len(np.unique(draw[0])) > 700  # 1600 uniform draws from 1000 hit 798 ± 10
    legacy = sample(uniform, {}, prompt, jax.random.PRNGKey(0), length=40)
    np.testing.assert_array_equal(legacy.action, draw[0])


def test_vmap_over_keys(case):
    network, params = case
    keys, prompt = jax.random.split(jax.random.key(3), 4), jnp.full((2, 1), 3)
    together = jax.jit(jax.vmap(lambda key: sample_tokens(network, params, prompt, key, length=3)))(keys)
    assert together.action.shape == (4, 3, 2)
    alone = sample(network, params, prompt, keys[2], length=3)
    np.testing.assert_array_equal(np.asarray(together.action)[2], alone.action)
    np.testing.assert_allclose(np.asarray(together.log_prob)[2], alone.log_prob, atol=1e-5)


def test_x64(x64, case):
    network, params = case
    rollout = sample(network, params, jnp.full((2, 1), 3), jax.random.key(0), length=2)
    assert rollout.action.dtype == rollout.obs.dtype == jnp.int64
    assert rollout.log_prob.dtype == rollout.reward.dtype


@pytest.mark.parametrize("length", [0, 7])
def test_bad_length_is_named(case, length):
    network, params = case
    with pytest.raises(ValueError, match="length"):
        sample_tokens(network, params, jnp.full((2, 1), 3), jax.random.key(0), length=length)


def test_a_prompt_takes_its_share_of_the_length(case):
    network, params = case
    jax.eval_shape(lambda key: sample_tokens(network, params, jnp.full((2, 3), 3), key, length=4), jax.random.key(0))
    with pytest.raises(ValueError, match="length must be in 1 .. 4"):
        sample_tokens(network, params, jnp.full((2, 3), 3), jax.random.key(0), length=5)


@pytest.mark.parametrize(
    "prompt", [jnp.zeros((2, 1)), jnp.int32(0), jnp.zeros(2, jnp.int32), jnp.zeros((2, 0), jnp.int32)]
)
def test_bad_prompt_is_named(case, prompt):
    network, params = case
    with pytest.raises(ValueError, match="prompt"):
        sample_tokens(network, params, prompt, jax.random.key(0), length=2)
