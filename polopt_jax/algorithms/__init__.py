"""The seven algorithms as recipes: an advantage, a term, an optimizer, and defaults with their source.

Each is a function of a task and of (traceable) hyperparameters that returns an `Algorithm`: how to start, how to
collect a batch, what step to take. `training.train` runs any of them. Build the recipe inside the function you jit,
and seeds and hyperparameters vmap:

    def run(key, learning_rate):
        algorithm = ppo(task, learning_rate=learning_rate)
        return train(algorithm.collect, algorithm.step, algorithm.init(key), updates=100)

    jax.jit(jax.vmap(run))(keys, learning_rates)

What a recipe is made of can be passed: further `terms=`, another `optimizer=`, another `estimate=` of the advantage
(`rollout -> batch`), a schedule as `learning_rate=`. Beyond that, `assemble` makes a recipe of a task, an estimate and
a step; a task learns from raw observations or rewards where it is told to (`polopt_jax.normalization`).
"""

from polopt_jax.algorithms._actor_critic import actor_critic
from polopt_jax.algorithms._algorithm import (
    Algorithm,
    Estimate,
    RememberingEstimate,
    adam,
    assemble,
    gae_estimate,
)
from polopt_jax.algorithms._dpo import dpo
from polopt_jax.algorithms._grpo import grpo
from polopt_jax.algorithms._npg import npg
from polopt_jax.algorithms._ppo import ppo
from polopt_jax.algorithms._priced import priced
from polopt_jax.algorithms._reinforce import reinforce
from polopt_jax.algorithms._trpo import trpo

__all__ = [
    "Algorithm",
    "Estimate",
    "RememberingEstimate",
    "actor_critic",
    "adam",
    "assemble",
    "dpo",
    "gae_estimate",
    "grpo",
    "npg",
    "ppo",
    "priced",
    "reinforce",
    "trpo",
]
