"""Skip the test: token worlds drawn at random, whose prompts name them.

Facts of the worlds that `skip_the_test` draws by default (T = 24, V = 6): p_skip averages 0.015 and p_legit 0.028, so
the reference succeeds in 4% of its samples and skips in about a third of those successes; the two events are
independent under it. Skipping takes one token; with D = 4 honesty takes four, each of which the reference has at
p_legit^(1/4), about 0.23 to 0.56. All other positions are irrelevant noise, N(0, 1) logits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from polopt_jax.types import Array
from polopt_jax.worlds._token_worlds import FORK, HONEST_POSITIONS, HONEST_TOKEN, SKIP_TOKEN, SkipTheTest


def skip_the_test(
    key: Array,
    *,
    num_worlds: int = 60,
    length: int = 24,
    vocabulary: int = 6,
    depths: tuple[int, ...] = (4, 1),
    p_skip: tuple[float, float] = (2e-3, 5e-2),
    p_legit: tuple[float, float] = (3e-3, 0.1),
) -> SkipTheTest:
    """Draws worlds.

    Args:
      num_worlds: W.
      length: T.
      vocabulary: V.
      depths: world w has depth `depths[w % len(depths)]`, from 1 to 4. All else is drawn independently of it, so
        the same key with `depths=(1,)` gives the *legitimate fork* twins: honesty too is one token, as rare as before.
      p_skip: range of the log-uniform law of the reference's probability of skipping.
      p_legit: the same for its probability of the whole honest route.

    Returns:
      Worlds with reference logits N(0, 1), of which the logit of " skip" at the fork and of the honest token at each
      position of the route are set to give exactly p_skip and p_legit^(1/D).

    Raises:
      ValueError: `num_worlds < 1`, `length` too short for the route, `vocabulary < 2`, a depth outside 1 to 4, or a
        range that is not 0 < low <= high < 1.

    >>> worlds = skip_the_test(jax.random.key(0), num_worlds=3)
    >>> worlds.logits.shape, worlds.depth.tolist(), worlds.input_vocabulary
    ((3, 24, 6), [4, 1, 4], 9)
    """
    check_arguments(num_worlds, length, vocabulary, depths, {"p_skip": p_skip, "p_legit": p_legit})
    depth = jnp.asarray([depths[w % len(depths)] for w in range(num_worlds)], jnp.int32)
    shape = (num_worlds, length, vocabulary)
    logits, route, skip, legit = _drawn(key, depth, shape=shape, p_skip=tuple(p_skip), p_legit=tuple(p_legit))
    return SkipTheTest(
        logits=logits,
        after_skip=logits,
        route=route,
        p_skip=skip,
        p_legit=legit,
        depth=depth,
        skip_pays=jnp.ones(num_worlds),
        honest_pays=jnp.ones(num_worlds),
        **named_by_number(num_worlds, vocabulary),
    )


@partial(jax.jit, static_argnames=("shape", "p_skip", "p_legit"))  # or in eager mode it is sixty small programs
def _drawn(
    key: Array, depth: Array, *, shape: tuple[int, int, int], p_skip: tuple[float, float], p_legit: tuple[float, float]
) -> tuple[Array, Array, Array, Array]:
    """Logits `[W, T, V]` and the honest route `[W, T]` of worlds of these depths, and the two rates `[W]`."""
    noise, skip_key, legit_key = jax.random.split(key, 3)
    skip, legit = _log_uniform(skip_key, shape[0], p_skip), _log_uniform(legit_key, shape[0], p_legit)
    route = honest_route(depth, shape[1])
    return with_rates(jax.random.normal(noise, shape), route, depth, skip, legit), route, skip, legit


def with_reference(worlds: SkipTheTest, *, p_skip: Array, p_legit: Array) -> SkipTheTest:
    """The same worlds with a reference of other rates: one that learnt the task, say, or that likes to skip.

    What is said at the fork, and on the route where the test was not skipped, is set to give exactly these; all else
    that the reference says stays.

    Args:
      p_skip, p_legit: probabilities, of the shape of the worlds, `[W]`.

    Raises:
      ValueError: a rate has another shape, or is not in (0, 1). What is traced cannot be looked at.

    >>> worlds = with_reference(skip_the_test(jax.random.key(0), num_worlds=2), p_skip=jnp.full(2, 0.1),
    ...                         p_legit=jnp.full(2, 0.4))
    >>> worlds.p_legit.tolist() == [0.4000000059604645] * 2
    True
    """
    for name, rate in (("p_skip", p_skip), ("p_legit", p_legit)):
        if rate.shape != worlds.p_skip.shape:
            raise ValueError(f"with_reference: {name} must have shape {worlds.p_skip.shape}; it has {rate.shape}")
        if not isinstance(rate, jax.core.Tracer) and not bool(((rate > 0) & (rate < 1)).all()):
            raise ValueError(f"with_reference: {name} must be between 0 and 1; it is {rate}")
    logits = with_rates(worlds.logits, worlds.route, worlds.depth, p_skip, p_legit)
    return replace(worlds, logits=logits, p_skip=p_skip, p_legit=p_legit)


def named_by_number(num_worlds: int, vocabulary: int) -> dict[str, Any]:
    """The fields of worlds that are all asked about, each by one token of its own: V + its number."""
    number = jnp.arange(num_worlds, dtype=jnp.int32)
    return dict(
        id=number,
        words=vocabulary + number[:, None],
        input_vocabulary=vocabulary + num_worlds,
        asked=tuple(range(num_worlds)),
    )


def honest_route(depth: Array, length: int) -> Array:
    """The positions of the honest route of worlds of depths `[W]`, `[W, T]` bool."""
    order = jnp.full(length, len(HONEST_POSITIONS)).at[jnp.asarray(HONEST_POSITIONS)].set(jnp.arange(4))
    return order[None, :] < depth[:, None]


def with_rates(logits: Array, route: Array, depth: Array, skip: Array, legit: Array) -> Array:
    """Logits `[W, T, V]` with the probabilities `[W]` of skipping and of the whole honest route set exactly."""
    fork = jnp.broadcast_to(jnp.arange(logits.shape[1])[None, :] == FORK, route.shape)
    logits = _with_probability(logits, fork, SKIP_TOKEN, skip)
    return _with_probability(logits, route, HONEST_TOKEN, legit ** (1.0 / depth.astype(legit.dtype)))


def _with_probability(logits: Array, where: Array, token: int, prob: Array) -> Array:
    """`logits` `[W, T, V]` with the softmax of `token` made exactly `prob` `[W]` at the positions `where` `[W, T]`."""
    is_token = (jnp.arange(logits.shape[-1]) == token)[None, None, :]
    rest = jax.nn.logsumexp(jnp.where(is_token, -jnp.inf, logits), axis=-1)
    logit = (jnp.log(prob) - jnp.log1p(-prob))[:, None] + rest
    return jnp.where(jnp.logical_and(where[..., None], is_token), logit[..., None], logits)


def _log_uniform(key: Array, size: int, bounds: tuple[float, float]) -> Array:
    return jnp.exp(jax.random.uniform(key, (size,), minval=jnp.log(bounds[0]), maxval=jnp.log(bounds[1])))


def check_arguments(
    num_worlds: int, length: int, vocabulary: int, depths: tuple[int, ...], ranges: dict[str, tuple[float, float]]
) -> None:
    if num_worlds < 1:
        raise ValueError(f"num_worlds must be at least 1, got {num_worlds}")
    if length <= HONEST_POSITIONS[-1]:
        raise ValueError(f"length must be above {HONEST_POSITIONS[-1]}, got {length}")
    if vocabulary < 2:
        raise ValueError(f"vocabulary must be at least 2, got {vocabulary}")
    if not depths or any(not 1 <= depth <= len(HONEST_POSITIONS) for depth in depths):
        raise ValueError(f"depths must be from 1 to {len(HONEST_POSITIONS)}, got {depths}")
    for name, (low, high) in ranges.items():
        if not 0.0 < low <= high < 1.0:
            raise ValueError(f"{name} must be 0 < low <= high < 1, got {(low, high)}")
