"""The reward of `polopt train grpo --data`: a function of one's own, called on the host."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from polopt_jax import texts
from polopt_jax.cli._text_plan import TextPlan


@contextlib.contextmanager
def scoring(plan: TextPlan) -> Iterator[texts.Score | None]:
    """What scores the answers of a plan; None where nothing is answered. Raises UsageError if it cannot be imported."""
    if plan.reward is None:
        yield None
        return
    import pkgutil

    reward = pkgutil.resolve_name(plan.reward)

    def score(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        found = []
        for p, c in zip(prompts, completions, strict=True):
            try:
                found.append(float(reward(p, c)))
            except Exception:
                found.append(np.nan)
        return np.array(found)

    yield score
