"""Where the numbers of a run go while it runs: a spreadsheet, TensorBoard, Weights & Biases, or your own function.

A logger is a function `(step, values)`, told after every chunk of a run. These are made by context managers, which
close what they opened:

    with loggers.csv_logger("metrics.csv") as log:
        for chunk in driver.chunks(run, 100):
            log(chunk.update, {name: x.mean() for name, x in chunk.metrics.items()})

The packages that they write with are imported when they are asked for, and are none that the library needs.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Logger: TypeAlias = Callable[[int, Mapping[str, float | None]], None]
"""`(step, values)`: the step that the values belong to, and each by its name; None where it is not known."""
STEP = "step"
"""The first column of a spreadsheet."""


class MissingPackage(ImportError):
    """What a logger writes with is not installed; the message says how to install it."""


@contextlib.contextmanager
def csv_logger(path: str | Path, *, after: int | None = None) -> Iterator[Logger]:
    """A line per call, comma-separated, under a line of names; what is not known is left empty.

    Args:
      path: of the file.
      after: goes on with a file that is there, whose lines up to this step stay and whose others go; if None, there
        must be no file.

    Raises:
      FileExistsError: there is a file, and `after` is None.
      ValueError: from the logger, if the names are not those of the first line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> with csv_logger(path) as log:
    ...     log(10, {"reward": 0.5, "kl": None})
    >>> path.read_text().splitlines()
    ['step,reward,kl', '10,0.5,']
    """
    path = Path(path)
    columns = None if after is None else _keep_until(path, after)
    with path.open("x" if after is None else "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")

        def log(step: int, values: Mapping[str, float | None]) -> None:
            nonlocal columns
            if columns is None:
                columns = list(values)
                writer.writerow([STEP, *columns])
            if set(values) != set(columns):
                raise ValueError(f"{path} has the columns {', '.join(columns)}; it was given {', '.join(values)}")
            writer.writerow([step, *("" if values[name] is None else repr(values[name]) for name in columns)])
            file.flush()

        yield log


def _keep_until(path: Path, step: int) -> list[str] | None:
    """Drops the lines after a step of a spreadsheet. Its names; None where there is no such, or nothing in it.

    The lines that stay are written beside it first: whenever this is killed, they are in the file.
    """
    if not (path.exists() and path.stat().st_size):
        return None
    with path.open(newline="", encoding="utf-8") as file:
        first, *lines = [line for line in csv.reader(file) if line] or [[]]
    if first[:1] != [STEP]:
        raise ValueError(f"{path} is no spreadsheet of this logger: its first column is not {STEP}")
    shorter = path.with_name(f"{path.name}.tmp")
    with shorter.open("w", newline="", encoding="utf-8") as file:
        kept = [line for line in lines if len(line) == len(first) and int(line[0]) <= step]
        csv.writer(file, lineterminator="\n").writerows([first, *kept])
        file.flush()
        os.fsync(file.fileno())
    shorter.replace(path)
    return first[1:]


@contextlib.contextmanager
def tensorboard_logger(directory: str | Path, *, after: int | None = None) -> Iterator[Logger]:
    """Scalars for TensorBoard, a file of events in `directory`. Values that are not known are left out.

    Args:
      directory: where; it may hold events of other runs.
      after: goes on with a run of which everything after this step is to be forgotten.

    Raises:
      MissingPackage: tensorboardX is not installed.
    """
    writes = package("tensorboardX", "tensorboard_logger")
    purge = {} if after is None else {"purge_step": after + 1}
    with writes.SummaryWriter(str(directory), **purge) as writer:

        def log(step: int, values: Mapping[str, float | None]) -> None:
            for name, x in values.items():
                if x is not None:
                    writer.add_scalar(name, x, step)
            writer.flush()

        yield log


@contextlib.contextmanager
def wandb_logger(**options: Any) -> Iterator[Logger]:
    """A run of Weights & Biases. Values that are not known are left out.

    Args:
      options: of `wandb.init`: project, name, config, mode, ...

    Raises:
      MissingPackage: wandb is not installed.
    """
    run = package("wandb", "wandb_logger").init(**options)
    try:
        yield lambda step, values: run.log({name: x for name, x in values.items() if x is not None}, step=step)
    finally:
        run.finish()


def package(name: str, caller: str) -> Any:
    """What a logger writes with, imported. Raises MissingPackage.

    >>> package("no_such_package", "a logger")
    Traceback (most recent call last):
    polopt_jax.loggers.MissingPackage: a logger needs the package no_such_package: pip install no_such_package
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"{caller} needs the package {name}: pip install {name}") from error
