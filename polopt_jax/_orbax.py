"""Orbax without its noise: what goes wrong in it is one error, in one line."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

MEMBERS = ("_CHECKPOINT_METADATA", "manifest/metadata", "state/_METADATA", "state/manifest.ocdbt")
"""Files without which the directory of a step is no checkpoint."""
_LONGEST = 200
"""Of what an error says."""
TEMPORARY = re.compile(r"\d+\.orbax-checkpoint-tmp.*")
REMOVED = ".removed"
"""What the name of a step ends in while it is being removed."""


@contextlib.contextmanager
def quiet_orbax() -> Iterator[Any]:
    """Orbax, which says nothing while it is used - what goes wrong is raised - and whose threads end with it."""
    with contextlib.redirect_stdout(io.StringIO()):
        import orbax.checkpoint as ocp
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    others = set(threading.enumerate())
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield ocp
    except BaseException:
        _outlive(others)
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def checkpointer(ocp: Any, *items: str) -> Any:
    """Orbax's checkpointer of so many items: of this process, and no other waits for it.

    By itself orbax has all processes of a run save together, and if one of them fails the others wait for long.
    """
    alone = {}
    if jax.distributed.is_initialized():
        own = jax.process_index()
        alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
        )
    handler = ocp.CompositeCheckpointHandler(*items, composite_options=ocp.CompositeOptions(**alone))
    return ocp.Checkpointer(handler, **alone)


def left_over(path: Path, step: int) -> list[Path]:
    """What has the name of a killed save or removal, or of this step."""
    names = re.compile(rf"{TEMPORARY.pattern}|{step}|\d+{re.escape(REMOVED)}")
    return [entry for entry in sorted(path.iterdir()) if names.fullmatch(entry.name)] if path.is_dir() else []


def is_own(entry: Path) -> bool:
    """Whether it is a directory of orbax's making: a temporary one, or one in which there is nothing but a step's."""
    if entry.is_symlink() or not entry.is_dir():
        return False
    known = {"commit_success.txt", *(member.split("/")[0] for member in MEMBERS)}
    inside = {inner.name.split(".orbax-checkpoint-tmp")[0] for inner in entry.iterdir()}
    return bool(TEMPORARY.fullmatch(entry.name)) or inside <= known


def _outlive(others: set[threading.Thread]) -> None:
    """Waits for all other threads, which after a failure may still write, and log; ten seconds at most."""
    deadline = time.monotonic() + 10.0
    while (left := set(threading.enumerate()) - others) and time.monotonic() < deadline:
        for thread in left:
            with contextlib.suppress(RuntimeError):  # it is about to start
                threading.Thread.join(thread, timeout=0.1)  # orbax's own raises what the thread raised


def reason(error: Exception) -> str:
    """What an error says, in a line; of a system call that failed, in the system's words alone.

    >>> reason(OSError(28, "No space left on device", "x")), reason(KeyError())
    ('No space left on device', 'KeyError')
    >>> reason(ValueError("RESOURCE_EXHAUSTED: Error writing a/0: Failed: [Errno 28: No space left on device] [x='y']"))
    'No space left on device'
    """
    text = (str(error).splitlines() or [""])[0]
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES):
        if os.strerror(code) in text:
            return os.strerror(code)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."  # tensorstore adds all that it was asked
    return shown or type(error).__name__
