"""Stable-Baselines3's PPO, with its own vector of simulators in one process."""

import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from benchmarks.entrants import (
    CLIP,
    GAMMA,
    HIDDEN,
    LAMBDA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    VALUE_WEIGHT,
)
from benchmarks.entrants.built import Built


def build(*, env: str, num_envs: int, num_steps: int, updates: int, normalized: int = 1, threads: int = 0) -> Built:
    """`normalized`: observations and rewards by running statistics, as everybody's; `threads` of torch, 0 for its own
    choice."""
    if threads:
        torch.set_num_threads(threads)
    vector: VecEnv = make_vec_env(env, n_envs=num_envs, seed=0)
    if normalized:
        vector = VecNormalize(vector, gamma=GAMMA)
    model = stable_baselines3.PPO(
        "MlpPolicy",
        vector,
        n_steps=num_steps,
        batch_size=num_envs * num_steps // NUM_MINIBATCHES,
        n_epochs=NUM_EPOCHS,
        learning_rate=LEARNING_RATE,
        clip_range=CLIP,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        vf_coef=VALUE_WEIGHT,
        ent_coef=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
        seed=0,
    )
    decisions = updates * num_steps * num_envs

    def chunk() -> None:
        model.learn(decisions, reset_num_timesteps=False)

    differs = (
        f"decisions are shuffled, advantages standardised per minibatch; threads of torch: {torch.get_num_threads()}"
    )
    return Built(chunk, decisions, updates, differs if normalized else f"{differs}; nothing is normalised")
