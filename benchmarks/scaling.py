"""How an update's time goes with the number of devices and of processes, beside a model of it on paper.

    python -m benchmarks.scaling [--num-envs 1024] [--width 128] [--devices 1 2 4 8] [--repeats 7]

Devices are virtual, and share this machine's cores: what is measured is what splitting the rows costs, not what more
machines would gain. Strong: the same rows over more devices. Weak: as many rows of each device as of one. Every number
of devices is a process of its own, since it is fixed when JAX starts; they are timed in turns. Two processes on
loopback then measure one all-reduce over sockets, and the same update over the two.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.entrants.race import ROOT, Program, Timed, race
from benchmarks.record import save

UPDATES = 4
SIZES = (1, 1_000, 10_000, 100_000)
"""Of an all-reduce, in float32."""


def programs(arguments: argparse.Namespace) -> list[Program]:
    shared = {"width": arguments.width, "updates": UPDATES}
    sizes = {
        f"{kind} {n}": (n, arguments.num_envs * (n if kind == "weak" else 1))
        for kind in ("strong", "weak")
        for n in arguments.devices
        if kind == "strong" or n > 1
    }
    return [
        Program(name, "spread", {**shared, "devices": devices, "num_envs": rows})
        for name, (devices, rows) in sizes.items()
    ]


def figures(times: dict[str, Timed]) -> dict[str, Any]:
    """Of each program its time per update, over that of one device in the same rounds, and its collectives."""
    one = times["strong 1"].seconds
    found = {}
    for name, timed in times.items():
        over = [a / b for a, b in zip(timed.seconds, one, strict=True)]
        low, _, high = statistics.quantiles(over, n=4)
        found[name] = {
            "update_ms_median": round(1e3 * statistics.median(timed.seconds) / UPDATES, 2),
            "over_one_device": {
                "median": round(statistics.median(over), 3),
                "low": round(low, 3),
                "high": round(high, 3),
            },
            "collectives_per_update": timed.told["collectives"],
            "peak_mb": timed.told["peak_mb"],
        }
    return found


# Two processes


def member(address: str, index: int, options: dict[str, Any]) -> None:
    """One of two processes: the times of an all-reduce, and of an update over both."""
    from benchmarks.entrants import spread
    from polopt_jax import processes

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    processes.ask_for_cpus(1)
    processes.join(address, 2, index, lambda text: print(text, file=sys.stderr))
    latency = spread.all_reduce_seconds(SIZES, repeats=10)
    built = spread.build(devices=1, **options)
    built.chunk()
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        built.chunk()
        taken.append((time.perf_counter() - began) / UPDATES)
    if processes.is_first():
        print(
            json.dumps({"all_reduce_seconds": latency, "update_seconds": statistics.median(taken), **built.more}),
            file=answers,
        )
    processes.part(0)


def two_processes(arguments: argparse.Namespace) -> dict[str, Any]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    options = json.dumps({"num_envs": arguments.num_envs, "width": arguments.width, "updates": UPDATES})
    line = [sys.executable, "-m", "benchmarks.scaling", "--member", address]
    both = [
        subprocess.Popen([*line, str(index), options], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for index in range(2)
    ]
    try:
        told = [process.communicate(timeout=600)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    return json.loads(told[0])


def model(found: dict[str, Any], two: dict[str, Any], cores: int) -> dict[str, Any]:
    """The paper's model, `t(N) = t(1) / min(N, cores) + R x a(bytes)`, for the two processes, beside what they took.

    R all-reduces of an update at the measured time of one of a gradient's size, an upper bound, as most are smaller.
    """
    number = sum(two["collectives"].values())
    sums = two["all_reduce_seconds"]
    nearest = min(sums, key=lambda size: abs(int(size) - two["parameters"]))
    compute = found["strong 1"]["update_ms_median"] / min(2, cores)
    return {
        "all_reduces_per_update": number,
        "one_all_reduce_ms": {size: round(1e3 * x, 3) for size, x in sums.items()},
        "compute_ms": round(compute, 2),
        "communication_ms": round(1e3 * number * sums[nearest], 2),
        "predicted_update_ms": round(compute + 1e3 * number * sums[nearest], 2),
        "measured_update_ms": round(1e3 * two["update_seconds"], 2),
    }


def drawn(found: dict[str, Any]) -> Table:
    table = Table("rows", "devices", "an update", "of one device", "collectives in an update")
    for name, row in found.items():
        kind, devices = name.split()
        over = row["over_one_device"]
        counts = ", ".join(f"{n:g} {kind}" for kind, n in row["collectives_per_update"].items()) or "none"
        share = f"{over['median']} ({over['low']} to {over['high']})"
        table.add_row(kind, devices, f"{row['update_ms_median']} ms", share, counts)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-envs", type=int, default=1024, help="of one device")
    parser.add_argument("--width", type=int, default=128, help="units of each of two hidden layers")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.member:
        address, index, options = arguments.member
        member(address, int(index), json.loads(options))
        return
    if 1 not in arguments.devices or arguments.repeats < 2:
        parser.error("--devices must have 1 among them, with which the others are compared; --repeats at least 2")
    found = figures(race(programs(arguments), repeats=arguments.repeats))
    Console(width=110).print(drawn(found))
    two = two_processes(arguments)
    note = "virtual devices and both processes share the machine's cores; ratios are of the same rounds, with quartiles"
    what = {"num_envs": arguments.num_envs, "width": arguments.width, "parameters": two["parameters"], "note": note}
    predicted = model(found, two, os.cpu_count() or 1)
    save(f"scaling-{arguments.num_envs}-{arguments.width}", {**what, "devices": found, "two_processes": predicted})


if __name__ == "__main__":
    main()
