"""From texts to batches: tokens in rows of one length, and which of them are to be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.language._records import Labelled, Pair, Problem, Prompt, Text
from polopt_jax.language._tokenizer import Tokenizer, plain_tokens
from polopt_jax.language._tokens import Tokens, padded_tokens
from polopt_jax.types import Batch

NOTHING_SAID = "has a completion without a token"
"""What is told of a record of which nothing can be learnt: its row would have no decision."""


class Prompts(NamedTuple):
    """Prompts as tokens, the records that are in them, and what is to be told of the others."""

    tokens: Tokens
    """`[N, P]`, padded on the left, so that every prompt ends in the last column: what `sample_tokens` takes."""
    kept: list[Prompt]
    problems: list[Problem]


class Rows(NamedTuple):
    """A batch of texts, the records that are in it, and what is to be told of the others."""

    batch: Batch
    """`obs` the tokens up to a position, `action` the next one, `mask` whether that one is of a completion."""
    kept: list
    """The records, in the order of the batch's rows."""
    problems: list[Problem]


def pair_rows(pairs: Sequence[Pair], tokenizer: Tokenizer, *, max_length: int) -> Rows:
    """A preference batch `[2, N, T]` of pairs, for every loss over pairs.

    A row is the token that begins one, the prompt, the completion and the token that ends one; what is to be learnt is
    the completion and its end. Rows are padded on the right to the longest, so that a causal model reads nothing of it.

    Args:
      pairs: as `read_pairs` gives them.
      tokenizer: `ByteTokenizer()`, or one of your own.
      max_length: the most tokens that a row may have, both special ones counted. Longer pairs are left out, and
        those of which a completion has no token, and told.

    Returns:
      `Rows(batch, kept, problems)`. The batch has `obs`, `action` and `mask`; a reference's log-probabilities are yours
      to add: `replace(batch, ref_log_prob=model(reference, batch.obs).policy.log_prob(batch.action))`.

    Raises:
      TypeError: something in `pairs` is no `Pair`.
      ValueError: max_length is below 2, no pair is left, or there is nothing before the first token of a completion (an
      empty prompt, and a tokenizer without `bos_token_id`).

    >>> from polopt_jax.language import ByteTokenizer
    >>> rows = pair_rows([Pair("2+2=", "4", "five", 1)], ByteTokenizer(), max_length=16)
    >>> rows.batch.action.shape, rows.batch.mask[:, 0].sum(-1).tolist()
    ((2, 1, 9), [2, 5])
    """
    _check_records("pair_rows", Pair, pairs)
    sides = [[(pair.prompt, pair.chosen), (pair.prompt, pair.rejected)] for pair in pairs]
    return _rows("pair_rows", pairs, sides, tokenizer, max_length)


def labelled_rows(records: Sequence[Labelled], tokenizer: Tokenizer, *, max_length: int) -> Rows:
    """A batch `[N, T]` with a label per row, for `kto` and `bco`; the rest as `pair_rows`."""
    _check_records("labelled_rows", Labelled, records)
    rows = _rows("labelled_rows", records, [[(r.prompt, r.completion)] for r in records], tokenizer, max_length)
    labels = jnp.array([record.label for record in rows.kept])
    return rows._replace(batch=replace(_without_sides(rows.batch), label=labels))


def text_rows(texts: Sequence[Text], tokenizer: Tokenizer, *, max_length: int) -> Rows:
    """A batch `[N, T]` of texts to be imitated, for `negative_log_likelihood`; the rest as `pair_rows`."""
    _check_records("text_rows", Text, texts)
    rows = _rows("text_rows", texts, [[(text.prompt, text.completion)] for text in texts], tokenizer, max_length)
    return rows._replace(batch=_without_sides(rows.batch))


