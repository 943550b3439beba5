"""Token policies on padded and packed rows: the transformer, its cache, its sampler, and how it is sampled."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.language import (
    Tokens,
    lazy_logits,
    learned_positions,
    padded_tokens,
    rotary_positions,
    sample_groups,
    sample_tokens,
    tempered_network,
    transformer,
)

V, LENGTH, STOP = 7, 12, 6


def network_of(**kwargs):
    sizes = dict(vocab_size=V, num_outputs=V, max_length=LENGTH, width=16, depth=2, heads=2)
    return transformer(**{**sizes, "positions": rotary_positions(), **kwargs})


def far_from_uniform(network):
    @jax.jit
    def init(key):
        params = network.init(key)
        params["policy"]["kernel"] = 100 * params["policy"]["kernel"]
        params["policy"]["bias"] = jnp.linspace(-1.0, 1.0, V)
        return params

    return init(jax.random.key(0))


def said_by(network):
    """`(params, tokens, actions) -> log-probabilities`, compiled."""
    return jax.jit(lambda params, tokens, action: network.apply(params, tokens).policy.log_prob(action))


@pytest.fixture(scope="module")
def case():
    return network_of(), far_from_uniform(network_of())


@pytest.fixture(scope="module", params=["rotary", "learned"])
def either(request):
    network = network_of(positions=rotary_positions() if request.param == "rotary" else learned_positions(LENGTH))
    return network, far_from_uniform(network)


def ragged(seed, lengths, size):
    """Rows of `lengths` tokens, as lists."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, V, length).tolist() for length in lengths]


def padded(texts, size, side):
    token, real = np.full((len(texts), size), 99), np.zeros((len(texts), size), bool)
    for n, text in enumerate(texts):
        place = slice(size - len(text), size) if side == "left" else slice(0, len(text))
        token[n, place], real[n, place] = text, True
    return padded_tokens(jnp.asarray(token), jnp.asarray(real))


# --- positions ------------------------------------------------------------------------------------------------------


def test_rotation_turns_pairs_by_the_angles_of_the_paper():
    """Pair i of a head of size D turns by t·base^(-2i/D), as a complex number does; pairs are (i, i + D/2)."""
    rng = np.random.default_rng(0)
    heads, position = rng.normal(size=(2, 5, 3, 8)), np.array([[0, 1, 2, 3, 4], [7, 0, 2, 2, 100]])
    as_complex = heads[..., :4] + 1j * heads[..., 4:]
    turned = as_complex * np.exp(1j * position[..., None, None] * 50.0 ** (-2 * np.arange(4) / 8))
    found = rotary_positions(50.0).turn(jnp.asarray(heads, jnp.float32), jnp.asarray(position))
    np.testing.assert_allclose(found, np.concatenate([turned.real, turned.imag], -1), atol=1e-4)


def test_of_rotary_positions_distances_count_and_of_learned_ones_places():
    token = np.array([[1, 2, 3, 4]])
    shifted = {}
    for name, positions in {"rotary": rotary_positions(), "learned": learned_positions(LENGTH)}.items():
        network = network_of(positions=positions)
        params = far_from_uniform(network)
        apply = jax.jit(network.apply)
        first, later = (
            apply(params, Tokens(token=token, position=np.arange(4)[None] + by, segment=np.ones((1, 4), int)))
            for by in (0, 5)
        )
        shifted[name] = np.abs(np.asarray(first.policy.logits) - np.asarray(later.policy.logits)).max()
    assert shifted["rotary"] < 1e-4 < shifted["learned"]


def test_order_is_told():
    network = network_of()
    params = far_from_uniform(network)
    said = np.asarray(jax.jit(network.apply)(params, np.array([[1, 2, 3], [2, 1, 3]])).policy.logits)[:, -1]
    assert np.abs(said[0] - said[1]).max() > 1e-3


