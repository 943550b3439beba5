"""A decoder-only transformer with a key-value cache: the policy of texts and of token worlds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from polopt_jax.distributions import Categorical, LazyCategorical
from polopt_jax.language._positions import Positions, learned_positions
from polopt_jax.language._tokens import Tokens
from polopt_jax.networks import POLICY_SCALE, VALUE_SCALE, dense, over_rows
from polopt_jax.types import Array, ArrayLike, Model, Outputs, Params


class Cache(NamedTuple):
    """What a transformer keeps of the tokens that it has read, L = max_length of them."""

    segment: Array
    """The segment of each, `[..., L]` int32."""
    entries: tuple[tuple[Array, Array], ...]
    """Keys and values of each block, each `[..., L, heads, width / heads]`."""


class TokenNetwork(NamedTuple):
    """A sequence model, for whole sequences at once (`apply`) and bit by bit (`decode`)."""

    init: Callable[[Array], Params]
    """`init(key) -> params`."""
    apply: Model
    """`apply(params, tokens) -> Outputs`, tokens `[..., T]` integer or `Tokens`, outputs of leading shape `[..., T]`.
    Integer tokens are whole rows of one text each."""
    init_cache: Callable[[tuple[int, ...]], Any]
    """`init_cache(shape) -> cache`: an empty cache for rows of that shape, a pytree of fixed structure whose leaves
    have that shape as leading axes."""
    decode: Callable[[Params, Any, Any, ArrayLike], tuple[Any, Outputs]]
    """`decode(params, cache, tokens, place) -> (cache, outputs)`: the next S tokens `[..., S]`, integer or `Tokens`, of
    which the first comes at `place` `[]` in the cache, the same in all rows; the cache holds those before. The outputs
    have leading shape `[..., S]`."""
    max_length: int
    """The longest sequence that both accept."""
    vocab_size: int | None = None
    """The tokens that both read, 0 .. vocab_size - 1; None of a network that reads any token."""


Head: TypeAlias = Callable[[Array, Array, Array], Any]
"""`(hidden [..., D], kernel [D, V], bias [V]) -> policy`: what is made of the last hidden states."""


def stored_logits(hidden: Array, kernel: Array, bias: Array) -> Categorical:
    """The head of small vocabularies: a `Categorical` with all its logits, in at least float32."""
    dtype = jnp.promote_types(jnp.result_type(hidden, kernel), jnp.float32)
    flat = hidden.reshape(-1, hidden.shape[-1]).astype(dtype)
    logits = flat @ kernel + jnp.broadcast_to(bias, (flat.shape[0], bias.shape[0]))
    return Categorical(logits=logits.reshape(*hidden.shape[:-1], -1))


def lazy_logits(hidden: Array, kernel: Array, bias: Array) -> LazyCategorical:
    """The head of large vocabularies: a `LazyCategorical`, whose logits are never stored. The bias is one state more.

    It multiplies in the type of the hidden states, and accumulates in at least float32.
    """
    ones = jnp.ones((*hidden.shape[:-1], 1), hidden.dtype)
    unembedding = jnp.concatenate([kernel, bias[None]]).astype(hidden.dtype)
    return LazyCategorical(hidden=jnp.concatenate([hidden, ones], axis=-1), unembedding=unembedding)


def _attend(query: Array, key: Array, value: Array, visible: Array) -> Array:
    """Attention of queries `[..., S, H, D]` over `[..., L, H, D]` where `visible` `[..., S, L]`; no row all False."""
    scores = jnp.einsum("...shd,...lhd->...hsl", query, key) / math.sqrt(query.shape[-1])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = jnp.where(jnp.broadcast_to(visible[..., None, :, :], scores.shape), scores, -jnp.inf)
    return jnp.einsum("...hsl,...lhd->...shd", jax.nn.softmax(scores, axis=-1).astype(value.dtype), value)


Extend: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""From the keys and values of the tokens at hand to those attended over: the same ones, or a cache with them added."""


