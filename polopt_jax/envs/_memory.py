"""Environments for policies that remember: what is remembered comes with what is observed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import described
from polopt_jax.envs._protocol import ActionSpace, Environment, EnvStep
from polopt_jax.fields import with_fields
from polopt_jax.types import Array, Outputs, record


@with_fields
@record
class Remembered:
    """What a policy with a memory reads."""

    seen: Any
    """The observation of the environment, `[..., *]`."""
    memory: Any
    """What was remembered before it, a pytree `[..., *]`; at the first step of an episode, the initial memory."""
    begins: Array
    """`[...]` bool: whether an episode begins with it."""


@dataclass(frozen=True, eq=False)
class MemoryEnv:
    """An environment whose observations are `Remembered`. Its states are those of the environment within.

    It knows the initial memory alone. What the policy remembers at a step is in its outputs, and whoever runs the loop
    - `unroll`, `evaluate_policy`, `play_episode` - hands it on to the next observation (`handed_on`).
    """

    env: Environment
    initial: Any
    """The memory of one environment as an episode begins."""

    @property
    def obs_shape(self) -> tuple[int, ...]:
        return self.env.obs_shape

    @property
    def action_space(self) -> ActionSpace:
        return self.env.action_space

    def reset(self, key: Array) -> tuple[Any, Remembered]:
        state, seen = self.env.reset(key)
        return state, Remembered(seen=seen, memory=self.initial, begins=jnp.bool_(True))

    def step(self, state: Any, action: Array, key: Array) -> EnvStep:
        step = self.env.step(state, action, key)
        return replace(step, obs=Remembered(seen=step.obs, memory=self.initial, begins=jnp.bool_(False)))


def handed_on(env: Environment, outputs: Outputs, step: EnvStep) -> EnvStep:
    """The step whose observation holds what the policy remembered; as it is, where the environment is none with memory.

    Raises TypeError if the policy remembers nothing, or has no environment that could keep it; ValueError if it is
    another kind of memory than the initial one.
    """
    memory = getattr(outputs, "memory", None)  # outputs of one's own kind may have none
    if not isinstance(env, MemoryEnv):
        if memory is not None:
            raise TypeError(
                "the model's outputs have a memory, and the environment keeps none: "
                "env, network = recurrent.with_memory(env, network)"
            )
        return step
    if memory is None:
        raise TypeError("the environment keeps a memory, and the model's outputs have none")
    initial, memory = (jax.tree.map(jnp.asarray, x) for x in (step.obs.memory, memory))
    if jax.tree.structure(initial) != jax.tree.structure(memory):
        raise ValueError(f"outputs.memory must be like the initial memory, {initial}; it is {memory}")
    for old, new in zip(jax.tree.leaves(initial), jax.tree.leaves(memory), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"outputs.memory must stay like the initial memory, {described(old)}; it is {described(new)}"
            )
    return replace(step, obs=replace(step.obs, memory=memory))
