"""Stable-Baselines3's PPO or SB3-contrib's TRPO as they come: every setting their own, one simulator."""

import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks.entrants.built import Built


def learner(name: str) -> type[OnPolicyAlgorithm]:
    """By the name of our recipe."""
    if name == "ppo":
        return stable_baselines3.PPO
    import sb3_contrib

    return {"trpo": sb3_contrib.TRPO}[name]


def build(*, env: str, algorithm: str, updates: int, threads: int) -> Built:
    """`threads` of torch."""
    torch.set_num_threads(threads)
    model = learner(algorithm)("MlpPolicy", make_vec_env(env, n_envs=1, seed=0), device="cpu", seed=0)
    decisions = updates * model.n_steps

    def chunk() -> None:
        model.learn(decisions, reset_num_timesteps=False)

    return Built(chunk, decisions, updates, f"its defaults, {env} in one process, threads of torch: {threads}")
