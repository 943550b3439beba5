"""A person's file as examples: read, parted, made tokens of, with everything told that was left out."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polopt_jax import language, texts
from polopt_jax.cli._progress import say
from polopt_jax.cli._text_family import NEEDS
from polopt_jax.cli._text_plan import MOST_HELD
from polopt_jax.cli._words import UsageError
from polopt_jax.language import Problem
from polopt_jax.settings import TOKENIZER

TOLD = 5
"""Problems that are told one by one; the rest is counted. All of them stand in the report."""

Reader = Callable[[Path], language.Records]


class Data(NamedTuple):
    """What there is to learn from, and what is held out."""

    train: Sequence[Any]
    held: Sequence[Any]
    problems: tuple[Problem, ...]
    read: int
    """Records in the file, with those that were left out."""


READERS: dict[str, Reader] = {
    "sft": language.read_texts,
    "pairs": language.read_pairs,
    "labels": language.read_labelled,
    "grpo": language.read_prompts,
}


def read_data(path: Path, kind: str, *, held_out: float, max_length: int, answer_length: int | None = None) -> Data:
    """The records of a file that are not too long, parted; prompts leave room for an answer of so many tokens. Raises
    UsageError if it cannot be read or has none."""
    if not path.exists():
        raise UsageError(f"there is no {path}")
    try:
        records = READERS[kind](path)
    except ValueError as error:
        raise UsageError(f"--data: {error}. A line must have {NEEDS[kind]}") from error
    room = max_length - (answer_length - 1 if answer_length else 0)
    short, problems = _short(records.rows, kind, room)
    if not short:
        most = f"the {room} tokens that --answer-length {answer_length} leaves of " if answer_length else ""
        said = f"every record of {path} is longer than {most}--max-length {max_length}"
        raise UsageError(f"--data: {said}: {problems[0]}")
    train, held = texts.split_records(short, share=held_out, most=MOST_HELD)
    ordered = sorted([*records.problems, *problems], key=lambda problem: problem.line)
    left_out = sum(problem.left_out for problem in records.problems)
    return Data(train, held, tuple(ordered), len(records.rows) + left_out)


def tell_problems(data: Data, path: Path) -> None:
    """Says on stderr what is the matter with the file, if anything is."""
    for problem in data.problems[:TOLD]:
        say(f"{path.name}, {problem}")
    if len(data.problems) > TOLD:
        say(f"{path.name}: {len(data.problems) - TOLD} more lines like these; the report has them all")


def about_data(data: Data) -> str:
    """How much there is, in a sentence."""
    out = sum(problem.left_out for problem in data.problems)
    left = f", {out} left out" if out else ""
    said = f"{data.read} records read{left}: {len(data.train)} to learn from, {len(data.held)} held out."
    sizes = Counter(record.prompt or n for n, record in enumerate(data.train))
    crowded = not data.held and len(sizes) > 1 and min(sizes.values()) > MOST_HELD
    return f"{said} Every prompt has more than {MOST_HELD} records, so none could be held out." if crowded else said


def _short(records: Sequence[Any], kind: str, max_length: int) -> tuple[list[Any], list[Problem]]:
    """The records whose tokens fit, and what is to be told of the others. Bytes are tokens, and two are special."""
    kept, problems = [], []
    for record in records:
        longest = max(len(text.encode()) for text in _texts(record, kind)) + (1 if kind == "grpo" else 2)
        if longest <= max_length:
            kept.append(record)
        else:
            problems.append(Problem(record.line, f"has {longest} tokens, more than {max_length}", left_out=True))
    return kept, problems


def _texts(record: Any, kind: str) -> list[str]:
    if kind == "pairs":
        return [record.prompt + record.chosen, record.prompt + record.rejected]
    return [record.prompt] if kind == "grpo" else [record.prompt + record.completion]


# Examples


def text_examples(records: Sequence[language.Text], *, max_length: int) -> texts.Examples:
    """Several texts in a row."""
    rows = language.packed_rows(records, TOKENIZER, max_length=max_length)
    return texts.examples(rows.batch, rows.kept)


def chosen_texts(records: Sequence[Any]) -> list[language.Text]:
    """What is to be imitated of preferences before anything is preferred: the completions that were."""
    return [
        language.Text(record.prompt, getattr(record, "chosen", None) or record.completion, record.line)
        for record in records
        if getattr(record, "label", True)
    ]


def prompt_examples(records: Sequence[language.Prompt], *, max_length: int) -> texts.Examples:
    """Prompts, padded on the left."""
    rows = language.prompt_rows(records, TOKENIZER, max_length=max_length)
    return texts.examples(rows.tokens, rows.kept)
