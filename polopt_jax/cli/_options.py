"""The flags of each command, as frozen dataclasses that tyro reads. What they mean is checked in `_plan`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


def _word(parse: Callable[[str], Any], kind: str) -> Any:
    """A flag of one word that `parse` reads; its default may be None."""

    def read(words: list[str]) -> Any:
        try:
            return parse(words[0])
        except (ValueError, OverflowError):
            raise ValueError(f"{words[0]!r} is not {kind}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="", instance_from_str=read, is_instance=lambda x: True, str_from_instance=lambda x: [str(x)]
    )


def _parse_whole(text: str) -> int:
    """A whole number, also as 1e6 or 1_000_000.

    >>> _parse_whole("1e6"), _parse_whole("1_000")
    (1000000, 1000)
    """
    try:
        return int(text)
    except ValueError:
        if float(text) != int(float(text)):
            raise
        return int(float(text))


def _one_or_two(text: str) -> float | tuple[float, float]:
    """One number, or two.

    >>> _one_or_two("0.2"), _one_or_two("0.2,0.28")
    (0.2, (0.2, 0.28))
    """
    first, *second = map(float, text.split(","))
    if len(second) > 1:
        raise ValueError
    return (first, second[0]) if second else first


WHOLE = _word(_parse_whole, "a whole number")
NUMBER = _word(float, "a number")
NUMBERS = _word(_one_or_two, "a number, or two with a comma between")
NAME = _word(str, "a name")
NAMES = _word(lambda text: tuple(text.split(",")), "names with commas between them")
_SIZES = _word(lambda text: tuple(_parse_whole(size) for size in text.split(",")), "whole numbers with commas between")


def shown(metavar: str, default: str) -> Any:
    """Name of the value in the help, and what the help says of the default."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


SWITCH = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Train:
    """Train one algorithm on one environment, with checkpoints, curves and a report. (On texts of your own: --data FILE
    in place of --env, and then --help has its options.)

    Everything goes to a run directory: config.json, metrics.jsonl (a line per chunk of updates), checkpoints,
    curves.png and report.html. Ctrl-C saves and says how to go on. `polopt envs` lists the environments.
    """

    env: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Brax's, skip_the_test (a token world), package.module:factory (yours), playground:NAME, gymnasium:NAME (slow)."""
    backend: Annotated[str | None, NAME, shown("NAME", "spring, where there is a choice")] = None
    """Physics of a Brax environment: generalized, spring, positional or mjx."""
    steps: Annotated[int | None, WHOLE, shown("N", "by environment")] = None
    """Decisions that each seed learns from, rounded up to whole updates."""
    num_envs: Annotated[int | None, WHOLE, shown("N", "the preset's")] = None
    """Environments side by side; for the token world, sequences per update."""
    rollout_steps: Annotated[int | None, WHOLE, shown("N", "the preset's")] = None
    """Steps of each environment between updates."""
    episode_length: Annotated[int | None, WHOLE, shown("N", "1000")] = None
    """Time limit of an episode of Brax's or Playground's."""
    vectorization: Annotated[str | None, NAME, shown("NAME", "sync")] = None
    """Simulators of Gymnasium's: sync, in turn in this process, or async, each in a process of its own (slow ones)."""
    group_size: Annotated[int | None, WHOLE, shown("N", "8")] = None
    """Attempts at each prompt of the token world."""
    hidden: Annotated[tuple[int, ...] | None, _SIZES, shown("N,N,...", "64,64")] = None
    """Units of each hidden layer, of the policy's network and of the critic's."""
    activation: Annotated[str | None, NAME, shown("NAME", "tanh")] = None
    """What follows each hidden layer: tanh, relu, silu, gelu or elu."""
    initial_log_std: Annotated[float | None, NUMBER, shown("FLOAT", "-1")] = None
    """Log of the first policy's standard deviation, where actions are real: 0 is half the width of their box."""
    schedule: Annotated[str | None, NAME, shown("NAME", "constant")] = None
    """What becomes of the learning rate until the last update: constant, or linear or cosine down to 0."""
    eval_every: Annotated[int | None, WHOLE, shown("N", "never")] = None
    """Steps of each seed between two evaluations: whole episodes, the most probable action, nothing learnt."""
    eval_episodes: Annotated[int | None, WHOLE, shown("N", "16")] = None
    """Episodes of an evaluation."""
    seed: Annotated[int, WHOLE, shown("N", "0")] = 0
    """The first seed."""
    num_seeds: Annotated[int, WHOLE, shown("N", "1")] = 1
    """Seeds trained side by side: seed, seed + 1, ..."""
    out: Annotated[Path | None, shown("DIR", "a new one in runs/")] = None
    """The run directory. It must be new or empty, unless --resume is given."""
    config: Annotated[Path | None, shown("FILE", "none")] = None
    """Options from a JSON file, such as the config.json of a run; those on the command line come first."""
    log_to: Annotated[tuple[str, ...], NAMES, shown("NAME,...", "none")] = ()
    """Where the numbers go besides metrics.jsonl: csv, tensorboard, wandb."""
    devices: Annotated[int | None, WHOLE, shown("N", "1; of several processes, all")] = None
    """Devices to split the environments over; of each process, where there are several. CPUs can be any number."""
    coordinator: Annotated[str | None, NAME, shown("HOST:PORT", "one process")] = None
    """Where process 0 of several is met; auto, where JAX finds that (SLURM, Open MPI, Kubernetes, TPU)."""
    num_processes: Annotated[int | None, WHOLE, shown("N", "as the cluster says")] = None
    """How many processes do the run together. See docs/clusters.md."""
    process_id: Annotated[int | None, WHOLE, shown("I", "as the cluster says")] = None
    """Which of them this is, from 0."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on with the run in --out, which is all that need be said; --steps may be larger."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Resume:
    """Go on with a run of polopt train: what it is a run of stands in its directory."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run directory."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on."""
    steps: Annotated[int | None, WHOLE, shown("N", "those that it was started for")] = None
    """Decisions that each seed learns from, in all; more than it was started for."""
    devices: Annotated[int | None, WHOLE, shown("N", "1; of several processes, all")] = None
    """Devices to split the environments over; of each process, where there are several. CPUs can be any number."""
    coordinator: Annotated[str | None, NAME, shown("HOST:PORT", "one process")] = None
    """Where process 0 of several is met; auto, where JAX finds that (SLURM, Open MPI, Kubernetes, TPU)."""
    num_processes: Annotated[int | None, WHOLE, shown("N", "as the cluster says")] = None
    """How many processes do the run together. See docs/clusters.md."""
    process_id: Annotated[int | None, WHOLE, shown("I", "as the cluster says")] = None
    """Which of them this is, from 0."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class ResumeCompare:
    """Go on with a comparison: what it compares stands in its directory."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run directory."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on with the runs that are not finished."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Evaluate:
    """Run whole episodes of what a run has learnt, greedily and sampled.

    Every seed of the run, from its newest checkpoint; nothing in the directory changes, and the run may still be going
    on. Of a token world, an episode is an answer; of a run on texts, what was held out is looked at.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The directory of a run of polopt train."""
    episodes: Annotated[int, WHOLE, shown("N", "100")] = 100
    """Episodes of each seed, each from a first state of its own."""
    key: Annotated[int, WHOLE, shown("N", "0")] = 0
    """Randomness of first states, actions and dynamics, the same for every seed of the run."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Play:
    """Watch what a run has learnt: one episode, on a page that plays it, also offline; a GIF if you like.

    Bodies are drawn, with curves of rewards, actions and observations. Of a token world, the page has answers, each
    token coloured by its probability; of a run on texts completions before and after, coloured by log-ratio. The newest
    checkpoint plays; of the run's directory nothing else changes, and the run may still be going on.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The directory of a run of polopt train."""
    seed: Annotated[int | None, WHOLE, shown("N", "the first")] = None
    """Which of the run's seeds."""
    key: Annotated[int, WHOLE, shown("N", "0")] = 0
    """Randomness of the first state, actions and dynamics, or of prompts and answers."""
    sampled: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Sample actions, as in training, and do not take the most probable ones."""
    max_steps: Annotated[int | None, WHOLE, shown("N", "1000")] = None
    """Steps after which an episode that goes on is shown so far."""
    html: Annotated[Path | None, shown("FILE", "play.html in RUN")] = None
    """Write the page to a new file."""
    gif: Annotated[Path | None, shown("FILE", "none")] = None
    """Write the first twelve seconds to a new file as well, of what has bodies or draws itself."""


@dataclass(frozen=True)
class Export:
    """Write what a run has learnt to a safetensors file, which NumPy alone can read.

    The newest checkpoint's parameters, what observations are normalised by, and the run's config as metadata.
    polopt_jax.export.import_params reads it back.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The directory of a run of polopt train."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The new file."""
    seed: Annotated[int | None, WHOLE, shown("N", "the first")] = None
    """Which of the run's seeds."""


