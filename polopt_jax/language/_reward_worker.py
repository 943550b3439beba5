"""A call of a person's reward, and the process that makes such calls, which imports the standard library alone.

The process runs this file by its path. As a module of the package it would bring jax with it: a second to start, once
per worker and once more for each that is replaced, and a hand on the device.
"""

from __future__ import annotations

import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest number of float32."""
_LONGEST = 300

Caught: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
FAILURES = (Exception, SystemExit)
"""What a reward may raise without ending the run: also a call of `sys.exit`, but no Ctrl-C."""


def attempt(
    reward: Callable[..., object],
    prompt: str,
    completion: str,
    columns: Mapping[str, object],
    caught: Caught = FAILURES,
) -> float | str:
    """What the reward gives a completion, or in words why that is no finite float32.

    >>> attempt(lambda prompt, completion, answer: completion == answer, "2+2=", "4", {"answer": "4"})
    1.0
    >>> attempt(lambda prompt, completion: completion, "2+2=", "4", {})
    'gave a str, which is no number'
    """
    try:
        given = reward(prompt, completion, **columns)
    except caught as error:
        return told(error)
    is_many = hasattr(given, "__len__") and not isinstance(given, str | bytes)
    return _number(given, caught, "; it is called once for each completion, unless a batch size is given" * is_many)


def attempt_all(
    reward: Callable[..., object],
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[object]],
    caught: Caught = FAILURES,
) -> list[float | str]:
    """What one call of a reward that takes lists gives each completion, or in words why that is no finite float32.

    >>> attempt_all(lambda prompts, completions: [len(x) for x in completions], ["?", "?"], ["a", "bc"], {})
    [1.0, 2.0]
    >>> attempt_all(lambda prompts, completions: [1.0], ["?", "?"], ["a", "bc"], {})
    ['gave 1 of 2 numbers', 'gave 1 of 2 numbers']
    """
    try:
        given = reward(prompts, completions, **columns)
        numbers = None if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__len__") else [*given]  # type: ignore[misc]
    except caught as error:
        return [told(error)] * len(completions)
    if numbers is None:
        return [f"gave a {type(given).__name__}, which is no list of numbers"] * len(completions)
    if len(numbers) != len(completions):
        return [f"gave {len(numbers)} of {len(completions)} numbers"] * len(completions)
    return [_number(number, caught) for number in numbers]


def _number(given: object, caught: Caught, hint: str = "") -> float | str:
    """The number that was given, or in words why it is no finite float32."""
    if not _is_number(given):
        return f"gave a {type(given).__name__}, which is no number{hint}"
    try:
        number = float(given)  # type: ignore[arg-type]
    except caught as error:
        return told(error)
    return number if abs(number) <= LARGEST else f"gave {number}, which is no finite float32"


def _is_number(given: object) -> bool:
    """Whether it is one: of NumPy's `float` would read a string, too, and take half of what is complex."""
    kind = getattr(getattr(given, "dtype", None), "kind", "f")
    return hasattr(given, "__float__") and kind not in "cSUOMm"


def told(error: BaseException) -> str:
    """What was raised, and where in the code that was called."""
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    step = error.__traceback__.tb_next if error.__traceback__ else None
    while step and step.tb_next:
        step = step.tb_next
    where = f" ({os.path.basename(step.tb_frame.f_code.co_filename)}, line {step.tb_lineno})" if step else ""
    return f"raised {said[:_LONGEST]}{where}"


def serve(descriptor: int, lifeline: int) -> None:
    """Answers what comes through a connection, until that is closed.

    Nothing is written to the lifeline, a pipe. Where its other end is closed, the process that started this one is
    gone: the system then sends SIGIO to this one and to what it started, which ends them, whatever they are computing.
    (Where that signal is ignored, as on macOS, this one ends after its sample.)
    """
    import fcntl
    from multiprocessing.connection import Connection

    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    connection, own = Connection(descriptor), os.getpid()

    def say(**message: object) -> None:
        connection.send_bytes(json.dumps(message).encode())

    try:
        sys.path[:], name, takes_lists = json.loads(connection.recv_bytes())
        try:
            reward = pkgutil.resolve_name(name)
        except BaseException as error:
            return say(failed=told(error))
        say(ready=True)
        while True:
            asked = json.loads(connection.recv_bytes())
            answer = (attempt_all if takes_lists else attempt)(reward, *asked, caught=BaseException)
            if os.getpid() != own:  # the reward forked, and this is the child
                os._exit(0)
            say(answer=answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return None


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
