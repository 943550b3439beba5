"""Answers of a token policy: every token coloured by how probable it was, with what the answer came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from polopt_jax.report._completions import NATS, SEEN
from polopt_jax.report._numbers import short
from polopt_jax.report._pages import _piece


class Answer(NamedTuple):
    """An answer of T tokens."""

    title: str
    """How it came about."""
    words: Sequence[str]
    """Its tokens."""
    probability: Any
    """What the policy gave each of them, `[T]`."""
    facts: Mapping[str, str]
    """What it came to: names and values."""
    signs: Sequence[str] = ()
    """A character above each token; none, if empty."""


def answers_html(answers: Sequence[Answer]) -> Markup:
    """Answers as a piece of HTML that needs nothing else, for a page or a notebook.

    The deeper a token is coloured, the more probable it was; the number shows on hovering. Everything is escaped; the
    piece takes ink and paper of the page around it, light or dark.

    Raises:
      ValueError: an answer has no token, not one probability in [0, 1] for each, or signs that are not one for each.

    >>> html = answers_html([Answer("greedy", ["0", "1"], [0.25, 1.0], {"reward": "1"}, " S")])
    >>> 'title="probability 0.25"' in html, "<dt>reward</dt><dd>1</dd>" in html
    (True, True)
    """
    return _piece("answers", [(answer.title, answer.facts, _tokens(answer)) for answer in answers], NATS)


def _tokens(answer: Answer) -> list[dict[str, str]]:
    number, probability = len(answer.words), np.asarray(answer.probability, np.float64)
    if not number or isinstance(answer.words, str):
        raise ValueError(f"words must be a list of at least one token, got {answer.words!r}")
    if probability.shape != (number,) or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(f"probability must be one number in [0, 1] for each of {number} tokens, got {probability}")
    if len(answer.signs) not in (0, number):
        raise ValueError(f"signs must be one for each of {number} tokens, or none; got {len(answer.signs)}")
    return [
        {
            "text": word.translate(SEEN) or "∅",
            "title": f"probability {short(float(p))}",
            "depth": f"{75 * p:.0f}%",
            "sign": sign.strip(),
        }
        for word, p, sign in zip(answer.words, probability, answer.signs or [""] * number, strict=True)
    ]
