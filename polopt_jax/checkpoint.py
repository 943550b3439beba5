"""Exact save and resume of a training state: orbax for the bytes, a manifest against silent corruption.

Orbax writes a step atomically (a kill leaves the newest complete step) but loads flipped bits without a word; so a
manifest with the step, and with the shape, dtype and sha256 of each leaf, is saved beside the bytes and checked on the
way back. All leaves are one array of bytes to orbax: where one of several arrays cannot be read or written, the
threads of the others print tracebacks that nobody can catch.
"""

from __future__ import annotations

import contextlib
import operator
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from polopt_jax._orbax import MEMBERS, REMOVED, TEMPORARY, checkpointer, is_own, left_over, quiet_orbax, reason
from polopt_jax.boundaries import described
from polopt_jax.leaves import Entry, describe, digest, leaves_of, pack, packed_size, rebuild, shapes_of, unpack
from polopt_jax.ranges import Count, Nonnegative, check_range
from polopt_jax.training import TrainState


class CheckpointError(Exception):
    """A checkpoint is missing, does not fit, or is not what was saved. The message names the leaf."""


class SaveError(CheckpointError):
    """A checkpoint could not be written. Those that were there before are as they were."""


# What there is


def steps(directory: str | Path) -> list[int]:
    """The steps of which all files are there, in order. A temporary directory is none."""
    path = Path(directory)
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return [number for number in numbers if _is_complete(path / str(number))]


def unfinished(directory: str | Path) -> list[str]:
    """Names of the directories that look like steps but are not complete: a save was killed, or files were lost."""
    path = Path(directory)
    entries = sorted(path.iterdir()) if path.is_dir() else []
    return [
        entry.name
        for entry in entries
        if TEMPORARY.fullmatch(entry.name) or (entry.name.isdecimal() and not _is_complete(entry))
    ]


def latest_step(directory: str | Path) -> int | None:
    """The newest complete step, or None."""
    return max(steps(directory), default=None)


def _is_complete(path: Path) -> bool:
    return all((path / member).is_file() for member in MEMBERS)


# Saving


def save(directory: str | Path, step: int, state: Any, *, keep: int = 2) -> None:
    """Saves any pytree of arrays as step `step`, and removes all but the newest `keep` steps.

    Returns when it is on disk. An unfinished directory of that step, and temporary ones that killed saves left, are
    removed. Raises TypeError if `step` is no int, ValueError if a number is out of its range, CheckpointError if that
    step or a later one is there already (`discard_after` removes these) or something else lies in its place, and
    SaveError if it cannot be written (a full disk, say): then the steps before it are as they were.
    """
    try:
        step = operator.index(step)
    except TypeError:
        raise TypeError(f"save: step must be an int; it is {described(step)}") from None
    check_range("save", Nonnegative, step=step)
    check_range("save", Count, keep=keep)
    path = Path(directory).resolve()
    if step in steps(path):
        raise CheckpointError(f"step {step} is already saved in {directory}")
    if (latest := latest_step(path)) is not None and latest > step:
        raise CheckpointError(
            f"step {step} comes before step {latest}, which is saved in {directory}: discard_after it"
        )
    if foreign := [entry for entry in left_over(path, step) if not is_own(entry)]:
        raise CheckpointError(f"{foreign[0]} is not what a save left behind, and is not removed: move it elsewhere")
    try:
        path.mkdir(parents=True, exist_ok=True)
        _sweep(path, step)
        _write(path / str(step), step, leaves_of(state))
        _sync(path, step)
    except Exception as error:  # orbax and tensorstore raise many kinds
        with contextlib.suppress(OSError):
            _sweep(path, step)
        raise SaveError(f"step {step} could not be saved in {directory}: {reason(error)}") from error
    try:
        _remove(path, steps(path)[:-keep])
    except OSError as error:
        raise SaveError(f"an older step could not be removed from {directory}: {reason(error)}") from error


def discard_after(directory: str | Path, step: int) -> None:
    """Removes the steps after `step`: those of updates that are going to be done again."""
    path = Path(directory)
    _remove(path, [other for other in steps(path) if other > step])


def _write(path: Path, step: int, leaves: dict[str, np.ndarray]) -> None:
    with quiet_orbax() as ocp, checkpointer(ocp, "state", "manifest") as saver:
        saver.save(
            path,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({"leaves": pack(leaves)}),
                manifest=ocp.args.JsonSave({"step": step, "leaves": describe(leaves)}),
            ),
        )


