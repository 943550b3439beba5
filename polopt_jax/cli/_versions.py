"""What was installed when something was run."""

import importlib.metadata

import polopt_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax")
"""What, besides this package, decides the numbers of any run."""


def versions(*packages: str) -> dict[str, str | None]:
    """The installed version of each package, None where it is not installed; before them that of polopt_jax."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {"polopt_jax": polopt_jax.__version__, **{package: version(package) for package in packages}}
