"""What a control task makes of observations and rewards before anybody learns from them.

Statistics are pytrees that `collect` carries, and no part of the parameters. A task is passed an `ObsTransform` and a
`RewardTransform`, functions that belong together as in an optax transformation; `raw_observations()` and
`raw_rewards()` are the way to learn from what the environment gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import described
from polopt_jax.fields import with_fields
from polopt_jax.types import Array, ArrayLike, Obs, record

CLIP = 10.0
"""Normalised observations are clipped to ±10."""


@record
class RunningStats:
    """Count, mean and summed squared deviation of every observation feature seen so far."""

    count: Array
    """`[]` float32."""
    mean: Any
    """Like one observation, float32; of leaves that are no floats zeros of their own dtype, which stay so."""
    m2: Any
    """Likewise: Σ (x - mean)²."""


def init_stats(obs: Obs) -> RunningStats:
    """No observation yet; `obs` is one observation (or its shape and dtype), which tells the structure.

    >>> init_stats(jnp.zeros(3)).mean.tolist()
    [0.0, 0.0, 0.0]
    """

    def zeros(x: Any) -> Array:
        return jnp.zeros(x.shape, jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

    mean, m2 = (jax.tree.map(zeros, obs) for _ in range(2))
    return RunningStats(count=jnp.zeros((), jnp.float32), mean=mean, m2=m2)


def update_stats(stats: RunningStats, obs: Obs, mask: Array) -> RunningStats:
    """The statistics with observations `[T, B, ...]` added, those where `mask` `[T, B]` is True and that are finite.

    Chan's parallel form of Welford's update, per feature. An observation with a NaN or an infinity anywhere is left
    out entirely, so that one broken environment does not poison a feature for ever.

    >>> stats = update_stats(init_stats(jnp.zeros(1)), jnp.array([[[1.0]], [[3.0]]]), jnp.ones((2, 1), bool))
    >>> float(stats.mean[0]), float(stats.m2[0] / stats.count)
    (2.0, 1.0)
    """
    lead = mask.ndim

    def finite(x: Array) -> Array:
        return jnp.isfinite(x).reshape(*mask.shape, -1).all(-1)

    for leaf in jax.tree.leaves(obs):
        mask = mask & finite(leaf)
    number = mask.sum().astype(jnp.float32)
    total = stats.count + number

    def merge(mean: Array, m2: Array, x: Array) -> tuple[Array, Array]:
        if not jnp.issubdtype(mean.dtype, jnp.floating):
            return mean, m2
        keep = mask.reshape(mask.shape + (1,) * (x.ndim - lead))
        axes = tuple(range(lead))
        x = x.astype(jnp.float32)
        start = jnp.where(number > 0, jnp.where(keep, x, -jnp.inf).max(axes), 0)
        centre = jnp.where(stats.count > 0, mean, start)  # what never changes is at no distance from it, exactly
        apart = jnp.where(keep, x - centre, 0)
        shift = apart.sum(axes) / jnp.maximum(number, 1)
        spread = (jnp.where(keep, apart - shift, 0) ** 2).sum(axes)
        known = jnp.where(stats.count > 0, shift**2 * (stats.count * number / jnp.maximum(total, 1)), 0)
        return centre + shift * jnp.where(stats.count > 0, number / jnp.maximum(total, 1), 1), m2 + spread + known

    means, structure = jax.tree.flatten(stats.mean)
    pairs = [merge(*leaves) for leaves in zip(means, *map(structure.flatten_up_to, (stats.m2, obs)), strict=True)]
    mean, m2 = (structure.unflatten([pair[i] for pair in pairs]) for i in range(2))
    return RunningStats(count=total, mean=mean, m2=m2)


def normalize(stats: RunningStats, obs: Obs) -> Obs:
    """(obs - mean) / std per feature, clipped to ±10. The identity (clipped) before two observations were seen.

    Standard deviations below 1e-4 count as 1e-4, so that a constant feature comes out as 0 rather than as noise. Leaves
    that were no floats when they were seen, as flags and counts, stay as they are: say with a bool which actions are
    legal, since a float that is always 1 comes out as 0. What were floats is one, also where it is given as a whole
    number.

    Raises ValueError where an observation has not the structure or the shape of those that were seen.

    >>> normalize(init_stats(jnp.zeros(2)), jnp.array([[0.5, -20.0]])).tolist()
    [[0.5, -10.0]]
    """
    known = stats.count > 1
    if jax.tree.structure(obs) != jax.tree.structure(stats.mean):
        raise ValueError(f"obs must be as those that were seen, {_shapes(stats.mean)}; it is {described(obs)}")

    def one(mean: Array, m2: Array, x: Array) -> Array:
        if x.shape[max(x.ndim - mean.ndim, 0) :] != mean.shape:
            raise ValueError(f"obs must have shape {_shapes(mean)}; it is {described(x)}")
        if not jnp.issubdtype(mean.dtype, jnp.floating):
            return x
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
        std = jnp.where(known, jnp.maximum(jnp.sqrt(m2 / jnp.maximum(stats.count, 1)), 1e-4), 1)
        lead = tuple(range(x.ndim - mean.ndim))
        shift, scale = jnp.expand_dims(jnp.where(known, mean, 0), lead), jnp.expand_dims(1 / std, lead)
        return jnp.clip((x - shift) * scale, -CLIP, CLIP)

    return jax.tree.map(one, stats.mean, stats.m2, obs)


def _shapes(seen: Any) -> Any:
    """Shapes of observations with any leading axes."""
    return jax.tree.map(lambda x: f"[{', '.join(('...', *map(str, x.shape)))}]", seen)


@record
class ReturnScale:
    """The spread of the discounted return, by which rewards are divided so that a critic's targets are of order 1."""

    running: Array
    """Σ_k γ^k r_{t-k} of every environment's running episode, `[B]`."""
    stats: RunningStats
    """Of `running`, over environments and time."""


