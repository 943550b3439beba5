"""The seven algorithms as recipes: an advantage, a term, an optimizer, and defaults with their source.

Each is a function of a task and of (traceable) hyperparameters that returns an `Algorithm`: how to start, how to
collect a batch, what step to take. `training.train` runs any of them. Build the recipe inside the function you jit,
and seeds and hyperparameters vmap:

    def run(key, learning_rate):
        algorithm = ppo(task, learning_rate=learning_rate)
        return train(algorithm.collect, algorithm.step, algorithm.init(key), updates=100)

    jax.jit(jax.vmap(run))(keys, learning_rates)
"""

from polopt_jax.algorithms._algorithm import Algorithm
from polopt_jax.algorithms._language import dpo, grpo
from polopt_jax.algorithms._natural import npg, trpo
from polopt_jax.algorithms._policy_gradient import actor_critic, ppo, reinforce

__all__ = ["Algorithm", "actor_critic", "dpo", "grpo", "npg", "ppo", "reinforce", "trpo"]
