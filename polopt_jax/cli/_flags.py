"""How the words of a command line become values, and what the help says of a flag."""

from collections.abc import Callable
from typing import Any

import tyro


def _optional(parse: Callable[[str], Any], kind: str) -> Any:
    """A flag of one word that `parse` reads; its default may be None."""

    def read(words: list[str]) -> Any:
        try:
            return parse(words[0])
        except (ValueError, OverflowError):
            raise ValueError(f"{words[0]!r} is not {kind}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="", instance_from_str=read, is_instance=lambda x: True, str_from_instance=lambda x: [str(x)]
    )


def _parse_count(text: str) -> int:
    """A whole number, also as 1e6 or 1_000_000.

    >>> _parse_count("1e6"), _parse_count("1_000")
    (1000000, 1000)
    """
    try:
        return int(text)
    except ValueError:
        if float(text) != int(float(text)):
            raise
        return int(float(text))


whole_number = _optional(_parse_count, "a whole number")
number = _optional(float, "a number")
name_ = _optional(str, "a name")


def setting(metavar: str, default: str | None = None, *, name: str | None = None) -> Any:
    """Name of the value in the help, and what the help says of the default."""
    hint = "" if default is None else f"(default: {default})"
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint=hint)
