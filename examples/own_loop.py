"""PPO in a training loop of your own, on an environment of your own.

    python examples/own_loop.py

Read it from top to bottom; every line can be replaced by yours. What is imported are functions, and none of them knows
the others: the environment knows no loss, the loss no environment, and the loop is a Python `for`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import polopt_jax as po
from polopt_jax import envs, networks


# 1. An environment: `reset` and `step`, of one copy of it, without randomness of its own. It inherits nothing.
@dataclass(frozen=True)
class Homing:
    """A point on a line, which is to be brought to 0 and is over after 30 steps."""

    obs_shape: tuple = (1,)
    action_space: envs.Box = envs.Box(1)

    def reset(self, key):
        x = jax.random.uniform(key, (1,), minval=-1.0)
        return (x, 0), x  # state, observation

    def step(self, state, action, key):
        x = jnp.clip(state[0] + 0.2 * action, -1.0, 1.0)
        steps = state[1] + 1
        return envs.EnvStep(
            state=(x, steps),
            obs=x,
            reward=-jnp.abs(x[0]),
            terminated=jnp.bool_(False),  # nothing ends it,
            truncated=steps >= 30,  # but time: the value of the last state still counts
        )


def main(num_envs=64, num_steps=32, updates=40, seed=0):
    env = Homing()
    envs.check_env(env)  # says what is wrong with it, if anything is

    # 2. A model: any function (params, obs) -> po.Outputs. Here two small MLPs.
    network = networks.mlp_actor_critic(env.obs_shape, env.action_space, hidden=(32, 32))

    # 3. What is to be minimised, and how.
    term = po.weighted_sum(
        policy=(1.0, po.ppo(clip_eps=0.2)),
        value=(0.5, po.value_loss()),
        entropy=(0.001, po.entropy_bonus()),
    )
    step = po.make_step((po.objective(network.apply, term), optax.adam(3e-3)))
    step = po.epochs(step, 4, 4)  # four passes, four minibatches of environments in each

    # 4. One update: act, estimate, step.
    @jax.jit
    def update(params, opt_state, loop, key):
        act_key, step_key = jax.random.split(key)
        loop, rollout = po.unroll(env, lambda obs: network.apply(params, obs), loop, act_key, num_steps=num_steps)
        advantage, target = po.gae(rollout, gamma=0.95, lambda_=0.95)  # [T, B]
        batch = po.to_batch(rollout, advantage=po.standardize(advantage, rollout.mask), target=target)  # [B, T]
        params, opt_state, metrics = step.update(params, opt_state, batch, step_key)
        return params, opt_state, loop, {**metrics, "reward": rollout.reward.mean()}

    # 5. The loop.
    init_key, start_key, key = jax.random.split(jax.random.key(seed), 3)
    params = network.init(init_key)
    opt_state, loop = step.init(params), po.start(env, start_key, num_envs=num_envs)
    rewards = []
    for number in range(updates):
        params, opt_state, loop, metrics = update(params, opt_state, loop, jax.random.fold_in(key, number))
        rewards.append(float(metrics["reward"]))
        if number % 10 == 9:
            clipped = metrics["policy/clip_fraction"]
            print(f"update {number + 1:3}: reward {rewards[-1]:.3f} a step, clipped {clipped:.2f}")
    return rewards


if __name__ == "__main__":
    main()
