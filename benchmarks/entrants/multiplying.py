"""The multiplications that PPO asks of the network, in large matrices: as fast as this machine multiplies at all.

With the environment alone it is a limit of every trainer with these settings, which leaves out tanh, sampling,
advantages, shuffling, losses and the optimizer. An actor and a critic of K weights each, K₀ of them on what is
observed, take 2K operations to act on a state, and 6K - 2K₀ to learn from it once.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp

from benchmarks.entrants import HIDDEN, NUM_EPOCHS, NUM_STEPS
from benchmarks.entrants.built import Built
from polopt_jax.envs import Box, brax_env

WIDTH = 1024


def operations(num_obs: int, num_actions: int) -> int:
    """Additions and multiplications of a decision, in all epochs, of both networks."""
    found = 0
    for outputs in (num_actions, 1):
        sizes = (num_obs, *HIDDEN, outputs)
        weights, first = sum(a * b for a, b in pairwise(sizes)), num_obs * HIDDEN[0]
        found += 2 * weights + NUM_EPOCHS * (6 * weights - 2 * first)
    return found


def build(*, env: str, backend: str, num_envs: int, updates: int) -> Built:
    """About as much as so many updates, in whole matrices."""
    world = brax_env(env, backend=backend)
    space = world.action_space
    each = operations(world.obs_shape[0], space.size if isinstance(space, Box) else space.num)
    product = 2 * WIDTH**3
    times = max(1, round(updates * NUM_STEPS * num_envs * each / product))
    factor = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)) / jnp.sqrt(WIDTH)

    def many(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, times, lambda _, x: x @ factor, x)

    compiled = jax.jit(many).lower(factor).compile()

    def chunk() -> None:
        jax.block_until_ready(compiled(factor))

    return Built(chunk, max(1, round(times * product / each)), updates, "learns nothing")
