"""Simulators: Gymnasium environments, which step in Python on the host, learnt with the recipes of this library.

A simulator is no pure function, so it is no `envs.Environment`: it steps between two compiled halves of an update. What
it did becomes a `Rollout` like any other, and recipe, normalisation and metrics are those of `tasks.control_task`.

    simulator = simulators.simulator("CartPole-v1")                    # or a function that makes an environment
    network = networks.mlp_actor_critic(simulator.obs_shape, simulator.action_space)
    with simulators.fleet(simulator, num_envs=8) as fleet:
        hosted = simulators.from_simulators(algorithms.ppo, fleet, network, num_steps=128)
        run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=4)
        for chunk in driver.chunks(run, 25):
            print(chunk.update, chunk.metrics["episode/return_sum"].sum() / chunk.metrics["episode/finished"].sum())

Slow: every step goes through Python, so it is thousands of steps a second where a compiled environment has hundreds of
thousands. Gymnasium is imported when a simulator is asked for.
"""

from polopt_jax.simulators._episodes import evaluate_simulator, simulate_episode
from polopt_jax.simulators._fleet import Fleet, SimulatorError, async_vector, fleet, sync_vector
from polopt_jax.simulators._learning import Gathered, SimulatedState, from_simulators, rollout_of
from polopt_jax.simulators._simulator import MissingGymnasium, Simulator, simulator

__all__ = [
    "Fleet",
    "Gathered",
    "MissingGymnasium",
    "SimulatedState",
    "Simulator",
    "SimulatorError",
    "async_vector",
    "evaluate_simulator",
    "fleet",
    "from_simulators",
    "rollout_of",
    "simulate_episode",
    "simulator",
    "sync_vector",
]
