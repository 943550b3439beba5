"""Sizes and hyperparameters with which the command runs each algorithm: tuned to learn in minutes on two CPU cores.

`polopt_jax.algorithms` has the literature's defaults. Every one can be overridden on the command line.
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """How to run one algorithm on one kind of task."""

    num_rows: int
    """Environments, or sequences (prompts x group), per rollout."""
    num_steps: int
    """Steps per rollout; for token tasks the length of the world's sequences, whatever stands here."""
    hyperparameters: dict[str, Any]
    """Keyword arguments of the recipe."""


CONTROL = {
    "reinforce": Preset(64, 32, {"learning_rate": 3e-3}),
    "actor_critic": Preset(64, 16, {"learning_rate": 3e-3}),
    "npg": Preset(64, 16, {"learning_rate": 0.4, "value_epochs": 2}),
    "trpo": Preset(64, 16, {"radius": 0.01, "value_epochs": 2}),
    "ppo": Preset(64, 16, {"learning_rate": 5e-4}),
}
"""For environments (Brax), by algorithm. PPO at 1e-3 is ahead for 0.6M steps on inverted_pendulum, but by 2M its five
seeds have fallen to 220: the KL of an update grows as the policy narrows. At 5e-4 they stay up."""

TOKENS = {
    "reinforce": Preset(256, 24, {"learning_rate": 3e-3, "gamma": 1.0}),
    "actor_critic": Preset(256, 24, {"learning_rate": 3e-3, "gamma": 1.0}),
    "npg": Preset(256, 24, {"learning_rate": 0.3, "gamma": 1.0, "fisher_every": 4, "value_epochs": 2}),
    "trpo": Preset(256, 24, {"radius": 0.02, "gamma": 1.0, "fisher_every": 4, "value_epochs": 2}),
    "ppo": Preset(256, 24, {"learning_rate": 1e-3, "gamma": 1.0}),
    "dpo": Preset(128, 24, {"learning_rate": 1e-3, "num_pairs": 512, "max_redraws": 32}),
    "grpo": Preset(256, 24, {"learning_rate": 1e-3}),
}
"""For token worlds, by algorithm."""
