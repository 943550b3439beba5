"""PPO with a memory: a recurrent policy, where what is seen now does not tell what to do.

    python examples/memory.py

Two bits are shown at the first of five steps, and are to be said at the last, both at once.
"""

from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from polopt_jax import algorithms, recurrent, tasks
from polopt_jax.envs import EnvStep, MultiDiscrete

EPISODE = 5


# 1. An environment that does not show all of its state.
class Bits:
    obs_shape = (3,)
    action_space = MultiDiscrete((2, 2))

    def reset(self, key: Any) -> tuple[Any, Any]:
        state = jax.random.bernoulli(key, shape=(2,)).astype(int), jnp.int32(0)
        return state, look(*state)

    def step(self, state: Any, action: Any, key: Any) -> EnvStep:
        bits, time = state
        last = time == EPISODE - 1
        return EnvStep(
            state=(bits, time + 1),
            obs=look(bits, time + 1),
            reward=jnp.where(last, (action == bits).mean(), 0.0),
            terminated=last,
            truncated=jnp.zeros_like(last),
        )


def look(bits: Any, time: Any) -> Any:
    """What is seen: the bits at the first step, and at the last that it is the last."""
    return jnp.append(jnp.where(time == 0, 2.0 * bits - 1, 0.0), time == EPISODE - 1)


def main(num_envs: int = 64, updates: int = 40, seed: int = 0) -> float:
    # 2. A network that remembers, and an environment that keeps what it remembered. A network of your own is a
    #    `recurrent.Recurrent`: a torso, a core that takes one step, and a head.
    env, network = recurrent.with_memory(
        Bits(), recurrent.shared_gru_actor_critic(Bits.obs_shape, Bits.action_space, memory=16, hidden=(16,))
    )

    # 3. From here on there is nothing new: a task, a recipe, the loop. Windows of 12 steps cut through episodes of 5.
    task = tasks.control_task(env, network, num_envs=num_envs, num_steps=12)
    algorithm = algorithms.ppo(task, learning_rate=5e-3, gamma=1.0, num_minibatches=4)
    state = algorithm.init(jax.random.key(seed))
    train = jax.jit(lambda state: po.train(algorithm.collect, algorithm.step, state, updates=10))
    for number in range(10, updates + 1, 10):
        state, metrics = train(state)
        right = metrics["episode/return_sum"].sum() / metrics["episode/finished"].sum()
        print(f"update {number:3}: {right:.0%} of the bits")

    # 4. What it is worth, taking its most probable actions. To act by hand, hand `outputs.memory` on.
    act = po.greedy(algorithm.act(state))
    found = float(po.evaluate_policy(env, act, jax.random.key(seed + 1), episodes=200).episode_return.mean())
    print(f"greedily: {found:.0%}")
    return found


if __name__ == "__main__":
    main()
