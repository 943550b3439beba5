"""Laws over outcomes, one per prompt, and the distances between two of them. K outcomes; laws are `[..., K]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from polopt_jax.distributions import Categorical
from polopt_jax.masking import accumulate, check_shape
from polopt_jax.outcomes._rows import as_cells, in_cell, in_none
from polopt_jax.types import Array

Between: TypeAlias = Callable[[Array, Array], Array]
"""`(log P, log Q) -> D(P ‖ Q)`: log-laws `[..., K]` each to `[...]`; -inf is a cell without mass."""


def log_law(cells: Array, num_outcomes: int, *, log_weights: Array | None = None, real: Array | None = None) -> Array:
    """Logarithm of the law of the outcome, `[..., K]`: the share of the rows' self-normalised weight in each cell.

        log P(o) = log Σ_g w_g 1[o_g = o],    w = softmax(log w)

    -inf for a cell without rows, and everywhere for a prompt without any. Taken in logarithms throughout: a cell whose
    weight underflows is still there.

    Args:
      cells: `[..., G]` integers or booleans; a real row in none of 0 .. K-1 makes its prompt's law NaN.
      num_outcomes: K.
      log_weights: log dP/dP_behaviour of each row, `[..., G]`; all equal if None, which gives plain shares.
      real: `[..., G]` bool, the rows that count; all if None.

    Raises ValueError if shapes differ or K is not positive, TypeError if cells are no integers.

    >>> jnp.exp(log_law(jnp.array([0, 1, 1, 2]), 3)).round(3).tolist()
    [0.25, 0.5, 0.25]
    """
    if num_outcomes < 1:
        raise ValueError(f"log_law: num_outcomes must be at least 1; it is {num_outcomes}")
    cells = as_cells("log_law", "cells", cells)
    log_weights = jnp.zeros(cells.shape) if log_weights is None else accumulate(log_weights)
    real = jnp.ones(cells.shape, bool) if real is None else real
    check_shape("log_law", "log_weights", log_weights, cells.shape, of="cells")
    check_shape("log_law", "real", real, cells.shape, of="cells")
    mass = log_sum(jnp.where(in_cell(cells, num_outcomes, real), log_weights[..., None], -jnp.inf), axis=-2)
    total = log_sum(mass, axis=-1)[..., None]
    normalised = jnp.where(total == -jnp.inf, -jnp.inf, mass - jnp.where(total == -jnp.inf, 0, total))
    return jnp.where(in_none(cells, num_outcomes, real)[..., None], jnp.nan, normalised)


def safe_log(p: Array) -> Array:
    """log p, -inf at 0, with a gradient that is never NaN for that."""
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)), -jnp.inf)


def log_sum(x: Array, axis: int) -> Array:
    """log Σ exp(x), -inf where all are, with a gradient that is never NaN for that."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    there = x != -jnp.inf
    terms = jnp.where(there, jnp.exp(jnp.where(there, x - jnp.where(there, top, 0), 0)), 0)
    total, some = jnp.sum(terms, axis=axis), there.any(axis)
    return safe_log(total) + jnp.where(some, jnp.squeeze(top, axis), 0)


def _laws(caller: str, log_p: Array, log_q: Array) -> tuple[Array, Array]:
    log_p, log_q = jnp.asarray(log_p), jnp.asarray(log_q)
    check_shape(caller, "log_q", log_q, log_p.shape, of="log_p")
    for name, law in (("log_p", log_p), ("log_q", log_q)):
        _check_law(caller, name, law)
    return accumulate(log_p), accumulate(log_q)


