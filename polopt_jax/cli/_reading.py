"""A command line as the options of a type, and what is wrong with it in one line."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import tyro

from polopt_jax.cli._words import UsageError

WIDEST = 100
"""Columns of the help where the terminal has more."""


def read_words(kind: Any, command: str, words: list[str], description: str | None = None) -> Any:
    """The options of a command line, of the type `kind`; None if help was asked for and given. Raises UsageError."""
    said, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint), _as_wide_as(_width()):
            options = tyro.conf.OmitArgPrefixes[kind]
            return tyro.cli(options, prog=f"polopt {command}", args=_together(kind, words), description=description)
    except SystemExit as exit_:
        if exit_.code:
            raise UsageError(f"{explain(complaint.getvalue())} (polopt {command} --help)") from None
        print(_wrapped(said.getvalue()))
        return None


def _together(kind: Any, words: list[str]) -> list[str]:
    """The same words, where a flag of a list that is given twice (--prompt A --prompt B) has all that it was given."""
    marks = {f.name: getattr(f.type, "__metadata__", ()) for f in dataclasses.fields(kind)}
    several = {
        name for name, known in marks.items() if any(str(getattr(m, "metavar", "")).endswith("...") for m in known)
    }
    flags = {f"--{name.replace('_', '-')}" for name in several}
    given: dict[str, list[str]] = {}
    rest, taking = [], None
    for word in itertools.chain.from_iterable(_parted(each, flags) for each in words):
        if word.startswith("--") or word == "-h":
            taking = given.setdefault(word, []) if word in flags else None
        if word not in flags:
            (rest if taking is None else taking).append(word)
    return [*rest, *(word for flag, values in given.items() for word in (flag, *values))]


def _parted(word: str, flags: set[str]) -> list[str]:
    """--flag=value of one of these flags as two words, unless the value itself looks like a flag."""
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and flag in flags and not value.startswith("-") else [word]


def _width() -> int:
    """Columns of the help: the terminal's, and no more than can be read well."""
    return min(shutil.get_terminal_size().columns, WIDEST)


@contextlib.contextmanager
def _as_wide_as(columns: int) -> Iterator[None]:
    """Within it, whoever asks how wide the terminal is hears this."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _wrapped(text: str) -> str:
    """Help whose paragraphs fit the terminal, as tyro's lists of flags already do."""
    return "\n".join(textwrap.fill(line, _width()) for line in text.splitlines()).strip()


def explain(complaint: str) -> str:
    """What tyro says over several lines, in a box or under a title, in one.

    >>> explain(" Value error\\n -----\\n  Error parsing --steps: no\\n -----\\n  For full helptext, see x")
    'Error parsing --steps: no'
    """
    boxed = "╭" in complaint
    lines = [line.strip("│").rstrip() for line in complaint.splitlines() if not line.startswith(("╭", "╰"))]
    parts = re.split(r"[─-]{3,}", "\n".join(lines))[0 if boxed else 1 :]
    said = " ".join(parts[0].split())
    if said.startswith("Missing from"):
        known = re.findall(r"^ +(--[a-z-]+ [A-Z]+|[A-Z]{3,})", parts[0], re.MULTILINE)
        return f"missing: {', '.join(known)}"
    if said.startswith("Unrecognized options: "):
        hints = re.findall(r"^ +(--[a-z][a-z-]*)", "\n".join(parts[1:]), re.MULTILINE)
        return said.replace("Unrecognized", "unrecognized") + (f"; did you mean {hints[0]}?" if hints else "")
    return said


def value_of(name: str, words: list[str]) -> str | None:
    """What follows a flag, or stands behind its equals sign; None where it is not there."""
    for place, word in enumerate(words):
        if word == name and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None
