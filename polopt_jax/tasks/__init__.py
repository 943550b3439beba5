"""What there is to learn, sized and ready to be rolled out: windows of an environment, or whole attempts in groups.

A task knows the model, how to start, and how to gather one rollout `[T, ...]` with given parameters. An algorithm
(`polopt_jax.algorithms`) adds what it makes of the rollout.
"""

from polopt_jax.tasks._control import ControlState, control_task, normalized
from polopt_jax.tasks._groups import GroupTask, episode_attempt, episode_task, group_task, token_task
from polopt_jax.tasks._preferences import Preferences, draw_preferences
from polopt_jax.tasks._task import Task, episode_metrics

__all__ = [
    "ControlState",
    "GroupTask",
    "Preferences",
    "Task",
    "control_task",
    "draw_preferences",
    "episode_attempt",
    "episode_metrics",
    "episode_task",
    "group_task",
    "normalized",
    "token_task",
]
