"""A reward that is Python on strings: called here or in worker processes, and what cannot be scored is told."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.envs._import import import_callable
from polopt_jax.language._reward_columns import RewardColumns, check_reward
from polopt_jax.language._reward_team import Answer, Team
from polopt_jax.language._reward_worker import attempt, attempt_all

Reward: TypeAlias = Callable[..., Any]
"""`(prompt, completion, **columns) -> reward`, whatever `float` makes a number of but a string.

Parameters after the first two have the names of columns of the prompt's record, and are given them by name: one without
a default must be there, one with a default may be, and `**columns` takes all.

With a batch size it is `(prompts, completions, **columns) -> rewards`, of lists: a number for each completion. A column
is a list, too, with None for a record that has no such column; one that none of them has is left to its default.
"""


class Failure(NamedTuple):
    """A completion that could not be scored."""

    index: int
    prompt: str
    """Its beginning."""
    why: str

    def __str__(self) -> str:
        return f"completion {self.index} of {self.prompt!r}: {self.why}"


class Scores(NamedTuple):
    """The rewards of completions, and which of them there are not."""

    reward: np.ndarray
    """float32 `[N]`, in the order of the completions; NaN where one could not be scored."""
    failures: list[Failure]
    """Those, in order."""

    def told(self, *, most: int = 3) -> str:
        """How many could not be scored, and why the first of them: nothing if all could."""
        if not self.failures:
            return ""
        first = "; ".join(map(str, self.failures[:most]))
        return f"{len(self.failures)} of {len(self.reward)} completions could not be scored: {first}"


class Score(Protocol):
    """What scores completions: a prompt for each, and where there are columns the record's, too, by name.

    Where it has `takes`, a `RewardColumns`, records are held against that before anything is scored.
    """

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Mapping[str, Any]] = ()
    ) -> Scores: ...


def import_reward(name: str) -> Reward:
    """The reward that `package.module:function` names.

    Args:
      name: a module, a colon, and what in it is called with a prompt, a completion and the columns that it names: a
        function, or an object.

    Raises:
      ValueError: `name` is no such name, the module cannot be imported, has no such thing or it cannot be called; the
        message says in which line. TypeError: it does not take a prompt and a completion.

    >>> import_reward("operator:countOf")("banana", "n")
    2
    >>> import_reward("operator:count")
    Traceback (most recent call last):
    ValueError: operator:count cannot be imported: module 'operator' has no attribute 'count'
    """
    with contextlib.redirect_stdout(sys.stderr):
        reward = import_callable(name, what="a reward", called="function", needed="a function of (prompt, completion)")
    check_reward("import_reward", name, reward)
    return reward


@contextlib.contextmanager
def reward_workers(
    reward: Reward | str, *, workers: int = 0, time_limit: float | None = None, batch_size: int | None = None
) -> Iterator[Score]:
    """A function that scores completions, in processes that are there as long as the block is.

        with reward_workers("rewards:correct", workers=4, time_limit=2.0) as score:
            rewards, failures = score(prompts, completions, columns)

    A reward that needs more than the two, the right answer say, names it: of `correct(prompt, completion, answer)` the
    third comes from `columns`, which are those of the records of `read_prompts`, a mapping for each completion.

    A completion that cannot be scored is NaN, and told: the reward raised something, gave what is no finite float32,
    or, with workers, took longer than it may or ended its process. The others are scored as if it were not there; the
    estimators over groups (`group_relative`, ...) leave a NaN out of its group.

    Args:
      reward: `(prompt, completion, **columns) -> number`, or its name `package.module:function`; with a batch size one
        of lists, as `Reward` says.
      workers: how many processes. 0 calls the reward in this one, after each other: any function will do, a lambda too;
        but it can neither be stopped nor kept from ending this process. Processes start anew and import what the reward
        is in, so that it must have a name there: a function at the top of a module which is not the script that
        runs. They import neither jax nor this library, unless the reward does.
      time_limit: seconds that a call may take, None for any; needs workers. (What would stop it in this process is an
        exception from a signal, which code that catches exceptions swallows.) A process that takes longer is killed
        with all that it started, and replaced, which takes as long as its start did.
      batch_size: how many completions a call is about at most, for a reward that is cheaper for many at once, as a
        network's is. It is given lists, and gives a number for each. None: one completion a call, and no lists. A call
        that fails, ends its process or takes too long costs all its completions; what is no number costs its own.

    Returns:
      A context manager that gives `score(prompts, completions, columns=()) -> Scores`. At its end, with Ctrl-C too, no
      process is left, nor where this one is killed.

    Raises:
      ValueError: a number is out of range, a time limit without workers, a reward without a name for workers, texts of
        unlike number, a column that the reward needs is not there; and as `import_reward`. TypeError: a text is no
        string, the reward takes other arguments, or what a column has for a worker is nothing that JSON can say.
      RuntimeError: a process cannot import the reward, though this one can.

    A reward that depends on its arguments alone gives the same scores whatever the number of workers, but for what a
    time limit cuts off, which is a matter of the machine; it has columns of its own to change at each call, and with
    workers they have been JSON (a tuple is a list). Sets of strings have one order in all workers. What a
    reward prints goes to stderr; with `workers=0`, what the *processes* that it starts print goes where they print it.
    Where it imports jax, workers have it on the CPU, unless JAX_PLATFORMS is set.

    >>> with reward_workers(lambda prompt, completion: 3 / completion.count("a")) as score:
    ...     scores = score(["fruit?", "fruit?"], ["banana", "plum"])
    >>> scores.reward.tolist()
    [1.0, nan]
    >>> scores.told()
    "1 of 2 completions could not be scored: completion 1 of 'fruit?': raised ZeroDivisionError: division by zero ..."

    >>> def judged(prompts, completions, answer):
    ...     return [x == y for x, y in zip(completions, answer)]  # or a network, of all of them
    >>> with reward_workers(judged, batch_size=64) as score:
    ...     score(["2+2=", "3+4="], ["4", "8"], [{"answer": "4"}, {"answer": "7"}]).reward.tolist()
    [1.0, 0.0]
    """
    _check_whole("workers", workers, 0)
    if batch_size is not None:
        _check_whole("batch_size", batch_size, 1)
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise ValueError(f"reward_workers: time_limit must be a number of seconds above 0, or None; it is {time_limit}")
    if time_limit is not None and workers == 0:
        raise ValueError("reward_workers: a time_limit needs workers=1 or more: nothing stops a call in this process")
    function = import_reward(reward) if isinstance(reward, str) else reward
    taken = check_reward("reward_workers", "reward", function)
    if workers == 0:
        called = attempt if batch_size is None else attempt_all
        yield _Scoring(taken, lambda calls: _here(function, called, calls), batch_size)
        return
    name = reward if isinstance(reward, str) else _name_of(function)
    limit = math.inf if time_limit is None else time_limit
    team = Team(name, takes_lists=batch_size is not None, workers=workers, time_limit=limit)
    try:
        yield _Scoring(taken, team.score, batch_size, are_sent=True)
    finally:
        team.close()


def _check_whole(name: str, number: Any, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"reward_workers: {name} must be a whole number from {least}; it is {number!r}")


def score_texts(
    reward: Reward | str,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Sequence[Mapping[str, Any]] = (),
    *,
    workers: int = 0,
    time_limit: float | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Scores completions once; `reward_workers` keeps the processes for the next time. All else as there.

    >>> score_texts(lambda prompt, completion: float(completion == prompt[::-1]), ["abc", "abc"], ["cba", "abc"]).reward
    array([1., 0.], dtype=float32)
    >>> def right(prompt, completion, answer):
    ...     return float(completion == answer)
    >>> score_texts(right, ["2+2="] * 2, ["4", "5"], [{"answer": "4"}] * 2).reward
    array([1., 0.], dtype=float32)
    """
    with reward_workers(reward, workers=workers, time_limit=time_limit, batch_size=batch_size) as score:
        return score(prompts, completions, columns)


