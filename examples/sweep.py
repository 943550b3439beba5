"""Many agents in one compiled program: seeds x learning rates of PPO, and how fast that is.

    python examples/sweep.py

A recipe is built inside the function that is jitted, so its hyperparameters may be traced, and `jax.vmap` runs over
them. On an accelerator this is how a sweep costs hardly more than a run.
"""

import time

import jax
import jax.numpy as jnp

import polopt_jax as po
from polopt_jax import algorithms, driver, envs, networks, tasks


def main(env=None, rates=(3e-4, 1e-3, 3e-3), seeds=2, updates=60, num_envs=32, num_steps=16):
    env = envs.brax_env("inverted_pendulum") if env is None else env
    network = networks.mlp_actor_critic(env.obs_shape, env.action_space)
    task = tasks.control_task(env, network, num_envs=num_envs, num_steps=num_steps)

    def run(key, learning_rate):
        algorithm = algorithms.ppo(task, learning_rate=learning_rate)
        step = po.side_by_side(algorithm.step)  # which a vmap runs faster
        _, metrics = po.train(algorithm.collect, step, algorithm.init(key), updates=updates)
        return metrics

    over_seeds = jax.vmap(run, in_axes=(0, None))
    over_rates = jax.vmap(over_seeds, in_axes=(None, 0))  # metrics: [rates, seeds, updates]
    keys = jax.random.split(jax.random.key(0), seeds)
    began = time.perf_counter()
    program = jax.jit(over_rates, compiler_options=driver.compiler_options()).lower(keys, jnp.array(rates)).compile()
    compiled = time.perf_counter()
    metrics = jax.block_until_ready(program(keys, jnp.array(rates)))
    seconds = time.perf_counter() - compiled

    agents, steps = len(rates) * seeds, len(rates) * seeds * updates * task.decisions
    print(f"compiled in {compiled - began:.1f} s; {agents} agents took {seconds:.1f} s, {steps / seconds:,.0f} steps/s")
    late = slice(updates - max(1, updates // 10), None)
    finished = metrics["episode/finished"][..., late].sum(-1)
    reward = metrics["episode/return_sum"][..., late].sum(-1) / jnp.maximum(finished, 1)
    for rate, found in zip(rates, reward, strict=True):
        print(f"learning rate {rate:.0e}: return {', '.join(f'{x:.0f}' for x in found)}")
    return reward


if __name__ == "__main__":
    main()
