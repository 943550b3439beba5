"""Simulators in mid-course: where each stands, and what became of its episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from polopt_jax.rollout import EpisodeStats
from polopt_jax.simulators._fleet import Fleet, Stepped, numbers_of
from polopt_jax.tasks import episode_metrics


class Course:
    """The simulators of a fleet in mid-course."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._running = False
        self.obs = np.zeros(0, np.float32)
        """What the next decision is taken on, `[N, ...]`."""
        self._return, self._length = np.zeros(fleet.rows), np.zeros(fleet.rows)
        self._sums = np.zeros((4, fleet.rows))

    def begin(self, update: int) -> bool:
        """Begins an episode of every simulator, unless they are on their way; returns whether it did."""
        self._sums[:] = 0
        if self._running:
            return False
        fleet, self._running = self._fleet, True
        numbers = [number for seed in fleet.seeds for number in numbers_of(seed, update, fleet.num_envs)]
        self.obs = fleet.reset(np.ones(fleet.rows, bool), numbers)
        return True

    def step(self, action: np.ndarray) -> tuple[np.ndarray, ...]:
        """One step: reward, terminated, truncated, next_obs and mask, `[N]` each. Episodes that ended begin anew."""
        stepped = self._fleet.step(action)
        finite = stepped.finite
        reward, terminated, truncated, next_obs = _sound(stepped, finite, self.obs)
        done = terminated | truncated
        ended = done & finite
        self._return += reward
        self._length += 1
        self._sums += np.stack([ended, ended * self._return, ended * self._length, ~finite])
        self._return[done], self._length[done] = 0, 0
        self.obs = self._fleet.reset(done) if done.any() else next_obs
        return reward, terminated, truncated, next_obs, finite

    def told(self) -> dict[str, np.ndarray]:
        """Of each seed what happened to episodes since `begin`."""
        sums = self._sums.reshape(4, len(self._fleet.seeds), -1).sum(-1)
        finished, return_sum, length_sum, nonfinite = sums
        stats: Any = EpisodeStats(finished=finished, return_sum=return_sum, length_sum=length_sum, nonfinite=nonfinite)
        told: Any = episode_metrics(stats)
        return told


def _sound(stepped: Stepped, finite: np.ndarray, obs: np.ndarray) -> tuple[np.ndarray, ...]:
    """Reward, terminated, truncated and next_obs; of those that broke as `po.unroll` has them."""
    rows = finite.reshape(-1, *[1] * (obs.ndim - 1))
    reward = np.where(finite, stepped.reward, 0).astype(np.float32)
    return reward, stepped.terminated & finite, stepped.truncated | ~finite, np.where(rows, stepped.obs, obs)