def _sync(path: Path, step: int) -> None:
    """Returns when the files of a step, and their names, are on disk; orbax does not wait for that."""
    inside = [path / str(step), *(path / str(step)).rglob("*")]
    for entry in (*inside, path):
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path, doomed: list[int]) -> None:
    """Removes steps. Each is renamed first, so that a kill in the middle leaves nothing that looks like a step."""
    for step in doomed:
        (path / str(step)).rename(path / f"{step}{REMOVED}")
        shutil.rmtree(path / f"{step}{REMOVED}")


def _sweep(path: Path, step: int) -> None:
    """Removes what killed or failed saves and removals left behind, and an unfinished directory of this step."""
    for entry in left_over(path, step):
        shutil.rmtree(entry)


# Restoring


def restore(directory: str | Path, like: Any, *, step: int | None = None) -> tuple[Any, int]:
    """The state saved at `step` (the newest, if None) in the structure of `like`, bit for bit: `(state, step)`.

    `like` is a state of the same run, or its shapes and dtypes (`jax.eval_shape(algorithm.init, key)`). Raises
    CheckpointError if there is no such step; if a leaf is missing, additional, or of another shape or dtype than in
    `like`; if it is of another step, by its manifest or, in a TrainState, by its counter `update`; or if the digest of
    a leaf differs from the one that was saved. Of a damaged step the message names the older one, if there is one, and
    what to delete to go back to it.
    """
    step = _existing(directory, step)
    wanted = shapes_of(like)
    with _damage_told(directory, step):
        manifest = _read_manifest(Path(directory), step)
        _check_structure(manifest, wanted)
        found = _read_leaves(Path(directory), step, manifest)
        state = rebuild(found, like)
        if isinstance(state, TrainState) and (np.asarray(state.update) != step).any():
            raise _DamageError(f"its state has done {np.asarray(state.update).ravel()[0]} updates")
    return state, step


def restore_parts(
    directory: str | Path, parts: Mapping[str, Any], *, leading: tuple[int, ...] = (), step: int | None = None
) -> tuple[dict[str, Any], int]:
    """Parts of the state saved at `step` (the newest, if None), each under its path: `(parts, step)`.

    A policy without its optimizer and its environments, say: `{".params": jax.eval_shape(init, key)}`.

    Args:
      parts: by path within the state, trees of arrays, or of their shapes and dtypes.
      leading: further axes that every leaf has there, in front: those of the seeds.

    Raises CheckpointError if there is no such step, if it is damaged, or if a leaf of a part is missing or of another
    shape or dtype than in `parts`.
    """
    step = _existing(directory, step)
    with _damage_told(directory, step):
        manifest = _read_manifest(Path(directory), step)
        names = {path: _names(path, like) for path, like in parts.items()}
        for wanted in names.values():
            _check_part(manifest, wanted, leading, directory)
        found = _read_leaves(Path(directory), step, manifest)
    leaves = {path: [jax.numpy.asarray(found[name]) for name in wanted] for path, wanted in names.items()}
    return {path: jax.tree.unflatten(jax.tree.structure(like), leaves[path]) for path, like in parts.items()}, step


def _names(path: str, like: Any) -> dict[str, Any]:
    """The leaves of a part under their names in the whole state."""
    return {path + jax.tree_util.keystr(inner): x for inner, x in jax.tree_util.tree_leaves_with_path(like)}


def _check_part(
    manifest: dict[str, Entry], wanted: dict[str, Any], leading: tuple[int, ...], directory: str | Path
) -> None:
    """Raises CheckpointError where a leaf is missing, or of another shape or dtype."""
    for name, x in wanted.items():
        if name not in manifest:
            raise CheckpointError(f"the checkpoint in {directory} does not fit: it has no {name}")
        there, here = tuple(manifest[name]["shape"]), (*leading, *x.shape)
        if (there, manifest[name]["dtype"]) != (here, str(x.dtype)):
            raise CheckpointError(
                f"the checkpoint in {directory} does not fit: {name} is {manifest[name]['dtype']}{list(there)} there, "
                f"and {x.dtype}{list(here)} is wanted"
            )


def check(directory: str | Path, *, step: int | None = None) -> int:
    """Reads a step (the newest, if None) and compares it with its manifest, without a state to fit it to.

    Returns the step. Raises CheckpointError as `restore` does of a damaged one.
    """
    step = _existing(directory, step)
    with _damage_told(directory, step):
        _read_leaves(Path(directory), step, _read_manifest(Path(directory), step))
    return step


