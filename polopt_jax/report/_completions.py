"""A text, word by word: how far each word's place moved the outcome, and how far it moved itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from polopt_jax.report._numbers import short
from polopt_jax.report._pages import _piece

OUTCOME, NATS = "#d55e00", "#2185c5"
"""Vermilion and blue, which the colour-blind tell apart, to be seen on light and on dark paper."""
SEEN = str.maketrans({"\n": "↵\n", "\r": "␍", "\t": "⇥\t"})


def completion_html(words: Sequence[str], outcome: Any, nats: Any) -> Markup:
    """A completion as a piece of HTML that needs nothing else, for a page or a notebook.

    The deeper a word is coloured, the further its position moved the outcome; the longer the line below it, the more
    nats the position itself moved; both relative to the largest. The numbers show on hovering. Words are escaped; the
    piece takes ink and paper of the page around it, light or dark.

    Args:
      words: T words or tokens, with their spaces.
      outcome: `[T]` D_out when only this position follows the new policy, `fork_profile(...).outcome.value`; what is
        below 0, as an estimate may be, is shown as 0.
      nats: `[T]` KL of the position itself, `fork_profile(...).action_kl`.

    Raises:
      ValueError: there is no word, or not one finite number for each.

    >>> html = completion_html([" look", " skip"], [0.0, 0.1], [0.2, 0.1])
    >>> " skip</span>" in html, 'title="outcome 0.1, itself 0.1 nats"' in html
    (True, True)
    """
    measures = {name: _numbers(name, x, words) for name, x in (("outcome", outcome), ("nats", nats))}
    shares = {name: x / (x.max() or 1.0) for name, x in measures.items()}
    shown = [
        {
            "text": word.translate(SEEN) or "∅",
            "title": f"outcome {short(float(moved))}, itself {short(float(own))} nats",
            "outcome": f"{80 * of_outcome:.0f}%",
            "nats": f"{100 * of_nats:.0f}%",
        }
        for word, moved, own, of_outcome, of_nats in zip(words, *measures.values(), *shares.values(), strict=True)
    ]
    largest = {name: short(float(x.max())) for name, x in measures.items()}
    return _piece("completion", shown, largest, {"outcome": OUTCOME, "nats": NATS})


def completion_figure(words: Sequence[str], outcome: Any, nats: Any) -> Any:
    """The same as a matplotlib figure: a line for each word, with a broad bar and a thin one, in nats.

    Arguments and errors: as `completion_html`.

    >>> len(completion_figure([" look", " skip"], [0.0, 0.1], [0.2, 0.1]).axes)
    1
    """
    from matplotlib.figure import Figure

    moved, own = (_numbers(name, x, words) for name, x in (("outcome", outcome), ("nats", nats)))
    places = np.arange(len(words))
    figure = Figure(figsize=(6.4, 0.24 * len(words) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, moved, height=0.8, color=OUTCOME, alpha=0.75, label="moved the outcome")
    axes.barh(places, own, height=0.22, color=NATS, label="moved itself")
    labels = [word.translate(SEEN).replace("\n", "").replace("\t", "") or "∅" for word in words]
    axes.set_yticks(places, labels, fontsize=9, parse_math=False)
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.set_xlabel("nats", fontsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def _numbers(name: str, x: Any, words: Sequence[str]) -> np.ndarray:
    """`x` as floats `[T]`, at least 0; raises ValueError unless there is one finite number for each word."""
    numbers = np.asarray(x, np.float64)
    if not len(words) or isinstance(words, str):
        raise ValueError(f"words must be a list of at least one word, got {words!r}")
    if numbers.shape != (len(words),):
        raise ValueError(f"{name} must have one number for each of {len(words)} words; it has shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite; it is not at {np.flatnonzero(~np.isfinite(numbers)).tolist()}")
    return np.maximum(numbers, 0.0)
