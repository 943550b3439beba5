"""Two guards around an update: a global-norm clip that survives any gradient, and the skipping of broken steps."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from polopt_jax.solvers._conjugate_gradient import tree_norm
from polopt_jax.types import Array, ArrayLike


def clip_by_global_norm(max_norm: ArrayLike) -> optax.GradientTransformation:
    """Optax transform g -> g · min(1, max_norm / ‖g‖), with a norm that does not overflow.

    optax's own squares the entries first: a gradient of 1e30 comes out as 0, an infinite one as NaN. Here the first
    keeps its direction and the second is left non-finite, for `make_step`'s guard to skip. `max_norm` may be traced.

    >>> transform = clip_by_global_norm(1.0)
    >>> transform.update(jnp.array([3e30, 4e30]), transform.init(None))[0].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = tree_norm(updates)
        inside = norm <= max_norm
        # Divided by the norm first: max_norm / norm underflows where the norm is near the largest float.
        return jax.tree.map(lambda g: jnp.where(inside, g, g / norm * max_norm).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def all_finite(tree: Any) -> Array:
    """`[]` bool: every float leaf of the tree is finite everywhere."""
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)


def select(condition: Array, new: Any, old: Any) -> Any:
    """`new` where the scalar condition holds, else `old`, bit for bit."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
