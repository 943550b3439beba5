"""Several programs, each in a process of its own, timed in turns."""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

# Several processes share an accelerator, this one among them, and each would take three quarters of it at once.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Program(NamedTuple):
    """What is to be run."""

    name: str
    module: str
    """Of `benchmarks.entrants`."""
    options: Mapping[str, Any]
    """Of its `build`."""
    python: str = sys.executable


class Timed(NamedTuple):
    """What came of it."""

    seconds: list[float]
    """Of a chunk, in the order of the rounds."""
    told: dict[str, Any]
    """`decisions` of a chunk, `build_seconds`, `first_update_seconds`, `differs`, `peak_mb`, `device_peak_mb`."""

    @property
    def each(self) -> list[float]:
        """Seconds a decision, in each round."""
        return [seconds / self.told["decisions"] for seconds in self.seconds]


def race(programs: Sequence[Program], *, repeats: int) -> dict[str, Timed]:
    """Builds the programs one after the other, and then runs a chunk of each in each of `repeats` rounds.

    Machines drift, so a ratio is only worth something between runs of the same round; the order within a round is drawn
    anew (from a fixed seed).

    Raises:
      RuntimeError: a program fails; its last words are in the message.
    """
    with contextlib.ExitStack() as opened:
        running = {program.name: opened.enter_context(_running(program)) for program in programs}
        found = {name: Timed([], told) for name, (_, told) in running.items()}
        order, draw = list(running), random.Random(0)
        for _ in range(repeats):
            draw.shuffle(order)
            for name in order:
                answer = running[name][0]()
                found[name].seconds.append(answer["seconds"])
                found[name].told.update({peak: answer[peak] for peak in ("peak_mb", "device_peak_mb")})
    return found


@contextlib.contextmanager
def _running(program: Program) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A process that is ready: what runs its next chunk, and what it told of itself."""
    words = [program.python, "-m", "benchmarks.entrants", program.module, json.dumps(dict(program.options))]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ
        )

        def answer() -> dict[str, Any]:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                errors.seek(0)
                last = "\n".join(errors.read().strip().splitlines()[-15:])
                raise RuntimeError(f"{program.name} ended with status {process.wait()}:\n{last}")
            return json.loads(line)

        def run() -> dict[str, Any]:
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write("\n")
                    process.stdin.flush()
            return answer()

        try:
            yield run, answer()
        finally:
            process.kill()
            process.wait()
