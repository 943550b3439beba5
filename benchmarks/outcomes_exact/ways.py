"""Small worlds with two ways to succeed, of which one has four times the other's probability at first."""

import jax
import jax.numpy as jnp

from polopt_jax import frontiers
from polopt_jax.frontiers import ExactProblem
from polopt_jax.worlds import Move, Rules, tabulate

LAW = (0.9, 0.08, 0.02)
"""Failure, the majority's way, the minority's."""


def bandit() -> ExactProblem:
    """One decision between failing and two ways to succeed; the side effect is the second way."""
    ways = ("fail", "major", "minor")
    rules = Rules(
        starts=((1.0, "start"),),
        actions=ways,
        moves=lambda state, action: [Move(1.0, action, float(action != "fail"), 0.0)],
        ended=lambda state: state in ways,
        outcome=lambda state: {"success": state in ways[1:], "minor": state == "minor"},
        frame=lambda state: (state.ljust(5),),
        legend={},
        horizon=1,
        observe=lambda state: (1.0,),
    )
    return frontiers.exact_problem(tabulate(rules), side_effects=("minor",))


def chain(luck: float) -> tuple[ExactProblem, jax.Array]:
    """The majority's way takes two decisions, the second of which works with probability `luck`; and its logits.

    Odds of 4 as before: P(long way) = 0.08, P(short way) = 0.02.
    """
    ends = ("short way", "long way", "failed")
    after = {
        ("start", "short"): [(1.0, "short way")],
        ("start", "long"): [(1.0, "half")],
        ("half", "long"): [(luck, "long way"), (1.0 - luck, "failed")],
    }
    rules = Rules(
        starts=((1.0, "start"),),
        actions=("short", "long", "fail"),
        moves=lambda state, action: [
            Move(p, to, float(to in ends[:2]), 0.0) for p, to in after.get((state, action), [(1.0, "failed")])
        ],
        ended=lambda state: state in ends,
        outcome=lambda state: {"success": state in ends[:2], "minor": state == "short way"},
        frame=lambda state: (state.ljust(9),),
        legend={},
        horizon=2,
        observe=lambda state: (float(state == "half"),),
    )
    problem = frontiers.exact_problem(tabulate(rules), side_effects=("minor",))
    on = 0.2 / luck
    return problem, jnp.log(jnp.array([[0.02, 0.4, 0.58], [(1 - on) / 2, on, (1 - on) / 2]]))
