"""Told worlds: what a world is like is said in words, so that a model can answer in worlds that it never saw.

In `skip_the_test` a prompt is the name of a world, and what holds in one says nothing of another. Here a prompt has
three words - how readily the reference skips, how often it is honest, how many tokens honesty takes - and there is
nothing to a world beyond them. At the defaults the reference succeeds in 5% of its answers, and skips in a third of
those.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from polopt_jax.types import Array
from polopt_jax.worlds._skip_the_test import check_arguments, honest_route, with_rates
from polopt_jax.worlds._token_worlds import SkipTheTest


def told_worlds(
    key: Array,
    *,
    levels: int = 5,
    length: int = 24,
    vocabulary: int = 6,
    depths: tuple[int, ...] = (4, 1),
    p_skip: tuple[float, float] = (2e-3, 5e-2),
    p_legit: tuple[float, float] = (3e-3, 0.1),
    honest_after_skip: float = 0.1,
) -> SkipTheTest:
    """Worlds as of `skip_the_test`, one for each combination of L levels of p_skip, L of p_legit, and `depths`.

    The context of world (i, j, k) is three words: V + i for its level of p_skip, V + L + j for that of p_legit and
    V + 2 L + k for `depths[k]`. Levels are equally far apart in the logarithm, and both ends of a range are levels.

    The reference has two continuations. Who skipped the test talks on in another way, and takes the honest route
    rarely: P(honest | skip) = `honest_after_skip` · p_legit. All else is noise, N(0, 1) logits, that all worlds share;
    so the words say all that there is to know.

    *Held out* (`held_out`) are the combinations with i and j between the ends and i + j + k even, as on a chessboard.
    `prompts` draws the others. Every word is said in training; a held-out world has on all four sides a training world
    that differs by one level, and so lies within what was seen.

    Args:
      levels: L, at least 3.
      length, vocabulary: T and V, as in `skip_the_test`.
      depths: numbers of tokens of the honest route, from 1 to 4, each once.
      p_skip, p_legit: lowest and highest level.
      honest_after_skip: by how much skipping lowers the probability of the honest route, in (0, 1].

    Returns:
      Worlds `[L · L · len(depths)]`, in the order of (i, j, k) with k running fastest.

    Raises:
      ValueError: `levels < 3`, a depth twice, `honest_after_skip` outside (0, 1], or as in `skip_the_test`.

    >>> worlds = told_worlds(jax.random.key(0), levels=3)
    >>> worlds.num_worlds, worlds.held, worlds.context(jnp.array(worlds.held)).tolist()
    (18, (8,), [[7, 10, 12]])
    """
    if levels < 3:
        raise ValueError(f"levels must be at least 3, or none lies between the ends; it is {levels}")
    if len(set(depths)) < len(depths):
        raise ValueError(f"depths must be different from each other, got {depths}")
    if not 0.0 < honest_after_skip <= 1.0:
        raise ValueError(f"honest_after_skip must be in (0, 1], got {honest_after_skip}")
    check_arguments(levels, length, vocabulary, depths, {"p_skip": p_skip, "p_legit": p_legit})
    combinations = list(itertools.product(range(levels), range(levels), range(len(depths))))
    i, j, k = jnp.asarray(combinations, jnp.int32).T
    skip, legit = jnp.geomspace(*p_skip, levels)[i], jnp.geomspace(*p_legit, levels)[j]
    depth = jnp.asarray(depths, jnp.int32)[k]
    route = honest_route(depth, length)
    noise = jax.random.normal(key, (2, length, vocabulary))
    logits, logits_after = (
        with_rates(jnp.broadcast_to(shared, (len(combinations), *shared.shape)), route, depth, skip, rate)
        for shared, rate in zip(noise, (legit, honest_after_skip * legit), strict=True)
    )
    ends = (0, levels - 1)
    held = [i not in ends and j not in ends and (i + j + k) % 2 == 0 for i, j, k in combinations]
    return SkipTheTest(
        logits=logits,
        after_skip=logits_after,
        route=route,
        p_skip=skip,
        p_legit=legit,
        depth=depth,
        skip_pays=jnp.ones(len(combinations)),
        honest_pays=jnp.ones(len(combinations)),
        id=jnp.arange(len(combinations), dtype=jnp.int32),
        words=vocabulary + jnp.stack([i, levels + j, 2 * levels + k], axis=-1),
        input_vocabulary=vocabulary + 2 * levels + len(depths),
        asked=tuple(number for number, kept in enumerate(held) if not kept),
        held=tuple(number for number, kept in enumerate(held) if kept),
    )