def test_odd_heads_cannot_be_turned():
    with pytest.raises(ValueError, match="width / heads must be even; it is 3"):
        network_of(width=6, heads=2)
    with pytest.raises(ValueError, match="base must be above 0"):
        rotary_positions(0.0)


# --- padding and packing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_of_what_is_said(either, side):
    network, params = either
    texts = ragged(0, (5, 1, 8), V)
    apply = jax.jit(network.apply)
    outputs = jax.tree.map(np.asarray, apply(params, padded(texts, 10, side)))
    for n, text in enumerate(texts):
        alone = apply(params, np.array([text]))
        place = slice(10 - len(text), 10) if side == "left" else slice(0, len(text))
        np.testing.assert_allclose(outputs.policy.logits[n, place], alone.policy.logits[0], atol=2e-5)
        np.testing.assert_allclose(outputs.value[n, place], alone.value[0], atol=2e-5)
    assert np.isfinite(outputs.policy.logits).all(), "padding says something finite, too"


def packed(texts):
    """Texts one after the other in one row."""
    return Tokens(
        token=np.array([sum(texts, [])]),
        position=np.array([[place for text in texts for place in range(len(text))]]),
        segment=np.array([[n for n, text in enumerate(texts, start=1) for _ in text]]),
    )


def test_packed_equals_unpacked_in_loss_and_gradient(either):
    network, params = either
    texts = ragged(1, (4, 3, 5), V)
    apart, together = padded(texts, 5, "right"), packed(texts)

    def lesson(tokens):
        """To say each next token of the same text."""
        token, segment = np.asarray(tokens.token), np.asarray(tokens.segment)
        following = np.roll(segment, -1, axis=-1)
        following[:, -1] = 0
        mask = (segment > 0) & (segment == following)
        return po.Batch(obs=tokens, action=np.roll(token, -1, axis=-1), mask=mask)

    loss = jax.jit(jax.value_and_grad(lambda p, b: po.objective(network.apply, po.negative_log_likelihood())(p, b)[0]))
    one, other = (loss(params, lesson(tokens)) for tokens in (apart, together))
    assert lesson(apart).mask.sum() == lesson(together).mask.sum() == 9
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    for x, y in zip(*map(jax.tree.leaves, (one[1], other[1])), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    mixed = replace(together, segment=np.ones_like(together.segment))
    assert abs(float(loss(params, replace(lesson(together), obs=mixed))[0] - one[0])) > 1e-3, "segments are what parts"


@pytest.mark.parametrize("pieces", [(4, 6), (9, 1)])
def test_decoding_padded_rows_equals_the_whole(strict, case, pieces):
    network, params = case
    tokens = padded(ragged(2, (10, 3, 6), V), 10, "left")
    whole = np.asarray(jax.jit(network.apply)(params, tokens).policy.logits)
    cache, start = jax.jit(lambda: network.init_cache((3,)))(), 0
    for size in pieces:
        piece = jax.tree.map(lambda x: np.asarray(x)[:, start : start + size], tokens)  # noqa: B023
        cache, outputs = jax.jit(network.decode)(params, cache, piece, start)
        np.testing.assert_allclose(outputs.policy.logits, whole[:, start : start + size], atol=2e-5)
        start += size


def test_beyond_the_cache_is_nan_also_of_a_short_text(either):
    """A row that began with padding stands at a small place of its text when the cache is at its end."""
    network, params = either
    at = Tokens(token=np.array([[1]]), position=np.array([[2]]), segment=np.ones((1, 1), int))
    value = jax.jit(lambda place: network.decode(params, network.init_cache((1,)), at, place)[1].value)
    assert np.isnan(value(LENGTH)).all()
    assert np.isfinite(value(LENGTH - 1)).all()


# --- sampling ---------------------------------------------------------------------------------------------------------


def unpadded(rollout, row):
    """Input, action and log-probability of a row's answer, and its whole text, as lists."""
    rollout = jax.tree.map(lambda x: np.asarray(x)[:, row], rollout)
    real = rollout.obs.segment > 0
    return rollout.obs.token[real], rollout.action[real], rollout.mask[real], rollout.log_prob[real]


SETTINGS = {
    "plain": {},
    "hot": dict(temperature=2.0),
    "top-k": dict(temperature=0.7, top_k=3),
    "top-p": dict(top_p=0.8),
}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(x, id=name, marks=pytest.mark.slow if name in ("hot", "plain") else ())
        for name, x in SETTINGS.items()
    ],
)
def test_recorded_log_probs_are_those_of_the_training_pass_at_the_same_settings(case, settings):
    network, params = case
    said = tempered_network(network, **settings)
    prompt = padded(ragged(3, (5, 1, 3, 4), V), 5, "left")
    sample = jax.jit(lambda p, key: sample_tokens(said, p, prompt, key, length=7, stop=0))  # which is said last of all
    rollout = sample(params, jax.random.key(1))
    batch, said_again = jax.tree.map(np.asarray, jax.jit(po.to_batch)(rollout)), said_by(said)
    again = np.asarray(said_again(params, batch.obs, batch.action))
    np.testing.assert_allclose(batch.log_prob[batch.mask], again[batch.mask], atol=1e-5)
    assert batch.mask.sum(-1).max() > 3, "or no token of an answer is read"
    for row in range(4):
        text, action, mask, log_prob = unpadded(rollout, row)
        alone = np.asarray(said_again(params, text[None], action[None]))[0]
        np.testing.assert_allclose(log_prob[mask], alone[mask], atol=2e-5, err_msg="as if there were no padding")