def init_return_scale(num_envs: int) -> ReturnScale:
    """Nothing seen yet, for B environments."""
    return ReturnScale(running=jnp.zeros(num_envs), stats=init_stats(jnp.zeros(())))


def scale_reward(
    scale: ReturnScale, reward: Array, done: Array, mask: Array, *, gamma: ArrayLike
) -> tuple[ReturnScale, Array]:
    """The scale with a rollout's rewards `[T, B]` seen, and those rewards divided by it.

    The divisor is the standard deviation of the running discounted sum of rewards, these included (as gymnasium's
    NormalizeReward; nothing is subtracted, so the optimal policy stays what it was). It changes from update to update,
    and with it the unit of a critic's values.

    >>> scale, reward = scale_reward(init_return_scale(2), jnp.array([[0.0, 4.0]]), jnp.zeros((1, 2), bool),
    ...                              jnp.ones((1, 2), bool), gamma=0.9)
    >>> reward.tolist()
    [[0.0, 2.0]]
    """

    def forward(running: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = step
        total = gamma * running + reward
        return jnp.where(done, 0, total), total

    running, totals = jax.lax.scan(forward, scale.running, (reward, done))
    stats = update_stats(scale.stats, totals, mask)
    std = jnp.sqrt(stats.m2 / jnp.maximum(stats.count, 1))
    return ReturnScale(running=running, stats=stats), reward / jnp.where(std > 1e-6, std, 1)


@with_fields
class ObsTransform(NamedTuple):
    """What the policy reads of an observation, and what is remembered for it from rollout to rollout."""

    init: Callable[[Any], Any]
    """`one observation, or its shape and dtype -> state`"""
    apply: Callable[[Any, Obs], Obs]
    """`(state, obs [...]) -> obs [...]`; the state stands still within a rollout, so that the first ratio is 1."""
    update: Callable[[Any, Obs, Array], Any]
    """`(state, obs [T, B, ...] as the environment gave them, mask [T, B]) -> state`"""


@with_fields
class RewardTransform(NamedTuple):
    """What is learnt from of a reward, and what is remembered for it from rollout to rollout."""

    init: Callable[[int], Any]
    """`B -> state`"""
    apply: Callable[[Any, Array, Array, Array, ArrayLike], tuple[Any, Array]]
    """`(state, reward [T, B], done [T, B], mask [T, B], gamma) -> (state, reward [T, B])`"""


def standardized_observations() -> ObsTransform:
    """(obs - mean) / std by the statistics of all rollouts before, clipped to ±10 (`normalize`).

    >>> transform = standardized_observations()
    >>> state = transform.update(transform.init(jnp.zeros(1)), jnp.array([[[1.0]], [[3.0]]]), jnp.ones((2, 1), bool))
    >>> transform.apply(state, jnp.array([[3.0]])).tolist()
    [[1.0]]
    """
    return ObsTransform(init_stats, normalize, update_stats)


def raw_observations() -> ObsTransform:
    """Observations as the environment gives them.

    >>> transform = raw_observations()
    >>> transform.apply(transform.init(jnp.zeros(1)), jnp.array([[300.0]])).tolist()
    [[300.0]]
    """
    return ObsTransform(lambda obs: (), lambda state, obs: obs, lambda state, obs, mask: state)


def of_seen(transform: ObsTransform) -> ObsTransform:
    """The same for `envs.Remembered`: of what the environment shows, the memory left as it is.

    >>> from polopt_jax.envs import Remembered
    >>> one = Remembered(seen=jnp.zeros(3), memory=jnp.zeros(8), begins=jnp.array(True))
    >>> of_seen(standardized_observations()).init(one).mean.shape
    (3,)
    """
    return ObsTransform(
        init=lambda one: transform.init(one.seen),
        apply=lambda state, obs: replace(obs, seen=transform.apply(state, obs.seen)),
        update=lambda state, obs, mask: transform.update(state, obs.seen, mask),
    )


def scaled_rewards(gamma: ArrayLike | None = None) -> RewardTransform:
    """Rewards divided by the running spread of the discounted return (`scale_reward`).

    Args:
      gamma: discount of that return; the one that the recipe learns with, if None.

    >>> transform, on = scaled_rewards(), jnp.ones((1, 2), bool)
    >>> transform.apply(transform.init(2), jnp.array([[0.0, 4.0]]), ~on, on, 0.9)[1].tolist()
    [[0.0, 2.0]]
    """

    def apply(
        state: ReturnScale, reward: Array, done: Array, mask: Array, recipe_gamma: ArrayLike
    ) -> tuple[ReturnScale, Array]:
        return scale_reward(state, reward, done, mask, gamma=recipe_gamma if gamma is None else gamma)

    return RewardTransform(init_return_scale, apply)


def raw_rewards() -> RewardTransform:
    """Rewards as the environment gives them.

    >>> transform, on = raw_rewards(), jnp.ones((1, 2), bool)
    >>> transform.apply(transform.init(2), jnp.array([[0.0, 4.0]]), ~on, on, 0.9)[1].tolist()
    [[0.0, 4.0]]
    """
    return RewardTransform(lambda num_envs: (), lambda state, reward, done, mask, gamma: (state, reward))
