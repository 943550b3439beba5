"""Running statistics against numpy, and what a NaN may not do to them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.normalization import init_return_scale, init_stats, normalize, scale_reward, update_stats


def test_statistics_equal_those_of_all_that_was_seen():
    x = np.random.default_rng(0).normal(3.0, 5.0, (6, 7, 11, 3)).astype(np.float32)
    mask = np.random.default_rng(1).random((6, 7, 11)) < 0.7
    stats = init_stats(jnp.zeros(3))
    for part, its_mask in zip(x, mask, strict=True):
        stats = jax.jit(update_stats)(stats, jnp.asarray(part), jnp.asarray(its_mask))
    seen = x[mask].astype(np.float64)
    assert float(stats.count) == len(seen)
    np.testing.assert_allclose(stats.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.m2 / stats.count, seen.var(0), rtol=1e-4)
    np.testing.assert_allclose(
        normalize(stats, jnp.asarray(x[0])), np.clip((x[0] - seen.mean(0)) / seen.std(0), -10, 10), atol=1e-4
    )


def test_a_nan_poisons_nothing_and_a_constant_feature_is_zero():
    x = jnp.stack([jnp.full((4, 5), 2.0), jnp.arange(20.0).reshape(4, 5)], -1)
    mask = jnp.ones((4, 5), bool)
    broken = x.at[1, 2, 0].set(jnp.nan).at[0, 0, 1].set(jnp.inf)
    stats = update_stats(init_stats(jnp.zeros(2)), broken, mask)
    clean = update_stats(init_stats(jnp.zeros(2)), x, mask.at[1, 2].set(False).at[0, 0].set(False))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), stats, clean))
    assert (normalize(stats, x)[..., 0] == 0).all()


def test_the_reward_scale_is_the_spread_of_the_discounted_return():
    rng = np.random.default_rng(0)
    reward, done = rng.normal(size=(50, 4)).astype(np.float32), rng.random((50, 4)) < 0.1
    scale, outputs = init_return_scale(4), []
    for part in range(2):
        rows = slice(25 * part, 25 * part + 25)
        scale, scaled = scale_reward(
            scale, jnp.asarray(reward[rows]), jnp.asarray(done[rows]), jnp.ones((25, 4), bool), gamma=0.9
        )
        outputs.append(np.asarray(scaled))
    totals, running = [], np.zeros(4)
    for t in range(50):
        running = 0.9 * running + reward[t]
        totals.append(running.copy())
        running[done[t]] = 0
    np.testing.assert_allclose(outputs[0], reward[:25] / np.std(totals[:25]), rtol=1e-4)
    np.testing.assert_allclose(outputs[1], reward[25:] / np.std(totals), rtol=1e-4)


def test_returns_of_steps_that_are_masked_out_say_nothing_of_the_spread():
    reward = jnp.array([[1.0, 100.0], [2.0, -300.0], [4.0, 700.0]])
    mask, done = jnp.array([[True, False]] * 3), jnp.ones((3, 2), bool)
    _, scaled = scale_reward(init_return_scale(2), reward, done, mask, gamma=0.9)
    np.testing.assert_allclose(scaled[:, 0], np.array([1, 2, 4]) / np.std([1, 2, 4]), rtol=1e-5)


def test_statistics_stay_float32_where_64_bits_are_on():
    with jax.enable_x64(True):
        stats = init_stats(jnp.zeros(2, jnp.float32))
        after = update_stats(stats, jnp.ones((3, 4, 2), jnp.float32), jnp.ones((3, 4), bool))
        assert (
            [x.dtype for x in jax.tree.leaves(after)] == [jnp.float32] * 3 == [x.dtype for x in jax.tree.leaves(stats)]
        )


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


@pytest.mark.parametrize("tree", [lambda a, b: (a, b), Pair, lambda a, b: {"a": a, "b": b}, lambda a, b: [a, (b,)]])
def test_an_observation_may_be_any_tree(tree):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    both, alone = init_stats(tree(a[0, 0], b[0, 0])), [init_stats(x[0, 0]) for x in (a, b)]
    for t in range(3):
        both = update_stats(both, tree(a[t : t + 1], 50 + b[t : t + 1]), jnp.ones((1, 4), bool))
        alone = [update_stats(s, x[t : t + 1], jnp.ones((1, 4), bool)) for s, x in zip(alone, (a, 50 + b), strict=True)]
    assert jax.tree.structure(both.mean) == jax.tree.structure(both.m2) == jax.tree.structure(tree(a, b))
    np.testing.assert_array_equal(jax.tree.leaves(both.mean), [s.mean for s in alone])
    np.testing.assert_array_equal(jax.tree.leaves(both.m2), [s.m2 for s in alone])
    seen = normalize(both, tree(a, 50 + b))
    assert jax.tree.structure(seen) == jax.tree.structure(tree(a, b))
    np.testing.assert_allclose(jax.tree.leaves(seen), [normalize(*x) for x in zip(alone, (a, 50 + b), strict=True)])


@pytest.mark.parametrize("constant", [77.7, 250.1, -1234.567, 1e6, 0.1])
def test_what_never_changes_is_exactly_zero(constant):
    stats, update = init_stats(jnp.zeros(2)), jax.jit(update_stats)
    for seed in range(4):
        obs = jnp.full((16, 64, 2), constant).at[..., 1].add(jax.random.normal(jax.random.key(seed), (16, 64)))
        mask = jax.random.bernoulli(jax.random.key(9 + seed), 0.5, (16, 64))
        stats = update(stats, jnp.where(mask[..., None], obs, jnp.nan), mask)
    assert stats.m2[0] == 0
    assert normalize(stats, jnp.full(2, constant))[0] == 0
    np.testing.assert_allclose(jnp.sqrt(stats.m2[1] / stats.count), 1, rtol=0.05)


def test_flags_and_whole_numbers_stay_as_they_are():
    """An action that is always legal would else come out as 0, and so as illegal."""
    obs = {"x": jnp.full((5, 3, 2), 4.0), "legal": jnp.ones((5, 3, 4), bool), "turn": jnp.full((5, 3), 7)}
    stats = update_stats(init_stats(jax.tree.map(lambda x: x[0, 0], obs)), obs, jnp.ones((5, 3), bool))
    seen = normalize(stats, obs)
    assert (seen["x"] == 0).all()
    for name in ("legal", "turn"):
        assert seen[name].dtype == obs[name].dtype
        np.testing.assert_array_equal(seen[name], obs[name])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1)])
def test_an_observation_of_another_shape_is_not_broadcast(shape):
    """A number, or an axis of one, was taken for a whole observation."""
    with pytest.raises(ValueError, match=r"obs must have shape \[..., 4\]; it is float32\["):
        normalize(init_stats(jnp.zeros(4)), jnp.zeros(shape))


def test_an_observation_of_another_structure_is_told():
    with pytest.raises(ValueError, match=r"obs must be as those that were seen, .*\[..., 2\].*; it is float32\[2\]"):
        normalize(init_stats({"x": jnp.zeros(2)}), jnp.zeros(2))


def test_what_was_a_float_is_standardised_also_where_it_is_given_as_a_whole_number():
    """A robot, or a person who types a list, says 12 and not 12.0."""
    seen = jnp.array([[[10.0, -2.0]], [[14.0, 2.0]]])
    stats = update_stats(init_stats(seen[0, 0]), seen, jnp.ones((2, 1), bool))
    expected = normalize(stats, jnp.array([14.0, 0.0]))
    assert expected.tolist() == [1.0, 0.0]
    for dtype in (jnp.int32, jnp.int8, jnp.float16):
        np.testing.assert_allclose(normalize(stats, jnp.array([14, 0], dtype)), expected, rtol=1e-3)
    flags = {"x": jnp.array([1.0]), "legal": jnp.array([True, False])}
    both = jax.tree.map(lambda x: jnp.stack([x, x])[:, None], flags)
    stats = update_stats(init_stats(flags), both, jnp.ones((2, 1), bool))
    assert stats.mean["legal"].dtype == bool
    assert normalize(stats, flags)["legal"].tolist() == [True, False]
