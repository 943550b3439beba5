"""`--devices`, `--coordinator` and what goes with it: what a run is spread over."""

import json
import os
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from polopt_jax import processes, runs
from polopt_jax.cli._kinds import SIMULATOR
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._progress import say
from polopt_jax.cli._words import UsageError, flag
from polopt_jax.sharding import row_mesh

AUTO = "auto"
"""The coordinator that JAX finds by itself."""
ADDRESS = "JAX_COORDINATOR_ADDRESS"
"""The environment variable from which JAX reads it."""
FLAGS = ("devices", "coordinator", "num_processes", "process_id")
MOST = 4096


def use_devices(options: Any) -> None:
    """Asks for the devices, and meets the other processes, before JAX starts. Raises UsageError."""
    devices, address, number, index = (getattr(options, name, None) for name in FLAGS)
    for name, value, least in (("devices", devices, 1), ("num_processes", number, 1), ("process_id", index, 0)):
        if value is not None and not least <= value <= MOST:
            raise UsageError(f"{flag(name)} must be from {least} to {MOST:,}; it is {value}")
    if devices is not None:
        processes.ask_for_cpus(devices)
    if address is None and ADDRESS not in os.environ:
        if number is not None or index is not None:
            raise UsageError("--num-processes and --process-id need --coordinator HOST:PORT, the address of process 0")
        return
    if number is not None and index is not None and index >= number:
        raise UsageError(f"--process-id counts from 0: of {number} processes the last is {number - 1}; it is {index}")
    address = None if address == AUTO else address
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise UsageError(f"--coordinator must be HOST:PORT, or {AUTO}; it is {address!r}")
    try:
        processes.join(address, number, index, say)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"the processes cannot be joined: {error} (--coordinator HOST:PORT --num-processes N --process-id I)"
        ) from error


def mesh_of(options: Any, plan: Plan) -> Mesh | None:
    """The devices that a plan is spread over; None for JAX's first alone. Raises UsageError where it cannot be."""
    if processes.count() == 1 and options.devices in (None, 1):
        return None
    if plan.kind is SIMULATOR:
        raise UsageError("simulators step on the host, and are learnt from on one device; leave out --devices")
    if plan.measured_apart:
        raise UsageError(f"{plan.algorithm} learns from pairs that are drawn once, in one process on one device")
    try:
        mesh = row_mesh(options.devices)
    except ValueError as error:
        raise UsageError(f"--devices: {error}") from error
    rows, size = plan.num_envs // (plan.group_size or 1), mesh.size
    if rows % size:
        groups = "" if plan.group_size is None else f", {rows} groups of {plan.group_size},"
        over = f"{size} devices" if processes.count() == 1 else f"{size} devices of {processes.count()} processes"
        raise UsageError(f"--num-envs {plan.num_envs}{groups} cannot be split evenly over {over}; change one of them")
    return mesh


def check_same(plan: Plan) -> None:
    """Raises UsageError in every process if one of them was given another plan."""
    mine = json.loads(runs.to_json(plan.config()))
    theirs = processes.first(lambda: mine)
    different = [name for name in mine if processes.count() > 1 and mine[name] != theirs.get(name)]
    if processes.highest(bool(different))[0]:
        said = f": {', '.join(f'{name} is {mine[name]} here, {theirs.get(name)} there' for name in different)}"
        raise UsageError(f"the processes were not given the same options{said if different else ''}")


def kept_flags(arguments: Sequence[str]) -> list[str]:
    """Of a command line the words that say what the run is spread over.

    >>> kept_flags(["train", "ppo", "--devices", "4", "--env=x", "--process-id=1"])
    ['--devices', '4', '--process-id=1']
    """
    known, kept, taking = {flag(name) for name in FLAGS}, [], False
    for word in arguments:
        if taking or word.split("=")[0].replace("_", "-") in known:
            taking = not taking and "=" not in word
            kept.append(word)
    return kept
