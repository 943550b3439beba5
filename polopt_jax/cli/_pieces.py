"""Long work in pieces, each kept as soon as it is done, so that an interrupted run goes on with what is missing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polopt_jax import runs
from polopt_jax.cli._progress import counted


class Piece(NamedTuple):
    """A part of a result."""

    title: str
    file: Path
    """Where it is kept, as JSON."""
    make: Callable[[], dict[str, Any]]


def run_missing(pieces: Sequence[Piece], stop: runs.Stop) -> bool:
    """Makes the pieces whose files are not there, until told to stop; returns whether all of them are there now."""
    missing = [piece for piece in pieces if not piece.file.exists()]
    with counted(len(missing)) as begin:
        for piece in missing:
            if stop:
                return False
            begin(piece.title)
            made = piece.make()
            piece.file.parent.mkdir(parents=True, exist_ok=True)
            runs.write(piece.file, runs.to_json(plain(made)) + "\n")
    return True


def plain(value: Any) -> Any:
    """Lists of numbers to four significant digits."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return value.tolist()
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value