class _Block(nn.Module):
    heads: int
    mlp_ratio: int
    positions: Positions
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, position: Array, visible: Array, extend: Extend) -> tuple[Array, tuple[Array, Array]]:
        width = x.shape[-1]
        normed = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        query, key, value = (
            over_rows(nn.DenseGeneral((self.heads, width // self.heads), dtype=self.dtype, name=name), normed)
            for name in ("query", "key", "value")
        )
        query, key = (self.positions.turn(y, position) for y in (query, key))
        attended_over = extend(key, value)
        attended = _attend(query, *attended_over, visible)
        out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")
        x = x + over_rows(out, attended, features=2)
        normed = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        widened = nn.gelu(over_rows(nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name="up"), normed))
        return x + over_rows(nn.Dense(width, dtype=self.dtype, name="down"), widened), attended_over


class _Unembedding(nn.Module):
    """The parameters of a dense layer, for a head that makes of them what it likes."""

    num_outputs: int

    @nn.compact
    def __call__(self, width: int) -> tuple[Array, Array]:
        kernel = self.param("kernel", nn.initializers.orthogonal(POLICY_SCALE), (width, self.num_outputs))
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.num_outputs,))


class _Transformer(nn.Module):
    """The one forward pass of training and decoding, of tokens `[..., S]` that may read what is `visible`."""

    vocab_size: int
    num_outputs: int
    width: int
    heads: int
    mlp_ratio: int
    positions: Positions
    head: Head
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Tokens, visible: Array, extends: Sequence[Extend]) -> tuple[Outputs, tuple[Any, ...]]:
        x = nn.Embed(self.vocab_size, self.width, dtype=self.dtype, name="token")(tokens.token)
        x = self.positions.enter(x, tokens.position)
        entries = []
        for layer, extend in enumerate(extends):
            block = _Block(self.heads, self.mlp_ratio, self.positions, self.dtype, name=f"block_{layer}")
            x, attended_over = block(x, tokens.position, visible, extend)
            entries.append(attended_over)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        policy = self.head(x, *_Unembedding(self.num_outputs, name="policy")(self.width))
        value = over_rows(dense(1, VALUE_SCALE, "value"), jax.lax.stop_gradient(x))[..., 0]
        return Outputs(policy=policy, value=value), tuple(entries)


