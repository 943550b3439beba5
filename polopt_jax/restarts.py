"""Where environments restart: pools of fresh initial states, each read for some steps and then drawn anew."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.envs._protocol import Environment
from polopt_jax.rows import GROUPS
from polopt_jax.types import Array, Obs

LONGEST_LIFE = 32
"""Steps after which a pool is drawn anew, at the latest."""
SMALLEST = 64
"""States in a pool of few environments, which would else soon see the same ones again."""


class Pool(NamedTuple):
    """Initial states to restart from, and where to read them: another one for each environment at every step."""

    states: tuple[Any, Obs]
    """States and observations `[groups, starts + width, ...]`: of each group of `width` environments, `starts` fresh
    ones, and the first `width` of them again, so that a reading that goes round the end is one slice."""
    offsets: Array
    """`[steps]` int32: where the reading of each step begins."""


def pool_life(num_steps: int) -> int:
    """The number of steps that a pool lives in a rollout of `num_steps`: all of them, if there are at most 32.

    Else the largest divisor among 16 .. 32, so that all pools live alike, or 32 and a last pool that lives shorter.

    >>> [pool_life(num_steps) for num_steps in (1, 31, 64, 100, 37)]
    [1, 31, 32, 25, 32]
    """
    longest = min(num_steps, LONGEST_LIFE)
    return next((n for n in range(longest, LONGEST_LIFE // 2 - 1, -1) if num_steps % n == 0), longest)


def draw_pool(env: Environment, key: Array, *, num_envs: int, num_steps: int) -> Pool:
    """Fresh initial states for B = `num_envs` environments and `num_steps` steps.

    The environments are read in gcd(8, B) contiguous groups, each from states of its own, so that groups on different
    devices share nothing. A group has as many states as environments, so that restarting costs one reset per
    environment and pool; but a pool has at least `SMALLEST` states (or one per group and step, if that is fewer). Of
    each round of so many steps an environment reads all states of its group; two of a group may read the same, at
    different steps.

    >>> from polopt_jax.envs import ObsReward
    >>> pool = draw_pool(ObsReward(), jax.random.key(0), num_envs=64, num_steps=5)
    >>> [x.shape for x in pool.states], pool.offsets.tolist()
    ([(8, 16, 1), (8, 16, 1)], [0, 3, 6, 1, 4])
    """
    groups = math.gcd(GROUPS, num_envs)
    width = num_envs // groups
    starts = max(width, min(num_steps, SMALLEST // groups))
    stride = next(n for n in range(max(1, int(0.618 * starts)), 0, -1) if math.gcd(n, starts) == 1)

    def rows(x: Array) -> Array:
        x = x.reshape(groups, starts, *x.shape[1:])
        return jnp.concatenate([x, x[:, :width]], axis=1)

    drawn = jax.vmap(env.reset)(jax.random.split(key, groups * starts))
    step = jnp.arange(num_steps)  # and one further each time round, or episodes as long as a round began always alike
    return Pool(jax.tree.map(rows, drawn), (stride * step + step // starts) % starts)


def read_pool(pool: Pool, offset: Array, *, num_envs: int) -> tuple[Any, Obs]:
    """A state and an observation for each environment, `[B, ...]`: a slice of every group from `offset` on.

    >>> from polopt_jax.envs import ObsReward
    >>> pool = draw_pool(ObsReward(), jax.random.key(0), num_envs=64, num_steps=5)
    >>> state, obs = read_pool(pool, pool.offsets[1], num_envs=64)
    >>> bool((obs.reshape(8, 8, 1) == pool.states[1][:, 3:11]).all())
    True
    """

    def rows(x: Array) -> Array:
        x = jax.lax.dynamic_slice_in_dim(x, offset, num_envs // x.shape[0], axis=1)
        return x.reshape(num_envs, *x.shape[2:])

    return jax.tree.map(rows, pool.states)
