"""Finite-horizon tabular worlds, small enough that everything about them is known exactly.

A policy here is a table of probabilities: `[S, A]`, or `[H, S, A]` where it depends on the time step. The
functions are pure, jit-able and differentiable in the policy and in the world, and none of them fixes a dtype: with
float64 tables (and `jax_enable_x64`) the results are float64.
"""

from __future__ import annotations

from dataclasses import field

import jax
import jax.numpy as jnp

from polopt_jax.envs._protocol import Discrete, EnvStep
from polopt_jax.types import Array, ArrayLike, record


@record
class TabularState:
    """Where an episode is."""

    state: Array
    """State id, `[]` int32."""
    steps: Array
    """Decisions taken so far, `[]` int32."""


@record
class TabularMDP:
    """A Markov decision process with S states, A actions and at most H decisions; itself an `Environment`.

    A decision in state s pays reward[s, a] and moves to s' with probability transition[s, a, s']. The episode ends,
    terminated, on entering a terminal state or with the H-th decision: the horizon belongs to the problem and no
    reward follows it, so nothing here is ever truncated, and the mean return of episodes is `expected_return`.

    Observations are one-hot in the state id, float32 `[S]`: a network reads them as they are, a tabular policy is
    `obs @ table`, the id is `obs.argmax(-1)`. They do not tell the time. The outcome feature `state` is the id of
    the state a step led to (int32); at the end of an episode it is the final state.

    >>> world = chain(num_states=3, horizon=4)
    >>> state, obs = world.reset(jax.random.key(0))
    >>> obs.tolist(), world.action_space
    ([1.0, 0.0, 0.0], Discrete(num=2))
    """

    initial: Array
    """Probability of the first state, `[S]`."""
    transition: Array
    """Probability of the next state, `[S, A, S]`. The rows of terminal states are never read."""
    reward: Array
    """Reward of a decision, `[S, A]`."""
    terminal: Array
    """`[S]` bool: no decision is taken in these states."""
    horizon: int = field(metadata={"static": True})
    """The largest number of decisions, H."""

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """`(S,)`."""
        return (self.reward.shape[0],)

    @property
    def action_space(self) -> Discrete:
        """`Discrete(A)`."""
        return Discrete(self.reward.shape[1])

    def reset(self, key: Array) -> tuple[TabularState, Array]:
        """A first state drawn from `initial`."""
        state = jax.random.categorical(key, jnp.log(self.initial)).astype(jnp.int32)
        return TabularState(state=state, steps=jnp.int32(0)), self._observe(state)

    def step(self, state: TabularState, action: Array, key: Array) -> EnvStep:
        """One decision, `action` an integer `[]`."""
        after = jax.random.categorical(key, jnp.log(self.transition[state.state, action])).astype(jnp.int32)
        steps = state.steps + 1
        return EnvStep(
            state=TabularState(state=after, steps=steps),
            obs=self._observe(after),
            reward=self.reward[state.state, action].astype(jnp.float32),
            terminated=jnp.logical_or(self.terminal[after], steps >= self.horizon),
            truncated=jnp.bool_(False),
            outcome={"state": after},
        )

    def _observe(self, state: Array) -> Array:
        return jax.nn.one_hot(state, self.reward.shape[0], dtype=jnp.float32)


@record
class Values:
    """What a policy is worth."""

    q: Array
    """Q[h, s, a], the expected return from decision h on, `[H, S, A]`; 0 in terminal states."""
    v: Array
    """V[h, s] = Σₐ π(a|s) Q[h, s, a], `[H, S]`; 0 in terminal states."""


def q_values(mdp: TabularMDP, policy: Array, *, gamma: ArrayLike = 1.0) -> Values:
    """Values of every state and action at every time, by dynamic programming.

        Q[h, s, a] = r(s, a) + γ Σ_s' p(s'|s, a) V[h+1, s'],    V[H, ·] = 0

    Args:
      policy: probabilities `[S, A]` or `[H, S, A]`.
      gamma: discount per decision.

    Raises:
      ValueError: `policy` has another shape.

    >>> q_values(chain(num_states=3, horizon=2), jnp.full((3, 2), 0.5)).v[0].tolist()
    [0.25, 0.5, 0.0]
    """
    live = jnp.logical_not(mdp.terminal)

    def backup(v: Array, policy: Array) -> tuple[Array, Values]:
        q = jnp.where(live[:, None], mdp.reward + gamma * jnp.einsum("sat,t->sa", mdp.transition, v), 0.0)
        v = (policy * q).sum(-1)
        return v, Values(q=q, v=v)

    table = _per_step(mdp, policy)
    end = jnp.zeros(live.shape, jnp.result_type(table, mdp.reward, mdp.transition, gamma))
    return jax.lax.scan(backup, end, table, reverse=True)[1]