def transformer(
    *,
    vocab_size: int,
    num_outputs: int,
    max_length: int,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    mlp_ratio: int = 4,
    positions: Positions | None = None,
    head: Head = stored_logits,
    dtype: Any = None,
) -> TokenNetwork:
    """A pre-norm decoder-only transformer; what it says at t depends on tokens 0 .. t of the same text.

    `obs` is the input tokens `[..., T]`, any integer dtype, each in 0 .. vocab_size - 1, or `Tokens`, whose rows may be
    padded and hold several texts; the policy at t is a distribution over the `num_outputs` tokens that may follow, the
    value is `[..., T]`. A sampled token is the next input, hence `num_outputs <= vocab_size`; input-only tokens (a
    start token, a prompt) take the ids from `num_outputs` on. A token of `vocab_size` or more makes its sequence NaN,
    and so do tokens that would be decoded beyond `max_length`; a negative token counts from the end of the vocabulary.

    The value head reads the trunk through a stopped gradient: the critic never moves the policy. `decode` runs the
    same functions on the same parameters as `apply`, with the keys and values of earlier tokens read from the cache.

    Args:
      vocab_size, num_outputs, max_length: tokens that are read, tokens that are said, the longest row.
      width, depth, heads, mlp_ratio: of the hidden states; of blocks; of attention heads; of the blocks' hidden layer,
        in widths.
      positions: how it is told where a token stands: `learned_positions(max_length)`, if None, a vector for each place
        in a text; `rotary_positions()`, for longer texts, turns keys and queries so that only distances count.
      head: `stored_logits`, or `lazy_logits` where the vocabulary is large.
      dtype: in which it is computed, `jnp.bfloat16` for instance; that of the parameters, if None. Parameters are
        float32, attention is normalised and log-probabilities and values are computed in at least float32.

    Differs from GPT-2 (Radford et al., 2019): the policy head is not tied to the embedding and starts near uniform
    (orthogonal, 0.01), and there is no dropout.

    Raises `ValueError` for sizes that do not fit together, and where tokens are not integers or T > max_length.

    >>> network = transformer(vocab_size=6, num_outputs=5, max_length=4, width=8, depth=1)
    >>> params = jax.jit(network.init)(jax.random.key(0))
    >>> jax.jit(network.apply)(params, jnp.zeros((3, 2, 4), jnp.int32)).policy.logits.shape
    (3, 2, 4, 5)
    >>> cache, outputs = jax.jit(network.decode)(params, network.init_cache((3,)), jnp.zeros((3, 2), jnp.int32), 0)
    >>> outputs.value.shape
    (3, 2)
    """
    sizes = dict(num_outputs=num_outputs, max_length=max_length, width=width, depth=depth, heads=heads)
    _check_positive(**sizes, mlp_ratio=mlp_ratio)
    if num_outputs > vocab_size:
        raise ValueError(f"num_outputs must be at most vocab_size = {vocab_size}; it is {num_outputs}")
    if width % heads:
        raise ValueError(f"width must be a multiple of heads = {heads}; it is {width}")
    positions = learned_positions(max_length) if positions is None else positions
    positions.check(width // heads)
    module = _Transformer(vocab_size, num_outputs, width, heads, mlp_ratio, positions, head, dtype)
    forward: Callable[..., Any] = module.apply
    no_cache: Sequence[Extend] = [lambda key, value: (key, value)] * depth

    def causal(tokens: Tokens) -> tuple[Tokens, Array, Sequence[Extend]]:
        place = jnp.arange(tokens.token.shape[-1])
        return tokens, _visible(place, tokens.segment, place, tokens.segment), no_cache

    def init(key: Array) -> Params:
        return module.init(key, *causal(_placed(jnp.zeros(1, jnp.int32), 0)))["params"]

    def apply(params: Params, obs: Array | Tokens) -> Outputs:
        tokens = _read("obs", obs, 0)
        if tokens.token.ndim < 1 or tokens.token.shape[-1] > max_length:
            shape = tokens.token.shape
            raise ValueError(f"obs must have shape [..., T] with T <= max_length = {max_length}; it has {shape}")
        return forward({"params": params}, *causal(tokens))[0]

    def init_cache(shape: tuple[int, ...]) -> Cache:
        kept = jnp.float32 if dtype is None else dtype
        empty = jnp.zeros((*shape, max_length, heads, width // heads), kept)
        return Cache(jnp.zeros((*shape, max_length), jnp.int32), tuple((empty, empty) for _ in range(depth)))

    def decode(params: Params, cache: Cache, tokens: Array | Tokens, place: ArrayLike) -> tuple[Cache, Outputs]:
        read = _read("tokens", tokens, place)
        rows, shape = cache.segment.shape[:-1], read.token.shape
        size = shape[-1] if shape else 0
        if shape != (*rows, size) or not 1 <= size <= max_length:
            raise ValueError(
                f"tokens must have the cache's row shape {rows} and then 1 .. max_length = {max_length} tokens; "
                f"it has {shape}"
            )
        places = place + jnp.arange(size)
        segment = jnp.broadcast_to(read.segment, shape)
        kept = _put(cache.segment, segment, places[0], axis=-1)
        visible = _visible(places, segment, jnp.arange(max_length), kept)
        extends = [_appending(entry, places[0]) for entry in cache.entries]
        outputs, entries = forward({"params": params}, _within(read, places, max_length), visible, extends)
        return Cache(kept, entries), outputs

    return TokenNetwork(init, apply, init_cache, decode, max_length=max_length, vocab_size=vocab_size)


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; it is {size}")


def _read(name: str, tokens: Array | Tokens, place: ArrayLike) -> Tokens:
    """The tokens with where they stand; of integers, which are rows of one text each, without leading axes."""
    token = tokens.token if isinstance(tokens, Tokens) else tokens
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise ValueError(f"{name} must be integer tokens; its dtype is {token.dtype}")
    return tokens if isinstance(tokens, Tokens) else _placed(token, place)


def _placed(token: Array, place: ArrayLike) -> Tokens:
    time = place + jnp.arange(token.shape[-1] if token.ndim else 0)
    return Tokens(token=token, position=time, segment=jnp.ones_like(time))


def _visible(place: Array, segment: Array, other_place: Array, other_segment: Array) -> Array:
    """Whether tokens at `place` `[S]` of a segment `[..., S]` read those at others `[L]`, `[..., L]`: `[..., S, L]`."""
    same = segment[..., :, None] == other_segment[..., None, :]
    return same & jnp.broadcast_to(place[:, None] >= other_place[None, :], same.shape)


def _within(tokens: Tokens, places: Array, max_length: int) -> Tokens:
    """The tokens, those beyond the end of the cache made tokens that no vocabulary has: what is said of them is NaN."""
    token = tokens.token.astype(jnp.int32)
    beyond = jnp.broadcast_to(places >= max_length, token.shape)
    return replace(tokens, token=jnp.where(beyond, jnp.iinfo(jnp.int32).max, token))


def _put(old: Array, new: Array, place: Array, *, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), place, axis=axis)


def _appending(entry: tuple[Array, Array], place: Array) -> Extend:
    """Puts the keys and values `[..., S, H, D]` of the next tokens into a cache entry, from `place` on."""
    return lambda key, value: (_put(entry[0], key, place, axis=-3), _put(entry[1], value, place, axis=-3))
