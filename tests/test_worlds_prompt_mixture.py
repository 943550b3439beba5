"""The prompt mixture against the ranges that it was asked for, and what pooling its prompts hides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.worlds import prompt_mixture, sample_reference, select_worlds, token_outcome, token_outcome_law


def test_halves_are_drawn_from_their_ranges(x64):
    worlds = prompt_mixture(jax.random.key(0), num_worlds=7, depth=2, easy=(0.3, 0.5), hard=(1e-3, 2e-3))
    p_legit = np.asarray(worlds.p_legit)
    assert ((0.3 <= p_legit) & (p_legit <= 0.5)).tolist() == [True] * 4 + [False] * 3
    assert ((1e-3 <= p_legit) & (p_legit <= 2e-3)).tolist() == [False] * 4 + [True] * 3
    assert len(np.unique(np.asarray(worlds.p_skip))) == 7
    np.testing.assert_array_equal(worlds.depth, 2)
    np.testing.assert_array_equal(worlds.id, np.arange(7))
    assert worlds.input_vocabulary == 6 + 7
    law = token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds)
    np.testing.assert_allclose(law.honest, worlds.p_legit, rtol=1e-12)
    np.testing.assert_allclose(law.skip, worlds.p_skip, rtol=1e-12)


def test_samples_are_honest_where_it_is_easy():
    worlds = prompt_mixture(jax.random.key(1), num_worlds=2)
    tokens = sample_reference(worlds, jnp.tile(jnp.arange(2), (4000, 1)), jax.random.key(2))
    asked = select_worlds(worlds, jnp.arange(2)[None])
    honest = np.asarray(token_outcome(tokens, asked)["honest"]).mean(0)
    np.testing.assert_allclose(honest, worlds.p_legit, atol=5 * 0.5 / np.sqrt(4000))


def test_pooling_the_prompts_hides_what_success_alone_brings(x64):
    """The pump of every world at success 0.9: hard prompts are skipped, easy ones not, and the pool shows less."""
    worlds = prompt_mixture(jax.random.key(3))
    p = np.asarray(token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds).joint)
    q = p / p.sum(2, keepdims=True) * np.array([0.1, 0.9])[None, :, None]
    easy, hard = q[:30, :, 1].sum(1).mean(), q[30:, :, 1].sum(1).mean()
    assert easy < 0.1
    assert hard > 0.7
    kl = lambda q, p: (q * np.log((q + 1e-300) / (p + 1e-300))).sum((-2, -1))  # noqa: E731
    assert kl(q.mean(0), p.mean(0)) < 0.8 * kl(q, p).mean()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(num_worlds=1), "num_worlds"),
        (dict(hard=(0.1, 0.3)), "hard"),
        (dict(easy=(0.5, 1.0)), "easy"),
        (dict(depth=5), "depth"),
        (dict(length=20), "length"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        prompt_mixture(jax.random.key(0), **arguments)