def expected_return(mdp: TabularMDP, policy: Array, *, gamma: ArrayLike = 1.0) -> Array:
    """J(π) = E[Σ_h γ^h r_h], `[]`. Differentiable in the policy, the world and `gamma`.

    The arguments and what it raises are those of `q_values`.

    >>> float(expected_return(chain(num_states=3, horizon=2), jnp.full((3, 2), 0.5)))
    0.25
    """
    return (mdp.initial * q_values(mdp, policy, gamma=gamma).v[0]).sum()


def visitation(mdp: TabularMDP, policy: Array, *, gamma: ArrayLike = 1.0) -> Array:
    """γ^h times the probability that decision h is taken in state s, `[H, S]`; 0 in terminal states.

    With gamma = 1 the sum over everything is the expected number of decisions. Not normalised. The arguments and
    what it raises are those of `q_values`.

    >>> visitation(chain(num_states=3, horizon=2), jnp.full((3, 2), 0.5)).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """
    live = jnp.logical_not(mdp.terminal)

    def advance(weight: Array, policy: Array) -> tuple[Array, Array]:
        weight = jnp.where(live, weight, 0.0)
        return gamma * jnp.einsum("s,sa,sat->t", weight, policy, mdp.transition), weight

    table = _per_step(mdp, policy)
    start = mdp.initial.astype(jnp.result_type(table, mdp.initial, mdp.transition, gamma))
    return jax.lax.scan(advance, start, table)[1]


# Worlds


def random_mdp(key: Array, *, num_states: int, num_actions: int, horizon: int) -> TabularMDP:
    """A world with Dirichlet(1) rows, standard normal rewards and one terminal state, the last.

    Raises:
      ValueError: `num_states < 2`, or `num_actions` or `horizon` below 1.

    >>> random_mdp(jax.random.key(0), num_states=4, num_actions=2, horizon=3).transition.shape
    (4, 2, 4)
    """
    _check_sizes(num_states=(num_states, 2), num_actions=(num_actions, 1), horizon=(horizon, 1))
    initial, transition, reward = jax.random.split(key, 3)
    return TabularMDP(
        initial=jnp.append(jax.random.dirichlet(initial, jnp.ones(num_states - 1)), 0.0),
        transition=jax.random.dirichlet(transition, jnp.ones(num_states), (num_states, num_actions)),
        reward=jax.random.normal(reward, (num_states, num_actions)),
        terminal=jnp.arange(num_states) == num_states - 1,
        horizon=horizon,
    )


def chain(*, num_states: int, horizon: int, slip: float = 0.0) -> TabularMDP:
    """A line of states, from 0 to the goal, which is the last and terminal. Action 0 goes left, action 1 right.

    With probability `slip` a move goes the other way; at the left end, left stays. The reward is the probability
    that the decision reaches the goal, so the return of an episode without slip is 1 if it reached the goal.

    Raises:
      ValueError: `num_states < 2`, `horizon < 1`, or `slip` outside [0, 1].

    >>> chain(num_states=3, horizon=4).reward.tolist()
    [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    _check_sizes(num_states=(num_states, 2), horizon=(horizon, 1))
    if not 0.0 <= slip <= 1.0:
        raise ValueError(f"slip must be in [0, 1], got {slip}")
    here = jnp.arange(num_states)
    left = jax.nn.one_hot(jnp.maximum(here - 1, 0), num_states)
    right = jax.nn.one_hot(jnp.minimum(here + 1, num_states - 1), num_states)
    transition = jnp.stack([(1.0 - slip) * left + slip * right, (1.0 - slip) * right + slip * left], axis=1)
    terminal = here == num_states - 1
    return TabularMDP(
        initial=jax.nn.one_hot(0, num_states),
        transition=transition,
        reward=jnp.where(terminal[:, None], 0.0, transition[:, :, -1]),
        terminal=terminal,
        horizon=horizon,
    )


def bandit(reward: ArrayLike) -> TabularMDP:
    """One state, one decision: action a pays reward[a], without noise.

    Raises:
      ValueError: `reward` does not have exactly one axis.

    >>> float(expected_return(bandit([1.0, 3.0]), jnp.array([[0.5, 0.5]])))
    2.0
    """
    reward = jnp.asarray(reward)
    if reward.ndim != 1:
        raise ValueError(f"reward must have shape [A], got {reward.shape}")
    return TabularMDP(
        initial=jnp.ones(1),
        transition=jnp.ones((1, reward.size, 1)),
        reward=reward[None],
        terminal=jnp.zeros(1, bool),
        horizon=1,
    )


def _per_step(mdp: TabularMDP, policy: Array) -> Array:
    """`policy` as `[H, S, A]`."""
    shape = (mdp.horizon, *mdp.reward.shape)
    if policy.shape not in (shape, shape[1:]):
        raise ValueError(f"policy must have shape [S, A] = {shape[1:]} or [H, S, A] = {shape}, got {policy.shape}")
    return jnp.broadcast_to(policy if policy.ndim == 3 else policy[None], shape)


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (size, least) in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")
