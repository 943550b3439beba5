"""Texts, each piece coloured by how much likelier it has become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from polopt_jax.report._completions import NATS, OUTCOME, SEEN
from polopt_jax.report._numbers import short
from polopt_jax.report._pages import _piece


class Contrast(NamedTuple):
    """A text of pieces, and the log-ratio of two policies at each."""

    title: str
    """How it came about."""
    words: Sequence[str]
    """Its pieces, with their spaces."""
    log_ratio: Any
    """Of each piece, in nats: above 0 where it has become likelier."""
    facts: Mapping[str, str]
    """What it came to: names and values."""


def contrasts_html(contrasts: Sequence[Contrast], *, scale: float) -> Markup:
    """Texts as a piece of HTML that needs nothing else, for a page or a notebook.

    A piece is orange where it has become likelier and blue where it has become less likely, the deeper the more; the
    number shows on hovering. Everything is escaped; the piece takes ink and paper of the page around it.

    Args:
      contrasts: the texts.
      scale: the nats at which the colour is deepest.

    Raises:
      ValueError: a text has not one finite number for each piece, or scale is not above 0.

    >>> html = contrasts_html([Contrast("greedy", ["a", "<"], [0.5, -2.0], {})], scale=2.0)
    >>> 'title="+0.5 nats"' in html, "&lt;</span>" in html
    (True, True)
    """
    if not scale > 0:
        raise ValueError(f"scale must be above 0; it is {scale}")
    return _piece("contrasts", [(contrast.title, contrast.facts, _pieces(contrast, scale)) for contrast in contrasts])


def _pieces(contrast: Contrast, scale: float) -> list[dict[str, str]]:
    ratio = np.asarray(contrast.log_ratio, np.float64)
    if isinstance(contrast.words, str) or ratio.shape != (len(contrast.words),) or not np.isfinite(ratio).all():
        raise ValueError(f"log_ratio must be a finite number for each of {len(contrast.words)} pieces, got {ratio}")
    return [
        {
            "text": word.translate(SEEN) or "∎",
            "title": f"{'+' if x > 0 else ''}{short(float(x))} nats",
            "color": OUTCOME if x > 0 else NATS,
            "depth": f"{75 * min(abs(x) / scale, 1):.0f}%",
        }
        for word, x in zip(contrast.words, ratio, strict=True)
    ]
