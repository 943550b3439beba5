"""Tokens that know where they stand: rows with padding on either side, and several texts in one row."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.fields import with_fields
from polopt_jax.masking import check_shape
from polopt_jax.types import Array, record


@with_fields
@record
class Tokens:
    """What a token network reads where rows are not simply texts from their first place to their last.

    A token is read by those after it in the row that are of its segment, and by itself. So a row may begin or end with
    padding, and may hold several texts, none of which sees another.
    """

    token: Array
    """Integer ids, `[..., T]`."""
    position: Array
    """Where the token stands in its own text, from 0, `[..., T]` int."""
    segment: Array
    """Which text of the row it is of, from 1, `[..., T]` int; 0 is padding."""


def padded_tokens(token: Array, real: Array) -> Tokens:
    """Rows of one text each, with padding wherever `real` is False: before it, after it, or both.

    Args:
      token: integer ids, `[..., T]`; those of the padding may be anything, and become 0.
      real: `[..., T]` bool.

    Returns:
      `Tokens` `[..., T]`, positions from 0 at the first real token.

    Raises: ValueError if the shapes differ.

    >>> tokens = padded_tokens(jnp.array([[9, 5, 6]]), jnp.array([[False, True, True]]))
    >>> tokens.token.tolist(), tokens.position.tolist(), tokens.segment.tolist()
    ([[0, 5, 6]], [[0, 0, 1]], [[0, 1, 1]])
    """
    check_shape("padded_tokens", "real", real, token.shape, of="token")
    segment = real.astype(jnp.int32)
    position = jnp.maximum(jnp.cumsum(segment, axis=-1) - 1, 0)
    return Tokens(token=jnp.where(real, token, jnp.zeros_like(token)), position=position, segment=segment)