_Asked: TypeAlias = Sequence[tuple[str, str, dict[str, Any]]]
_Calls: TypeAlias = Sequence[tuple[Any, Any, dict[str, Any]]]
"""Arguments: of each completion those that were asked for, or of a batch lists of them."""


def _here(reward: Reward, called: Callable[..., Answer], calls: _Calls) -> list[Answer]:
    with contextlib.redirect_stdout(sys.stderr):
        return [called(reward, prompt, completion, copy.deepcopy(columns)) for prompt, completion, columns in calls]


def _in_batches(call: Callable[[_Calls], list[Answer]], asked: _Asked, size: int) -> list[float | str]:
    """What calls with lists of so many give each completion."""
    batches = [asked[first : first + size] for first in range(0, len(asked), size)]
    answers = call([_in_lists(batch) for batch in batches])
    each = [x if isinstance(x, list) else [x] * len(batch) for x, batch in zip(answers, batches, strict=True)]
    return [x for batch in each for x in batch]


def _in_lists(batch: _Asked) -> tuple[list[str], list[str], dict[str, list[Any]]]:
    prompts, completions, columns = zip(*batch, strict=True)
    names = dict.fromkeys(name for row in columns for name in row)
    return [*prompts], [*completions], {name: [row.get(name) for row in columns] for name in names}