def packed_rows(texts: Sequence[Text], tokenizer: Tokenizer, *, max_length: int) -> Rows:
    """A batch `[R, max_length - 1]` of texts to be imitated, several in a row, none of which sees another.

    Every text goes into the first row that has room for it. By the mean over decisions (`token_mean`) the loss and its
    gradient are those of the same texts in rows of their own (`text_rows`), at fewer rows.

    Arguments and errors as `pair_rows`; `obs` are `Tokens`, and `kept` has a tuple of records for each row.

    >>> from polopt_jax.language import ByteTokenizer
    >>> texts = [Text("", "abc", 1), Text("", "de", 2), Text("", "fg", 3)]
    >>> rows = packed_rows(texts, ByteTokenizer(), max_length=8)
    >>> rows.batch.obs.segment.tolist(), [[text.line for text in row] for row in rows.kept]
    ([[1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0]], [[1, 2], [3]])
    """
    whole = text_rows(texts, tokenizer, max_length=max_length)
    token, action, mask = (np.asarray(x) for x in (whole.batch.obs, whole.batch.action, whole.batch.mask))
    lengths = mask.shape[-1] - np.argmax(mask[:, ::-1], axis=-1)
    rows: list[list[int]] = []
    room: list[int] = []
    for n, length in enumerate(lengths.tolist()):
        row = next((r for r, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max_length - 1)
        rows[row].append(n)
        room[row] -= length
    shape = (len(rows), max_length - 1)
    packed = {name: np.zeros(shape, np.int32) for name in ("token", "position", "segment", "action", "mask")}
    for r, members in enumerate(rows):
        start = 0
        for number, n in enumerate(members, start=1):
            place = slice(start, start := start + int(lengths[n]))
            values = dict(token=token[n], action=action[n], mask=mask[n], position=np.arange(shape[1]))
            for name, value in values.items():
                packed[name][r, place] = value[: lengths[n]]
            packed["segment"][r, place] = number
    obs = Tokens(**{name: jnp.asarray(packed[name]) for name in ("token", "position", "segment")})
    batch = Batch(obs=obs, action=jnp.asarray(packed["action"]), mask=jnp.asarray(packed["mask"], bool))
    return Rows(batch, [tuple(whole.kept[n] for n in members) for members in rows], whole.problems)


def prompt_rows(prompts: Sequence[Prompt], tokenizer: Tokenizer, *, max_length: int) -> Prompts:
    """Prompts as tokens to be answered to: the token that begins a row, then the prompt, padded on the left.

    Args:
      prompts: as `read_prompts` gives them.
      tokenizer: `ByteTokenizer()`, or one of your own.
      max_length: the most tokens that a prompt may have. Longer ones are left out, and told.

    Raises ValueError if max_length is not positive, or no prompt is left; a prompt without a token, of a tokenizer
    without `bos_token_id`, is left out.

    >>> from polopt_jax.language import ByteTokenizer
    >>> prompt_rows([Prompt("2+2=", 1), Prompt("?", 2)], ByteTokenizer(), max_length=8).tokens.token.tolist()
    [[256, 50, 43, 50, 61], [0, 0, 0, 256, 63]]
    """
    if max_length < 1:
        raise ValueError(f"prompt_rows: max_length must be at least 1; it is {max_length}")
    _check_records("prompt_rows", Prompt, prompts)
    begin = _special(tokenizer, "bos")
    kept, tokens, problems = [], [], []
    for prompt in prompts:
        row = begin + plain_tokens(tokenizer, prompt.prompt)
        if 0 < len(row) <= max_length:
            kept.append(prompt)
            tokens.append(row)
            continue
        what = f"has {len(row)} tokens, more than {max_length}" if row else "has no token"
        problems.append(Problem(prompt.line, what, left_out=True))
    if not kept:
        first = f"{prompts[0].prompt[:40]!r} {problems[0].what}" if problems else "there are none"
        raise ValueError(f"no prompt is left: {first}")
    size = max(map(len, tokens))
    token, real = np.zeros((len(tokens), size), np.int32), np.zeros((len(tokens), size), bool)
    for n, row in enumerate(tokens):
        token[n, size - len(row) :], real[n, size - len(row) :] = row, True
    return Prompts(padded_tokens(jnp.asarray(token), jnp.asarray(real)), kept, problems)


def _check_records(caller: str, kind: type, records: Sequence[Any]) -> None:
    """Raises TypeError for what has not the fields of a record: a dict, or a plain string."""
    needs: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    for record in records:
        if not all(hasattr(record, name) for name in needs):
            said = f"{caller}: a record must be a language.{kind.__name__}({', '.join(needs)})"
            raise TypeError(f"{said}; it is {described(record)}")


def _special(tokenizer: Tokenizer, name: str) -> list[int]:
    """The token that begins (`bos`) or ends (`eos`) a row, if the tokenizer has one."""
    found = getattr(tokenizer, f"{name}_token_id", None)
    return [] if found is None else [found]


def _without_sides(batch: Batch) -> Batch:
    return Batch(obs=batch.obs[0], action=batch.action[0], mask=batch.mask[0])


def _rows(
    caller: str,
    records: Sequence[Pair | Labelled | Text],
    sides: Sequence[Sequence[tuple[str, str]]],
    tokenizer: Tokenizer,
    max_length: int,
) -> Rows:
    """Rows `[S, N, T]` of records with S prompts and completions each."""
    if max_length < 2:
        raise ValueError(f"{caller}: max_length must be at least 2; it is {max_length}")
    begin, end = _special(tokenizer, "bos"), _special(tokenizer, "eos")
    kept, tokens, problems = [], [], []
    for record, texts in zip(records, sides, strict=True):
        rows = [
            (begin + plain_tokens(tokenizer, prompt), plain_tokens(tokenizer, said) + end) for prompt, said in texts
        ]
        longest = max(len(prompt) + len(said) for prompt, said in rows)
        if not rows[0][0]:
            raise ValueError(
                f"{caller}: line {record.line} has an empty prompt, and the tokenizer no bos_token_id to begin with"
            )
        if longest > max_length or not all(said for _, said in rows):
            what = f"has {longest} tokens, more than {max_length}" if longest > max_length else NOTHING_SAID
            problems.append(Problem(record.line, what, left_out=True))
            continue
        kept.append(record)
        tokens.append(rows)
    if not kept:
        raise ValueError(f"{caller}: no row is left: {problems[0] if problems else 'there are no records'}")
    length = max(len(prompt) + len(said) for rows in tokens for prompt, said in rows)
    text = np.zeros((len(tokens[0]), len(tokens), length), np.int32)
    learnt = np.zeros(text.shape, bool)
    for n, rows in enumerate(tokens):
        for side, (prompt, said) in enumerate(rows):
            text[side, n, : len(prompt) + len(said)] = prompt + said
            learnt[side, n, len(prompt) : len(prompt) + len(said)] = True
    batch = Batch(obs=jnp.asarray(text[..., :-1]), action=jnp.asarray(text[..., 1:]), mask=jnp.asarray(learnt[..., 1:]))
    return Rows(batch, kept, problems)
