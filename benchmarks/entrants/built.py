"""What a program of a race gives to the process that runs it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Built(NamedTuple):
    """A program that is compiled and ready."""

    chunk: Callable[[], Any]
    """Does its work once more, and waits for it."""
    decisions: int
    """Of each chunk, of all environments and seeds."""
    updates: int
    """Of each chunk."""
    differs: str
    """What of it is not as the settings say."""
    more: Mapping[str, Any] = {}
    """What else it tells of itself, as JSON."""