def _check_json(asked: _Asked) -> None:
    """Raises TypeError for a column that cannot be sent to another process."""
    for n, (_, _, columns) in enumerate(asked):
        for name, value in columns.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                said = f"score: workers are sent columns as JSON, and {name!r} of completion {n} is {described(value)}"
                raise TypeError(f"{said}: {error}. workers=0 takes anything") from error


@dataclasses.dataclass(frozen=True)
class _Scoring:
    """A `Score` that says what its reward takes."""

    takes: RewardColumns
    call: Callable[[_Calls], list[Any]]
    batch_size: int | None
    are_sent: bool = False

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Mapping[str, Any]] = ()
    ) -> Scores:
        for name, texts in {"prompts": prompts, "completions": completions}.items():
            wrong = [texts] if isinstance(texts, str) else [text for text in texts if not isinstance(text, str)]
            if wrong:
                raise TypeError(f"score: {name} must be a list of strings; there is {described(wrong[0])}")
        if len(prompts) != len(completions):
            raise ValueError(
                f"score: there must be a prompt for each completion; there are {len(prompts)} prompts and "
                f"{len(completions)} completions"
            )
        own = _columns(self.takes, columns, len(completions))
        asked = list(zip(prompts, completions, own, strict=True))
        if self.are_sent:
            _check_json(asked)
        found = self.call(asked) if self.batch_size is None else _in_batches(self.call, asked, self.batch_size)
        reward = np.array([np.nan if isinstance(x, str) else x for x in found], np.float32)
        failures = [Failure(i, prompts[i][:40], x) for i, x in enumerate(found) if isinstance(x, str)]
        return Scores(reward, failures)


def _columns(taken: RewardColumns, columns: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """What the reward takes of the columns of each completion; nothing of each where none are given."""
    if isinstance(columns, Mapping) or not isinstance(columns, Iterable):
        raise TypeError(f"score: columns must be a list of dicts, one for each completion; it is {described(columns)}")
    rows = [{} if row == () else row for row in columns] or [{}] * number
    if odd := [row for row in rows if not isinstance(row, Mapping)]:
        raise TypeError(
            f"score: columns must be a list of dicts, one for each completion; there is {described(odd[0])}"
        )
    if len(rows) != number:
        raise ValueError(f"score: there must be columns for each completion: {len(rows)} for {number} completions")
    for n, row in enumerate(rows):
        if wrong := taken.wrong(row):
            raise ValueError(f"score: {wrong} (completion {n})")
    return [taken.of(row) for row in rows]


def _name_of(reward: Any) -> str:
    """The name under which another process finds a function. Raises ValueError if there is none."""
    name = f"{getattr(reward, '__module__', None)}:{getattr(reward, '__qualname__', None)}"
    with contextlib.suppress(ValueError, ImportError, AttributeError):
        if not name.startswith("__main__:") and pkgutil.resolve_name(name) is reward:
            return name
    raise ValueError(
        "reward_workers: workers find a reward by its name, package.module:function, in a module that is not the "
        f"script itself, and {described(reward)} has none: give the name of one, or take workers=0"
    )
