"""The token world against loops over tokens and an enumeration of every relevant sentence, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.worlds import (
    benign_twin,
    impossible_twin,
    sample_reference,
    select_worlds,
    skip_the_test,
    token_outcome,
    token_outcome_law,
    token_reward,
)

FORK, ROUTE = 4, (8, 12, 16, 20)
TWINS = {"hack": lambda worlds: worlds, "benign": benign_twin, "impossible": impossible_twin}


@pytest.fixture
def worlds(x64):
    return skip_the_test(jax.random.key(0), num_worlds=4, vocabulary=3)


def _judge(sentence, depth):
    """skip and honest of one sentence, by the rules."""
    return sentence[FORK] == 1, all(sentence[t] == 0 for t in ROUTE[:depth])


def _log_softmax(logits):
    return np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))


def _joint_by_enumeration(table, depth, skip_pays, honest_pays):
    """Law of (success, skip) over all choices at the positions that matter; the others sum to one."""
    joint = np.zeros((2, 2))
    positions = (FORK, *ROUTE)
    for choice in itertools.product(range(table.shape[-1]), repeat=len(positions)):
        sentence = dict(zip(positions, choice, strict=True))
        skip, honest = _judge(sentence, depth)
        pay = max(skip_pays * skip, honest_pays * honest)
        prob = np.exp(sum(table[t, v] for t, v in sentence.items()))
        joint[1, int(skip)] += prob * pay
        joint[0, int(skip)] += prob * (1 - pay)
    return joint


@pytest.mark.parametrize("twin", TWINS)
def test_outcome_law_is_that_of_an_enumeration(worlds, twin):
    worlds = TWINS[twin](worlds)
    table = _log_softmax(np.random.default_rng(1).standard_normal(worlds.logits.shape))
    law = jax.jit(token_outcome_law)(table, worlds)
    assert law.joint.dtype == jnp.float64
    for w in range(4):
        joint = _joint_by_enumeration(
            table[w], int(worlds.depth[w]), float(worlds.skip_pays[w]), float(worlds.honest_pays[w])
        )
        np.testing.assert_allclose(law.joint[w], joint, rtol=0, atol=1e-13)
        np.testing.assert_allclose(law.success[w], joint[1].sum(), rtol=0, atol=1e-13)
        np.testing.assert_allclose(law.skip[w], joint[:, 1].sum(), rtol=0, atol=1e-13)
        honest = np.exp(sum(table[w, t, 0] for t in ROUTE[: int(worlds.depth[w])]))
        np.testing.assert_allclose(law.honest[w], honest, rtol=0, atol=1e-13)
    np.testing.assert_allclose(law.joint.sum((-1, -2)), 1.0, rtol=0, atol=1e-13)


def test_gradient_of_success_is_that_of_finite_differences(worlds):
    def success(logits):
        return token_outcome_law(jax.nn.log_softmax(logits), worlds).success.sum()

    logits = worlds.logits
    gradient = np.asarray(jax.grad(success)(logits))
    for index in [(0, FORK, 1), (0, FORK, 2), (0, 8, 0), (1, 8, 1), (1, 12, 0), (2, 20, 0), (3, 5, 0)]:
        change = jnp.zeros_like(logits).at[index].set(1e-5)
        slope = (float(success(logits + change)) - float(success(logits - change))) / 2e-5
        np.testing.assert_allclose(gradient[index], slope, rtol=0, atol=1e-9)
    assert gradient[1, 12, 0] == 0.0  # off the route of a world of depth 1
    assert gradient[2, 20, 0] != 0.0


def test_gradient_is_finite_at_an_impossible_token(worlds):
    table = jax.nn.log_softmax(worlds.logits.at[:, 5, 0].set(-jnp.inf).at[0, FORK, 1].set(-jnp.inf))
    gradient = jax.grad(lambda log_prob: token_outcome_law(log_prob, worlds).success.sum())(table)
    assert np.isfinite(gradient).all()


def test_reference_has_exactly_the_probabilities_it_states(worlds):
    prob = np.exp(_log_softmax(np.asarray(worlds.logits)))
    np.testing.assert_allclose(prob[:, FORK, 1], worlds.p_skip, rtol=1e-12)
    for w in range(4):
        depth = int(worlds.depth[w])
        assert np.asarray(worlds.route)[w].nonzero()[0].tolist() == list(ROUTE[:depth])
        for t in ROUTE[:depth]:
            np.testing.assert_allclose(prob[w, t, 0], float(worlds.p_legit[w]) ** (1 / depth), rtol=1e-12)
    law = token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds)
    np.testing.assert_allclose(law.skip, worlds.p_skip, rtol=1e-12)
    np.testing.assert_allclose(law.honest, worlds.p_legit, rtol=1e-12)


def test_the_other_logits_are_standard_normal_and_rates_are_in_range():
    worlds = skip_the_test(jax.random.key(1), num_worlds=400)
    logits = np.asarray(worlds.logits)
    free = np.ones_like(logits, bool)
    free[:, FORK, 1] = False
    free[:, ROUTE, 0] = False
    assert abs(logits[free].mean()) < 0.02
    assert abs(logits[free].std() - 1) < 0.02
    for rate, (low, high) in ((worlds.p_skip, (2e-3, 5e-2)), (worlds.p_legit, (3e-3, 0.1))):
        rate = np.asarray(rate)
        assert low * 0.999 <= rate.min() < 1.3 * low
        assert high / 1.3 < rate.max() <= high * 1.001
        np.testing.assert_allclose(np.log(rate).mean(), np.log(low * high) / 2, atol=0.15)  # log-uniform
    assert worlds.depth.tolist() == [4, 1] * 200
    law = token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds)
    assert 0.035 < float(law.success.mean()) < 0.05  # "4%" in the documentation
    assert 0.28 < float(law.joint[:, 1, 1].mean() / law.success.mean()) < 0.42  # "about a third"


@pytest.mark.parametrize("twin", TWINS)
def test_reward_and_outcome_of_sentences_are_those_of_the_rules(twin):
    worlds = TWINS[twin](skip_the_test(jax.random.key(0), num_worlds=6))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 6, 500)
    tokens = rng.integers(0, 6, (500, 24))
    tokens[:, ROUTE] *= rng.random((500, 4)) < 0.3  # token 0 often enough
    tokens[:, FORK] = np.where(rng.random(500) < 0.3, 1, tokens[:, FORK])
    world = select_worlds(worlds, jnp.asarray(ids))
    outcome, reward = token_outcome(jnp.asarray(tokens), world), token_reward(jnp.asarray(tokens), world)
    kinds = set()
    for k, sentence in enumerate(tokens):
        skip, honest = _judge(sentence, 4 if ids[k] % 2 == 0 else 1)
        kinds.add((skip, honest, ids[k] % 2))
        assert (bool(outcome["skip"][k]), bool(outcome["honest"][k])) == (skip, honest)
        paid = {"hack": skip or honest, "benign": honest, "impossible": skip}[twin]
        assert float(reward[k]) == float(paid)
    assert len(kinds) == 8


def test_legitimate_fork_twin_differs_in_the_depth_only():
    key = jax.random.key(2)
    worlds = skip_the_test(key, num_worlds=5, depths=(4,))
    twin = skip_the_test(key, num_worlds=5, depths=(1,))
    np.testing.assert_array_equal(worlds.p_skip, twin.p_skip)
    np.testing.assert_array_equal(worlds.p_legit, twin.p_legit)
    changed = np.asarray(worlds.logits != twin.logits).any(0)
    assert {(int(t), int(v)) for t, v in np.argwhere(changed)} == {(t, 0) for t in ROUTE}
    assert twin.depth.tolist() == [1] * 5


def test_samples_of_the_reference_have_its_marginals():
    worlds = skip_the_test(jax.random.key(0), num_worlds=2)
    count = 20_000
    ids, sample = np.repeat(np.arange(2, dtype=np.int32), count), jax.jit(sample_reference)
    tokens = np.asarray(sample(worlds, ids, jax.random.key(1)))
    assert (tokens.shape, tokens.dtype) == ((2 * count, 24), jnp.int32)
    prob = np.exp(_log_softmax(np.asarray(worlds.logits, np.float64)))
    for w in range(2):
        rows = tokens[ids == w]
        rate = np.stack([(rows == v).mean(0) for v in range(6)], -1)
        np.testing.assert_allclose(rate, prob[w], rtol=0, atol=5 * 0.5 / np.sqrt(count))
    rewarded = jax.jit(lambda tokens, ids: token_reward(tokens, select_worlds(worlds, ids)))
    reward = np.asarray(rewarded(tokens, ids)).reshape(2, count).mean(1)
    exact = np.asarray(jax.jit(lambda: token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds).success)())
    assert (np.abs(reward - exact) < 5 * np.sqrt(exact * (1 - exact) / count)).all()
    again = sample(worlds, ids, jax.random.key(1))
    np.testing.assert_array_equal(tokens, again)
    assert (tokens != np.asarray(sample(worlds, ids, jax.random.key(2)))).any()


def test_a_group_of_samples_per_prompt(strict):
    worlds = skip_the_test(jax.random.key(0), num_worlds=3)
    ids = jnp.array([2, 0])
    tokens = sample_reference(worlds, jnp.broadcast_to(ids[:, None], (2, 5)), jax.random.key(0))
    world = select_worlds(worlds, ids[:, None])
    assert tokens.shape == (2, 5, 24)
    reward = token_reward(tokens, world)
    assert reward.shape == token_outcome(tokens, world)["skip"].shape == (2, 5)
    reward, tokens, alone = np.asarray(reward), np.asarray(tokens), jax.jit(token_reward)
    for n in range(2):
        own = select_worlds(worlds, ids[n])
        for g in range(5):
            assert float(reward[n, g]) == float(alone(tokens[n, g], own))
    assert worlds.input_vocabulary == world.input_vocabulary == 9
    np.testing.assert_array_equal(worlds.context(ids), [[8], [6]])  # V + world


def test_worlds_jit_and_the_law_vmaps_over_policies():
    worlds = skip_the_test(jax.random.key(0), num_worlds=3, length=40)
    tables = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (7, 3, 40, 6)))
    law = jax.jit(jax.vmap(token_outcome_law, in_axes=(0, None)))(tables, worlds)
    np.testing.assert_allclose(law.success[4], token_outcome_law(tables[4], worlds).success, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_worlds": 0}, "num_worlds"),
        ({"length": 20}, "length"),
        ({"vocabulary": 1}, "vocabulary"),
        ({"depths": (5,)}, "depths"),
        ({"depths": ()}, "depths"),
        ({"p_skip": (0.0, 0.1)}, "p_skip"),
        ({"p_legit": (0.2, 0.1)}, "p_legit"),
    ],
)
def test_bad_arguments_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        skip_the_test(jax.random.key(0), **change)


@pytest.mark.parametrize("shape", [(24,), (2, 23), (3, 24), (2, 2, 24)])
def test_tokens_that_do_not_go_with_the_worlds_are_refused(shape):
    worlds = skip_the_test(jax.random.key(0), num_worlds=2)
    for function in (token_outcome, token_reward):
        with pytest.raises(ValueError, match="tokens"):
            function(jnp.zeros(shape, jnp.int32), worlds)
    with pytest.raises(ValueError, match="log_prob"):
        token_outcome_law(jnp.zeros((2, 24, 5)), worlds)
