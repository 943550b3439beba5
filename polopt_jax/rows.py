"""Rows of a batch, which are exchangeable: taking some, splitting them into shares, shuffling them.

`axis` is one of the axes before T: 0 for environments `[B, T]` and prompts `[N, G, T]`, 1 for pairs `[2, N, T]`.

Nothing here moves a row away from its neighbours: shares are interleaved, samples are strided, and a shuffle stays
within contiguous groups of rows. So rows that are spread over devices in contiguous blocks stay where they are. How
many groups there are is a number of the program and never of the machine: a run is the same on any number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from polopt_jax.masking import standardize
from polopt_jax.types import Array, ArrayLike, Batch

Shuffle: TypeAlias = Callable[..., Batch]
"""`(batch, key, parts, *, axis, groups) -> shares`: `shuffled_parts`, `shuffled_decisions`, `standardized_shares`."""

GROUPS = 8
"""Groups of rows that shuffles and restarts stay within. Any number of devices that divides it needs no communication
for either."""


def take_rows(batch: Batch, indices: Array, *, axis: int = 0) -> Batch:
    """The rows of the given indices; `counts` stays.

    >>> batch = Batch(obs=jnp.arange(4.0)[:, None], action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool))
    >>> take_rows(batch, jnp.array([2, 0])).obs.ravel().tolist()
    [2.0, 0.0]
    """
    rows = jax.tree.map(lambda x: jnp.take(x, indices, axis=axis), replace(batch, counts=None))
    return replace(rows, counts=batch.counts)


def sample_rows(batch: Batch, rows: int, *, axis: int = 0) -> Batch:
    """At least `rows` rows at equal distances along the axis, without `counts`.

    As many as the smallest divisor of the axis's size that is not below `rows`; all, if there are no more than that.
    Rows are exchangeable, so it is an unbiased sample. Raises ValueError if `rows` is not positive.

    >>> batch = Batch(obs=jnp.arange(8.0)[:, None], action=jnp.zeros((8, 1), int), mask=jnp.ones((8, 1), bool))
    >>> sample_rows(batch, 4).obs.ravel().tolist(), sample_rows(batch, 3).mask.shape
    ([0.0, 2.0, 4.0, 6.0], (4, 1))
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; it is {rows}")
    size = batch.mask.shape[axis]
    number = min(n for n in range(min(rows, size), size + 1) if size % n == 0)

    def sample(x: Array) -> Array:
        x = x.reshape((*x.shape[:axis], number, size // number, *x.shape[axis + 1 :]))
        return jax.lax.index_in_dim(x, 0, axis + 1, keepdims=False)

    return jax.tree.map(sample, replace(batch, counts=None))


def shuffle_rows(batch: Batch, key: Array, *, axis: int = 0, groups: int = 1) -> Batch:
    """The rows in a random order within each of `groups` contiguous blocks of equal size; `counts` stays.

    Every order of a block is equally likely, and the blocks' orders are independent. Raises ValueError if `groups`
    does not divide the axis.

    >>> batch = Batch(obs=jnp.arange(8.0)[:, None], action=jnp.zeros((8, 1), int), mask=jnp.ones((8, 1), bool))
    >>> blocks = shuffle_rows(batch, jax.random.key(0), groups=2).obs.reshape(2, 4)
    >>> jnp.sort(blocks).tolist()
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    """
    size = batch.mask.shape[axis]
    if groups < 1 or size % groups:
        raise ValueError(f"{groups} groups do not divide axis {axis} of the batch, of size {size}")
    keys = jax.random.split(key, groups)
    order = jax.vmap(lambda key: jax.random.permutation(key, size // groups))(keys)
    reorder = jax.vmap(lambda x, order: jnp.take(x, order, axis=axis, mode="clip"), in_axes=(axis, 0), out_axes=axis)

    def shuffle(x: Array) -> Array:
        return reorder(x.reshape((*x.shape[:axis], *order.shape, *x.shape[axis + 1 :])), order).reshape(x.shape)

    return replace(jax.tree.map(shuffle, replace(batch, counts=None)), counts=batch.counts)


def split_rows(batch: Batch, parts: int, *, axis: int = 0) -> Batch:
    """`batch` with a new leading axis of `parts` equal shares of axis `axis`; `counts` is repeated, not split.

    Shares are interleaved: share j has the rows j, j + parts, j + 2·parts, ...

    Raises ValueError if the axis is not one before T or `parts` does not divide it.

    >>> batch = Batch(obs=jnp.arange(4.0)[:, None], action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool))
    >>> split_rows(batch, 2).obs[..., 0].tolist()
    [[0.0, 2.0], [1.0, 3.0]]
    """
    _check_parts(batch, parts, axis)

    def split(x: Array) -> Array:
        x = x.reshape((*x.shape[:axis], x.shape[axis] // parts, parts, *x.shape[axis + 1 :]))
        return jnp.moveaxis(x, axis + 1, 0)

    rows = jax.tree.map(split, replace(batch, counts=None))
    if batch.counts is None:
        return rows
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (parts,)), batch.counts)
    return replace(rows, counts=repeated)


def shuffled_parts(batch: Batch, key: Array, parts: int, *, axis: int = 0, groups: int = GROUPS) -> Batch:
    """The rows shuffled within groups, then split: `parts` shares, each with equally many rows of every group.

    There are gcd(groups, rows of a share) groups: the largest divisor of `groups` that lets every share take equally
    many rows of each. With 1024 rows in 8 shares that is 8 groups of 128; with 24 rows in 2 shares 4 groups of 6.
    It depends on sizes of the program alone. Any row of a group may come into any share.

    Raises as `split_rows`, and ValueError if `groups` is not positive.

    >>> batch = Batch(obs=jnp.arange(8.0)[:, None], action=jnp.zeros((8, 1), int), mask=jnp.ones((8, 1), bool))
    >>> shares = shuffled_parts(batch, jax.random.key(0), 2, groups=2)
    >>> (shares.obs[..., 0] < 4).sum(1).tolist()          # two rows of the first group in each share
    [2, 2]
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1; it is {groups}")
    _check_parts(batch, parts, axis)
    usable = math.gcd(groups, batch.mask.shape[axis] // parts)
    return split_rows(shuffle_rows(batch, key, axis=axis, groups=usable), parts, axis=axis)


def shuffled_decisions(batch: Batch, key: Array, parts: int, *, axis: int = 0, groups: int = GROUPS) -> Batch:
    """Single decisions, dealt out at random: `parts` shares `[parts, n, 1]`, in each equally many of every row.

    For models and terms to which a decision is a thing of its own: a network on states, the terms of PPO. Neighbours in
    time are alike, so a minibatch of whole rows says less than one of as many decisions from everywhere. Each row's T
    decisions are dealt to p = gcd(T, parts) shares, T/p of them to each, in a random order of their own; where that is
    fewer shares than asked for, the rows are first split into parts/p at random (`shuffled_parts`). Every decision is
    in one share, as a row of its own with T = 1; `counts` is repeated.

    A sort of T numbers for each row, and one gather: no number leaves its row, nor a row its device.

    Args:
      batch: `[..., T]`; the axes before T are rows.
      key: for the order.
      parts: shares.
      axis: of the rows, 0.
      groups: as `shuffled_parts`, where rows are split.

    Raises ValueError if the shares cannot be equal, if the batch says something of whole rows (`label`,
    `reference_point`, `outcome`), or if `axis` is not 0: preference pairs cannot be taken apart.

    Differs from the permutation of all decisions that is common: that leaves to chance how many of a row come together.

    >>> step = jnp.arange(4.0)[None, :, None]
    >>> batch = Batch(obs=jnp.arange(2.0)[:, None, None] * 10 + step, action=jnp.zeros((2, 4), int),
    ...               mask=jnp.ones((2, 4), bool))
    >>> shares = shuffled_decisions(batch, jax.random.key(0), 2)
    >>> shares.obs.shape, (shares.obs < 10).sum((1, 2, 3)).tolist()          # two decisions of each row in each share
    ((2, 4, 1, 1), [2, 2])
    """
    told = [name for name in ("label", "reference_point", "outcome") if getattr(batch, name) is not None]
    if told or axis != 0:
        of_rows = f"batch.{told[0]} is of whole rows" if told else f"axis is {axis}, as of preference pairs"
        raise ValueError(f"shuffled_decisions takes rows apart, and {of_rows}: shuffle rows, with shuffled_parts")
    if groups < 1 or parts < 1:
        raise ValueError(f"groups and parts must be at least 1; they are {groups} and {parts}")
    leading, steps = batch.mask.shape[:-1], batch.mask.shape[-1]
    dealt = math.gcd(steps, parts)
    flat = jax.tree.map(lambda x: x.reshape((-1, *x.shape[len(leading) :])), replace(batch, counts=None))
    rows_key, key = jax.random.split(key)
    if dealt < parts:
        split = shuffled_parts(flat, rows_key, parts // dealt, groups=groups)
    else:
        split = jax.tree.map(lambda x: x[None], flat)
    shares = _dealt(split, key, dealt, math.gcd(groups, split.mask.shape[1]))
    if batch.counts is None:
        return shares
    return replace(shares, counts=jax.tree.map(lambda x: jnp.broadcast_to(x, (parts,)), batch.counts))


def standardized_shares(shuffle: Shuffle, *, eps: ArrayLike = 1e-8) -> Shuffle:
    """The same shares of a batch, in each of which the advantages have mean 0 and deviation 1.

        A ← (A - mean A) / (std A + eps),    over the decisions of a minibatch

    For `epochs(..., shuffle=)`. What `standardize_advantage` does to a term minibatch by minibatch, done for all of an
    epoch at once: four small sums over devices an epoch, and not four a minibatch.

    Args:
      shuffle: `shuffled_parts`, `shuffled_decisions`, or one of your own.
      eps: added to the standard deviation (ddof 0). May be traced.

    Returns:
      A shuffle. Raises ValueError if the batch has no advantage, and as `shuffle`.

    >>> batch = Batch(obs=jnp.zeros((4, 1)), action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool),
    ...               advantage=jnp.array([[0.0], [10.0], [2.0], [14.0]]))
    >>> shares = standardized_shares(shuffled_parts)(batch, jax.random.key(0), 2)
    >>> jnp.sort(shares.advantage[..., 0]).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """

    def standardized(batch: Batch, key: Array, parts: int, **options: Any) -> Batch:
        if batch.advantage is None:
            raise ValueError("standardized_shares needs batch.advantage, which is None")
        shares = shuffle(batch, key, parts, **options)
        each = jax.vmap(lambda advantage, mask: standardize(advantage, mask, eps=eps))
        return replace(shares, advantage=each(shares.advantage, shares.mask))

    return standardized


def _dealt(batch: Batch, key: Array, shares: int, groups: int) -> Batch:
    """`[S, B, T]` as `[S·shares, B·T/shares, 1]`: the decisions of each row in a random order, dealt to shares.

    Gathered group by group, so that rows which are spread over devices are gathered where they are.
    """
    split, rows, steps = batch.mask.shape
    rows //= groups
    # Drawn in one axis: in four they took XLA a second and a half to compile.
    bits = jax.random.bits(key, (batch.mask.size,)).reshape((split, groups, rows, steps))
    order = jnp.argsort(bits, axis=-1) + steps * jnp.arange(rows)[:, None]
    order = jnp.moveaxis(order.reshape((split, groups, rows, shares, steps // shares)), 3, 2)
    order = order.reshape((split, groups, shares, -1))
    gather = jax.vmap(jax.vmap(lambda x, order: jnp.take(x, order, axis=0, mode="clip")))

    def deal(x: Array) -> Array:
        found = gather(x.reshape((split, groups, rows * steps, *x.shape[3:])), order)
        return jnp.moveaxis(found, 2, 1).reshape((split * shares, -1, 1, *x.shape[3:]))

    return jax.tree.map(deal, batch)


def _check_parts(batch: Batch, parts: int, axis: int) -> None:
    shape = batch.mask.shape
    if not 0 <= axis < len(shape) - 1:
        raise ValueError(f"axis must be one of the axes before T of a batch [...]={shape}; it is {axis}")
    if shape[axis] % parts:
        pairs = "; the rows of a preference batch [2, N, T] are axis=1" if axis == 0 and shape[0] == 2 else ""
        what = f"{parts} parts do not divide axis {axis} of the batch, of size {shape[axis]}{pairs}"
        raise ValueError(f"{what}; parts are the num_minibatches of epochs, the num_microbatches of what adds them up")
