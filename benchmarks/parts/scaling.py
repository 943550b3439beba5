"""An update over 2 to 8 devices beside the same over one: what splitting the rows costs, counted and timed.

On a CPU the devices are virtual and share its cores, so nothing is gained there; `benchmarks.scaling` has more, two
processes and a model of them among it.
"""

import argparse
from typing import Any

from benchmarks import scaling
from benchmarks.entrants.race import race
from benchmarks.parts._part import Case, Part, Wanted, told
from benchmarks.parts.rows import Row, of_times

NUM_ENVS, WIDTH, DEVICES = 1024, 64, (1, 2, 4, 8)
WHAT = {"strong": "the same rows in all", "weak": "as many rows of each device"}


def measure(wanted: Wanted) -> dict[str, Any]:
    """Every number of devices over one, in the same rounds."""
    sizes = argparse.Namespace(num_envs=64 if wanted.quick else NUM_ENVS, width=WIDTH)
    sizes.devices = DEVICES[:2] if wanted.quick else DEVICES
    times = race(scaling.programs(sizes), repeats=wanted.rounds(7))
    one = times["strong 1"].seconds
    rows, counted = [], []
    for name, timed in times.items():
        kind, devices = name.split()
        if name != "strong 1":
            each = [[t / scaling.UPDATES for t in seconds] for seconds in (timed.seconds, one)]
            size: Any = {"size": int(devices), "size_of": "devices"}
            rows.append(of_times(f"an update, {WHAT[kind]}", "one device", *each, **size))
            sums = sum(timed.told["collectives"].values())
            counted.append(Row(f"collectives of an update, {WHAT[kind]}", "", "in number", float(sums), **size))
    return told([*rows, *counted])


def cases(wanted: Wanted) -> list[Case]:
    return [Case("devices", lambda: measure(wanted))]


PART = Part("An update of PPO split over devices, beside the same on one.", cases)
