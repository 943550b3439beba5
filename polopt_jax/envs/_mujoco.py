"""What the adapters of MuJoCo's environments share: names that are nearly right, and keeping MuJoCo quiet."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax


def check_known(argument: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ValueError with the nearest known name."""
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.0)[0]
        raise ValueError(f"{argument} {value!r} is unknown; did you mean {near!r}? Known: {', '.join(known)}")


@contextlib.contextmanager
def quiet_model_loading() -> Iterator[None]:
    """Keeps MuJoCo from writing MUJOCO_LOG.TXT into the working directory, and two notices of deprecation away.

    Anything else that MuJoCo warns of is passed on as a Python warning.
    """
    mujoco: Any = importlib.import_module("mujoco")  # its type stubs lack these functions
    messages: list[str] = []
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Brax System")
            yield
    finally:
        mujoco.set_mju_user_warning(handler)
    for message in messages:
        if "settotalmass" not in message:
            warnings.warn(message, stacklevel=4)


@contextlib.contextmanager
def as_mujoco_expects() -> Iterator[None]:
    """While a simulator is traced: the rank and dtype promotion it relies on, its deprecated ways of calling MuJoCo."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
