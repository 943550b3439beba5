"""What everything here reads of a batch: rows, in which cells their outcomes are, and how much each row weighs.

A *row* is one whole episode or completion; the rows of one prompt stand along the last row axis, so that log-weights
and cells are `[..., G]`. A batch `[B, T]` is one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.masking import check_shape, masked_mean, masked_sum
from polopt_jax.reading import check_mask, read, read_log_prob
from polopt_jax.types import Array, ArrayLike, Batch, Outputs, record

CellsOf: TypeAlias = Callable[[Any], Array]
"""`batch.outcome -> cells [..., G]`, integers 0 .. K-1 (or booleans, for K = 2)."""


def identity(outcome: Any) -> Any:
    """The outcome itself, where it is one array of integers already."""
    return outcome


def joint(**sizes: int) -> CellsOf:
    """The cell of several features together: `joint(success=2, vase=2)` is `2·success + vase`.

    A function of `batch.outcome`, a dict with these features, for the `of=` of everything here; it has as many cells as
    the product of the sizes. The feature named first is the most significant digit. A feature out of its range puts the
    row in no cell. Raises ValueError if no feature is named or a size is not positive, and where one is missing.

    >>> joint(success=2, vase=2)({"success": jnp.array([False, True]), "vase": jnp.array([1, 1])}).tolist()
    [1, 3]
    """
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(f"joint needs features with their sizes, joint(success=2, vase=2); it has {sizes}")
    if math.prod(sizes.values()) > np.iinfo(np.int32).max:
        raise ValueError(f"joint has more cells than int32 can number: {' · '.join(map(str, sizes.values()))}")

    def of(outcome: Any) -> Array:
        has = sorted(outcome) if isinstance(outcome, dict) else type(outcome).__name__
        if not isinstance(outcome, dict) or set(sizes) - set(outcome):
            raise ValueError(f"joint: batch.outcome must have the features {sorted(sizes)}; it has {has}")
        cell, num = jnp.int32(0), 1
        for name, size in sizes.items():
            digit = as_cells("joint", f"batch.outcome[{name!r}]", outcome[name])
            cell, num = joint_cells(cell, num, digit, size), num * size
        return cell

    return of


def joint_cells(major: Array, num_major: int, minor: Array, num_minor: int) -> Array:
    """The cell `major · num_minor + minor` of two features; -1, no cell, where one is out of its range."""
    inside = (major >= 0) & (major < num_major) & (minor >= 0) & (minor < num_minor)
    return jnp.where(inside, major * num_minor + minor, -1)


@record
class Rows:
    """What a divergence between outcome laws reads of a batch: the rows and their weights under two policies."""

    outcome: Array
    """`of(batch.outcome)`: cells `[..., G]` int32, or features `[..., G, *]`."""
    real: Array
    """`[..., G]` bool: rows with at least one real decision."""
    old: Array
    """log dP_old/dP_behaviour of each row, `[..., G]`; 0 where it is not real."""
    new: Array
    """The same of the new policy."""


def read_rows(caller: str, old: Outputs, new: Outputs, batch: Batch, outcome: Array) -> Rows:
    """The rows of a batch, of which `outcome` was read; raises by name if something is missing or does not fit."""
    weights = {name: log_weight(caller, outputs, batch, name=name) for name, outputs in (("old", old), ("new", new))}
    return Rows(outcome=outcome, real=batch.mask.any(-1), **weights)


def log_weight(caller: str, outputs: Outputs, batch: Batch, *, name: str = "outputs") -> Array:
    """log dP_policy/dP_behaviour of every row, Σ_t (log π(a_t) - log b(a_t)), `[..., G]`; 0 for an empty row.

    The behaviour policy b is what sampled: `batch.sampler_log_prob` where that was recorded, else `batch.log_prob`.
    Exact for the law of whole rows, since what the world contributes cancels. Raises ValueError for a row on its own.
    """
    log_prob = read_log_prob(caller, outputs, batch, name=name)
    if batch.mask.ndim < 2:
        raise ValueError(f"{caller} needs rows, a mask [..., G, T]; batch.mask has shape {batch.mask.shape}")
    check_attempts(caller, batch.mask)
    behaviour = read(caller, batch, "log_prob" if batch.sampler_log_prob is None else "sampler_log_prob")
    return masked_sum(log_prob - behaviour, batch.mask, axis=-1)


def check_attempts(caller: str, mask: Array) -> None:
    """Raises ValueError if every prompt has one row: its weight is 1 under any policy, so that no law ever moves."""
    if mask.shape[-2:-1] == (1,):
        raise ValueError(
            f"{caller}: laws are taken per prompt, from several rows [..., G, T]; batch.mask has shape {mask.shape}, "
            "one row per prompt. Rows that share a law belong on the last row axis: [1, N, T] or [N, T]"
        )


def read_outcome(caller: str, batch: Batch, of: CellsOf) -> Array:
    """`of(batch.outcome)`, one constant array `[..., G, *]`; raises if there is none or it does not fit the rows."""
    check_mask(caller, batch)
    if not callable(of):
        raise TypeError(f"{caller}: of must be a function of batch.outcome; it is {described(of)}")
    if batch.outcome is None:
        raise ValueError(f"{caller} needs batch.outcome, which is None: to_batch(whole, outcome=feature) fills it")
    rows = batch.mask.shape[:-1]
    try:
        outcome = of(batch.outcome)
    except KeyError as missing:
        has = sorted(batch.outcome) if isinstance(batch.outcome, dict) else type(batch.outcome).__name__
        raise ValueError(f"{caller}: of(batch.outcome) asks for {missing}; batch.outcome has {has}") from None
    if isinstance(outcome, (list, tuple, bool, int)):
        outcome = jnp.asarray(outcome)
    if not hasattr(outcome, "dtype"):
        raise TypeError(f"{caller}: of(batch.outcome) must be one array; it is a {type(outcome).__name__}: use of=")
    if outcome.shape[: len(rows)] != rows:
        raise ValueError(
            f"{caller}: of(batch.outcome) must have the rows of batch.mask, {rows}; it has {outcome.shape}"
        )
    return jax.lax.stop_gradient(outcome)


def read_cells(caller: str, batch: Batch, of: CellsOf) -> Array:
    """The cell of every row, `[..., G]` int32; raises as `read_outcome`, and if they are no integers."""
    cells = as_cells(caller, "of(batch.outcome)", read_outcome(caller, batch, of))
    check_shape(caller, "of(batch.outcome)", cells, batch.mask.shape[:-1], of="the rows of batch.mask")
    return cells


def labelled_rows(caller: str, real: Array, labelled: Array | None) -> Array:
    """The rows that count and whose outcome is known, `[..., G]` bool; raises if `labelled` does not fit."""
    if labelled is None:
        return real
    labelled = jnp.asarray(labelled)
    check_shape(caller, "labelled", labelled, real.shape, of="the rows")
    if labelled.dtype != jnp.bool_:
        raise TypeError(f"{caller}: labelled must be boolean; its dtype is {labelled.dtype}")
    return labelled & real


def in_cell(cells: Array, num_outcomes: int, real: Array) -> Array:
    """Whether each row counts and is in each cell, `[..., G, K]` bool."""
    return jax.nn.one_hot(cells, num_outcomes, dtype=jnp.bool_) & real[..., None]


def in_none(cells: Array, num_outcomes: int, real: Array) -> Array:
    """Whether a row that counts is in no cell, `[...]` bool."""
    return (real & ((cells < 0) | (cells >= num_outcomes))).any(-1)


def check_number(caller: str, num_outcomes: Any) -> None:
    """Raises ValueError unless the number of cells is a whole one of at least 1."""
    if isinstance(num_outcomes, bool) or not isinstance(num_outcomes, int | np.integer) or num_outcomes < 1:
        raise ValueError(f"{caller}: num_outcomes must be a whole number from 1; it is {num_outcomes!r}")


def as_cells(caller: str, name: str, x: ArrayLike) -> Array:
    """`x` as int32 cells; raises TypeError if it is neither integer nor boolean."""
    x = jnp.asarray(x)
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_):
        raise TypeError(f"{caller}: {name} must be integer cells or booleans; its dtype is {x.dtype}")
    return x.astype(jnp.int32)


def weights(log_weights: Array, real: Array) -> Array:
    """Self-normalised weights `[..., G]`: they sum to 1 over the real rows of each prompt (to 0 if it has none)."""
    top = jax.lax.stop_gradient(jnp.max(jnp.where(real, log_weights, -jnp.inf), axis=-1, keepdims=True))
    unnormalised = jnp.where(real, jnp.exp(jnp.where(real, log_weights - jnp.where(top == -jnp.inf, 0, top), 0)), 0)
    total = jnp.sum(unnormalised, axis=-1, keepdims=True)
    return unnormalised / jnp.where(total > 0, total, 1)


def effective_sample_size(log_weights: Array, real: Array) -> Array:
    """1 / Σ_g w_g² of the self-normalised weights, `[...]`: the number of equal rows that would say as much."""
    squares = jnp.sum(jnp.square(weights(log_weights, real)), axis=-1)
    return jnp.where(squares > 0, 1 / jnp.where(squares > 0, squares, 1), 0)


def has_law(real: Array) -> Array:
    """Whether a prompt has the two real rows `[..., G]` without which no law moves, `[...]` bool: one row weighs 1
    under any policy."""
    return real.sum(-1) > 1


def law_mean(values: Array, real: Array) -> Array:
    """Mean of values per prompt `[...]` over the prompts that have a law which could move, `[]`; 0 if none has."""
    return masked_mean(values, has_law(real))


def prompt_mean(values: Array, real: Array) -> Array:
    """Mean of values per prompt `[...]` over the prompts that have a real row `[..., G]`, `[]`."""
    return masked_mean(values, real.any(-1))
