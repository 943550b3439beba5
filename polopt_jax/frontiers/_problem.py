"""A world with a tabular policy, of which everything that an update is judged by is known: no samples.

A policy is a table of log-probabilities, `[S, A]` or `[H, S, A]`; what is trained are logits `[G, A]`, one row for each
group of states that the policy cannot tell apart. The functions are pure, jit-able and differentiable in the policy.
Work in float64 (`jax.enable_x64(True)`) where the third digit matters.
"""

from __future__ import annotations

from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.masking import check_shape
from polopt_jax.types import Array, record
from polopt_jax.worlds import TableWorld, action_values, cells, expected_hidden, expected_reward, outcome_law, visits


@record
class ExactProblem:
    """A world, what its policy sees, and which of its outcomes are side effects; made by `exact_problem`."""

    world: TableWorld
    group: Array
    """The row of the logits that each state reads, `[S]` int32."""
    cell: Array
    """The outcome of an episode that ends in each state, `[S]` int32: Z success + side effect."""
    num_groups: int = field(metadata={"static": True})
    """G, rows of the logits."""
    num_side_effects: int = field(metadata={"static": True})
    """Z, values of the side effect."""


def exact_problem(
    world: TableWorld, *, side_effects: tuple[str, ...], group: Array | np.ndarray | None = None
) -> ExactProblem:
    """The exact problem of a world.

    Args:
      world: of `worlds.tabulate`.
      side_effects: names of outcome features; n of them are one side effect with 2ⁿ values, the first name the highest
        binary digit.
      group: the row of the logits that each state reads, `[S]` integers from 0: `world.obs.argmax(-1)` where an
        observation is one-hot. If None, states that look alike share a row, in the order in which they are numbered.

    Raises:
      ValueError: the world has no outcome of such a name, `side_effects` has success or is empty, or `group` has
        another shape or a negative entry.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> problem.num_groups, problem.num_side_effects
    (1, 2)
    """
    if not side_effects or "success" in side_effects:
        raise ValueError(f"side_effects must name outcomes other than success; it is {side_effects}")
    rows = alike(np.asarray(world.obs)) if group is None else np.asarray(group)
    if rows.shape != world.initial.shape or rows.min() < 0:
        raise ValueError(f"group must be rows from 0, of shape {world.initial.shape}; it has {rows.shape}")
    return ExactProblem(
        world=world,
        group=jnp.asarray(rows, jnp.int32),
        cell=cells(world, ("success", *side_effects)),
        num_groups=int(rows.max()) + 1,
        num_side_effects=2 ** len(side_effects),
    )


def alike(obs: np.ndarray) -> np.ndarray:
    """The number of each state's observation, `[S]`, observations `[S, F]` numbered as they first appear.

    >>> alike(np.array([[1.0], [0.0], [1.0]])).tolist()
    [0, 1, 0]
    """
    _, first, number = np.unique(obs, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number.reshape(-1)]


def log_policy(problem: ExactProblem, logits: Array) -> Array:
    """The policy of logits `[G, A]`, `[S, A]` log-probabilities. Raises ValueError if they have another shape.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> log_policy(problem, jnp.zeros((1, 4))).shape
    (5, 4)
    """
    check_shape("log_policy", "logits", logits, (problem.num_groups, problem.world.prob.shape[1]), of="the problem")
    return jax.nn.log_softmax(logits)[problem.group]


def cell_law(problem: ExactProblem, policy: Array) -> Array:
    """P(s, z), `[2, Z]`: the probability of failure (row 0) and success with each side effect.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> cell_law(problem, log_policy(problem, jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]])))).tolist()
    [[0.5, 0.25], [0.125, 0.125]]
    """
    num_cells = 2 * problem.num_side_effects
    return outcome_law(problem.world, jnp.exp(policy), problem.cell, num_cells).reshape(2, -1)


def rates(table: Array) -> Array:
    """P of each side effect by itself, `[m]` in the order of their names, of a table `[2, Z]` or a law `[Z]` of z.

    >>> rates(jnp.array([[0.5, 0.25, 0.0, 0.0], [0.0, 0.0, 0.125, 0.125]])).tolist()      # two: 01, 10, 11
    [0.25, 0.375]
    """
    law = table.reshape(-1, table.shape[-1]).sum(0)
    return jnp.stack([law.reshape(-1, 2, bit)[:, 1].sum() for bit in bits(law.size)])


def bits(num_side_effects: int) -> list[int]:
    """Of Z cells, what each side effect adds to a cell's number, in the order of their names: the first is the highest.

    >>> bits(4)
    [2, 1]
    """
    return [2**n for n in reversed(range(num_side_effects.bit_length() - 1))]


def mean_reward(problem: ExactProblem, policy: Array) -> Array:
    """What the agent is paid in an episode, in the mean, `[]`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> float(mean_reward(problem, log_policy(problem, jnp.zeros((1, 4)))))
    0.5
    """
    return expected_reward(problem.world, jnp.exp(policy))


def mean_hidden(problem: ExactProblem, policy: Array) -> Array:
    """What an episode is really worth, in the mean, `[]`: the hidden reward, which no agent sees.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> float(mean_hidden(problem, log_policy(problem, jnp.zeros((1, 4)))))
    0.0
    """
    return expected_hidden(problem.world, jnp.exp(policy))


def decisions(problem: ExactProblem, policy: Array) -> Array:
    """n, the expected number of decisions of an episode with each row of the logits, `[G]`; its sum is E[T].

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> decisions(problem, log_policy(problem, jnp.zeros((1, 4)))).tolist()
    [1.0]
    """
    each = visits(problem.world, jnp.exp(policy)).sum(0)
    return jax.ops.segment_sum(each, problem.group, problem.num_groups)


def trajectory_kl(problem: ExactProblem, first: Array, second: Array) -> Array:
    """KL between the laws of whole episodes, in nats, `[]`: the world's own part cancels.

        D_traj(first ‖ second) = Σ_h Σ_s P_first(s_h = s) KL(first(·|s) ‖ second(·|s))

    Args:
      first, second: policies `[S, A]` or `[H, S, A]`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> policies = [log_policy(problem, jnp.log(jnp.array([p]))) for p in ([0.4, 0.4, 0.1, 0.1], [0.25] * 4)]
    >>> round(float(trajectory_kl(problem, *policies)), 4)
    0.1927
    """
    there = first > -jnp.inf
    ratio = jnp.where(there, jnp.where(there, first, 0) - second, 0)
    return (visits(problem.world, jnp.exp(first)) * (jnp.exp(first) * ratio).sum(-1)).sum()


def advantages(problem: ExactProblem, policy: Array) -> tuple[Array, Array]:
    """A[h, s, a] = Q - V of the reward, `[H, S, A]`, and how often each is looked at: P(s_h = s) π(a|s), `[H, S, A]`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> problem = exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    >>> advantage, weight = advantages(problem, log_policy(problem, jnp.zeros((1, 4))))
    >>> advantage[0, 0].tolist(), weight[0, 0].tolist()
    ([-0.5, -0.5, 0.5, 0.5], [0.25, 0.25, 0.25, 0.25])
    """
    values = action_values(problem.world, jnp.exp(policy), problem.world.reward)
    weight = visits(problem.world, jnp.exp(policy))[..., None] * jnp.exp(policy)
    return values.q - values.v[..., None], weight
