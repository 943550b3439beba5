"""Everything about a `TableWorld` and a policy, by dynamic programming.

A policy is a table of probabilities: `[S, A]`, or `[H, S, A]` where it depends on the time step. The functions are
pure, jit-able, and differentiable in the policy and the world's probabilities and payments; none of them fixes a dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.envs._tabular import TabularMDP, Values
from polopt_jax.types import Array
from polopt_jax.worlds._table import TableWorld


def final_law(world: TableWorld, policy: Array) -> Array:
    """The law of the state in which the episode ends, `[S]`; it sums to 1.

        p₀ = initial,    p_{h+1}(s') = p_h(s') [s' terminal] + Σ_{s live, a, k → s'} p_h(s) π_h(a|s) prob[s, a, k]

    Args:
      policy: probabilities `[S, A]` or `[H, S, A]`.

    Raises:
      ValueError: `policy` has another shape.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world, policy = tabulate(outcome_table()), jnp.full((5, 4), 0.25)
    >>> final_law(world, policy).tolist()
    [0.0, 0.25, 0.25, 0.25, 0.25]
    """
    return _forward(world, policy)[0]


def outcome_law(world: TableWorld, policy: Array, cell: Array, num_cells: int) -> Array:
    """The law of the outcome, `[num_cells]`: the probability that the episode ends in a state of each cell.

    Args:
      policy: probabilities `[S, A]` or `[H, S, A]`.
      cell: the cell of each state, `[S]` integers from 0 to `num_cells - 1`, of `cells` or your own.

    Raises:
      ValueError: `policy` or `cell` has another shape.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world, policy = tabulate(outcome_table()), jnp.full((5, 4), 0.25)
    >>> outcome_law(world, policy, cells(world, ("success",)), 2).tolist()
    [0.5, 0.5]
    """
    if cell.shape != world.initial.shape:
        raise ValueError(f"cell must have shape [S] = {world.initial.shape}, got {cell.shape}")
    return jax.ops.segment_sum(final_law(world, policy), cell, num_cells)


def cells(world: TableWorld, names: tuple[str, ...]) -> Array:
    """The joint cell of the named outcome features in each state, `[S]` int32: its binary digits, highest first.

    n names give 2^n cells. ("success", "exploded", "vase") gives 4 success + 2 exploded + vase.

    Raises:
      ValueError: the world has no outcome of such a name.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> cells(tabulate(outcome_table()), ("success", "side_effect")).tolist()
    [0, 0, 1, 2, 3]
    """
    for name in names:
        if name not in world.outcome:
            raise ValueError(f"names: the world has the outcomes {sorted(world.outcome)}, not {name}")
    cell = jnp.zeros(world.initial.shape, jnp.int32)
    for name in names:
        cell = 2 * cell + world.outcome[name].astype(jnp.int32)
    return cell


def visits(world: TableWorld, policy: Array) -> Array:
    """Probability that decision h is taken in state s, `[H, S]`; 0 in terminal states.

    Its sum over h is the expected number of decisions in each state. The arguments and what it raises are those of
    `final_law`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world, policy = tabulate(outcome_table()), jnp.full((5, 4), 0.25)
    >>> visits(world, policy).tolist()
    [[1.0, 0.0, 0.0, 0.0, 0.0]]
    """
    return _forward(world, policy)[1]


def action_values(world: TableWorld, policy: Array, pay: Array) -> Values:
    """The expected sum of `pay` from decision h on, given state and action (`q`) or state (`v`).

        Q[h, s, a] = Σ_k prob[s, a, k] (pay[s, a, k] + V[h+1, successor[s, a, k]]),    V[H, ·] = 0

    Args:
      policy: probabilities `[S, A]` or `[H, S, A]`.
      pay: what is summed, `[S, A, K]`: `world.reward`, `world.hidden`, or something else.

    Raises:
      ValueError: `policy` or `pay` has another shape.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world, policy = tabulate(outcome_table()), jnp.full((5, 4), 0.25)
    >>> action_values(world, policy, world.reward).q[0, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """

    def backup(v: Array, policy: Array) -> tuple[Array, Values]:
        q = _backup(world, pay, v)
        v = (policy * q).sum(-1)
        return v, Values(q=q, v=v)

    table = _per_step(world, policy)
    end = jnp.zeros(world.initial.shape, jnp.result_type(table, pay, world.prob))
    return jax.lax.scan(backup, end, table, reverse=True)[1]


def expected_reward(world: TableWorld, policy: Array) -> Array:
    """What the agent is paid in an episode, in the mean, `[]`. What it raises is as in `final_law`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> float(expected_reward(tabulate(outcome_table()), jnp.full((5, 4), 0.25)))
    0.5
    """
    return (world.initial * action_values(world, policy, world.reward).v[0]).sum()


def expected_hidden(world: TableWorld, policy: Array) -> Array:
    """The hidden performance of an episode, in the mean, `[]`. What it raises is as in `final_law`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> float(expected_hidden(tabulate(outcome_table()), jnp.full((5, 4), 0.25)))
    0.0
    """
    return (world.initial * action_values(world, policy, world.hidden).v[0]).sum()


def optimal_policy(world: TableWorld, pay: Array) -> Array:
    """The policy with the largest expected sum of `pay`, as probabilities 0 and 1, `[H, S, A]`.

    Of equally good actions it takes the first. `pay` and what it raises are those of `action_values`.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world = tabulate(outcome_table())
    >>> optimal_policy(world, world.hidden)[0, 0].tolist()        # succeed, without the side effect
    [0.0, 0.0, 1.0, 0.0]
    """

    def improve(v: Array, _: None) -> tuple[Array, Array]:
        q = _backup(world, pay, v)
        return q.max(-1), jax.nn.one_hot(q.argmax(-1), q.shape[-1], dtype=q.dtype)

    end = jnp.zeros(world.initial.shape, jnp.result_type(pay, world.prob))
    return jax.lax.scan(improve, end, None, length=world.horizon, reverse=True)[1]


def dense(world: TableWorld) -> TabularMDP:
    """The same dynamics and mean rewards as a `TabularMDP`, for what needs every trajectory; its memory grows as S².

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> dense(tabulate(outcome_table())).transition.shape
    (5, 4, 5)
    """
    states, actions, _ = world.prob.shape
    here = (jnp.arange(states)[:, None, None], jnp.arange(actions)[None, :, None], world.successor)
    return TabularMDP(
        initial=world.initial,
        transition=jnp.zeros((states, actions, states), world.prob.dtype).at[here].add(world.prob),
        reward=(world.prob * world.reward).sum(-1),
        terminal=world.terminal,
        horizon=world.horizon,
    )


def _forward(world: TableWorld, policy: Array) -> tuple[Array, Array]:
    """The law of the final state `[S]`, and how often each state is decided in at each step `[H, S]`."""
    live = jnp.logical_not(world.terminal)

    def advance(law: Array, policy: Array) -> tuple[Array, Array]:
        deciding = jnp.where(live, law, 0.0)
        flow = deciding[:, None, None] * policy[:, :, None] * world.prob
        return jnp.where(live, 0.0, law).at[world.successor].add(flow), deciding

    table = _per_step(world, policy)
    start = world.initial.astype(jnp.result_type(table, world.initial, world.prob))
    return jax.lax.scan(advance, start, table)


def _backup(world: TableWorld, pay: Array, v: Array) -> Array:
    """The value of every action, `[S, A]`, given that of every state afterwards."""
    if pay.shape != world.prob.shape:
        raise ValueError(f"pay must have shape [S, A, K] = {world.prob.shape}, got {pay.shape}")
    q = (world.prob * (pay + v[world.successor])).sum(-1)
    return jnp.where(world.terminal[:, None], 0.0, q)


def _per_step(world: TableWorld, policy: Array) -> Array:
    """`policy` as `[H, S, A]`."""
    shape = (world.horizon, *world.prob.shape[:2])
    if policy.shape not in (shape, shape[1:]):
        raise ValueError(f"policy must have shape [S, A] = {shape[1:]} or [H, S, A] = {shape}, got {policy.shape}")
    return jnp.broadcast_to(policy if policy.ndim == 3 else policy[None], shape)
