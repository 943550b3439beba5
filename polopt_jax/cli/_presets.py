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
    """Keyword arguments of the recipe; what is a function has a name (`_recipes.NAMED`)."""


class Presets(NamedTuple):
    """How to run one algorithm. What is left out runs with the recipe's own defaults."""

    control: Preset = Preset(64, 16, {})
    """On environments; without meaning for a recipe that takes a `GroupTask`."""
    tokens: Preset = Preset(256, 24, {})
    """On token worlds."""


PRESETS = {
    "reinforce": Presets(
        Preset(64, 32, {"learning_rate": 5e-4}),
        Preset(256, 24, {"gamma": 1.0}),
    ),
    "actor_critic": Presets(
        Preset(64, 16, {}),
        Preset(256, 24, {"gamma": 1.0}),
    ),
    "npg": Presets(
        Preset(64, 16, {"learning_rate": 0.4, "value_epochs": 2}),
        Preset(256, 24, {"learning_rate": 0.3, "gamma": 1.0, "fisher_every": 4, "value_epochs": 2}),
    ),
    "trpo": Presets(
        Preset(64, 16, {"value_epochs": 2}),
        Preset(256, 24, {"radius": 0.02, "gamma": 1.0, "fisher_every": 4, "value_epochs": 2}),
    ),
    "ppo": Presets(
        Preset(64, 16, {"learning_rate": 5e-4}),
        Preset(256, 24, {"learning_rate": 1e-3, "gamma": 1.0}),
    ),
    "dpo": Presets(tokens=Preset(128, 24, {"num_pairs": 512, "max_redraws": 32})),
    "grpo": Presets(tokens=Preset(256, 24, {})),
}
"""By algorithm, in the order of their history: these are the ones that the command knows.

PPO at 1e-3 is ahead for 0.6M steps on inverted_pendulum, but by 2M its five seeds have fallen to 220: the KL of an
update grows as the policy narrows. At 5e-4 they stay up. So does REINFORCE there, whose five seeds come to 526 by 2M at
5e-4, to 401 at 1e-3 and to 136 at the recipe's 3e-3. A token world rewards the last token alone, so it is learnt
without a discount."""
