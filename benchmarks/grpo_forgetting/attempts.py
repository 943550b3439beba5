"""GRPO as it learns from attempts, in the notebook's sixty worlds at once and in each of them alone, and what could be
seen of it while it learns."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.grpo_forgetting.expected import BETA, GROUP, LENGTH, RATE, Standing, alone, standing
from polopt_jax import algorithms, frontiers, language, tasks, worlds
from polopt_jax.algorithms import Algorithm
from polopt_jax.frontiers import SampledProblem
from polopt_jax.types import Array, Batch, Metrics, Params, Rollout
from polopt_jax.worlds import SkipTheTest

ATTEMPTS = 128
"""Of each update in one world alone: the benchmark's."""
LABELS = 8
"""Attempts of each update of which it is looked at whether they skipped."""

Settings: TypeAlias = Mapping[str, Any]
NOTEBOOK: Settings = {"learning_rate": RATE}
BENCHMARK: Settings = {"learning_rate": 0.1, "num_minibatches": 1}
Recipe: TypeAlias = Callable[[SampledProblem], Algorithm]


class Seen(NamedTuple):
    """What can be seen at each update, `[updates]`."""

    reward: Array
    """Share of rewarded attempts."""
    ref_kl: Array
    """The mean of k3 per token, which GRPO reports."""
    push: Array
    """c(J)(1-J) of the batch, or what comes in its place: the mean positive advantage per success."""
    pull: Array
    """Total variation between policy and reference at each token, `[updates, T]`: what β multiplies."""
    skips: Array
    """Share of skips among the successes of `LABELS` attempts; needs their labels."""


def together(world: SkipTheTest, *, num_prompts: int = 16) -> SampledProblem:
    """The notebook's problem: all worlds are prompts, and one shift `[T, V]` of the logits serves them all."""
    table = language.token_table(num_prompts=world.num_worlds, length=LENGTH, vocabulary=world.vocabulary)

    def rows(params: Params) -> Params:
        return {"policy": world.logits + params["policy"], "value": params["value"]}

    network = table._replace(
        apply=lambda params, obs: table.apply(rows(params), obs),
        decode=lambda params, *cache_tokens_position: table.decode(rows(params), *cache_tokens_position),
    )
    reference = {"policy": jnp.zeros(world.logits.shape[1:]), "value": jnp.zeros(world.logits.shape[:2])}
    group = tasks.token_task(network, world, reference, num_prompts=num_prompts, group_size=GROUP)

    def outcome(rollout: Rollout) -> dict[str, Array]:
        return {"success": rollout.reward.sum(0) > 0, "side_effect": rollout.outcome["skip"][-1].astype(jnp.int32)}

    return SampledProblem(
        group=group._replace(task=group.task._replace(outcome=outcome)),
        standing=lambda params: standing(params["policy"], world),
        reference=worlds.reference_outcome_law(world).joint.mean(0),
        outcome=outcome,
    )


def one(world: SkipTheTest, number: Array) -> SampledProblem:
    """One of the worlds with a table of its own."""
    here = alone(world, number)
    problem = frontiers.token_problem(jax.tree.map(lambda x: x[0], here), group_size=ATTEMPTS)
    return problem._replace(standing=lambda params: standing(params["policy"][0] - here.logits[0], here))


def grpo(settings: Settings, *, beta: float = BETA) -> Recipe:
    """The library's, with the penalty of k3."""
    return lambda problem: algorithms.grpo(problem.group, beta=beta, **settings)


def turned_round(settings: Settings, *, beta: float = BETA) -> Recipe:
    """The same with KL(π ‖ ref), exact in the tokens, for a penalty."""

    def build(problem: SampledProblem) -> Algorithm:
        penalty = po.kl_to_reference(problem.group.task.model, problem.group.reference)
        return algorithms.grpo(problem.group, beta=0.0, terms={"reference": (beta, penalty)}, **settings)

    return build


def undivided(settings: Settings) -> Recipe:
    """GRPO whose advantages are not divided by the standard deviation."""

    def build(problem: SampledProblem) -> Algorithm:
        algorithm = grpo(settings)(problem)

        def collect(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
            state, batch, metrics = algorithm.collect(params, state, key)
            centred = po.group_centred(batch.outcome["success"].astype(float))[..., None]
            return state, replace(batch, advantage=jnp.broadcast_to(centred, batch.mask.shape)), metrics

        return algorithm._replace(collect=collect)

    return build


def priced(settings: Settings) -> Recipe:
    """GRPO that pays a price for skips, to hold their rate."""
    return lambda problem: algorithms.priced(
        grpo(settings)(problem),
        problem.reference.sum(0),
        of=lambda outcome: outcome["side_effect"],
        integral=0.1,
        proportional=1.0,
    )


def watched(algorithm: Algorithm, problem: SampledProblem) -> Algorithm:
    """The same algorithm; its metrics have what is `Seen` of the batch."""
    model, reference = problem.group.task.model, problem.group.reference

    def update(params: Params, opt_state: Any, batch: Batch, key: Any) -> tuple[Params, Any, Metrics]:
        prob, ref = (jax.nn.softmax(model(x, batch.obs).policy.logits) for x in (params, reference))
        won, skipped = (batch.outcome[name].astype(float) for name in ("success", "side_effect"))
        looked = won.reshape(-1)[:LABELS]
        seen = {
            "reward": won.mean(),
            "push": jnp.maximum(batch.advantage[..., 0], 0).mean() / jnp.maximum(won.mean(), 1e-6),
            "pull": 0.5 * jnp.abs(prob - ref).sum(-1).mean((0, 1)),
            "skips": (looked * skipped.reshape(-1)[:LABELS]).sum() / jnp.maximum(looked.sum(), 1),
        }
        params, opt_state, metrics = algorithm.step.update(params, opt_state, batch, key)
        return params, opt_state, {**metrics, **{f"seen/{name}": x for name, x in seen.items()}}

    return algorithm._replace(step=po.Step(algorithm.step.init, update))


def learnt(problem: SampledProblem, recipe: Recipe, key: Array, *, updates: int) -> tuple[Standing, Seen]:
    """Exactly where the policy stands, `[updates + 1]`, and what was to be seen."""
    algorithm = watched(recipe(problem), problem)
    points, metrics = frontiers.sampled_path(problem, algorithm, key, updates=updates)
    seen = {name: metrics[f"seen/{name}"] for name in Seen._fields if name != "ref_kl"}
    return points, Seen(ref_kl=metrics["ref_kl"], **seen)
