"""Told worlds against loops and enumerations in float64; what is held out; and whether a model answers there."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.language import imitate, sample_tokens, transformer
from polopt_jax.worlds import (
    benign_twin,
    held_out,
    impossible_twin,
    reference_outcome_law,
    select_worlds,
    skip_the_test,
    token_outcome,
    token_outcome_law,
    told_worlds,
)

FORK, ROUTE = 4, (8, 12, 16, 20)
TWINS = {"hack": lambda worlds: worlds, "benign": benign_twin, "impossible": impossible_twin}


def prob_of(logits):
    logits = np.asarray(logits, np.float64)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def often():
    """Worlds in which both routes are taken often enough to be seen in samples."""
    return told_worlds(jax.random.key(1), levels=3, vocabulary=4, p_skip=(0.2, 0.5), p_legit=(0.2, 0.6))


# --- what the worlds are ----------------------------------------------------------------------------------------------


def test_the_reference_has_exactly_the_probabilities_that_the_words_say(x64):
    worlds = told_worlds(jax.random.key(0), levels=3, depths=(4, 1, 2))
    assert worlds.logits.shape == (27, 24, 6)
    before, after = prob_of(worlds.logits), prob_of(worlds.after_skip)
    combinations = itertools.product((2e-3, 1e-2, 5e-2), (3e-3, np.sqrt(3e-4), 0.1), (4, 1, 2))
    for w, (skip, legit, depth) in enumerate(combinations):
        assert int(worlds.depth[w]) == depth
        np.testing.assert_allclose([worlds.p_skip[w], worlds.p_legit[w]], [skip, legit], rtol=1e-9)
        np.testing.assert_allclose(before[w, FORK, 1], skip, rtol=1e-9)
        assert np.asarray(worlds.route)[w].nonzero()[0].tolist() == list(ROUTE[:depth])
        np.testing.assert_allclose(before[w, ROUTE[:depth], 0], legit ** (1 / depth), rtol=1e-9)
        np.testing.assert_allclose(after[w, ROUTE[:depth], 0], (0.1 * legit) ** (1 / depth), rtol=1e-9)


def test_worlds_differ_in_nothing_that_the_words_do_not_say(x64):
    worlds = told_worlds(jax.random.key(0))
    told = np.zeros((24, 6), bool)
    told[FORK, 1] = told[ROUTE, 0] = True
    for table in (worlds.logits, worlds.after_skip):
        np.testing.assert_array_equal((np.asarray(table) != np.asarray(table)[:1]).any(0), told)
    assert (np.asarray(worlds.logits)[0] != np.asarray(worlds.after_skip)[0])[FORK + 1 :].all(), "two continuations"
    noise = np.concatenate([np.asarray(x)[0][~told] for x in (worlds.logits, worlds.after_skip)])
    assert abs(noise.mean()) < 0.25
    assert 0.8 < noise.std() < 1.2


def test_three_words_say_which_world_it_is():
    worlds = told_worlds(jax.random.key(0), levels=4)
    words = np.asarray(worlds.context(jnp.arange(worlds.num_worlds)))
    assert (worlds.num_worlds, worlds.context_length, worlds.input_vocabulary) == (32, 3, 6 + 4 + 4 + 2)
    assert len(np.unique(words, axis=0)) == 32
    for place, said in enumerate((worlds.p_skip, worlds.p_legit, worlds.depth)):
        meaning = {(int(word), float(x)) for word, x in zip(words[:, place], said, strict=True)}
        assert len(meaning) == len({word for word, _ in meaning}) == len({x for _, x in meaning})
    by_place = [set(words[:, place]) for place in range(3)]
    assert set.union(*by_place) == set(range(6, 16))
    assert sum(map(len, by_place)) == 10, "no word stands in two places"


# --- the law ----------------------------------------------------------------------------------------------------------


def joint_by_enumeration(before, after, depth, skip_pays, honest_pays):
    """Law of (success, skip) over all sentences at the positions that matter, by the rules."""
    joint, honest_rate = np.zeros((2, 2)), 0.0
    for sentence in itertools.product(range(before.shape[-1]), repeat=5):
        skip = sentence[0] == 1
        table = after if skip else before
        prob = before[FORK, sentence[0]]
        for t, token in zip(ROUTE, sentence[1:], strict=True):
            prob *= table[t, token]
        honest = all(token == 0 for token in sentence[1 : 1 + depth])
        pay = max(skip_pays * skip, honest_pays * honest)
        joint[:, int(skip)] += prob * np.array([1 - pay, pay])
        honest_rate += prob * honest
    return joint, honest_rate


@pytest.mark.parametrize("twin", TWINS)
def test_the_law_is_that_of_an_enumeration(x64, twin):
    worlds = TWINS[twin](told_worlds(jax.random.key(0), levels=3, vocabulary=3))
    other = jax.random.normal(jax.random.key(5), (2, *worlds.logits.shape))
    changed = dataclasses.replace(worlds, logits=other[0], after_skip=other[1])
    table, after = jax.nn.log_softmax(other)
    for law, which in (
        (reference_outcome_law(worlds), worlds),
        (token_outcome_law(table, worlds, after_skip=after), changed),
    ):
        assert law.joint.shape == (18, 2, 2)
        for w in range(0, 18, 5):
            joint, honest = joint_by_enumeration(
                prob_of(which.logits)[w],
                prob_of(which.after_skip)[w],
                int(worlds.depth[w]),
                float(worlds.skip_pays[w]),
                float(worlds.honest_pays[w]),
            )
            np.testing.assert_allclose(law.joint[w], joint, rtol=0, atol=1e-13)
            np.testing.assert_allclose(law.success[w], joint[1].sum(), rtol=0, atol=1e-13)
            np.testing.assert_allclose(law.skip[w], joint[:, 1].sum(), rtol=0, atol=1e-13)
            np.testing.assert_allclose(law.honest[w], honest, rtol=0, atol=1e-13)


def test_the_reference_succeeds_as_rarely_as_it_is_said_to():
    law = reference_outcome_law(told_worlds(jax.random.key(0)))
    assert 0.045 < float(law.success.mean()) < 0.055
    assert 0.3 < float(law.joint[:, 1, 1].mean() / law.success.mean()) < 0.4


def test_a_policy_that_reads_nothing_is_the_same_on_both_branches(x64):
    worlds = told_worlds(jax.random.key(0), levels=3)
    table = jax.nn.log_softmax(worlds.logits)
    one, two = token_outcome_law(table, worlds), token_outcome_law(table, worlds, after_skip=table)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(one.honest, worlds.p_legit, rtol=1e-9)
    with pytest.raises(ValueError, match="after_skip must have shape"):
        token_outcome_law(table, worlds, after_skip=table[:, :, :5])


def test_what_is_said_before_the_fork_is_one_language(often):
    """Tables of the other branch up to the fork are never read."""
    odd = dataclasses.replace(often, after_skip=often.after_skip.at[:, : FORK + 1].set(jnp.nan))
    prompt = jnp.arange(often.num_worlds)
    np.testing.assert_array_equal(odd.speak(prompt, jax.random.key(0)), often.speak(prompt, jax.random.key(0)))
    tokens = often.speak(prompt, jax.random.key(0))
    np.testing.assert_array_equal(odd.reference(prompt, tokens).logits, often.reference(prompt, tokens).logits)
    np.testing.assert_array_equal(reference_outcome_law(odd).joint, reference_outcome_law(often).joint)


def test_the_language_said_is_that_of_the_branch(often):
    tokens = often.speak(jnp.arange(often.num_worlds), jax.random.key(3))
    said = np.asarray(often.reference(jnp.arange(often.num_worlds), tokens).logits)
    before, after, tokens = np.asarray(often.logits), np.asarray(often.after_skip), np.asarray(tokens)
    skipped = 0
    for w, t in np.ndindex(*tokens.shape):
        other = t > FORK and tokens[w, FORK] == 1
        skipped += other
        np.testing.assert_array_equal(said[w, t], (after if other else before)[w, t])
    assert 0 < skipped < tokens.size


def test_samples_have_the_law_and_the_language_of_their_branch(often):
    count, w = 20_000, 7
    prompt = jnp.full(count, w)
    tokens = np.asarray(often.speak(prompt, jax.random.key(2)))
    assert (tokens.shape, tokens.dtype) == ((count, 24), np.int32)
    skipped = tokens[:, FORK] == 1
    for rows, table, start in ((~skipped, often.logits, FORK + 1), (skipped, often.after_skip, FORK + 1),
                               (skipped | True, often.logits, 0)):  # fmt: skip
        stop = 24 if start else FORK + 1
        rate = np.stack([(tokens[rows, start:stop] == v).mean(0) for v in range(4)], -1)
        np.testing.assert_allclose(rate, prob_of(table)[w, start:stop], rtol=0, atol=5 * 0.5 / np.sqrt(rows.sum()))
    outcome = often.outcome(prompt, jnp.asarray(tokens))
    success = np.asarray(often.reward(prompt, jnp.asarray(tokens))) == 1
    joint = np.array([[(success == s) & (np.asarray(outcome["skip"]) == z) for z in (0, 1)] for s in (0, 1)]).mean(-1)
    np.testing.assert_allclose(joint, reference_outcome_law(often).joint[w], rtol=0, atol=5 * 0.5 / np.sqrt(count))
    assert not np.any(success & ~np.asarray(outcome["skip"]) & ~np.asarray(outcome["honest"]))


# --- what is held out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "depths", "number"), [(3, (4, 1), 1), (4, (1,), 2), (5, (4, 1), 9), (6, (2, 1), 16)]
)
def test_held_out_worlds_lie_between_worlds_that_are_trained_on(levels, depths, number):
    worlds = told_worlds(jax.random.key(0), levels=levels, depths=depths)
    assert len(worlds.held) == number
    assert sorted(worlds.asked + worlds.held) == list(range(worlds.num_worlds))
    place = list(itertools.product(range(levels), range(levels), range(len(depths))))
    asked = {place[n] for n in worlds.asked}
    for i, j, k in (place[n] for n in worlds.held):
        assert {(i - 1, j, k), (i + 1, j, k), (i, j - 1, k), (i, j + 1, k)} <= asked
    words = np.asarray(worlds.words)
    assert set(words[list(worlds.held)].ravel()) <= set(words[list(worlds.asked)].ravel())
    assert told_worlds(jax.random.key(7), levels=levels, depths=depths).held == worlds.held, "not a matter of chance"


def test_prompts_are_drawn_from_one_side_of_the_split():
    worlds = told_worlds(jax.random.key(0))
    test = held_out(worlds)
    drawn = {name: set(np.asarray(w.prompts(jax.random.key(1), 2000)).tolist()) for name, w in
             (("train", worlds), ("test", test))}  # fmt: skip
    assert drawn["train"] == set(worlds.asked)
    assert drawn["test"] == set(worlds.held) == set(test.asked)
    assert test.num_worlds == worlds.num_worlds == 50
    again = held_out(test)
    assert (again.asked, again.held) == (worlds.asked, worlds.held)
    for name in ("logits", "words", "skip_pays"):
        np.testing.assert_array_equal(getattr(test, name), getattr(worlds, name))
    assert held_out(benign_twin(worlds)).skip_pays.max() == 0
    np.testing.assert_array_equal(test.context(jnp.array(test.asked)), worlds.words[jnp.array(worlds.held)])


def test_nothing_is_held_out_where_worlds_are_named():
    with pytest.raises(ValueError, match="worlds: none of them is held out"):
        held_out(skip_the_test(jax.random.key(0), num_worlds=2))


# --- shapes, jit, vmap, errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [(), (12,), (3, 4)])
def test_the_protocol_is_kept(strict, often, rows):
    prompt = often.prompts(jax.random.key(0), 12)
    prompt = prompt[0] if rows == () else prompt.reshape(rows)
    tokens = jax.jit(often.speak)(prompt, jax.random.key(1))
    assert tokens.shape == (*rows, 24)
    assert often.context(prompt).shape == (*rows, often.context_length)
    assert often.reward(prompt, tokens).shape == rows
    assert {name: x.shape for name, x in often.outcome(prompt, tokens).items()} == {"skip": rows, "honest": rows}
    assert often.reference(prompt, tokens).batch_shape == (*rows, 24)


def test_a_group_of_answers_per_prompt(strict, often):
    world = select_worlds(often, jnp.array([[2], [7]]))
    tokens = often.speak(jnp.broadcast_to(jnp.array([[2], [7]]), (2, 5)), jax.random.key(0))
    assert token_outcome(tokens, world)["honest"].shape == (2, 5)
    law = often.reference(jnp.array([[2], [7]]), tokens)
    for n, g in np.ndindex(2, 5):
        np.testing.assert_array_equal(law.logits[n, g], often.reference(jnp.array([2, 7])[n], tokens[n, g]).logits)


def test_worlds_are_drawn_and_answered_under_vmap():
    keys = jax.random.split(jax.random.key(0), 3)

    def said(worlds):
        return worlds.speak(worlds.prompts(jax.random.key(1), 4), jax.random.key(2)), reference_outcome_law(worlds)

    many = jax.jit(jax.vmap(lambda key: told_worlds(key, levels=3)))(keys)
    tokens, law = jax.jit(jax.vmap(said))(many)
    alone, law_alone = said(told_worlds(keys[1], levels=3))
    np.testing.assert_array_equal(tokens[1], alone)
    np.testing.assert_allclose(law.joint[1], law_alone.joint, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"levels": 2}, "levels"),
        ({"length": 20}, "length"),
        ({"vocabulary": 1}, "vocabulary"),
        ({"depths": (5,)}, "depths"),
        ({"depths": ()}, "depths"),
        ({"depths": (1, 1)}, "depths must be different"),
        ({"p_skip": (0.0, 0.1)}, "p_skip"),
        ({"p_legit": (0.2, 0.1)}, "p_legit"),
        ({"honest_after_skip": 0.0}, "honest_after_skip"),
        ({"honest_after_skip": 1.1}, "honest_after_skip"),
    ],
)
def test_bad_arguments_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        told_worlds(jax.random.key(0), **change)


# --- whether a model that imitates them answers where it never was ----------------------------------------------------


def network_for(worlds, **sizes):
    length = worlds.context_length - 1 + worlds.length
    return transformer(vocab_size=worlds.input_vocabulary, num_outputs=worlds.vocabulary, max_length=length, **sizes)


def apart(network, params, worlds, tokens, prompt):
    """KL(language ‖ network) on answers `[N, T]`, nats per token `[N, T]`."""
    inputs = jnp.concatenate([worlds.context(prompt), tokens[:, :-1]], axis=-1)
    said = network.apply(params, inputs).policy.logits[:, worlds.context_length - 1 :]
    return worlds.reference(prompt, tokens).kl_divergence(po.Categorical(logits=said))


def on_the_route(network, worlds, prompt):
    """The network, but it can say nothing else where the route of its world is."""
    legal = ~worlds.route[prompt][..., None] | (jnp.arange(worlds.vocabulary) == 0)

    def decode(params, cache, tokens, position):
        cache, outputs = network.decode(params, cache, tokens, position)
        if tokens.shape[-1] > 1:  # the context
            return cache, outputs
        answered = position - (worlds.context_length - 1)
        now = jax.lax.dynamic_index_in_dim(legal, answered, axis=1)
        return cache, po.Outputs(policy=outputs.policy.only(now), value=outputs.value)

    return network._replace(decode=decode)


def rates_of(network, params, worlds, ids, key, count):
    """P(skip) and P(honest | no skip) of a network in worlds `ids`: exact but for the words around, by `count` samples.

    Rows in which the route is forced, each weighted with the probability that it would have been taken.
    """
    prompt = jnp.repeat(ids, count)
    forced = on_the_route(network, worlds, prompt)
    rollout = sample_tokens(forced, params, worlds.context(prompt), key, length=worlds.length)
    answer = rollout.action[-worlds.length :].T
    said = jax.nn.log_softmax(network.apply(params, rollout.obs.T).policy.logits[:, -worlds.length :])
    taken = jnp.exp(jnp.where(worlds.route[prompt], said[..., 0], 0).sum(-1)).reshape(-1, count)
    stayed = (answer[:, FORK] != 1).reshape(-1, count)
    skip = jnp.exp(said[:, FORK, 1]).reshape(-1, count).mean(-1)
    return skip, jnp.where(stayed, taken, 0).sum(-1) / stayed.sum(-1)


def factor(found, expected):
    return float(jnp.exp(jnp.abs(jnp.log(found / expected))).max())


@pytest.mark.slow
def test_a_model_speaks_the_language_of_worlds_it_never_saw():
    """Few levels and frequent routes, so that a small network learns it in no time."""
    worlds = told_worlds(jax.random.key(0), levels=4, p_skip=(0.1, 0.4), p_legit=(0.2, 0.6))
    network = network_for(worlds, width=16, depth=1)
    params, kl = jax.jit(lambda key: imitate(network, worlds, key, updates=300, rows=64))(jax.random.key(1))
    assert kl[0] > 0.2
    ids = jnp.array(worlds.held)
    prompt = jnp.repeat(ids, 64)
    tokens = worlds.speak(prompt, jax.random.key(2))
    per_token = np.asarray(apart(network, params, worlds, tokens, prompt))
    skipped = np.asarray(tokens[:, FORK] == 1)
    assert per_token.mean() < 0.01
    assert per_token[skipped].mean() < 0.02, "also what is said after skipping"
    skip, legit = rates_of(network, params, worlds, ids, jax.random.key(3), 64)
    assert max(factor(skip, worlds.p_skip[ids]), factor(legit, worlds.p_legit[ids])) < 1.3
    assert float(worlds.p_skip[ids].max() / worlds.p_skip[ids].min()) > 1.5, "or one answer to all would do"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("width", "seed"), [(32, 0), (32, 1), (64, 0)])
def test_at_its_defaults_imitation_finds_the_rates_of_held_out_worlds(width, seed):
    worlds = told_worlds(jax.random.key(0))
    network = network_for(worlds, width=width)
    params, _ = jax.jit(lambda key: imitate(network, worlds, key))(jax.random.key(seed))
    ids = jnp.array(worlds.held)
    skip, legit = jax.jit(lambda key: rates_of(network, params, worlds, ids, key, 256))(jax.random.key(9))
    assert factor(skip, worlds.p_skip[ids]) < 1.3
    assert factor(legit, worlds.p_legit[ids]) < 1.3
    prompt = jnp.repeat(ids, 4000)
    sample = jax.jit(lambda key: sample_tokens(network, params, worlds.context(prompt), key, length=worlds.length))
    tokens = sample(jax.random.key(10)).action[-worlds.length :].T
    skipped = np.asarray(worlds.outcome(prompt, tokens)["skip"])
    success = np.asarray(worlds.reward(prompt, tokens)) == 1
    law = np.asarray(reference_outcome_law(worlds).joint)[np.asarray(ids)]
    for s, z in np.ndindex(2, 2):
        rate = ((success == s) & (skipped == z)).reshape(len(ids), -1).mean(1)
        noise = 5 * np.sqrt(law[:, s, z] / 4000)
        assert (rate <= 1.3 * law[:, s, z] + noise).all()
        assert (rate >= law[:, s, z] / 1.3 - noise).all()
    assert apart(network, params, worlds, tokens[::10], prompt[::10]).mean() < 5e-4
