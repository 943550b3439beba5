"""What a method did to the outcomes along its way, read where it reached a given success: matched success.

Two methods compared after as many updates, or at the same step size, are compared at different success. Here each is
read at the success of the other.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from polopt_jax.frontiers._fisher import conditional, held_kl, joint, marginal
from polopt_jax.frontiers._methods import Method
from polopt_jax.frontiers._problem import (
    ExactProblem,
    cell_law,
    decisions,
    log_policy,
    mean_hidden,
    mean_reward,
    trajectory_kl,
)
from polopt_jax.ranges import Count, Unit, check_range
from polopt_jax.types import Array, record


@record
class Point:
    """Where a policy stands against a reference. Every field is `[...]`, except the law."""

    success: Array
    """P(s = 1)."""
    reward: Array
    """J."""
    hidden: Array
    """Hidden performance: what an episode is really worth. NaN where a world does not say."""
    law: Array
    """P(s, z), `[..., 2, Z]`."""
    side_effect_kl: Array
    """D_z, KL(new ‖ reference) as all below unless the name says otherwise; in nats of an episode."""
    conditional_kl: Array
    """D_{z|s}."""
    success_kl: Array
    """D_s."""
    outcome_kl: Array
    """D_out = D_s + D_{z|s}."""
    trajectory_kl: Array
    """D_traj, at least D_out."""
    trajectory_kl_ref_new: Array
    """KL(reference ‖ new) of episodes."""
    action_kl: Array
    """D_traj by decision: over E[T] of the new policy."""

    @property
    def side_effect(self) -> Array:
        """P(z), `[..., Z]`."""
        return self.law.sum(-2)


def standing(problem: ExactProblem, reference: Array, policy: Array) -> Point:
    """Where a policy stands against a reference, both `[S, A]` or `[H, S, A]` log-probabilities.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> reference = frontiers.log_policy(problem, jnp.zeros((1, 4)))
    >>> point = frontiers.standing(problem, reference, frontiers.log_policy(problem, jnp.array([[0.0, 0.0, 1.0, 1.0]])))
    >>> round(float(point.success), 3), round(float(point.success_kl), 4), float(point.side_effect_kl)
    (0.731, 0.1109, 0.0)
    """
    return point_of(
        cell_law(problem, policy),
        cell_law(problem, reference),
        reward=mean_reward(problem, policy),
        hidden=mean_hidden(problem, policy),
        trajectory_kl=trajectory_kl(problem, policy, reference),
        trajectory_kl_ref_new=trajectory_kl(problem, reference, policy),
        decisions=decisions(problem, policy).sum(),
    )


def point_of(
    law: Array,
    reference: Array,
    *,
    reward: Array,
    hidden: Array,
    trajectory_kl: Array,
    trajectory_kl_ref_new: Array,
    decisions: Array,
) -> Point:
    """The point of a policy's outcome table `[2, Z]` against its reference's, with what tables do not say."""
    both, within = held_kl(joint, law, reference), held_kl(conditional, law, reference)
    return Point(
        success=law[1].sum(),
        reward=reward,
        hidden=hidden,
        law=law,
        side_effect_kl=held_kl(marginal, law, reference),
        conditional_kl=within,
        success_kl=both - within,
        outcome_kl=both,
        trajectory_kl=trajectory_kl,
        trajectory_kl_ref_new=trajectory_kl_ref_new,
        action_kl=trajectory_kl / decisions,
    )


def path(problem: ExactProblem, logits: Array, method: Method, *, updates: Count) -> Point:
    """The points that a method goes through, from its reference on: every field has `[updates + 1]` in front.

    One program on the device; `jax.vmap` over hyperparameters of the method gives a frontier.

    Args:
      logits: the reference's, `[G, A]`: where the method starts, and what the points are measured against.

    Raises:
      ValueError: `updates < 1`, or `logits` has another shape.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, outcome_table_logits, OUTCOME_TABLES, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> method = frontiers.trust_region(problem, frontiers.reward(problem))
    >>> points = frontiers.path(problem, outcome_table_logits(OUTCOME_TABLES["means"])[None], method, updates=40)
    >>> points.success.shape, float(points.success[-1]) > 0.9
    ((41,), True)
    """
    check_range("path", Count, updates=updates)
    reference = log_policy(problem, logits)

    def advance(carry: tuple, _: None) -> tuple[tuple, Point]:
        carry = method.step(*carry)
        return carry, standing(problem, reference, log_policy(problem, carry[0]))

    _, points = jax.lax.scan(advance, (logits, method.init(logits)), None, length=updates)
    first = standing(problem, reference, reference)
    return jax.tree.map(lambda start, rest: jnp.concatenate([start[None], rest]), first, points)


class Stands(Protocol):
    """Anything that is known of a policy, of which `success` is a part."""

    @property
    def success(self) -> Array:
        """P(s = 1), `[...]`."""
        ...


@record
class Matched:
    """A path, read where it first has a required success."""

    point: Any
    """As the path has them, between the two updates around it; NaN if it is never reached."""
    reached: Array
    """bool `[]`."""
    best: Array
    """The highest success on the path, `[]`."""
    updates: Array
    """How many updates it took, a fraction, `[]`; NaN if never reached."""
    jump: Array
    """By how much that one update raised the success, `[]`: the larger, the coarser the reading; NaN if never reached.
    """


def at_success(points: Stands, success: Unit) -> Matched:
    """A path `[U]` read where it first has at least the given success, by linear interpolation in the success.

    A path that begins with it is read at its beginning. The numbers are read one by one: between points far apart a
    divergence, which is convex, comes out larger than that of the law that is read (`point.law`).

    Raises:
      ValueError: `success` is outside [0, 1], or `points` is no path.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, outcome_table_logits, OUTCOME_TABLES, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> method = frontiers.trust_region(problem, frontiers.reward(problem))
    >>> points = frontiers.path(problem, outcome_table_logits(OUTCOME_TABLES["means"])[None], method, updates=40)
    >>> float(frontiers.at_success(points, 0.5).point.success.round(3))
    0.5
    """
    check_range("at_success", Unit, success=success)
    if points.success.ndim != 1:
        raise ValueError(f"at_success: points must be a path [U]; success has shape {points.success.shape}")
    there = points.success >= success
    reached = there.any()
    after = jnp.argmax(there)
    before = jnp.maximum(after - 1, 0)
    rise = points.success[after] - points.success[before]
    share = jnp.where(rise > 0, (success - points.success[before]) / jnp.where(rise > 0, rise, 1), 0)

    def between(x: Array) -> Array:
        return jnp.where(reached, x[before] + share * (x[after] - x[before]), jnp.nan)

    return Matched(
        point=jax.tree.map(between, points),
        reached=reached,
        best=points.success.max(),
        updates=jnp.where(reached, before + share, jnp.nan),
        jump=jnp.where(reached, rise, jnp.nan),
    )
