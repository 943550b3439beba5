"""A person's own texts, read from the files that people have; nothing is dropped without being told.

JSON Lines, one record per line, also gzipped; a directory that Hugging Face's `datasets` saved, where that package is
installed; or the records themselves. A prompt, a completion is a string or a list of chat messages.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from polopt_jax.boundaries import described

Render: TypeAlias = Callable[[Sequence[Mapping[str, str]]], str]
"""`(messages, each with a role and a content) -> text`."""
Source: TypeAlias = str | Path | Iterable[Mapping[str, Any]]
"""A file, a directory, or records."""


class Pair(NamedTuple):
    """Two completions of a prompt, of which one was preferred."""

    prompt: str
    chosen: str
    rejected: str
    line: int = 0
    """Where it stood in the file, from 1; 0 where it was in none."""


class Labelled(NamedTuple):
    """A completion of a prompt, and whether it is a desirable one."""

    prompt: str
    completion: str
    label: bool
    line: int = 0


class Text(NamedTuple):
    """A completion to be imitated; its prompt may be empty."""

    prompt: str
    completion: str
    line: int = 0


class Prompt(NamedTuple):
    """A prompt to be completed."""

    prompt: str
    line: int = 0
    columns: Mapping[str, Any] | tuple[()] = ()
    """What else the record has, under its names: the right answer, say, which a reward takes by its name."""


class Problem(NamedTuple):
    """What is the matter with a line of a file."""

    line: int
    what: str
    left_out: bool
    """Whether the record is not among those that were read."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}{' (left out)' if self.left_out else ''}"


Record = TypeVar("Record", Pair, Labelled, Text, Prompt)


class Records(NamedTuple, Generic[Record]):
    """What was read, and what is to be told of it."""

    rows: list[Record]
    problems: list[Problem]


class _Wrong(Exception):
    """What is the matter with a record."""


