"""What a run learns from, on the host: a person's records as rows of tokens, and which of them an update takes."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from polopt_jax.fields import with_fields

Record = TypeVar("Record", bound=Any)


@with_fields
class Examples(NamedTuple):
    """Rows to be learnt from, or to be looked at and never learnt from."""

    given: Any
    """A tree of numpy arrays, of which `axis` is that of the rows: a `Batch`, or the tokens of prompts."""
    kept: Sequence[Any]
    """The records of each row."""
    axis: int
    """1 of pairs `[2, N, T]`, else 0."""

    def take(self, places: np.ndarray) -> Any:
        """The rows at `places`, of all leaves."""
        return jax.tree.map(lambda x: np.take(x, places, axis=self.axis), self.given)


def examples(given: Any, kept: Sequence[Any], *, axis: int = 0) -> Examples:
    """Rows as they come from `language.pair_rows` and its like, with their arrays on the host.

    Raises ValueError if there is not a record (or, of packed rows, what stands for them) for each row.
    """
    arrays = jax.tree.map(np.asarray, given)
    for leaf in jax.tree.leaves(arrays):
        if leaf.ndim > axis and leaf.shape[axis] != len(kept):
            raise ValueError(
                f"examples: kept must have a record for each of {leaf.shape[axis]} rows; it has {len(kept)}"
            )
    return Examples(arrays, kept, axis)


def split_records(records: Sequence[Record], *, share: float, most: int) -> tuple[list[Record], list[Record]]:
    """Records to learn from and records to be held out, by their prompts: no prompt is in both.

    The same file gives the same parts, whatever the seed of a run. A record without a prompt is parted by itself.

    Args:
      records: each has a `prompt`.
      share: of the prompts that are held out, at least one if it is not 0 and there are two, and never all.
      most: records to hold out at most. A prompt with which there would be more is learnt from, so that nothing is held
        out where every prompt has more records than this.

    Raises ValueError if the share is not at least 0 and below 1.

    >>> from polopt_jax.language import Prompt
    >>> train, held = split_records([Prompt(word, n) for n, word in enumerate("a b a c d".split())], share=0.25, most=9)
    >>> sorted(record.prompt for record in train), [record.prompt for record in held]
    (['a', 'a', 'b', 'd'], ['c'])
    """
    if not 0 <= share < 1:
        raise ValueError(f"split_records: share must be at least 0 and below 1; it is {share}")
    keys = [record.prompt or n for n, record in enumerate(records)]
    sizes = collections.Counter(keys)
    number = 0 if share == 0 or len(sizes) < 2 else min(max(1, round(share * len(sizes))), len(sizes) - 1)
    groups, chosen, total = list(sizes), set(), 0
    for place in np.random.default_rng(0).permutation(len(groups)).tolist():
        key = groups[place]
        if len(chosen) < number and total + sizes[key] <= most:
            chosen.add(key)
            total += sizes[key]
    is_held = [key in chosen for key in keys]
    train, held = ([record for record, x in zip(records, is_held, strict=True) if x == side] for side in (False, True))
    return train, held


def places_of(size: int, *, rows: int, seed: int, update: int) -> np.ndarray:
    """Which of `size` examples the update after `update` others takes, `[rows]`: a pass over all, and then another.

    Each pass is in an order of its own, which the seed and its number decide, so that nothing has to be remembered to
    go on. An update may take the end of one pass and the beginning of the next.

    Raises ValueError if there are fewer examples than rows, since some would be there twice.

    >>> [places_of(5, rows=2, seed=0, update=update).tolist() for update in range(3)]
    [[2, 4], [3, 0], [1, 1]]
    """
    if not 1 <= rows <= size:
        raise ValueError(f"places_of: rows must be from 1 to the {size} examples that there are; it is {rows}")
    number, place = np.divmod(np.arange(update * rows, (update + 1) * rows), size)
    return np.array([_order(size, seed, int(n))[p] for n, p in zip(number, place, strict=True)])


@functools.lru_cache(maxsize=16)
def _order(size: int, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(size)
