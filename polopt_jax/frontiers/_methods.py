"""The objectives as exact updates: `step(logits, memory) -> (logits, memory)`, without a sample.

A `Method` is made of an `Objective`, a function of the logits to be made large, and a rule of ascent. What holds
outcomes comes in at three places: in the objective (`near_outcomes`), in the metric of the ascent (`trust_region` with
`held`), or as a price beside the reward (`priced`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from polopt_jax.frontiers._fisher import Held, held_kl, joint, outcome_factor, precondition
from polopt_jax.frontiers._objectives import Objective, reward
from polopt_jax.frontiers._problem import ExactProblem, advantages, cell_law, log_policy, trajectory_kl
from polopt_jax.ranges import Count, Nonnegative, Positive, check_range
from polopt_jax.solvers import mixture_within
from polopt_jax.surrogates import clipped_surrogate
from polopt_jax.types import Array

HALVINGS = 20
"""How often a step is halved before it is given up."""


class Method(NamedTuple):
    """A way to update logits, in the manner of an optax transform."""

    init: Callable[[Array], Any]
    """logits `[G, A]` -> memory, a pytree."""
    step: Callable[[Array, Any], tuple[Array, Any]]
    """(logits, memory) -> both after one update."""


def _memoryless(step: Callable[[Array], Array]) -> Method:
    return Method(lambda logits: (), lambda logits, memory: (step(logits), memory))


def gradient_ascent(objective: Objective, *, step_size: Positive) -> Method:
    """Policy gradient: θ ← θ + step_size ∇J(θ).

    >>> from polopt_jax import frontiers
    >>> method = frontiers.gradient_ascent(lambda logits: -jnp.sum(logits**2), step_size=0.25)
    >>> method.step(jnp.ones((1, 2)), ())[0].tolist()
    [[0.5, 0.5]]
    """
    check_range("gradient_ascent", Positive, step_size=step_size)
    return _memoryless(lambda logits: logits + step_size * jax.grad(objective)(logits))


def standardised_ascent(problem: ExactProblem, *, step_size: Positive) -> Method:
    """Policy gradient of the reward with advantages over their standard deviation, of all decisions (GRPO-like).

        θ ← θ + step_size ∇J(θ) / √(Σ_hsa P(s_h) π(a|s) A² / E[T])

    It is a policy gradient with another length, so it goes through the same policies.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> frontiers.standardised_ascent(problem, step_size=1.0).step(jnp.zeros((1, 4)), ())[0].tolist()
    [[-0.25, -0.25, 0.25, 0.25]]
    """
    check_range("standardised_ascent", Positive, step_size=step_size)

    def step(logits: Array) -> Array:
        scale = _root_mean_square(*advantages(problem, log_policy(problem, logits)))
        return logits + step_size * jax.grad(reward(problem))(logits) / scale

    return _memoryless(step)


def _root_mean_square(values: Array, weight: Array) -> Array:
    square = (weight * values**2).sum() / weight.sum()
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))


def natural_ascent(
    problem: ExactProblem, objective: Objective, *, step_size: Positive, damping: Positive = 1e-3
) -> Method:
    """Natural policy gradient: θ ← θ + step_size (F_traj + damping I)⁻¹ ∇J(θ).

    Source: Kakade 2001. Here with the exact Fisher matrix and without sampling.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> method = frontiers.natural_ascent(problem, frontiers.reward(problem), step_size=1.0, damping=1e-6)
    >>> jax.jit(method.step)(jnp.zeros((1, 4)), ())[0].round(3).tolist()
    [[-0.5, -0.5, 0.5, 0.5]]
    """
    check_range("natural_ascent", Positive, step_size=step_size, damping=damping)

    def step(logits: Array) -> Array:
        nothing = jnp.zeros((1, logits.size), logits.dtype)
        gradient = jax.grad(objective)(logits)
        return logits + step_size * precondition(problem, logits, gradient, nothing, weight=0.0, damping=damping)

    return _memoryless(step)


def trust_region(
    problem: ExactProblem,
    objective: Objective,
    *,
    radius: Positive = 0.02,
    held: Held = joint,
    weight: Nonnegative = 0.0,
    slack: Positive = 1.5,
    damping: Positive = 1e-3,
) -> Method:
    """TRPO, and with a weight the outcome trust region.

        d = (F_traj + damping I + weight F_o)⁻¹ ∇J,    θ ← θ + 2⁻ᵏ √(2 radius / dᵀ∇J) d

    with the smallest k for which J does not fall and D_traj + weight D_held <= slack · radius, in the direction
    KL(new ‖ old). If none of `HALVINGS` does, the logits stay.

    Args:
      radius: in nats of a whole episode.
      held: what of the outcome is held; of no consequence at weight 0, which is TRPO.
      weight: λ, of the outcome Fisher against the trajectory Fisher.
      slack: how far over the radius a step may be.

    Differs from the paper: the Fisher matrix is that of whole episodes and exact, and the line search bounds the other
    direction, KL(new ‖ old), by `slack` times the radius. Source: Schulman et al. 2015.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> method = frontiers.trust_region(problem, frontiers.reward(problem), radius=0.02)
    >>> after, _ = jax.jit(method.step)(jnp.zeros((1, 4)), ())
    >>> round(float(frontiers.reward(problem)(after)), 2)
    0.6
    """
    check_range("trust_region", Positive, radius=radius, slack=slack, damping=damping)
    check_range("trust_region", Nonnegative, weight=weight)

    def step(logits: Array) -> Array:
        value, gradient = jax.value_and_grad(objective)(logits)
        factor = outcome_factor(problem, held, logits)
        direction = precondition(problem, logits, gradient, factor, weight=weight, damping=damping)
        curvature = (direction * gradient).sum()
        length = jnp.sqrt(2 * radius / jnp.where(curvature > 0, curvature, 1))
        old = log_policy(problem, logits)
        old_table = cell_law(problem, old)

        def refused(scale: Array) -> Array:
            new = log_policy(problem, logits + scale * direction)
            moved = trajectory_kl(problem, new, old) + weight * held_kl(held, cell_law(problem, new), old_table)
            return (moved > slack * radius) | (objective(logits + scale * direction) < value)

        return logits + _halved(jnp.where(curvature > 0, length, 0), refused) * direction

    return _memoryless(step)


def _halved(first: Array, refused: Callable[[Array], Array]) -> Array:
    """The largest of `first` and its `HALVINGS` halves that is not refused; 0 if all are."""
    least = first * 2.0**-HALVINGS
    scale = jax.lax.while_loop(lambda scale: (scale > least) & refused(scale), lambda scale: scale / 2, first)
    return jnp.where(scale > least, scale, 0)


def bounded(
    problem: ExactProblem,
    objective: Objective,
    costs: Callable[[Array], Array],
    limits: Array,
    *,
    radius: Positive = 0.02,
    slack: Positive = 1.5,
    damping: Positive = 1e-3,
) -> Method:
    """CPO: TRPO that holds what outcomes cost below limits, on one side only.

        max_x xᵀ∇J   subject to   C + xᵀ∇C <= limits   and   ½ xᵀ(F_traj + damping I)x <= radius

    as `solvers.mixture_within` solves it; then θ ← θ + 2⁻ᵏ x with the smallest k for which D_traj <= slack · radius, no
    cost is above both slack · limit and where it was, and J does not fall, unless costs had to come back.

    Args:
      costs: `P(s, z) [2, Z] -> costs [m]`, at most six; of a side effect's rate, a sum of cells.
      limits: `[m]`.
      radius: in nats of a whole episode.
      slack: how far over the radius and over a limit a step may be; what is over a limit comes back with the next one.

    Differs from the paper: as `trust_region`, and in the slack of costs: without it a step along a limit is refused for
    the second-order part of its cost. Source: Achiam et al. 2017.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> rate = lambda table: table.sum(0)[1:]                                # of the side effect, .5 at first
    >>> method = frontiers.bounded(problem, frontiers.reward(problem), rate, jnp.array([0.5]))
    >>> logits = jnp.array([[0.0, 1.0, 0.0, 0.0]])                           # .63 now
    >>> after, _ = jax.jit(method.step)(logits, ())
    >>> round(float(rate(frontiers.cell_law(problem, frontiers.log_policy(problem, after)))[0]), 2)
    0.55
    """
    check_range("bounded", Positive, radius=radius, slack=slack, damping=damping)

    def spent(logits: Array) -> Array:
        return costs(cell_law(problem, log_policy(problem, logits)))

    def step(logits: Array) -> Array:
        value, gradient = jax.value_and_grad(objective)(logits)
        before, of_costs = spent(logits), jax.jacrev(spent)(logits)
        gradients = jnp.concatenate([-gradient[None], of_costs])
        nothing = jnp.zeros((1, logits.size), logits.dtype)
        solve = lambda v: precondition(problem, logits, v, nothing, weight=0.0, damping=damping)  # noqa: E731
        solved = jax.vmap(solve)(gradients)
        mixture, _ = mixture_within(jnp.einsum("iga,jga->ij", gradients, solved), before - limits, radius)
        direction = -jnp.tensordot(mixture, solved, 1)
        old = log_policy(problem, logits)

        def refused(scale: Array) -> Array:
            new = logits + scale * direction
            too_far = trajectory_kl(problem, log_policy(problem, new), old) > slack * radius
            too_dear = (spent(new) > jnp.maximum(slack * limits, before)).any()
            return too_far | too_dear | ((objective(new) < value) & (before <= limits).all())

        return logits + _halved(jnp.ones(()), refused) * direction

    return _memoryless(step)


def clipped_ascent(
    problem: ExactProblem, *, clip_eps: Positive = 0.2, learning_rate: Positive = 0.01, iterations: Count = 10
) -> Method:
    """PPO: Adam steps on the clipped surrogate, with exact advantages over their root mean square.

        L(θ) = Σ_hsa P_old(s_h) π_old(a|s) min(ρ A, clip(ρ, 1-ε, 1+ε) A),    ρ = π_θ(a|s) / π_old(a|s)

    Adam's moments are kept from update to update. Source: Schulman et al. 2017.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> method = frontiers.clipped_ascent(problem)
    >>> logits = jnp.zeros((1, 4))
    >>> after, _ = jax.jit(method.step)(logits, method.init(logits))                    # 10 steps of 0.01
    >>> [round(x, 3) for x in after[0].tolist()]
    [-0.1, -0.1, 0.1, 0.1]
    """
    check_range("clipped_ascent", Positive, clip_eps=clip_eps, learning_rate=learning_rate)
    check_range("clipped_ascent", Count, iterations=iterations)
    adam = optax.adam(learning_rate)

    def step(logits: Array, memory: optax.OptState) -> tuple[Array, optax.OptState]:
        old = log_policy(problem, logits)
        advantage, weight = advantages(problem, old)
        advantage = advantage / _root_mean_square(advantage, weight)

        def loss(x: Array) -> Array:
            log_ratio = log_policy(problem, x) - old
            return -(weight * clipped_surrogate(log_ratio, advantage, clip_eps=clip_eps)).sum()

        def improve(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
            x, memory = carry
            change, memory = adam.update(jax.grad(loss)(x), memory, x)
            return (x + jnp.asarray(change), memory), None

        return jax.lax.scan(improve, (logits, memory), None, length=iterations)[0]

    return Method(adam.init, step)


def priced(
    problem: ExactProblem,
    rule: Callable[[Objective], Method],
    objective: Objective,
    reference: Array,
    *,
    dual_step: Positive,
    allowed: Callable[[Array], Array] = lambda price: price,
) -> Method:
    """The price: ascent on J(θ) - Σ_z c[z] P_θ(z), and integral action on c towards the reference's rates.

        c ← allowed(c + dual_step (P_θ(z) - P_ref(z)))

    Args:
      rule: makes a method of an objective: `lambda priced: gradient_ascent(priced, step_size=2.0)`.
      reference: the reference's outcome table, `[2, Z]`.
      dual_step: in units of reward per unit of probability.
      allowed: which prices there may be, all if not given. `lambda c: jnp.maximum(c, 0).at[0].set(0)` is a one-sided
        price, which minds only that a side effect becomes more frequent.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> table = jnp.array([[0.4, 0.1], [0.4, 0.1]])
    >>> rule = lambda objective: frontiers.gradient_ascent(objective, step_size=1.0)
    >>> method = frontiers.priced(problem, rule, frontiers.reward(problem), table, dual_step=1.0)
    >>> logits = jnp.zeros((1, 4))
    >>> logits, (price, _) = jax.jit(method.step)(logits, method.init(logits))
    >>> [round(c, 3) for c in price.tolist()]
    [-0.3, 0.3]
    """
    check_range("priced", Positive, dual_step=dual_step)
    wanted = reference.sum(0)

    def init(logits: Array) -> tuple[Array, Any]:
        return jnp.zeros(problem.num_side_effects, logits.dtype), rule(objective).init(logits)

    def step(logits: Array, memory: tuple[Array, Any]) -> tuple[Array, tuple[Array, Any]]:
        price, inner = memory

        def charged(x: Array) -> Array:
            return objective(x) - price @ cell_law(problem, log_policy(problem, x)).sum(0)

        logits, inner = rule(charged).step(logits, inner)
        law = cell_law(problem, log_policy(problem, logits)).sum(0)
        return logits, (allowed(price + dual_step * (law - wanted)), inner)

    return Method(init, step)
