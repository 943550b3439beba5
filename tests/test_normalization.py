"""Running statistics against numpy, and what a NaN may not do to them."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_statistics_stay_float32_where_64_bits_are_on():
    with jax.enable_x64(True):
        stats = init_stats(jnp.zeros(2, jnp.float32))
        after = update_stats(stats, jnp.ones((3, 4, 2), jnp.float32), jnp.ones((3, 4), bool))
        assert (
            [x.dtype for x in jax.tree.leaves(after)] == [jnp.float32] * 3 == [x.dtype for x in jax.tree.leaves(stats)]
        )
