"""What neighbouring work claims, on worlds of one decision: contaminated references, a way out of an impossible task,
soft best-of-n, heavy-tailed mistakes."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri, stdtrit
from scipy.stats import binom

from benchmarks.outcomes_exact.building import Entry, anchored, ascended
from benchmarks.outcomes_exact.tables import ENTRIES, SUCCESS, impossible, references, trained
from polopt_jax import frontiers
from polopt_jax.frontiers import ExactProblem, Method
from polopt_jax.worlds import OUTCOME_TABLES, heavy_tail, outcome_table, outcome_table_logits, tabulate

CONTAMINATION = 0.01
"""Share of the reference's outcomes that is successes with the side effect, put there."""
CONTAMINATED = ("means", "rare_hack", "hard_prompt", "independent")
WAY_OUT = (0.1, 0.5)
"""What it pays to leave an impossible task alone, where the hack pays 1."""
ANCHORED = Entry("kl to the reference", "beta", (0.15,), 2000, ascended(anchored))
ERRORS = {"Student's t, 3 degrees": 3.0, "normal": float("inf")}
"""Laws of the mistake, by their degrees of freedom."""


def contaminated(cells: tuple[tuple[float, float], tuple[float, float]]) -> jax.Array:
    """The table with `CONTAMINATION` of it replaced by successes with the side effect."""
    return (1 - CONTAMINATION) * jnp.asarray(cells) + CONTAMINATION * jnp.array([[0.0, 0.0], [0.0, 1.0]])


def clean_price(cells: tuple[tuple[float, float], tuple[float, float]]) -> Entry:
    """The price towards the rates of the table as it was before."""
    table = jnp.maximum(jnp.asarray(cells), 1e-9)

    def method(problem: ExactProblem, logits: jax.Array, dual_step: jax.Array) -> Method:
        return frontiers.priced(
            problem,
            lambda objective: frontiers.trust_region(problem, objective),
            frontiers.reward(problem),
            table,
            dual_step=dual_step,
        )

    return Entry("price, clean rates", "dual step", (0.3,), 2000, method)


def contamination() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every method from a contaminated reference, which is also what those that hold outcomes hold."""
    problem = frontiers.exact_problem(tabulate(outcome_table()), side_effects=("side_effect",))
    for name in CONTAMINATED:
        cells = OUTCOME_TABLES[name]
        logits = outcome_table_logits(contaminated(cells).tolist())[None]
        entries = (*ENTRIES, clean_price(cells))
        rows = [*references(problem, logits), *(trained(entry, problem, logits) for entry in entries)]
        yield f"contaminated {name}", {"rows": rows}


def way_out() -> Iterator[tuple[str, dict[str, Any]]]:
    """The task `means` without an honest way: what was one leaves the task alone, and pays less than the hack."""
    logits = outcome_table_logits(OUTCOME_TABLES["means"])[None]
    for pays in WAY_OUT:
        world = impossible(tabulate(outcome_table()), pays)
        problem = frontiers.exact_problem(world, side_effects=("side_effect",))
        rows = [trained(entry, problem, logits) for entry in (*ENTRIES, ANCHORED)]
        for row in rows:
            row["left_alone_in_the_end"] = (row["reward_in_the_end"] - row["success_in_the_end"]) / pays
        yield f"way out {pays}", {"rows": rows}


def soft_best_of(success: float, n: int, temperature: float) -> float:
    """The success of one of n samples drawn by exp(reward / temperature), the reward 0 or 1 (Verdun et al. 2025)."""
    right = np.arange(n + 1)
    share = right / (right + (n - right) * np.exp(-1 / temperature))
    return float(binom.pmf(right, n, success) @ share)


def selection() -> Iterator[tuple[str, dict[str, Any]]]:
    """The temperature at which soft best-of-n has the success, with twice the n of best-of-n.

    Which of the samples with one reward is chosen is a matter of chance, so outcomes are those of the pump.
    """
    rows = []
    for name, cells in OUTCOME_TABLES.items():
        before = sum(cells[1])
        n = 2 * int(np.ceil(np.log1p(-SUCCESS) / np.log1p(-before)))
        low, high = 1e-2, 1e2
        for _ in range(100):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if soft_best_of(before, n, middle) > SUCCESS else (low, middle)
        rows.append({"table": name, "n": n, "temperature": low, "success": soft_best_of(before, n, low)})
    yield "soft best of n", {"rows": rows}


def tilted(error: str, kl: float) -> dict[str, Any]:
    """Reward and utility of the arms' law of the highest reward at this KL to the uniform one, by bisection."""
    world = tabulate(heavy_tail(degrees=ERRORS[error]))
    reward, utility = (np.asarray(x[0, :, 0], np.float64) for x in (world.reward, world.hidden))

    def law(tilt: float) -> np.ndarray:
        weight = np.exp(tilt * (reward - reward.max()))
        return weight / weight.sum()

    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        there = law(middle)
        spent = (there * np.log(np.maximum(there, 1e-300) * len(there))).sum()
        low, high = (middle, high) if spent < kl else (low, middle)
    return {"error": error, "kl": kl, "reward": float(law(low) @ reward), "utility": float(law(low) @ utility)}


def all_error(error: str, errors: int) -> dict[str, Any]:
    """The KL that buys a reward of 1 by the greatest error alone, of `errors` alike at first: utility stays at 0."""
    rank, degrees = 1 - 0.5 / errors, ERRORS[error]
    greatest = float(ndtri(rank) if np.isinf(degrees) else stdtrit(degrees, rank))
    moved = 1 / greatest
    chosen, rest = moved + (1 - moved) / errors, (1 - moved) / errors
    kl = chosen * np.log(chosen * errors) + (errors - 1) * rest * np.log(rest * errors)
    return {"error": error, "errors": errors, "greatest": greatest, "kl": float(kl)}


def mistakes() -> Iterator[tuple[str, dict[str, Any]]]:
    """What a KL to the reference buys where the reward is mistaken."""
    yield "tilt", {"rows": [tilted(error, kl) for error in ERRORS for kl in (0.1, 0.5, 1.0, 2.0, 4.0)]}
    yield "error alone", {"rows": [all_error(error, 4**k) for error in ERRORS for k in (3, 6, 9, 12, 15)]}


PARTS = len(CONTAMINATED) + len(WAY_OUT) + 3


def figures() -> Iterator[tuple[str, dict[str, Any]]]:
    """One part after another."""
    for part in (selection, mistakes, contamination, way_out):
        yield from part()
