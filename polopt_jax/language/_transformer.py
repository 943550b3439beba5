"""A small decoder-only transformer with a key-value cache: the policy of token worlds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from polopt_jax.distributions import Categorical
from polopt_jax.networks import POLICY_SCALE, VALUE_SCALE, dense, over_rows
from polopt_jax.types import Array, ArrayLike, Model, Outputs, Params

Cache: TypeAlias = tuple[tuple[Array, Array], ...]
"""Keys and values of each block, each `[..., max_length, heads, width / heads]`."""


class TokenNetwork(NamedTuple):
    """A sequence model, for whole sequences at once (`apply`) and bit by bit (`decode`)."""

    init: Callable[[Array], Params]
    """`init(key) -> params`."""
    apply: Model
    """`apply(params, tokens) -> Outputs`, tokens `[..., T]` integer, outputs of leading shape `[..., T]`."""
    init_cache: Callable[[tuple[int, ...]], Any]
    """`init_cache(shape) -> cache`: an empty cache for rows of that shape, a pytree of fixed structure and shapes."""
    decode: Callable[[Params, Any, Array, ArrayLike], tuple[Any, Outputs]]
    """`decode(params, cache, tokens, position) -> (cache, outputs)`: the next S tokens `[..., S]`, of which the first
    stands at `position` `[]` (the same in all rows). The cache holds the positions before; the outputs have leading
    shape `[..., S]`."""
    max_length: int
    """The longest sequence that both accept."""
    vocab_size: int | None = None
    """The tokens that both read, 0 .. vocab_size - 1; None of a network that reads any token."""


def _attend(query: Array, key: Array, value: Array, visible: Array) -> Array:
    """Attention of queries `[..., S, H, D]` over `[..., L, H, D]` where `visible` `[S, L]`; no row may be all False."""
    scores = jnp.einsum("...shd,...lhd->...hsl", query, key) / math.sqrt(query.shape[-1])
    scores = jnp.where(jnp.broadcast_to(visible, scores.shape), scores, -jnp.inf)
    return jnp.einsum("...hsl,...lhd->...shd", jax.nn.softmax(scores, axis=-1), value)


Extend: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""From the keys and values of the tokens at hand to those attended over: the same ones, or a cache with them added."""


