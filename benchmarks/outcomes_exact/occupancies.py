"""How far the occupancy of states and actions moved, as a penalty: exactly, and by what a discriminator makes of it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from polopt_jax import frontiers
from polopt_jax.frontiers import ExactProblem, Method, Objective
from polopt_jax.worlds import visits

RATE = 10.0
"""The discriminator's step size: its gradients are of the size of occupancies, and its curvature is a quarter."""


def occupancy(problem: ExactProblem, logits: jax.Array) -> jax.Array:
    """The share of the decisions that are this action in this state, `[S, A]`."""
    policy = jnp.exp(frontiers.log_policy(problem, logits))
    law = visits(problem.world, policy).sum(0)[:, None] * policy
    return law / law.sum()


def near_occupancy(
    distance: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[ExactProblem, jax.Array, jax.Array], Objective]:
    """A penalty on the occupancy of states and actions."""

    def objective(problem: ExactProblem, logits: jax.Array, weight: jax.Array) -> Objective:
        before = occupancy(problem, logits)
        return lambda x: frontiers.reward(problem)(x) - weight * distance(occupancy(problem, x), before)

    return objective


def chi(new: jax.Array, old: jax.Array) -> jax.Array:
    """√χ²(new ‖ old); the root is rounded at 0, where it has no derivative."""
    return jnp.sqrt(jnp.where(old > 0, (new - old) ** 2 / jnp.where(old > 0, old, 1), 0).sum() + 1e-8)


def log_ratio(new: jax.Array, old: jax.Array) -> jax.Array:
    """log new/old where both are ever visited, else 0."""
    there = (new > 0) & (old > 0)
    return jnp.where(there, jnp.log(jnp.where(there, new, 1) / jnp.where(there, old, 1)), 0)


def relative_entropy(new: jax.Array, old: jax.Array) -> jax.Array:
    """KL(new ‖ old)."""
    return (new * log_ratio(new, old)).sum()


Discriminator = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(known, new, old) -> log new/old` `[S, A]`, as it is known after another update."""


def exact(known: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """The ratio itself, whatever was known."""
    del known
    return log_ratio(new, old)


def learning(steps: int) -> Discriminator:
    """One that goes on learning, so many steps after every update.

    It tells the two occupancies apart by Σ new log σ(x) + old log σ(-x), whose best x is log new/old where both go.
    """

    def learnt(known: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
        def ascend(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return x + RATE * (new * jax.nn.sigmoid(-x) - old * jax.nn.sigmoid(x)), None

        return jax.lax.scan(ascend, known, None, length=steps)[0]

    return learnt


def ratio_reward(log_of_ratio: jax.Array, new: jax.Array) -> jax.Array:
    """What √χ²(new ‖ old) takes off the reward of an action in a state, for a weight of 1, `[S, A]`.

        ratio / √χ²,    χ² = Σ new · ratio - 1

    Its sum with a changing occupancy has the gradient of √χ², if the ratio is exact (Laidlaw et al. 2024, "Correlated
    proxies"); the root is rounded at 0 as in `chi`.
    """
    ratio = jnp.exp(log_of_ratio)
    return ratio / jnp.sqrt(jnp.maximum((new * ratio).sum() - 1, 0) + 1e-8)


def discriminated(discriminator: Discriminator) -> Callable[[ExactProblem, jax.Array, jax.Array], Method]:
    """√χ² of the occupancy as a reward, by its weight, of the ratio that a discriminator has after every update.

    It begins where the policy does, at a ratio of 1, and is passed what it knew.
    """

    def family(problem: ExactProblem, logits: jax.Array, weight: jax.Array) -> Method:
        before = occupancy(problem, logits)

        def step(logits: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
            new = occupancy(problem, logits)
            known = discriminator(known, new, before)
            taken_off = weight * ratio_reward(known, new)

            def objective(x: jax.Array) -> jax.Array:
                return frontiers.reward(problem)(x) - (occupancy(problem, x) * taken_off).sum()

            region = frontiers.trust_region(problem, objective)
            return region.step(logits, region.init(logits))[0], known

        return Method(lambda logits: jnp.zeros_like(before), step)

    return family
