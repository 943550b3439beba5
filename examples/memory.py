"""PPO with a memory: a recurrent policy whose actions have two parts, in a loop of your own.

    python examples/memory.py

Two bits are shown at the first of five steps, and are to be said at the last. What a model remembers is for the model:
it learns from whole rows `[B, T]`, which `po.epochs` keeps whole, from the memory that the first step had.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import polopt_jax as po

EPISODE, MEMORY = 5, 16
cell, heads, critic = nn.GRUCell(MEMORY), nn.Dense(4), nn.Dense(1)


# 1. A model with a memory. One step of it, for acting: two choices at once, independent given what is remembered ...
def remember(params: Any, memory: Any, seen: Any, begins: Any) -> tuple[Any, po.Outputs]:
    memory = jnp.where(begins[..., None], 0.0, memory)  # nothing is remembered from the episode before
    memory, said = cell.apply(params["cell"], memory, seen)
    policy = po.MultiCategorical.of_logits(heads.apply(params["heads"], said), (2, 2))
    return memory, po.Outputs(policy=policy, value=critic.apply(params["critic"], said)[..., 0])


# ... and all of a row, for learning: obs has leading axes [B, T].
def model(params: Any, obs: Any) -> po.Outputs:
    by_time = lambda tree: jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)  # noqa: E731
    steps = by_time((obs["seen"], obs["begins"]))
    return by_time(jax.lax.scan(lambda memory, x: remember(params, memory, *x), obs["memory"][:, 0], steps)[1])


def look(bits: Any, time: Any) -> Any:
    """What is seen: the bits at the first step, and at the last that it is the last."""
    shown = jnp.where((time == 0)[:, None], 2.0 * bits - 1, 0.0)
    return jnp.concatenate([shown, (time == EPISODE - 1)[:, None]], axis=-1)


# 2. A window of T steps. Episodes begin again within it; what is remembered goes on into the next window.
def act(params: Any, state: Any, key: Any, num_steps: int) -> tuple[Any, po.Rollout]:
    def step(state: Any, key: Any) -> tuple[Any, po.Rollout]:
        bits, time, memory = state
        act_key, reset_key = jax.random.split(key)
        begins, ends = time == 0, time == EPISODE - 1
        obs = {"seen": look(bits, time), "begins": begins, "memory": memory}
        memory, outputs = remember(params, memory, obs["seen"], begins)
        action = outputs.policy.sample(seed=act_key)
        fresh = jax.random.bernoulli(reset_key, shape=bits.shape).astype(int)
        rollout = po.Rollout(
            obs=obs,
            action=action,
            log_prob=outputs.policy.log_prob(action),
            reward=jnp.where(ends, (action == bits).mean(-1), 0.0),
            terminated=ends,
            truncated=jnp.zeros_like(ends),
            next_obs=obs,  # none of the terms below reads it
            mask=jnp.ones_like(ends),
            value=outputs.value,
        )
        return (jnp.where(ends[:, None], fresh, bits), (time + 1) % EPISODE, memory), rollout

    state, rollout = jax.lax.scan(step, state, jax.random.split(key, num_steps))
    bits, time, memory = state
    last = remember(params, memory, look(bits, time), time == 0)[1].value  # of what the next window begins with
    following = jnp.concatenate([rollout.value[1:], last[None]])
    return state, replace(rollout, next_value=following)


def main(num_envs: int = 64, num_steps: int = 12, updates: int = 60, seed: int = 0) -> list[float]:
    init_key, key = jax.random.split(jax.random.key(seed))
    keys = jax.random.split(init_key, 3)
    memory, seen = jnp.zeros((num_envs, MEMORY)), jnp.zeros((num_envs, 3))
    params = {
        "cell": cell.init(keys[0], memory, seen),
        "heads": heads.init(keys[1], memory),
        "critic": critic.init(keys[2], memory),
    }
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))
    step = po.epochs(po.make_step((po.objective(model, term), optax.adam(5e-3))), 4, 4)  # of whole rows

    @jax.jit
    def update(params, opt_state, state, key):
        act_key, step_key = jax.random.split(key)
        state, rollout = act(params, state, act_key, num_steps)
        advantage, target = po.gae(rollout, gamma=1.0, lambda_=0.95)
        batch = po.to_batch(rollout, advantage=po.standardize(advantage, rollout.mask), target=target)
        params, opt_state, metrics = step.update(params, opt_state, batch, step_key)
        return params, opt_state, state, rollout.reward.sum() / rollout.terminated.sum()

    state = (jnp.zeros((num_envs, 2), int), jnp.arange(num_envs) % EPISODE, memory)
    opt_state, right = step.init(params), []
    for number in range(updates):
        params, opt_state, state, share = update(params, opt_state, state, jax.random.fold_in(key, number))
        right.append(float(share))
        if number % 10 == 9:
            print(f"update {number + 1:3}: {right[-1]:.0%} of the bits")
    return right


if __name__ == "__main__":
    main()
