"""Long work in pieces, each kept as soon as it is done, so that an interrupted run goes on with what is missing."""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polopt_jax import runs
from polopt_jax.cli._progress import acknowledge, counted
from polopt_jax.cli._words import CommandError, UsageError, with_out


class Piece(NamedTuple):
    """A part of a result."""

    title: str
    file: Path
    """Where it is kept, as JSON."""
    make: Callable[[], dict[str, Any]]


@contextlib.contextmanager
def kept(
    out: Path | None, command: str, config: Mapping[str, Any], *, resume: bool, may_change: Sequence[str]
) -> Iterator[Path]:
    """The directory of a run in pieces: a new one, or with `resume` one that has the same config.

    Raises UsageError if there is none to go on with, or an entry other than those that may change is another.
    """
    if not resume:
        with runs.new(out, command) as directory:
            runs.write_json(directory / runs.CONFIG, dict(config))
            yield directory
        return
    if out is None:
        raise UsageError("--resume needs --out DIR, the run to go on with")
    with runs.existing(out) as directory:
        before = runs.read_json(directory / runs.CONFIG)
        for name, value in config.items():
            if name not in may_change and before.get(name) != value:
                raise UsageError(f"--resume: {name} was {before.get(name)} in {directory}; it is {value} now")
        yield directory


def run_missing(pieces: Sequence[Piece], directory: Path, arguments: Sequence[str]) -> None:
    """Makes the pieces whose files are not there. Raises CommandError where it is interrupted and some are left."""
    missing = [piece for piece in pieces if not piece.file.exists()]
    with runs.stop_on_signals(acknowledge) as stop, counted(len(missing)) as begin:
        for number, piece in enumerate(missing):
            if stop.signal_number is not None:
                done = f"interrupted, with {number} of {len(missing)} missing parts finished"
                raise CommandError(f"{done}; go on: {_again(arguments, directory)}", 128 + stop.signal_number)
            begin(piece.title)
            made = piece.make()
            piece.file.parent.mkdir(parents=True, exist_ok=True)
            runs.write(piece.file, runs.to_json(plain(made)) + "\n")


def _again(arguments: Sequence[str], directory: Path) -> str:
    """The same command line, which goes on: what was chosen must be chosen again."""
    resumed = () if "--resume" in arguments else ("--resume",)
    return shlex.join([*with_out(["polopt", *arguments], directory), *resumed])


def plain(value: Any) -> Any:
    """Lists of numbers to four significant digits."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return value.tolist()
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value
