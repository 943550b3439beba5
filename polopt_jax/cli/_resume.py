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

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from polopt_jax import checkpoint
from polopt_jax.cli._errors import CheckpointUnusable, UsageError
from polopt_jax.cli._log import Row, Rows, read_log, spacing, truncate
from polopt_jax.cli._plan import Plan
from polopt_jax.cli._run_directory import CHECKPOINTS, CONFIG, ROWS, read_json, to_json, write

GROWING = frozenset({"steps", "updates", "chunk_updates"})
"""What of a config may differ when a run goes on; `chunk_updates` stays what it was."""
WARNED = frozenset({"versions"})
"""What of a config is told if it differs, but does not hinder."""


class Start(NamedTuple):
    """Where a run begins or goes on."""

    update: int | None
    """The checkpoint to go on from; None to begin."""
    rows: tuple[Row, ...]
    """The rows up to it."""
    length: int
    """Where the last of them ends in the log, in bytes."""
    notes: tuple[str, ...]
    """What the user should know of it."""


BEGINNING = Start(None, (), 0, ())


# The config


def continued(plan: Plan, directory: Path, *, steps: int | None) -> tuple[Plan, list[str]]:
    """The plan in the chunks of the stored config, to its end or to `steps`, and what to warn of.

    Raises UsageError if the config is not readable, is damaged, or is that of a run with other options.
    """
    stored = read_json(directory / CONFIG)
    wanted = json.loads(to_json(plan.config()))
    for name in wanted.keys() - stored.keys() - WARNED:
        raise UsageError(f"{directory / CONFIG} is damaged: it has no {name}")
    differences = list(_differences(stored, wanted))
    different = [text for name, text in differences if name not in GROWING | WARNED]
    if different:
        raise UsageError(f"{directory} was started with other options: {'; '.join(different)}")
    chunk_updates, updates = _checked_sizes(stored, plan, directory / CONFIG)
    num_chunks = updates // chunk_updates
    if steps is not None:
        num_chunks = math.ceil(math.ceil(steps / plan.decisions) / chunk_updates)
    if num_chunks * chunk_updates < updates:
        raise UsageError(
            f"--steps {steps} is less than the {updates * plan.decisions} that {directory} was started for"
        )
    warned = [text for name, text in differences if name in WARNED]
    notes = [f"{directory} was run before with others, so going on may not be bit for bit: {'; '.join(warned)}"]
    return replace(plan, chunk_updates=chunk_updates, num_chunks=num_chunks), notes if warned else []


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys whose values differ, with what was and what is; of an object, each of its keys that differs."""
    for name in {**wanted, **stored}:
        old, new = stored.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from ((name, text) for _, text in _differences(old, new))
        elif old != new or type(old) is not type(new):
            yield name, f"{name} was {_shown(stored, name)}, now {_shown(wanted, name)}"


def _shown(config: dict[str, Any], name: str) -> str:
    return str(config[name]) if name in config else "absent"


def _checked_sizes(stored: dict[str, Any], plan: Plan, path: Path) -> tuple[int, int]:
    """`(chunk_updates, updates)` of a stored config, if they and its steps go together; else UsageError."""
    chunk_updates, updates, steps = (stored[name] for name in ("chunk_updates", "updates", "steps"))
    if type(updates) is not int or updates < 1:
        raise UsageError(f"{path} is damaged: updates is {updates!r}")
    if type(chunk_updates) is not int or chunk_updates < 1 or updates % chunk_updates:
        raise UsageError(f"{path} is damaged: chunk_updates is {chunk_updates!r}, with {updates} updates")
    if steps != updates * plan.decisions:
        raise UsageError(f"{path} is damaged: steps is {steps!r}, not the {updates * plan.decisions} of its updates")
    return chunk_updates, updates


# The checkpoint and the log


def find_start(directory: Path, plan: Plan) -> Start:
    """Where a run goes on, by its checkpoints and its log. Changes nothing.

    Raises CheckpointUnusable if the two do not fit, and UsageError if the config does not fit them.
    """
    path, store = directory / ROWS, directory / CHECKPOINTS
    apart = spacing(path, plan)
    if apart not in (None, plan.chunk_updates):
        raise UsageError(
            f"{directory / CONFIG} is damaged: chunk_updates is {plan.chunk_updates}, but the rows of {path} are "
            f"{apart} updates apart"
        )
    found, skipped = checkpoint.steps(store), checkpoint.unfinished(store)
    notes = [f"skipped in {store}, because incomplete: {', '.join(skipped)}"] if skipped else []
    if not found:
        if path.exists() and path.stat().st_size:
            raise CheckpointUnusable("; ".join([_nothing_saved(path, store), *notes]))
        return BEGINNING._replace(notes=tuple(notes))
    if found[-1] > plan.updates:
        raise UsageError(
            f"{directory / CONFIG} is damaged: updates is {plan.updates}, but {store} has a checkpoint of {found[-1]}"
        )
    log = read_log(path, plan)
    update, why = _newest_reached(log, found, plan, directory)
    count = sum(row["update"] <= update for row in log.rows)
    if update != (log.rows[count - 1]["update"] if count else 0):
        raise CheckpointUnusable(f"{store} has a checkpoint of update {update}, at which no row of {path} ends")
    return Start(update, tuple(log.rows[:count]), log.ends[count - 1] if count else 0, (*notes, *why))


def settle(directory: Path, plan: Plan, start: Start) -> None:
    """Makes the files those of a run that has come to `start` and no further, of this plan."""
    if start.update is not None:
        checkpoint.discard_after(directory / CHECKPOINTS, start.update)
    truncate(directory / ROWS, start.length)
    write(directory / CONFIG, to_json(plan.config(), indent=2) + "\n")


def _nothing_saved(path: Path, store: Path) -> str:
    return (
        f"{path} has rows, but there is no checkpoint in {store} that they belong to; put it back, or begin again "
        "with another --out"
    )


def _newest_reached(log: Rows, found: list[int], plan: Plan, directory: Path) -> tuple[int, list[str]]:
    """The checkpoint to go on from, and what to say of it; CheckpointUnusable if the log does not reach it."""
    path, newest = directory / ROWS, found[-1]
    if log.update >= newest:
        if log.damage is None or log.damage.torn:
            return newest, []
        said = f"line {log.damage.line} of {path} is damaged: {log.damage.why}"
        return newest, [f"{said}; it comes after update {newest}, that of the checkpoint, and is done again"]
    older = [step for step in found if step <= log.update]
    lost = log.damage is None or log.damage.torn
    if lost and older and log.update + plan.chunk_updates == newest:
        return older[-1], [
            f"{path} is cut off at the row of update {newest}, that of the newest checkpoint; "
            f"going back to the checkpoint of update {older[-1]}"
        ]
    said = f"{path} does not reach update {newest}, that of the checkpoint"
    if log.damage is not None:
        said += f": line {log.damage.line} is damaged: {log.damage.why}"
    raise CheckpointUnusable(f"{said}; put it back as it was, or {_way_back(log, found, older, directory)}")


def _way_back(log: Rows, found: list[int], older: list[int], directory: Path) -> str:
    """What to do where the log is lost before the newest checkpoint."""
    if not older:
        return "begin again with another --out"
    doomed = [str(directory / CHECKPOINTS / str(step)) for step in found if step > older[-1]]
    lines = [] if log.damage is None else [f"line {log.damage.line} and all after it"]
    return f"delete {' and '.join([*lines, *doomed])} to go back to update {older[-1]}"
