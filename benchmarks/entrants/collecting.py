"""This library's rollouts and advantages, from which nothing is learnt."""

from typing import Any

import jax

from benchmarks.entrants.built import Built
from benchmarks.entrants.ours import recipe_of, task_of


def build(*, env: str, backend: str, num_envs: int, updates: int, algorithm: str) -> Built:
    task = task_of(env, backend, num_envs)
    recipe = recipe_of(task, algorithm)
    state = jax.jit(recipe.init)(jax.random.key(0))

    def many(params: Any, collect_state: Any, key: jax.Array) -> Any:
        def one(carry: Any, key: jax.Array) -> Any:
            carry, batch, _ = recipe.collect(params, carry, key)
            return carry, batch.advantage.sum()

        return jax.lax.scan(one, collect_state, jax.random.split(key, updates))

    compiled = jax.jit(many).lower(state.params, state.collect_state, state.key).compile()
    held = {"state": state.collect_state, "key": state.key}

    def chunk() -> None:
        held["key"], key = jax.random.split(held["key"])
        held["state"], _ = jax.block_until_ready(compiled(state.params, held["state"], key))

    return Built(chunk, updates * task.decisions, updates, "learns nothing")
