"""Brax's own wrapped environments under uniformly random actions in one scan: the price of what is learnt from.

`brax.envs.training.wrap`: vmap, time limit, auto-reset to a cached state. What brax, PureJaxRL and rejax train on.
"""

from typing import Any

import jax
from brax import envs

from benchmarks.entrants import EPISODE_LENGTH, NUM_STEPS
from benchmarks.entrants.built import Built


def build(*, env: str, backend: str, num_envs: int, updates: int) -> Built:
    wrapped = envs.training.wrap(
        envs.get_environment(env, backend=backend), episode_length=EPISODE_LENGTH, action_repeat=1
    )
    state = jax.jit(wrapped.reset)(jax.random.split(jax.random.PRNGKey(0), num_envs))

    def step(carry: Any, key: jax.Array) -> Any:
        action = jax.random.uniform(key, (num_envs, wrapped.action_size), minval=-1.0, maxval=1.0)
        return wrapped.step(carry, action), None

    def many(state: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, state, jax.random.split(key, updates * NUM_STEPS))[0]

    compiled = jax.jit(many).lower(state, jax.random.PRNGKey(1)).compile()
    held = {"state": state, "key": jax.random.PRNGKey(2)}

    def chunk() -> None:
        held["key"], key = jax.random.split(held["key"])
        held["state"] = jax.block_until_ready(compiled(held["state"], key))

    return Built(chunk, updates * NUM_STEPS * num_envs, updates, "learns nothing")
