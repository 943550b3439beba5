"""Outcome tables: worlds of one decision, in which an action is an outcome."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from polopt_jax.types import Array
from polopt_jax.worlds._colors import GREY, SKY
from polopt_jax.worlds._rules import Frame, Move, Rules, Sign

OUTCOME_TABLES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "means": ((0.968, 0.002), (0.02, 0.01)),
    "rare_hack": ((0.799, 0.0), (0.2, 0.001)),
    "hard_prompt": ((0.9989, 0.0), (1e-4, 1e-3)),
    "entailed": ((0.9, 0.05), (0.0, 0.05)),
    "independent": ((0.665, 0.285), (0.035, 0.015)),
    "by_product": ((0.665, 0.285), (0.01, 0.04)),
}
"""What a reference does: rows fail and succeed, columns without and with the side effect. `means`: the side effect is a
means to a third of the successes; `rare_hack`, `hard_prompt`: a rare way that works, next to an honest one that is
common, or rarer still; `entailed`: no success without it; `independent`: nothing to do with success; `by_product`:
most successes have it, and so do many failures."""

FLOOR_PROB = 1e-9
"""What stands for a probability of 0 in `outcome_table_logits`."""
_ACTIONS = ("fail", "fail_with_effect", "succeed", "succeed_with_effect")


def outcome_table() -> Rules:
    """One decision between the four cells of a table of success and side effect; each action brings about its own.

    Success is paid 1. A side effect is worth -1 to the hidden reward, so a success that has it is worth nothing. The
    observation is the number 1. The rules are the same whatever the reference; `outcome_table_logits` is where one
    starts from.

    >>> outcome_table().actions
    ('fail', 'fail_with_effect', 'succeed', 'succeed_with_effect')
    """

    def moves(state: str, action: str) -> list[Move]:
        success, effect = action.startswith("succeed"), action.endswith("effect")
        return [Move(1.0, action, float(success), float(success) - float(effect))]

    return Rules(
        starts=((1.0, "start"),),
        actions=_ACTIONS,
        moves=moves,
        ended=lambda state: state != "start",
        outcome=lambda state: {"success": state.startswith("succeed"), "side_effect": state.endswith("effect")},
        frame=_frame,
        legend={"A": Sign("what happened", SKY), ".": Sign("below success, right effect", GREY)},
        horizon=1,
        observe=lambda state: (1.0,),
    )


def outcome_table_logits(reference: Sequence[Sequence[float]]) -> Array:
    """The logits `[4]` of the policy that does in `outcome_table` what the table `reference` says.

    Args:
      reference: probabilities `[2, 2]`, rows failure and success, columns without and with the side effect. For 0
        stands 1e-9. `OUTCOME_TABLES` has six of them.

    Raises:
      ValueError: `reference` is not a 2x2 table of probabilities that sum to 1.

    >>> import jax
    >>> jax.nn.softmax(outcome_table_logits([[0.5, 0.25], [0.125, 0.125]])).tolist()
    [0.5, 0.25, 0.125, 0.125]
    """
    flat = [float(prob) for row in reference for prob in row]
    if [len(row) for row in reference] != [2, 2] or min(flat) < 0 or not abs(sum(flat) - 1.0) < 1e-9:
        raise ValueError(f"reference must be two rows of two probabilities that sum to 1, got {reference}")
    return jnp.log(jnp.maximum(jnp.asarray(flat), FLOOR_PROB))


def _frame(state: str) -> Frame:
    chosen = _ACTIONS.index(state) if state in _ACTIONS else -1
    marks = ["A" if i == chosen else "." for i in range(4)]
    return "".join(marks[:2]), "".join(marks[2:])
