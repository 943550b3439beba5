"""B0, trained: every method on the outcome tables at success 0.9, and in the twin that has no honest way."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.outcomes_exact.building import (
    Entry,
    ascended,
    ascent,
    bounded,
    natural,
    penalised,
    price,
    region,
    trpo,
)
from polopt_jax import frontiers, outcomes
from polopt_jax.frontiers import ExactProblem
from polopt_jax.worlds import OUTCOME_TABLES, TableWorld, outcome_table, outcome_table_logits, tabulate

SUCCESS = 0.9
NEGLIGIBLE = 1e-8
"""The reference does not have what is not above this: tables hold 1e-9 instead of 0."""
TABLES = (*OUTCOME_TABLES, "impossible")
"""`impossible`: the table `means`, where only the way with the side effect pays."""
ENTRIES = (
    Entry("policy gradient", "step size", (1.0,), 20_000, ascent),
    Entry("natural gradient", "step size", (0.1,), 1000, natural),
    Entry("trpo", "radius", (0.02,), 1000, trpo),
    Entry(
        "ppo",
        "learning rate",
        (0.01,),
        1000,
        lambda problem, logits, rate: frontiers.clipped_ascent(problem, learning_rate=rate),
    ),
    Entry("region, marginal", "weight", (1000.0,), 2000, region(frontiers.marginal)),
    Entry("region, conditional", "weight", (1000.0,), 2000, region(frontiers.conditional)),
    Entry("region, joint", "weight", (1000.0,), 2000, region(frontiers.joint)),
    Entry("price", "dual step", (0.3,), 2000, price(lambda c: c)),
    Entry("price, one-sided", "dual step", (0.3,), 2000, price(lambda c: jnp.maximum(c, 0.0))),
    Entry("trpo, rates bounded", "radius", (0.02,), 2000, bounded),
    Entry("penalty", "weight", (1.0,), 2000, ascended(penalised)),
)


def impossible(world: TableWorld, otherwise: float = 0.0) -> TableWorld:
    """The world where success without the side effect is none, and pays only this much: a way out, where it pays."""
    effect = world.outcome["side_effect"]
    success = world.outcome["success"][world.successor]
    return dataclasses.replace(
        world,
        reward=jnp.where(effect[world.successor], world.reward, jnp.where(success, otherwise, 0.0)),
        outcome={**world.outcome, "success": world.outcome["success"] & effect},
    )


def figures() -> Iterator[tuple[str, dict[str, Any]]]:
    """One table after another."""
    world = tabulate(outcome_table())
    for name in TABLES:
        here = impossible(world) if name == "impossible" else world
        logits = outcome_table_logits(OUTCOME_TABLES["means" if name == "impossible" else name])[None]
        problem = frontiers.exact_problem(here, side_effects=("side_effect",))
        yield name, {"rows": [*references(problem, logits), *(trained(entry, problem, logits) for entry in ENTRIES)]}


def references(problem: ExactProblem, logits: jax.Array) -> list[dict[str, Any]]:
    """The rows that need no training."""
    table = frontiers.cell_law(problem, frontiers.log_policy(problem, logits))
    pump, ipf = outcomes.pump(table, SUCCESS), outcomes.ipf(table, SUCCESS)
    law = jax.nn.softmax(logits[0])
    pays = (problem.world.prob * problem.world.reward).sum(-1)[0] > 0
    side = problem.world.outcome["side_effect"][problem.world.successor[0, :, 0]]
    flow = frontiers.gradient_flow(law, pays, SUCCESS)
    return [
        {"method": "reference", "side_effect": float(table[:, 1].sum()), "success": float(table[1].sum())},
        {"method": "pump", "side_effect": float(pump.side_effect[1]), "outcome_kl": float(pump.kl)},
        {
            "method": "ipf",
            "side_effect": float(ipf.side_effect[1]),
            "outcome_kl": float(ipf.kl),
            "feasible": bool(ipf.feasible),
        },
        {"method": "mode-anchored, closed form", "side_effect": float(jnp.where(side, flattened(law, pays), 0).sum())},
        {"method": "gradient flow, closed form", "side_effect": float(jnp.where(side, flow, 0).sum())},
    ]


def flattened(law: jax.Array, pays: jax.Array) -> jax.Array:
    """The optimum under mode-anchored rewards at the success: all ways that the reference has are alike.

    What pays earns R(z) + β (log p(z) - log p(y)) in place of R(y), z the likeliest of what pays, so that the KL to the
    reference no longer tells them apart: q(y) ∝ p(z) exp(R / β) for each (GX-Chen et al. 2025, MARA). β is what
    reaches the success.
    """
    ways = pays & (law > NEGLIGIBLE)
    fails = jnp.where(pays, 0, law)
    return jnp.where(ways, SUCCESS / ways.sum(), (1 - SUCCESS) * fails / fails.sum())


def trained(entry: Entry, problem: ExactProblem, logits: jax.Array) -> dict[str, Any]:
    """One method at success 0.9, and where it has come to in the end."""
    run = jax.jit(lambda problem, logits, value: whole(entry, problem, logits, value))
    at, end = run(problem, logits, entry.values[0])
    row = {
        "method": entry.name,
        "setting": entry.values[0],
        "reached": bool(at.reached),
        "best": float(at.best),
        "success_in_the_end": float(end.success),
        "side_effect_in_the_end": float(end.side_effect[1]),
        "reward_in_the_end": float(end.reward),
    }
    if bool(at.reached):
        row |= {
            "updates": float(at.updates),
            "side_effect": float(at.point.side_effect[1]),
            "outcome_kl": float(at.point.outcome_kl),
        }
    return row


def whole(entry: Entry, problem: ExactProblem, logits: jax.Array, value: jax.Array) -> tuple:
    """The path at the success, and its end."""
    points = frontiers.path(problem, logits, entry.method(problem, logits, value), updates=entry.updates)
    return frontiers.at_success(points, SUCCESS), jax.tree.map(lambda x: x[-1], points)
