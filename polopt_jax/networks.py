"""Networks to start from: MLP actor-critics and tables for control. (`polopt_jax.language` has the transformer.)

Nothing else in the library knows of this module: a model is any function `(params, obs) -> Outputs`, and these are
flax modules behind that signature. `params` is a plain nested dict of arrays.

Separate trunks (`mlp_actor_critic`) are what NPG and TRPO need: there no critic step moves the policy after the trust
region was enforced. With a shared trunk (`shared_actor_critic`) it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from polopt_jax.boundaries import described
from polopt_jax.distributions import Categorical, DiagGaussian, MultiCategorical
from polopt_jax.envs import ActionSpace, Discrete, MultiDiscrete
from polopt_jax.fields import with_fields
from polopt_jax.types import Array, Model, Outputs, Params

INITIAL_LOG_STD = -1.0
"""Of the first policy, where nothing is said."""
HIDDEN_SCALE, POLICY_SCALE, VALUE_SCALE = math.sqrt(2.0), 0.01, 1.0


@with_fields
class Network(NamedTuple):
    """A model and its initial parameters."""

    init: Callable[[Array], Params]
    """`init(key) -> params`."""
    apply: Model
    """`apply(params, obs) -> Outputs`, for observations of any leading shape `[...]`."""


def check_network(caller: str, network: Any) -> None:
    """Raises TypeError unless it has an `init` of a key and an `apply` of parameters and observations."""
    if isinstance(network, nn.Module) or not all(callable(getattr(network, name, None)) for name in ("init", "apply")):
        module = isinstance(network, nn.Module)
        made = "init=lambda key: module.init(key, obs), apply=module.apply" if module else "init=..., apply=..."
        way = f"networks.Network({made}) makes one"
        if hasattr(network, "core"):
            way = "recurrent.with_memory(env, network) makes one, and an environment for it"
        raise TypeError(
            f"{caller}: network must be a Network, functions init(key) and apply(params, obs); it is "
            f"{described(network)}; {way}"
        )


def dense(size: int, scale: float, name: str) -> nn.Dense:
    return nn.Dense(size, kernel_init=nn.initializers.orthogonal(scale), name=name)


def over_rows(layer: Callable[[Any], Any], x: Any, *, features: int = 1) -> Any:
    """`layer` on rows: the leading axes of `x` (all but the last `features`, in every leaf the same) made one, and put
    back on every output.

    The gradient of a kernel contracts over the leading axes. Over one axis that is a plain matrix product; over two
    (`[B, T]`) XLA takes four times as long on a CPU, and a whole PPO update of 64-wide networks twice as long.
    """
    first = jax.tree.leaves(x)[0]
    leading = first.shape[: first.ndim - features]
    rows = layer(jax.tree.map(lambda leaf: leaf.reshape(math.prod(leading), *leaf.shape[len(leading) :]), x))
    return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), rows)


def trunk(x: Array, name: str, hidden: Sequence[int], activation: Callable[[Array], Array]) -> Array:
    """Layers of those sizes, within a module."""
    for layer, size in enumerate(hidden):
        x = activation(dense(size, HIDDEN_SCALE, f"{name}_{layer}")(x))
    return x


class Heads(nn.Module):
    """The policy, of the first of several features `[..., M]`, and the value, of the last."""

    action_space: ActionSpace
    gaussian: Callable[..., Any]
    initial_log_std: float

    @nn.compact
    def __call__(self, features: Sequence[Array]) -> Outputs:
        value = dense(1, VALUE_SCALE, "value")(features[-1])[..., 0]
        return Outputs(policy=self._policy(features[0]), value=value)

    def _policy(self, features: Array) -> Any:
        if isinstance(self.action_space, Discrete):
            return Categorical(logits=dense(self.action_space.num, POLICY_SCALE, "policy")(features))
        if isinstance(self.action_space, MultiDiscrete):
            nums = self.action_space.nums
            return MultiCategorical.of_logits(dense(sum(nums), POLICY_SCALE, "policy")(features), nums)
        size = self.action_space.size
        mean = dense(size, POLICY_SCALE, "policy")(features)
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (size,))
        return self.gaussian(mean=mean, log_std=jnp.broadcast_to(log_std.astype(mean.dtype), mean.shape))


class _ActorCritic(Heads):
    """Heads on trunks of these names; one name is one shared trunk."""

    trunks: Sequence[str] = ()
    hidden: Sequence[int] = ()
    activation: Callable[[Array], Array] = nn.tanh

    @nn.compact
    def __call__(self, x: Array) -> Outputs:
        features = [trunk(x, name, self.hidden, self.activation) for name in self.trunks]
        return Heads.__call__(self, features)


def check_space(action_space: Any) -> None:
    """Raises ValueError for what is no action space."""
    if not isinstance(action_space, ActionSpace):
        raise ValueError(f"action_space must be a Discrete, a MultiDiscrete or a Box; it is {action_space!r}")


def flattened(obs: Array, shape: tuple[int, ...]) -> Array:
    """Observations `[..., *shape]` as vectors; ValueError if they have another shape."""
    leading = obs.shape[: obs.ndim - len(shape)]
    if obs.shape != leading + shape:
        raise ValueError(f"obs must have shape [..., {', '.join(map(str, shape))}]; it has {obs.shape}")
    return obs.reshape(*leading, math.prod(shape))


def _network(module: _ActorCritic, shape: tuple[int, ...]) -> Network:
    check_space(module.action_space)
    forward: Callable[..., Any] = module.apply

    def apply(params: Params, obs: Array) -> Outputs:
        return over_rows(lambda x: forward({"params": params}, x), flattened(obs, shape))

    return Network(init=lambda key: module.init(key, jnp.zeros(math.prod(shape)))["params"], apply=apply)


def sizes(caller: str, name: str, sizes: Any) -> tuple[int, ...]:
    """Several sizes; TypeError if they are none."""
    try:
        return tuple(sizes)
    except TypeError:
        raise TypeError(f"{caller}: {name} must be a tuple of whole numbers; it is {sizes!r}") from None


def mlp_actor_critic(
    obs_shape: Sequence[int],
    action_space: ActionSpace,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    gaussian: Callable[..., Any] = DiagGaussian,
    initial_log_std: float = INITIAL_LOG_STD,
) -> Network:
    """Two separate MLPs, one for the policy and one for the value.

    Observations `[..., *obs_shape]` are flattened; the policy is of batch shape `[...]`, the value `[...]`. `Discrete`
    gives a `Categorical`, `MultiDiscrete` a `MultiCategorical`; `Box` gives `gaussian(mean=, log_std=)` (`DiagGaussian`
    or `TanhGaussian`), each `[..., size]`, where log_std is a parameter `[size]` of its own, the same in every state,
    that starts at `initial_log_std`.

    An `initial_log_std` of 0 is a deviation of 1, half as wide as the box, so that a third of the first actions are
    clipped; Stable-Baselines3 and PureJaxRL begin there, this library at -1. On Brax's cheetah PPO and TRPO then come
    to 3,640 and 3,677 in 1M steps (with 0 to 2,256 and 2,585), on its ant to 4,668 and 3,928 (586 and 48); but TRPO on
    its hopper to 406 (588). The README has the table. Andrychowicz et al. (below) advise a narrow start, and to tune
    it.

    Kernels start orthogonal with zero biases: √2 in the trunks, 0.01 in the policy head (the first policy is nearly
    the same in every state), 1 in the value head (Andrychowicz et al., 2021, arXiv:2006.05990; Huang et al., 2022,
    "The 37 implementation details of PPO").

    Raises `ValueError` if `action_space` is none of them, or if obs does not end in `obs_shape`; `TypeError` if
    `obs_shape` or `hidden` is one number.

    >>> network = mlp_actor_critic((3,), Discrete(5), hidden=(16,))
    >>> outputs = network.apply(network.init(jax.random.key(0)), jnp.zeros((8, 2, 3)))
    >>> outputs.policy.logits.shape, outputs.value.shape
    ((8, 2, 5), (8, 2))
    """
    shape = sizes("mlp_actor_critic", "obs_shape", obs_shape)
    layers = sizes("mlp_actor_critic", "hidden", hidden)
    module = _ActorCritic(action_space, gaussian, initial_log_std, ("actor", "critic"), layers, activation)
    return _network(module, shape)


def shared_actor_critic(
    obs_shape: Sequence[int],
    action_space: ActionSpace,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    gaussian: Callable[..., Any] = DiagGaussian,
    initial_log_std: float = INITIAL_LOG_STD,
) -> Network:
    """One MLP with a policy head and a value head; all else as in `mlp_actor_critic`.

    For one-phase updates such as PPO's. Not for NPG or TRPO: a value step moves the trunk and so the policy.

    >>> from polopt_jax.envs import Box
    >>> network = shared_actor_critic((3,), Box(2), hidden=(16,))
    >>> sorted(network.init(jax.random.key(0)))
    ['log_std', 'policy', 'trunk_0', 'value']
    """
    shape = sizes("shared_actor_critic", "obs_shape", obs_shape)
    layers = sizes("shared_actor_critic", "hidden", hidden)
    module = _ActorCritic(action_space, gaussian, initial_log_std, ("trunk",), layers, activation)
    return _network(module, shape)


def tabular_actor_critic(num_states: int, action_space: ActionSpace) -> Network:
    """A table: logits and a value for each of S states, whose number is the observation, `[..., 1]`.

    Parameters are `{"policy": [S, A], "value": [S]}`, zero at first: the uniform policy. The two share nothing. What is
    no number of a state reads NaN. A standardised number is none, so a `control_task` needs
    `observations=normalization.raw_observations()`.

    Raises `ValueError` if `action_space` is no `Discrete`, there is no state, or obs does not end in one number.

    >>> network = tabular_actor_critic(3, Discrete(2))
    >>> params = {**network.init(jax.random.key(0)), "policy": jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])}
    >>> network.apply(params, jnp.array([1.0])).policy.logits.tolist()
    [1.0, 0.0]
    """
    if not isinstance(action_space, Discrete) or num_states < 1:
        raise ValueError(f"a table needs states and a Discrete; it has {num_states}, {action_space!r}")

    def init(key: Array) -> Params:
        del key
        return {"policy": jnp.zeros((num_states, action_space.num)), "value": jnp.zeros(num_states)}

    def apply(params: Params, obs: Array) -> Outputs:
        return look_up(Outputs(policy=Categorical(logits=params["policy"]), value=params["value"]), obs)

    return Network(init, apply)


def tabulated(network: Network, observations: Array) -> Network:
    """The same network where there are only G observations, which are named by their numbers, `[..., 1]`.

    It is computed for each of the G observations once, whatever the number of rows, and looked up: in a world of few
    states a wide network then costs hardly more than a table. Parameters and gradients are the network's own. What is
    no number of an observation reads NaN. A standardised number is none, so a `control_task` needs
    `observations=normalization.raw_observations()`.

    Args:
      observations: `[G, ...]`.

    Raises `ValueError` if there is no observation, or obs does not end in one number.

    >>> network = mlp_actor_critic((3,), Discrete(2), hidden=(8,))
    >>> params, few = network.init(jax.random.key(0)), tabulated(network, jnp.eye(3))
    >>> few.apply(params, jnp.array([[2.0], [0.0]])).policy.logits.shape
    (2, 2)
    """
    if observations.ndim < 1 or observations.shape[0] < 1:
        raise ValueError(f"observations must be [G, ...] with G >= 1; they are {observations.shape}")
    return Network(network.init, lambda params, obs: look_up(network.apply(params, observations), obs))


def look_up(outputs: Outputs, obs: Array) -> Outputs:
    """The rows of outputs `[G, ...]` whose numbers are `obs`, `[..., 1]`, as an environment and `raw_observations()`
    give them. Where `obs` is no whole number from 0 to G - 1, the outputs are NaN.

    >>> table = Outputs(policy=Categorical(logits=jnp.zeros((3, 2))), value=jnp.array([0.0, 1.0, 2.0]))
    >>> look_up(table, jnp.array([[2.0], [1.0], [0.5]])).value.tolist()
    [2.0, 1.0, nan]
    """
    if obs.shape[-1:] != (1,):
        raise ValueError(f"obs must be numbers, of shape [..., 1]; it has {obs.shape}")
    number = jax.tree.leaves(outputs)[0].shape[0]
    row = jnp.clip(obs[..., 0].astype(jnp.int32), 0, number - 1)
    is_row = obs[..., 0] == row

    def read(x: Array) -> Array:
        return jnp.where(is_row.reshape(*is_row.shape, *(1,) * (x.ndim - 1)), x[row], jnp.nan)

    return jax.tree.map(read, outputs)
