"""Rows of a batch, which are exchangeable: taking some, splitting them into shares, shuffling them.

`axis` is one of the axes before T: 0 for environments `[B, T]` and prompts `[N, G, T]`, 1 for pairs `[2, N, T]`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from polopt_jax.types import Array, Batch


def take_rows(batch: Batch, indices: Array, *, axis: int = 0) -> Batch:
    """The rows of the given indices; `counts` stays.

    >>> batch = Batch(obs=jnp.arange(4.0)[:, None], action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool))
    >>> take_rows(batch, jnp.array([2, 0])).obs.ravel().tolist()
    [2.0, 0.0]
    """
    rows = jax.tree.map(lambda x: jnp.take(x, indices, axis=axis), replace(batch, counts=None))
    return replace(rows, counts=batch.counts)


def shuffle_rows(batch: Batch, key: Array, *, axis: int = 0) -> Batch:
    """The rows in a random order."""
    return take_rows(batch, jax.random.permutation(key, batch.mask.shape[axis]), axis=axis)


def split_rows(batch: Batch, parts: int, *, axis: int = 0) -> Batch:
    """`batch` with a new leading axis of `parts` equal shares of axis `axis`; `counts` is repeated, not split.

    Raises ValueError if the axis is not one before T or `parts` does not divide it.
    """
    shape = batch.mask.shape
    if not 0 <= axis < len(shape) - 1:
        raise ValueError(f"axis must be one of the axes before T of a batch [...]={shape}; it is {axis}")
    if shape[axis] % parts:
        raise ValueError(f"{parts} parts do not divide axis {axis} of the batch, of size {shape[axis]}")

    def split(x: Array) -> Array:
        x = x.reshape((*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :]))
        return jnp.moveaxis(x, axis, 0)

    rows = jax.tree.map(split, replace(batch, counts=None))
    if batch.counts is None:
        return rows
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (parts,)), batch.counts)
    return replace(rows, counts=repeated)
