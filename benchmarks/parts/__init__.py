"""The parts of `polopt bench`: what is measured, beside whom, and what it should come to."""

from benchmarks.parts import (
    baselines,
    estimators,
    language,
    learning,
    objectives,
    scaling,
    seeds,
    simulators,
    solvers,
    training,
)
from benchmarks.parts._part import PEERS, Case, Part, Peers, Wanted
from benchmarks.parts.rows import Goal, Row, as_json, from_json

PARTS: dict[str, Part] = {
    "training": training.PART,
    "learning": learning.PART,
    "baselines": baselines.PART,
    "objectives": objectives.PART,
    "solvers": solvers.PART,
    "estimators": estimators.PART,
    "language": language.PART,
    "seeds": seeds.PART,
    "scaling": scaling.PART,
    "simulators": simulators.PART,
}
"""In the order in which they are run and shown."""

__all__ = ["PARTS", "PEERS", "Case", "Goal", "Part", "Peers", "Row", "Wanted", "as_json", "from_json"]
