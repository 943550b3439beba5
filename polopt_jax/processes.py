"""Several processes, of one machine or many, that do one run together: how they meet, agree, and learn of a loss.

`jax.distributed` is all there is to it: every process compiles the same program over all their devices, and XLA
communicates. What remains for the host stands here: what the first process alone does (it keeps the run directory),
what is true of one and so of all (a signal), and how a process ends whose peers are gone. In a single process, which
was not joined to others, every function here does nothing more than it says.

JAX ends a process whose peers are lost by `abort` in C++, of which Python hears nothing; and a collective over the
network may fail before that, with an error. Both come to the same here: a message of one's own, and the exit code
`LOST`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from polopt_jax.leaves import leaves_of, rebuild

LOST = 7
"""Exit code of a process whose peers did not come, or are gone."""
WAIT = 300.0
"""Seconds in which all processes must have come."""
HEARTBEAT = 100
"""Seconds without a sign of life after which JAX takes a process for dead, as long as it takes by itself."""
PARTING = 60.0
"""Seconds that a process which failed waits for the others to end as well."""
SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "socket closed", "coordination", "heartbeat")
"""What errors of the network say, in lower case."""


class FirstFailed(Exception):
    """What the first process had to do for all could not be done there; `kind` is the name of its error."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


# Who is there


def count() -> int:
    """How many processes do this run.

    >>> count(), is_first(), name()
    (1, True, '')
    """
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that keeps the run directory and speaks to the user."""
    return count() == 1 or jax.process_index() == 0


def name() -> str:
    """What this process is called where several are: `process 1 of 2: `."""
    return "" if count() == 1 else f"process {jax.process_index()} of {jax.process_count()}: "


def ask_for_cpus(number: int) -> None:
    """Has JAX make a machine without accelerators into so many devices; no more than a wish once JAX has started."""
    with contextlib.suppress(RuntimeError):  # it has started, with as many as it has
        jax.config.update("jax_num_cpu_devices", number)


def join(address: str | None, number: int | None, index: int | None, say: Callable[[str], None]) -> None:
    """Meets the other processes; what is None is found in the environment, as `jax.distributed.initialize` does.

    Before JAX computes anything. Where not all have come after `WAIT` seconds, the process says so and ends with the
    code `LOST`. From here on what libraries write to the file descriptor of stdout goes to stderr: the network's greet
    each other there. Raises ValueError if something is neither given nor found.
    """
    if jax.distributed.is_initialized():
        return
    _keep_stdout()
    _hear_aborts()
    me = "this process" if index is None else f"process {index}"
    with lost(lambda: say(f"{me}: not all processes came within {WAIT:.0f} seconds; {_reached(address, index)}")):
        late = threading.Timer(WAIT, _end)
        late.daemon = True
        late.start()
        try:
            with contextlib.suppress(AttributeError):  # it would take SIGTERM for itself
                jax.config.update("jax_enable_preemption_service", False)
            jax.distributed.initialize(
                address,
                number,
                index,
                initialization_timeout=int(WAIT) + 60,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
            jax.devices()  # which all processes tell each other
        finally:
            late.cancel()


def _reached(address: str | None, index: int | None) -> str:
    """What is known of the way to the first process."""
    if index == 0 or address is None:
        return "were all of them started, with the same address and number?"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2.0).close()
    except (OSError, ValueError):
        return f"process 0 does not answer at {address}: was it started, and may that port be reached from here?"
    return f"process 0 answers at {address}: were all the others started, with the same number?"


def _keep_stdout() -> None:
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of the two is closed
        return
    sys.stdout = os.fdopen(kept, "w", buffering=1)


# What they agree on


def highest(*numbers: int) -> tuple[int, ...]:
    """Of each number the highest of all processes.

    >>> highest(3, False)
    (3, 0)
    """
    mine = np.array(numbers, np.int32)
    return tuple(mine.tolist() if count() == 1 else multihost_utils.process_allgather(mine).max(0).tolist())


def first(do: Callable[[], Any]) -> Any:
    """What `do` returns in the first process, which alone calls it, as JSON has it (and as it is, in a single one).

    Raises in the first process what `do` raises, and in all others FirstFailed.

    >>> first(lambda: {"update": 3})
    {'update': 3}
    """
    if count() == 1:
        return do()
    said, failure = {}, None
    if is_first():
        try:
            said = {"value": do()}
        except Exception as error:
            said, failure = {"error": str(error), "kind": type(error).__name__}, error
    told = json.loads(_of_first(np.frombuffer(json.dumps(said).encode(), np.uint8)).tobytes())
    if failure is not None:
        raise failure
    if "error" in told:
        raise FirstFailed(told["error"], told["kind"])
    return told["value"]


def _of_first(text: np.ndarray) -> np.ndarray:
    """The bytes of the first process."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    mine = text if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine))


def from_first(tree: Any) -> Any:
    """The arrays of the first process, bit for bit; the others pass some of the same shapes.

    >>> from_first({"x": jax.numpy.ones(2)})["x"].tolist()
    [1.0, 1.0]
    """
    if count() == 1:
        return tree
    leaves = leaves_of(tree)
    sent = multihost_utils.broadcast_one_to_all(
        {key: np.frombuffer(x.tobytes(), np.uint8) for key, x in leaves.items() if x.size}
    )
    whole = {key: np.asarray(x).view(leaves[key].dtype).reshape(leaves[key].shape) for key, x in sent.items()}
    return rebuild({**leaves, **whole}, tree)


def whole(tree: Any) -> Any:
    """The arrays with all of their rows, in every process: what is split over devices of others cannot be read.

    >>> whole({"x": jax.numpy.ones(2)})["x"].tolist()
    [1.0, 1.0]
    """
    if count() == 1:
        return tree
    everywhere = jax.tree.map(lambda x: NamedSharding(x.sharding.mesh, PartitionSpec()), tree)
    gathered = jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)
    return rebuild(leaves_of(gathered), tree)


# How they part

_tell: Callable[[], None] = lambda: None  # noqa: E731
_abort: Any = None
_ending = threading.Lock()


@contextlib.contextmanager
def lost(tell: Callable[[], None]) -> Iterator[None]:
    """Within it, a process that loses its peers calls `tell` and ends with the code `LOST`, whatever else it was doing.

    Nothing is unwound: what was saved is on disk, and a lock on a file goes with its process.
    """
    global _tell
    before, _tell = _tell, tell
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if count() > 1 and any(sign in str(error).lower() for sign in SIGNS):
            _end()
        raise
    finally:
        _tell = before


def _end() -> None:
    """Says what there is to say, once, and ends the process."""
    with _ending:
        with contextlib.suppress(Exception):
            _tell()
            _flush()
        os._exit(LOST)


def _hear_aborts() -> None:
    """Has `abort`, with which JAX ends a process whose peers are lost, end it as `_end` does."""
    global _abort
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _abort = handler(lambda number: _end())  # which must live as long as the process
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, handler], ctypes.c_void_p
    libc.signal(signal.SIGABRT, _abort)


def part(exit_code: int) -> None:
    """Takes leave of the other processes, which come to their end as well; nothing in a single one.

    After a failure that they may not share it does not wait for longer than `PARTING` seconds.
    """
    if count() == 1:
        return
    _flush()
    if exit_code:
        late = threading.Timer(PARTING, os._exit, [exit_code])
        late.daemon = True
        late.start()
    with lost(lambda: os._exit(exit_code or LOST)):
        jax.distributed.shutdown()


def desert(exit_code: int) -> None:
    """Ends this process alone, at once, so that the others notice; nothing in a single one."""
    if count() > 1:
        _flush()
        os._exit(exit_code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
