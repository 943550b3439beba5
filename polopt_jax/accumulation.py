"""Accumulation: a loss over shares of a batch, one after the other, that equals the loss of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_loss, check_takes
from polopt_jax.reading import check_mask
from polopt_jax.reductions import count
from polopt_jax.rows import split_rows
from polopt_jax.types import Array, Batch, Metrics, Objective, Outputs, Params, Term


def _shares(batch: Batch, number: int, axis: int) -> Batch:
    """The batch in equal shares, each with the counts of the whole."""
    if batch.counts is None:
        batch = replace(batch, counts=count(batch.mask))
    return split_rows(batch, number, axis=axis)


def _add_up(f: Callable[[Batch], tuple[Any, Any]], shares: Batch) -> tuple[Any, Any]:
    """`f(share) -> (sum, own)` of every share: the sums added up, and each one's own stacked."""
    first = jax.tree.map(lambda x: x[0], shares)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, first)[0])

    def body(total: Any, share: Batch) -> tuple[Any, Any]:
        added, own = f(share)
        return jax.tree.map(jnp.add, total, added), own

    return jax.lax.scan(body, zeros, shares)


def _times(gradient: Any, cotangent: Array) -> Any:
    return jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), gradient)


def accumulate_gradients(objective: Objective, num_microbatches: int, *, axis: int = 0) -> Objective:
    """The same objective, evaluated over `num_microbatches` shares of the batch one after the other.

    Value and gradient are those of the whole batch (up to rounding), also with ragged masks, because every share is
    divided by the counts of the *whole* batch; the mean of the shares' own means would not be. Memory is that of one
    share. Gradients are computed in the forward pass, so nothing is evaluated twice; second derivatives and
    forward mode are not available.

    Args:
      objective: one that is a sum over rows once divided by `batch.counts`: every term of this library, with metrics,
        unless its docstring says that it couples rows.
      num_microbatches: must divide the batch's axis `axis` (1 for preference batches `[2, N, T]`).

    Raises ValueError if it does not divide, and by name if a part of the objective is marked with `couples_rows`.
    What cannot be caught is a term of your own that couples rows and is not marked, or one that takes its own means
    (`jnp.mean`) instead of a reduction's: that gives each share's numbers, added up.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> whole = po.objective(model, po.reinforce())
    >>> batch = po.Batch(obs=jnp.ones((4, 1, 2)), action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool),
    ...                  advantage=jnp.ones((4, 1)))
    >>> round(float(accumulate_gradients(whole, 2)(jnp.zeros((2, 4)), batch)[0]), 4)
    1.3863
    """

    def add(f: Callable[[Batch], Any], batch: Batch) -> Any:
        return _add_up(lambda share: (f(share), None), _shares(batch, num_microbatches, axis))[0]

    @jax.custom_vjp
    def accumulated(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        return add(lambda share: objective(params, share), batch)

    def forward(params: Params, batch: Batch) -> tuple[tuple[Array, Metrics], Params]:
        return add(lambda share: jax.value_and_grad(objective, has_aux=True)(params, share), batch)

    def backward(grads: Params, cotangent: tuple[Array, Metrics]) -> tuple[Params, None]:
        return _times(grads, cotangent[0]), None

    accumulated.defvjp(forward, backward)
    return accumulated


def accumulate_output_gradients(term: Term, num_shares: int, *, axis: int = 0) -> Term:
    """The same term, evaluated over shares of its rows one after the other, each with its gradient at once.

    What `accumulate_gradients` does to a whole model, this does to what comes after it: the model is evaluated once,
    and the term with its backward pass share by share, in the forward pass. What the term stores for its gradient is
    that of one share. Value and gradient are those of the whole batch (up to rounding). With a `LazyCategorical`,
    which stores next to nothing by itself, it has not been found faster (`benchmarks.vocabulary`).

    Args:
      term: one that is a sum over rows once divided by `batch.counts`: every term of this library that does not say
        that it couples rows.
      num_shares: must divide the batch's axis `axis` (1 for preference batches `[2, N, T]`).

    Returns:
      A term. Reads what the term reads. Leaves of the outputs with the leading shape of the mask are cut as rows, the
      others are shared by all. Metrics: the term's. Second derivatives and forward mode are not available.

    Raises TypeError if the term takes other arguments; at trace time ValueError if the shares do not divide the rows,
    and by name if a part of the term is marked with `couples_rows`.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=None, action=jnp.zeros((4, 2), int), mask=jnp.ones((4, 2), bool),
    ...                  advantage=jnp.ones((4, 2)))
    >>> policy = po.LazyCategorical(hidden=jnp.ones((4, 2, 3)), unembedding=jnp.zeros((3, 100)))
    >>> loss, _ = accumulate_output_gradients(po.reinforce(), 2)(po.Outputs(policy=policy), batch)
    >>> round(float(loss), 4)
    4.6052
    """
    check_takes("accumulate_output_gradients", "term", term, "outputs", "batch")

    def whole(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_mask("accumulate_output_gradients", batch)
        leaves, tree = jax.tree.flatten(outputs)
        leading = batch.mask.shape
        is_row = [x.shape[: len(leading)] == leading for x in leaves]

        def evaluate(shared: list[Array], rows: list[Array], share: Batch) -> tuple[Array, Metrics]:
            of_rows, of_all = iter(rows), iter(shared)
            joined = tree.unflatten([next(of_rows if cut else of_all) for cut in is_row])
            return check_loss("accumulate_output_gradients: the term", term(joined, share))

        rows, shared = ([x for x, cut in zip(leaves, is_row, strict=True) if cut is kind] for kind in (True, False))
        return _with_gradients_at_once(evaluate, num_shares, axis)(shared, rows, batch)

    return whole


def _with_gradients_at_once(evaluate: Callable[..., tuple[Array, Metrics]], num_shares: int, axis: int) -> Any:
    """`evaluate(shared, rows, batch)` share by share; the rows are cut as those of the batch."""

    def over_shares(f: Callable[[Any, Batch], tuple[Any, Any]], rows: Any, batch: Batch) -> tuple[Any, Any]:
        shares = _shares(replace(batch, obs=(batch.obs, rows)), num_shares, axis)
        return _add_up(lambda share: f(share.obs[1], replace(share, obs=share.obs[0])), shares)

    @jax.custom_vjp
    def accumulated(shared: Any, rows: Any, batch: Batch) -> tuple[Array, Metrics]:
        return over_shares(lambda rows, share: (evaluate(shared, rows, share), None), rows, batch)[0]

    def forward(shared: Any, rows: Any, batch: Batch) -> tuple[tuple[Array, Metrics], tuple[Any, Any]]:
        def one(rows: Any, share: Batch) -> tuple[Any, Any]:
            result, (of_shared, of_rows) = jax.value_and_grad(evaluate, (0, 1), has_aux=True)(shared, rows, share)
            return (result, of_shared), of_rows

        (result, of_shared), of_rows = over_shares(one, rows, batch)
        return result, (
            of_shared,
            jax.tree.map(lambda g, x: jnp.moveaxis(g, 0, axis + 1).reshape(x.shape), of_rows, rows),
        )

    def backward(grads: tuple[Any, Any], cotangent: tuple[Array, Metrics]) -> tuple[Any, Any, None]:
        return _times(grads[0], cotangent[0]), _times(grads[1], cotangent[0]), None

    accumulated.defvjp(forward, backward)
    return accumulated
