"""Completions before and after training, side by side, for a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from markupsafe import Markup

from polopt_jax import language, report, runs, texts
from polopt_jax.cli._text_build import network_of, restored_reference
from polopt_jax.cli._text_plan import TextPlan
from polopt_jax.language import greedy_network
from polopt_jax.loading import load_seeds
from polopt_jax.report import Contrast, Section
from polopt_jax.settings import TOKENIZER
from polopt_jax.texts import Completion
from polopt_jax.types import Params

PROMPTS, SAMPLES = 8, 2
"""Held-out prompts that are shown, and sampled completions of each."""
LENGTH = 96
"""Tokens of a completion at most, where the plan says nothing."""
CLIPPED = 80
"""Characters of a column at most."""
KEY = 0x73616D70
"""The seed of what is shown."""


class Shown(NamedTuple):
    """What is on the page, and how far the policy is from the reference by it."""

    sections: list[Section]
    kl: tuple[float | None, float | None]
    """KL(π ‖ ref) in nats per completion, with the half-width of its 95% interval, from the sampled ones."""


def completions_shown(
    plan: TextPlan, directory: Path, records: Sequence[Any], score: language.Score | None = None
) -> Shown:
    """What the first seed's policy says to the prompts of records, and what its reference said; where there is a score,
    also what that is worth, and what the records have beside the prompt."""
    policy = next(iter(load_seeds(directory).values()))
    first: dict[str, Any] = {}
    for record in records:
        first.setdefault(record.prompt, record)
    asked = list(first.values())[:PROMPTS]
    prompts = [record.prompt for record in asked]
    reference = restored_reference(plan, directory)
    after, before = (_said(plan, a, b, prompts) for a, b in ((policy.params, reference), (reference, policy.params)))
    scale = max(1.0, *(float(np.abs(x.log_ratio).max()) for said in (after, before) for xs in said for x in xs))
    pieces: list[Markup] = []
    for record, now, once in zip(asked, after, before, strict=True):
        pieces.append(report.code(record.prompt or "(no prompt)"))
        if score is not None and record.columns:
            pieces.append(report.settings({name: _clipped(x) for name, x in record.columns.items()}))
        sides = ((once, -1), (now, 1)) if plan.has_reference else ((now, 0),)
        shown = [
            _contrast(title, x, sign, worth)
            for rows, sign in sides
            for (title, x), worth in zip(_titled(rows, sign), _worth(score, record, rows), strict=True)
        ]
        pieces.append(report.contrasts_html(shown, scale=min(scale, 8.0)))
    moved = [float(x.log_ratio.sum()) for rows in after for x in rows[1:]]
    legend = _legend(min(scale, 8.0)) if plan.has_reference else []
    return Shown([Section("Completions", [*legend, *pieces])], runs.interval(moved))


def _said(plan: TextPlan, params: Params, other: Params, prompts: Sequence[str]) -> list[list[Completion]]:
    """The likeliest completion of each prompt, token by token, and then sampled ones."""
    network = network_of(plan)
    longest = max(len(TOKENIZER.encode(prompt)) + 1 for prompt in prompts)
    length = min(plan.answer_length or LENGTH, plan.max_length - longest + 1)
    key, settings = jax.random.key(KEY), dict(length=max(length, 1))

    def complete(network: Any, samples: int) -> list[list[Completion]]:
        return texts.complete_prompts(network, params, other, prompts, TOKENIZER, key, samples=samples, **settings)

    both = zip(complete(greedy_network(network), 1), complete(network, SAMPLES), strict=True)
    return [[*greedy, *sampled] for greedy, sampled in both]


def _worth(score: language.Score | None, record: Any, said: Sequence[Completion]) -> list[float | None]:
    """What completions of the prompt of a record are worth; None of each where nobody says."""
    if score is None:
        return [None] * len(said)
    found = score([record.prompt] * len(said), [x.text for x in said], [dict(record.columns)] * len(said))
    return [float(x) for x in found.reward]


def _clipped(value: Any) -> str:
    """A column as text that fits into a line.

    >>> _clipped("four"), _clipped([4, None]), len(_clipped("4" * CLIPPED)), len(_clipped("4" * 999))
    ('four', '[4, null]', 80, 80)
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= CLIPPED else f"{text[: CLIPPED - 1]}…"


def _titled(rows: Sequence[Completion], sign: int) -> list[tuple[str, Completion]]:
    when = {1: "after, ", -1: "before, ", 0: ""}[sign]
    return [(f"{when}{f'sampled {g}' if g else 'greedy'}", x) for g, x in enumerate(rows)]


def _contrast(title: str, said: Completion, sign: int, worth: float | None) -> Contrast:
    """A completion; log-ratios are those of the policy to the reference, whoever said it, and 0 where it has none."""
    ratio = sign * said.log_ratio
    facts = {} if worth is None else {"reward": report.short(worth)}
    facts |= {"log π/ref": report.short(float(ratio.sum()))} if sign else {}
    facts |= {} if said.ended else {"cut off after": f"{len(ratio)}"}
    return Contrast(title, said.pieces, ratio, facts)


def _legend(scale: float) -> list[Markup]:
    """How to read the colours."""
    said = (
        "Prompts that nothing was learnt from. To each, what the reference says, before, and what the policy says, "
        f"after: orange where a piece has become likelier, blue where less likely, deepest at {report.short(scale)} "
        "nats; pointing at it shows the number. ∎ is the end of a completion."
    )
    return [report.prose("How to read this", [said])]
