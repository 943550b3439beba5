"""The flags of the commands whose work is in pieces: `polopt outcomes`, `polopt study`, `polopt bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polopt_jax.cli._flags import SWITCH, WHOLE, Out, shown


@dataclass(frozen=True)
class Outcomes:
    """Benchmark what objectives do to outcomes: methods x worlds, learnt from attempts, read at matched success.

    Beside each method stand two rows that need no training, the Outcome Pump and the nearest law that keeps the side
    effects (IPF). What has finished stays in the directory, and --resume goes on with the rest.
    """

    worlds: Annotated[tuple[str, ...], shown("NAME ...", "all")] = ()
    """Which worlds; package.module:factory is one of yours."""
    methods: Annotated[tuple[str, ...], shown("NAME ...", "all")] = ()
    """Which methods."""
    seeds: Annotated[int, WHOLE, shown("N", "5")] = 5
    """Runs of each setting; of worlds that come in many, one run of each is the least."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Three worlds, seven methods, one setting each, three seeds: under five minutes on two cores."""
    against: Annotated[Path | None, shown("FILE", "none")] = None
    """The outcomes.json of an earlier run, to compare with."""
    out: Out = None
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on with the run in --out. Worlds and methods may be others; all else must be the same."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the readings as JSON."""


@dataclass(frozen=True)
class Study:
    """Is it the objective, the initialisation or the scale that decides how a task is done? docs/study.md registers it.

    Every objective learns every world from every start, with networks of several sizes and with a table; side effects
    are read at matched success. What has finished stays in the directory, and --resume goes on with the rest.
    """

    worlds: Annotated[tuple[str, ...], shown("NAME ...", "all")] = ()
    """Which worlds."""
    objectives: Annotated[tuple[str, ...], shown("NAME ...", "all")] = ()
    """Which objectives."""
    scales: Annotated[tuple[str, ...], shown("SCALE ...", "all")] = ()
    """Widths of the networks, or table; those that a world has."""
    seeds: Annotated[int, WHOLE, shown("N", "10")] = 10
    """Runs of each combination."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Both buildings, two scales, three objectives, three seeds, half the updates: under five minutes on two cores."""
    out: Out = None
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on with the run in --out. Worlds, objectives and scales may be others; all else must be the same."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the answers as JSON."""


@dataclass(frozen=True)
class Bench:
    """Measure training, learning, terms, solvers, estimators and many agents, beside other people's programs.

    The parts are in the folder benchmarks of the repository, so this runs in a checkout. Other people's programs run
    in the environments of --peers-python, those of them that are there. What has finished stays in the directory, and
    --resume goes on with the rest. Times are only worth something on a machine that does nothing else.
    """

    parts: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("[PART[:CASE] ...]", "all")] = ()
    """Which parts, or which cases of them; an unknown case is answered by those that there are."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """The smallest size of everything, three rounds: that it runs, not how fast."""
    peers_python: Annotated[tuple[Path, ...], shown("FILE ...", "this one")] = ()
    """The Pythons of environments that have other people's programs; of each the first that has it is taken."""
    purejaxrl: Annotated[Path | None, shown("DIR", "none")] = None
    """The folder purejaxrl in a copy of its repository, which is no package."""
    publish: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Also write benchmarks/results/<device>/, one file for each part, and benchmarks/report.md.

    Of a part of which cases are named, the others stay as they are."""
    out: Out = None
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Go on with the run in --out. Parts may be others; all else must be the same."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, SWITCH] = False
    """Print the comparisons as JSON."""
