"""A pytree of arrays as named leaves of numpy, as bytes, and back: what a checkpoint stores and compares."""

from __future__ import annotations

import collections
import hashlib
from typing import Any

import jax
import numpy as np

Entry = dict[str, Any]
"""What is known of a leaf: `shape`, `dtype` and `sha256`."""


def leaves_of(state: Any) -> dict[str, np.ndarray]:
    """Every leaf as a numpy array under its path; typed PRNG keys as their data.

    >>> leaves_of({"x": jax.numpy.zeros((2, 1))})
    {"['x']": array([[0.], [0.]], dtype=float32)}
    """

    def as_array(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(jax.device_get(x))

    return {jax.tree_util.keystr(path): as_array(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def shapes_of(state: Any) -> dict[str, Any]:
    """Shape and dtype of what `leaves_of` has, of arrays or of such shapes and dtypes alone.

    >>> shapes_of({"x": jax.ShapeDtypeStruct((2, 1), "float32")})
    {"['x']": ShapeDtypeStruct(shape=(2, 1), dtype=float32)}
    """

    def as_shape(x: Any) -> Any:
        if not hasattr(x, "dtype"):
            return np.asarray(x)
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.eval_shape(jax.random.key_data, x)
        return jax.ShapeDtypeStruct(x.shape, x.dtype)

    return {jax.tree_util.keystr(path): as_shape(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def dotted_names(state: Any) -> dict[str, str]:
    """What the leaves of `leaves_of` are called elsewhere: their paths with dots. ValueError if two have one name.

    >>> dotted_names({"block": [{"kernel": 1.0}], "bias": 2.0})
    {"['bias']": 'bias', "['block'][0]['kernel']": 'block.0.kernel'}
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    names = {jax.tree_util.keystr(p): jax.tree_util.keystr(p, simple=True, separator=".") for p in paths}
    twice = [name for name, number in collections.Counter(names.values()).items() if number > 1]
    if twice:
        raise ValueError(f"two leaves would be called {twice[0]!r}")
    return names


def rebuild(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """The pytree of the structure of `like` that has these leaves; PRNG keys where `like` has some."""

    def leaf(path: Any, old: Any) -> Any:
        x = jax.numpy.asarray(leaves[jax.tree_util.keystr(path)])
        if hasattr(old, "dtype") and jax.numpy.issubdtype(old.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(x, impl=_key_impl(old))
        return x

    return jax.tree_util.tree_map_with_path(leaf, like)


def _key_impl(keys: Any) -> Any:
    """The generator of keys, or of their shape and dtype, of which JAX does not tell it."""
    if isinstance(keys, jax.Array):
        return jax.random.key_impl(keys)
    known = ("threefry2x32", "rbg", "unsafe_rbg")
    return next(impl for impl in known if jax.random.key(0, impl=impl).dtype == keys.dtype)


def describe(leaves: dict[str, np.ndarray]) -> dict[str, Entry]:
    """The entry of every leaf, by name."""
    return {name: {"shape": list(x.shape), "dtype": str(x.dtype), "sha256": digest(x)} for name, x in leaves.items()}


def digest(x: np.ndarray) -> str:
    """The sha256 of a leaf's bytes."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def pack(leaves: dict[str, np.ndarray]) -> np.ndarray:
    """The bytes of all leaves in order, and a zero, so that it is never empty: uint8 `[packed_size]`."""
    return np.frombuffer(b"".join([*(x.tobytes() for x in leaves.values()), b"\0"]), np.uint8)


def packed_size(entries: dict[str, Entry]) -> int:
    """Bytes that `pack` makes of the leaves of these entries."""
    return 1 + sum(_size(entry) for entry in entries.values())


def unpack(packed: np.ndarray, entries: dict[str, Entry]) -> dict[str, np.ndarray]:
    """The leaves out of what `pack` made of them. Their digests are not compared here.

    >>> leaves = {"a": np.arange(3), "b": np.float32(1.5), "c": np.zeros((0, 2))}
    >>> unpack(pack(leaves), describe({name: np.asarray(x) for name, x in leaves.items()}))
    {'a': array([0, 1, 2]), 'b': array(1.5, dtype=float32), 'c': array([], shape=(0, 2), dtype=float64)}
    """
    leaves, start = {}, 0
    for name, entry in entries.items():
        part = packed[start : start + _size(entry)].copy()
        leaves[name] = part.view(np.dtype(entry["dtype"])).reshape(entry["shape"])
        start += _size(entry)
    return leaves


def _size(entry: Entry) -> int:
    return int(np.prod(entry["shape"], dtype=np.int64)) * np.dtype(entry["dtype"]).itemsize
