"""Networks to start from: MLP actor-critics for control, a small decoder-only transformer for tokens.

Nothing else in the library knows of this module: a model is any function `(params, obs) -> Outputs`, and these are
flax modules behind that signature. `params` is a plain nested dict of arrays.

Separate trunks (`mlp_actor_critic`) are what NPG and TRPO need: there no critic step moves the policy after the trust
region was enforced. With a shared trunk (`shared_actor_critic`) it does. The transformer shares its trunk but stops
the gradient between trunk and value head, so its policy is as safe from the critic as with separate trunks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from polopt_jax.distributions import Categorical, DiagGaussian
from polopt_jax.envs import ActionSpace, Box, Discrete
from polopt_jax.types import Array, ArrayLike, Model, Outputs, Params

Cache: TypeAlias = tuple[tuple[Array, Array], ...]
"""Keys and values of each block, each `[B, max_length, heads, width / heads]`."""
_HIDDEN_SCALE, _POLICY_SCALE, _VALUE_SCALE = math.sqrt(2.0), 0.01, 1.0


class Network(NamedTuple):
    """A model and its initial parameters."""

    init: Callable[[Array], Params]
    """`init(key) -> params`."""
    apply: Model
    """`apply(params, obs) -> Outputs`, for observations of any leading shape `[...]`."""


class TokenNetwork(NamedTuple):
    """A sequence model, for whole sequences at once (`apply`) and one token at a time (`decode`)."""

    init: Callable[[Array], Params]
    """`init(key) -> params`."""
    apply: Model
    """`apply(params, tokens) -> Outputs`, tokens `[..., T]` integer, outputs of leading shape `[..., T]`."""
    init_cache: Callable[[int], Any]
    """`init_cache(batch_size) -> cache`: an empty cache, a pytree of fixed structure and shapes."""
    decode: Callable[[Params, Any, Array, ArrayLike], tuple[Any, Outputs]]
    """`decode(params, cache, token, position) -> (cache, outputs)`: token `[B]` stands at `position` `[]` (the same in
    all rows), the cache holds positions 0 .. position - 1, the outputs have leading shape `[B]`."""
    max_length: int
    """The longest sequence that both accept."""


def _dense(size: int, scale: float, name: str) -> nn.Dense:
    return nn.Dense(size, kernel_init=nn.initializers.orthogonal(scale), name=name)


def _flat(layer: Callable[[Array], Any], x: Array, *, features: int = 1) -> Any:
    """`layer` on rows: the leading axes of `x` (all but the last `features`) made one, and put back on every output.

    The gradient of a kernel contracts over the leading axes. Over one axis that is a plain matrix product; over two
    (`[B, T]`) XLA takes four times as long on a CPU, and a whole PPO update of 64-wide networks twice as long.
    """
    leading = x.shape[: x.ndim - features]
    rows = layer(x.reshape(math.prod(leading), *x.shape[x.ndim - features :]))
    return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), rows)


class _ActorCritic(nn.Module):
    """The policy head reads the first of `trunks`, the value head the last; one name is one shared trunk."""

    trunks: Sequence[str]
    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    action_space: ActionSpace
    gaussian: Callable[..., Any]
    initial_log_std: float

    @nn.compact
    def __call__(self, x: Array) -> Outputs:
        features = [self._trunk(x, name) for name in self.trunks]
        value = _dense(1, _VALUE_SCALE, "value")(features[-1])[..., 0]
        return Outputs(policy=self._policy(features[0]), value=value)

    def _trunk(self, x: Array, name: str) -> Array:
        for layer, size in enumerate(self.hidden):
            x = self.activation(_dense(size, _HIDDEN_SCALE, f"{name}_{layer}")(x))
        return x

    def _policy(self, features: Array) -> Any:
        if isinstance(self.action_space, Discrete):
            return Categorical(logits=_dense(self.action_space.num, _POLICY_SCALE, "policy")(features))
        size = self.action_space.size
        mean = _dense(size, _POLICY_SCALE, "policy")(features)
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (size,))
        return self.gaussian(mean=mean, log_std=jnp.broadcast_to(log_std.astype(mean.dtype), mean.shape))


def _network(module: _ActorCritic, shape: tuple[int, ...]) -> Network:
    if not isinstance(module.action_space, Discrete | Box):
        raise ValueError(f"action_space must be a Discrete or a Box; it is {module.action_space!r}")
    forward: Callable[..., Any] = module.apply

    def apply(params: Params, obs: Array) -> Outputs:
        leading = obs.shape[: obs.ndim - len(shape)]
        if obs.shape != leading + shape:
            raise ValueError(f"obs must have shape [..., {', '.join(map(str, shape))}]; it has {obs.shape}")
        return _flat(lambda x: forward({"params": params}, x), obs.reshape(*leading, math.prod(shape)))

    return Network(init=lambda key: module.init(key, jnp.zeros(math.prod(shape)))["params"], apply=apply)


def mlp_actor_critic(
    obs_shape: Sequence[int],
    action_space: ActionSpace,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    gaussian: Callable[..., Any] = DiagGaussian,
    initial_log_std: float = 0.0,
) -> Network:
    """Two separate MLPs, one for the policy and one for the value.

    Observations `[..., *obs_shape]` are flattened; the policy is of batch shape `[...]`, the value `[...]`. `Discrete`
    gives a `Categorical`; `Box` gives `gaussian(mean=, log_std=)` (`DiagGaussian` or `TanhGaussian`), each
    `[..., size]`, where log_std is a parameter `[size]` of its own, the same in every state, that starts at
    `initial_log_std`.

    Kernels start orthogonal with zero biases: √2 in the trunks, 0.01 in the policy head (the first policy is nearly
    the same in every state), 1 in the value head (Andrychowicz et al., 2021, arXiv:2006.05990; Huang et al., 2022,
    "The 37 implementation details of PPO").

    Raises `ValueError` if `action_space` is neither, or if obs does not end in `obs_shape`.

    >>> network = mlp_actor_critic((3,), Discrete(5), hidden=(16,))
    >>> outputs = network.apply(network.init(jax.random.key(0)), jnp.zeros((8, 2, 3)))
    >>> outputs.policy.logits.shape, outputs.value.shape
    ((8, 2, 5), (8, 2))
    """
    module = _ActorCritic(("actor", "critic"), hidden, activation, action_space, gaussian, initial_log_std)
    return _network(module, tuple(obs_shape))


def shared_actor_critic(
    obs_shape: Sequence[int],
    action_space: ActionSpace,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    gaussian: Callable[..., Any] = DiagGaussian,
    initial_log_std: float = 0.0,
) -> Network:
    """One MLP with a policy head and a value head; all else as in `mlp_actor_critic`.

    For one-phase updates such as PPO's. Not for NPG or TRPO: a value step moves the trunk and so the policy.

    >>> network = shared_actor_critic((3,), Box(2), hidden=(16,))
    >>> sorted(network.init(jax.random.key(0)))
    ['log_std', 'policy', 'trunk_0', 'value']
    """
    module = _ActorCritic(("trunk",), hidden, activation, action_space, gaussian, initial_log_std)
    return _network(module, tuple(obs_shape))


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
            _flat(nn.DenseGeneral((self.heads, width // self.heads), name=name), normed)
            for name in ("query", "key", "value")
        )
        attended_over = extend(key, value)
        attended = _attend(query, *attended_over, visible)
        x = x + _flat(nn.DenseGeneral(width, axis=(-2, -1), name="out"), attended, features=2)
        normed = nn.LayerNorm(name="mlp_norm")(x)
        widened = nn.gelu(_flat(nn.Dense(self.mlp_ratio * width, name="up"), normed))
        return x + _flat(nn.Dense(width, name="down"), widened), attended_over


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
        policy = Categorical(logits=_flat(_dense(self.num_outputs, _POLICY_SCALE, "policy"), x))
        value = _flat(_dense(1, _VALUE_SCALE, "value"), jax.lax.stop_gradient(x))[..., 0]
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
    `num_outputs` on. A token of `vocab_size` or more makes its sequence NaN, and so does a decoding position of
    `max_length` or more; a negative token counts from the end of the vocabulary.

    The value head reads the trunk through a stopped gradient: the critic never moves the policy. `decode` runs the
    same functions on the same parameters as `apply`, with the keys and values of earlier tokens read from the cache.

    Differs from GPT-2 (Radford et al., 2019): the policy head is not tied to the embedding and starts near uniform
    (orthogonal, 0.01), and there is no dropout.

    Raises `ValueError` for sizes that do not fit together, and where tokens are not integers or T > max_length.

    >>> network = transformer(vocab_size=6, num_outputs=5, max_length=4, width=8, depth=1)
    >>> params = jax.jit(network.init)(jax.random.key(0))
    >>> network.apply(params, jnp.zeros((3, 2, 4), jnp.int32)).policy.logits.shape
    (3, 2, 4, 5)
    >>> cache, outputs = network.decode(params, network.init_cache(3), jnp.zeros(3, jnp.int32), 0)
    >>> outputs.value.shape
    (3,)
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

    def init_cache(batch_size: int) -> Cache:
        empty = jnp.zeros((batch_size, max_length, heads, width // heads))
        return tuple((empty, empty) for _ in range(depth))

    def decode(params: Params, cache: Cache, token: Array, position: ArrayLike) -> tuple[Cache, Outputs]:
        _check_tokens("token", token)
        if token.ndim != 1:
            raise ValueError(f"token must have shape [B]; it has {token.shape}")
        positions = jnp.asarray(position).reshape(1)
        visible = positions[:, None] >= jnp.arange(max_length)[None, :]
        extends = [_appending(entry, positions[0]) for entry in cache]
        outputs, cache = forward({"params": params}, token[:, None], positions, visible, extends)
        return cache, jax.tree.map(lambda leaf: leaf[:, 0], outputs)

    return TokenNetwork(init=init, apply=apply, init_cache=init_cache, decode=decode, max_length=max_length)


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; it is {size}")


def _check_tokens(name: str, tokens: Array) -> None:
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} must be integer tokens; its dtype is {tokens.dtype}")


def _appending(entry: tuple[Array, Array], position: Array) -> Extend:
    """Puts the key and value `[B, 1, H, D]` of one token into a cache entry, at `position`."""

    def append(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), position, axis=-3)

    return lambda key, value: (append(entry[0], key), append(entry[1], value))
