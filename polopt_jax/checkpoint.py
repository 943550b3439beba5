"""Exact save and resume of a training state: orbax for the arrays, a sha256 of every leaf against silent corruption.

Orbax writes a step atomically (a kill leaves the newest complete step) but loads flipped bits without a word; so a
manifest with the shape, dtype and digest of each leaf is saved beside the arrays and checked on the way back.
"""

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np


class CheckpointError(Exception):
    """A checkpoint is missing, does not fit, or is not what was saved. The message names the leaf."""


def _leaves(state: Any) -> dict[str, np.ndarray]:
    """Every leaf as a numpy array under its path; typed PRNG keys as their data."""

    def as_array(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(jax.device_get(x))

    return {jax.tree_util.keystr(path): as_array(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def _manifest(leaves: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    def entry(x: np.ndarray) -> dict[str, Any]:
        digest = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
        return {"shape": list(x.shape), "dtype": str(x.dtype), "sha256": digest}

    return {name: entry(x) for name, x in leaves.items()}


def _manager(directory: Path, *, keep: int | None = None) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        import orbax.checkpoint as ocp
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(directory.resolve(), options=options)


def save(directory: str | Path, step: int, state: Any, *, keep: int = 2) -> None:
    """Saves any pytree of arrays as step `step`, and removes all but the newest `keep` steps.

    Returns when it is on disk. Raises CheckpointError if that step is there already.
    """
    import orbax.checkpoint as ocp

    leaves = _leaves(state)
    # Orbax treats names as paths, so leaves are numbered in the order of the manifest.
    arrays = {f"{i:05d}": x for i, x in enumerate(leaves.values())}
    with _manager(Path(directory), keep=keep) as manager:
        if step in manager.all_steps():
            raise CheckpointError(f"step {step} is already saved in {directory}")
        manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), manifest=ocp.args.JsonSave(_manifest(leaves))),
        )


def latest_step(directory: str | Path) -> int | None:
    """The newest complete step, or None."""
    path = Path(directory)
    if not path.is_dir():
        return None
    with _manager(path) as manager:
        return manager.latest_step()


def restore(directory: str | Path, like: Any, *, step: int | None = None) -> tuple[Any, int]:
    """The state saved at `step` (the newest, if None) in the structure of `like`, bit for bit: `(state, step)`.

    `like` is a state of the same run (its values do not matter). Raises CheckpointError if there is no such step, if
    a leaf is missing, additional, or of another shape or dtype than in `like`, or if its digest differs from the one
    that was saved; the message then names the older step, if there is one, and what to delete to go back to it.
    """
    import orbax.checkpoint as ocp

    if step is None:
        step = latest_step(directory)
    if step is None:
        raise CheckpointError(f"there is no checkpoint in {directory}")
    wanted = _leaves(like)
    with _manager(Path(directory)) as manager:
        steps = sorted(manager.all_steps())
        if step not in steps:
            raise CheckpointError(f"there is no step {step} in {directory}; there are {steps}")
        older = [other for other in steps if other < step]
        way_out = f"; delete {Path(directory) / str(step)} to go back to step {older[-1]}" if older else ""
        try:
            manifest = manager.restore(step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())).manifest
            _check_structure(manifest, wanted)
            target = {f"{i:05d}": np.empty(e["shape"], e["dtype"]) for i, e in enumerate(manifest.values())}
            restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state
        except CheckpointError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"step {step} in {directory} cannot be read: {why}{way_out}") from error
    found = {name: np.asarray(restored[f"{i:05d}"]) for i, name in enumerate(manifest)}
    for name, entry in _manifest(found).items():
        if entry != manifest[name]:
            raise CheckpointError(f"step {step} in {directory} is corrupt: {name} is not what was saved{way_out}")
    return _rebuild(found, like), step


def _check_structure(manifest: dict[str, dict[str, Any]], wanted: dict[str, np.ndarray]) -> None:
    for name in sorted(manifest.keys() ^ wanted.keys()):
        where = "the checkpoint" if name in wanted else "this run"
        raise CheckpointError(f"the checkpoint is of another run: {where} has no {name}")
    for name, x in wanted.items():
        saved = manifest[name]
        if (list(x.shape), str(x.dtype)) != (saved["shape"], saved["dtype"]):
            raise CheckpointError(
                f"the checkpoint is of another run: {name} is {saved['dtype']}{saved['shape']} there "
                f"and {x.dtype}{list(x.shape)} here"
            )


def _rebuild(found: dict[str, np.ndarray], like: Any) -> Any:
    def leaf(path: Any, old: Any) -> Any:
        x = jax.numpy.asarray(found[jax.tree_util.keystr(path)])
        if isinstance(old, jax.Array) and jax.numpy.issubdtype(old.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(x, impl=jax.random.key_impl(old))
        return x

    return jax.tree_util.tree_map_with_path(leaf, like)
