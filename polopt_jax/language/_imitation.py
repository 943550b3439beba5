"""Imitation: a network learns to speak a world's reference language."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from polopt_jax.combinators import objective
from polopt_jax.distributions import Categorical
from polopt_jax.divergences import action_kl, kl_to_reference
from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.ranges import Count, check_range
from polopt_jax.steps import make_step
from polopt_jax.types import Array, Batch, Outputs, Params
from polopt_jax.worlds import World


def imitate(
    network: TokenNetwork, world: World, key: Array, *, updates: int = 1000, rows: int = 128
) -> tuple[Params, Array]:
    """Trains a network to speak a world's reference language: `(params, kl)`, kl `[updates]` in nats per token.

    Minimises KL(reference ‖ network), exact in the next token, on answers of the reference to prompts of the world -
    imitation learning with the teacher's probabilities at hand. The whole context is read; what counts are the tokens
    of the answers. Adam; the rate rises from 0 to 1e-2 in the first twentieth of the updates, and falls to 0 on a
    cosine. (Without the rise, networks of width 64 hardly learn what the words of `told_worlds` say.)

    At the defaults a `transformer` learns the rates of the worlds that `told_worlds` holds out to within a tenth or so;
    the rarest at the edge of what was told, a token in 500, only to within a half.

    Raises ValueError if a number is not positive, or if the world has tokens that the network cannot read.
    """
    check_range("imitate", Count, updates=updates, rows=rows)
    check_reads(network, world)
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=updates // 20, decay_steps=updates)

    def teacher(params: Params, obs: Any) -> Outputs:
        del params
        return Outputs(policy=obs["teacher"])

    def student(params: Params, obs: Any) -> Outputs:
        return network.apply(params, obs["inputs"])

    step = make_step(
        (
            objective(student, kl_to_reference(teacher, divergence=action_kl)),
            optax.adam(rate),
        )
    )
    init_key, key = jax.random.split(key)
    params = network.init(init_key)

    def update(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Array]:
        prompt_key, speech_key = jax.random.split(key)
        prompt = world.prompts(prompt_key, rows)
        batch = _lesson(world, prompt, world.speak(prompt, speech_key))
        params, opt_state, metrics = step.update(*carry, batch, None)
        return (params, opt_state), metrics["loss"]

    (params, _), kl = jax.lax.scan(update, (params, step.init(params)), jax.random.split(key, updates))
    return params, kl


def check_reads(network: TokenNetwork, world: World) -> None:
    """Raises ValueError if the world has tokens that the network cannot read: what it says of them would be NaN."""
    if network.vocab_size is not None and network.vocab_size < world.input_vocabulary:
        raise ValueError(
            f"network must read every token of the world, world.input_vocabulary = {world.input_vocabulary}; "
            f"its vocab_size is {network.vocab_size}"
        )


def _lesson(world: World, prompt: Any, tokens: Array) -> Batch:
    """Answers `[B, T]` after their contexts, `[B, P-1+T]`, with what the reference says; the context is masked out."""
    row = jnp.concatenate([world.context(prompt).astype(tokens.dtype), tokens], axis=-1)
    said = world.reference(prompt, tokens).logits
    context = row.shape[-1] - 1 - tokens.shape[-1]
    teacher = Categorical(logits=jnp.pad(said, ((0, 0), (context, 0), (0, 0))))
    mask = jnp.broadcast_to(jnp.arange(row.shape[-1] - 1) >= context, row[..., 1:].shape)
    return Batch(obs={"inputs": row[..., :-1], "teacher": teacher}, action=row[..., 1:], mask=mask)
