"""This library on Gymnasium's simulators, as the command runs it."""

import contextlib

from benchmarks.entrants import HIDDEN
from benchmarks.entrants.built import Built
from benchmarks.entrants.ours import DIFFERS, recipe_of
from polopt_jax import driver, simulators
from polopt_jax.networks import mlp_actor_critic


def build(*, env: str, num_envs: int, num_steps: int, updates: int) -> Built:
    simulator = simulators.simulator(env)
    network = mlp_actor_critic(simulator.obs_shape, simulator.action_space, hidden=HIDDEN)
    fleet = contextlib.ExitStack().enter_context(simulators.fleet(simulator, num_envs=num_envs))
    hosted = simulators.from_simulators(lambda task: recipe_of(task, "ppo"), fleet, network, num_steps=num_steps)
    run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=updates)
    held = {"state": run.state}

    def chunk() -> None:
        held["state"], _ = run.advance(held["state"])

    return Built(chunk, updates * num_steps * num_envs, updates, DIFFERS)
