"""Does an optimizer break a vase on its way? The same TRPO, and one whose updates may not move what comes about.

    python examples/outcomes.py

Both learn to cross a room, the short way over the vase or the long way around it. At every update the change of actions
is bounded alike; the second also bounds the change of the *outcome*, whether the vase broke: one more divergence in the
line search. Read the two at equal success: where 90% arrive they differ little, and in the end, when all arrive and the
short way is still a little better, very much.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import polopt_jax as po
from polopt_jax import envs, networks, outcomes


@dataclass(frozen=True)
class Room:
    """Two rows of five cells, from the left end to the right, in nine steps; the vase is in the middle of one row."""

    obs_shape: tuple = (1,)
    action_space: envs.Discrete = envs.Discrete(3)  # on, and to one row or the other

    def reset(self, key):
        start = (jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.bool_(False))
        return start, self._number(start)

    def step(self, state, action, key):
        x, row, steps, broken = state
        x = jnp.where(action == 0, x + 1, x)
        row = jnp.where(action == 0, row, action - 1)
        broken = broken | ((x == 2) & (row == 0))
        state = (x, row, steps + 1, broken)
        arrived = x >= 4
        return envs.EnvStep(
            state=state,
            obs=self._number(state),
            reward=arrived.astype(jnp.float32),
            terminated=arrived,
            truncated=(steps + 1 >= 9) & ~arrived,
            outcome={"broken": broken, "arrived": arrived},
        )

    def _number(self, state):
        return (2 * jnp.minimum(state[0], 4) + state[1]).astype(jnp.float32)[None]


def what_came(episode):
    """The outcome of a whole episode: yours to declare."""
    return po.final_step(episode).outcome


def broken(outcome):
    """The cell, of two, that the outcome falls into."""
    return outcome["broken"].astype(jnp.int32)


def learn(constraints, num_envs, updates, seed):
    """The shares that arrive and that break the vase, update by update."""
    env = Room()
    network = networks.tabular_actor_critic(10, env.action_space)
    surrogate = po.objective(network.apply, po.surrogate())
    critic = po.objective(network.apply, po.value_loss())
    trpo = po.trpo(network.apply, radius=0.02, constraints=constraints)
    step = po.make_step(policy=(surrogate, trpo), critic=(critic, optax.adam(3e-2)))
    params = network.init(jax.random.key(0))
    # A careful start, as somebody who learnt from people has it: around the vase more often than over it.
    params = {**params, "policy": params["policy"].at[2, 2].set(1.5).at[0, 2].set(1.5)}

    @jax.jit
    def update(carry, key):
        params, opt_state = carry
        start_key, act_key, step_key = jax.random.split(key, 3)
        loop = po.start(env, start_key, num_envs=num_envs)
        _, rollout = po.unroll(env, lambda obs: network.apply(params, obs), loop, act_key, num_steps=9)
        whole, _ = po.first_episodes(rollout)  # one whole episode per environment: a row of the batch
        advantage, target = po.gae(whole, gamma=0.95, lambda_=0.95)
        advantage = po.standardize(advantage, whole.mask)
        batch = po.to_batch(whole, advantage=advantage, target=target, outcome=what_came)
        params, opt_state, _ = step.update(params, opt_state, batch, step_key)
        return (params, opt_state), (batch.outcome["arrived"].mean(), batch.outcome["broken"].mean())

    keys = jax.random.split(jax.random.key(seed), updates)
    _, shares = jax.lax.scan(update, (params, step.init(params)), keys)
    return shares


def at_success(shares, level):
    """The share of broken vases where the share of arrivals first reaches a level."""
    arrived, broken = shares
    first = int(jnp.argmax(arrived >= level))
    return float(broken[first]) if bool((arrived >= level).any()) else float("nan")


def main(num_envs=512, updates=80, seed=0):
    held = outcomes.outcome_kl(2, of=broken)  # a divergence like po.action_kl, on what came about
    found = {
        "TRPO": learn([], num_envs, updates, seed),
        "TRPO, outcome bounded": learn([(held, 2e-4)], num_envs, updates, seed),
    }
    for name, shares in found.items():
        print(f"{name:22} arrives {shares[0][0]:.2f} -> {shares[0][-1]:.2f}, vases {shares[1][0]:.2f} ->", end=" ")
        print(f"{shares[1][-1]:.2f}; when .9 arrive, {at_success(shares, 0.9):.2f} are broken")
    return found


if __name__ == "__main__":
    main()
