"""The seven algorithms as recipes: an advantage, a term, an optimizer, and defaults with their source.

Each is a function of a task and of (traceable) hyperparameters that returns an `Algorithm`: how to start, how to
collect a batch, what step to take. `training.train` runs any of them. Build the recipe inside the function you jit,
and seeds and hyperparameters vmap:

    def run(key, learning_rate):
        algorithm = ppo(task, learning_rate=learning_rate)
        return train(algorithm.collect, algorithm.step, algorithm.init(key), updates=100)

    jax.jit(jax.vmap(run))(keys, learning_rates)
"""

from polopt_jax.algorithms._actor_critic import actor_critic
from polopt_jax.algorithms._algorithm import Algorithm, Estimate, adam, assemble
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
    "adam",
    "assemble",
    "actor_critic",
    "dpo",
    "grpo",
    "npg",
    "ppo",
    "priced",
    "reinforce",
    "trpo",
]
