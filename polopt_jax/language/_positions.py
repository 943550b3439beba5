"""How a token network is told where a token stands: a learned vector for each place, or rotation by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from polopt_jax.types import Array


class Positions(NamedTuple):
    """Where the place of a token enters a transformer."""

    enter: Callable[[Array, Array], Array]
    """`(x [..., T, W], position) -> x`, at the embeddings; called within a flax module, so it may have parameters."""
    turn: Callable[[Array, Array], Array]
    """`(heads [..., T, H, D], position) -> heads`, on the queries and the keys of every block."""
    check: Callable[[int], None] = lambda size: None
    """Raises ValueError for a size D of a head that it cannot turn."""


def learned_positions(max_length: int) -> Positions:
    """A vector for each place in a text, `max_length` of them, added to the embeddings, as in GPT-2.

    A place beyond them makes its token NaN.

    >>> learned_positions(8).turn(jnp.ones((3, 2, 4)), jnp.arange(3)).shape
    (3, 2, 4)
    """

    def enter(x: Array, position: Array) -> Array:
        embedding = nn.Embed(max_length, x.shape[-1], dtype=x.dtype, name="position")(position)
        return x + jnp.broadcast_to(embedding, x.shape)

    return Positions(enter, lambda heads, position: heads)


def rotary_positions(base: float = 10_000.0) -> Positions:
    """Rotary embedding: queries and keys are turned by an angle that grows with the place, so that distances count.

        (x_i, x_{i+D/2}) ↦ rotated by θ_i t,    θ_i = base^(-2i/D),    i = 0 .. D/2 - 1

    The product of a query at t and a key at s depends on t - s alone; there are no parameters.

    Raises: ValueError if base is not above 0, or (when it is put into a network) for heads of an odd size.

    Source: Su et al. 2021, "RoFormer"; which components make a pair is as in GPT-NeoX and LLaMA.

    >>> turned = rotary_positions().turn(jnp.ones((3, 1, 4)), jnp.arange(3))
    >>> bool(jnp.allclose(turned[0], 1.0)), round(float((turned[1] * turned[2]).sum()), 3)
    (True, 3.081)
    """
    if not base > 0:
        raise ValueError(f"rotary_positions: base must be above 0; it is {base}")

    def check(size: int) -> None:
        if size % 2:
            raise ValueError(f"rotary_positions turns pairs: width / heads must be even; it is {size}")

    def turn(heads: Array, position: Array) -> Array:
        half = heads.shape[-1] // 2
        rate = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angle = position.astype(jnp.float32)[..., None, None] * rate.reshape((1,) * (position.ndim + 1) + (half,))
        first, second = jnp.split(heads.astype(jnp.promote_types(heads.dtype, jnp.float32)), 2, axis=-1)
        cos, sin = (jnp.broadcast_to(f(angle), first.shape).astype(first.dtype) for f in (jnp.cos, jnp.sin))
        return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1).astype(heads.dtype)

    return Positions(lambda x, position: x, turn, check)
