"""What is learnt from attempts and judged exactly: the same points, with the noise of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.algorithms import Algorithm
from polopt_jax.frontiers._paths import Point, point_of, standing
from polopt_jax.frontiers._problem import alike, cell_law, exact_problem, log_policy
from polopt_jax.language import token_table
from polopt_jax.networks import Network, look_up, tabular_actor_critic, tabulated
from polopt_jax.ranges import Count, Positive, check_range
from polopt_jax.tasks import GroupTask, episode_attempt, group_task, token_task
from polopt_jax.training import train
from polopt_jax.types import Array, Metrics, Params, Rollout
from polopt_jax.worlds import SkipTheTest, TableWorld, token_outcome_law


class SampledProblem(NamedTuple):
    """A world with attempts at it, and where a policy stands."""

    group: GroupTask
    """Its batches have the outcomes `success`, bool, and `side_effect`, 0 .. Z-1."""
    standing: Callable[[Params], Any]
    """Where a policy stands against the reference, as far as it can be known: a `Point`, or what else has `success`."""
    reference: Array
    """P(s, z) of the reference, `[2, Z]`."""
    outcome: Callable[[Rollout], dict[str, Array]]
    """`rollout -> {success, side_effect}`, which the batches of `group` have."""


def network_problem(
    world: TableWorld,
    network: Network,
    reference: Params,
    *,
    side_effects: tuple[str, ...],
    group_size: Count,
    reward_unit: Positive = 1.0,
) -> SampledProblem:
    """Episodes of an exact world under a network, all of them attempts at the one prompt that the world is.

    The network is computed once for each different observation of the world (`networks.tabulated`), so a wide one costs
    hardly more than a table; `group.task.model` reads numbers of observations. Where a policy stands is exact.

    Args:
      network: for `world.obs` and its actions. reference: its parameters, which the training begins with.
      side_effects: as in `exact_problem`.
      group_size: attempts at each update, each from a first state of its own.
      reward_unit: what rewards are divided by, so that critics learn numbers of order one.

    Only the parameters may be traced. Raises ValueError as `exact_problem`, or if the network does not fit.

    >>> from polopt_jax.networks import mlp_actor_critic
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world = tabulate(outcome_table())
    >>> network = mlp_actor_critic(world.obs_shape, world.action_space, hidden=(8,))
    >>> params = network.init(jax.random.key(0))
    >>> problem = network_problem(world, network, params, side_effects=("side_effect",), group_size=8)
    >>> round(float(problem.standing(params).success), 2)
    0.5
    """
    check_range("network_problem", Positive, reward_unit=reward_unit)
    group = alike(np.asarray(world.obs))
    problem = exact_problem(world, side_effects=side_effects, group=group)
    observations = jnp.asarray(world.obs)[np.unique(group, return_index=True)[1]]
    seen = replace(world, obs=problem.group[:, None].astype(jnp.float32), reward=world.reward / reward_unit)
    read = tabulated(network, observations)
    run = episode_attempt(seen, look_up, num_steps=world.horizon)

    def attempt(params: Params, prompts: Array, key: Array) -> Rollout:
        first_key, key = jax.random.split(key)
        keys = jax.random.split(first_key, prompts.shape)
        reset = seen.reset
        for _ in prompts.shape:
            reset = jax.vmap(reset)
        return run(network.apply(params, observations), reset(keys), key)

    attempts = group_task(
        read.apply,
        reference,
        lambda key, number: jnp.zeros(number),
        attempt,
        num_prompts=1,
        group_size=group_size,
        num_steps=world.horizon,
    )

    def outcome(rollout: Rollout) -> dict[str, Array]:
        cell = problem.cell[rollout.outcome["state"][-1]]
        success, side_effect = jnp.divmod(cell, problem.num_side_effects)
        return {"success": success > 0, "side_effect": side_effect}

    def policy(params: Params) -> Array:
        return log_policy(problem, network.apply(params, observations).policy.logits)

    before = policy(reference)
    return SampledProblem(
        group=attempts._replace(task=attempts.task._replace(outcome=outcome)),
        standing=lambda params: standing(problem, before, policy(params)),
        reference=cell_law(problem, before),
        outcome=outcome,
    )


def table_problem(
    world: TableWorld,
    logits: Array,
    *,
    side_effects: tuple[str, ...],
    group_size: Count,
    group: Array | None = None,
    reward_unit: Positive = 1.0,
) -> SampledProblem:
    """`network_problem` of a table of logits, which begins with those of the reference.

    Args:
      logits: of the reference, `[G, A]`.
      side_effects, group: as in `exact_problem`: what is a side effect, and which row of the logits a state reads.
      group_size, reward_unit: as in `network_problem`.

    Raises ValueError as `exact_problem`, or if the logits do not fit.

    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world = tabulate(outcome_table())
    >>> problem = table_problem(world, jnp.zeros((1, 4)), side_effects=("side_effect",), group_size=8)
    >>> float(problem.standing(problem.group.reference).success), problem.reference.tolist()
    (0.5, [[0.25, 0.25], [0.25, 0.25]])
    """
    check_range("table_problem", Positive, reward_unit=reward_unit)
    rows = alike(np.asarray(world.obs)) if group is None else np.asarray(group)
    exact = exact_problem(world, side_effects=side_effects, group=rows)
    log_policy(exact, logits)  # checks its shape
    return network_problem(
        replace(world, obs=rows[:, None].astype(np.float32)),
        tabular_actor_critic(exact.num_groups, world.action_space),
        {"policy": logits, "value": jnp.zeros(exact.num_groups)},
        side_effects=side_effects,
        group_size=group_size,
        reward_unit=reward_unit,
    )


def token_problem(world: SkipTheTest, *, group_size: Count) -> SampledProblem:
    """Answers in one world of `skip_the_test` under a table of logits. Success is what pays, the side effect to skip.

    Args:
      world: one world, a selection of shape `[]` (`select_worlds(worlds, 3)`), whose prompt is one word: what is told
        in several has a language that a table cannot speak.
      group_size: attempts at each update.

    Raises ValueError if it is not one such world.

    >>> from polopt_jax.worlds import select_worlds, skip_the_test
    >>> world = select_worlds(skip_the_test(jax.random.key(0)), 3)
    >>> problem = token_problem(world, group_size=8)
    >>> bool(jnp.allclose(problem.reference[:, 1].sum(), world.p_skip))
    True
    """
    if world.p_skip.ndim or world.words.shape[-1] > 1:
        shape, words = world.p_skip.shape, world.words.shape[-1]
        raise ValueError(f"token_problem: world must be one world with one word; it has shape {shape}, {words} words")
    alone = replace(
        jax.tree.map(lambda x: x[None], world),
        id=jnp.zeros(1, jnp.int32),
        words=jnp.full((1, 1), world.vocabulary, jnp.int32),
        input_vocabulary=world.vocabulary + 1,
        asked=(0,),
        held=(),
    )
    network = token_table(num_prompts=1, length=world.length, vocabulary=world.vocabulary)
    reference = {"policy": alone.logits, "value": jnp.zeros((1, world.length))}
    group = token_task(network, alone, reference, num_prompts=1, group_size=group_size)
    before = jax.nn.log_softmax(alone.logits)

    def outcome(rollout: Rollout) -> dict[str, Array]:
        return {
            "success": rollout.reward.sum(0) > 0,
            "side_effect": rollout.outcome["skip"][-1].astype(jnp.int32),
        }

    def table(log_prob: Array) -> Array:
        return token_outcome_law(log_prob, alone).joint[0]

    def where(params: Params) -> Point:
        after = jax.nn.log_softmax(params["policy"])
        law = table(after)
        return point_of(
            law,
            table(before),
            reward=law[1].sum(),
            hidden=jnp.full((), jnp.nan, law.dtype),
            trajectory_kl=(jnp.exp(after) * (after - before)).sum(),
            trajectory_kl_ref_new=(jnp.exp(before) * (before - after)).sum(),
            decisions=jnp.asarray(world.length, law.dtype),
        )

    return SampledProblem(
        group=group._replace(task=group.task._replace(outcome=outcome)),
        standing=where,
        reference=table(before),
        outcome=outcome,
    )


def sampled_path(
    problem: SampledProblem, algorithm: Algorithm, key: Array, *, updates: Count, every: Count = 1
) -> tuple[Any, Metrics]:
    """The points that an algorithm goes through when it learns from attempts, one after each `every` updates.

    Returns `(points, metrics)`: the points from the reference on, `[updates / every + 1]`, to be read by `at_success`
    (whose `updates` then count in steps of `every`), and the metrics of all updates, `[updates]`. One program on the
    device: `jax.vmap` over keys gives seeds, over hyperparameters of the algorithm a frontier.

    Raises ValueError if `every` does not divide `updates`.

    >>> from polopt_jax import algorithms
    >>> from polopt_jax.worlds import outcome_table, tabulate
    >>> world = tabulate(outcome_table())
    >>> problem = table_problem(world, jnp.zeros((1, 4)), side_effects=("side_effect",), group_size=8)
    >>> learner = algorithms.grpo(problem.group, learning_rate=0.1, num_minibatches=1)
    >>> points, metrics = sampled_path(problem, learner, jax.random.key(0), updates=20, every=5)
    >>> points.success.shape, bool(points.success[-1] > 0.6), metrics["loss"].shape
    ((5,), True, (20,))
    """
    check_range("sampled_path", Count, updates=updates, every=every)
    if updates % every:
        raise ValueError(f"sampled_path: every must divide updates; they are {every} and {updates}")

    def advance(state: Any, _: None) -> tuple[Any, tuple[Any, Metrics]]:
        state, metrics = train(algorithm.collect, algorithm.step, state, updates=every)
        return state, (problem.standing(state.params), metrics)

    first = algorithm.init(key)
    _, (points, metrics) = jax.lax.scan(advance, first, None, length=updates // every)
    begin = problem.standing(first.params)
    points = jax.tree.map(lambda x, rest: jnp.concatenate([x[None], rest]), begin, points)
    return points, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), metrics)
