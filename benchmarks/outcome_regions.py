"""Why success fell under outcome trust regions that learn from attempts: λ of the advantages, not noise.

python -m benchmarks.outcome_regions      (five minutes on a core; prints the figures of `docs/findings-sampled.md`)
"""

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from polopt_jax import algorithms, frontiers, outcomes, worlds
from polopt_jax.frontiers import SampledProblem
from polopt_jax.types import Array, Divergence
from polopt_jax.worlds import SkipTheTest

WORLDS, UPDATES = 16, 30


def region(problem: SampledProblem, held: Divergence, *, weight: float, lambda_: float) -> algorithms.Algorithm:
    """As the benchmark has it, but for λ."""
    divergence = po.weighted_divergence(path=(1.0, po.trajectory_kl), outcome=(weight, held))
    task = problem.group.task
    return algorithms.trpo(task, radius=0.1, gamma=1.0, lambda_=lambda_, value_minibatches=1, divergence=divergence)


def success(world: SkipTheTest, held: Divergence, *, attempts: int, weight: float, lambda_: float) -> np.ndarray:
    """Exact, after each update, `[WORLDS, UPDATES + 1]`, each world with a table and a run of its own."""

    def run(number: Array, key: Array) -> Array:
        problem = frontiers.token_problem(worlds.select_worlds(world, number), group_size=attempts)
        learner = region(problem, held, weight=weight, lambda_=lambda_)
        return frontiers.sampled_path(problem, learner, key, updates=UPDATES)[0].success

    keys = jax.random.split(jax.random.key(0), WORLDS)
    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(WORLDS), keys))


def main() -> None:
    world = worlds.skip_the_test(jax.random.key(0))
    joint = outcomes.outcome_kl(4, of=lambda outcome: 2 * outcome["success"] + outcome["side_effect"])
    marginal = outcomes.outcome_kl(2, of=lambda outcome: outcome["side_effect"])
    impossible = worlds.impossible_twin(world)
    cases = [("joint", world, joint, weight, attempts) for weight in (10.0, 1000.0) for attempts in (128, 1024)]
    for name, where, held, weight, attempts in [*cases, ("marginal, impossible", impossible, marginal, 10.0, 128)]:
        for lambda_ in (0.95, 1.0):
            path = success(where, held, attempts=attempts, weight=weight, lambda_=lambda_)
            fell = (path[:, 1] < path[:, 0]).mean()
            print(
                f"{name}, weight {weight:g}, {attempts} attempts, λ = {lambda_}: success {path[:, 0].mean():.4f} ->"
                f" {path[:, -1].mean():.4f}; the first update lowers it in {fell:.0%} of the worlds"
            )


if __name__ == "__main__":
    main()
