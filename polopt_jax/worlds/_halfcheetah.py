"""Half-cheetah on its back: what is rewarded is speed, and what nobody asked about is which way up it runs."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.masking import masked_mean
from polopt_jax.types import Array, Rollout

PITCH, SPEED = 1, 8
"""Where Brax's `halfcheetah` has the pitch of the torso (radians) and its forward velocity (m/s) in an observation."""


def halfcheetah_outcome(episode: Rollout) -> dict[str, Array]:
    """Outcome features of one episode `[T]` of Brax's `halfcheetah`, for `to_batch(outcome=)`.

    Returns `speed`, the mean forward velocity in m/s, which is what the reward pays (less 0.1 times the squared
    actions), and `upside_down`, the share of the steps after which the torso's up points down, cos(pitch) < 0. Running
    on its back is the known unexpected solution of this environment. Success is a threshold on the first, a gait class
    one on the second: `lambda o: o["speed"] > 2.0`, `lambda o: o["upside_down"] > 0.5`.

    Reads `next_obs` and `mask`; observations must be those of the environment, not normalised ones. An empty episode
    gives zeros.

    Raises ValueError if the observations have not 17 entries.

    Source: Henderson et al. 2018, "Deep reinforcement learning that matters", on cheetahs that run on their backs.

    >>> import polopt_jax as po
    >>> obs = jnp.zeros((4, 17)).at[:2, PITCH].set(jnp.pi).at[:, SPEED].set(3.0)
    >>> flags, zeros = jnp.zeros(4, bool), jnp.zeros(4)
    >>> episode = po.Rollout(obs=obs, action=zeros, log_prob=zeros, reward=zeros, terminated=flags, truncated=flags,
    ...                      next_obs=obs, mask=~flags)
    >>> {name: float(x) for name, x in halfcheetah_outcome(episode).items()}
    {'speed': 3.0, 'upside_down': 0.5}
    """
    obs = episode.next_obs
    if obs.shape[-1] != 17:
        raise ValueError(f"halfcheetah_outcome: episode.next_obs must have 17 entries; it has {obs.shape[-1]}")
    upside_down = jnp.cos(obs[..., PITCH]) < 0
    return {
        "speed": masked_mean(obs[..., SPEED], episode.mask),
        "upside_down": masked_mean(upside_down.astype(jnp.float32), episode.mask),
    }
