"""Imitation: a network learns to speak a world's reference language."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from polopt_jax.combinators import objective
from polopt_jax.divergences import action_kl, kl_to_reference
from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.training import make_step
from polopt_jax.types import Array, Batch, Outputs, Params
from polopt_jax.worlds import World


def imitate(
    network: TokenNetwork, world: World, key: Array, *, updates: int = 300, rows: int = 128
) -> tuple[Params, Array]:
    """Trains a network to speak a world's reference language: `(params, kl)`, kl `[updates]` in nats per token.

    Minimises KL(reference ‖ network), exact in the next token, on answers of the reference - imitation learning with
    the teacher's probabilities at hand. Adam, with the rate falling from 1e-2 to 0 on a cosine.
    """

    def teacher(params: Params, obs: Any) -> Outputs:
        del params
        return Outputs(policy=obs["teacher"])

    def student(params: Params, obs: Any) -> Outputs:
        return network.apply(params, obs["inputs"])

    step = make_step(
        (
            objective(student, kl_to_reference(teacher, divergence=action_kl)),
            optax.adam(optax.cosine_decay_schedule(1e-2, updates)),
        )
    )
    init_key, key = jax.random.split(key)
    params = network.init(init_key)

    def update(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Array]:
        prompt_key, speech_key = jax.random.split(key)
        prompt = world.prompts(prompt_key, rows)
        tokens = world.speak(prompt, speech_key)
        context = world.context(prompt).astype(tokens.dtype)[..., None]
        inputs = jnp.concatenate([context, tokens[..., :-1]], axis=-1)
        obs = {"inputs": inputs, "teacher": world.reference(prompt, tokens)}
        batch = Batch(obs=obs, action=tokens, mask=jnp.ones(tokens.shape, bool))
        params, opt_state, metrics = step.update(*carry, batch, None)
        return (params, opt_state), metrics["loss"]

    (params, _), kl = jax.lax.scan(update, (params, step.init(params)), jax.random.split(key, updates))
    return params, kl
