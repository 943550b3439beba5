"""The odds law of one decision: what the policy gradient does to equally rewarded outcomes, in closed form.

Beside `pump` and `ipf`, a third row that needs no training. All three start from the reference's outcome table: the
pump keeps the odds among successes, as the natural gradient does; the gradient flow raises them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from polopt_jax.ranges import Unit, check_range
from polopt_jax.types import Array

HALVINGS = 200


def gradient_flow(table: Array, success: Unit) -> Array:
    """The law that the policy gradient of a one-step softmax policy has at a required success; shape of the table.

    With θ the logits, θ = log p at first and J the success,

        dθ_a/dt = p_a (1 - J) of a success a,    dθ_f/dt = -p_f J of a failure f

    so exp(-θ_a) falls by the same amount for all successes, exp(-θ_f) rises by the same amount for all failures, and
    Σ θ stays: one law for each success. The log-odds of two successes grow at the rate (p_a - p_b)(1 - J): the
    majority is amplified and the minority squeezed out. The natural gradient keeps the odds (`pump`).

    Holds of small steps, one decision, equal rewards, a logit for each cell; see the findings for where it stops.
    Standardised advantages change the speed and not the law. Use float64.

    Args:
      table: probabilities `[2, ...]`, all positive; row 1 is success.
      success: J, at least that of the table.

    Raises:
      ValueError: `table` has another shape or a cell that is not positive, or `success` is outside [0, 1].

    >>> law = gradient_flow(jnp.array([[0.45, 0.45], [0.08, 0.02]]), 0.9)
    >>> round(float(law[1].sum()), 3), round(float(law[1, 0] / law[1, 1]), 1)
    (0.9, 59.9)
    """
    check_range("gradient_flow", Unit, success=success)
    table = jnp.asarray(table)
    if table.ndim < 1 or table.shape[0] != 2:
        raise ValueError(f"gradient_flow: table must have shape [2, ...]; it has {table.shape}")
    if not isinstance(table, jax.core.Tracer) and not bool((table > 0).all()):
        raise ValueError("gradient_flow: table must be positive; put a floor under its zeros")
    table = table / table.sum()
    failures, successes = 1 / table[0], 1 / table[1]

    def odds_at(time: Array) -> tuple[Array, Array]:
        """exp θ of all cells when the largest success has gained `time` nats, and the share of success."""
        won = successes.min() * jnp.exp(-time) + (successes - successes.min())
        gained = _balance(failures, jnp.log(successes).sum() - jnp.log(won).sum())
        weights = jnp.stack([1 / (failures + gained), 1 / won])
        return weights, weights[1].sum() / weights.sum()

    time = _bisect(lambda t: odds_at(t)[1] < success, jnp.zeros((), table.dtype), jnp.full((), 200.0, table.dtype))
    weights = odds_at(time)[0]
    return weights / weights.sum()


def _balance(failures: Array, needed: Array) -> Array:
    """The B with Σ_f log(1 + B / y_f) = needed, `[]`."""
    # found by its logarithm: it spans the range of floats
    low, high = jnp.log(failures.min()) - 40.0, jnp.log(failures.max()) + needed
    grown = _bisect(lambda x: jnp.log1p(jnp.exp(x) / failures).sum() < needed, low, high)
    return jnp.where(needed > 0, jnp.exp(grown), 0)


def _bisect(short: Callable[[Array], Array], low: Array, high: Array) -> Array:
    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = 0.5 * (bounds[0] + bounds[1])
        below = short(middle)
        return (jnp.where(below, middle, bounds[0]), jnp.where(below, bounds[1], middle)), None

    low, high = jax.lax.scan(halve, (low, high), None, length=HALVINGS)[0]
    return 0.5 * (low + high)
