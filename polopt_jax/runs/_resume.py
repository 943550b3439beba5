"""Where a run goes on from: its stored config, its checkpoints and its log, which must fit each other.

The log is on disk before a checkpoint is saved, and the first checkpoint, of update 0, before the log has a row. So a
kill leaves a log that reaches at least to the newest checkpoint, and a last line that may be torn; anything else was
done to the files afterwards, and is told:

* Rows beyond the newest checkpoint are dropped, torn or not: those updates are done again. A line among them that is
  damaged but not torn is named on the way.
* A damaged line at or before the newest checkpoint is refused, with what to do about it.
* A log that ends, torn or not, just before the row of the newest checkpoint goes back to the checkpoint before, says
  so, and is refused if there is none. A log that ends earlier is refused.
* A log without any checkpoint is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from polopt_jax import checkpoint
from polopt_jax.checkpoint import CheckpointError
from polopt_jax.runs._directory import CHECKPOINTS, CONFIG, ROWS, RunError, read_json, to_json, write_json
from polopt_jax.runs._log import Row, Rows, read_log, spacing, truncate
from polopt_jax.runs._schedule import Schedule

GROWING = frozenset({"steps", "updates", "chunk_updates", "log_to", "vectorization", "data"})
"""What of a config may differ when a run goes on.

`chunk_updates` stays what it was, and whether data from elsewhere are the same is for `data_sha256` to say.
"""
LATER = frozenset({"vectorization", "initial_log_std", "reward_batch_size"})
"""What a config of an earlier version has not; what it was then is for the command to say."""
NONE_BEFORE = frozenset({"memory"})
"""What a config of an earlier version has not, because there was none."""
WARNED = frozenset({"versions"})
"""What of a config is told if it differs, but does not hinder."""
FIRST = frozenset({"algorithm", "env"})
"""What of a config is told alone if it differs: of another algorithm most of the rest does too."""
ANEW = "begin again in another directory"


class Start(NamedTuple):
    """Where a run begins or goes on."""

    directory: Path
    config: dict[str, Any]
    """What it is a run of, as JSON; `Schedule.config()` is a part of it."""
    update: int | None = None
    """The checkpoint to go on from; None to begin."""
    rows: tuple[Row, ...] = ()
    """The rows up to it."""
    length: int = 0
    """Where the last of them ends in the log, in bytes."""
    notes: tuple[str, ...] = ()
    """What the user should know of it."""


# The config


def continued(
    schedule: Schedule, config: dict[str, Any], directory: Path, *, steps: int | None
) -> tuple[Schedule, list[str]]:
    """The schedule in the chunks of the stored config, to its end or to `steps`, and what to warn of.

    Raises RunError if the config is not readable, is damaged, or is that of a run with other options.
    """
    stored, wanted = read_json(directory / CONFIG), json.loads(to_json(config))
    for name in wanted.keys() - stored.keys() - WARNED - LATER - NONE_BEFORE:
        raise RunError(f"{directory / CONFIG} is damaged: it has no {name}")
    differences = list(_differences(stored, wanted))
    unsaid = LATER - stored.keys()
    different = [text for name, text in differences if name not in GROWING | WARNED | unsaid]
    if different:
        first = [text for name, text in differences if name in FIRST]
        raise RunError(f"{directory} was started with other options: {'; '.join(first or different)}")
    chunk_updates, updates = _checked_sizes(stored, schedule.decisions, directory / CONFIG)
    if steps is None:
        steps = updates * schedule.decisions
    num_chunks = math.ceil(math.ceil(steps / schedule.decisions) / chunk_updates)
    if num_chunks * chunk_updates < updates:
        started = updates * schedule.decisions
        raise RunError(f"steps must be at least the {started} that {directory} was started for; it is {steps}")
    warned = [text for name, text in differences if name in WARNED]
    notes = [f"{directory} was run before with others, so going on may not be bit for bit: {'; '.join(warned)}"]
    return schedule._replace(chunk_updates=chunk_updates, num_chunks=num_chunks), notes if warned else []


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys whose values differ, with what was and what is; of an object, each of its keys that differs."""
    for name in {**wanted, **stored}:
        old, new = stored.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from ((name, text) for _, text in _differences(old, new))
        elif old != new or type(old) is not type(new):
            yield name, f"{name} was {stored.get(name, 'absent')}, now {wanted.get(name, 'absent')}"


