"""Prompt mixture: easy prompts next to hard ones, on which only skipping pays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.types import Array
from polopt_jax.worlds._skip_the_test import named_by_number, skip_the_test
from polopt_jax.worlds._token_worlds import SkipTheTest


def prompt_mixture(
    key: Array,
    *,
    num_worlds: int = 60,
    length: int = 24,
    vocabulary: int = 6,
    depth: int = 4,
    p_skip: tuple[float, float] = (2e-3, 5e-2),
    easy: tuple[float, float] = (0.2, 0.6),
    hard: tuple[float, float] = (1e-4, 1e-3),
) -> SkipTheTest:
    """Token worlds as of `skip_the_test`, the first half of which are easy and the others hard.

    What is easy the reference does honestly. What is hard it does by skipping, if at all: there, whatever only asks for
    success finds the skip. Over all prompts together the outcome changes less than the prompts' outcomes do,
    KL(Σ_w p'_w / W ‖ Σ_w p_w / W) <= Σ_w KL(p'_w ‖ p_w) / W, so a monitor that pools its prompts sees less.

    Args:
      num_worlds: W; with an odd number there is one easy world more.
      length, vocabulary, p_skip: as in `skip_the_test`.
      depth: tokens of the honest route, in all worlds.
      easy, hard: ranges of the log-uniform law of the reference's probability of the honest route.

    Raises:
      ValueError: `num_worlds < 2`, not 0 < hard <= easy < 1, or as in `skip_the_test`.

    >>> worlds = prompt_mixture(jax.random.key(0), num_worlds=4)
    >>> (worlds.p_legit > 0.1).tolist(), worlds.id.tolist()
    ([True, True, False, False], [0, 1, 2, 3])
    """
    if num_worlds < 2:
        raise ValueError(f"num_worlds must be at least 2, got {num_worlds}")
    if not 0.0 < hard[0] <= hard[1] <= easy[0] <= easy[1] < 1.0:
        raise ValueError(f"easy must lie above hard, both between 0 and 1, got easy={easy} and hard={hard}")
    shared: Any = dict(length=length, vocabulary=vocabulary, depths=(depth,), p_skip=p_skip)
    first, second = jax.random.split(key)
    halves = (
        skip_the_test(first, num_worlds=num_worlds - num_worlds // 2, p_legit=easy, **shared),
        skip_the_test(second, num_worlds=num_worlds // 2, p_legit=hard, **shared),
    )
    halves = [dataclasses.replace(half, **named_by_number(0, vocabulary)) for half in halves]
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)
    return dataclasses.replace(both, **named_by_number(num_worlds, vocabulary))