def test_an_answer_ends_with_the_stop_token(case):
    network, params = case
    prompt = padded(ragged(4, [3] * 256, V), 4, "left")
    rollout = jax.jit(lambda key: sample_tokens(network, params, prompt, key, length=6, stop=STOP))(jax.random.key(2))
    free = jax.jit(lambda key: sample_tokens(network, params, prompt, key, length=6))(jax.random.key(2))
    whole, dropped = jax.jit(po.first_episodes)(rollout)
    none_lost = jax.jit(lambda r: po.episodes(r, max_length=9, num_episodes=256)[1])(rollout)
    assert none_lost == 0
    assert (rollout.next_value[-1] == 0).all()
    rollout, free = jax.tree.map(np.asarray, (rollout, free))
    assert free.mask[3:].all()
    lengths = set()
    for row in range(256):
        action = np.asarray(free.action[3:, row])
        stops = np.flatnonzero(action == STOP)
        end = stops[0] + 1 if stops.size else 6
        lengths.add(end)
        np.testing.assert_array_equal(rollout.mask[3:, row], np.arange(6) < end)
        np.testing.assert_array_equal(rollout.action[3 : 3 + end, row], action[:end])
        np.testing.assert_array_equal(rollout.action[3 + end :, row], STOP)
        np.testing.assert_array_equal(rollout.terminated[3:, row], np.arange(6) == end - 1)
        np.testing.assert_array_equal(rollout.log_prob[3 + end :, row], 0)
        np.testing.assert_array_equal(rollout.obs.segment[3 + 1 :, row], np.arange(1, 6) < end)
        np.testing.assert_allclose(rollout.log_prob[3 : 3 + end, row], free.log_prob[3 : 3 + end, row], atol=1e-5)
        assert rollout.next_value[2 + end, row] == 0
        np.testing.assert_array_equal(rollout.next_value[: 2 + end, row], rollout.value[1 : 3 + end, row])
    assert {1, 2, 6} <= lengths
    assert not rollout.mask[:3].any()
    np.testing.assert_array_equal(rollout.next_obs.token[:-1], rollout.obs.token[1:])
    np.testing.assert_array_equal(rollout.next_obs.token, rollout.action)
    np.testing.assert_array_equal(rollout.next_obs.position[:-1], rollout.obs.position[1:])
    last, lives = rollout.obs.position[-1], rollout.obs.segment[-1] > 0
    np.testing.assert_array_equal(rollout.next_obs.position[-1], last + lives)
    np.testing.assert_array_equal(whole.mask, rollout.mask)
    assert dropped == 0