@dataclass(frozen=True)
class Compare:
    """Train several algorithms under the same conditions and print one table.

    Without arguments: everything that inverted_pendulum can be learnt with, then everything that the token world can,
    three seeds each, in about five minutes on two CPU cores. Curves and a report go to the run directory, and each run
    to one of its own in it, with checkpoints.
    """

    algorithms: Annotated[tuple[str, ...], shown("NAME ...", "all that each environment has")] = ()
    """Which to compare."""
    env: Annotated[tuple[str, ...], shown("NAME ...", "inverted_pendulum skip_the_test")] = (
        "inverted_pendulum",
        "skip_the_test",
    )
    """On which environments."""
    budget: Annotated[float, NUMBER, shown("FLOAT", "1")] = 1.0
    """Multiplies the steps: 0.1 for a first look, 10 for an evening."""
    steps: Annotated[int | None, WHOLE, shown("N", "by environment")] = None
    """Decisions that each seed learns from at budget 1."""
    backend: Annotated[str | None, NAME, shown("NAME", "spring, where there is a choice")] = None
    """Physics of the Brax environments."""
    num_envs: Annotated[int | None, WHOLE, shown("N", "each preset's")] = None
    """Environments (or sequences) side by side, for all algorithms."""
    episode_length: Annotated[int | None, WHOLE, shown("N", "1000")] = None
    """Time limit of a Brax episode."""
    seed: Annotated[int, WHOLE, shown("N", "0")] = 0
    """The first seed."""
    num_seeds: Annotated[int, WHOLE, shown("N", "3")] = 3
    """Seeds trained side by side: seed, seed + 1, ..."""
    out: Annotated[Path | None, shown("DIR", "a new one in runs/")] = None
    """The run directory. It must be new or empty, unless --resume is given, with which it is all that need be said."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Envs:
    """List the environments (sizes, backends, what is rewarded) and the outcome worlds, draw a world, or look at yours.

    Of a world everything is known exactly: how it looks, what the best policies earn, and what they bring about.
    """

    name: Annotated[tyro.conf.Positional[str | None], NAME, shown("[NAME]", "all")] = None
    """One environment or world; package.module:factory is looked at as training would."""
    html: Annotated[Path | None, shown("FILE", "none")] = None
    """Write a page with all worlds, or with the one that is named, to a new file."""
