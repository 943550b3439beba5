"""`gradient_in_forward`: the gradient of a lazy head taken while its logits are there, for terms that allow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from polopt_jax.distributions._lazy_categorical import LazyCategorical, from_chunks, in_chunks
from polopt_jax.types import Array, Batch, Metrics, Outputs, Term, record

AGREEMENT = 1e-4
"""How far a decision's slope may depend on the other decisions, over the largest slope, by rounding alone."""


def gradient_in_forward(term: Term) -> Term:
    """The same term, which takes the gradient of a `LazyCategorical` while its logits are there, not computed again.

    A lazy head multiplies by its unembedding four times, once of which to have the logits again for the gradient.
    Where a term is a sum over decisions, its slope at a decision is known as soon as that decision's log-probability
    is, so that the logits of a chunk can be used up at once: three multiplications, and the memory is that of a lazy
    head. For PPO, GRPO, DAPO, CISPO, REINFORCE and the other terms whose ratio is one decision's; for sequence ratios
    (`gspo`) and margins (`dpo`) take the lazy head as it is.

    With any other policy it is the term itself.

    Args:
      term: one that reads nothing of the policy but log π(action), and in which no decision's slope depends on another
        decision's log-probability. Of the model's other outputs, such as the value, it may read what it likes.

    Returns:
      A term. Reads what the term reads. Metrics: the term's. What the term closes over has its gradient as well, such
      as the multiplier of a `lagrangian`. Forward mode and second derivatives are not available
      where the policy is lazy.

    Raises (when it is traced) ValueError if the term reads anything else of the policy, say its entropy. That a slope
    does depend on other decisions is seen when it runs: the loss and every gradient are then NaN, and no number that
    is wrong. (Up to 128 decisions are computed at once, in the usual way, and are right whatever the term.)

    Source: the idea is that of Liger's fused linear losses (Hsu et al. 2024, arXiv 2410.10989).

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=None, action=jnp.zeros((4, 2), int), mask=jnp.ones((4, 2), bool),
    ...                  advantage=jnp.ones((4, 2)))
    >>> policy = po.LazyCategorical(hidden=jnp.ones((4, 2, 3)), unembedding=jnp.zeros((3, 100)))
    >>> loss, _ = po.gradient_in_forward(po.reinforce())(po.Outputs(policy=policy), batch)
    >>> round(float(loss), 4)
    4.6052
    """

    def known(log_prob: Array, others: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        return term(replace(others, policy=_Known(log_probs=log_prob)), batch)

    def fused(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        policy = outputs.policy
        shapes = [getattr(x, "shape", None) for x in (batch.mask, batch.action)]
        if not isinstance(policy, LazyCategorical) or shapes != 2 * [policy.batch_shape]:
            return term(outputs, batch)  # which says what is wrong, if something is
        policy, others = policy.where(batch.mask), replace(outputs, policy=None)
        log_prob = jax.eval_shape(policy.log_prob, batch.action)
        hoisted, closed_over = jax.closure_convert(known, log_prob, others, batch)
        return _at_once(hoisted)(policy, others, tuple(closed_over), batch)

    return fused


def _at_once(known: Callable[..., tuple[Array, Metrics]]) -> Callable[..., tuple[Array, Metrics]]:
    """Of `(log π(action), others, batch, *closed over)`: of `(policy, others, closed over, batch)`, with gradients."""

    @jax.custom_vjp
    def at_once(policy: LazyCategorical, others: Outputs, closed_over: Any, batch: Batch) -> tuple[Array, Metrics]:
        return known(policy.log_prob(batch.action), others, batch, *closed_over)

    def forward(policy: LazyCategorical, others: Outputs, closed_over: Any, batch: Batch) -> tuple[Any, Any]:
        def of(log_prob: Array, others: Outputs, closed_over: Any) -> tuple[Array, Metrics]:
            return known(log_prob, others, batch, *closed_over)

        log_prob, slope, gradient = _used_up(
            policy, lambda x: jax.grad(lambda y: of(y, others, closed_over)[0])(x), batch
        )
        result, (true_slope, *beside) = jax.value_and_grad(of, (0, 1, 2), has_aux=True)(log_prob, others, closed_over)
        apart = jnp.max(jnp.abs(slope - true_slope), initial=0) > AGREEMENT * jnp.max(jnp.abs(true_slope), initial=0)
        poison = jnp.where(apart, jnp.nan, 0).astype(result[0].dtype)
        gradients = jax.tree.map(lambda g: g + poison.astype(g.dtype), (gradient, *beside))
        return (result[0] + poison, result[1]), gradients

    def backward(gradients: Any, cotangent: tuple[Array, Metrics]) -> tuple[Any, ...]:
        return *jax.tree.map(lambda g: (g * cotangent[0]).astype(g.dtype), gradients), None

    at_once.defvjp(forward, backward)
    return at_once


def _used_up(policy: LazyCategorical, slope_at: Any, batch: Batch) -> tuple[Array, Array, LazyCategorical]:
    """log π(action) and the term's slope at it, both `[...]`, and the gradient, a chunk of decisions at a time.

    The slope of a chunk is taken where all other decisions have the log-probability of a uniform policy.
    """
    leading = policy.batch_shape
    size = batch.mask.size
    places = in_chunks(jnp.arange(size).reshape(leading), len(leading))
    real = size > jnp.arange(places.size).reshape(places.shape[::-1]).T
    elsewhere = jnp.full(leading, -jnp.log(float(policy.num_actions)))

    def chunk(total: Array, part: Any) -> tuple[Array, tuple[Array, Array, Array]]:
        hidden, action, place, here = part
        head = LazyCategorical(hidden=hidden, unembedding=policy.unembedding)
        log_prob, pull = jax.vjp(lambda x: x.head(x.hidden).log_prob(action), head)
        at = elsewhere.astype(log_prob.dtype).ravel().at[place].set(log_prob)
        slope = jnp.where(here, slope_at(at.reshape(leading)).ravel()[place], 0)
        (of_head,) = pull(slope)
        return total + of_head.unembedding.astype(total.dtype), (log_prob, slope, of_head.hidden)

    parts = (*(in_chunks(x, len(leading)) for x in (policy.hidden, batch.action)), places, real)
    dtype = policy.unembedding.dtype
    wide = jnp.zeros(policy.unembedding.shape, jnp.promote_types(dtype, jnp.float32))  # in bfloat16 a sum stops growing
    total, found = jax.lax.scan(chunk, wide, parts)
    log_prob, slope, of_hidden = (from_chunks(x, leading) for x in found)
    return log_prob, slope, LazyCategorical(hidden=of_hidden, unembedding=total.astype(dtype))


@record
class _Known:
    """A policy of which nothing is known but log π(action), `[...]`."""

    log_probs: Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.log_probs.shape

    def masked_log_prob(self, action: Array, mask: Array) -> Array:
        del action
        return jnp.where(mask, self.log_probs, 0)

    def log_prob(self, action: Array) -> Array:
        del action
        return self.log_probs

    def where(self, mask: Array) -> _Known:
        return _Known(log_probs=jnp.where(mask, self.log_probs, 0))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ValueError(
            f"gradient_in_forward: the term reads {name} of the policy, and may read log π(action) alone. Add up the "
            "others beside it, with weighted_sum"
        )