def test_a_group_is_the_prompt_read_once_and_answered_several_times(case):
    network, params = case
    prompt = padded(ragged(5, (4, 2), V), 4, "left")
    grouped = jax.jit(lambda key: sample_groups(network, params, prompt, key, length=5, group_size=3, stop=STOP))
    repeated = jax.tree.map(lambda x: jnp.repeat(x[:, None], 3, axis=1), prompt)
    apart = jax.jit(lambda key: sample_tokens(network, params, repeated, key, length=5, stop=STOP))
    ours, theirs = grouped(jax.random.key(3)), apart(jax.random.key(3))
    assert ours.action.shape == (8, 2, 3)
    for x, y in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert len({tuple(np.asarray(ours.action[3:, 0, g]).tolist()) for g in range(3)}) > 1, "attempts differ"


def test_the_prompt_of_a_group_costs_as_much_as_that_of_one_answer():
    network = network_of(max_length=65)
    params = jax.jit(network.init)(jax.random.key(0))
    prompt = np.zeros((2, 64), np.int32)

    def flops(f):
        return jax.jit(f).lower(jax.random.key(0)).compile().cost_analysis()["flops"]

    one = flops(lambda key: sample_tokens(network, params, prompt, key, length=1))
    eight = flops(lambda key: sample_groups(network, params, prompt, key, length=1, group_size=8))
    apart = flops(lambda key: sample_tokens(network, params, jnp.repeat(prompt[:, None], 8, 1), key, length=1))
    assert eight < 1.6 * one
    assert apart > 6 * one


def test_prompts_of_integers_are_grouped_too(case):
    network, params = case
    prompt = np.array([[1, 2], [3, 4]])
    sample = jax.jit(lambda key: sample_groups(network, params, prompt, key, length=3, group_size=2))
    rollout = jax.tree.map(np.asarray, sample(jax.random.key(0)))
    assert rollout.obs.shape == (4, 2, 2)
    np.testing.assert_array_equal(rollout.obs[:2, :, 1].T, [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="group_size must be at least 1; it is 0"):
        sample_groups(network, params, jnp.array([[1]]), jax.random.key(0), length=3, group_size=0)


# --- temperature and truncation ---------------------------------------------------------------------------------------


def constant_law(probability):
    """A network that says the same whatever it reads."""
    logits = jnp.log(jnp.asarray(probability, jnp.float32))
    policy = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits, (*obs.shape, logits.size))))  # noqa: E731
    network = network_of()
    return network._replace(
        apply=lambda params, obs: policy(obs), decode=lambda params, cache, tokens, place: (cache, policy(tokens))
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(temperature=0.5), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38, 0]),
        (dict(top_k=2), [5 / 8, 3 / 8, 0, 0]),
        (dict(top_k=9), [0.5, 0.3, 0.2, 0]),
        (dict(top_p=0.5), [1, 0, 0, 0]),
        (dict(top_p=0.51), [5 / 8, 3 / 8, 0, 0]),
        (dict(top_p=1e-12), [1, 0, 0, 0]),
        (dict(top_p=1.0), [0.5, 0.3, 0.2, 0]),
        (dict(top_k=2, top_p=0.6), [1, 0, 0, 0]),
        (dict(temperature=0.5, top_k=2), [25 / 34, 9 / 34, 0, 0]),
    ],
)
def test_truncation_by_hand(settings, expected):
    network = tempered_network(constant_law([0.5, 0.3, 0.2, 0.0]), **settings)

    @jax.jit
    def said():
        token = jnp.array([[0]])
        of = (network.apply({}, token), network.decode({}, (), token, 0)[1])
        return [jnp.exp(jnp.stack([outputs.policy.log_prob(token + a) for a in range(4)])).ravel() for outputs in of]

    for found in said():
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_all_of_a_long_tail_is_kept_at_mass_1():
    tail = 1e-9
    network = tempered_network(constant_law([1 - tail, tail]), top_p=1.0)
    assert np.isfinite(said_by(network)({}, np.array([[0]]), np.array([[1]]))).all()


