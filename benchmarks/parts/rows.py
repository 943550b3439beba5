"""A row of the suite: what was measured, of us and of what is beside us, in the same rounds."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

AT_LEAST, AT_MOST = "at least", "at most"


class Goal(NamedTuple):
    """What a ratio should be."""

    sense: str
    """`AT_LEAST` or `AT_MOST`."""
    ratio: float

    def met(self, ratio: float) -> bool:
        """Whether it is, to the two digits that are shown."""
        return round(ratio, 2) >= self.ratio if self.sense == AT_LEAST else round(ratio, 2) <= self.ratio


class Row(NamedTuple):
    """One comparison. The ratio is ours over theirs, whatever is measured: of rates it should be large, else small."""

    what: str
    beside: str
    """Whose figure stands beside ours."""
    unit: str
    ours: float | None
    """None where it was never reached."""
    theirs: float | None = None
    """Likewise, and where nobody stands beside us."""
    ratio: float | None = None
    """The median over rounds of the ratio of one round, which is not the ratio of the medians."""
    low: float | None = None
    """Quartiles over the rounds; None of what is counted and not timed."""
    high: float | None = None
    rounds: int = 1
    size: int | None = None
    """What grows from row to row of the same `what`."""
    size_of: str = ""
    """What it counts: environments, decisions."""
    goal: Goal | None = None
    note: str = ""
    """What still differs, or what the limit is."""


def of_times(
    what: str, beside: str, ours: Sequence[float], theirs: Sequence[float], *, work: float | None = None, **more: Any
) -> Row:
    """Seconds of the same rounds: as milliseconds, or where each was so much `work` as rates of it a second."""
    pairs = list(zip(ours, theirs, strict=True))
    found = [(b / a if work else a / b) for a, b in pairs]
    low, high = quartiles(found)
    figures = [(work / t if work else 1e3 * t) for t in (statistics.median(ours), statistics.median(theirs))]
    unit = more.pop("unit", "ms")
    return Row(what, beside, unit, *figures, statistics.median(found), low, high, len(found), **more)


def of_numbers(what: str, beside: str, unit: str, ours: float, theirs: float, **more: Any) -> Row:
    """What is counted once and has no spread."""
    return Row(what, beside, unit, ours, theirs, ours / theirs, **more)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper; of one number that number."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is said of every row, to four digits."""
    usual = Row._field_defaults
    return [
        {name: x for name, x in row._asdict().items() if name not in usual or x != usual[name]}
        for row in map(_rounded, rows)
    ]


def from_json(entries: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of a file."""
    return [Row(**{**entry, "goal": Goal(*entry["goal"]) if "goal" in entry else None}) for entry in entries]


def _rounded(row: Row) -> Row:
    digits = {name: float(f"{x:.4g}") for name, x in row._asdict().items() if isinstance(x, float)}
    return row._replace(**digits)
