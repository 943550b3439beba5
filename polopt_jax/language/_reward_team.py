"""Worker processes that call a person's reward, each call under a time limit; one that is lost is replaced."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any, TypeAlias

from polopt_jax.language import _reward_worker

Answer: TypeAlias = float | str | list[float | str]
"""Of a call: a number, or why there is none; of a call with lists, a list of such, or why there is none of any."""
_LOOK = 0.25
"""Seconds after which the processes are looked at, if none has said anything."""
_FAREWELL = 1.0
"""Seconds that idle processes have to end by themselves."""
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "JAX_PLATFORMS": "cpu"}
"""Where the user says nothing else: sets of strings have one order in all workers, and none takes the device."""


class _Worker:
    """A process, and the call that it was given."""

    def __init__(self, reward: str, *, takes_lists: bool) -> None:
        self.ready = False
        self.call: int | None = None
        self.deadline = math.inf
        (self.connection, theirs), (lifeline, self.lifeline) = Pipe(), Pipe(duplex=False)
        with theirs, lifeline:
            handed = theirs.fileno(), lifeline.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-P", _reward_worker.__file__, *map(str, handed)],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a reward prints is no result of the command
                env=_ENVIRONMENT | os.environ,
                start_new_session=True,  # Ctrl-C is for us; and it is killed with all that it has started
            )
        self._send([*map(str, sys.path)], reward, takes_lists)

    def give(self, call: int, asked: Sequence[Any], *, time_limit: float) -> None:
        self.call, self.deadline = call, time.monotonic() + time_limit
        self._send(*asked)

    def _send(self, *message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which is heard
            self.connection.send_bytes(json.dumps(message).encode())

    def says(self) -> dict[str, Any] | None:
        """Its next message; None if it has ended."""
        try:
            return json.loads(self.connection.recv_bytes()) if self.connection.poll() else None
        except (EOFError, ConnectionResetError):
            return None

    def is_gone(self) -> bool:
        """Whether the process has ended, also where a child of it keeps the connection open."""
        return self.process.poll() is not None

    def end(self) -> str:
        """Kills the process and what it started, what is still there of it; returns how it ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        self.connection.close()
        self.lifeline.close()
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


class Team:
    """So many workers. Raises RuntimeError if one cannot begin."""

    def __init__(self, reward: str, *, takes_lists: bool, workers: int, time_limit: float) -> None:
        self._reward, self._takes_lists, self._time_limit = reward, takes_lists, time_limit
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker(reward, takes_lists=takes_lists))
            while not all(worker.ready for worker in self._workers):
                list(self._heard())
        except BaseException:
            self.close()
            raise

    def score(self, asked: Sequence[Sequence[Any]]) -> list[Answer]:
        """What each call with `(prompt, completion, columns)` gave, or in words why it gave nothing."""
        if not self._workers:
            raise ValueError("score: the workers have been let go; score within the `with` block")
        found: list[Answer] = [""] * len(asked)
        waiting = deque(range(len(asked)))
        try:
            while waiting or any(worker.call is not None for worker in self._workers):
                for place, worker in enumerate(self._workers):
                    if not waiting or worker.call is not None or not worker.ready:
                        continue
                    if worker.is_gone():  # since it was idle, so that no call is to blame
                        self._replace(place)
                        continue
                    call = waiting.popleft()
                    worker.give(call, asked[call], time_limit=self._time_limit)
                for call, answer in self._heard():
                    found[call] = answer
        finally:
            for place, worker in enumerate(self._workers):
                if worker.call is not None:  # this was interrupted
                    self._replace(place)
        return found

    def close(self) -> None:
        """Ends the processes: an idle one by itself, so that what it registered at exit is done."""
        for worker in self._workers:
            worker.connection.close()
        until = time.monotonic() + _FAREWELL
        while self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._workers[-1].process.wait(max(0.0, until - time.monotonic()))
            self._workers.pop().end()

    def _replace(self, place: int) -> str:
        ending = self._workers[place].end()
        self._workers[place] = _Worker(self._reward, takes_lists=self._takes_lists)
        return ending

    def _heard(self) -> Iterator[tuple[int, Answer]]:
        """Waits until something happens, and gives the calls that were answered and those that will not be."""
        deadline = min((worker.deadline for worker in self._workers if worker.call is not None), default=math.inf)
        timeout = min(_LOOK, max(0.0, deadline - time.monotonic()))
        heard = wait([worker.connection for worker in self._workers], timeout)
        now = time.monotonic()
        for place, worker in enumerate(self._workers):
            call = worker.call
            if worker.connection in heard or worker.is_gone():
                answer = self._answer(place)
            elif call is not None and worker.deadline <= now:
                self._replace(place)
                answer = f"took longer than {self._time_limit:g} s"
            else:
                continue
            if call is not None and answer is not None:
                yield call, answer

    def _answer(self, place: int) -> Answer | None:
        """What a worker answers its call, or what became of it; None where it has begun, or ended without one."""
        worker = self._workers[place]
        message = worker.says()
        if not worker.ready and message != {"ready": True}:
            why = message["failed"] if message else f"ended its process ({worker.end()})"
            raise RuntimeError(f"{self._reward} cannot be called in a worker process: it {why}")
        if message is None:
            return f"ended its process ({self._replace(place)})"
        worker.ready, worker.call = True, None
        return message.get("answer")
