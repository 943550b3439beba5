"""The objectives of the study and what is swept of each: the benchmark's, and for networks smaller steps of Adam."""

from polopt_jax.study._ground import TABLE
from polopt_jax.suite import METHODS, Row

_NETWORK_RATES = (0.001, 0.003, 0.01)
"""A step of Adam moves every parameter alike: a table's by a logit, a network's many to the same end."""
_GRPO_BETA = 0.04

OBJECTIVES = ("reinforce", "npg", "trpo", "ppo", "dpo", "grpo", "grpo-kl")
"""In the order of the history."""
_OF_ADAM = ("reinforce", "ppo", "dpo", "grpo", "grpo-kl")


def objective(name: str, scale: str) -> Row:
    """The row of an objective at a scale, with the settings that are swept there."""
    row = METHODS[name] if name != "grpo-kl" else _with_penalty()
    return row._replace(values=_NETWORK_RATES) if name in _OF_ADAM and scale != TABLE else row


def _with_penalty() -> Row:
    """GRPO with the penalty of its paper, swept as GRPO is: by its learning rate."""
    from polopt_jax import algorithms

    return METHODS["grpo"]._replace(
        name="grpo-kl",
        build=lambda problem, rate: algorithms.grpo(
            problem.group, learning_rate=rate, num_minibatches=1, beta=_GRPO_BETA
        ),
    )
