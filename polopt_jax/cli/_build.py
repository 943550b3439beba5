"""From a plan to an algorithm that can be run. The only module of the command that builds networks and worlds."""

from typing import Any, NamedTuple

import jax
import numpy as np

from polopt_jax import advantages, checkpoint
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli._hyperparameters import recipe
from polopt_jax.cli._plan import Plan
from polopt_jax.driver import compiler_options
from polopt_jax.envs import brax_env
from polopt_jax.language import TokenNetwork, imitate, transformer
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.tasks import control_task, token_task
from polopt_jax.types import Params
from polopt_jax.worlds import SkipTheTest, skip_the_test

NUM_WORLDS = 8
WIDTH, DEPTH = 32, 1
IMITATION_UPDATES = 300

_BASELINES = {
    "none": advantages.static_baseline,
    "batch-mean": advantages.batch_mean_baseline,
    "running-mean": advantages.running_mean_baseline,
    "learned": advantages.learned_baseline,
}


class Reference(NamedTuple):
    """The token world's reference policy: a network that has learnt to speak the worlds' own language."""

    params: Params
    kl: jax.Array
    """KL(language ‖ network) at the end of the imitation, in nats per token."""


def token_world() -> tuple[TokenNetwork, SkipTheTest]:
    """The worlds and the network of the command: the same in every run, whatever its seeds."""
    worlds = skip_the_test(jax.random.key(0), num_worlds=NUM_WORLDS)
    network = transformer(
        vocab_size=worlds.input_vocabulary,
        num_outputs=worlds.vocabulary,
        max_length=worlds.length,
        width=WIDTH,
        depth=DEPTH,
    )
    return network, worlds


def imitate_reference() -> Reference:
    """Trains the reference. The last tenth of the updates gives its KL."""
    network, worlds = token_world()

    def run(key: jax.Array) -> Reference:
        params, kl = imitate(network, worlds, key, updates=IMITATION_UPDATES)
        return Reference(params, kl[-IMITATION_UPDATES // 10 :].mean())

    return jax.block_until_ready(jax.jit(run, compiler_options=compiler_options())(jax.random.key(1)))


def restore_reference(directory: Any) -> Reference:
    """The reference that `checkpoint.save` put there."""
    network, _ = token_world()
    like = Reference(jax.jit(network.init)(jax.random.key(0)), jax.numpy.zeros(()))
    return checkpoint.restore(directory, like)[0]


def build(plan: Plan, reference: Reference | None = None) -> Algorithm:
    """The algorithm of a plan. A token world needs the reference."""
    keywords = dict(plan.hyperparameters)
    if isinstance(keywords.get("baseline"), str):
        keywords["baseline"] = _BASELINES[keywords["baseline"]]()
    if reference is None:
        env = brax_env(plan.env, backend=plan.backend or "spring", episode_length=plan.episode_length or 1000)
        network = mlp_actor_critic(env.obs_shape, env.action_space)
        task = control_task(env, network, num_envs=plan.num_envs, num_steps=plan.rollout_steps)
        return recipe(plan.algorithm)(task, **keywords)
    network, worlds = token_world()
    group = plan.group_size or 1
    tokens = token_task(network, worlds, reference.params, num_prompts=plan.num_envs // group, group_size=group)
    return recipe(plan.algorithm)(tokens if plan.algorithm in ("dpo", "grpo") else tokens.task, **keywords)


def all_finite(params: Params) -> np.ndarray:
    """For each seed, whether all of its parameters are finite, `[seeds]` bool."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(params))]
    return np.all([np.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in leaves], axis=0)
