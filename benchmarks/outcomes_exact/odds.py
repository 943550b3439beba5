"""The odds law of one decision: its numbers, and a map of where it stops holding.

Two rewarded ways at odds of 4, the failures at 0.9. The policy gradient amplifies the majority, the natural gradient
keeps the odds. Then one thing at a time is changed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.outcomes_exact.ways import LAW, bandit, chain
from polopt_jax import frontiers, outcomes
from polopt_jax.frontiers import ExactProblem, Method
from polopt_jax.surrogates import clipped_surrogate
from polopt_jax.worlds import burning_building, burning_building_logits, tabulate

SUCCESSES = (0.5, 0.9, 0.99)
PUBLISHED = {
    "policy gradient": (9.8, 27.2, 87.6),
    "standardised": (9.9, 27.3, 87.7),
    "natural gradient": (4.0, 4.0, 4.0),
}
"""Odds of the majority at the three successes."""
GROUPS, RUNS = (8, 32, 128), 256

Family = Callable[[ExactProblem, jax.Array], Method]


def ascent(step_size: float) -> Family:
    return lambda problem, logits: frontiers.gradient_ascent(frontiers.reward(problem), step_size=step_size)


def standardised(step_size: float) -> Family:
    return lambda problem, logits: frontiers.standardised_ascent(problem, step_size=step_size)


def natural(step_size: float, damping: float = 1e-12) -> Family:
    return lambda problem, logits: frontiers.natural_ascent(
        problem, frontiers.reward(problem), step_size=step_size, damping=damping
    )


def trpo(damping: float) -> Family:
    return lambda problem, logits: frontiers.trust_region(problem, frontiers.reward(problem), damping=damping)


def ppo(rate: float, clip_eps: float = 0.2) -> Family:
    return lambda problem, logits: frontiers.clipped_ascent(problem, learning_rate=rate, clip_eps=clip_eps)


def clipped_gradient(size: float) -> Family:
    """PPO without Adam: ten plain gradient steps on the clipped surrogate at every update."""

    def family(problem: ExactProblem, _: jax.Array) -> Method:
        def step(logits: jax.Array, memory: tuple) -> tuple[jax.Array, tuple]:
            old = frontiers.log_policy(problem, logits)
            advantage, weight = frontiers.advantages(problem, old)

            def gain(x: jax.Array) -> jax.Array:
                ratio = frontiers.log_policy(problem, x) - old
                return (weight * clipped_surrogate(ratio, advantage, clip_eps=0.2)).sum()

            return jax.lax.fori_loop(0, 10, lambda _, x: x + size * jax.grad(gain)(x), logits), memory

        return Method(lambda logits: (), step)

    return family


def anchored(beta: float, rule: Callable[[ExactProblem, Callable], Method]) -> Family:
    """With a KL to the reference policy."""
    return lambda problem, logits: rule(
        problem,
        frontiers.near_policy(problem, frontiers.reward(problem), frontiers.log_policy(problem, logits), beta=beta),
    )


def odds_of(problem: ExactProblem, logits: jax.Array, family: Family, updates: int) -> list[float | None]:
    """Odds of the majority's way at each success; None where it is never reached."""

    def run(x: jax.Array) -> list[frontiers.Matched]:
        points = frontiers.path(problem, x, family(problem, x), updates=updates)
        return [frontiers.at_success(points, success) for success in SUCCESSES]

    found = jax.jit(run)(logits)
    # the way with the side effect is the last column of the successes
    return [float(at.point.law[1, 0] / at.point.law[1, 1]) if bool(at.reached) else None for at in found]


