"""Environments: the protocol, exact tabular worlds, probes with known answers, Brax, MuJoCo Playground, gymnax.

Nothing here imports Brax, Playground or MuJoCo until `brax_env` or `playground_env` is called; `gymnax_env` takes an
environment that is there.
"""

from polopt_jax.envs._bodies import Bodies, place_bodies
from polopt_jax.envs._brax import brax_backends, brax_env, brax_names
from polopt_jax.envs._check import check_env
from polopt_jax.envs._gymnax import GymnaxEnv, gymnax_env
from polopt_jax.envs._import import import_env
from polopt_jax.envs._memory import MemoryEnv, Remembered
from polopt_jax.envs._playground import MissingPlayground, has_playground, playground_env, playground_names
from polopt_jax.envs._probe import (
    ActionReward,
    ConstantReward,
    DelayedReward,
    ObsActionReward,
    ObsReward,
    Quadratic,
    TimeLimit,
)
from polopt_jax.envs._protocol import ActionSpace, Box, Discrete, Environment, EnvStep, MultiDiscrete
from polopt_jax.envs._tabular import (
    TabularMDP,
    Values,
    bandit,
    chain,
    expected_return,
    q_values,
    random_mdp,
    visitation,
)
from polopt_jax.envs._trajectories import (
    Trajectories,
    enumerate_trajectories,
    trajectory_log_prob,
    trajectory_prob,
)

__all__ = [
    "ActionReward",
    "ActionSpace",
    "Bodies",
    "Box",
    "ConstantReward",
    "DelayedReward",
    "Discrete",
    "EnvStep",
    "Environment",
    "GymnaxEnv",
    "MemoryEnv",
    "MissingPlayground",
    "MultiDiscrete",
    "ObsActionReward",
    "ObsReward",
    "Quadratic",
    "Remembered",
    "TabularMDP",
    "TimeLimit",
    "Trajectories",
    "Values",
    "bandit",
    "brax_backends",
    "brax_env",
    "brax_names",
    "chain",
    "check_env",
    "enumerate_trajectories",
    "expected_return",
    "gymnax_env",
    "has_playground",
    "import_env",
    "place_bodies",
    "playground_env",
    "playground_names",
    "q_values",
    "random_mdp",
    "trajectory_log_prob",
    "trajectory_prob",
    "visitation",
]
