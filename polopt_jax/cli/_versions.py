"""What was installed when something was run, and on what processor."""

import importlib.metadata
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


def processor(*names: str) -> str:
    """The first thing that Linux says of its processors under one of these names; elsewhere what Python knows of it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    told = ((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    return next((value for name, value in told if name in names), platform.processor())
