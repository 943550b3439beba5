"""What came of a plan."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from polopt_jax import runs

Summary = dict[str, Any]
"""A run in numbers: a line of the table."""


class Result(NamedTuple):
    """A run as far as it went."""

    plan: Any
    """A `Plan`, or the `TextPlan` of a run on texts."""
    rows: Sequence[runs.Row]
    complaint: str | None = None
    """Why it was given up."""

    @property
    def status(self) -> str:
        """`finished`, `interrupted` or `broken`."""
        if self.complaint is not None:
            return "broken"
        return "finished" if self.rows and self.rows[-1]["update"] >= self.plan.schedule.updates else "interrupted"

    @property
    def failure(self) -> str | None:
        """What was given up, and why."""
        return self.complaint and f"{self.plan.title}: {self.complaint}"

    @property
    def summary(self) -> Summary:
        """Its line of the table. The reward of what learns from no rollouts of its own is measured apart, on others."""
        named = {"algorithm": self.plan.algorithm, "env": self.plan.env, "status": self.status}
        return {**named, "measured_apart": self.plan.measured_apart, **runs.summarise(self.rows)}
