"""Training steps/s as a share of stepping the environments alone, taken in turns in one process.

    python -m benchmarks.throughput [--env inverted_pendulum] [--num-envs 1024] [--algorithm ppo]

The yardstick is brax's own wrapped environment (`brax.envs.training.wrap`: vmap, time limit, auto-reset to a cached
state) under uniformly random actions in one scan: what brax, PureJaxRL and rejax train on. Network 64x64 tanh,
actor and critic apart, 16 steps, 4 epochs of 8 minibatches, observations and rewards normalised.
"""

import argparse
import statistics
from typing import Any

import jax

from benchmarks.record import interleaved, median_ratio, save
from polopt_jax import algorithms
from polopt_jax.algorithms import Algorithm
from polopt_jax.driver import prepare, seed_keys
from polopt_jax.envs import Box, brax_env
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.tasks import Task, control_task

STEPS = 16


def brax_alone(name: str, backend: str, num_envs: int, steps: int) -> Any:
    """`run()` that steps brax's own wrapped environments `steps` times and keeps their state."""
    from brax import envs

    env = envs.training.wrap(envs.get_environment(name, backend=backend), episode_length=1000, action_repeat=1)
    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), num_envs))

    def step(carry: Any, key: jax.Array) -> Any:
        action = jax.random.uniform(key, (num_envs, env.action_size), minval=-1.0, maxval=1.0)
        return env.step(carry, action), None

    def many(state: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, state, jax.random.split(key, steps))[0]

    compiled = jax.jit(many).lower(state, jax.random.PRNGKey(1)).compile()
    held = {"state": state, "key": jax.random.PRNGKey(2)}

    def run() -> Any:
        held["key"], key = jax.random.split(held["key"])
        held["state"] = compiled(held["state"], key)
        return held["state"]

    return run


def collecting(algorithm: Algorithm, updates: int) -> Any:
    """`run()` that collects `updates` batches without learning from them."""
    state = jax.jit(algorithm.init)(jax.random.key(0))

    def many(params: Any, collect_state: Any, key: jax.Array) -> Any:
        def one(carry: Any, key: jax.Array) -> Any:
            carry, batch, _ = algorithm.collect(params, carry, key)
            return carry, batch.advantage.sum() + batch.target.sum()

        return jax.lax.scan(one, collect_state, jax.random.split(key, updates))

    compiled = jax.jit(many).lower(state.params, state.collect_state, state.key).compile()
    held = {"state": state.collect_state, "key": state.key}

    def run() -> Any:
        held["key"], key = jax.random.split(held["key"])
        held["state"], sums = compiled(state.params, held["state"], key)
        return sums

    return run


def training(algorithm: Algorithm, updates: int) -> tuple[Any, float]:
    """`run()` that trains for `updates` updates, and the compile time."""
    run = prepare(algorithm, seed_keys(0, 1), chunk_updates=updates)
    held = {"state": run.state}

    def once() -> Any:
        held["state"], metrics = run.advance(held["state"])
        return metrics

    return once, run.compile_seconds


def make_task(name: str, backend: str, num_envs: int) -> Task:
    env = brax_env(name, backend=backend)
    if not isinstance(env.action_space, Box):
        raise TypeError("brax environments have real actions")
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(64, 64))
    return control_task(env, network, num_envs=num_envs, num_steps=STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", default="inverted_pendulum")
    parser.add_argument("--backend", default="spring")
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--algorithm", choices=["ppo", "trpo", "npg", "actor_critic"], default="ppo")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    task = make_task(arguments.env, arguments.backend, arguments.num_envs)
    algorithm = getattr(algorithms, arguments.algorithm)(task)
    train, compile_seconds = training(algorithm, arguments.updates)
    steps = arguments.updates * STEPS
    alone = brax_alone(arguments.env, arguments.backend, arguments.num_envs, steps)
    runs = {"env": alone, "rollout": collecting(algorithm, arguments.updates), "train": train}
    times = interleaved(runs, repeats=arguments.repeats)
    total = steps * arguments.num_envs
    figures = {
        "env": arguments.env,
        "backend": arguments.backend,
        "num_envs": arguments.num_envs,
        "algorithm": arguments.algorithm,
        "train_over_env_only": median_ratio(times["env"], times["train"]),
        "rollout_and_advantage_over_env_only": median_ratio(times["env"], times["rollout"]),
        "train_steps_per_second_median": round(total / statistics.median(times["train"])),
        "env_only_steps_per_second_median": round(total / statistics.median(times["env"])),
        "compile_seconds": round(compile_seconds, 1),
        "cpu_note": "absolute figures are of a shared machine; the ratios are medians of paired runs",
    }
    save(f"throughput-{arguments.algorithm}-{arguments.env}-{arguments.num_envs}", figures)


if __name__ == "__main__":
    main()
