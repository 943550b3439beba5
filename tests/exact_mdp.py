"""A Markov decision process small enough to write out, and all that is known of it. Imports nothing of the library.

3 states, 2 actions and 4 decisions make 6⁴ = 1,296 trajectories, so an expectation is a sum over all of them. The
return is computed by dynamic programming as well: `jax.grad` of that shares no step with a score-function estimate.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

S, A, H = 3, 2, 4
GAMMA = 0.9
PATHS = (A * S) ** H
_PATHS = np.array(list(itertools.product(range(S * A), repeat=H)), np.int32)
STATES, ACTIONS = _PATHS // A, _PATHS % A
DISCOUNT = GAMMA ** np.arange(H)


class MDP(NamedTuple):
    """Leaves may have a leading axis of instances."""

    initial: np.ndarray
    """[S]"""
    transition: np.ndarray
    """[S, A, S]"""
    reward: np.ndarray
    """[S, A]"""


def random_mdps(rng, count, *, states=S, actions=A):
    """`count` worlds with Dirichlet(1) rows and standard normal rewards, in float64."""
    return MDP(
        rng.dirichlet(np.ones(states), count),
        rng.dirichlet(np.ones(states), (count, states, actions)),
        rng.normal(size=(count, states, actions)),
    )


def random_params(rng, count, *, scale=0.7, width=5):
    """Weights of `count` networks with one hidden layer, which share their parameters among states."""
    return {
        "hidden": scale * rng.normal(size=(count, S, width)),
        "policy": scale * rng.normal(size=(count, width, A)),
    }


def logits(params, one_hot_states):
    """[..., A] for one-hot states [..., S]."""
    return jnp.tanh(one_hot_states @ params["hidden"]) @ params["policy"]


def log_softmax(x):
    """log(exp(x) / Σ exp(x)), spelled out."""
    x = x - jax.lax.stop_gradient(x.max(-1, keepdims=True))
    return x - jnp.log(jnp.exp(x).sum(-1, keepdims=True))


def log_policy(params):
    """log π(a|s), [S, A]."""
    return log_softmax(logits(params, jnp.eye(S, dtype=params["hidden"].dtype)))


def path_probability(mdp, log_pi):
    """Probability of each trajectory, [PATHS]."""
    probability = mdp.initial[STATES[:, 0]]
    for t in range(H):
        probability = probability * jnp.exp(log_pi[STATES[:, t], ACTIONS[:, t]])
        if t + 1 < H:
            probability = probability * mdp.transition[STATES[:, t], ACTIONS[:, t], STATES[:, t + 1]]
    return probability


def values(mdp, log_pi):
    """Q[t, s, a] and V[t, s] of the discounted reward to go, by dynamic programming."""
    v, table = jnp.zeros(S), []
    for _ in range(H):
        q = mdp.reward + GAMMA * mdp.transition @ v
        v = (jnp.exp(log_pi) * q).sum(-1)
        table.append((q, v))
    return jnp.stack([q for q, _ in reversed(table)]), jnp.stack([v for _, v in reversed(table)])


def expected_return(mdp, log_pi):
    """J(π) = E[Σ_t γ^t r_t], differentiable."""
    return mdp.initial @ values(mdp, log_pi)[1][0]


def rewards(mdp):
    """Reward of each decision of each trajectory, [PATHS, H]."""
    return mdp.reward[STATES, ACTIONS]


def rewards_to_go(mdp):
    """Discounted from the decision on, [PATHS, H]."""
    reward, total = rewards(mdp), jnp.zeros(PATHS)
    columns = []
    for t in reversed(range(H)):
        total = reward[:, t] + GAMMA * total
        columns.append(total)
    return jnp.stack(columns[::-1], axis=1)


def discounted_world(mdp, policy, gamma):
    """J, Q [S, A], V [S] and discounted visits ρ [S] of the endless discounted problem, by linear solves in numpy."""
    transition = np.einsum("sa,sat->st", policy, mdp.transition)
    inverse = np.linalg.inv(np.eye(len(transition)) - gamma * transition)
    v = inverse @ (policy * mdp.reward).sum(-1)
    q = mdp.reward + gamma * mdp.transition @ v
    return mdp.initial @ v, q, v, mdp.initial @ inverse


def ravel(tree):
    """All leaves of a tree as one vector."""
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def relative_error(x, reference):
    """max |x - reference| / max |reference|, each over all but the first axis; the worst row."""
    x, reference = (np.asarray(y, np.float64).reshape(len(y), -1) for y in (x, reference))
    return float(np.max(np.abs(x - reference).max(1) / np.abs(reference).max(1)))
