"""The directory of a run: its name, its lock, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LOCK, TEMPORARY = ".lock", ".polopt-"
"""The lock file, and how the name of a file begins that is being written."""
CONFIG, ROWS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"
"""What a run keeps in its directory."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class RunError(Exception):
    """What is asked of a run directory is not possible. Nothing was started, and what is in it is as it was."""


def check_path(path: Path) -> Path:
    """The run directory as given, if its name is one that every system and every report can hold; else RunError."""
    name = path.name
    if not _NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name):
        raise RunError(
            f"{str(path)!r} cannot be a run directory: its name must be 1 to 64 letters, digits, dots, hyphens or "
            "underscores, and begin with a letter or digit"
        )
    return check_place(path)


def check_place(path: Path) -> Path:
    """The directory as given, without `..`, if it is one or could be; else RunError. One that is there may be called
    anything."""
    try:
        path = path.parent.resolve() / path.name if ".." in path.parts else path
        name = path.name
        if path.resolve() != path.parent.resolve() / name:
            raise RunError(f"{str(path)!r} is a symbolic link; name the directory itself")
        if path.exists() and not path.is_dir():
            raise RunError(f"{str(path)!r} is a file, not a directory")
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be a run directory: {error}") from error
    return path


def plain_name(name: str, *, longest: int = 48) -> str:
    """A name that `check_path` takes with a seed and a number behind it: this one, where it is such.

    Else what can stay of its end, and a number that tells it from what others would leave.

    >>> plain_name("ant-ppo"), plain_name("_draft.Homing-ppo"), plain_name("con.Make-ppo")
    ('ant-ppo', 'draft.Homing-ppo-fcb28bdc', 'run-con.Make-ppo-3a0bfade')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)[-longest:].lstrip("._-")
    if plain == name and not _RESERVED.fullmatch(name):
        return name
    own = f"-{zlib.crc32(name.encode()):08x}"
    plain = f"run-{plain}" if _RESERVED.fullmatch(plain) else plain
    return plain[-(longest - len(own)) :].lstrip("._-") + own


@contextlib.contextmanager
def new(path: Path | None, default: str) -> Iterator[Path]:
    """Creates and locks a run directory: `path`, which must be new or empty, or else `runs/<default>`, numbered.

    Raises RunError if the directory is in use, or is not empty; what is no run is not touched.
    """
    path = _claim(Path("runs") / default) if path is None else check_path(path)
    taken = RunError(f"{path} is not empty; go on with that run (--resume), or name another directory")
    if holds_something(path) and not (path / LOCK).exists():
        raise taken
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if holds_something(path):
            raise taken
        yield path


@contextlib.contextmanager
def existing(path: Path) -> Iterator[Path]:
    """Locks the directory of a run that has begun. Raises RunError if there is none, or if it is in use."""
    path = check_place(path)
    if not (path / CONFIG).exists():  # before a lock is made where there is no run
        raise RunError(f"there is no {path / CONFIG}, so there is no run to go on with")
    with locked(path):
        yield path


def _claim(path: Path) -> Path:
    """Makes the directory, with the first free number behind its name if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100_000):
        candidate = check_path(path if number == 1 else path.with_name(f"{path.name}-{number}"))
        with contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise RunError(f"there are too many runs called {path}; name a directory")


def holds_something(path: Path) -> bool:
    """Whether there is anything in the directory but a lock, and what a kill left of a file that was being written."""
    return path.is_dir() and any(entry.name != LOCK and not _is_temporary(entry) for entry in path.iterdir())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the directory's lock, which goes with the process however that ends. RunError if another holds it.

    Whoever holds it clears away the temporary files that a killed process left.
    """
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = re.sub(r"\D", "", os.read(lock, 32).decode(errors="replace")) or "unknown"
            raise RunError(f"{path} is in use by process {holder}") from None
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
    _write(path, content, os.replace)


def write_new(path: Path, content: str | bytes) -> None:
    """Writes a file that is on disk, whole, when this returns. FileExistsError if something has that name already."""

    def place(temporary: str, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))  # the name is ours, or another's
        try:
            os.replace(temporary, path)
        except BaseException:
            os.unlink(path)
            raise

    if os.path.lexists(path):  # before much is written
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    _write(path, content, place)


def _write(path: Path, content: str | bytes, place: Callable[[str, Path], None]) -> None:
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
            place(temporary, path)
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


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people to read, too."""
    write(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which every number that is not finite is null."""

    def clean(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: clean(entry) for key, entry in x.items()}
        if isinstance(x, list | tuple):
            return [clean(entry) for entry in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(clean(value), indent=indent, allow_nan=False)


def without_empty(value: Any) -> Any:
    """What is said of something, without the entries of objects that say nothing.

    >>> without_empty({"reward": 1.0, "unscored": None, "outcome": {}, "by_seed": [None, 2.0]})
    {'reward': 1.0, 'by_seed': [None, 2.0]}
    """
    if isinstance(value, dict):
        said = {name: without_empty(x) for name, x in value.items()}
        return {name: x for name, x in said.items() if x is not None and x not in ({}, [], ())}
    return [without_empty(x) for x in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> dict[str, Any]:
    """The object of a file; RunError if that holds none."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """The config of a run; RunError if there is none, or if it is damaged."""
    if not (directory / CONFIG).is_file():
        raise RunError(f"there is no {directory / CONFIG}, so there is no run in {directory}")
    return read_json(directory / CONFIG)


def read_run_config(directory: Path) -> dict[str, Any]:
    """The config of one run; RunError also if it is that of a comparison."""
    config = read_config(directory)
    if "runs" in config:
        raise RunError(f"{directory / CONFIG} is that of a comparison, of several runs; name that of one")
    return config