def chat_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as text: a line with the role in brackets, then the content, for each.

    >>> chat_text([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
    '[user]\\n2+2?\\n[assistant]\\n4\\n'
    """
    return "".join(f"[{message['role']}]\n{message['content']}\n" for message in messages)


def read_pairs(source: Source, *, render: Render = chat_text) -> Records[Pair]:
    """Preference pairs: `{"prompt", "chosen", "rejected"}`, each a string or a list of messages.

    Where there is no prompt, it is what the two lists of messages begin with in common; strings must have one. A record
    with an empty completion, or with two that are equal, teaches nothing and is left out; a second copy of a record is
    kept. All of it is told, as are broken lines.

    Args:
      source: a file of JSON Lines (`.gz`: gzipped), a directory saved by `datasets`, or the records: what gives one
        mapping after the other, as a list of dicts does, or a dataset in memory. Their lines are their places, from 1.
      render: makes text of messages.

    Returns:
      `Records(rows, problems)`; every line is in one of the two, or in both.

    Raises:
      ValueError: no record is left, with the first problems; OSError: the file cannot be read; TypeError: `source` is
        neither a path nor records.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "prefs.jsonl"
    >>> _ = file.write_text('{"prompt": "2+2=", "chosen": "4", "rejected": "5"}\\n{"prompt": "1+1="}\\n')
    >>> records = read_pairs(file)
    >>> records.rows[0].chosen, str(records.problems[0])
    ('4', 'line 2: has no "chosen" (left out)')
    """

    def parse(record: Mapping[str, Any], line: int) -> Pair:
        chosen, rejected = (_field(record, name) for name in ("chosen", "rejected"))
        if "prompt" in record:
            prompt = _field(record, "prompt")
        elif isinstance(chosen, list) and isinstance(rejected, list):
            shared = _shared(chosen, rejected)
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        else:
            raise _Wrong('has no "prompt"')
        pair = Pair(_text(prompt, render), _text(chosen, render), _text(rejected, render), line)
        _not_empty(chosen=pair.chosen, rejected=pair.rejected)
        if pair.chosen == pair.rejected:
            raise _Wrong('"chosen" and "rejected" are the same')
        return pair

    return _read(source, parse)


def read_labelled(source: Source, *, render: Render = chat_text) -> Records[Labelled]:
    """Completions with a thumb up or down: `{"prompt", "completion", "label"}`, the label true or false.

    Arguments, what is returned and what is raised as `read_pairs`.
    """

    def parse(record: Mapping[str, Any], line: int) -> Labelled:
        label = record.get("label")
        if not isinstance(label, bool | int | float | np.generic) or label not in (True, False):  # some files have 1, 0
            raise _Wrong(f'"label" must be true or false; it is {json.dumps(label, default=repr)}')
        prompt, completion = (_text(_field(record, name), render) for name in ("prompt", "completion"))
        _not_empty(completion=completion)
        return Labelled(prompt, completion, bool(label), line)

    return _read(source, parse)


def read_texts(source: Source, *, render: Render = chat_text) -> Records[Text]:
    """Texts to be imitated: `{"prompt", "completion"}`, of which the completion is learnt, `{"text"}`, `{"messages"}`.

    Arguments, what is returned and what is raised as `read_pairs`.
    """

    def parse(record: Mapping[str, Any], line: int) -> Text:
        whole = next((name for name in ("text", "messages") if name in record), None)
        names = ("prompt", "completion") if whole is None else (whole,)
        *prompt, completion = (_text(_field(record, name), render) for name in names)
        _not_empty(**{names[-1]: completion})
        return Text(prompt[0] if prompt else "", completion, line)

    return _read(source, parse)


def read_prompts(source: Source, *, render: Render = chat_text) -> Records[Prompt]:
    """Prompts to be completed: `{"prompt"}`, which must not be empty; whatever else a record has are its columns.

    Arguments, what is returned and what is raised as `read_pairs`.

    >>> read_prompts([{"prompt": "2+2=", "answer": "4"}]).rows[0].columns
    {'answer': '4'}
    """

    def parse(record: Mapping[str, Any], line: int) -> Prompt:
        prompt = _text(_field(record, "prompt"), render)
        _not_empty(prompt=prompt)
        return Prompt(prompt, line, {name: x for name, x in record.items() if name != "prompt"} or ())

    return _read(source, parse)


def _field(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise _Wrong(f'has no "{name}"')
    value = record[name]
    if isinstance(value, str):
        return value
    is_message = lambda x: isinstance(x, Mapping) and all(isinstance(x.get(k), str) for k in ("role", "content"))  # noqa: E731
    if isinstance(value, list) and all(map(is_message, value)):
        return value
    raise _Wrong(f'"{name}" must be a string or a list of messages with a role and a content')


def _text(value: str | list[Mapping[str, str]], render: Render) -> str:
    text = value if isinstance(value, str) else render(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character that JSON writes as two: "\ud83d"
        raise _Wrong("is not Unicode") from None
    return text


def _shared(chosen: list[Any], rejected: list[Any]) -> int:
    """How many messages both begin with; at least one of either is its own."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if chosen[i] != rejected[i]), max(most, 0))


def _not_empty(**texts: str) -> None:
    for name, text in texts.items():
        if not text:
            raise _Wrong(f'"{name}" is empty')


def _read(source: Source, parse: Callable[[Mapping[str, Any], int], Record]) -> Records[Record]:
    rows, problems, seen = [], [], {}
    is_path = isinstance(source, str | Path)
    for line, found in _lines(Path(source)) if is_path else _given(source):
        try:
            if isinstance(found, _Wrong):
                raise found
            if not isinstance(found, Mapping):
                raise _Wrong("is not a JSON object" if is_path else f"is {described(found)}, and no dict")
            row = parse(found, line)
        except _Wrong as wrong:
            problems.append(Problem(line, str(wrong), left_out=True))
            continue
        first = seen.setdefault(_content(row), line)
        if first != line:
            problems.append(Problem(line, f"is the same as line {first}", left_out=False))
        rows.append(row)
    if not rows:
        told = "; ".join(map(str, problems[:3])) or "it is empty"
        what = f"{source} has" if is_path else "there is"
        raise ValueError(f"{what} no record that can be used: {told}")
    return Records(rows, problems)


def _content(record: Pair | Labelled | Text | Prompt) -> tuple[Any, ...]:
    """What a record says, wherever it stood."""
    return tuple(_key(x) if isinstance(x, Mapping) else x for x in record._replace(line=0))


def _key(columns: Mapping[str, Any]) -> str:
    """One for equal columns, in whatever order; what is no JSON is equal to itself alone."""
    try:
        return json.dumps(columns, sort_keys=True, default=lambda x: f"{type(x).__name__} {id(x)}")
    except (TypeError, ValueError):
        return f"{id(columns)}"


def _given(records: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Records with their numbers from 1. Raises TypeError for what is none."""
    if isinstance(records, Mapping):
        raise TypeError(
            f"records are dicts, one after the other; this is one of {', '.join(map(str, records))}: of a dataset with "
            "several parts give one of them; columns are to be made rows of"
        )
    if not isinstance(records, Iterable):
        raise TypeError(f"records are a file, a directory, or dicts one after the other, not {described(records)}")
    return enumerate(records, start=1)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The records of a file with their numbers from 1; of a broken line, what is the matter with it."""
    if path.is_dir():
        yield from enumerate(_dataset(path), start=1)
        return
    with path.open("rb") as opened, _unpacked(opened) as file:
        for number, line in _numbered(path, file):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig").rstrip())
            except UnicodeDecodeError:
                yield number, _Wrong("is not UTF-8")
            except json.JSONDecodeError as error:
                yield number, _Wrong(f"is not JSON ({error.msg} at column {error.colno})")
            except (RecursionError, ValueError) as error:  # nested too deeply; a number of too many digits
                yield number, _Wrong(f"cannot be read as JSON ({error})")


def _unpacked(file: io.BufferedReader) -> io.BufferedIOBase:
    """What is in a file that may be gzipped, whatever it is called. It is looked at once: it may be a pipe."""
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file


def _numbered(path: Path, file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1. Raises ValueError where a compressed one is cut off or damaged."""
    try:
        yield from enumerate(file, start=1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read to its end: {error}") from None


def _dataset(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from datasets import load_from_disk  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(f"{path} is a directory: to read a saved dataset, pip install datasets") from None
    found = load_from_disk(str(path))
    if hasattr(found, "keys"):
        raise ValueError(f"{path} has several splits: give one of {', '.join(map(str, found.keys()))}")
    return iter(found)
