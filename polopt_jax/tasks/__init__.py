"""What there is to learn, sized and ready to be rolled out: a control task (an environment) or a token task (a world).

A task knows the model, how to start, and how to gather one rollout `[T, ...]` with given parameters. An algorithm
(`polopt_jax.algorithms`) adds what it makes of the rollout.
"""

from polopt_jax.tasks._control import ControlState, control_task
from polopt_jax.tasks._language import TokenTask, token_task
from polopt_jax.tasks._task import Task, episode_metrics

__all__ = ["ControlState", "Task", "TokenTask", "control_task", "episode_metrics", "token_task"]
