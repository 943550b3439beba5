"""Gymnasium's simulators alone, in turn in one process: random actions, and episodes that end begin anew."""

import functools

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from benchmarks.entrants.built import Built


def build(*, env: str, num_envs: int, num_steps: int, updates: int) -> Built:
    make = functools.partial(gymnasium.make, env, disable_env_checker=True)
    vector = SyncVectorEnv([make] * num_envs, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    vector.reset(seed=0)
    actions = [vector.action_space.sample() for _ in range(updates * num_steps)]

    def chunk() -> None:
        for action in actions:
            vector.step(action)

    return Built(chunk, updates * num_steps * num_envs, updates, "no policy, nothing learnt")
