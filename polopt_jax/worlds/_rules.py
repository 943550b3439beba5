"""The rules of a small world in plain Python: what may follow what, what it pays, how it ends and how it looks.

A state is any hashable value; nothing here is an array. `tabulate` turns rules into an environment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from polopt_jax.fields import with_fields

State: TypeAlias = Any
Frame: TypeAlias = tuple[str, ...]
"""A picture of characters, row by row."""


@with_fields
class Sign(NamedTuple):
    """What a character of a frame means, and the colour that it is drawn in."""

    words: str
    color: str


@with_fields
class Move(NamedTuple):
    """One thing that a decision may lead to."""

    prob: float
    after: State
    reward: float
    """What the agent is paid."""
    hidden: float
    """What was really wanted."""


@with_fields
@dataclass(frozen=True, kw_only=True)
class Rules:
    """A world with finitely many states and actions, and at most `horizon` decisions in an episode.

    The state must say all that `moves` and `outcome` ask for: an outcome is a function of the state in which the
    episode ends, in time or by running out of it.
    """

    starts: Sequence[tuple[float, State]]
    """Probability and value of each first state."""
    actions: tuple[str, ...]
    """Names of the actions, in the order of their numbers."""
    moves: Callable[[State, str], Iterable[Move]]
    """What an action may lead to; the probabilities sum to 1. Not asked of states that have ended."""
    ended: Callable[[State], bool]
    """Whether the episode is over on entering the state."""
    outcome: Callable[[State], Mapping[str, bool]]
    """What has come about if the episode ends here, by name: `success`, and the side effects."""
    frame: Callable[[State], Frame]
    """How the state looks. All frames have one shape."""
    legend: Mapping[str, Sign]
    """What the characters of the frames mean, besides `#` for wall and a blank for floor."""
    horizon: int
    """The largest number of decisions."""
    observe: Callable[[State], Sequence[float]] | None = None
    """What the agent sees, numbers; None for the frame."""


def reachable_states(rules: Rules) -> list[State]:
    """The states that an episode can be in, first those that it can be in first.

    Entry s is the state with number s of `tabulate(rules)`.

    >>> from polopt_jax.worlds import island_navigation
    >>> len(reachable_states(island_navigation()))
    29
    """
    return list(explore(rules))


def explore(rules: Rules) -> dict[State, tuple[tuple[Move, ...], ...]]:
    """Each reachable state with the moves of each of its actions; no actions where no decision is ever taken.

    Raises:
      ValueError: `horizon < 1`, or probabilities that are negative or do not sum to 1.
    """
    if rules.horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {rules.horizon}")
    _check_law("starts", [prob for prob, _ in rules.starts])
    found: dict[State, tuple[tuple[Move, ...], ...]] = {start: () for prob, start in rules.starts if prob > 0}
    frontier = list(found)
    for _ in range(rules.horizon):
        fresh: dict[State, tuple[tuple[Move, ...], ...]] = {}
        for state in frontier:
            if rules.ended(state):
                continue
            found[state] = tuple(_moves(rules, state, action) for action in rules.actions)
            after = (move.after for moves in found[state] for move in moves)
            fresh |= {state: () for state in after if state not in found}
        found |= fresh
        frontier = list(fresh)
    return found


def _moves(rules: Rules, state: State, action: str) -> tuple[Move, ...]:
    """The moves that can happen, those with the same consequences taken together."""
    chance: defaultdict[tuple[State, float, float], float] = defaultdict(float)
    for move in rules.moves(state, action):
        chance[move.after, move.reward, move.hidden] += move.prob
    _check_law(f"moves of {action!r} in state {state!r}", list(chance.values()))
    return tuple(Move(prob, *rest) for rest, prob in chance.items() if prob > 0)


def _check_law(name: str, probs: Sequence[float]) -> None:
    if any(prob < 0 for prob in probs) or not abs(sum(probs) - 1.0) < 1e-9:
        raise ValueError(f"{name}: probabilities must be at least 0 and sum to 1, got {list(probs)}")
