"""The flags of each command, as frozen dataclasses that tyro reads. What they mean is checked in `_plan`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from polopt_jax.cli._hyperparameters import Hyperparameters


def _parse_count(text: str) -> int:
    """A whole number, also as 1e6 or 1_000_000."""
    number = float(text)
    if number != int(number):  # int() itself refuses NaN and infinity
        raise ValueError(f"{text} is not a whole number")
    return int(text) if text.lstrip("+-").replace("_", "").isdigit() else int(number)


_count = tyro.constructors.PrimitiveConstructorSpec[int](
    nargs=1,
    metavar="N",
    instance_from_str=lambda words: _count_or_explain(words[0]),
    is_instance=lambda x: isinstance(x, int),
    str_from_instance=lambda x: [str(x)],
)


def _count_or_explain(text: str) -> int:
    try:
        return _parse_count(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a whole number") from None


def _hint(metavar: str, default: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_Count = Annotated[int, _count]


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
    backend: Annotated[str | None, _hint("NAME", "spring, where there is a choice")] = None
    """Physics of a Brax environment: generalized, spring, positional or mjx."""
    steps: Annotated[_Count | None, _hint("N", "by environment")] = None
    """Environment steps (decisions) of each seed, rounded up to whole updates."""
    num_envs: Annotated[_Count | None, _hint("N", "the preset's")] = None
    """Environments side by side; for the token world, sequences per update."""
    rollout_steps: Annotated[_Count | None, _hint("N", "the preset's")] = None
    """Steps of each environment between updates."""
    episode_length: Annotated[_Count | None, _hint("N", "1000")] = None
    """Time limit of a Brax episode."""
    group_size: Annotated[_Count | None, _hint("N", "8")] = None
    """Attempts at each prompt of the token world."""
    seed: Annotated[_Count, _hint("N", "0")] = 0
    """The first seed."""
    num_seeds: Annotated[_Count, _hint("N", "1")] = 1
    """Seeds trained side by side: seed, seed + 1, ..."""
    out: Annotated[Path | None, _hint("DIR", "runs/ENV-ALGORITHM-SEED, numbered if there is one")] = None
    """The run directory. It must be new or empty, unless --resume is given."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --out. Its options must be the same; --steps may be larger."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the result as JSON."""
    hyperparameters: Hyperparameters = Hyperparameters()


@dataclass(frozen=True)
class Compare:
    """Train several algorithms under the same conditions and print one table.

    Without arguments: REINFORCE, actor-critic, NPG, TRPO and PPO on inverted_pendulum, then those and DPO and GRPO
    on the token world, three seeds each, in about five minutes on two CPU cores. Curves and a report go to the run
    directory.
    """

    algorithms: Annotated[tuple[str, ...], _hint("NAME ...", "all that each environment has")] = ()
    """Which to compare."""
    env: Annotated[tuple[str, ...], _hint("NAME ...", "inverted_pendulum skip_the_test")] = (
        "inverted_pendulum",
        "skip_the_test",
    )
    """On which environments."""
    budget: Annotated[float, _hint("FLOAT", "1")] = 1.0
    """Multiplies the steps: 0.1 for a first look, 10 for an evening."""
    steps: Annotated[_Count | None, _hint("N", "by environment")] = None
    """Environment steps (decisions) of each seed at budget 1."""
    backend: Annotated[str | None, _hint("NAME", "spring, where there is a choice")] = None
    """Physics of the Brax environments."""
    num_envs: Annotated[_Count | None, _hint("N", "each preset's")] = None
    """Environments (or sequences) side by side, for all algorithms."""
    episode_length: Annotated[_Count | None, _hint("N", "1000")] = None
    """Time limit of a Brax episode."""
    seed: Annotated[_Count, _hint("N", "0")] = 0
    """The first seed."""
    num_seeds: Annotated[_Count, _hint("N", "3")] = 3
    """Seeds trained side by side: seed, seed + 1, ..."""
    out: Annotated[Path | None, _hint("DIR", "runs/compare, numbered if there is one")] = None
    """The run directory. It must be new or empty."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Envs:
    """List the environments: sizes, backends, what is rewarded."""