class _DamageError(Exception):
    """What is wrong with the step that is being read."""


@contextlib.contextmanager
def _damage_told(directory: str | Path, step: int) -> Iterator[None]:
    """Turns whatever goes wrong within it into a CheckpointError that names the way back."""
    older = [other for other in steps(directory) if other < step]
    way_out = f"; delete {Path(directory) / str(step)} to go back to step {older[-1]}" if older else ""
    try:
        yield
    except CheckpointError:
        raise
    except _DamageError as error:
        raise CheckpointError(f"step {step} in {directory} is corrupt: {error}{way_out}") from error
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise CheckpointError(f"step {step} in {directory} cannot be read: {reason(error)}{way_out}") from error


def _existing(directory: str | Path, step: int | None) -> int:
    known = steps(directory)
    if not known:
        raise CheckpointError(f"there is no checkpoint in {directory}")
    if step is not None and step not in known:
        raise CheckpointError(f"there is no step {step} in {directory}; there are {known}")
    return known[-1] if step is None else step


def _read_manifest(path: Path, step: int) -> dict[str, Entry]:
    """The entries of the leaves, by name, of a manifest that is of this step."""
    with quiet_orbax() as ocp, checkpointer(ocp, "manifest") as reader:
        args = ocp.args.Composite(manifest=ocp.args.JsonRestore())
        manifest = reader.restore(path.resolve() / str(step), args=args).manifest
    if not (isinstance(manifest, dict) and isinstance(manifest.get("leaves"), dict)):
        raise _DamageError("its manifest is not one")
    if manifest.get("step") != step:
        raise _DamageError(f"its manifest is that of step {manifest.get('step')}")
    return manifest["leaves"]


def _read_leaves(path: Path, step: int, manifest: dict[str, Entry]) -> dict[str, np.ndarray]:
    target = {"leaves": np.empty(packed_size(manifest), np.uint8)}
    with quiet_orbax() as ocp, checkpointer(ocp, "state") as reader:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        packed = reader.restore(path.resolve() / str(step), args=args).state["leaves"]
    leaves = unpack(np.asarray(packed), manifest)
    for name, x in leaves.items():
        if digest(x) != manifest[name]["sha256"]:
            raise _DamageError(f"{name} is not what was saved")
    return leaves


def _check_structure(manifest: dict[str, Entry], wanted: dict[str, Any]) -> None:
    """Raises CheckpointError where the leaves differ in name, shape or dtype, and says in what."""
    for name in sorted(manifest.keys() ^ wanted.keys()):
        where = "the checkpoint" if name in wanted else "this run"
        raise CheckpointError(f"the checkpoint is of another run: {where} has no {name}")
    theirs = {name: (tuple(entry["shape"]), entry["dtype"]) for name, entry in manifest.items()}
    ours = {name: (x.shape, str(x.dtype)) for name, x in wanted.items()}
    _check_seed_axis(theirs, ours)
    for name, (shape, dtype) in ours.items():
        if theirs[name] != (shape, dtype):
            saved_shape, saved_dtype = theirs[name]
            raise CheckpointError(
                f"the checkpoint is of another run: {name} is {saved_dtype}{list(saved_shape)} there "
                f"and {dtype}{list(shape)} here"
            )


def _check_seed_axis(theirs: dict[str, tuple], ours: dict[str, tuple]) -> None:
    """Raises CheckpointError if two TrainStates differ in nothing but the leading axis, that of the seeds.

    The axis is read off the counter `update`, which is a scalar without it.
    """
    there, here = (leaves.get(".update", ((), ""))[0] for leaves in (theirs, ours))

    def inner(leaves: dict[str, tuple], axes: int) -> dict[str, tuple]:
        return {name: (shape[axes:], dtype) for name, (shape, dtype) in leaves.items()}

    if there != here and inner(theirs, len(there)) == inner(ours, len(here)):
        raise CheckpointError(f"the checkpoint is of the same run with {_seeds(there)}; this one has {_seeds(here)}")


def _seeds(axes: tuple[int, ...]) -> str:
    """What a leading axis says of the seeds.

    >>> _seeds(()), _seeds((1,)), _seeds((3,))
    ('no seed axis', 'a seed axis of 1', 'a seed axis of 3')
    """
    return f"a seed axis of {axes[0]}" if axes else "no seed axis"
