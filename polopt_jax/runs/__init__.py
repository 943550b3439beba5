"""A run on disk: its directory and lock, its log and checkpoints, going on with it, and whether it still works.

A run is a `Schedule` and something that builds an `Algorithm`; what it is a run of stands in its config, as JSON. The
command makes runs, and nothing here knows the command.

    with runs.new(path, "name") as directory, closing(Log(directory / ROWS)) as log, stop_on_signals() as stop:
        rows, why = run(schedule, build, log, progress, stop, Start(directory, config))

`RunError` says that a directory cannot be used as was asked, `checkpoint.CheckpointError` that what a run would go on
from, its checkpoint or its log, is missing, damaged, or of another run.
"""

from polopt_jax.runs._directory import (
    CHECKPOINTS,
    CONFIG,
    ROWS,
    RunError,
    check_path,
    check_place,
    existing,
    new,
    plain_name,
    read_config,
    read_json,
    read_run_config,
    to_json,
    without_empty,
    write,
    write_json,
    write_new,
)
from polopt_jax.runs._log import Log, NoLog, Row, scalars
from polopt_jax.runs._loop import Progress, run
from polopt_jax.runs._resume import Start, continued, find_start, settle
from polopt_jax.runs._schedule import Schedule, schedule
from polopt_jax.runs._signals import Stop, stop_on_signals
from polopt_jax.runs._summary import FEW_SEEDS, interval, over_seeds, summarise

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "FEW_SEEDS",
    "ROWS",
    "Log",
    "NoLog",
    "Progress",
    "Row",
    "RunError",
    "Schedule",
    "Start",
    "Stop",
    "check_path",
    "check_place",
    "continued",
    "existing",
    "find_start",
    "interval",
    "new",
    "over_seeds",
    "plain_name",
    "read_config",
    "read_json",
    "read_run_config",
    "run",
    "scalars",
    "schedule",
    "settle",
    "stop_on_signals",
    "summarise",
    "to_json",
    "without_empty",
    "write",
    "write_json",
    "write_new",
]
