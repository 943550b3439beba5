"""The directory of a run: its name, its lock, and files that are whole or not there."""

import contextlib
import fcntl
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polopt_jax.cli._errors import UsageError, one_line

LOCK, TEMPORARY = ".lock", ".polopt-"
"""The lock file, and how the name of a file begins that is being written."""
CONFIG, ROWS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
CHECKPOINTS, REFERENCE = "checkpoints", "reference"
"""What a run keeps in its directory."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_path(path: Path) -> Path:
    """The run directory as given, if its name is one that every system and every report can hold; else UsageError."""
    name = path.name
    if not _NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name) or ".." in path.parts:
        raise UsageError(
            f"{str(path)!r} cannot be a run directory: its name must be 1 to 64 letters, digits, dots, hyphens or "
            "underscores, begin with a letter or digit, and no part may be '..'"
        )
    try:
        if path.resolve() != path.parent.resolve() / name:
            raise UsageError(f"{str(path)!r} is a symbolic link; name the directory itself")
        if path.exists() and not path.is_dir():
            raise UsageError(f"{str(path)!r} is a file, not a directory")
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be a run directory: {one_line(str(error))}") from error
    return path


@contextlib.contextmanager
def new(path: Path | None, default: str) -> Iterator[Path]:
    """Creates and locks a run directory: `path`, which must be new or empty, or else `runs/<default>`, numbered.

    Raises UsageError if the directory is not empty, or is in use.
    """
    if path is None:
        path = _claim(Path("runs") / default)
    elif holds_something(check_path(path)):
        with contextlib.ExitStack() as stack:
            if (path / LOCK).exists():
                stack.enter_context(locked(path))  # says so if it is in use
        raise UsageError(f"{path} is not empty; go on with it (train --resume) or name another directory with --out")
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if holds_something(path):
            raise UsageError(f"{path} was taken by another process just now")
        yield path


def _claim(path: Path) -> Path:
    """Makes the directory, with the first free number behind its name if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100_000):
        candidate = check_path(path if number == 1 else path.with_name(f"{path.name}-{number}"))
        with contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise UsageError(f"there are too many runs called {path}; name a directory with --out")


def holds_something(path: Path) -> bool:
    """Whether there is anything in the directory but a lock, and what a kill left of a file that was being written."""
    return path.is_dir() and any(entry.name != LOCK and not _is_temporary(entry) for entry in path.iterdir())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the directory's lock, which goes with the process however that ends. UsageError if another holds it.

    Whoever holds it clears away the temporary files that a killed process left.
    """
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = re.sub(r"\D", "", os.read(lock, 32).decode(errors="replace")) or "unknown"
            raise UsageError(f"{path} is in use by process {holder}") from None
        with named(path / LOCK):
            os.ftruncate(lock, 0)
            write_all(lock, str(os.getpid()).encode())
        for orphan in filter(_is_temporary, path.iterdir()):
            orphan.unlink()
        try:
            yield
        finally:
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


# Files


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Within it, a system call that fails names the file, also one that knows but its descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it: the system may take a part, and then says why when it is given the rest."""
    while data:
        data = data[os.write(descriptor, data) :]


def write(path: Path, content: str | bytes) -> None:
    """Writes a file that is at all times either the old one or the whole new one, and is on disk when this returns."""
    data = content.encode() if isinstance(content, str) else content
    with named(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
        try:
            try:
                write_all(descriptor, data)
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Returns when the names in a directory are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(TEMPORARY) and not path.is_dir()


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which every number that is not finite is null."""

    def clean(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: clean(entry) for key, entry in x.items()}
        if isinstance(x, list | tuple):
            return [clean(entry) for entry in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(clean(value), indent=indent, allow_nan=False)


def read_json(path: Path) -> dict[str, Any]:
    """An object that `write` wrote; UsageError if it is not there or is none."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"there is no {path}, so there is no run to go on with") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not readable as JSON: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} does not hold a JSON object")
    return value
