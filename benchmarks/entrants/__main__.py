"""The process of one program: `python -m benchmarks.entrants MODULE OPTIONS`, with the options of its `build` in JSON.

It is told in lines on its standard input to run another chunk, and answers each with a line of JSON; whatever the
libraries print goes to the error stream.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, options = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.entrants.{name}")
    began = time.perf_counter()
    built = module.build(**json.loads(options))
    build_seconds = time.perf_counter() - began
    first, said = _timed(built.chunk)
    told = {**said, "first_seconds": first, "build_seconds": build_seconds}
    told |= {"first_update_seconds": build_seconds + first / built.updates}
    told |= {"decisions": built.decisions, "updates": built.updates, "differs": built.differs, **built.more}
    print(json.dumps(told), file=answers)
    for _ in sys.stdin:
        seconds, said = _timed(built.chunk)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        peaks = {"peak_mb": round(peak), "device_peak_mb": _device_peak_mb()}
        print(json.dumps({**said, "seconds": seconds, **peaks}), file=answers)


def _timed(chunk: Callable[[], Any]) -> tuple[float, Mapping[str, Any]]:
    began = time.perf_counter()
    said = chunk()
    return time.perf_counter() - began, said or {}


def _device_peak_mb() -> int | None:
    """Of an accelerator's memory, by JAX's own count; None of CPUs, and of what does not use JAX."""
    devices = sys.modules["jax"].local_devices() if "jax" in sys.modules else []
    counts = [device.memory_stats() for device in devices]
    found = [count["peak_bytes_in_use"] for count in counts if count]
    return round(max(found) / 1e6) if found else None


if __name__ == "__main__":
    main()