def _checked_sizes(stored: dict[str, Any], decisions: int, path: Path) -> tuple[int, int]:
    """`(chunk_updates, updates)` of a stored config, if they and its steps go together; else RunError."""
    chunk_updates, updates, steps = (stored[name] for name in ("chunk_updates", "updates", "steps"))
    if type(updates) is not int or updates < 1:
        raise RunError(f"{path} is damaged: updates is {updates!r}")
    if type(chunk_updates) is not int or chunk_updates < 1 or updates % chunk_updates:
        raise RunError(f"{path} is damaged: chunk_updates is {chunk_updates!r}, with {updates} updates")
    if steps != updates * decisions:
        raise RunError(f"{path} is damaged: steps is {steps!r}, not the {updates * decisions} of its updates")
    return chunk_updates, updates


# The checkpoint and the log


def find_start(directory: Path, config: dict[str, Any], schedule: Schedule) -> Start:
    """Where the run of a config goes on, by its checkpoints and its log. Changes nothing.

    Raises CheckpointError if the two do not fit, and RunError if the config does not fit them.
    """
    path, store = directory / ROWS, directory / CHECKPOINTS
    apart = spacing(path, schedule)
    if apart not in (None, schedule.chunk_updates):
        raise RunError(
            f"{directory / CONFIG} is damaged: chunk_updates is {schedule.chunk_updates}, but the rows of {path} are "
            f"{apart} updates apart"
        )
    found, skipped = checkpoint.steps(store), checkpoint.unfinished(store)
    notes = [f"skipped in {store}, because incomplete: {', '.join(skipped)}"] if skipped else []
    if not found:
        if path.exists() and path.stat().st_size:
            said = f"{path} has rows, but there is no checkpoint in {store} that they belong to; put it back, or {ANEW}"
            raise CheckpointError("; ".join([said, *notes]))
        return Start(directory, config, notes=tuple(notes))
    if found[-1] > schedule.updates:
        raise RunError(
            f"{directory / CONFIG} is damaged: updates is {schedule.updates}, but {store} has a checkpoint of "
            f"{found[-1]}"
        )
    log = read_log(path, schedule)
    update, why = _newest_reached(log, found, schedule, directory)
    count = sum(row["update"] <= update for row in log.rows)
    if update != (log.rows[count - 1]["update"] if count else 0):
        raise CheckpointError(f"{store} has a checkpoint of update {update}, at which no row of {path} ends")
    length = log.ends[count - 1] if count else 0
    return Start(directory, config, update, tuple(log.rows[:count]), length, (*notes, *why))


def settle(start: Start) -> None:
    """Makes the files those of a run that has come to `start` and no further."""
    if start.update is not None:
        checkpoint.discard_after(start.directory / CHECKPOINTS, start.update)
    truncate(start.directory / ROWS, start.length)
    write_json(start.directory / CONFIG, start.config)


def _newest_reached(log: Rows, found: list[int], schedule: Schedule, directory: Path) -> tuple[int, list[str]]:
    """The checkpoint to go on from, and what to say of it; CheckpointError if the log does not reach it."""
    path, newest = directory / ROWS, found[-1]
    if log.update >= newest:
        if log.damage is None or log.damage.torn:
            return newest, []
        said = f"line {log.damage.line} of {path} is damaged: {log.damage.why}"
        return newest, [f"{said}; it comes after update {newest}, that of the checkpoint, and is done again"]
    older = [step for step in found if step <= log.update]
    lost = log.damage is None or log.damage.torn
    if lost and older and log.update + schedule.chunk_updates == newest:
        return older[-1], [
            f"{path} is cut off at the row of update {newest}, that of the newest checkpoint; "
            f"going back to the checkpoint of update {older[-1]}"
        ]
    said = f"{path} does not reach update {newest}, that of the checkpoint"
    if log.damage is not None:
        said += f": line {log.damage.line} is damaged: {log.damage.why}"
    raise CheckpointError(f"{said}; put it back as it was, or {_way_back(log, found, older, directory)}")


def _way_back(log: Rows, found: list[int], older: list[int], directory: Path) -> str:
    """What to do where the log is lost before the newest checkpoint."""
    if not older:
        return ANEW
    doomed = [str(directory / CHECKPOINTS / str(step)) for step in found if step > older[-1]]
    lines = [] if log.damage is None else [f"line {log.damage.line} and all after it"]
    return f"delete {' and '.join([*lines, *doomed])} to go back to update {older[-1]}"
