"""From texts to batches: tokens in rows of one length, and which of them are to be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from polopt_jax.language._records import Labelled, Pair, Problem, Text
from polopt_jax.language._tokenizer import Tokenizer, plain_tokens
from polopt_jax.types import Batch


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
      max_length: the most tokens that a row may have, both special ones counted. Longer pairs are left out, and told.

    Returns:
      `Rows(batch, kept, problems)`. The batch has `obs`, `action` and `mask`; a reference's log-probabilities are yours
      to add: `replace(batch, ref_log_prob=model(reference, batch.obs).policy.log_prob(batch.action))`.

    Raises:
      ValueError: max_length is below 2, no pair is left, or there is nothing before the first token of a completion (an
      empty prompt, and a tokenizer without `bos_token_id`).

    >>> from polopt_jax.language import ByteTokenizer
    >>> rows = pair_rows([Pair("2+2=", "4", "five", 1)], ByteTokenizer(), max_length=16)
    >>> rows.batch.action.shape, rows.batch.mask[:, 0].sum(-1).tolist()
    ((2, 1, 9), [2, 5])
    """
    sides = [[(pair.prompt, pair.chosen), (pair.prompt, pair.rejected)] for pair in pairs]
    return _rows("pair_rows", pairs, sides, tokenizer, max_length)


def labelled_rows(records: Sequence[Labelled], tokenizer: Tokenizer, *, max_length: int) -> Rows:
    """A batch `[N, T]` with a label per row, for `kto` and `bco`; the rest as `pair_rows`."""
    rows = _rows("labelled_rows", records, [[(r.prompt, r.completion)] for r in records], tokenizer, max_length)
    labels = jnp.array([record.label for record in rows.kept])
    return rows._replace(batch=replace(_without_sides(rows.batch), label=labels))


def text_rows(texts: Sequence[Text], tokenizer: Tokenizer, *, max_length: int) -> Rows:
    """A batch `[N, T]` of texts to be imitated, for `negative_log_likelihood`; the rest as `pair_rows`."""
    rows = _rows("text_rows", texts, [[(text.prompt, text.completion)] for text in texts], tokenizer, max_length)
    return rows._replace(batch=_without_sides(rows.batch))


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
    begin, end = (
        [x] if (x := getattr(tokenizer, f"{name}_token_id", None)) is not None else [] for name in ("bos", "eos")
    )
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
        if longest > max_length:
            what = f"has {longest} tokens, more than {max_length}"
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
