"""From a plan to an algorithm that can be run. The only module of the command that builds networks and worlds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax import checkpoint, outcomes, report, settings
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli import _recipes
from polopt_jax.cli._envs import TOKEN_WORLD
from polopt_jax.cli._evaluate import answers, patience
from polopt_jax.cli._plan import Plan
from polopt_jax.driver import compiler_options
from polopt_jax.envs import Environment
from polopt_jax.evaluation import Evaluation, evaluate_policy
from polopt_jax.language import TokenNetwork, greedy_network, imitate
from polopt_jax.policies import Policy, greedy
from polopt_jax.runs import Progress
from polopt_jax.tasks import GroupTask, control_task, token_task
from polopt_jax.training import TrainState
from polopt_jax.types import Metrics, Params
from polopt_jax.worlds import SkipTheTest

EVALUATION = 0x6576616C
"""The seed of every evaluation."""
REFERENCE_ATTEMPTS, ATTEMPTS = 512, 128
"""Attempts at each token world that outcomes are compared by: of the reference, once, and of a policy, once a chunk."""


class Reference(NamedTuple):
    """The token world's reference policy: a network that has learnt to speak the worlds' own language."""

    params: Params
    kl: jax.Array
    """KL(language ‖ network) at the end of the imitation, in nats per token."""
    skip: jax.Array
    """Whether it skipped in each of `REFERENCE_ATTEMPTS` attempts at every world, `[W, attempts]` bool."""


def token_world() -> tuple[TokenNetwork, SkipTheTest]:
    """The worlds and the network of the command: the same in every run, whatever its seeds."""
    worlds, network = settings.tokens(TOKEN_WORLD._asdict())
    return network, worlds


def imitate_reference(shown: Progress) -> Reference:
    """Trains the reference. The last tenth of the updates gives its KL."""
    shown.stage("imitating the reference...")
    network, worlds = token_world()
    updates = TOKEN_WORLD.imitation_updates

    def run(key: jax.Array) -> Reference:
        params, kl = imitate(network, worlds, key, updates=updates)
        skip = _skips(_answers(params, 1, 1), params, jax.random.fold_in(key, 1), REFERENCE_ATTEMPTS)
        return Reference(params, kl[-updates // 10 :].mean(), skip)

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
    return checkpoint.restore(directory, blank_reference())[0]


def blank_reference() -> Reference:
    """A reference that has learnt nothing, of the shapes of one that has."""
    network, _ = token_world()
    skip = jnp.zeros((TOKEN_WORLD.num_worlds, REFERENCE_ATTEMPTS), bool)
    return Reference(jax.jit(network.init)(jax.random.key(0)), jnp.zeros(()), skip)


def build(plan: Plan, reference: Reference | None = None) -> Algorithm:
    """The algorithm of a plan. A token world needs the reference, and measures its outcomes against it."""
    if reference is None:
        return _control(plan)
    size = plan.group_size or 1
    group = _answers(reference.params, plan.num_envs // size, size)
    task = group if _recipes.takes_groups(plan.algorithm) else group.task
    algorithm = _recipes.make(plan.algorithm, task, plan.arguments)

    def measure(params: Params, key: jax.Array) -> Metrics:
        own_key, key = jax.random.split(key)
        own = {} if algorithm.measure is None else algorithm.measure(params, own_key)
        moved = outcomes.sample_estimate(_skips(group, params, key, ATTEMPTS), reference.skip, 2)
        return {**own, "outcome/skip_kl": moved.value}

    network, worlds = token_world()

    def evaluate(state: TrainState) -> Metrics:
        policy = Policy(params=state.params, network=greedy_network(network), env=worlds, config=plan.config())
        return means(answers(policy, jax.random.key(EVALUATION), episodes=plan.eval_episodes or 1))

    return algorithm._replace(measure=measure, evaluate=evaluate if plan.eval_every else None)


def control_of(plan: Plan) -> settings.Control:
    """The environment, or the simulator, of a plan, and the network."""
    return settings.control(
        plan.env,
        backend=plan.backend,
        episode_length=plan.episode_length,
        hidden=plan.hidden or settings.HIDDEN,
        memory=plan.memory,
        activation=plan.activation or next(iter(settings.ACTIVATIONS)),
        initial_log_std=plan.initial_log_std,
    )


def _control(plan: Plan) -> Algorithm:
    made, network = control_of(plan)
    env: Any = made
    task = control_task(env, network, num_envs=plan.num_envs, num_steps=plan.rollout_steps)
    return evaluated(plan, _recipes.make(plan.algorithm, task, plan.arguments), env)


def evaluated(plan: Plan, algorithm: Algorithm, env: Environment) -> Algorithm:
    """The algorithm, evaluated on whole episodes of its environment if the plan says so.

    Every evaluation begins at the same first states, so that what differs between two is the policy.
    """

    act: Any = algorithm.act

    def evaluate(state: TrainState) -> Metrics:
        key, limit = jax.random.key(EVALUATION), patience(plan.config())
        return means(evaluate_policy(env, greedy(act(state)), key, episodes=plan.eval_episodes or 1, max_steps=limit))

    return algorithm._replace(evaluate=evaluate) if plan.eval_every else algorithm


def means(found: Evaluation) -> Metrics:
    """What an evaluation tells: means over the episodes that ended."""
    ended = found.ended.sum()
    mean = lambda x: jnp.where(found.ended, x, 0).sum() / ended  # noqa: E731
    return {
        "eval/return": mean(found.episode_return),
        "eval/length": mean(found.length),
        "eval/ended": found.ended.mean(),
    }


def _answers(reference: Params, num_prompts: int, group_size: int) -> GroupTask:
    network, worlds = token_world()
    return token_task(network, worlds, reference, num_prompts=num_prompts, group_size=group_size)


def _skips(group: GroupTask, params: Params, key: jax.Array, attempts: int) -> jax.Array:
    """Whether a policy skips in so many attempts at every world, `[W, attempts]` bool."""
    worlds = jnp.arange(TOKEN_WORLD.num_worlds)
    prompts = jnp.broadcast_to(worlds[:, None], (worlds.size, attempts))
    return group.attempt(params, prompts, key).outcome["skip"][-1]
