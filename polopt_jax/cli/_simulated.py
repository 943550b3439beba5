"""Runs on simulators: they are made for as long as the run lasts, and a policy is worth what whole episodes say."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from polopt_jax import runs
from polopt_jax.cli import _recipes
from polopt_jax.cli._build import EVALUATION, control_of, means
from polopt_jax.cli._evaluate import worth
from polopt_jax.cli._kinds import VECTORS
from polopt_jax.cli._plan import Plan
from polopt_jax.driver import Hosted
from polopt_jax.policies import Policy, greedy
from polopt_jax.simulators import fleet, from_simulators
from polopt_jax.training import TrainState
from polopt_jax.types import Array

EVALUATED = ("eval/ended", "eval/length", "eval/return")
"""What an evaluation tells."""


def about_simulators(start: runs.Start) -> list[str]:
    """What the user of a simulator should know."""
    slow = "simulators step in Python on the host: expect thousands of steps a second, or tens of thousands"
    anew = "the state of simulators cannot be saved: those of this run begin new episodes, so it is no longer the run "
    return [slow] if start.update is None else [slow, f"{anew}that it would have been without the interruption"]


@contextlib.contextmanager
def simulating(plan: Plan) -> Iterator[Callable[[], Hosted]]:
    """What makes the algorithm of a plan, as long as its simulators are there."""
    made, network = control_of(plan)
    env: Any = made
    schedule = plan.schedule
    seeds = range(schedule.seed, schedule.seed + schedule.num_seeds)
    with fleet(env, num_envs=plan.num_envs, seeds=seeds, vector=VECTORS[str(plan.vectorization)]) as ships:

        def evaluate(state: TrainState) -> dict[str, np.ndarray]:
            def of_seed(place: int) -> dict[str, Array]:
                mine = jax.tree.map(lambda x: x[place], (state.params, state.collect_state[0].normalizer))
                policy = Policy(params=mine[0], network=network, normalizer=mine[1], env=env, config=plan.config())
                return means(
                    worth(policy, greedy(policy), jax.random.key(EVALUATION), episodes=plan.eval_episodes or 1)
                )

            told = [of_seed(place) for place in range(schedule.num_seeds)]
            return {name: np.array([one[name] for one in told]) for name in EVALUATED}

        def build() -> Hosted:
            hosted = from_simulators(
                lambda task: _recipes.make(plan.algorithm, task, plan.arguments),
                ships,
                network,
                num_steps=plan.rollout_steps,
            )
            return hosted._replace(evaluate=evaluate, evaluated=EVALUATED) if plan.eval_every else hosted

        yield build
