"""The trajectory Fisher and the outcome Fisher of an exact problem, the second added to the first and inverted.

    F_traj = blocks n(g) (diag π_g - π_g π_gᵀ),    F_o = Σ_o P(o) ∇h(o) ∇h(o)ᵀ

h is the logarithm of what is held of the outcome o = (s, z): `marginal` P(z), `conditional` P(z|s), `joint` P(s, z).
F_o is kept as a factor U with 2Z rows, F_o = Uᵀ U, so that a system costs one matrix of that size (Woodbury).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from polopt_jax.frontiers._problem import ExactProblem, cell_law, decisions, log_policy
from polopt_jax.types import Array, ArrayLike

Held: TypeAlias = Callable[[Array], Array]
"""`P(s, z) [2, Z] -> h [2, Z]`: the log-probability that is held, of each outcome; -inf of what never happens."""


def marginal(table: Array) -> Array:
    """log P(z): the side effects, whatever the success. What to hold, if side effects are to stay as they were.

    >>> marginal(jnp.array([[0.5, 0.25], [0.0, 0.25]])).round(3).tolist()
    [[-0.6930000185966492, -0.6930000185966492], [-0.6930000185966492, -0.6930000185966492]]
    """
    return jnp.broadcast_to(_log(table.sum(0)), table.shape)


def conditional(table: Array) -> Array:
    """log P(z|s): the side effects given success. The Outcome Pump moves none of it.

    >>> conditional(jnp.array([[0.25, 0.25], [0.5, 0.0]])).round(3).tolist()
    [[-0.6930000185966492, -0.6930000185966492], [0.0, -inf]]
    """
    return _log(table) - jnp.where(table > 0, _log(table.sum(1, keepdims=True)), 0)


def joint(table: Array) -> Array:
    """log P(s, z): success as well, so that what is asked for is held too.

    >>> joint(jnp.array([[0.25, 0.25], [0.5, 0.0]])).round(3).tolist()
    [[-1.3860000371932983, -1.3860000371932983], [-0.6930000185966492, -inf]]
    """
    return _log(table)


def _log(p: Array) -> Array:
    """log p; -inf, without a gradient, where p is 0."""
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)), -jnp.inf)


def held_kl(held: Held, first: Array, second: Array) -> Array:
    """KL(first ‖ second) of what is held, between two outcome tables `[2, Z]`, in nats; +inf where second lacks it.

    >>> tables = jnp.array([[[0.5, 0.25], [0.0, 0.25]], [[0.25, 0.25], [0.25, 0.25]]])
    >>> round(float(held_kl(joint, *tables)), 4), float(held_kl(marginal, *tables))
    (0.3466, 0.0)
    """
    return (first * jnp.where(first > 0, held(first) - held(second), 0)).sum()


def outcome_factor(problem: ExactProblem, held: Held, logits: Array) -> Array:
    """U `[2Z, G A]`, the square root of the outcome Fisher: rows √P(o) ∇h(o), so that F_o = Uᵀ U.

    Raises ValueError if the logits have another shape than the problem's.

    >>> from polopt_jax.frontiers import exact_problem
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> jax.jit(lambda logits: outcome_factor(problem, marginal, logits))(jnp.zeros((1, 4)))[0].tolist()
    [0.125, -0.125, 0.125, -0.125]
    """

    def law(x: Array) -> Array:
        return cell_law(problem, log_policy(problem, x))

    table = law(logits)
    scores = jax.jacrev(lambda x: held(law(x)).reshape(-1))(logits)
    return jnp.sqrt(table.reshape(-1))[:, None] * scores.reshape(table.size, -1)


def trajectory_fisher(problem: ExactProblem, logits: Array, vector: Array) -> Array:
    """F_traj v of logits and a vector `[G, A]`: n(g) (π_g v_g - π_g π_gᵀ v_g), row by row.

    >>> from polopt_jax.frontiers import exact_problem
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> trajectory_fisher(problem, jnp.zeros((1, 4)), jnp.array([[1.0, 0.0, 0.0, 0.0]])).tolist()
    [[0.1875, -0.0625, -0.0625, -0.0625]]
    """
    n = decisions(problem, log_policy(problem, logits))[:, None]
    probs = jax.nn.softmax(logits)
    return n * probs * (vector - (probs * vector).sum(-1, keepdims=True))


def precondition(
    problem: ExactProblem, logits: Array, gradient: Array, factor: Array, *, weight: ArrayLike, damping: ArrayLike
) -> Array:
    """(F_traj + damping I + weight Uᵀ U)⁻¹ gradient, `[G, A]`.

    Args:
      gradient: `[G, A]`.
      factor: U of `outcome_factor`, `[K, G A]`.
      weight: at least 0.
      damping: above 0, since F_traj alone is singular: a row of logits may be shifted.

    >>> from polopt_jax.frontiers import exact_problem
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> gradient = jnp.array([[-0.125, -0.125, 0.125, 0.125]])
    >>> direction = precondition(problem, jnp.zeros((1, 4)), gradient, jnp.zeros((1, 4)), weight=0.0, damping=1e-6)
    >>> direction.round(3).tolist()
    [[-0.5, -0.5, 0.5, 0.5]]
    """
    n = decisions(problem, log_policy(problem, logits))[:, None]
    probs = jax.nn.softmax(logits)
    diagonal = n * probs + damping
    # 1 - n πᵀ diag⁻¹ π, which is small, without a cancellation
    left = (probs * damping / diagonal).sum(-1, keepdims=True)

    def solve(x: Array) -> Array:
        """(F_traj + damping I)⁻¹ x: a diagonal and, in each row, one more direction (Sherman-Morrison)."""
        x = x.reshape(-1, *probs.shape)
        along = (probs * x / diagonal).sum(-1, keepdims=True) / left
        return ((x + n * probs * along) / diagonal).reshape(x.shape[0], -1)

    first, rows = solve(gradient)[0], solve(factor)
    small = jnp.eye(factor.shape[0], dtype=factor.dtype) + weight * factor @ rows.T
    return (first - weight * rows.T @ jnp.linalg.solve(small, factor @ first)).reshape(probs.shape)
