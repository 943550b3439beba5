"""Conjugate gradients that say why they stopped and never claim what they did not reach."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.guards import tree_norm, tree_vdot
from polopt_jax.masking import accumulate
from polopt_jax.types import Array, ArrayLike, Params


class CGStatus(IntEnum):
    """Why `conjugate_gradient` stopped."""

    CONVERGED = 0
    """The *recomputed* residual is within the tolerance (also when b is 0)."""
    ITERATION_LIMIT = 1
    """`iters` iterations did not reach the tolerance. The usual end of a TRPO direction, and no failure."""
    NONPOSITIVE_CURVATURE = 2
    """A direction with pᵀAp <= 0 was met: A is singular or indefinite. x is the iterate before it (0 if the first)."""
    NONFINITE = 3
    """b, a product with A or the next iterate was NaN or infinite. x is the last finite iterate."""
    STAGNATED = 4
    """The recurrence claims the tolerance, the recomputed residual denies it: rounding has the upper hand."""


class CGInfo(NamedTuple):
    """Diagnostics of one solve; all scalars `[]`."""

    iterations: Array
    """int32: products with A that entered the solution."""
    residual: Array
    """‖b - A x‖ / ‖b‖, recomputed from x rather than carried along; 0 if b is 0, 1 if it is not finite."""
    curvature: Array
    """xᵀ A x at the solution (with the damping that A contains); saturates at the largest float."""
    status: Array
    """int32 `CGStatus`."""


class _State(NamedTuple):
    x: Params
    r: Params
    p: Params
    rr: Array
    iterations: Array
    status: Array


_RUNNING = -1


def _axpy(alpha: Array, x: Params, y: Params) -> Params:
    return jax.tree.map(lambda x, y: alpha.astype(x.dtype) * x + y, x, y)


def conjugate_gradient(
    matvec: Callable[[Params], Params], b: Params, *, iters: ArrayLike = 10, tol: ArrayLike = 1e-10
) -> tuple[Params, CGInfo]:
    """Solves A x = b for a symmetric positive definite A given as `matvec`, starting from 0.

    The system is solved at ‖b‖ = 1 and scaled back, so the answer is equivariant, x(c·b) = c·x(b), over the range of
    the dtype. It stops early at the tolerance, at non-positive curvature or at a non-finite number, and under `vmap`
    each lane freezes where it stopped while the others go on.

    Args:
      matvec: v -> A v on trees like `b`.
      b: right-hand side, any tree of float arrays.
      iters: largest number of iterations; may be traced.
      tol: relative: stop at ‖b - Ax‖ <= tol ‖b‖. May be traced.

    Returns:
      `(x, info)`, x like b in at least float32, and always finite. One product more than `info.iterations` is taken,
      for the true residual and the curvature.

    Differs from `jax.scipy.sparse.linalg.cg`: that returns infinities for a zero matrix, returns 0 for |b| below
    1e-20 and never tells how it ended. Source: Hestenes & Stiefel 1952.

    >>> x, info = conjugate_gradient(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]), iters=5, tol=1e-6)
    >>> x.round(4).tolist(), CGStatus(int(info.status)).name
    ([1.0, 0.25], 'CONVERGED')
    """
    norm = tree_norm(b)
    solvable = jnp.isfinite(norm)
    scale = jnp.where((norm > 0) & solvable, norm, 1)
    unit = jax.tree.map(lambda x: jnp.where(solvable, accumulate(x) / scale, 0), b)
    zeros = jax.tree.map(jnp.zeros_like, unit)
    rr = tree_vdot(unit, unit)
    start = jnp.where(solvable, jnp.where(rr > 0, _RUNNING, CGStatus.CONVERGED), CGStatus.NONFINITE)
    state = _State(zeros, unit, unit, rr, jnp.zeros((), jnp.int32), start.astype(jnp.int32))

    def step(s: _State) -> _State:
        ap = matvec(s.p)
        curvature = tree_vdot(s.p, ap)
        alpha = s.rr / jnp.where(curvature > 0, curvature, 1)
        x, r = _axpy(alpha, s.p, s.x), _axpy(-alpha, ap, s.r)
        rr = tree_vdot(r, r)
        finite = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda x: jnp.isfinite(x * scale).all(), x))
        usable = jnp.isfinite(curvature) & jnp.isfinite(rr) & finite
        advance = usable & (curvature > 0)
        p = _axpy(rr / s.rr, s.p, r)
        ended = jnp.where(rr <= jnp.square(tol), CGStatus.CONVERGED, _RUNNING)
        status = jnp.where(advance, ended, jnp.where(usable, CGStatus.NONPOSITIVE_CURVATURE, CGStatus.NONFINITE))
        moved = _State(x, r, p, rr, s.iterations + 1, s.status)
        kept = jax.tree.map(lambda new, old: jnp.where(advance, new, old), moved, s)
        return kept._replace(status=status.astype(jnp.int32))

    running = lambda s: (s.status == _RUNNING) & (s.iterations < iters)  # noqa: E731
    end = jax.lax.while_loop(running, step, state)
    ax = matvec(end.x)
    residual = jnp.where(solvable, tree_norm(jax.tree.map(jnp.subtract, unit, ax)), 1)
    curvature = tree_vdot(end.x, ax)
    denied = (end.status == CGStatus.CONVERGED) & ~(residual <= tol) & (rr > 0)
    status = jnp.where(end.status == _RUNNING, CGStatus.ITERATION_LIMIT, end.status)
    status = jnp.where(denied, CGStatus.STAGNATED, status)
    largest = jnp.finfo(curvature.dtype).max
    curvature = jnp.clip(curvature * scale * scale, -largest, largest)
    x = jax.tree.map(lambda x: x * scale, end.x)
    return x, CGInfo(end.iterations, residual, curvature, status.astype(jnp.int32))
