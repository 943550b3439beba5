"""Two laws that are compared have to be of one kind."""

from __future__ import annotations

from typing import Any

from polopt_jax.boundaries import described


def check_kind(other: Any, *kinds: type) -> None:
    """Raises TypeError unless the second law of a KL divergence is of one of the kinds."""
    if not isinstance(other, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"kl_divergence: other must be a {names}; it is {described(other)}")
