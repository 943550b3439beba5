"""What of a record a reward is called with, beside the prompt and the completion: the columns that it names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from polopt_jax.boundaries import check_takes

_TEXTS, _LISTS, _ORDINALS = ("prompt", "completion"), ("prompts", "completions"), ("first", "second")
"""What comes by place, and what a reward of many at a time calls it."""
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class RewardColumns(NamedTuple):
    """Which columns of a record a reward takes."""

    needed: tuple[str, ...] = ()
    """Those without which it cannot be called."""
    welcome: tuple[str, ...] = ()
    """Those that have a default."""
    others: bool = False
    """Whether it takes all that there are (`**columns`)."""
    places: tuple[str, ...] = ()
    """What it calls the prompt and the completion, which it is given by place; "" of one that cannot be named."""

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a record that the reward takes."""
        named = (*self.needed, *self.welcome)
        return {k: x for k, x in record.items() if k in named or (self.others and k not in self.places)}

    def wrong(self, record: Mapping[str, Any]) -> str | None:
        """What is wrong with a record for this reward; None if nothing is."""
        has = ", ".join(map(str, record)) or "none"
        if lacking := [name for name in self.needed if name not in record]:
            return f'the reward takes "{lacking[0]}" of the columns, and there are {has}'
        if taken := [name for name in self.places if name in record and name not in _TEXTS]:
            at = self.places.index(taken[0])
            return (
                f'the reward calls its {_ORDINALS[at]} parameter "{taken[0]}", as a column is called, and is given the '
                f"{_TEXTS[at]} there: prompt and completion come first, under other names, and then the columns"
            )
        return None


def reward_columns(reward: Callable[..., Any]) -> RewardColumns:
    """Which columns of a prompt's record a reward takes, beside the prompt and the completion: by its signature.

    Args:
      reward: `(prompt, completion, **columns) -> number`.

    Returns:
      `RewardColumns(needed, welcome, others, places)`; of what is built in and has no signature, none.

    >>> def right(prompt, completion, answer, tolerance=0.0): ...
    >>> reward_columns(right).needed, reward_columns(right).welcome
    (('answer',), ('tolerance',))
    """
    try:
        parameters = list(inspect.signature(reward).parameters.values())
    except ValueError:  # built in, without a signature
        return RewardColumns()
    by_place = [x for x in parameters if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)][: len(_TEXTS)]
    rest = [x for x in parameters if x not in by_place and x.kind in _BY_NAME]
    return RewardColumns(
        needed=tuple(x.name for x in rest if x.default is x.empty),
        welcome=tuple(x.name for x in rest if x.default is not x.empty),
        others=any(x.kind is x.VAR_KEYWORD for x in parameters),
        places=tuple("" if x.kind is x.POSITIONAL_ONLY else x.name for x in by_place),
    )


def check_reward(caller: str, what: str, reward: Any) -> RewardColumns:
    """The columns that a reward takes. Raises TypeError if it cannot be called with a prompt and a completion, or has
    them in another order."""
    columns = reward_columns(reward) if callable(reward) else RewardColumns()
    check_takes(caller, what, reward, *_TEXTS, by_name=columns.needed)
    names = columns.places
    swapped = any(completion in names[:1] or prompt in names[1:] for prompt, completion in (_TEXTS, _LISTS))
    if swapped or _TEXTS[0] in columns.needed:
        raise TypeError(
            f"{caller}: {what} must be a function of (prompt, completion, columns by name), in this order; it is one "
            f"of {inspect.signature(reward)}"
        )
    return columns
