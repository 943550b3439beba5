"""A token policy without a model of context: one row of logits for each prompt and position."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.distributions import Categorical
from polopt_jax.language._transformer import TokenNetwork
from polopt_jax.types import Array, ArrayLike, Outputs, Params


def token_table(*, num_prompts: int, length: int, vocabulary: int) -> TokenNetwork:
    """A table of logits for each of W prompts and T positions, whatever was said before, as a `TokenNetwork`.

    The limit in which nothing is shared between prompts or positions, and so the policy whose outcome law
    `worlds.token_outcome_law` knows. Prompts are single input tokens V, V+1, .., V+W-1. Parameters are `{"policy":
    [W, T, V], "value": [W, T]}`, zero at first.

    Raises `ValueError` for a size below 1, and where tokens are more than T. A prompt out of range reads the table's
    first or last.

    >>> import jax
    >>> network = token_table(num_prompts=2, length=3, vocabulary=4)
    >>> network.apply(network.init(jax.random.key(0)), jnp.array([5, 0, 1])).policy.logits.shape
    (3, 4)
    """
    for name, size in {"num_prompts": num_prompts, "length": length, "vocabulary": vocabulary}.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; it is {size}")

    def read(params: Params, prompt: Array, position: Array) -> Outputs:
        row = jnp.clip(prompt - vocabulary, 0, num_prompts - 1), position
        return Outputs(policy=Categorical(logits=params["policy"][row]), value=params["value"][row])

    def init(key: Array) -> Params:
        del key
        shape = (num_prompts, length)
        return {"policy": jnp.zeros((*shape, vocabulary)), "value": jnp.zeros(shape)}

    def apply(params: Params, obs: Array) -> Outputs:
        if obs.ndim < 1 or obs.shape[-1] > length:
            raise ValueError(f"obs must have shape [..., T] with T <= {length}; it has {obs.shape}")
        position = jnp.broadcast_to(jnp.arange(obs.shape[-1]), obs.shape)
        return read(params, obs[..., :1], position)

    def decode(params: Params, cache: Array, tokens: Array, position: ArrayLike) -> tuple[Array, Outputs]:
        prompt = jnp.where(jnp.asarray(position) == 0, tokens[..., 0], cache).astype(cache.dtype)
        positions = jnp.broadcast_to(position + jnp.arange(tokens.shape[-1]), tokens.shape)
        return prompt, read(params, prompt[..., None], positions)

    return TokenNetwork(
        init=init,
        apply=apply,
        init_cache=lambda shape: jnp.zeros(shape, jnp.int32),
        decode=decode,
        max_length=length,
    )
