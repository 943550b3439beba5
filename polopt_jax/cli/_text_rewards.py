"""The reward of `polopt train grpo --data`: a function of one's own, called on the host, whose failures are told."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polopt_jax import language, texts
from polopt_jax.cli._progress import say
from polopt_jax.cli._text_data import Data
from polopt_jax.cli._text_plan import TextPlan
from polopt_jax.cli._words import UsageError

TOLD = 3
"""Updates with answers that could not be scored of which it is told why; the log and the summary count all."""


def check_reward(name: str | None, data: Data) -> None:
    """Raises UsageError if there is no such function, or it takes what a record has not."""
    if name is None:
        return
    try:
        takes = language.reward_columns(language.import_reward(name))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--reward: {str(error).removeprefix('import_reward: ')}") from error
    for record in sorted((*data.train, *data.held), key=lambda record: record.line):
        if wrong := takes.wrong(dict(record.columns)):
            raise UsageError(f"--reward {name}: {wrong}, in line {record.line} of --data")


@contextlib.contextmanager
def scoring(plan: TextPlan) -> Iterator[language.Score | None]:
    """What scores the answers of a plan, and tells what it could not; None where nothing is answered.

    Raises UsageError where a worker cannot call the reward.
    """
    if plan.reward is None:
        yield None
        return
    with contextlib.ExitStack() as opened:
        opened.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", texts.UnscoredWarning)  # it is told here, and of fewer than all, too
        team = language.reward_workers(
            plan.reward,
            workers=plan.reward_workers or 0,
            time_limit=plan.reward_time_limit,
            batch_size=plan.reward_batch_size,
        )
        with _not_called():  # and not around what is done with it: an error of that is no matter of the reward's
            score = opened.enter_context(team)
        yield _telling(score)


def _telling(score: language.Score) -> language.Score:
    """The same, which says why of the first few updates with answers that could not be scored."""
    told = 0

    def telling(
        prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Mapping[str, Any]] = ()
    ) -> language.Scores:
        nonlocal told
        with _not_called():
            scores = score(prompts, completions, columns)
        if scores.failures and told < TOLD:
            told += 1
            say(scores.told(most=1) + ("; more like it are counted and not told" if told == TOLD else ""))
        return scores

    return telling


@contextlib.contextmanager
def _not_called() -> Iterator[None]:
    """Within it, a worker that cannot begin is what was wrong with `--reward`."""
    try:
        yield
    except RuntimeError as error:
        raise UsageError(f"--reward: {error}") from error
