"""Policies with a memory, for environments that do not show all: `with_memory`, and networks of GRUs to start from.

    network = recurrent.gru_actor_critic(env.obs_shape, env.action_space)
    env, network = recurrent.with_memory(env, network)
    task = tasks.control_task(env, network, num_envs=64, num_steps=128)
    algorithm = algorithms.ppo(task)              # or npg, trpo, ...; a loop of your own takes both as well

A network is three functions, torso, core and head, of which only the core sees the past. To act, all three take one
step. To learn, torso and head see whole rows `[..., T]` at once, and the core is scanned over them from the memory that
the row began with (backpropagation through time, cut at the row's beginning). Where an episode begins within a row, the
memory is the initial one again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from polopt_jax.boundaries import described
from polopt_jax.distributions import DiagGaussian
from polopt_jax.envs import ActionSpace, Environment, MemoryEnv, Remembered
from polopt_jax.envs._check import check_made
from polopt_jax.fields import with_fields
from polopt_jax.networks import INITIAL_LOG_STD, Heads, Network, check_space, flattened, over_rows, sizes, trunk
from polopt_jax.ranges import Count, check_range
from polopt_jax.types import Array, Obs, Outputs, Params


@with_fields
class Recurrent(NamedTuple):
    """A model with a memory, and its initial parameters. Any leading shape `[...]`, but for the core's."""

    init: Callable[[Array], Params]
    """`key -> params`"""
    initial: Any
    """The memory of one environment as an episode begins, a pytree of arrays."""
    torso: Callable[[Params, Obs], Any]
    """`(params, obs [...]) -> features [...]`, a pytree"""
    core: Callable[[Params, Any, Any], tuple[Any, Any]]
    """`(params, memory [B, *], features [B, *]) -> (memory, features)`: one step."""
    head: Callable[[Params, Any], Outputs]
    """`(params, features [...]) -> Outputs`"""


def with_memory(env: Environment, network: Recurrent) -> tuple[MemoryEnv, Network]:
    """The environment that keeps what the policy remembers, and the network that reads it.

    They are an environment and a network like any other: for `control_task` and every recipe, for `start` and `unroll`,
    `evaluate_policy` and `play_episode`. Observations are `envs.Remembered`: what the environment shows, what was
    remembered before, and whether an episode begins.

    `network.apply(params, obs)` takes

    * `[B]`, one step of B environments: its outputs have the new `memory`, which the loop hands on;
    * `[..., T]`, whole rows, to learn from: gradients go back through the row to its first step, whose memory is
      what was remembered when it was acted, by the parameters of that time.

    A batch must keep its rows whole: `po.epochs` does, and `control_task` makes minibatches of whole rows for such an
    environment (B must be a multiple of their number). Shuffled decisions would learn as well, but nothing about what
    to remember. Standardised observations are those of the environment; the memory is left as it is.

    Args:
      env: unbatched.
      network: a `Recurrent`.

    Raises TypeError if `env` or `network` is something else. What a step remembers must have the structure, shapes and
    dtypes of `network.initial` (ValueError where it is traced).

    Differs from R2D2's replay (Kapturowski et al. 2019): a row begins with the memory that was stored, without steps of
    burn-in. With the data of the last policy alone it is stale by one update.

    >>> from polopt_jax.envs import Discrete, TimeLimit
    >>> env, network = with_memory(TimeLimit(limit=5), gru_actor_critic((1,), Discrete(1), memory=8))
    >>> state, obs = env.reset(jax.random.key(0))
    >>> outputs = network.apply(network.init(jax.random.key(1)), jax.tree.map(lambda x: x[None], obs))
    >>> outputs.value.shape, jax.tree.map(jnp.shape, outputs.memory)
    ((1,), {'actor': (1, 8), 'critic': (1, 8)})
    """
    check_made("with_memory", env)
    is_made = all(callable(getattr(network, name, None)) for name in ("init", "torso", "core", "head"))
    if not (is_made and hasattr(network, "initial")):
        raise TypeError(f"with_memory: network must be a Recurrent; it is {described(network)}")
    initial = jax.tree.map(jnp.asarray, network.initial)

    def apply(params: Params, obs: Remembered) -> Outputs:
        if not isinstance(obs, Remembered):
            raise TypeError(
                "a network with a memory reads Remembered observations, as the environment that with_memory returned "
                f"gives them; it was given {described(obs)}"
            )
        features = network.torso(params, obs.seen)

        def step(memory: Any, now: tuple[Any, Array]) -> tuple[Any, Any]:
            features, begins = now
            memory = jax.tree.map(lambda x, y: jnp.where(_like(begins, y), x, y), initial, memory)
            return network.core(params, memory, features)

        if obs.begins.ndim < 2:
            memory, features = step(obs.memory, (features, obs.begins))
            return replace(network.head(params, features), memory=memory)
        time = obs.begins.ndim - 1
        first = jax.tree.map(lambda x: jax.lax.index_in_dim(x, 0, time, keepdims=False), obs.memory)
        by_time = jax.tree.map(lambda x: jnp.moveaxis(x, time, 0), (features, obs.begins))
        features = jax.lax.scan(step, first, by_time)[1]
        return network.head(params, jax.tree.map(lambda x: jnp.moveaxis(x, 0, time), features))

    return MemoryEnv(env, initial), Network(network.init, apply)


def _like(flags: Array, x: Array) -> Array:
    """Flags `[...]` with as many axes as `x`, `[..., *]`."""
    return flags.reshape(flags.shape + (1,) * (x.ndim - flags.ndim))


