"""Parameters end to end in one vector: what an optimizer does to every number alike is done once, not leaf by leaf."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.types import Array, Params


@partial(jax.tree_util.register_dataclass, data_fields=["vectors"], meta_fields=["treedef", "leaves"])
@dataclass(frozen=True, kw_only=True)
class Raveled:
    """A tree of arrays, laid end to end: a pytree of as many leaves as there are dtypes.

    >>> raveled = ravel({"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)})
    >>> raveled.vectors["float32"].tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> jax.tree.map(jnp.shape, raveled.tree())
    {'bias': (3,), 'kernel': (2, 3)}
    """

    vectors: dict[str, Array]
    """By the name of the dtype, `[P]`."""
    treedef: Any
    """Of the tree."""
    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    """The dtype and the shape of each leaf."""

    def tree(self) -> Params:
        """What was laid end to end."""
        parts = {name: iter(_split(x, self._shapes(name))) for name, x in self.vectors.items()}
        return jax.tree.unflatten(self.treedef, [next(parts[name]) for name, _ in self.leaves])

    def _shapes(self, dtype: str) -> list[tuple[int, ...]]:
        return [shape for name, shape in self.leaves if name == dtype]


def ravel(tree: Params) -> Raveled:
    """Any tree of arrays in one vector of each dtype; its `tree()` is the way back, bit for bit."""
    arrays, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    leaves = tuple((x.dtype.name, x.shape) for x in arrays)
    names = dict.fromkeys(name for name, _ in leaves)
    vectors = {name: jnp.concatenate([x.ravel() for x in arrays if x.dtype.name == name]) for name in names}
    return Raveled(vectors=vectors, treedef=treedef, leaves=leaves)


def unraveled(tree: Any) -> Any:
    """The tree behind a `Raveled`, and anything else as it is."""
    return tree.tree() if isinstance(tree, Raveled) else tree


def _split(vector: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Consecutive parts of a vector, in these shapes."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    parts = jnp.split(vector, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
