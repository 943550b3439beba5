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

    def like(self, tree: Any) -> Raveled:
        """Another tree of the same structure, laid out in the same order."""
        arrays = jax.tree.leaves(tree)
        names = [name for name, _ in self.leaves]
        vectors = {
            name: jnp.concatenate([x.ravel() for x, its in zip(arrays, names, strict=True) if its == name])
            for name in dict.fromkeys(names)
        }
        return Raveled(vectors=vectors, treedef=self.treedef, leaves=self.leaves)

    def _shapes(self, dtype: str) -> list[tuple[int, ...]]:
        return [shape for name, shape in self.leaves if name == dtype]


def ravel(tree: Params) -> Raveled:
    """Any tree of arrays in one vector of each dtype; its `tree()` is the way back, bit for bit."""
    arrays, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    leaves = tuple((x.dtype.name, x.shape) for x in arrays)
    return Raveled(vectors={}, treedef=treedef, leaves=leaves).like(arrays)


def unraveled(tree: Any) -> Any:
    """The tree behind a `Raveled`, and anything else as it is."""
    return tree.tree() if isinstance(tree, Raveled) else tree


def all_unraveled(tree: Any) -> Any:
    """A tree in which every `Raveled` is the tree behind it.

    >>> all_unraveled((jnp.zeros(()), ravel({"bias": jnp.ones(2)})))[1]["bias"].tolist()
    [1.0, 1.0]
    """
    return jax.tree.map(unraveled, tree, is_leaf=lambda x: isinstance(x, Raveled))


def raveled_like(example: Any, tree: Any) -> Any:
    """The way back: a tree whose parts are laid end to end where `example` has a `Raveled`.

    >>> example = (jnp.zeros(()), ravel({"bias": jnp.ones(2)}))
    >>> raveled_like(example, (jnp.ones(()), {"bias": jnp.ones(2)}))[1].vectors["float32"].tolist()
    [1.0, 1.0]
    """
    lay_out = lambda x, part: x.like(part) if isinstance(x, Raveled) else part  # noqa: E731
    return jax.tree.map(lay_out, example, tree, is_leaf=lambda x: isinstance(x, Raveled))


def _split(vector: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Consecutive parts of a vector, in these shapes."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    parts = jnp.split(vector, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
