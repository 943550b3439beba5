"""What a part of the suite is, and what it is told."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.entrants.race import Program
from benchmarks.parts.rows import Row, as_json

PURE_JAX_RL, BRAX, RLAX, TRL = "purejaxrl", "brax_trainer", "rlax", "trl"
SB3, SB3_CONTRIB = "stable_baselines3", "sb3_contrib"
PEERS = {
    PURE_JAX_RL: "PureJaxRL",
    "rejax": "rejax",
    BRAX: "brax's trainer",
    SB3_CONTRIB: "SB3-contrib",
    SB3: "Stable-Baselines3",
    RLAX: "rlax",
    TRL: "TRL",
}
"""Other people's programs by the name of what is imported, and what they are called."""
OURS_TOO = ("jax", "flax", "optax", "chex")
"""Of a peer's environment in which functions of this library run as well."""
NEEDS = {
    PURE_JAX_RL: ("brax", "distrax", "gymnax", "flax", "optax"),
    "rejax": ("rejax", "brax", "gymnax"),
    BRAX: ("brax",),
    RLAX: ("rlax", *OURS_TOO),
    TRL: ("trl", "torch", *OURS_TOO),
    SB3: ("stable_baselines3", "mujoco"),
    SB3_CONTRIB: ("sb3_contrib", "mujoco"),
}
"""What has to be importable."""


class Peers(NamedTuple):
    """Where other people's programs are."""

    pythons: tuple[str, ...] = (sys.executable,)
    """Those of environments which have them; none of them is needed in ours."""
    purejaxrl: str | None = None
    """The folder `purejaxrl` in a copy of its repository, which is no package."""

    def python(self, name: str) -> str | None:
        """The first that has what one needs."""
        return next((python for python in self.pythons if _importable(python, NEEDS[name])), None)

    def missing(self, name: str) -> str | None:
        """Why one cannot be run; None where it can."""
        if name == PURE_JAX_RL and self.purejaxrl is None:
            return "it is no package: --purejaxrl says where a copy of its repository is"
        if self.python(name) is None:
            return f"it needs {', '.join(NEEDS[name])}, and {' and '.join(self.pythons)} cannot import all of them"
        return None

    def has(self, name: str) -> bool:
        """Whether one can be run."""
        return self.missing(name) is None

    def program(self, name: str, module: str, options: Mapping[str, Any], *, called: str | None = None) -> Program:
        """What runs one of them, in its own environment. Raises ValueError if it cannot be run."""
        python = self.python(name)
        if python is None or not self.has(name):
            raise ValueError(f"{PEERS[name]}: {self.missing(name)}")
        source = {"source": self.purejaxrl} if name == PURE_JAX_RL else {}
        return Program(called or PEERS[name], module, {**options, **source}, python)


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
    return {"rows": as_json(rows), **more}