class _Block(nn.Module):
    heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, x: Array, visible: Array, extend: Extend) -> tuple[Array, tuple[Array, Array]]:
        width = x.shape[-1]
        normed = nn.LayerNorm(name="attention_norm")(x)
        query, key, value = (
            over_rows(nn.DenseGeneral((self.heads, width // self.heads), name=name), normed)
            for name in ("query", "key", "value")
        )
        attended_over = extend(key, value)
        attended = _attend(query, *attended_over, visible)
        x = x + over_rows(nn.DenseGeneral(width, axis=(-2, -1), name="out"), attended, features=2)
        normed = nn.LayerNorm(name="mlp_norm")(x)
        widened = nn.gelu(over_rows(nn.Dense(self.mlp_ratio * width, name="up"), normed))
        return x + over_rows(nn.Dense(width, name="down"), widened), attended_over


class _Transformer(nn.Module):
    """The one forward pass of training and decoding: tokens `[..., S]` at `positions` `[S]`."""

    vocab_size: int
    num_outputs: int
    max_length: int
    width: int
    heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(
        self, tokens: Array, positions: Array, visible: Array, extends: Sequence[Extend]
    ) -> tuple[Outputs, Cache]:
        x = nn.Embed(self.vocab_size, self.width, name="token")(tokens)
        x = x + jnp.broadcast_to(nn.Embed(self.max_length, self.width, name="position")(positions), x.shape)
        cache = []
        for layer, extend in enumerate(extends):
            x, attended_over = _Block(self.heads, self.mlp_ratio, name=f"block_{layer}")(x, visible, extend)
            cache.append(attended_over)
        x = nn.LayerNorm(name="norm")(x)
        policy = Categorical(logits=over_rows(dense(self.num_outputs, POLICY_SCALE, "policy"), x))
        value = over_rows(dense(1, VALUE_SCALE, "value"), jax.lax.stop_gradient(x))[..., 0]
        return Outputs(policy=policy, value=value), tuple(cache)


def transformer(
    *,
    vocab_size: int,
    num_outputs: int,
    max_length: int,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    mlp_ratio: int = 4,
) -> TokenNetwork:
    """A pre-norm decoder-only transformer with learned positions; what it says at t depends on tokens 0 .. t.

    `obs` is the input tokens `[..., T]`, any integer dtype, each in 0 .. vocab_size - 1; the policy at t is a
    `Categorical` over the `num_outputs` tokens that may follow, the value is `[..., T]`. A sampled token is the next
    input, hence `num_outputs <= vocab_size`; input-only tokens (a start token, a prompt) take the ids from
    `num_outputs` on. A token of `vocab_size` or more makes its sequence NaN, and so do tokens that would be decoded
    beyond `max_length`; a negative token counts from the end of the vocabulary.

    The value head reads the trunk through a stopped gradient: the critic never moves the policy. `decode` runs the
    same functions on the same parameters as `apply`, with the keys and values of earlier tokens read from the cache.

    Differs from GPT-2 (Radford et al., 2019): the policy head is not tied to the embedding and starts near uniform
    (orthogonal, 0.01), and there is no dropout.

    Raises `ValueError` for sizes that do not fit together, and where tokens are not integers or T > max_length.

    >>> network = transformer(vocab_size=6, num_outputs=5, max_length=4, width=8, depth=1)
    >>> params = jax.jit(network.init)(jax.random.key(0))
    >>> network.apply(params, jnp.zeros((3, 2, 4), jnp.int32)).policy.logits.shape
    (3, 2, 4, 5)
    >>> cache, outputs = network.decode(params, network.init_cache((3,)), jnp.zeros((3, 2), jnp.int32), 0)
    >>> outputs.value.shape
    (3, 2)
    """
    sizes = dict(num_outputs=num_outputs, max_length=max_length, width=width, depth=depth, heads=heads)
    _check_positive(**sizes, mlp_ratio=mlp_ratio)
    if num_outputs > vocab_size:
        raise ValueError(f"num_outputs must be at most vocab_size = {vocab_size}; it is {num_outputs}")
    if width % heads:
        raise ValueError(f"width must be a multiple of heads = {heads}; it is {width}")
    module = _Transformer(vocab_size, num_outputs, max_length, width, heads, mlp_ratio)
    forward: Callable[..., Any] = module.apply
    no_cache: Sequence[Extend] = [lambda key, value: (key, value)] * depth

    def causal(tokens: Array) -> tuple[Array, Array, Array, Sequence[Extend]]:
        time = jnp.arange(tokens.shape[-1])
        return tokens, time, time[:, None] >= time[None, :], no_cache

    def init(key: Array) -> Params:
        return module.init(key, *causal(jnp.zeros(1, jnp.int32)))["params"]

    def apply(params: Params, obs: Array) -> Outputs:
        _check_tokens("obs", obs)
        if obs.ndim < 1 or obs.shape[-1] > max_length:
            raise ValueError(f"obs must have shape [..., T] with T <= max_length = {max_length}; it has {obs.shape}")
        return forward({"params": params}, *causal(obs))[0]

    def init_cache(shape: tuple[int, ...]) -> Cache:
        empty = jnp.zeros((*shape, max_length, heads, width // heads))
        return tuple((empty, empty) for _ in range(depth))

    def decode(params: Params, cache: Cache, tokens: Array, position: ArrayLike) -> tuple[Cache, Outputs]:
        _check_tokens("tokens", tokens)
        rows, size = cache[0][0].shape[:-3], tokens.shape[-1] if tokens.ndim else 0
        if tokens.shape != (*rows, size) or not 1 <= size <= max_length:
            raise ValueError(
                f"tokens must have the cache's row shape {rows} and then 1 .. max_length = {max_length} tokens; "
                f"it has {tokens.shape}"
            )
        positions = position + jnp.arange(size)
        visible = positions[:, None] >= jnp.arange(max_length)[None, :]
        extends = [_appending(entry, positions[0]) for entry in cache]
        outputs, cache = forward({"params": params}, tokens, positions, visible, extends)
        return cache, outputs

    return TokenNetwork(init, apply, init_cache, decode, max_length=max_length, vocab_size=vocab_size)


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; it is {size}")


def _check_tokens(name: str, tokens: Array) -> None:
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} must be integer tokens; its dtype is {tokens.dtype}")


def _appending(entry: tuple[Array, Array], position: Array) -> Extend:
    """Puts the keys and values `[..., S, H, D]` of the next tokens into a cache entry, from `position` on."""

    def append(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), position, axis=-3)

    return lambda key, value: (append(entry[0], key), append(entry[1], value))