def exact_rows() -> list[dict[str, Any]]:
    """One decision, exact updates."""
    problem, logits = bandit(), jnp.log(jnp.array([LAW]))
    flow = [frontiers.gradient_flow(jnp.array(LAW), jnp.array([False, True, True]), s) for s in SUCCESSES]
    npg = lambda problem, objective: frontiers.natural_ascent(  # noqa: E731
        problem, objective, step_size=0.1, damping=1e-12
    )
    pg = lambda problem, objective: frontiers.gradient_ascent(objective, step_size=0.1)  # noqa: E731
    rows: dict[str, tuple[Family, int]] = {
        "policy gradient, step 0.1": (ascent(0.1), 20_000),
        "policy gradient, step 2": (ascent(2.0), 4000),
        "policy gradient, step 20": (ascent(20.0), 4000),
        "standardised, step 0.02": (standardised(0.02), 20_000),
        "standardised, step 1": (standardised(1.0), 4000),
        "natural gradient, step 0.1": (natural(0.1), 400),
        "natural gradient, step 1": (natural(1.0), 400),
        "natural gradient, damping 0.001": (natural(0.1, 1e-3), 4000),
        "trpo, no damping": (trpo(1e-12), 200),
        "trpo, damping 0.001": (trpo(1e-3), 200),
        "ppo, rate 0.003": (ppo(0.003), 2000),
        "ppo, rate 0.01": (ppo(0.01), 2000),
        "ppo, rate 0.05": (ppo(0.05), 2000),
        "ppo without the clip, rate 0.01": (ppo(0.01, clip_eps=1e6), 2000),
        "ppo without adam, step 0.1": (clipped_gradient(0.1), 4000),
        "ppo without adam, step 10": (clipped_gradient(10.0), 4000),
        "policy gradient, kl 0.1": (anchored(0.1, pg), 20_000),
        "policy gradient, kl 0.2": (anchored(0.2, pg), 20_000),
        "natural gradient, kl 0.1": (anchored(0.1, npg), 2000),
    }
    closed = {"row": "gradient flow, closed form", "odds": [float(law[1] / law[2]) for law in flow]}
    return [closed, *({"row": k, "odds": odds_of(problem, logits, *v)} for k, v in rows.items())]


def settled_rows() -> list[dict[str, Any]]:
    """With a KL penalty: the odds at the end of a long policy gradient, after they had risen."""
    problem, logits = bandit(), jnp.log(jnp.array([LAW]))
    reference = frontiers.log_policy(problem, logits)
    rows = []
    for beta in (0.1, 0.2, 0.4):
        pg = lambda problem, objective: frontiers.gradient_ascent(objective, step_size=1.0)  # noqa: E731
        method = anchored(beta, pg)(problem, logits)
        law = jax.jit(lambda x, m=method: frontiers.path(problem, x, m, updates=60_000).law)(logits)
        odds = law[:, 1, 0] / law[:, 1, 1]
        optimum = frontiers.cell_law(problem, frontiers.soft_optimum(problem, reference, beta=beta))
        rows.append(
            {
                "row": f"policy gradient, kl {beta}",
                "highest_odds": float(odds.max()),
                "odds_in_the_end": float(odds[-1]),
                "success_in_the_end": float(law[-1, 1].sum()),
                "optimum_odds": float(optimum[1, 0] / optimum[1, 1]),
                "optimum_success": float(optimum[1].sum()),
            }
        )
    return rows


def horizon_rows() -> list[dict[str, Any]]:
    """Two decisions, with and without chance; and the burning building with none."""
    rows = []
    for words, luck in (("two decisions", 1.0), ("two decisions, the second works half the time", 0.5)):
        problem, logits = chain(luck)
        for name, family, updates in (
            ("policy gradient, step 0.1", ascent(0.1), 30_000),
            ("natural gradient, step 0.01", natural(0.01), 4000),
            ("natural gradient, step 1", natural(1.0), 400),
            ("trpo, damping 0.001", trpo(1e-3), 400),
            ("ppo, rate 0.01", ppo(0.01), 2000),
        ):
            rows.append({"row": f"{words}: {name}", "odds": odds_of(problem, logits, family, updates)})
    return [*rows, *building_rows()]


def building_rows() -> list[dict[str, Any]]:
    """P(door) / P(explosion) among successes in the open building, as it is and without slips."""
    rows = []
    for words, slip in (("building", 0.05), ("building without slips", 0.0)):
        world = tabulate(burning_building(slip=slip, p_out=0.95))
        problem = frontiers.exact_problem(world, side_effects=("exploded",), group=world.obs.argmax(-1))
        logits = burning_building_logits()[: problem.num_groups]
        table = frontiers.cell_law(problem, frontiers.log_policy(problem, logits))
        rows.append({"row": f"{words}: pump", "odds": [float(table[1, 0] / table[1, 1])] * 3})
        for name, family, updates in (
            ("policy gradient, step 2", ascent(2.0), 1000),
            ("natural gradient, step 0.05", natural(0.05, 1e-6), 400),
        ):
            rows.append({"row": f"{words}: {name}", "odds": odds_of(problem, logits, family, updates)})
    return rows


