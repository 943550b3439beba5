"""The flags of each command, as frozen dataclasses that tyro reads. What they mean is checked in `_plan`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polopt_jax.cli._flags import (
    NAME,
    NUMBER,
    SIZES,
    SWITCH,
    WHOLE,
    Config,
    Coordinator,
    Devices,
    Json,
    LogTo,
    NumProcesses,
    NumSeeds,
    OneSeed,
    Out,
    ProcessId,
    Resumed,
    Run,
    Schedule,
    shown,
)


@dataclass(frozen=True)
class Train:
    """Train one algorithm on one environment, with checkpoints, curves and a report. (On texts of your own: --data FILE
    in place of --env, and then --help has its options.)

    Everything goes to a run directory: config.json, metrics.jsonl (a line per chunk of updates), checkpoints,
    curves.png and report.html. Ctrl-C saves and says how to go on. `polopt envs` lists the environments.
    """

    env: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Brax's, skip_the_test (a token world), package.module:factory (yours), gymnax:NAME, playground:NAME,
    gymnasium:NAME (slow)."""
    backend: Annotated[str | None, NAME, shown("NAME", "spring, where there is a choice")] = None
    """Physics of a Brax environment: generalized, spring, positional or mjx."""
    steps: Annotated[int | None, WHOLE, shown("N", "by environment")] = None
    """Decisions that each seed learns from, rounded up to whole rows of the log, of a few updates each."""
    num_envs: Annotated[int | None, WHOLE, shown("N", "the preset's")] = None
    """Environments side by side; for the token world, sequences per update."""
    rollout_steps: Annotated[int | None, WHOLE, shown("N", "the preset's")] = None
    """Steps of each environment between updates."""
    episode_length: Annotated[int | None, WHOLE, shown("N", "1000; of gymnax's their own")] = None
    """Time limit of an episode of Brax's, Playground's or gymnax's."""
    vectorization: Annotated[str | None, NAME, shown("NAME", "sync")] = None
    """Simulators of Gymnasium's: sync, in turn in this process, or async, each in a process of its own (slow ones)."""
    group_size: Annotated[int | None, WHOLE, shown("N", "8")] = None
    """Attempts at each prompt of the token world."""
    hidden: Annotated[tuple[int, ...] | None, SIZES, shown("N,N,...", "64,64")] = None
    """Units of each hidden layer, of the policy's network and of the critic's."""
    memory: Annotated[int | None, WHOLE, shown("N", "none")] = None
    """Units of a GRU after these layers, where what is seen now does not tell what to do; not of simulators."""
    activation: Annotated[str | None, NAME, shown("NAME", "tanh")] = None
    """What follows each hidden layer: tanh, relu, silu, gelu or elu."""
    initial_log_std: Annotated[float | None, NUMBER, shown("FLOAT", "-1")] = None
    """Log of the first policy's standard deviation, where actions are real: 0 is half the width of their box."""
    schedule: Schedule = None
    eval_every: Annotated[int | None, WHOLE, shown("N", "never")] = None
    """Steps of each seed between two evaluations: whole episodes, the most probable action, nothing learnt."""
    eval_episodes: Annotated[int | None, WHOLE, shown("N", "16")] = None
    """Episodes of an evaluation."""
    seed: Annotated[int, WHOLE, shown("N", "0")] = 0
    """The first seed."""
    num_seeds: NumSeeds = 1
    out: Out = None
    config: Config = None
    log_to: LogTo = ()
    devices: Devices = None
    coordinator: Coordinator = None
    num_processes: NumProcesses = None
    process_id: ProcessId = None
    resume: Resumed = False
    json: Json = False


@dataclass(frozen=True)
class Resume:
    """Go on with a run of polopt train: what it is a run of stands in its directory."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run directory."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on."""
    steps: Annotated[int | None, WHOLE, shown("N", "those that it was started for")] = None
    """Decisions that each seed learns from, in all; more than it was started for."""
    devices: Devices = None
    coordinator: Coordinator = None
    num_processes: NumProcesses = None
    process_id: ProcessId = None
    json: Json = False


@dataclass(frozen=True)
class ResumeCompare:
    """Go on with a comparison: what it compares stands in its directory."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run directory."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on with the runs that are not finished."""
    json: Json = False


@dataclass(frozen=True)
class Evaluate:
    """Run whole episodes of what a run has learnt, greedily and sampled.

    Every seed of the run, from its newest checkpoint; nothing in the directory changes, and the run may still be going
    on. Of a token world, an episode is an answer; of a run on texts, what was held out is looked at.
    """

    run: Run
    episodes: Annotated[int, WHOLE, shown("N", "100")] = 100
    """Episodes of each seed, each from a first state of its own."""
    key: Annotated[int, WHOLE, shown("N", "0")] = 0
    """Randomness of first states, actions and dynamics, the same for every seed of the run."""
    json: Json = False


@dataclass(frozen=True)
class Play:
    """Watch what a run has learnt: one episode, on a page that plays it, also offline; a GIF if you like.

    Bodies are drawn, with curves of rewards, actions and observations. Of a token world, the page has answers, each
    token coloured by its probability; of a run on texts completions before and after, coloured by log-ratio. The newest
    checkpoint plays; of the run's directory nothing else changes, and the run may still be going on.
    """

    run: Run
    seed: OneSeed = None
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

    run: Run
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The new file."""
    seed: OneSeed = None


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
    json: Json = False


@dataclass(frozen=True)
class Envs:
    """List the environments (sizes, backends, what is rewarded) and the outcome worlds, draw a world, or look at yours.

    Of a world everything is known exactly: how it looks, what the best policies earn, and what they bring about.
    """

    name: Annotated[tyro.conf.Positional[str | None], NAME, shown("[NAME]", "all")] = None
    """One environment or world; package.module:factory is looked at as training would."""
    html: Annotated[Path | None, shown("FILE", "none")] = None
    """Write a page with all worlds, or with the one that is named, to a new file."""
