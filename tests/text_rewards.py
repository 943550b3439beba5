"""Rewards for `test_host_rewards.py`: what a completion says is what is done. Without jax: workers import this file."""

import atexit
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

BACKTRACKING = "a" * 40 + "b"
"""On which the pattern below takes longer than anybody waits, with the interpreter's lock held."""


def length(prompt, completion):
    return len(prompt) + len(completion)


def checksum(prompt, completion):
    """Every code point counts, and where it stands."""
    return float(sum((i + 1) * ord(x) for i, x in enumerate(prompt + completion)) % 1000003)


def by_hash(prompt, completion):
    return hash(completion) % 1000


def modules(prompt, completion):
    return completion in sys.modules


def surroundings(prompt, completion):
    """Whether a variable has a value, `NAME=value`."""
    name, value = completion.split("=")
    return os.environ.get(name) == value


def process(prompt, completion):
    return os.getpid()


def talking(prompt, completion):
    print("printed by the reward")  # noqa: T201
    return 1.0


def loud(prompt, completion):
    os.write(1, b"written by the reward\n")
    return talking(prompt, completion)


def meet(prompt, completion):
    """Comes back when as many of these as the completion says are under way at once, in the folder `prompt`."""
    Path(prompt, str(os.getpid())).touch()
    while len(os.listdir(prompt)) < int(completion):
        time.sleep(0.01)
    return 1.0


def sleep(prompt, completion):
    time.sleep(float(completion))
    return 1.0


def noted(prompt, completion):
    """Writes who is at work into the folder `prompt`, starts a process of its own, and comes to no end."""
    child = subprocess.Popen(["sleep", "60"])
    Path(prompt, "at_work.tmp").write_text(f"{os.getpid()} {child.pid}")
    os.rename(Path(prompt, "at_work.tmp"), Path(prompt, f"at_work_{os.getpid()}"))
    if completion == "regex":
        re.match(r"(a+)+$", BACKTRACKING)
    while True:
        time.sleep(60)


def farewell(prompt, completion):
    """At the end of the process a file comes about."""
    atexit.register(Path(completion).touch)
    return 1.0


def forked(prompt, completion):
    """The child goes back into the caller's code as well."""
    if os.fork():
        os.wait()
        return 1.0
    return 2.0


def orphaned(prompt, completion):
    """Ends its process, but a child keeps everything open that it had."""
    if completion == "stay":
        return 1.0
    if os.fork():
        os._exit(4)
    time.sleep(60)


def fault(prompt, completion):
    """What may go wrong in a reward, by name; a number is itself."""
    match completion:
        case "raise":
            raise ValueError("no such answer")
        case "raise at length":
            raise ValueError("long\n" * 1000)
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit(5)
        case "interrupt":
            raise KeyboardInterrupt
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(60)
        case "loop":
            while True:
                pass
        case "regex":
            re.match(r"(a+)+$", BACKTRACKING)
        case "recursion":
            return fault(prompt, completion)
        case "close":
            os.closerange(3, 64)
            time.sleep(60)
    given = {
        "none": None,
        "text": "1.0",
        "bytes": b"1.0",
        "list": [1.0],
        "complex": 1j,
        "nan": float("nan"),
        "inf": -float("inf"),
        "huge": 1e300,
        "integer too large": 10**400,
        "true": True,
        "fraction": Fraction(1, 4),
    }
    return given[completion] if completion in given else float(completion)


class Judge:
    def __call__(self, prompt, completion):
        return 7

    def judge(self, prompt, completion):
        return 8


judge = Judge()
number = 3


def three(prompt, completion, weight, /):
    return weight


def right(prompt, completion, answer):
    return completion == answer


def near(prompt, completion, answer, tolerance=0):
    return abs(float(completion) - answer) <= tolerance


def as_told(prompt, completion, *, value, tests=()):
    """That what came is what the completion says it is."""
    return repr([value, tests]) == completion


def how_many(prompt, completion, **columns):
    """How many columns there are, and none has taken the place of the completion."""
    return len(columns) if completion == "the answer" else -1


def spoiling(prompt, completion, tests):
    """Changes what it was given."""
    tests["first"].append(completion)
    return len(tests["first"])


def many(prompts, completions):
    """How many a call is about, and each its number in it."""
    return [10 * len(completions) + i for i, _ in enumerate(zip(prompts, completions, strict=True))]


def checksums(prompts, completions):
    return [checksum(*pair) for pair in zip(prompts, completions, strict=True)]


def compared(prompts, completions, answer, weights=None):
    """What right ones are worth: 1, or the weight of their lines; -1 of a line without one where others have some."""
    weights = [1.0] * len(answer) if weights is None else [-1.0 if x is None else x for x in weights]
    return [w * (x == y) for w, x, y in zip(weights, completions, answer, strict=True)]


def faults(prompts, completions):
    """What `fault` gives each, one after the other; or what the first says that the call does."""
    given = {
        "few": [1.0],
        "one number": 1.0,
        "by name": dict.fromkeys(completions, 1.0),
        "text": "1" * len(completions),
    }
    return given.get(completions[0]) or Given(completions)


class Given:
    """What has a length and can be gone through, as an array has; it is no list."""

    def __init__(self, completions):
        self.completions = completions

    def __len__(self):
        return len(self.completions)

    def __iter__(self):
        return iter([fault("", x) for x in self.completions])
