"""This library: `driver.prepare` of a recipe on the control task, as the command runs it."""

from typing import Any

import jax

from benchmarks.entrants import (
    CLIP,
    EPISODE_LENGTH,
    GAMMA,
    HIDDEN,
    INITIAL_LOG_STD,
    LAMBDA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    NUM_STEPS,
    VALUE_WEIGHT,
)
from benchmarks.entrants.built import Built, returns
from polopt_jax import algorithms, driver
from polopt_jax.algorithms import Algorithm
from polopt_jax.envs import Box, brax_env
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.tasks import Task, control_task

DIFFERS = (
    "each row's decisions are dealt out to minibatches, values not clipped, advantages standardised per minibatch; "
    "KL and entropy of every update are measured, and a step that is not finite is not taken"
)


def task_of(env: str, backend: str, num_envs: int, *, initial_log_std: float = INITIAL_LOG_STD) -> Task:
    """The control task that every entrant learns."""
    found = brax_env(env, backend=backend, episode_length=EPISODE_LENGTH)
    if not isinstance(found.action_space, Box):
        raise TypeError("brax environments have real actions")
    network = mlp_actor_critic(found.obs_shape, found.action_space, hidden=HIDDEN, initial_log_std=initial_log_std)
    return control_task(found, network, num_envs=num_envs, num_steps=NUM_STEPS)


def recipe_of(task: Task, algorithm: str) -> Algorithm:
    """A recipe, of which PPO has the settings of everybody here; the others have their own defaults."""
    if algorithm != "ppo":
        return getattr(algorithms, algorithm)(task)
    return algorithms.ppo(
        task,
        learning_rate=LEARNING_RATE,
        clip_eps=CLIP,
        num_epochs=NUM_EPOCHS,
        num_minibatches=NUM_MINIBATCHES,
        gamma=GAMMA,
        lambda_=LAMBDA,
        value_weight=VALUE_WEIGHT,
        max_grad_norm=MAX_GRAD_NORM,
    )


def build(
    *,
    env: str,
    backend: str,
    num_envs: int,
    updates: int,
    algorithm: str = "ppo",
    initial_log_std: float = INITIAL_LOG_STD,
    seeds: int = 1,
    slices: int = 0,
) -> Built:
    task = task_of(env, backend, num_envs, initial_log_std=initial_log_std)
    run = driver.prepare(recipe_of(task, algorithm), driver.seed_keys(0, seeds), chunk_updates=updates)
    held = {"state": run.state}

    def chunk() -> dict[str, Any] | None:
        held["state"], metrics = jax.block_until_ready(run.advance(held["state"]))
        if slices:
            return returns(metrics["episode/return_sum"], metrics["episode/finished"], slices)
        return None

    differs = DIFFERS if algorithm == "ppo" else f"{algorithm} with its own defaults"
    return Built(chunk, seeds * updates * task.decisions, updates, differs)
