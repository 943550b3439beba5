"""What a reference's outcome table becomes at a required success: by its own odds (pump), or held still (IPF).

A table is a law over success and side effects, `[2, Z]`: row 1 is success, a column is a side effect (any axes may
follow the first; all of them together are the side effect). No training is needed: these are the two rows that every
method is read against. Directions: KL(q ‖ table), of the new law against the reference's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.fields import with_fields
from polopt_jax.masking import accumulate
from polopt_jax.outcomes._laws import kl, safe_log
from polopt_jax.ranges import Nonnegative, Positive, Unit, check_entries
from polopt_jax.types import Array, record

NEGLIGIBLE = 1e-8
"""A cell of at most this probability is one that the reference does not have (tables hold 1e-9 instead of 0)."""
HALVINGS = 100
MISSED = 1e-4
"""A law whose success is as far from the required one does not exist: bisection and float32 come nearer."""


@with_fields
@record
class Projection:
    """The law nearest to a table under a constraint."""

    law: Array
    """q, of the shape of the table; NaN where there is none, even on floors."""
    kl: Array
    """KL(q ‖ table) in nats, `[]`; infinite where there is no q."""
    feasible: Array
    """bool `[]`: whether the cells that the table has allow the constraint. Where not, `law` leans on floors, or, in a
    table with zeros instead of floors, is NaN."""

    @property
    def side_effect(self) -> Array:
        """q(z), the shape of the table without its first axis."""
        return self.law.sum(0)


def _as_table(caller: str, table: Array) -> Array:
    check_entries(caller, Nonnegative, table=table)
    table = accumulate(jnp.asarray(table))
    if table.ndim < 1 or table.shape[0] != 2:
        raise ValueError(f"{caller}: table must have shape [2, ...], failure and success; it has {table.shape}")
    total = table.sum()
    check_entries(caller, Positive, **{"the sum of table": total})
    return table / total


def _projection(law: Array, table: Array, success: Unit, feasible: Array) -> Projection:
    """The law with its divergence: NaN, infinitely far, if it has not the required success, for want of cells."""
    reached = law.reshape(2, -1).sum(1)
    missed = (jnp.abs(reached - jnp.stack([1 - jnp.asarray(success), jnp.asarray(success)])) > MISSED).any()
    law = jnp.where(missed, jnp.nan, law)
    nats = kl(safe_log(law).reshape(-1), safe_log(table).reshape(-1))
    return Projection(law=law, kl=jnp.where(missed, jnp.inf, nats), feasible=feasible & ~missed)


def pump(table: Array, success: Unit) -> Projection:
    """The Outcome Pump: the nearest law with the required success, and nothing else asked.

        argmin KL(q ‖ p) s.t. q(s=1) = J    =>    q(s, z) = q(s) p(z|s)

    P(z | success) stays what the reference had: where most of its rare successes have a side effect, so will all.
    The fixed point of KL-anchored learning with a binary reward (best-of-n, filtering, GRPO with a KL, DPO from success
    preferences). A table without any success has no such law: NaN, infinitely far, not feasible. Raises ValueError if
    the table is not `[2, ...]`, has an entry that is negative or NaN or holds nothing but zeros, or success is outside
    [0, 1].

    Source: the Outcome Pump: Yudkowsky 2007; the projection: Csiszár 1975; Korbak et al. 2022 (KL-anchored learning is
    Bayesian conditioning).

    >>> from polopt_jax import outcomes
    >>> burning = jnp.array([[0.799, 1e-9], [0.2, 0.001]])
    >>> outcomes.pump(burning, 0.9).side_effect.tolist()[1] < 0.0046
    True
    """
    check_entries("pump", Unit, success=success)
    return _pump(_as_table("pump", table), success)


@jax.jit  # or in eager mode a hundred small programs are compiled
def _pump(table: Array, success: Unit) -> Projection:
    rates = jnp.stack([table[0].sum(), table[1].sum()])
    wanted = jnp.stack([1 - jnp.asarray(success, table.dtype), jnp.asarray(success, table.dtype)])
    factor = jnp.where(rates > 0, wanted / jnp.where(rates > 0, rates, 1), 0)
    law = table * factor.reshape(2, *[1] * (table.ndim - 1))
    return _projection(law, table, success, ((rates > NEGLIGIBLE) | (wanted == 0)).all())


def ipf(table: Array, success: Unit) -> Projection:
    """The nearest law with the required success *and* the side effects of the reference (iterative proportional fit).

        argmin KL(q ‖ p) s.t. q(s=1) = J, q(z) = p(z)    =>    q(1|z) = σ(log p(1,z)/p(0,z) + λ)

    with the λ that makes Σ p(z) q(1|z) = J, found by bisection: for a binary success the iteration has this closed
    form. Infeasible, or very costly, means that success entails the side effect. Its first derivatives by table and
    success are those of the root (second ones are not). Raises as `pump`.

    Source: Deming & Stephan 1940; exponential families under moment constraints, in language models: Khalifa et al.
    2021 (GDC).

    >>> from polopt_jax import outcomes
    >>> held = outcomes.ipf(jnp.array([[0.968, 0.002], [0.02, 0.01]]), 0.9)
    >>> round(float(held.side_effect[1]), 3), bool(held.feasible)
    (0.012, True)
    """
    check_entries("ipf", Unit, success=success)
    return _ipf(_as_table("ipf", table), success)


@jax.jit  # as `_pump`
def _ipf(table: Array, success: Unit) -> Projection:
    marginal, log_odds = table.sum(0), safe_log(table[1]) - safe_log(table[0])
    log_odds = jnp.where(marginal > 0, log_odds, 0)

    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = 0.5 * (bounds[0] + bounds[1])
        short = jnp.sum(marginal * jax.nn.sigmoid(log_odds + middle)) < success
        return (jnp.where(short, middle, bounds[0]), jnp.where(short, bounds[1], middle)), None

    limit = jnp.asarray(200.0, table.dtype)
    (low, high), _ = jax.lax.scan(halve, (-limit, limit), None, length=HALVINGS)
    found = jax.lax.stop_gradient(0.5 * (low + high))
    there = jax.nn.sigmoid(log_odds + found)
    # the root as a function of table and success: a step of Newton's from it, of which only the derivative is left
    slope = jax.lax.stop_gradient(jnp.sum(marginal * there * (1 - there)))
    missing = jnp.asarray(success, table.dtype) - jnp.sum(marginal * there)
    turn = jnp.where(slope > 0, (missing - jax.lax.stop_gradient(missing)) / jnp.where(slope > 0, slope, 1), 0)
    conditional = jax.nn.sigmoid(log_odds + found + turn)
    law = jnp.stack([marginal * (1 - conditional), marginal * conditional])
    can = table > NEGLIGIBLE
    least, most = jnp.sum(jnp.where(can[0], 0, marginal)), jnp.sum(jnp.where(can[1], marginal, 0))
    slack = 1e-6
    return _projection(law, table, success, (least - slack <= success) & (success <= most + slack))


def tax(table: Array, success: Unit) -> Array:
    """KL(ipf) - KL(pump) >= 0 in nats, `[]`: what it costs to leave the side effects alone. Infinite if impossible.

    Raises as `pump`.

    >>> from polopt_jax import outcomes
    >>> round(float(outcomes.tax(jnp.array([[0.968, 0.002], [0.02, 0.01]]), 0.9)), 2)
    0.31
    """
    held = ipf(table, success)
    return jnp.where(held.feasible, held.kl - pump(table, success).kl, jnp.inf)


def best_of_n(table: Array, n: Positive) -> Array:
    """The law of the best of n independent rows by a binary success: success unless all n fail. Shape of the table.

    Its KL to the table is at most log n - (n-1)/n; successes among it are as the reference has them, so it is a
    `pump`. Source: Beirami et al. 2024.

    >>> from polopt_jax import outcomes
    >>> round(float(outcomes.best_of_n(jnp.array([[0.5, 0.0], [0.25, 0.25]]), 2)[1].sum()), 3)
    0.75
    """
    check_entries("best_of_n", Positive, n=n)
    table = _as_table("best_of_n", table)
    succeeds = table[1].sum()
    fails = n * jnp.log1p(-jnp.where(succeeds < 1, succeeds, 0))  # log of all n: small rates keep their digits
    return pump(table, jnp.where(succeeds < 1, -jnp.expm1(fails), 1)).law
