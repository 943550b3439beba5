"""The objectives of the study and what is swept of each: the benchmark's, and for networks smaller steps of Adam."""

from __future__ import annotations

from polopt_jax.suite import METHODS, Row

_GRPO_BETA = 0.04

OBJECTIVES = ("reinforce", "npg", "trpo", "ppo", "dpo", "grpo", "grpo-kl")
"""In the order of the history."""
SEEDS = 10
"""Of each combination, as registered."""
_OF_ADAM = ("reinforce", "ppo", "dpo", "grpo", "grpo-kl")


def objective(name: str, rates: tuple[float, ...] | None) -> Row:
    """The row of an objective, which sweeps those learning rates if it is one of Adam's; None for a table's own."""
    row = METHODS[name] if name != "grpo-kl" else _with_penalty()
    return row if rates is None or name not in _OF_ADAM else row._replace(values=rates)


def _with_penalty() -> Row:
    """GRPO with the penalty of its paper, swept as GRPO is: by its learning rate."""
    from polopt_jax import algorithms

    return METHODS["grpo"]._replace(
        name="grpo-kl",
        build=lambda problem, rate: algorithms.grpo(
            problem.group, learning_rate=rate, num_minibatches=1, beta=_GRPO_BETA
        ),
    )
