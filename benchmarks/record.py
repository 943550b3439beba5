"""Where benchmark results go: one JSON per benchmark and device, with the versions it was measured with."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def device_name() -> str:
    """`cpu-2` for two CPU cores, else the accelerator's own name, as a folder name."""
    device = jax.devices()[0]
    name = f"cpu-{os.cpu_count()}" if device.platform == "cpu" else device.device_kind
    return "".join(c if c.isalnum() else "-" for c in name).lower()


def save(name: str, figures: dict[str, Any]) -> Path:
    """Writes `results/<device>/<name>.json` and prints it."""
    packages = ("jax", "jaxlib", "flax", "optax", "brax")
    record = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "device": device_name(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in packages},
        "figures": figures,
    }
    path = RESULTS / device_name() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}")
    return path


def lines(x: Any, depth: int = 0) -> str:
    """JSON, whose innermost records and lists stand on one line each."""
    inside = x.values() if isinstance(x, dict) else x if isinstance(x, list) else ()
    if not any(isinstance(y, dict | list) for y in inside):
        return json.dumps(x)
    keys = [json.dumps(key) + ": " for key in x] if isinstance(x, dict) else [""] * len(x)
    rows = [" " * (depth + 1) + key + lines(y, depth + 1) for key, y in zip(keys, inside, strict=True)]
    return "{["[isinstance(x, list)] + "\n" + ",\n".join(rows) + "\n" + " " * depth + "}]"[isinstance(x, list)]


def reckoned(benchmark: str, figures: Any, *, command: str | None = None, **more: Any) -> str:
    """The text of a result file that no device decides: the figures to five digits, and what made them."""
    record = {
        "benchmark": benchmark,
        "command": command or f"python -m benchmarks.{benchmark}",
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("jax", "jaxlib", "optax", "numpy")},
        **more,
        "figures": rounded(figures),
    }
    return lines(record) + "\n"


def rounded(x: Any) -> Any:
    """Every number to five significant digits."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [rounded(value) for value in x]
    return float(f"{x:.5g}") if isinstance(x, float) else x


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, its results waited for."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def interleaved(runs: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, list[float]]:
    """Wall times of several functions, each run once in each of `repeats` rounds after one warm-up of each.

    Machines drift, so a ratio is only worth something between runs of the same round; and what ran just before leaves
    caches and clock rates behind, so the order within a round is drawn anew (from a fixed seed).
    """
    for run in runs.values():
        seconds(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, draw = list(runs), random.Random(0)
    for _ in range(repeats):
        draw.shuffle(order)
        for name in order:
            times[name].append(seconds(runs[name]))
    return times


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the paired ratios."""
    return round(statistics.median(a / b for a, b in zip(numerator, denominator, strict=True)), 4)
