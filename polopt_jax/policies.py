"""What acts: a policy out of a run, ready for observations as the environment gives them; and acting greedily."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import described
from polopt_jax.envs import Remembered
from polopt_jax.fields import with_fields
from polopt_jax.normalization import RunningStats, normalize
from polopt_jax.types import Array, Obs, Outputs, Params, record


@with_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """A model with its parameters, the statistics that its observations are normalised by, and where it was learnt.

    It is a function `obs -> Outputs`, so it goes wherever an `act` does: `po.unroll(policy.env, policy, ...)`,
    `po.greedy(policy)`, `evaluate_policy`. It is no pytree: `jax.jit(policy.act)` compiles its parameters in;
    `dataclasses.replace(policy, params=params)` within a jitted function leaves them an argument.

    Where it has a memory its `env` is an `envs.MemoryEnv`, and it reads `envs.Remembered`. By hand:

        obs = Remembered(seen=seen, memory=policy.env.initial, begins=jnp.bool_(True))
        outputs = policy(obs)
        obs = Remembered(seen=seen, memory=outputs.memory, begins=jnp.bool_(False))    # of the next step
    """

    params: Params
    network: Any
    """A `networks.Network` or a `language.TokenNetwork`, whose `apply(params, obs)` reads normalised observations."""
    normalizer: RunningStats | None = None
    """The statistics of training, frozen; None where observations are read as they are (tokens)."""
    env: Any = None
    """The environment, or the token world, that it was learnt in."""
    config: Mapping[str, Any]
    """The run's config.json."""

    def __call__(self, obs: Obs) -> Outputs:
        """What the model says of observations as the environment gives them, any leading shape `[...]`."""
        obs = jax.tree.map(jnp.asarray, obs, is_leaf=lambda x: isinstance(x, list))  # a list of numbers is an array
        if self.normalizer is None:
            return self.network.apply(self.params, obs)
        if isinstance(obs, Remembered):
            return self.network.apply(self.params, replace(obs, seen=normalize(self.normalizer, obs.seen)))
        return self.network.apply(self.params, normalize(self.normalizer, obs))

    def act(self, obs: Obs, key: Array | None = None) -> Array:
        """The actions that the environment is to be sent, `[...]` or `[..., size]`: sampled with a key, else the mode.

        A policy of tokens `[..., T]` says what follows each of them: `policy.act(tokens)[..., -1]` is the next.
        Raises ValueError where the observations are not the network's.
        """
        law = self(obs).policy
        return law.squash(law.mode() if key is None else law.sample(seed=key))


@record
class _Certain:
    """A policy that always takes its most probable action, and is otherwise the policy that it was made of."""

    law: Any

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.law.batch_shape

    def sample(self, *, seed: Array) -> Array:
        del seed
        return self.law.mode()

    def mode(self) -> Array:
        return self.law.mode()

    def log_prob(self, action: Array) -> Array:
        return self.law.log_prob(action)

    def entropy(self) -> Array:
        return self.law.entropy()

    def squash(self, action: Array) -> Array:
        return self.law.squash(action)


def greedy(act: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """The same model or `act`, whose policy samples its most probable action.

    For `unroll`, `sample_tokens` and whatever else acts by sampling; the log-probabilities of a rollout stay those of
    the policy itself. What it says is for acting: it has no KL divergence to train with.

    Args:
      act: `obs -> Outputs`, or a model `(params, obs) -> Outputs`. TypeError if it is no function.

    >>> import jax
    >>> import polopt_jax as po
    >>> act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.array([[0.0, 1.0]])))
    >>> po.greedy(act)(None).policy.sample(seed=jax.random.key(0)).tolist()
    [1]
    """
    if not callable(act):
        raise TypeError(f"greedy: act must be a function of observations, or a model; it is {described(act)}")

    def most_probable(*arguments: Any) -> Outputs:
        outputs = act(*arguments)
        return replace(outputs, policy=_Certain(law=outputs.policy))

    return functools.update_wrapper(most_probable, act, assigned=(), updated=())  # so that it takes what `act` takes
