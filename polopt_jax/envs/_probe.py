"""Probe environments: problems so small that the right value and the right action are known.

Each isolates one thing that a training loop can get wrong, in the order in which to try them. The first five are
those of Andy Jones, "Debugging RL, Without the Agonizing Pain" (2021), https://andyljones.com/posts/rl-debugging.html.
They differ from his in that the first three have two actions, of which neither changes anything, so that the policy
always has something to do. The last two add a time limit and a continuous action.

In every one `value(obs, gamma=)` is the value of an observation under the best policy, and where there is a choice,
`optimal_action(obs)` is the best action. Leading axes of `obs` are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polopt_jax.envs._protocol import Box, Discrete, EnvStep
from polopt_jax.types import Array, ArrayLike


@dataclass(frozen=True)
class ConstantReward:
    """One step, observation 0, reward 1. The value is 1.

    If the value is not learnt here, the value loss or the optimizer is broken.

    >>> env = ConstantReward()
    >>> float(env.value(jnp.zeros(1), gamma=0.9))
    1.0
    """

    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Discrete = field(default=Discrete(2), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the observation, `[1]`."""
        del key
        return _zero(), _zero()

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward 1, terminated."""
        del action, key
        return _last_step(state, jnp.float32(1.0))

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """1."""
        del gamma
        return jnp.ones_like(obs[..., 0])


@dataclass(frozen=True)
class ObsReward:
    """One step, observation -1 or 1 at random, reward equal to it. The value is the observation.

    If only `ConstantReward` is learnt, gradients do not reach the observation, or rewards and observations are paired
    wrongly.

    >>> ObsReward().value(jnp.array([[-1.0], [1.0]]), gamma=0.9).tolist()
    [-1.0, 1.0]
    """

    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Discrete = field(default=Discrete(2), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the observation, `[1]`."""
        obs = _random_sign(key)
        return obs, obs

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward obs, terminated."""
        del action, key
        return _last_step(state, state[0])

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """obs."""
        del gamma
        return obs[..., 0]


@dataclass(frozen=True)
class DelayedReward:
    """Two steps, observations 0 then 1, rewards 0 then 1. The values are gamma and 1.

    If only the shorter ones are learnt, the discounting or the bootstrap from the next value is broken.

    >>> DelayedReward().value(jnp.array([[0.0], [1.0]]), gamma=0.5).tolist()
    [0.5, 1.0]
    """

    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Discrete = field(default=Discrete(2), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the observation, `[1]`."""
        del key
        return _zero(), _zero()

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward 0 and go on, then reward 1 and terminated. The final observation is 2, and its value never counts."""
        del action, key
        return EnvStep(
            state=state + 1.0,
            obs=state + 1.0,
            reward=state[0],
            terminated=state[0] > 0.5,
            truncated=jnp.bool_(False),
            outcome={},
        )

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """gamma at observation 0, 1 at observation 1."""
        return jnp.where(obs[..., 0] > 0.5, 1.0, gamma)


@dataclass(frozen=True)
class ActionReward:
    """One step, observation 0, reward 1 for action 1 and -1 for action 0. The value is 1.

    The first probe that needs the policy: if it fails, the sign or the pairing of advantages and actions is broken.

    >>> int(ActionReward().optimal_action(jnp.zeros(1)))
    1
    """

    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Discrete = field(default=Discrete(2), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the observation, `[1]`."""
        del key
        return _zero(), _zero()

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward 2 action - 1, terminated."""
        del key
        return _last_step(state, jnp.where(action == 1, 1.0, -1.0))

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """1."""
        del gamma
        return jnp.ones_like(obs[..., 0])

    def optimal_action(self, obs: Array) -> Array:
        """1."""
        return jnp.ones_like(obs[..., 0], jnp.int32)


@dataclass(frozen=True)
class ObsActionReward:
    """One step, observation -1 or 1 at random, reward 1 if the action names its sign (0 for -1), else -1. Value 1.

    If only the other ones are learnt, the policy does not read its observation, or actions and observations are paired
    wrongly.

    >>> ObsActionReward().optimal_action(jnp.array([[-1.0], [1.0]])).tolist()
    [0, 1]
    """

    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Discrete = field(default=Discrete(2), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the observation, `[1]`."""
        obs = _random_sign(key)
        return obs, obs

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward 1 for `optimal_action(obs)` and -1 for the other, terminated."""
        del key
        return _last_step(state, jnp.where(action == self.optimal_action(state), 1.0, -1.0))

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """1."""
        del gamma
        return jnp.ones_like(obs[..., 0])

    def optimal_action(self, obs: Array) -> Array:
        """1 where obs > 0, else 0."""
        return (obs[..., 0] > 0.0).astype(jnp.int32)


@dataclass(frozen=True)
class TimeLimit:
    """Reward 1 at every step for ever, cut off after `limit` steps by a time limit. Observation 0. Value 1/(1-gamma).

    The observation does not tell the time, so 1/(1-gamma) is the value at every step, and it is found only if the
    value of the final observation is added at the cut. If the cut is taken for the end, the values found lie between
    1 and 1 + gamma + ... + gamma^(limit-1).

    >>> float(TimeLimit().value(jnp.zeros(1), gamma=0.75))
    4.0
    """

    limit: int = 5
    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Discrete = field(default=Discrete(2), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the number of steps taken, `[]` int32."""
        del key
        return jnp.int32(0), _zero()

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward 1; truncated at the limit, never terminated."""
        del action, key
        return EnvStep(
            state=state + 1,
            obs=_zero(),
            reward=jnp.float32(1.0),
            terminated=jnp.bool_(False),
            truncated=state + 1 >= self.limit,
            outcome={},
        )

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """1/(1-gamma)."""
        return jnp.broadcast_to(1.0 / (1.0 - gamma), obs.shape[:-1])


@dataclass(frozen=True)
class Quadratic:
    """One step, observation 0, a continuous action in [-1, 1], reward -(action - target)². The value is 0.

    A Gaussian policy of mean m and standard deviation s is worth -((m - target)² + s²), but for what the clipping of
    the action to [-1, 1] takes away.

    >>> env = Quadratic()
    >>> state, obs = env.reset(jax.random.key(0))
    >>> float(env.step(state, jnp.zeros(1), jax.random.key(1)).reward)
    -0.25
    """

    target: float = 0.5
    obs_shape: tuple[int, ...] = field(default=(1,), init=False)
    action_space: Box = field(default=Box(1), init=False)

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The state is the observation, `[1]`."""
        del key
        return _zero(), _zero()

    def step(self, state: Array, action: Array, key: Array) -> EnvStep:
        """Reward -(clip(action, -1, 1) - target)², terminated. `action` is `[1]`."""
        del key
        return _last_step(state, -((jnp.clip(action[0], -1.0, 1.0) - self.target) ** 2))

    def value(self, obs: Array, *, gamma: ArrayLike) -> Array:
        """0."""
        del gamma
        return jnp.zeros_like(obs[..., 0])

    def optimal_action(self, obs: Array) -> Array:
        """target, `[..., 1]`."""
        return jnp.full_like(obs, self.target)


def _zero() -> Array:
    return jnp.zeros(1, jnp.float32)


def _random_sign(key: Array) -> Array:
    return jax.random.rademacher(key, (1,), dtype=jnp.float32)


def _last_step(state: Array, reward: Array) -> EnvStep:
    return EnvStep(
        state=state,
        obs=state,
        reward=reward.astype(jnp.float32),
        terminated=jnp.bool_(True),
        truncated=jnp.bool_(False),
        outcome={},
    )
