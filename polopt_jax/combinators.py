"""How terms become objectives, and objectives other objectives: plain functions, no framework."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.masking import count
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Model, Objective, Params, Term


def objective(model: Model, term: Term) -> Objective:
    """Binds a model to a term: `(params, batch) -> term(model(params, batch.obs), batch)`, a loss to minimise.

    The model is evaluated once, however many terms a `weighted_sum` has.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> batch = po.Batch(obs=jnp.ones((3, 2)), action=jnp.zeros(3, int), mask=jnp.ones(3, bool), advantage=jnp.ones(3))
    >>> loss, metrics = objective(model, po.reinforce())(jnp.zeros((2, 4)), batch)
    >>> round(float(loss), 4)
    1.3863
    """

    def bound(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        return term(model(params, batch.obs), batch)

    return bound


Loss = Callable[..., tuple[Array, Metrics]]


def weighted_sum(**parts: tuple[ArrayLike, Loss]) -> Loss:
    """Σ_i w_i L_i of named pairs `name=(weight, part)`, where the parts are all terms or all objectives.

    The sum is of the same kind as its parts. Weights may be traced arrays or a schedule's value. Metrics of a part
    come under its name, `name/metric`, with its own *unweighted* value as `name/loss`.

    Raises ValueError if there is no part.

    >>> import polopt_jax as po
    >>> term = weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(-0.01, po.entropy()))
    """
    if not parts:
        raise ValueError("weighted_sum needs at least one part, name=(weight, term)")

    def combined(*args: Any) -> tuple[Array, Metrics]:
        total, metrics = None, {}
        for name, (weight, part) in parts.items():
            loss, its_metrics = part(*args)
            weighted = weight * loss
            total = weighted if total is None else total + weighted
            metrics[f"{name}/loss"] = loss
            metrics |= {f"{name}/{key}": value for key, value in its_metrics.items()}
        return total, metrics  # type: ignore[return-value]

    return combined


def split_rows(batch: Batch, parts: int, *, axis: int = 0) -> Batch:
    """`batch` with a new leading axis of `parts` equal shares of axis `axis`; `counts` is repeated, not split.

    Raises ValueError if the axis is not one before T or `parts` does not divide it.
    """
    shape = batch.mask.shape
    if not 0 <= axis < len(shape) - 1:
        raise ValueError(f"axis must be one of the axes before T of a batch [...]={shape}; it is {axis}")
    if shape[axis] % parts:
        raise ValueError(f"{parts} parts do not divide axis {axis} of the batch, of size {shape[axis]}")

    def split(x: Array) -> Array:
        x = x.reshape((*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :]))
        return jnp.moveaxis(x, axis, 0)

    rows = jax.tree.map(split, replace(batch, counts=None))
    if batch.counts is None:
        return rows
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (parts,)), batch.counts)
    return replace(rows, counts=repeated)


def accumulate_gradients(objective: Objective, num_microbatches: int, *, axis: int = 0) -> Objective:
    """The same objective, evaluated over `num_microbatches` shares of the batch one after the other.

    Value and gradient are those of the whole batch (up to rounding), also with ragged masks, because every share is
    divided by the counts of the *whole* batch; the mean of the shares' own means would not be. Memory is that of one
    share. Gradients are computed in the forward pass, so nothing is evaluated twice; second derivatives and
    forward mode are not available.

    Args:
      objective: one that is a sum over rows once divided by `batch.counts`: every term of this library, with metrics.
        One that couples rows of different shares (a batch-wide baseline, an outcome divergence) is not.
      num_microbatches: must divide the batch's axis `axis` (1 for preference batches `[2, N, T]`).

    Raises ValueError if it does not divide.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> whole = po.objective(model, po.reinforce())
    >>> batch = po.Batch(obs=jnp.ones((4, 1, 2)), action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool),
    ...                  advantage=jnp.ones((4, 1)))
    >>> round(float(accumulate_gradients(whole, 2)(jnp.zeros((2, 4)), batch)[0]), 4)
    1.3863
    """

    def shares(batch: Batch) -> Batch:
        if batch.counts is None:
            batch = replace(batch, counts=count(batch.mask))
        return split_rows(batch, num_microbatches, axis=axis)

    def add(f: Callable[[Batch], Any], batch: Batch) -> Any:
        rows = shares(batch)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, jax.tree.map(lambda x: x[0], rows))
        )
        return jax.lax.scan(lambda total, share: (jax.tree.map(jnp.add, total, f(share)), None), zeros, rows)[0]

    @jax.custom_vjp
    def accumulated(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        return add(lambda share: objective(params, share), batch)

    def forward(params: Params, batch: Batch) -> tuple[tuple[Array, Metrics], Params]:
        return add(lambda share: jax.value_and_grad(objective, has_aux=True)(params, share), batch)

    def backward(grads: Params, cotangent: tuple[Array, Metrics]) -> tuple[Params, None]:
        return jax.tree.map(lambda g: (g * cotangent[0]).astype(g.dtype), grads), None

    accumulated.defvjp(forward, backward)
    return accumulated
