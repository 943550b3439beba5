"""How the words of a command line are read, and the flags that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

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
SIZES = _word(lambda text: tuple(_parse_whole(size) for size in text.split(",")), "whole numbers with commas between")


def shown(metavar: str, default: str, about: str | None = None) -> Any:
    """Name of the value in the help, what the help says of the default, and what the flag is, where no docstring says
    it: of what several commands have, and of what takes more than a line, whose ends tyro would keep."""
    return tyro.conf.arg(metavar=metavar, help=about, help_behavior_hint=f"(default: {default})")


SWITCH = tyro.conf.arg(help_behavior_hint="")


def _switch(about: str) -> Any:
    return tyro.conf.arg(help=about, help_behavior_hint="")


Schedule: TypeAlias = Annotated[
    str | None,
    NAME,
    shown(
        "NAME",
        "constant",
        "What becomes of the learning rate until the last update: constant, or linear or cosine down to 0.",
    ),
]
NumSeeds: TypeAlias = Annotated[int, WHOLE, shown("N", "1", "Seeds trained side by side: seed, seed + 1, ...")]
Out: TypeAlias = Annotated[
    Path | None,
    shown("DIR", "a new one in runs/", "The run directory. It must be new or empty, unless --resume is given."),
]
Config: TypeAlias = Annotated[
    Path | None,
    shown(
        "FILE",
        "none",
        "Options from a JSON file, such as the config.json of a run; those on the command line come first.",
    ),
]
LogTo: TypeAlias = Annotated[
    tuple[str, ...],
    NAMES,
    shown("NAME,...", "none", "Where the numbers go besides metrics.jsonl: csv, tensorboard, wandb."),
]
Devices: TypeAlias = Annotated[
    int | None,
    WHOLE,
    shown(
        "N",
        "1; of several processes, all",
        "Devices to split the environments over; of each process, where there are several. CPUs can be any number.",
    ),
]
Coordinator: TypeAlias = Annotated[
    str | None,
    NAME,
    shown(
        "HOST:PORT",
        "one process",
        "Where process 0 of several is met; auto, where JAX finds that (SLURM, Open MPI, Kubernetes, TPU).",
    ),
]
NumProcesses: TypeAlias = Annotated[
    int | None,
    WHOLE,
    shown("N", "as the cluster says", "How many processes do the run together. See docs/clusters.md."),
]
ProcessId: TypeAlias = Annotated[int | None, WHOLE, shown("I", "as the cluster says", "Which of them this is, from 0.")]
Resumed: TypeAlias = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    _switch("Go on with the run in --out, which is all that need be said; --steps may be larger."),
]
Json: TypeAlias = Annotated[bool, tyro.conf.FlagCreatePairsOff, _switch("Print the result as JSON.")]
Run: TypeAlias = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(help="The directory of a run of polopt train.", metavar="RUN")
]
OneSeed: TypeAlias = Annotated[int | None, WHOLE, shown("N", "the first", "Which of the run's seeds.")]
