"""How terms become objectives, and objectives other objectives: plain functions, no framework."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import (
    check_batch,
    check_loss,
    check_outputs,
    check_pair,
    check_scalar,
    check_takes,
    described,
)
from polopt_jax.masking import accumulate
from polopt_jax.ranges import Count, Nonnegative, check_range
from polopt_jax.reading import check_pairs, complete_pairs
from polopt_jax.reductions import counted_parts, token_mean
from polopt_jax.types import Array, ArrayLike, Batch, Counts, Metrics, Model, Objective, Outputs, Params, Term


def objective(model: Model, term: Term) -> Objective:
    """Binds a model to a term: `(params, batch) -> term(model(params, batch.obs), batch)`, a loss to minimise.

    The model is evaluated once, however many terms a `weighted_sum` has.

    Raises TypeError or ValueError, at the latest when it is traced: if model or term take other arguments, the model
    does not return `Outputs`, or the term anything but a scalar loss and a dict of metrics.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> batch = po.Batch(obs=jnp.ones((3, 2)), action=jnp.zeros(3, int), mask=jnp.ones(3, bool), advantage=jnp.ones(3))
    >>> loss, metrics = objective(model, po.reinforce())(jnp.zeros((2, 4)), batch)
    >>> round(float(loss), 4)
    1.3863
    """

    check_takes("objective", "model", model, "params", "obs")
    check_takes("objective", "term", term, "outputs", "batch")

    def bound(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        if isinstance(params, Outputs):
            raise TypeError(
                "an objective was given the outputs of a model, as a term is: is it among the terms of another one? "
                "Terms add up in weighted_sum, and so do objectives, but not the two together"
            )
        check_batch("objective", batch)
        outputs = check_outputs("objective", model(params, batch.obs))
        return check_loss("objective: a term", term(outputs, batch))

    return bound


Loss = Callable[..., tuple[Array, Metrics]]


def weighted_sum(**parts: tuple[ArrayLike, Loss]) -> Loss:
    """Σ_i w_i L_i of named pairs `name=(weight, part)`, where the parts are all terms or all objectives.

    The sum is of the same kind as its parts. Weights may be traced arrays or a schedule's value. Metrics of a part
    come under its name, `name/metric`, with its own *unweighted* value as `name/loss`.

    Raises ValueError if there is no part, or where a weight or a loss is no scalar; TypeError if a part is no pair of
    a weight and a function, or returns anything but a loss and a dict of metrics.

    >>> import polopt_jax as po
    >>> term = weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(0.01, po.entropy_bonus()))
    """
    if not parts:
        raise ValueError("weighted_sum needs at least one part, name=(weight, term)")
    for name, pair in parts.items():
        _check_part(name, pair)

    def combined(*args: Any) -> tuple[Array, Metrics]:
        total, metrics = None, {}
        for name, (weight, part) in parts.items():
            loss, its_metrics = check_loss(f"weighted_sum: {name}", part(*args))
            weighted = check_scalar(f"weighted_sum: the weight of {name}", weight) * loss
            total = weighted if total is None else total + weighted
            if "loss" in its_metrics:
                raise ValueError(f"weighted_sum: {name} has a metric 'loss', which is the name of its own value")
            metrics |= {f"{name}/{key}": value for key, value in {"loss": loss, **its_metrics}.items()}
        return total, metrics  # type: ignore[return-value]

    return combined


def _check_part(name: str, pair: Any) -> None:
    """Raises TypeError unless a part is (weight, function of two arguments)."""
    weight, part = check_pair("weighted_sum", name, pair, "a pair (weight, term)")
    if callable(weight):
        order = "they are swapped" if not callable(part) else "a schedule must be called"
        raise TypeError(f"weighted_sum: {name} must be (weight, term); its weight is {described(weight)}: {order}")
    check_takes("weighted_sum", name, part, "outputs", "batch")


def on_chosen(term: Term) -> Term:
    """The same term, over the chosen rows of a preference batch alone.

    The rejected rows, and chosen ones without a rejected one, are masked out before the term sees them, so that its
    reduction counts what is left. With `negative_log_likelihood` it is the supervised part of CPO, ORPO and SLiC.

    Args:
      term: any term over decisions or rows, `(outputs, batch) -> (loss, metrics)`.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `mask` and what the term reads; metrics are
      the term's.

    Raises TypeError if the term takes other arguments, and at trace time ValueError if the mask is not [2, N, T].

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=None, action=jnp.array([[[0]], [[1]]]), mask=jnp.ones((2, 1, 1), bool))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[[[0.25, 0.75]]], [[[0.5, 0.5]]]]))))
    >>> round(float(jnp.exp(-on_chosen(po.negative_log_likelihood())(outputs, batch)[0])), 6)
    0.25
    """
    check_takes("on_chosen", "term", term, "outputs", "batch")

    def chosen(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_pairs("on_chosen", batch)
        first = (jnp.arange(2) == 0).reshape(2, *[1] * (batch.mask.ndim - 1))
        mask = batch.mask & complete_pairs(batch)[None, ..., None] & first
        whole = batch.counts
        if whole is not None:
            none = jnp.zeros_like(whole.pairs)
            whole = Counts(decisions=whole.chosen, rows=whole.pairs, pairs=none, chosen=none)
        return check_loss("on_chosen", term(outputs, replace(batch, mask=mask, counts=whole)))

    return chosen


Coupled = TypeVar("Coupled", bound=Callable[..., Any])


def couples_rows(part: Coupled) -> Coupled:
    """Marks a term or a divergence as one that couples rows: its value is no sum over rows, divided by a count.

    A batch-wide baseline, a sort over the batch, a divergence between outcome laws: evaluated share by share under
    `accumulate_gradients` such a part would be silently wrong. Marked, it raises there instead, by name. Works as a
    decorator of any function whose last argument is the batch, by position or as `batch=`.

    >>> import polopt_jax as po
    >>> @couples_rows
    ... def centred(outputs, batch):
    ...     value = outputs.value - outputs.value.mean()
    ...     return po.token_mean(value**2, batch), {}
    >>> centred(po.Outputs(policy=None, value=jnp.array([1.0, 3.0])),
    ...         po.Batch(obs=None, action=None, mask=jnp.ones(2, bool)))[0].tolist()
    1.0
    """

    @functools.wraps(part)
    def guarded(*args: Any, **named: Any) -> Any:
        batch = named["batch"] if "batch" in named else args[-1]
        if batch.counts is not None:
            name = getattr(part, "__name__", repr(part))
            raise ValueError(f"{name} couples rows: it cannot be evaluated on shares of a batch (accumulate_gradients)")
        return part(*args, **named)

    return guarded  # type: ignore[return-value]


def lagrangian(term: Term, *, multiplier: ArrayLike, bound: ArrayLike) -> Term:
    """A term held below a bound by a multiplier that learns itself: the Lagrangian of the constraint D <= bound.

        L(θ, α) = sg(α) D(θ) + α (bound - sg(D(θ))),     sg: no gradient goes through

    A dual variable is a hyperparameter with a gradient: keep it among the parameters, descend on both together, and α
    rises while D is above the bound and falls while it is below. It must stay nonnegative, so let it be an exp or a
    softplus of a parameter:

        def loss(params, batch):
            held = po.lagrangian(po.kl_to_reference(model, old_params, divergence=po.action_kl),
                                 multiplier=jnp.exp(params["log_alpha"]), bound=0.01)
            term = po.weighted_sum(policy=(1.0, po.surrogate()), kl=(1.0, held))
            return po.objective(model, term)(params["model"], batch)

    The value is α · bound; it says nothing of how the policy does. This is how MPO and V-MPO bound their M-step.

    Args:
      term: any term, D.
      multiplier: α >= 0, differentiated. May be traced.
      bound: where D is to stay. May be traced.

    Returns:
      A term. Reads `mask` and what the term reads. Metrics: `constrained`, the value of D; and those of the term.

    Raises (at trace time): as the term; ValueError if multiplier or bound is no scalar.

    Source: Abdolmaleki et al. 2018, "Relative entropy regularized policy iteration"; Song et al. 2020 (V-MPO),
    equation 10.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2))
    >>> outputs = po.Outputs(policy=None, value=jnp.zeros(2))
    >>> held = lambda alpha: lagrangian(po.value_loss(), multiplier=alpha, bound=0.2)(outputs, batch)[0]
    >>> round(float(held(2.0)), 4), round(float(jax.grad(held)(2.0)), 4)             # D = 0.5 is above its bound
    (0.4, -0.3)
    """
    check_takes("lagrangian", "term", term, "outputs", "batch")
    for name, x in {"multiplier": multiplier, "bound": bound}.items():
        check_scalar(f"lagrangian: {name}", x)
    check_range("lagrangian", Nonnegative, multiplier=multiplier)

    def held(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value, metrics = check_loss("lagrangian: the term", term(outputs, batch))
        share = token_mean(jnp.ones(batch.mask.shape), batch)  # 1, or this part of the batch under accumulate_gradients
        dual = multiplier * (bound * share - jax.lax.stop_gradient(value))
        return jax.lax.stop_gradient(multiplier) * value + dual, {"constrained": value, **metrics}

    return held


def accumulate_gradients(objective: Objective, num_microbatches: int, *, axis: int = 0) -> Objective:
    """The same objective, evaluated over `num_microbatches` shares of the batch one after the other.

    Value and gradient are those of the whole batch (up to rounding), also with ragged masks, because every share is
    divided by the counts of the *whole* batch; the mean of the shares' own means would not be. Memory is that of one
    share. Gradients are computed in the forward pass, so nothing is evaluated twice; second derivatives and
    forward mode are not available. Gradients are added up in at least float32, and are in the dtype of their parameters
    at the end. What the objective closes over has its gradient as well, such as the multiplier of a `lagrangian`.

    Args:
      objective: one that is a sum over rows once divided by `batch.counts`: every term of this library, with metrics,
        unless its docstring says that it couples rows.
      num_microbatches: must divide the batch's axis `axis` (1 for preference batches `[2, N, T]`).

    Raises TypeError if that is no function of (params, batch), ValueError if the number is below 1 or does not divide,
    and by name if a part of the objective is marked with
    `couples_rows`.
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

    check_takes("accumulate_gradients", "objective", objective, "params", "batch")
    check_range("accumulate_gradients", Count, num_microbatches=num_microbatches)

    def first(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x[0], counted_parts(batch, num_microbatches, axis=axis))

    def accumulated(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        share = jax.eval_shape(first, batch)
        hoisted, closed_over = jax.closure_convert(objective, params, share)
        return _accumulated(hoisted, num_microbatches, axis)(params, tuple(closed_over), batch)

    return accumulated


def _accumulated(objective: Callable[..., Any], parts: int, axis: int) -> Callable[..., tuple[Array, Metrics]]:
    """Of `(params, batch, *closed over)`: a function of `(params, closed over, batch)`, with the gradient of both."""

    def add(f: Callable[[Batch], Any], batch: Batch) -> Any:
        rows = counted_parts(batch, parts, axis=axis)
        like = jax.eval_shape(f, jax.tree.map(lambda x: x[0], rows))
        zeros = jax.tree.map(lambda x: _wide(jnp.zeros(x.shape, x.dtype)), like)
        add_share = lambda total, share: (jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, f(share)), None)  # noqa: E731
        return jax.tree.map(lambda t, x: t.astype(x.dtype), jax.lax.scan(add_share, zeros, rows)[0], like)

    @jax.custom_vjp
    def accumulated(params: Params, closed_over: tuple[Array, ...], batch: Batch) -> tuple[Array, Metrics]:
        return add(lambda share: objective(params, share, *closed_over), batch)

    def forward(params: Params, closed_over: tuple[Array, ...], batch: Batch) -> tuple[tuple[Array, Metrics], Any]:
        def of(params: Params, closed_over: tuple[Array, ...], share: Batch) -> tuple[Array, Metrics]:
            return objective(params, share, *closed_over)

        return add(lambda share: jax.value_and_grad(of, (0, 1), has_aux=True)(params, closed_over, share), batch)

    def backward(grads: Any, cotangent: tuple[Array, Metrics]) -> tuple[Params, tuple[Array, ...], None]:
        return *jax.tree.map(lambda g: (g * cotangent[0]).astype(g.dtype), grads), None

    accumulated.defvjp(forward, backward)
    return accumulated


def _wide(x: Array) -> Array:
    """What a sum over shares is taken in: in bfloat16 it would stop growing. Counts stay what they are."""
    return accumulate(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
