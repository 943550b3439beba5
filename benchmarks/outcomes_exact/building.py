"""The burning building: every method over a sweep of its settings, read at matched success."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.outcomes_exact.occupancies import chi, discriminated, exact, learning, near_occupancy, relative_entropy
from polopt_jax import frontiers
from polopt_jax.frontiers import ExactProblem, Held, Matched, Method, Objective
from polopt_jax.worlds import burning_building, burning_building_logits, tabulate

SUCCESSES = (0.5, 0.8, 0.9)


class Case(NamedTuple):
    """A building, a reference and a reward."""

    name: str
    rows: int
    reference: dict[str, float]
    reward: str
    bonus: float


REFERENCES = {"door": {}, "hazard": {"valve": -1.0, "bias": 0.3}}
CASES = [
    Case(f"{shape}, {reference}, {reward}", rows, REFERENCES[reference], reward, bonus)
    for shape, rows in (("open", 3), ("corridor", 1))
    for reference in REFERENCES
    for reward, bonus in (("binary", 0.0), ("distance", 0.5))
]
"""Two shapes, two references, two rewards."""


def building(case: Case) -> tuple[ExactProblem, jax.Array]:
    """The exact problem of a case and the logits of its reference. Side effects: 2 exploded + vase."""
    world = tabulate(burning_building(rows=case.rows, explosion_bonus=case.bonus))
    logits = burning_building_logits(rows=case.rows, **case.reference)
    problem = frontiers.exact_problem(world, side_effects=("exploded", "vase"), group=world.obs.argmax(-1))
    return problem, logits[: problem.num_groups]


# What a method is made of: the problem, its reference's logits, and one setting.
Family = Callable[[ExactProblem, jax.Array, jax.Array], Method]


class Entry(NamedTuple):
    """A method with its sweep."""

    name: str
    setting: str
    """What is swept."""
    values: tuple[float, ...]
    updates: int
    method: Family


def one(feature: int) -> Held:
    """log P of one side effect only, 0 for the explosion and 1 for the vase: the other is not listed."""

    def held(table: jax.Array) -> jax.Array:
        law = table.reshape(2, 2, 2).sum((0, 2 - feature))
        shape = (1, 2, 1) if feature == 0 else (1, 1, 2)
        return jnp.broadcast_to(jnp.log(law).reshape(shape), (2, 2, 2)).reshape(2, 4)

    return held


def region(held: Held) -> Family:
    """The outcome trust region, by its weight."""

    def family(problem: ExactProblem, logits: jax.Array, weight: jax.Array) -> Method:
        return frontiers.trust_region(problem, frontiers.reward(problem), held=held, weight=weight)

    return family


def ascended(objective: Callable[[ExactProblem, jax.Array, jax.Array], Objective]) -> Family:
    """An objective with a setting, ascended by TRPO."""
    return lambda problem, logits, setting: frontiers.trust_region(problem, objective(problem, logits, setting))


def price(allowed: Callable[[jax.Array], jax.Array]) -> Family:
    """The price by its dual step, over TRPO."""

    def family(problem: ExactProblem, logits: jax.Array, dual_step: jax.Array) -> Method:
        return frontiers.priced(
            problem,
            lambda objective: frontiers.trust_region(problem, objective),
            frontiers.reward(problem),
            reference_table(problem, logits),
            dual_step=dual_step,
            allowed=allowed,
        )

    return family


def reference_table(problem: ExactProblem, logits: jax.Array) -> jax.Array:
    """P(s, z) of the reference."""
    return frontiers.cell_law(problem, frontiers.log_policy(problem, logits))


def penalised(problem: ExactProblem, logits: jax.Array, weight: jax.Array) -> Objective:
    """The penalty on D_z."""
    table = reference_table(problem, logits)
    return frontiers.near_outcomes(problem, frontiers.reward(problem), table, weight=weight)


def anchored(problem: ExactProblem, logits: jax.Array, beta: jax.Array) -> Objective:
    """The KL penalty to the reference policy."""
    reference = frontiers.log_policy(problem, logits)
    return frontiers.near_policy(problem, frontiers.reward(problem), reference, beta=beta)


def ascent(problem: ExactProblem, logits: jax.Array, step_size: jax.Array) -> Method:
    """Policy gradient."""
    return frontiers.gradient_ascent(frontiers.reward(problem), step_size=step_size)


def natural(problem: ExactProblem, logits: jax.Array, step_size: jax.Array) -> Method:
    """Natural policy gradient."""
    return frontiers.natural_ascent(problem, frontiers.reward(problem), step_size=step_size)


def trpo(problem: ExactProblem, logits: jax.Array, radius: jax.Array) -> Method:
    """TRPO by its radius."""
    return frontiers.trust_region(problem, frontiers.reward(problem), radius=radius)


def bounded(problem: ExactProblem, logits: jax.Array, radius: jax.Array) -> Method:
    """CPO: TRPO by its radius, no side effect more frequent than the reference has it."""
    limits = frontiers.rates(reference_table(problem, logits))
    return frontiers.bounded(problem, frontiers.reward(problem), frontiers.rates, limits, radius=radius)


WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
CHI_WEIGHTS = (0.01, 0.03, 0.1, 0.3)
ENTRIES = (
    Entry("policy gradient", "step size", (0.2, 2.0, 20.0), 1000, ascent),
    Entry(
        "standardised",
        "step size",
        (0.05, 0.2, 1.0),
        1000,
        lambda problem, logits, size: frontiers.standardised_ascent(problem, step_size=size),
    ),
    Entry("natural gradient", "step size", (0.05, 0.2, 1.0), 400, natural),
    Entry("trpo", "radius", (0.002, 0.02, 0.2), 200, trpo),
    Entry(
        "ppo",
        "learning rate",
        (0.003, 0.01, 0.03),
        500,
        lambda problem, logits, rate: frontiers.clipped_ascent(problem, learning_rate=rate),
    ),
    Entry("region, marginal", "weight", WEIGHTS, 200, region(frontiers.marginal)),
    Entry("region, conditional", "weight", WEIGHTS, 200, region(frontiers.conditional)),
    Entry("region, joint", "weight", WEIGHTS, 500, region(frontiers.joint)),
    Entry("region, explosion only", "weight", WEIGHTS, 200, region(one(0))),
    Entry("region, vase only", "weight", WEIGHTS, 200, region(one(1))),
    Entry("price", "dual step", (0.1, 0.3, 1.0, 3.0), 200, price(lambda c: c)),
    Entry("price, one-sided", "dual step", (0.1, 0.3, 1.0, 3.0), 200, price(lambda c: jnp.maximum(c, 0.0))),
    Entry("trpo, rates bounded", "radius", (0.002, 0.02, 0.2), 500, bounded),
    Entry("penalty", "weight", (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), 200, ascended(penalised)),
    Entry("policy kl penalty", "beta", (0.005, 0.02, 0.08, 0.15), 200, ascended(anchored)),
    Entry("occupancy kl", "weight", (0.03, 0.1, 0.3, 1.0), 200, ascended(near_occupancy(relative_entropy))),
    Entry("occupancy chi", "weight", CHI_WEIGHTS, 200, ascended(near_occupancy(chi))),
    Entry("occupancy chi, exact ratio as a reward", "weight", CHI_WEIGHTS, 200, discriminated(exact)),
    *(
        Entry(
            f"occupancy chi, discriminator of {n} step{'s' * (n > 1)}",
            "weight",
            CHI_WEIGHTS,
            200,
            discriminated(learning(n)),
        )
        for n in (1000, 30, 1)
    ),
)


@functools.partial(jax.jit, static_argnums=0)
def sweep(entry: Entry, problem: ExactProblem, logits: jax.Array, values: jax.Array) -> Matched:
    """Every setting of a method read at every success, fields `[settings, successes]`."""

    def run(value: jax.Array) -> Matched:
        points = frontiers.path(problem, logits, entry.method(problem, logits, value), updates=entry.updates)
        return jax.tree.map(lambda *x: jnp.stack(x), *[frontiers.at_success(points, s) for s in SUCCESSES])

    return jax.vmap(run)(values)


@jax.jit
def soft_optima(problem: ExactProblem, logits: jax.Array, betas: jax.Array) -> Matched:
    """The KL-regularised optima read at every success; `updates` is a place among the betas."""
    reference = frontiers.log_policy(problem, logits)
    points = jax.vmap(
        lambda beta: frontiers.standing(problem, reference, frontiers.soft_optimum(problem, reference, beta=beta))
    )(betas)
    return jax.tree.map(lambda *x: jnp.stack(x), *[frontiers.at_success(points, s) for s in SUCCESSES])


def rows_of(matched: Matched, index: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """One row for each success, plain numbers; None where it is never reached."""
    rows = []
    for i, success in enumerate(SUCCESSES):
        at = jax.tree.map(lambda x: x[(*index, i)], matched)  # noqa: B023
        reached = bool(at.reached)
        row: dict[str, Any] = {"success": success, "reached": reached, "best": float(at.best)}
        if reached:
            p = at.point
            row |= {
                "updates": float(at.updates),
                "jump": float(at.jump),
                "exploded": float(p.law[:, 2:].sum()),
                "vase": float(p.law[:, 1::2].sum()),
                "exploded_given_failure": float(p.law[0, 2:].sum() / p.law[0].sum()),
                "vase_given_success": float(p.law[1, 1::2].sum() / p.law[1].sum()),
                "vase_given_failure": float(p.law[0, 1::2].sum() / p.law[0].sum()),
                "leverage": float(p.outcome_kl / p.trajectory_kl),
            }
            names = ("reward", "side_effect_kl", "conditional_kl", "success_kl", "outcome_kl", "trajectory_kl")
            for name in (*names, "trajectory_kl_ref_new", "action_kl"):
                row[name] = float(getattr(p, name))
        rows.append(row)
    return rows


def figures(cases: list[Case] = CASES) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of one method in one case after another, with words for what was just done."""
    betas = jnp.geomspace(3.0, 0.01, 400)
    for case in cases:
        problem, logits = building(case)
        best = soft_optima(problem, logits, betas)
        rows = [{"setting": None, "rows": rows_of(best)}]
        for i, row in enumerate(rows[0]["rows"]):
            row.pop("updates", None)
            if row["reached"]:
                row["beta"] = float(jnp.interp(best.updates[i], jnp.arange(400.0), betas))
        yield case.name, {"method": "soft optimum", "setting": "beta", "sweep": rows}
        for entry in ENTRIES:
            matched = sweep(entry, problem, logits, jnp.asarray(entry.values))
            found = [{"setting": value, "rows": rows_of(matched, (i,))} for i, value in enumerate(entry.values)]
            yield case.name, {"method": entry.name, "setting": entry.setting, "sweep": found}