def test_truncation_has_the_gradient_of_what_is_kept():
    network = tempered_network(network_of(), top_k=2)
    params, tokens = far_from_uniform(network_of()), np.array([[1, 2, 3]])
    action = jax.jit(network.apply)(params, tokens).policy.mode()
    grads = jax.jit(jax.grad(lambda p: network.apply(p, tokens).policy.log_prob(action).sum()))(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert (np.abs(grads["policy"]["bias"]) > 1e-6).sum() <= 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperature=0.0), "temperature"),
        (dict(top_k=0), "top_k"),
        (dict(top_p=0.0), "top_p"),
        (dict(top_p=1.5), "top_p"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tempered_network(network_of(), **settings)


# --- heads and types --------------------------------------------------------------------------------------------------


def test_the_lazy_head_says_what_the_stored_one_says(case):
    network, params = case
    lazy = network_of(head=lazy_logits, positions=rotary_positions())
    stored = network_of()
    tokens = np.asarray(jax.random.randint(jax.random.key(4), (2, 3, 9), 0, V))
    one, other = (said_by(network)(params, tokens, tokens) for network in (stored, lazy))
    np.testing.assert_allclose(other, one, atol=1e-5)
    first, second = (jax.eval_shape(network.init, jax.random.key(0)) for network in (lazy, stored))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    hot, as_hot = (
        said_by(tempered_network(network, temperature=2.0))(params, tokens, tokens) for network in (lazy, stored)
    )
    np.testing.assert_allclose(hot, as_hot, atol=1e-5)
    sample = jax.jit(lambda key: sample_tokens(lazy, params, tokens[0, :, :4], key, length=6))
    rollout = jax.tree.map(np.asarray, sample(jax.random.key(5)))
    again = np.asarray(said_by(stored)(params, rollout.obs.T, rollout.action.T))
    np.testing.assert_allclose(rollout.log_prob[3:].T, again[:, 3:], atol=1e-5)


@pytest.mark.slow
def test_half_precision_is_computed_in_it_and_says_float32():
    full, half = network_of(), network_of(dtype=jnp.bfloat16)
    params = far_from_uniform(full)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(half.init(jax.random.key(0))))
    tokens = jax.random.randint(jax.random.key(6), (4, 8), 0, V)
    exact, rough = jax.jit(full.apply)(params, tokens), jax.jit(half.apply)(params, tokens)
    assert rough.policy.log_prob(tokens).dtype == rough.value.dtype == jnp.float32
    error = jnp.abs(rough.policy.log_prob(tokens) - exact.policy.log_prob(tokens))
    assert 1e-5 < error.max() < 0.3
    assert half.init_cache((2,)).entries[0][0].dtype == jnp.bfloat16
    rollout = sample_tokens(half, params, tokens[:, :3], jax.random.key(7), length=5)
    again = half.apply(params, rollout.obs.T).policy.log_prob(rollout.action.T)
    np.testing.assert_allclose(rollout.log_prob[2:].T, again[:, 2:], atol=0.1)
    products = [line for line in str(jax.make_jaxpr(half.apply)(params, tokens)).splitlines() if "dot_general" in line]
    assert sum("bf16" in line for line in products) > 10


def test_padded_tokens_needs_a_mask_of_the_same_shape():
    with pytest.raises(ValueError, match=r"real must have shape \(2, 3\)"):
        padded_tokens(jnp.zeros((2, 3), int), jnp.ones((2, 1), bool))
