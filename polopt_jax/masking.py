"""Masked arithmetic: sums, means and standardisation over the real entries of an array.

The guarantee that the terms give is made here. Where the mask is False a value may be NaN or infinite, and neither
changes the result nor sends back anything but a gradient of exactly 0: inputs are replaced *before* the arithmetic
and outputs again after it (a single `where`, or a multiplication by the mask, gives a NaN gradient).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from polopt_jax.types import Array, ArrayLike


def accumulate(x: Array) -> Array:
    """`x` in the dtype that sums of it are taken in: float64 if it is that already, else float32."""
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def zero_where_masked(x: Array, mask: Array) -> Array:
    """`x` `[..., *]` with exact zeros where `mask` `[...]` is False, whatever stood there."""
    if x.shape[: mask.ndim] != mask.shape:
        raise ValueError(f"x must have the leading shape of mask, {mask.shape}; it has shape {x.shape}")
    keep = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return jnp.where(keep, x, jnp.zeros_like(x))


def masked_sum(x: Array, mask: Array, *, axis: int | tuple[int, ...] | None = None) -> Array:
    """Σ of `x` over the True entries of `mask`, both `[...]`. Raises `ValueError` if the shapes differ."""
    check_shape("masked_sum", "x", x, mask.shape, of="mask")
    return jnp.sum(zero_where_masked(accumulate(x), mask), axis=axis)


def masked_mean(x: Array, mask: Array, *, axis: int | tuple[int, ...] | None = None) -> Array:
    """Mean of `x` over the True entries of `mask`; 0 where there are none."""
    total = masked_sum(x, mask, axis=axis)
    return total / jnp.maximum(jnp.sum(mask, axis=axis), 1).astype(total.dtype)


def masked_last(x: Array, mask: Array) -> Array:
    """`x` `[..., T]` at the last True entry of each row of `mask`, `[...]`; 0 where there is none.

    >>> x, mask = jnp.array([[1.0, 2.0, jnp.nan], [3.0, 4.0, 5.0]]), jnp.array([[1, 1, 0], [0, 0, 0]], bool)
    >>> masked_last(x, mask).tolist()
    [2.0, 0.0]
    """
    check_shape("masked_last", "x", x, mask.shape, of="mask")
    number_from_here = jnp.flip(jnp.cumsum(jnp.flip(mask, -1), axis=-1), -1)
    return masked_sum(x, mask & (number_from_here == 1), axis=-1)


def standardize(x: Array, mask: Array, *, eps: ArrayLike = 1e-8) -> Array:
    """(x - mean) / (std + eps) over the True entries of `mask`, and 0 elsewhere. Shapes `[...]`.

    The standard deviation has ddof 0, as `jnp.std` (PyTorch code divides by n - 1). Where all entries are equal,
    and where there is only one, the result is exactly 0 for every value and every `eps`. A True entry that is not
    finite is left out of both, and is NaN itself, so that `to_batch` masks it out. Raises `ValueError` if the shapes
    differ, `TypeError` if the mask is not boolean.

    >>> standardize(jnp.array([1.0, 3.0, jnp.nan, jnp.nan]), jnp.array([True, True, True, False])).tolist()
    [-1.0, 1.0, nan, 0.0]
    """
    if mask.dtype != jnp.bool_:
        raise TypeError(f"standardize: mask must be boolean; its dtype is {mask.dtype}")
    check_shape("standardize", "x", x, mask.shape, of="mask")
    lost = mask & ~jnp.isfinite(x)
    mask = mask & ~lost
    x = zero_where_masked(accumulate(x), mask)
    first = jnp.max(jnp.where(mask, x, -jnp.inf))
    shifted = zero_where_masked(x - jnp.where(jnp.isfinite(first), first, 0), mask)
    largest = jnp.max(jnp.abs(shifted), initial=0)
    unit = jnp.where(largest != 0, largest, 1)  # the squares of what is measured in it neither over- nor underflow
    share = shifted / unit
    centred = zero_where_masked(share - masked_mean(share, mask), mask)
    std = jnp.sqrt(jnp.where(largest != 0, masked_mean(centred**2, mask), 1))
    return jnp.where(lost, jnp.nan, jnp.where(mask & (largest != 0), centred / (std + eps / unit), 0))


def check_shape(caller: str, name: str, x: Array, shape: tuple[int, ...], *, of: str) -> None:
    """Raises `ValueError` naming the argument if `x` has not the shape, that `of` another argument.

    Nothing is ever broadcast silently.
    """
    if np.shape(x) != shape:
        raise ValueError(f"{caller}: {name} must have shape {shape}, that of {of}; it has {np.shape(x)}")
