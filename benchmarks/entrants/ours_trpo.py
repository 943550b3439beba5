"""This library's TRPO with a critic: one update on data that are already there, from the same parameters each time."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import polopt_jax as po
from benchmarks.entrants.built import Built
from benchmarks.entrants.trpo_update import (
    ACTIONS,
    CG_DAMPING,
    CG_ITERS,
    CRITIC_EPOCHS,
    CRITIC_MINIBATCHES,
    HIDDEN,
    LINE_SEARCH,
    OBS,
    RADIUS,
    random_rollout,
)
from polopt_jax.envs import Box
from polopt_jax.networks import mlp_actor_critic

DIFFERS = "KL and entropy after the update are not measured; a step that is not finite is not taken"
LEARNING_RATE = 1e-3


def build(*, decisions: int) -> Built:
    network = mlp_actor_critic((OBS,), Box(ACTIONS), hidden=HIDDEN)
    params = jax.jit(network.init)(jax.random.key(0))
    given = random_rollout(decisions)
    row = lambda x: jnp.asarray(x)[:, None]  # noqa: E731
    policy = network.apply(params, row(given["obs"])).policy
    action = policy.sample(seed=jax.random.key(1))
    advantage = given["advantage"]
    batch = po.Batch(
        obs=row(given["obs"]),
        action=action,
        mask=jnp.ones((decisions, 1), bool),
        log_prob=policy.log_prob(action),
        advantage=row((advantage - advantage.mean()) / advantage.std()),
        target=row(given["target"]),
    )
    optimizer = po.trpo(network.apply, radius=RADIUS, damping=CG_DAMPING, cg_iters=CG_ITERS, max_trials=LINE_SEARCH)
    critic = po.make_step((po.objective(network.apply, po.value_loss()), optax.adam(LEARNING_RATE)))
    step = po.sequential(
        policy=po.make_step((po.objective(network.apply, po.surrogate()), optimizer)),
        critic=po.epochs(critic, CRITIC_EPOCHS, CRITIC_MINIBATCHES),
    )
    state, key = step.init(params), jax.random.key(2)
    compiled = jax.jit(step.update).lower(params, state, batch, key).compile()
    moved = jax.jit(lambda p: po.action_kl(network.apply(params, batch.obs), network.apply(p, batch.obs), batch))

    held: dict[str, float] = {}

    def chunk() -> dict[str, Any]:
        updated = jax.block_until_ready(compiled(params, state, batch, key))[0]
        if "kl" not in held:
            held["kl"] = float(moved(updated))
        return held

    return Built(chunk, decisions, 1, DIFFERS)
