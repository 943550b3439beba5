"""What a part of the suite is, and what it is told."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.parts.rows import Row

PURE_JAX_RL, BRAX = "purejaxrl", "brax_trainer"
PEERS = {
    PURE_JAX_RL: "PureJaxRL (from a copy of its repository: --purejaxrl DIRECTORY)",
    "rejax": "rejax",
    BRAX: "brax's trainer",
    "sb3_contrib": "SB3-contrib",
    "stable_baselines3": "Stable-Baselines3",
    "rlax": "rlax",
}
"""Other people's programs by the name of what is imported, and what they are called."""
NEEDS = {
    PURE_JAX_RL: ("brax", "distrax", "gymnax", "flax", "optax"),
    "rejax": ("rejax", "brax", "gymnax"),
    BRAX: ("brax",),
}
"""What has to be importable; of the others they themselves."""


class Peers(NamedTuple):
    """Where other people's programs are."""

    python: str = sys.executable
    """That of an environment which has them; none of them is needed in ours."""
    purejaxrl: str | None = None
    """The folder `purejaxrl` in a copy of its repository, which is no package."""

    def has(self, name: str) -> bool:
        """Whether one can be run."""
        if name == PURE_JAX_RL and self.purejaxrl is None:
            return False
        return _importable(self.python, NEEDS.get(name, (name,)))

    def options(self, name: str) -> dict[str, Any]:
        """What its program has to be told beside what all are told."""
        return {"source": self.purejaxrl} if name == PURE_JAX_RL else {}


@functools.cache
def _importable(python: str, modules: tuple[str, ...]) -> bool:
    """Whether an environment has all of them; nothing is imported."""
    code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(name) for name in {modules!r}))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Wanted(NamedTuple):
    """What a part is told."""

    peers: Peers = Peers()
    quick: bool = False
    """Few and small sizes and few rounds: that everything runs, not how fast."""

    def sizes(self, *all_of_them: int) -> Sequence[int]:
        """The sizes that are measured: of a quick run the smallest."""
        return all_of_them[:1] if self.quick else all_of_them

    def rounds(self, number: int) -> int:
        """How often everything is run: in a quick run three times."""
        return 3 if self.quick else number


class Case(NamedTuple):
    """A piece of a part, which is kept as soon as it is done."""

    name: str
    """Of its file; it also says what is measured."""
    measure: Callable[[], dict[str, Any]]
    """`rows` as JSON (`rows.as_json`), and whatever a part draws beside them."""


class Part(NamedTuple):
    """A part of the suite."""

    about: str
    """What is compared with what, in a sentence."""
    cases: Callable[[Wanted], list[Case]]
    beside: Sequence[str] = ()
    """The peers that it is measured beside, where they are found."""


def told(rows: Sequence[Row], **more: Any) -> dict[str, Any]:
    """What a case gives."""
    from benchmarks.parts.rows import as_json

    return {"rows": as_json(rows), **more}