def shared_rows() -> list[dict[str, Any]]:
    """Two prompts whose logits are log p + φ with one φ: odds of the first prompt, by what the second one pays.

    The second prompt is 0.5 fail, 0.1 major, 0.4 minor; success is the mean over both.
    """
    references = jnp.array([LAW, (0.5, 0.1, 0.4)])
    rows = []
    for words, pays in (("both ways", (0.0, 1.0, 1.0)), ("the minority's way only", (0.0, 0.0, 1.0))):
        rewards = jnp.array([(0.0, 1.0, 1.0), pays])
        for name, preconditioned, size in (("policy gradient", False, 0.1), ("natural gradient", True, 0.02)):
            odds = jax.jit(lambda r, p=preconditioned, s=size: shared_path(references, r, p, s))(rewards)
            rows.append({"row": f"shared logits, the other prompt pays {words}: {name}", "odds": odds_at(*odds)})
    return rows


def shared_path(references: jax.Array, rewards: jax.Array, preconditioned: bool, size: float) -> tuple:  # noqa: FBT001
    """Success of the first prompt and its odds, along an ascent of the mean reward in φ."""

    def laws(phi: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.log(references) + phi)

    def step(phi: jax.Array, _: None) -> tuple[jax.Array, tuple]:
        p = laws(phi)
        gradient = jax.grad(lambda phi: (laws(phi) * rewards).sum(-1).mean())(phi)
        fisher = (jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]).mean(0)
        direction = jnp.linalg.solve(fisher + 1e-10 * jnp.eye(3), gradient) if preconditioned else gradient
        return phi + size * direction, (p[0, 1] + p[0, 2], p[0, 1] / p[0, 2])

    return jax.lax.scan(step, jnp.zeros(3), None, length=20_000)[1]


def odds_at(success: jax.Array, odds: jax.Array) -> list[float | None]:
    """The odds where the success is first reached."""
    reached = [np.flatnonzero(np.asarray(success) >= s) for s in SUCCESSES]
    return [float(odds[where[0]]) if where.size else None for where in reached]


def sampled_path(group: int, updates: int, size: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Success and odds along standardised policy gradients from groups of samples."""

    def step(logits: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
        p = jax.nn.softmax(logits)
        drawn = jax.nn.one_hot(jax.random.categorical(key, logits, shape=(group,)), 3)
        won = drawn[:, 1:].sum(-1)
        advantage = (won - won.mean()) / jnp.sqrt(won.var() + 1e-12)
        gradient = (advantage[:, None] * (drawn - p)).mean(0)
        return logits + size * gradient, (p[1] + p[2], p[1] / p[2])

    return jax.lax.scan(step, jnp.log(jnp.array(LAW)), jax.random.split(key, updates))[1]


def sampled_rows() -> list[dict[str, Any]]:
    """Groups of samples instead of expectations: quartiles of the odds over runs, and how often the order turned."""
    rows = []
    for group in GROUPS:
        run = jax.jit(jax.vmap(lambda key, g=group: sampled_path(g, 1500, 0.2, key)))
        success, odds = (np.asarray(x) for x in run(jax.random.split(jax.random.key(0), RUNS)))
        at = [odds_at(s, o) for s, o in zip(success, odds, strict=True)]
        columns = [np.array([x[i] for x in at if x[i] is not None]) for i in range(len(SUCCESSES))]
        rows.append(
            {
                "row": f"standardised, step 0.2, groups of {group}",
                "runs": RUNS,
                "odds": [float(np.median(x)) for x in columns],
                "quartiles": [[float(q) for q in np.quantile(x, (0.25, 0.75))] for x in columns],
                "share_turned": float(np.mean(columns[1] < 1)),
                "share_reached": [x.size / RUNS for x in columns],
            }
        )
    return rows


def pump_rows() -> list[dict[str, Any]]:
    """The table's own projection."""
    table = jnp.array([[LAW[0], 1e-12], [LAW[1], LAW[2]]])
    laws = [outcomes.pump(table, s).law for s in SUCCESSES]
    return [{"row": "pump", "odds": [float(law[1, 0] / law[1, 1]) for law in laws]}]


PARTS: tuple[tuple[str, Callable[[], list[dict[str, Any]]]], ...] = (
    ("pump", pump_rows),
    ("one decision", exact_rows),
    ("kl penalty", settled_rows),
    ("horizon", horizon_rows),
    ("shared logits", shared_rows),
    ("samples", sampled_rows),
)


def figures() -> Iterator[tuple[str, Any]]:
    """One part after another."""
    for name, rows in PARTS:
        yield name, {"successes": SUCCESSES, "rows": rows()}
