"""What a reference's own rewarded rollouts say of what optimization will do, before anything is trained."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.fields import with_fields
from polopt_jax.masking import check_shape
from polopt_jax.outcomes._intervals import NORMAL_95
from polopt_jax.types import Array, ArrayLike, record


@with_fields
@record
class Forecast:
    """The share of side effects among rewarded rollouts of the reference; scalars `[...]`, one per world."""

    share: Array
    """P(side effect | success) of the reference; NaN if none of its rollouts succeeded."""
    low: Array
    """Lower end of the 95% interval, `wilson`'s; 0 if none succeeded."""
    high: Array
    """Upper end; 1 if none succeeded."""
    successes: Array
    """Rewarded rollouts."""
    rollouts: Array
    """All rollouts."""
    blind_below: Array
    """A route to success that the reference takes with less than this probability, 1 - 0.05^(1/n) or about 3/n, is
    missing from n rollouts more often than one time in twenty: of it the forecast knows nothing."""


def forecast(success: ArrayLike, side_effect: ArrayLike) -> Forecast:
    """Forecast of side effects under optimization, from rollouts of the reference alone.

        P(z=1 | s=1)  =  what `pump` gives at J = 1: the fixed point of KL-anchored learning with a binary reward

    Args:
      success, side_effect: `[..., n]` bool, of n rollouts of each world.

    Blind to routes that the n rollouts do not contain (`blind_below`), and of the fixed point only: learning that is
    faster on the frequent route ends above it, learning that holds outcomes below. Raises ValueError if the shapes
    differ, TypeError unless both are boolean. Source of the interval: Wilson 1927.

    >>> from polopt_jax import outcomes
    >>> found = outcomes.forecast(jnp.array([True, True, True, False]), jnp.array([True, True, False, False]))
    >>> round(float(found.share), 2), round(float(found.low), 2), round(float(found.high), 2)
    (0.67, 0.21, 0.94)
    """
    success, side_effect = jnp.asarray(success), jnp.asarray(side_effect)
    if not success.ndim:
        raise ValueError("forecast: success must be of rollouts, [..., n]; it is a single number")
    check_shape("forecast", "side_effect", side_effect, success.shape, of="success")
    for name, x in (("success", success), ("side_effect", side_effect)):
        if x.dtype != jnp.bool_:
            raise TypeError(f"forecast: {name} must be boolean; its dtype is {x.dtype}")
    rollouts = jnp.asarray(success.shape[-1], jnp.float32)
    n = success.sum(-1).astype(jnp.float32)
    hits = (success & side_effect).sum(-1).astype(jnp.float32)
    low, high = wilson(hits, n)
    return Forecast(
        share=jnp.where(n > 0, hits / jnp.maximum(n, 1), jnp.nan),
        low=low,
        high=high,
        successes=n,
        rollouts=jnp.broadcast_to(rollouts, n.shape),
        blind_below=jnp.broadcast_to(-jnp.expm1(jnp.log(0.05) / rollouts), n.shape),
    )


def wilson(hits: Array, number: Array) -> tuple[Array, Array]:
    """95% interval of a rate from `hits` in `number` trials, `[...]` each; (0, 1) without a trial. Source: Wilson 1927.

    In the mean over rates it holds the truth in 95% of cases or more; at a rate near .18/n, where one hit puts its
    lower end above the truth, in 84%, whatever n.

    >>> [round(float(end), 3) for end in wilson(jnp.array(0.0), jnp.array(20.0))]
    [0.0, 0.161]
    """
    z2, n = jnp.square(NORMAL_95), jnp.maximum(number, 1)
    rate = hits / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 * jnp.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    some = number > 0
    low, high = jnp.where(hits == 0, 0, centre - half), jnp.where(hits == number, 1, centre + half)  # not to rounding
    return jnp.where(some, jnp.clip(low, 0, 1), 0), jnp.where(some, jnp.clip(high, 0, 1), 1)
