"""Which inputs of a function its results depend on, read off the program that JAX traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax


def dependence(function: Callable[..., Any], *args: Any) -> Callable[[Sequence[bool]], list[bool]]:
    """Traces `function(*args)` once and answers: on which inputs do these results depend?

    Returns a function from marks on the leaves of the result to marks on the leaves of `args`. JAX's own dead-code
    elimination decides, which sees through `jit`, `checkpoint`, `scan`, `while` and `cond`. It is not a documented
    function: on a JAX without it the answer is that everything is read, which is safe for every use here.

    >>> import jax.numpy as jnp
    >>> dependence(lambda x, y: (2 * x, y), jnp.ones(()), jnp.ones(()))([True, False])
    [True, False]
    """
    leaves, treedef = jax.tree.flatten(args)
    try:
        from jax.interpreters.partial_eval import dce_jaxpr
    except ImportError:
        return lambda results: [True] * len(leaves)
    flat = lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(treedef, leaves)))  # noqa: E731
    jaxpr = jax.make_jaxpr(flat)(*leaves).jaxpr
    return lambda results: list(dce_jaxpr(jaxpr, list(results))[1])
