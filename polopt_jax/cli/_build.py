"""From a plan to an algorithm that can be run. The only module of the command that builds networks and worlds."""

from typing import Any, NamedTuple

import jax

from polopt_jax import checkpoint, report
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli import _recipes
from polopt_jax.cli._envs import TOKEN_WORLD
from polopt_jax.cli._plan import Plan
from polopt_jax.driver import compiler_options
from polopt_jax.envs import brax_env
from polopt_jax.language import TokenNetwork, imitate, transformer
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.runs import Progress
from polopt_jax.tasks import GroupTask, Task, control_task, token_task
from polopt_jax.types import Params
from polopt_jax.worlds import SkipTheTest, skip_the_test


class Reference(NamedTuple):
    """The token world's reference policy: a network that has learnt to speak the worlds' own language."""

    params: Params
    kl: jax.Array
    """KL(language ‖ network) at the end of the imitation, in nats per token."""


def token_world() -> tuple[TokenNetwork, SkipTheTest]:
    """The worlds and the network of the command: the same in every run, whatever its seeds."""
    worlds = skip_the_test(jax.random.key(TOKEN_WORLD.world_seed), num_worlds=TOKEN_WORLD.num_worlds)
    network = transformer(
        vocab_size=worlds.input_vocabulary,
        num_outputs=worlds.vocabulary,
        max_length=worlds.length,
        width=TOKEN_WORLD.network_width,
        depth=TOKEN_WORLD.network_depth,
    )
    return network, worlds


def imitate_reference(shown: Progress) -> Reference:
    """Trains the reference. The last tenth of the updates gives its KL."""
    shown.stage("imitating the reference...")
    network, worlds = token_world()
    updates = TOKEN_WORLD.imitation_updates

    def run(key: jax.Array) -> Reference:
        params, kl = imitate(network, worlds, key, updates=updates)
        return Reference(params, kl[-updates // 10 :].mean())

    key = jax.random.key(TOKEN_WORLD.imitation_seed)
    reference = jax.block_until_ready(jax.jit(run, compiler_options=compiler_options())(key))
    shown.stage("reference learnt")
    return reference


def about_reference(reference: Reference) -> str:
    """How good the token world's reference policy is."""
    kl = report.short(float(reference.kl))
    return f"The token world starts from a transformer that imitates its language: KL(language‖it) {kl} nats per token."


def restore_reference(directory: Any) -> Reference:
    """The reference that `checkpoint.save` put there."""
    network, _ = token_world()
    like = Reference(jax.jit(network.init)(jax.random.key(0)), jax.numpy.zeros(()))
    return checkpoint.restore(directory, like)[0]


def build(plan: Plan, reference: Reference | None = None) -> Algorithm:
    """The algorithm of a plan. A token world needs the reference."""
    return _recipes.make(plan.algorithm, _task(plan, reference), plan.hyperparameters)


def _task(plan: Plan, reference: Reference | None) -> Task | GroupTask:
    if reference is None:
        env = brax_env(plan.env, backend=plan.backend or "spring", episode_length=plan.episode_length or 1000)
        network = mlp_actor_critic(env.obs_shape, env.action_space)
        return control_task(env, network, num_envs=plan.num_envs, num_steps=plan.rollout_steps)
    network, worlds = token_world()
    group = plan.group_size or 1
    answers = token_task(network, worlds, reference.params, num_prompts=plan.num_envs // group, group_size=group)
    return answers if _recipes.takes_groups(plan.algorithm) else answers.task
