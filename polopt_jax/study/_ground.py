"""What the study needs of a world: where training begins, and where a policy stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from polopt_jax.frontiers import SampledProblem
from polopt_jax.types import Array, Params, record


@record
class Standing:
    """Where a policy stands against the one that training began with. KL are in nats of an attempt."""

    success: Array
    """P(s = 1), `[...]`."""
    law: Array
    """P(s, z), `[..., 2, Z]`, mean over training prompts."""
    side_effect_kl: Array
    """D_z(new ‖ start), mean over training prompts, `[...]`."""
    trajectory_kl: Array
    """D_traj(new ‖ start)."""
    trajectory_kl_start_new: Array
    """D_traj(start ‖ new)."""
    held_out: Array
    """P(s, z) on the prompts that training never asks, `[..., 2, Z]`; NaN where there are none."""


class Learner(NamedTuple):
    """A network of one scale in a world: pure functions, to be compiled over seeds."""

    begin: Callable[[str, Array], tuple[Params, Array]]
    """`(start, key) -> (params, kl)`: the policy that training begins with, and the KL from its teacher in nats of an
    attempt; 0 of a random one."""
    problem: Callable[[Params, Array], SampledProblem]
    """`(params, key) -> problem`, to be learnt from those parameters. It stands at `Standing`s."""


class Ground(NamedTuple):
    """A world of the study."""

    name: str
    about: str
    """What is rewarded and what is a side effect, in words."""
    side_effects: tuple[str, ...]
    """Their names; n of them are one side effect with 2ⁿ values, the first name the highest binary digit."""
    scales: tuple[str, ...]
    """Sizes of the network."""
    starts: tuple[str, ...]
    """Where training begins."""
    rates: tuple[float, ...]
    """The learning rates of Adam that networks sweep. Its steps move every parameter alike: a table's by a logit, a
    network's many to the same end."""
    updates: int
    every: int
    """Updates between two looks at where the policy stands."""
    build: Callable[[str], Learner]
    """Makes the learner of a scale."""
    lanes: int
    """Runs that go side by side: with more a network takes more memory, and with few a table's small kernels wait."""


RANDOM, COMPETENT, CAREFUL = "random", "competent", "careful"
STARTS = (RANDOM, COMPETENT, CAREFUL)
TABLE = "table"
HALF = 0.5
"""The success of imitated policies."""
ATTEMPTS = 128
"""At each update."""
