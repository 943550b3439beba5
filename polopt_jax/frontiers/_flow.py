"""The odds law of one decision: what the policy gradient does to equally rewarded outcomes, in closed form.

Beside `pump` and `ipf`, a third row that needs no training. The pump keeps the odds
among successes, as the natural gradient does; the gradient flow raises them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp

from polopt_jax.ranges import Unit, check_range
from polopt_jax.types import Array

HALVINGS = 200


def gradient_flow(law: Array, rewarded: Array, success: Unit) -> Array:
    """The law that the policy gradient of a one-step softmax policy has at a required success, `[K]`.

    With θ the logits, θ = log p at first and J the success,

        dθ_a/dt = p_a (1 - J) of a rewarded outcome a,    dθ_f/dt = -p_f J of another f

    so exp(-θ_a) falls by the same amount for all that are rewarded, exp(-θ_f) rises by the same amount for all others,
    and Σ θ stays: one law for each success. The log-odds of two rewarded outcomes grow at the rate (p_a - p_b)(1 - J):
    the majority is amplified and the minority squeezed out. The natural gradient keeps the odds (`outcomes.pump`).

    Holds of small steps, one decision, equal rewards and a logit for each outcome; `docs/findings.md` says where it
    stops. Standardised advantages change the speed and not the law. Use float64.

    Args:
      law: the reference's, `[K]`, all positive.
      rewarded: `[K]` bool: which outcomes are paid, all alike; some, not all.
      success: J, at least that of the law.

    Raises:
      ValueError: `law` or `rewarded` is no vector, they differ in shape, `law` is not positive, all or none are
        rewarded, or `success` is outside [0, 1] or below that of the law. What is traced cannot be looked at.

    >>> at = gradient_flow(jnp.array([0.9, 0.08, 0.02]), jnp.array([False, True, True]), 0.9)
    >>> round(float(at[1] + at[2]), 3), round(float(at[1] / at[2]), 1)        # from odds of 4
    (0.9, 27.2)
    """
    check_range("gradient_flow", Unit, success=success)
    law, rewarded = jnp.asarray(law), jnp.asarray(rewarded, bool)
    _check(law, rewarded, success)
    # exp(-θ), up to a factor
    inverse = law.sum() / law
    least = jnp.min(jnp.where(rewarded, inverse, jnp.inf))

    def weights_at(time: Array) -> Array:
        """exp θ when the largest rewarded outcome has gained `time` nats."""
        won = jnp.where(rewarded, least * jnp.exp(-time) + (inverse - least), inverse)
        gained = jnp.log(inverse / won).sum()
        lost = _equal_rise(jnp.where(rewarded, jnp.inf, inverse), gained)
        return jnp.where(rewarded, 1 / won, 1 / (inverse + lost))

    def short(time: Array) -> Array:
        weights = weights_at(time)
        return jnp.where(rewarded, weights, 0).sum() < success * weights.sum()

    weights = weights_at(_bisect(short, jnp.zeros((), law.dtype), jnp.full((), 200.0, law.dtype)))
    return weights / weights.sum()


def _check(law: Array, rewarded: Array, success: Unit) -> None:
    if law.ndim != 1 or law.shape != rewarded.shape:
        raise ValueError(f"gradient_flow: law and rewarded must be [K]; they are {law.shape} and {rewarded.shape}")
    if any(isinstance(x, jax.core.Tracer) for x in (law, rewarded, success)):
        return
    if not bool((law > 0).all()):
        raise ValueError("gradient_flow: law must be positive; put a floor under its zeros")
    if bool(rewarded.all()) or not bool(rewarded.any()):
        raise ValueError("gradient_flow: rewarded must be true of some outcomes and not of all")
    first = float(law[rewarded].sum() / law.sum())
    if float(jnp.max(jnp.asarray(success))) < first - 1e-6:
        raise ValueError(f"gradient_flow: success must be at least that of the law, {first}; it is {success}")


def _equal_rise(inverse: Array, needed: Array) -> Array:
    """The B with Σ log(1 + B / y) = needed, `[]`; 0 where nothing is needed."""
    # found by its logarithm, since it spans the range of floats
    low = jnp.log(inverse.min()) - 40.0
    high = jnp.log(jnp.where(inverse < jnp.inf, inverse, 0).max()) + needed
    rise = _bisect(lambda x: jnp.log1p(jnp.exp(x) / inverse).sum() < needed, low, high)
    return jnp.where(needed > 0, jnp.exp(rise), 0)


def _bisect(short: Callable[[Array], Array], low: Array, high: Array) -> Array:
    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = 0.5 * (bounds[0] + bounds[1])
        below = short(middle)
        return (jnp.where(below, middle, bounds[0]), jnp.where(below, bounds[1], middle)), None

    low, high = jax.lax.scan(halve, (low, high), None, length=HALVINGS)[0]
    return 0.5 * (low + high)
