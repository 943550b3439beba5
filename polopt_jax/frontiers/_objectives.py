"""What is to be made large: the reward, alone or less a divergence from a reference; and the best there is of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.core
import jax.numpy as jnp

from polopt_jax.frontiers._fisher import Held, held_kl, marginal
from polopt_jax.frontiers._problem import ExactProblem, cell_law, log_policy, mean_reward, trajectory_kl
from polopt_jax.ranges import Nonnegative, Positive, check_range
from polopt_jax.types import Array

Objective: TypeAlias = Callable[[Array], Array]
"""`logits [G, A] -> []`, to be made large."""


def reward(problem: ExactProblem) -> Objective:
    """J(θ), the mean reward of an episode.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> float(frontiers.reward(problem)(jnp.zeros((1, 4))))
    0.5
    """
    return lambda logits: mean_reward(problem, log_policy(problem, logits))


def near_outcomes(
    problem: ExactProblem, objective: Objective, reference: Array, *, weight: Nonnegative, held: Held = marginal
) -> Objective:
    """The penalty: J(θ) - weight KL(P_θ(z) ‖ P_ref(z)), or of what else of the outcome is to be held.

    Args:
      reference: the reference's outcome table, `[2, Z]`.

    Raises ValueError if the weight is negative, or if the reference never has what the world can bring about (where
    both are concrete): the divergence is infinite there, and has no gradient.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> table = jnp.array([[0.5, 0.0], [0.5, 0.0]])
    >>> penalised = frontiers.near_outcomes(problem, frontiers.reward(problem), table + 1e-6, weight=0.1)
    >>> float(penalised(jnp.zeros((1, 4)))) < 0.0
    True
    """
    check_range("near_outcomes", Nonnegative, weight=weight)
    anyhow = jnp.zeros((problem.num_groups, problem.world.prob.shape[1]))
    lost = (cell_law(problem, log_policy(problem, anyhow)) > 0) & (held(reference) == -jnp.inf)
    if not isinstance(lost, jax.core.Tracer) and lost.any():
        raise ValueError(
            "near_outcomes: reference must have mass wherever the world can end, or the divergence is infinite; it is "
            f"{reference.tolist()}: add a little to every cell"
        )

    def penalised(logits: Array) -> Array:
        table = cell_law(problem, log_policy(problem, logits))
        return objective(logits) - weight * held_kl(held, table, reference)

    return penalised


def near_policy(problem: ExactProblem, objective: Objective, reference: Array, *, beta: Nonnegative) -> Objective:
    """The KL penalty of the RLHF literature: J(θ) - beta KL(episodes of θ ‖ episodes of the reference).

    Args:
      reference: its policy, log-probabilities `[S, A]` or `[H, S, A]`.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> policy = frontiers.log_policy(problem, jnp.zeros((1, 4)))
    >>> float(frontiers.near_policy(problem, frontiers.reward(problem), policy, beta=1.0)(jnp.zeros((1, 4))))
    0.5
    """
    check_range("near_policy", Nonnegative, beta=beta)
    return lambda logits: objective(logits) - beta * trajectory_kl(problem, log_policy(problem, logits), reference)


def soft_optimum(problem: ExactProblem, reference: Array, *, beta: Positive) -> Array:
    """The policy that makes J - beta KL(episodes ‖ episodes of the reference) largest, `[H, S, A]` log-probabilities.

        π_h(a|s) ∝ π_ref(a|s) exp(Q_h(s, a) / beta),    V_h(s) = beta log Σ_a π_ref(a|s) exp(Q_h(s, a) / beta)

    Where the world leaves nothing to chance, it reweighs whole episodes by exp(reward / beta): the pump.

    Args:
      reference: log-probabilities `[S, A]`.

    Source: Todorov 2007; Ziebart 2010.

    >>> from polopt_jax import frontiers
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> best = frontiers.soft_optimum(problem, frontiers.log_policy(problem, jnp.zeros((1, 4))), beta=1.0)
    >>> round(float(frontiers.mean_reward(problem, best)), 3)        # e / (1 + e)
    0.731
    """
    check_range("soft_optimum", Positive, beta=beta)
    world = problem.world

    def backup(value: Array, _: None) -> tuple[Array, Array]:
        q = (world.prob * (world.reward + value[world.successor])).sum(-1)
        scores = reference + q / beta
        total = jax.nn.logsumexp(scores, axis=-1)
        return beta * total, scores - total[:, None]

    end = jnp.zeros(world.initial.shape, jnp.result_type(reference, world.prob))
    return jax.lax.scan(backup, end, None, length=world.horizon, reverse=True)[1]
