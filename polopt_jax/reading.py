"""What a term reads of its batch and outputs: present, of the right shape, zeroed under the mask, constant."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.masking import accumulate, check_shape, zero_where_masked
from polopt_jax.types import Array, Batch, Outputs


def check_mask(caller: str, batch: Batch) -> None:
    """Raises unless the mask is boolean with at least a time axis."""
    if batch.mask is None:
        raise ValueError(f"{caller} needs batch.mask, which is None")
    if batch.mask.dtype != jnp.bool_:
        raise TypeError(f"{caller}: batch.mask must be boolean; its dtype is {batch.mask.dtype}")
    if batch.mask.ndim < 1:
        raise ValueError(f"{caller}: batch.mask must have at least a time axis [T]; it is a scalar")


def check_pairs(caller: str, batch: Batch) -> None:
    """Raises unless the batch is one of pairs, `[2, N, T]`."""
    check_mask(caller, batch)
    if batch.mask.ndim < 3 or batch.mask.shape[0] != 2:
        raise ValueError(
            f"{caller} needs a preference batch [2, N, T] (chosen, rejected); mask has {batch.mask.shape}. "
            "What splits such a batch, epochs and accumulate_gradients, splits its pairs with axis=1"
        )


def complete_pairs(batch: Batch) -> Array:
    """Which pairs of a preference batch `[2, N, T]` have a real decision in both rows, `[N]` bool."""
    return batch.mask.any(-1).all(0)


def read(caller: str, batch: Batch, name: str) -> Array:
    """Field `name` of the batch: present, of the mask's shape, zeroed under the mask, and constant."""
    field = getattr(batch, name)
    if field is None:
        raise ValueError(f"{caller} needs batch.{name}, which is None")
    check_shape(caller, f"batch.{name}", field, batch.mask.shape, of="batch.mask")
    return jax.lax.stop_gradient(zero_where_masked(accumulate(field), batch.mask))


def read_row(caller: str, batch: Batch, name: str) -> Array:
    """Field `name` of the rows of the batch: present, of the mask's shape without T, zeroed for rows without a real
    decision, and constant."""
    field = getattr(batch, name)
    if field is None:
        raise ValueError(f"{caller} needs batch.{name}, which is None")
    check_shape(caller, f"batch.{name}", field, batch.mask.shape[:-1], of="batch.mask without T")
    return jax.lax.stop_gradient(zero_where_masked(field, batch.mask.any(-1)))


def read_label(caller: str, batch: Batch) -> Array:
    """`batch.label`: present, boolean, one per row; False for rows without a real decision."""
    label = read_row(caller, batch, "label")
    if label.dtype != jnp.bool_:
        raise TypeError(f"{caller}: batch.label must be boolean; its dtype is {label.dtype}")
    return label


def _check_bound(caller: str, outputs: Any, name: str) -> None:
    """Raises TypeError where a term was given parameters in place of what a model says."""
    if not (hasattr(outputs, "policy") and hasattr(outputs, "value")):
        raise TypeError(
            f"{caller}: {name} must be a model's po.Outputs; it is {described(outputs)}. "
            "A term becomes an objective of parameters by po.objective(model, term)"
        )


def check_policy(caller: str, outputs: Outputs, batch: Batch, *, name: str = "outputs") -> None:
    """Raises `ValueError` unless the outputs, an argument called `name`, have a policy that fits the batch."""
    _check_bound(caller, outputs, name)
    check_mask(caller, batch)
    if outputs.policy is None:
        raise ValueError(f"{caller} needs {name}.policy, which is None")
    if not hasattr(outputs.policy, "batch_shape"):
        raise TypeError(
            f"{caller}: {name}.policy must be a distribution, po.Categorical(logits=...) say; "
            f"it is {described(outputs.policy)}"
        )
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
    _check_bound(caller, outputs, "outputs")
    check_mask(caller, batch)
    if outputs.value is None:
        raise ValueError(f"{caller} needs outputs.value, which is None: the model has no critic")
    check_shape(caller, "outputs.value", outputs.value, batch.mask.shape, of="batch.mask")
    return zero_where_masked(accumulate(outputs.value), batch.mask)


def read_value_logits(caller: str, outputs: Outputs, batch: Batch) -> Array:
    """The logits of a critic that is a law, `[..., K]`, zeroed under the mask; raises as `read_value`."""
    _check_bound(caller, outputs, "outputs")
    check_mask(caller, batch)
    if outputs.value_logits is None:
        raise ValueError(f"{caller} needs outputs.value_logits, which is None: the critic is no law over values")
    leading = np.shape(outputs.value_logits)[:-1]
    if leading != batch.mask.shape:
        raise ValueError(
            f"{caller}: outputs.value_logits must have shape {batch.mask.shape}, that of batch.mask, and one more; "
            f"it has {np.shape(outputs.value_logits)}"
        )
    return zero_where_masked(accumulate(outputs.value_logits), batch.mask)


def read_log_prob(caller: str, outputs: Outputs, batch: Batch, *, name: str = "outputs") -> Array:
    """log π(action), 0 under the mask; the policy and the actions are both made harmless there first."""
    check_policy(caller, outputs, batch, name=name)
    if batch.action is None:
        raise ValueError(f"{caller} needs batch.action, which is None")
    if batch.action.shape[: batch.mask.ndim] != batch.mask.shape:
        raise ValueError(
            f"{caller}: batch.action must have leading shape {batch.mask.shape}, that of batch.mask; "
            f"it has shape {batch.action.shape}"
        )
    action = jax.lax.stop_gradient(zero_where_masked(batch.action, batch.mask))
    policy, mask = outputs.policy, batch.mask
    at_once = getattr(policy, "masked_log_prob", None)
    log_prob = policy.where(mask).log_prob(action) if at_once is None else at_once(action, mask)
    return zero_where_masked(log_prob, mask)
