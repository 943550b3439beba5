"""What was installed when something was run, in what state a file of one's own was, and on what processor."""

import hashlib
import importlib.metadata
import importlib.util
import platform
from pathlib import Path

import polopt_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax")
"""What, besides this package, decides the numbers of any run."""
CPUINFO = Path("/proc/cpuinfo")


def versions(*packages: str) -> dict[str, str | None]:
    """The installed version of each package, None where it is not installed; before them that of polopt_jax."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {"polopt_jax": polopt_jax.__version__, **{package: version(package) for package in packages}}


def source(name: str) -> str | None:
    """The beginning of the SHA-256 of the file that `package.module:function` is in; None where there is none.

    >>> source("polopt_jax.cli._versions:source") == source("polopt_jax.cli._versions")
    True
    >>> source("no_such:function"), source("no_such.module:function")
    (None, None)
    """
    try:
        found = importlib.util.find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return None
    file = Path(found.origin) if found is not None and found.origin else None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file is not None and file.is_file() else None


def processor(*names: str) -> str:
    """The first thing that Linux says of its processors under one of these names; elsewhere what Python knows of it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    told = ((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    return next((value for name, value in told if name in names), platform.processor())
