"""The reward of `polopt train grpo --data`: a function of one's own, called on the host, whose failures are told."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from polopt_jax import language, texts
from polopt_jax.cli._progress import say
from polopt_jax.cli._text_plan import TextPlan
from polopt_jax.cli._words import UsageError

TOLD = 3
"""Updates with answers that could not be scored of which it is told why; the log and the summary count all."""


def check_reward(name: str | None) -> None:
    """Raises UsageError if there is no such function."""
    if name is None:
        return
    try:
        language.import_reward(name)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--reward: {error}") from error


@contextlib.contextmanager
def scoring(plan: TextPlan) -> Iterator[texts.Score | None]:
    """What scores the answers of a plan; None where nothing is answered. Raises UsageError if it cannot be imported."""
    if plan.reward is None:
        yield None
        return
    told = 0
    number = plan.reward_workers or 0
    try:
        with language.reward_workers(plan.reward, workers=number, time_limit=plan.reward_time_limit) as workers:

            def score(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
                nonlocal told
                scores = workers(prompts, completions)
                if scores.failures and told < TOLD:
                    told += 1
                    say(scores.told(most=1) + ("; more like it are counted and not told" if told == TOLD else ""))
                return scores.reward

            yield score
    except RuntimeError as error:
        raise UsageError(f"--reward: {error}") from error
