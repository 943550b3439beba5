"""rejax's PPO on a Brax environment through its adapter, update after update without the evaluations between."""

from typing import Any

import jax
import rejax
from rejax.compat.brax2gymnax import create_brax

from benchmarks.entrants import (
    CLIP,
    EPISODE_LENGTH,
    GAMMA,
    HIDDEN,
    LAMBDA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    NUM_STEPS,
    VALUE_WEIGHT,
)
from benchmarks.entrants.built import Built

DIFFERS = (
    "decisions are shuffled, values clipped, advantages standardised per minibatch; gradients clipped one by one; "
    "no entropy or KL is measured; its adapter resets every environment at every step"
)


def build(*, env: str, backend: str, num_envs: int, updates: int, seeds: int = 1) -> Built:
    world, params = create_brax(env, backend=backend, episode_length=EPISODE_LENGTH)
    algorithm = rejax.get_algo("ppo").create(
        env=world,
        env_params=params,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": HIDDEN},
        learning_rate=LEARNING_RATE,
        num_envs=num_envs,
        num_steps=NUM_STEPS,
        num_epochs=NUM_EPOCHS,
        num_minibatches=NUM_MINIBATCHES,
        total_timesteps=updates * NUM_STEPS * num_envs,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        clip_eps=CLIP,
        vf_coef=VALUE_WEIGHT,
        ent_coef=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        normalize_observations=True,
        normalize_rewards=True,
    )

    def many(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: (algorithm.train_iteration(s), None), state, None, length=updates)[0]

    over = jax.vmap if seeds > 1 else lambda f: f
    keys = jax.random.split(jax.random.PRNGKey(0), seeds)
    state = jax.jit(over(algorithm.init_state))(keys if seeds > 1 else keys[0])
    # Its state begins with integers where it goes on with floats.
    state = jax.tree.map(lambda x, y: x.astype(y.dtype), state, jax.eval_shape(over(many), state))
    compiled = jax.jit(over(many)).lower(state).compile()
    held = {"state": state}

    def chunk() -> None:
        held["state"] = jax.block_until_ready(compiled(held["state"]))

    return Built(chunk, seeds * updates * NUM_STEPS * num_envs, updates, DIFFERS)