def gru_actor_critic(
    obs_shape: Sequence[int],
    action_space: ActionSpace,
    *,
    memory: int = 64,
    hidden: Sequence[int] = (64,),
    cell: Callable[..., Any] = nn.GRUCell,
    activation: Callable[[Array], Array] = nn.tanh,
    gaussian: Callable[..., Any] = DiagGaussian,
    initial_log_std: float = INITIAL_LOG_STD,
) -> Recurrent:
    """Two separate networks, one for the policy and one for the value, each an MLP, a GRU and a linear head.

    Args:
      obs_shape: of the environment's observations, which are flattened.
      action_space: heads and initial kernels are those of `networks.mlp_actor_critic`.
      memory: units of each GRU.
      hidden: of the MLP before it.
      cell: of flax, called with `features=` and `name=`: `nn.OptimizedLSTMCell` remembers a pair.
      activation: after each layer of the MLP.
      gaussian: as in `networks.mlp_actor_critic`.
      initial_log_std: as there.

    Raises `ValueError` if `action_space` is none, `memory` is not positive, or obs does not end in `obs_shape`;
    `TypeError` if `obs_shape` or `hidden` is one number.

    >>> from polopt_jax.envs import Box
    >>> network = gru_actor_critic((3,), Box(2), memory=8, hidden=(16,))
    >>> sorted(network.init(jax.random.key(0)))
    ['core', 'head', 'torso']
    """
    modules = _Modules(("actor", "critic"), hidden, activation, memory, cell, action_space, gaussian, initial_log_std)
    return _recurrent("gru_actor_critic", obs_shape, modules)


def shared_gru_actor_critic(
    obs_shape: Sequence[int],
    action_space: ActionSpace,
    *,
    memory: int = 64,
    hidden: Sequence[int] = (64,),
    cell: Callable[..., Any] = nn.GRUCell,
    activation: Callable[[Array], Array] = nn.tanh,
    gaussian: Callable[..., Any] = DiagGaussian,
    initial_log_std: float = INITIAL_LOG_STD,
) -> Recurrent:
    """One MLP and one GRU with a policy head and a value head; all else as in `gru_actor_critic`.

    Half the work. For one-phase updates such as PPO's; not for NPG or TRPO, where the critic's steps would move the
    policy.

    >>> from polopt_jax.envs import Discrete
    >>> network = shared_gru_actor_critic((3,), Discrete(2), memory=8)
    >>> jax.tree.map(jnp.shape, network.initial)
    {'trunk': (8,)}
    """
    modules = _Modules(("trunk",), hidden, activation, memory, cell, action_space, gaussian, initial_log_std)
    return _recurrent("shared_gru_actor_critic", obs_shape, modules)


class _Modules(NamedTuple):
    """What a recurrent actor-critic is made of: for each name an MLP and a cell, and the heads on all."""

    names: tuple[str, ...]
    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    memory: int
    cell: Callable[..., Any]
    action_space: ActionSpace
    gaussian: Callable[..., Any]
    initial_log_std: float


class _Torso(nn.Module):
    names: Sequence[str]
    hidden: Sequence[int]
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        return {name: trunk(x, name, self.hidden, self.activation) for name in self.names}


class _Core(nn.Module):
    names: Sequence[str]
    memory: int
    cell: Callable[..., Any]

    @nn.compact
    def __call__(self, memory: dict[str, Any], x: dict[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        done = {name: self.cell(features=self.memory, name=name)(memory[name], x[name]) for name in self.names}
        return {name: after for name, (after, _) in done.items()}, {name: said for name, (_, said) in done.items()}


def _recurrent(caller: str, obs_shape: Sequence[int], parts: _Modules) -> Recurrent:
    shape, hidden = sizes(caller, "obs_shape", obs_shape), sizes(caller, "hidden", parts.hidden)
    check_space(parts.action_space)
    check_range(caller, Count, memory=parts.memory)
    torso, core = _Torso(parts.names, hidden, parts.activation), _Core(parts.names, parts.memory, parts.cell)
    heads = Heads(parts.action_space, parts.gaussian, parts.initial_log_std)
    one = torso.init_with_output(jax.random.key(0), jnp.zeros(math.prod(shape)))[0]
    made = parts.cell(features=parts.memory)
    initial = {name: made.initialize_carry(jax.random.key(0), x.shape) for name, x in one.items()}

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        seen, remembered = torso.init(keys[0], jnp.zeros(math.prod(shape))), core.init(keys[1], initial, one)
        said = heads.init(keys[2], [jnp.zeros(parts.memory) for _ in parts.names])
        return {name: made["params"] for name, made in (("torso", seen), ("core", remembered), ("head", said)) if made}

    def read(params: Params, obs: Array) -> dict[str, Array]:
        return over_rows(lambda x: _applied(torso, params, "torso", x), flattened(obs, shape))

    def remember(params: Params, memory: Any, features: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        return _applied(core, params, "core", memory, features)

    def say(params: Params, features: dict[str, Array]) -> Outputs:
        return over_rows(lambda x: _applied(heads, params, "head", [x[name] for name in parts.names]), features)

    return Recurrent(init, initial, read, remember, say)


def _applied(module: nn.Module, params: Params, part: str, *inputs: Any) -> Any:
    """A module with its part of the parameters, of which a torso without a layer has none."""
    forward: Callable[..., Any] = module.apply
    return forward({"params": params.get(part, {})}, *inputs)
