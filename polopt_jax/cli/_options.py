"""The flags of each command, as frozen dataclasses that tyro reads. What they mean is checked in `_plan`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polopt_jax.cli._flags import name_, number, setting, whole_number
from polopt_jax.cli._hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Train:
    """Train one algorithm on one environment, with checkpoints, curves and a report.

    Everything goes to a run directory: config.json, metrics.jsonl (a line per chunk of updates), checkpoints,
    curves.png and report.html. Ctrl-C saves and says how to go on. `polopt envs` lists the environments.
    """

    algorithm: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGORITHM")]
    """reinforce, actor_critic, npg, trpo, ppo; for the token world also dpo and grpo."""
    env: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """A Brax environment, or the token world skip_the_test."""
    backend: Annotated[str | None, name_, setting("NAME", "spring, where there is a choice")] = None
    """Physics of a Brax environment: generalized, spring, positional or mjx."""
    steps: Annotated[int | None, whole_number, setting("N", "by environment")] = None
    """Environment steps (decisions) of each seed, rounded up to whole updates."""
    num_envs: Annotated[int | None, whole_number, setting("N", "the preset's")] = None
    """Environments side by side; for the token world, sequences per update."""
    rollout_steps: Annotated[int | None, whole_number, setting("N", "the preset's")] = None
    """Steps of each environment between updates."""
    episode_length: Annotated[int | None, whole_number, setting("N", "1000")] = None
    """Time limit of a Brax episode."""
    group_size: Annotated[int | None, whole_number, setting("N", "8")] = None
    """Attempts at each prompt of the token world."""
    seed: Annotated[int, whole_number, setting("N", "0")] = 0
    """The first seed."""
    num_seeds: Annotated[int, whole_number, setting("N", "1")] = 1
    """Seeds trained side by side: seed, seed + 1, ..."""
    out: Annotated[Path | None, setting("DIR", "a new one in runs/")] = None
    """The run directory. It must be new or empty, unless --resume is given."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Go on with the run in --out. Its options must be the same; --steps may be larger."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as JSON."""
    hyperparameters: Hyperparameters = Hyperparameters()


@dataclass(frozen=True)
class Compare:
    """Train several algorithms under the same conditions and print one table.

    Without arguments: REINFORCE, actor-critic, NPG, TRPO and PPO on inverted_pendulum, then those and DPO and GRPO
    on the token world, three seeds each, in about five minutes on two CPU cores. Curves and a report go to the run
    directory.
    """

    algorithms: Annotated[tuple[str, ...], setting("NAME ...", "all that each environment has")] = ()
    """Which to compare."""
    env: Annotated[tuple[str, ...], setting("NAME ...", "inverted_pendulum skip_the_test")] = (
        "inverted_pendulum",
        "skip_the_test",
    )
    """On which environments."""
    budget: Annotated[float, number, setting("FLOAT", "1")] = 1.0
    """Multiplies the steps: 0.1 for a first look, 10 for an evening."""
    steps: Annotated[int | None, whole_number, setting("N", "by environment")] = None
    """Environment steps (decisions) of each seed at budget 1."""
    backend: Annotated[str | None, name_, setting("NAME", "spring, where there is a choice")] = None
    """Physics of the Brax environments."""
    num_envs: Annotated[int | None, whole_number, setting("N", "each preset's")] = None
    """Environments (or sequences) side by side, for all algorithms."""
    episode_length: Annotated[int | None, whole_number, setting("N", "1000")] = None
    """Time limit of a Brax episode."""
    seed: Annotated[int, whole_number, setting("N", "0")] = 0
    """The first seed."""
    num_seeds: Annotated[int, whole_number, setting("N", "3")] = 3
    """Seeds trained side by side: seed, seed + 1, ..."""
    out: Annotated[Path | None, setting("DIR", "a new one in runs/")] = None
    """The run directory. It must be new or empty."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Envs:
    """List the environments: sizes, backends, what is rewarded."""
