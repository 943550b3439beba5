"""What every recipe is given: something to learn, sized and ready to be rolled out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from polopt_jax.boundaries import described
from polopt_jax.fields import with_fields
from polopt_jax.rollout import EpisodeStats
from polopt_jax.rows import Shuffle, shuffled_parts
from polopt_jax.types import Array, ArrayLike, Metrics, Model, Obs, Params, Rollout


@with_fields
class Task(NamedTuple):
    """Pure functions and two sizes."""

    model: Model
    """`(params, obs) -> Outputs`, on observations as the rollout stores them."""
    init_params: Callable[[Array], Params]
    """`key -> params`"""
    init: Callable[[Array], Any]
    """`key -> state`: environments and whatever else goes from rollout to rollout."""
    rollout: Callable[[Params, Any, Array, ArrayLike], tuple[Any, Rollout, Metrics]]
    """`(params, state, key, gamma) -> (state, rollout [T, ...], metrics)`. `gamma` is the discount that the recipe
    learns with: a task that scales its rewards does so by the spread of the return discounted with it."""
    row_shape: tuple[int, ...]
    """The row axes of a rollout: `(B,)` environments, `(N, G)` prompts and attempts at each."""
    num_steps: int
    """T."""
    outcome: Callable[[Rollout], Any] | None = None
    """`rollout -> outcome`, leaves of the row axes: what became of each row, where rows are whole attempts. Recipes put
    it into `batch.outcome`."""

    shuffle: Shuffle = shuffled_parts
    """How recipes make minibatches of a batch: of whole rows, or where its model and their terms see each decision by
    itself, of `rows.shuffled_decisions`."""

    read: Callable[[Any, Obs], Obs] | None = None
    """`(state, obs) -> obs`: what the model reads of an observation as the environment gives it; None where it is that
    itself."""

    @property
    def num_rows(self) -> int:
        """Rows of one rollout."""
        rows = 1
        for size in self.row_shape:
            rows *= size
        return rows

    @property
    def decisions(self) -> int:
        """Decisions in one rollout, rows x T: the steps that an update costs, whatever the algorithm."""
        return self.num_rows * self.num_steps


def check_task(caller: str, task: Any) -> None:
    """Raises TypeError for what is no task: an environment, a group of attempts, whose `.task` is one."""
    if not isinstance(task, Task):
        hint = "task.task" if isinstance(getattr(task, "task", None), Task) else "tasks.control_task(env, network, ...)"
        raise TypeError(f"{caller}: task must be a Task, as {hint} is; it is {described(task)}")


def episode_metrics(stats: EpisodeStats) -> Metrics:
    """Sums, not means, so that they add up over updates: divide `episode/return_sum` by `episode/finished`."""
    return {
        "episode/finished": stats.finished,
        "episode/return_sum": stats.return_sum,
        "episode/length_sum": stats.length_sum,
        "nonfinite_steps": stats.nonfinite,
    }
