"""Every reduction of the library: masked sums, means, standardisation, and the ways to reduce a loss to a scalar.

The guarantee that the terms give is made here. Where the mask is False a value may be NaN or infinite, and neither
changes the result nor sends back anything but a gradient of exactly 0: inputs are replaced *before* the arithmetic
and outputs again after it (a single `where`, or a multiplication by the mask, gives a NaN gradient).

A reduction is a function `reduce(x, batch) -> scalar` of per-decision values `x` `[..., T]`. All divide by
`batch.counts` where it is present and else by the counts of `batch.mask`; a sum over an empty mask is exactly 0.
"""

from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.types import Array, ArrayLike, Batch, Counts, Outputs, Reduction

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ±20 before exp; see `log_ratio`."""


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


def standardize(x: Array, mask: Array, *, eps: ArrayLike = 1e-8) -> Array:
    """(x - mean) / (std + eps) over the True entries of `mask`, and 0 elsewhere. Shapes `[...]`.

    The standard deviation has ddof 0, as `jnp.std` (PyTorch code divides by n - 1). Where all entries are equal,
    and where there is only one, the result is exactly 0 for every value and every `eps`. A NaN that is not masked makes
    every entry NaN. Raises `ValueError` if the shapes differ, `TypeError` if the mask is not boolean.

    >>> standardize(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])).tolist()
    [-1.0, 1.0, 0.0]
    """
    if mask.dtype != jnp.bool_:
        raise TypeError(f"standardize: mask must be boolean; its dtype is {mask.dtype}")
    check_shape("standardize", "x", x, mask.shape, of="mask")
    x = zero_where_masked(accumulate(x), mask)
    first = jnp.max(jnp.where(mask, x, -jnp.inf))
    shifted = zero_where_masked(x - jnp.where(jnp.isfinite(first), first, 0), mask)
    centred = zero_where_masked(shifted - masked_mean(shifted, mask), mask)
    variance = masked_mean(centred**2, mask)
    spread = masked_sum(jnp.abs(shifted), mask) != 0
    std = jnp.sqrt(jnp.where(spread, variance, 1))
    return jnp.where(mask & spread, centred / (std + eps), 0)


def log_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """log π/π_old `[...]`, clamped to ±20: beyond it the value is ±20 and the gradient exactly 0.

    Exact, value and gradient, for every difference of at most 20. exp(20) = 4.9e8 keeps every product that the
    objectives form finite in float32.
    """
    difference = log_prob - old_log_prob
    inside = jnp.abs(difference) <= LOG_RATIO_LIMIT
    beyond = jnp.where(jnp.isnan(difference), jnp.nan, LOG_RATIO_LIMIT * jnp.sign(difference))
    return jnp.where(inside, jnp.where(inside, difference, 0), jax.lax.stop_gradient(beyond))


# --- counts and reductions ---------------------------------------------------------------------------------------


def count(mask: Array) -> Counts:
    """The denominators of a mask `[..., T]`: real decisions, rows that have one, preference pairs that have two."""
    rows = mask.any(-1)
    pairs = jnp.sum(rows.all(0)) if rows.ndim >= 2 and rows.shape[0] == 2 else jnp.zeros((), jnp.int32)
    return Counts(
        decisions=jnp.sum(mask).astype(jnp.float32),
        rows=jnp.sum(rows).astype(jnp.float32),
        pairs=pairs.astype(jnp.float32),
    )


def counts(batch: Batch) -> Counts:
    """`batch.counts`, or else those of its mask."""
    return count(batch.mask) if batch.counts is None else batch.counts


def _over(total: Array, number: Array) -> Array:
    return total / jnp.maximum(number, 1).astype(total.dtype)


def _check_reducible(caller: str, x: Array, batch: Batch) -> None:
    check_mask(caller, batch)
    check_shape(caller, "x", x, batch.mask.shape, of="batch.mask")


def token_mean(x: Array, batch: Batch) -> Array:
    """Σ x / number of real decisions: every decision counts the same. The mean of PPO, DAPO's and BNPO's choice.

    Raises, as every reduction, `ValueError` if `x` has not the shape of the mask.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> x, batch = jnp.array([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), Batch(obs=None, action=None, mask=mask)
    >>> float(token_mean(x, batch))
    3.0
    """
    _check_reducible("token_mean", x, batch)
    return _over(masked_sum(x, batch.mask), counts(batch).decisions)


def sequence_mean(x: Array, batch: Batch) -> Array:
    """Mean over rows of each row's mean over its decisions: every row counts the same. GRPO's own choice.

    A row without a real decision is not counted.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> x, batch = jnp.array([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), Batch(obs=None, action=None, mask=mask)
    >>> float(sequence_mean(x, batch))
    4.0
    """
    _check_reducible("sequence_mean", x, batch)
    return _over(jnp.sum(masked_mean(x, batch.mask, axis=-1)), counts(batch).rows)


def sequence_sum(x: Array, batch: Batch) -> Array:
    """Mean over rows of each row's sum: per trajectory rather than per decision.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> x, batch = jnp.array([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), Batch(obs=None, action=None, mask=mask)
    >>> float(sequence_sum(x, batch))
    6.0
    """
    _check_reducible("sequence_sum", x, batch)
    return _over(masked_sum(x, batch.mask), counts(batch).rows)


def constant_length(length: ArrayLike) -> Reduction:
    """Reduction `sequence_sum / length`, with a length that does not depend on the data (Dr.GRPO).

    >>> batch = Batch(obs=None, action=None, mask=jnp.ones((2, 3), bool))
    >>> float(constant_length(4.0)(jnp.ones((2, 3)), batch))
    0.75
    """

    def reduce(x: Array, batch: Batch) -> Array:
        return sequence_sum(x, batch) / length

    return reduce


# --- what a term reads of its inputs --------------------------------------------------------------------------------


def check_shape(caller: str, name: str, x: Array, shape: tuple[int, ...], *, of: str) -> None:
    """Raises `ValueError` naming the argument if `x` has not the shape, that `of` another argument.

    Nothing is ever broadcast silently.
    """
    if jnp.shape(x) != shape:
        raise ValueError(f"{caller}: {name} must have shape {shape}, that of {of}; it has {jnp.shape(x)}")


def read(caller: str, batch: Batch, name: str) -> Array:
    """Field `name` of the batch: present, of the mask's shape, zeroed under the mask, and constant."""
    field = getattr(batch, name)
    if field is None:
        raise ValueError(f"{caller} needs batch.{name}, which is None")
    check_shape(caller, f"batch.{name}", field, batch.mask.shape, of="batch.mask")
    return jax.lax.stop_gradient(zero_where_masked(accumulate(field), batch.mask))


def check_policy(caller: str, outputs: Outputs, batch: Batch, *, name: str = "outputs") -> None:
    """Raises `ValueError` unless the outputs, an argument called `name`, have a policy that fits the batch."""
    check_mask(caller, batch)
    if outputs.policy is None:
        raise ValueError(f"{caller} needs {name}.policy, which is None")
    if outputs.policy.batch_shape != batch.mask.shape:
        raise ValueError(
            f"{caller}: {name}.policy must have batch shape {batch.mask.shape}, that of batch.mask; "
            f"it has {outputs.policy.batch_shape}"
        )


def read_policy(caller: str, outputs: Outputs, batch: Batch, *, name: str = "outputs") -> Any:
    """The policy, made harmless under the mask; raises if it does not fit the batch. `name` is that of the argument."""
    check_policy(caller, outputs, batch, name=name)
    return outputs.policy.where(batch.mask)


def read_value(caller: str, outputs: Outputs, batch: Batch) -> Array:
    """The critic's values, zeroed under the mask; raises if there is no critic or it does not fit the batch."""
    check_mask(caller, batch)
    if outputs.value is None:
        raise ValueError(f"{caller} needs outputs.value, which is None: the model has no critic")
    check_shape(caller, "outputs.value", outputs.value, batch.mask.shape, of="batch.mask")
    return zero_where_masked(accumulate(outputs.value), batch.mask)


def read_log_prob(caller: str, outputs: Outputs, batch: Batch) -> Array:
    """log π(action), 0 under the mask; the policy and the actions are both made harmless there first."""
    policy = read_policy(caller, outputs, batch)
    if batch.action is None:
        raise ValueError(f"{caller} needs batch.action, which is None")
    if batch.action.shape[: batch.mask.ndim] != batch.mask.shape:
        raise ValueError(
            f"{caller}: batch.action must have leading shape {batch.mask.shape}, that of batch.mask; "
            f"it has shape {batch.action.shape}"
        )
    action = jax.lax.stop_gradient(zero_where_masked(batch.action, batch.mask))
    return zero_where_masked(policy.log_prob(action), batch.mask)


def check_mask(caller: str, batch: Batch) -> None:
    """Raises unless the mask is boolean with at least a time axis."""
    if batch.mask is None:
        raise ValueError(f"{caller} needs batch.mask, which is None")
    if batch.mask.dtype != jnp.bool_:
        raise TypeError(f"{caller}: batch.mask must be boolean; its dtype is {batch.mask.dtype}")
    if batch.mask.ndim < 1:
        raise ValueError(f"{caller}: batch.mask must have at least a time axis [T]; it is a scalar")