def _check_law(caller: str, name: str, law: Array) -> None:
    """Raises ValueError if the probabilities of a log-law do not sum to one: what is traced passes unseen.

    So does a prompt of which nothing is known: all -inf where it has no rows, NaN where they are in no cell.
    """
    if isinstance(law, jax.core.Tracer):
        return
    coarse = 4 * float(jnp.finfo(law.dtype).eps) if jnp.issubdtype(law.dtype, jnp.floating) else 0.0
    digits = np.asarray(law, np.float64)
    known = np.isfinite(digits).any(-1) & ~np.isnan(digits).any(-1)
    with np.errstate(over="ignore"):
        total = np.exp(digits).sum(-1)[known]
    wrong = total[~(np.abs(total - 1) <= max(1e-3, coarse))]
    if wrong.size:
        hint = "; it looks like probabilities: take their logarithm" if (digits[known] >= 0).all() else ""
        raise ValueError(
            f"{caller}: {name} must be log-probabilities, which sum to one when exponentiated; they sum to "
            f"{wrong[0]:.4g}{hint}"
        )


def check_reference(caller: str, reference: Array) -> None:
    """Raises ValueError if there are laws `[..., K]` among these that do not sum to one: what is traced passes."""
    total = reference.sum(-1)
    if not isinstance(total, jax.core.Tracer) and (np.abs(np.asarray(total, np.float64) - 1) > 1e-3).any():
        raise ValueError(f"{caller}: reference must be laws that sum to one; they sum to {total.tolist()}")


def kl(log_p: Array, log_q: Array) -> Array:
    """KL(P ‖ Q) = Σ p log(p/q) of log-laws `[..., K]`, `[...]`; +inf where Q lacks a cell that P has.

    Raises ValueError if the shapes differ, or, where they are concrete, if exp(log_p) or exp(log_q) do not sum to one
    to 1e-3: probabilities, say, given for their logarithms.

    >>> round(float(kl(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75])))), 4)
    0.1438
    """
    return kl_of_logits(*_laws("kl", log_p, log_q))


@jax.jit  # or in eager mode dozens of small programs are compiled
def kl_of_logits(log_p: Array, log_q: Array) -> Array:
    """`kl` of laws that are known up to a factor each."""
    divergence = Categorical(logits=log_p).kl_divergence(Categorical(logits=log_q))
    return jnp.where(jnp.isnan(log_p).any(-1) | jnp.isnan(log_q).any(-1), jnp.nan, divergence)


def total_variation(log_p: Array, log_q: Array) -> Array:
    """TV(P, Q) = ½ Σ |p - q| of log-laws `[..., K]`, `[...]`, in [0, 1]. Has no second derivative at P = Q.

    Raises as `kl`.

    >>> round(float(total_variation(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75])))), 4)
    0.25
    """
    log_p, log_q = _laws("total_variation", log_p, log_q)
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


def jensen_shannon(log_p: Array, log_q: Array) -> Array:
    """JS(P, Q) = ½ KL(P ‖ M) + ½ KL(Q ‖ M), M = ½(P + Q), `[...]`; finite always, at most log 2.

    Raises as `kl`.

    >>> round(float(jensen_shannon(jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.0, 1.0])))), 4)
    0.6931
    """
    log_p, log_q = _laws("jensen_shannon", log_p, log_q)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    mean = 0.5 * (p + q)
    return 0.5 * kl_of_logits(log_p, safe_log(mean)) + 0.5 * kl_of_logits(log_q, safe_log(mean))


def chi_square(log_p: Array, log_q: Array) -> Array:
    """χ²(P ‖ Q) = Σ (p - q)²/q of log-laws `[..., K]`, `[...]`; +inf where Q lacks a cell that P has. Raises as `kl`.

    >>> round(float(chi_square(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75])))), 4)
    0.3333
    """
    log_p, log_q = _laws("chi_square", log_p, log_q)
    q = jnp.exp(log_q)
    ratio = jnp.where(log_p == -jnp.inf, 0, jnp.exp(log_p - jnp.where(log_q == -jnp.inf, 0, log_q)))
    terms = jnp.where(log_q == -jnp.inf, 0, q * jnp.square(ratio - 1))
    impossible = ((log_q == -jnp.inf) & (log_p != -jnp.inf)).any(-1)
    return jnp.where(impossible, jnp.inf, jnp.sum(terms, axis=-1))
