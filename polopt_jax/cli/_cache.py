"""Compiled programs, kept from one run of the command to the next."""

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import jax
from jaxlib import version

from polopt_jax.cli._progress import say
from polopt_jax.cli._versions import processor

SWITCH = "--no-cache"
"""The flag, of every command, with which nothing is kept or read."""
VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
"""Where JAX is told of a cache by whoever runs the command; then it is left as they want it."""
LARGEST = 2**31
"""Bytes; what was not used for longest goes first."""
WORTH = 0.2
"""Seconds of compilation below which a program is not kept."""
ABILITIES = ("flags", "Features")
"""What Linux calls what a processor can do, of Intel's kind and of Arm's."""


def use_cache(arguments: Sequence[str]) -> None:
    """Has JAX keep what it compiles in the user's cache folder, and says so when it makes that."""
    if SWITCH in arguments or any(name in os.environ for name in VARIABLES):
        return
    path = folder()
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home, or none that can be written: then every run compiles
        return
    if is_new:
        say(f"compiled programs are kept in {path}, so that the next run begins sooner ({SWITCH}: not)")
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)


def folder() -> Path:
    """A folder for this version of the compiler on this kind of processor: a program of another may not run here."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    kind = hashlib.sha256(processor(*ABILITIES).encode()).hexdigest()[:8]
    return Path(base) / "polopt_jax" / f"jaxlib-{version.__version__}-{platform.machine()}-{kind}"
