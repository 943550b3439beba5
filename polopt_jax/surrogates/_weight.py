"""Weights of imitation, from what an action was worth; those that add up to 1 take a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, check_shape, masked_mean, masked_sum
from polopt_jax.ranges import Positive, Unit, check_range
from polopt_jax.surrogates._ratio import LOG_RATIO_LIMIT
from polopt_jax.types import Array, ArrayLike


def exponential_weight(advantage: Array, *, beta: ArrayLike, cap: ArrayLike) -> Array:
    """min(exp(A/β), cap), and at most e²⁰; the exponential itself never overflows.

    >>> exponential_weight(jnp.array([-jnp.inf, 0.0, 1e9]), beta=1.0, cap=5.0).round(4).tolist()
    [0.0, 1.0, 5.0]
    """
    return jnp.minimum(jnp.exp(jnp.minimum(advantage / beta, LOG_RATIO_LIMIT)), cap)


def improved_weights(advantage: Array, mask: Array, *, temperature: Positive, axis: int | None = None) -> Array:
    """The E-step: w ∝ exp(A/η) over the True entries along `axis` (all axes if None), where they add up to 1.

    Of all weights within some KL of uniform they have the greatest Σ w A; η is the multiplier of that bound.

    Args:
      advantage: `[...]`; Q-values do as well, since a constant makes no difference.
      mask: `[...]` bool; the weight is 0 where it is False.
      temperature: η. May be traced.
      axis: along which the weights add up to 1.

    Returns:
      `[...]`, a constant. Raises ValueError if the shapes differ or temperature is not above 0 (where it is concrete).

    >>> value, mask = jnp.log(jnp.array([1.0, 3.0, 9.0])), jnp.array([True, True, False])
    >>> [round(float(w), 4) for w in improved_weights(value, mask, temperature=1.0)]
    [0.25, 0.75, 0.0]
    """
    check_range("improved_weights", Positive, temperature=temperature)
    check_shape("improved_weights", "advantage", advantage, mask.shape, of="mask")
    scaled = jnp.where(mask, accumulate(advantage) / temperature, -jnp.inf)
    return jax.lax.stop_gradient(jnp.where(mask, jax.nn.softmax(scaled, axis=axis), 0))


def temperature_loss(
    advantage: Array, mask: Array, *, temperature: Positive, epsilon: Positive, axis: int | None = None
) -> Array:
    """The dual of the E-step, minimised in the temperature: η ε + η log mean exp(A/η) over the True entries.

    Its slope is ε - KL(w ‖ uniform) of the weights that `improved_weights` makes with η: at the least value the KL is
    ε. It is convex in η, and constant in the advantages.

    Args:
      advantage, mask, axis: as `improved_weights`.
      temperature: η, differentiated. May be traced.
      epsilon: ε, the bound on the KL. May be traced.

    Returns:
      The shape of `mask` without `axis`; 0 where there is no True entry along it. Raises as `improved_weights`.

    >>> loss = lambda eta: temperature_loss(jnp.array([0.0, 1.0]), jnp.ones(2, bool), temperature=eta, epsilon=0.1)
    >>> round(float(loss(1.0)), 4), round(float(jax.grad(loss)(1.0)), 4)
    (0.7201, -0.0109)
    """
    check_range("temperature_loss", Positive, temperature=temperature, epsilon=epsilon)
    check_shape("temperature_loss", "advantage", advantage, mask.shape, of="mask")
    advantage = jax.lax.stop_gradient(accumulate(advantage))
    best = jnp.max(jnp.where(mask, advantage, -jnp.inf), axis=axis, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, 0)
    mean = masked_mean(jnp.exp(jnp.where(mask, advantage - best, 0) / temperature), mask, axis=axis)
    some = mask.any(axis)
    dual = temperature * (epsilon + jnp.log(jnp.where(some, mean, 1))) + jnp.squeeze(best, axis)
    return jnp.where(some, dual, 0)


def weight_kl(weight: Array, mask: Array, *, axis: int | None = None) -> Array:
    """KL(w ‖ uniform over the True entries) along an axis: what the temperature holds at ε.

    >>> float(weight_kl(jnp.array([0.5, 0.5, 0.0]), jnp.array([True, True, False])))
    0.0
    """
    number = jnp.maximum(mask.sum(axis), 1).astype(weight.dtype)
    return masked_sum(jax.scipy.special.xlogy(weight, weight), mask, axis=axis) + jnp.log(number)


def top_entries(x: Array, mask: Array, fraction: Unit) -> Array:
    """The largest `fraction` of the True entries, at least one, ties included: a mask `[...]`.

    >>> top_entries(jnp.array([3.0, 1.0, 2.0, 9.0]), jnp.array([True, True, True, False]), 0.7).tolist()
    [True, False, True, False]
    """
    fraction = jnp.asarray(fraction)
    total = mask.sum().astype(fraction.dtype)
    number = jnp.floor(fraction * total * (1 + 2**-22))  # 0.53 of 100 are 53, whatever a product is rounded to
    number = jnp.clip(number.astype(jnp.int32), 1, mask.size)
    least = jnp.sort(jnp.where(mask, x, -jnp.inf).reshape(-1))[mask.size - number]
    return mask & (x >= least)
