"""Every trajectory of a small tabular world, one by one: the slow truth that estimators are tested against.

Axes: K trajectories, H decisions (the horizon). A policy is a table of probabilities, `[S, A]` or `[H, S, A]`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from polopt_jax.envs._tabular import TabularMDP
from polopt_jax.types import Array, record


@record
class Trajectories:
    """Every trajectory of a world, padded to the horizon. K trajectories, H decisions."""

    states: Array
    """`[K, H]` int32; 0 in the padding."""
    actions: Array
    """`[K, H]` int32; 0 in the padding."""
    rewards: Array
    """`[K, H]`; 0 in the padding."""
    mask: Array
    """`[K, H]` bool: which decisions are real."""
    final_state: Array
    """The state after the last decision, `[K]` int32."""
    dynamics: Array
    """What the world contributes to the probability of the trajectory: initial[s₀] Π transition, `[K]`."""


def enumerate_trajectories(mdp: TabularMDP, *, limit: int = 200_000) -> Trajectories:
    """Every trajectory that the dynamics allow, each once, whatever the policy.

    Two trajectories that differ only in the state reached at the end are two (outcomes are read off it). Which
    trajectories there are is decided on the host, so `mdp` must be concrete (not traced); their rewards and
    probabilities are functions of `mdp` in its own dtype.

    Raises:
      ValueError: there are more than `limit` trajectories. Their number grows as (S A)^H.

    >>> from polopt_jax.envs import chain
    >>> enumerate_trajectories(chain(num_states=3, horizon=2)).states.tolist()
    [[0, 0], [0, 0], [0, 1], [0, 1]]
    """
    states, actions, following = _paths(mdp, limit)
    mask, first = actions >= 0, states[:, 0]
    states, actions = np.where(mask, states, 0), np.where(mask, actions, 0)
    length = mask.sum(1)
    final = np.where(length > 0, following[np.arange(len(length)), length - 1], first)
    moves = jnp.where(mask, mdp.transition[states, actions, np.where(mask, following, 0)], 1.0)
    return Trajectories(
        states=jnp.asarray(states, jnp.int32),
        actions=jnp.asarray(actions, jnp.int32),
        rewards=jnp.where(mask, mdp.reward[states, actions], 0.0),
        mask=jnp.asarray(mask),
        final_state=jnp.asarray(final, jnp.int32),
        dynamics=mdp.initial[first] * moves.prod(1),
    )


def trajectory_prob(trajectories: Trajectories, policy: Array) -> Array:
    """Probability of each trajectory, `[K]`; they sum to 1.

    Args:
      trajectories: from `enumerate_trajectories`.
      policy: probabilities `[S, A]` or `[H, S, A]`; zeros are allowed, also by the gradient.

    Raises:
      ValueError: `policy` has neither two nor three axes, or another H than the trajectories.

    >>> from polopt_jax.envs import chain
    >>> trajectory_prob(enumerate_trajectories(chain(num_states=3, horizon=2)), jnp.full((3, 2), 0.5)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return trajectories.dynamics * jnp.where(trajectories.mask, _chosen(trajectories, policy), 1.0).prod(-1)


def trajectory_log_prob(trajectories: Trajectories, policy: Array) -> Array:
    """Log-probability of each trajectory, dynamics included, `[K]`; -inf for an action of probability 0.

    The arguments and what it raises are those of `trajectory_prob`.

    >>> from polopt_jax.envs import chain
    >>> log_prob = trajectory_log_prob(enumerate_trajectories(chain(num_states=3, horizon=2)), jnp.full((3, 2), 0.5))
    >>> bool(jnp.allclose(jnp.exp(log_prob).sum(), 1.0))
    True
    """
    log_policy = jnp.log(jnp.where(trajectories.mask, _chosen(trajectories, policy), 1.0))
    return jnp.log(trajectories.dynamics) + log_policy.sum(-1)


def _chosen(trajectories: Trajectories, policy: Array) -> Array:
    """Probability of each decision, `[K, H]`."""
    horizon = trajectories.states.shape[-1]
    if policy.ndim not in (2, 3) or (policy.ndim == 3 and policy.shape[0] != horizon):
        raise ValueError(f"policy must have shape [S, A] or [H, S, A] with H = {horizon}, got {policy.shape}")
    if policy.ndim == 2:
        return policy[trajectories.states, trajectories.actions]
    return policy[jnp.arange(horizon)[None, :], trajectories.states, trajectories.actions]


def _paths(mdp: TabularMDP, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State, action and next state of every decision of every trajectory, each `[K, H]`; -1 in the padding.

    A trajectory without any decision (a terminal first state) keeps that state in its first column.
    """
    support, terminal = np.asarray(mdp.transition) > 0, np.asarray(mdp.terminal)
    moves = [[(int(a), int(t)) for a, t in np.argwhere(row)] for row in support]
    frontier = [((int(s),), (), ()) for s in np.flatnonzero(np.asarray(mdp.initial) > 0)]
    done = []
    for step in range(mdp.horizon + 1):
        ended = [path for path in frontier if step == mdp.horizon or terminal[path[0][-1]]]
        done += ended
        open_paths = [path for path in frontier if step < mdp.horizon and not terminal[path[0][-1]]]
        count = len(done) + sum(len(moves[states[-1]]) for states, _, _ in open_paths)
        if count > limit:
            raise ValueError(f"limit: there are more than {limit} trajectories; use a smaller world or horizon")
        frontier = [
            ((*states, after), (*actions, action), (*following, after))
            for states, actions, following in open_paths
            for action, after in moves[states[-1]]
        ]
    return tuple(
        np.array([(list(path[part]) + [-1] * mdp.horizon)[: mdp.horizon] for path in done]).reshape(-1, mdp.horizon)
        for part in range(3)
    )  # type: ignore[return-value]
