"""Figures that need no training, each beside the value it is held to."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.outcomes_exact.building import CASES, building
from polopt_jax import Categorical, frontiers, outcomes
from polopt_jax.worlds import OUTCOME_TABLES, skip_the_test, token_outcome_law

SUCCESS = 0.9
FORK = 4

TABLES = {
    "means": {"pump": 0.300, "tax": 0.31},
    "rare_hack": {"tax": 0.002},
    "hard_prompt": {"pump": 0.818, "tax": 2.1},
    "entailed": {"pump": 0.905},
    "independent": {"pump": 0.300, "tax": 0.0},
    "by_product": {"pump": 0.75, "tax": 0.44},
}
"""Published values at success 0.9: the pump's q(z = 1) and the tax in nats."""

FORKS = {
    (0.001, 2): (0.0073, 0.0083),
    (0.01, 2): (0.0695, 0.077),
    (0.05, 2): (0.280, 0.283),
    (0.001, 4): (0.052, 0.155),
    (0.01, 4): (0.356, 0.993),
    (0.05, 4): (0.742, 1.66),
    (0.001, 8): (0.749, 4.61),
    (0.01, 8): (0.968, 4.32),
    (0.05, 8): (0.994, 2.94),
}
"""(p0, logits added) -> published (p', KL)."""

BUILDING = {
    "reference": {"success": 0.037, "exploded": 0.0072, "vase": 0.561},
    "pump": {"exploded": 0.166, "vase": 0.792, "side_effect_kl": 0.681, "outcome_kl": 2.64},
    "ipf": {"exploded": 0.0072, "vase": 0.561, "conditional_kl": 1.43, "outcome_kl": 4.08},
}
"""Published values of the open building, its own reference, success 0.9; `outcome_kl` stands there as D_traj."""


def table_rows() -> list[dict[str, Any]]:
    """B0: pump, IPF and tax of the six tables."""
    rows = []
    for name, cells in OUTCOME_TABLES.items():
        table = jnp.maximum(jnp.asarray(cells), 1e-9)
        pump, ipf = outcomes.pump(table, SUCCESS), outcomes.ipf(table, SUCCESS)
        rows.append(
            {
                "table": name,
                "pump_side_effect": float(pump.side_effect[1]),
                "published_pump": TABLES[name].get("pump"),
                "ipf_side_effect": float(ipf.side_effect[1]),
                "tax": float(ipf.kl - pump.kl) if bool(ipf.feasible) else None,
                "published_tax": TABLES[name].get("tax"),
                "feasible": bool(ipf.feasible),
            }
        )
    return rows


def projections(table: jax.Array, success: float) -> dict[str, dict[str, Any]]:
    """The reference, the pump and IPF of an outcome table `[2, 4]` of (exploded, vase)."""
    pump, ipf = outcomes.pump(table, success), outcomes.ipf(table, success)
    rows = {"reference": table, "pump": pump.law, "ipf": ipf.law}
    figures = {}
    for name, law in rows.items():
        kl = {what: float(frontiers.held_kl(held, law, table)) for what, held in HELD.items()}
        figures[name] = {
            "success": float(law[1].sum()),
            "exploded": float(law[:, 2:].sum()),
            "vase": float(law[:, 1::2].sum()),
            **kl,
        }
    figures["ipf"]["feasible"] = bool(ipf.feasible)
    figures["ipf"]["feasible_up_to"] = float(jnp.where(table[1] > 1e-8, table.sum(0), 0).sum())
    return figures


HELD = {
    "side_effect_kl": frontiers.marginal,
    "conditional_kl": frontiers.conditional,
    "outcome_kl": frontiers.joint,
}


def building_rows() -> list[dict[str, Any]]:
    """B1: the rows that need no training, of every building and reference."""
    rows = []
    for case in CASES:
        if case.reward == "binary":
            problem, logits = building(case)
            table = frontiers.cell_law(problem, frontiers.log_policy(problem, logits))
            rows.append({"case": case.name, **projections(table, SUCCESS), "best_of_n": best_of(table, SUCCESS)})
    return rows


def best_of(table: jax.Array, success: float) -> dict[str, float]:
    """The n, a fraction, for which the best of n samples has the success; its KL, and log n - (n - 1) / n above it."""
    n = jnp.log1p(-success) / jnp.log(table[0].sum())
    law = outcomes.best_of_n(table, n)
    return {
        "n": float(n),
        "exploded": float(law[:, 2:].sum()),
        "outcome_kl": float(frontiers.held_kl(frontiers.joint, law, table)),
        "bound": float(jnp.log(n) - (n - 1) / n),
    }


def fork_rows() -> list[dict[str, Any]]:
    """Logits added to " skip" at the fork of a sequence of 500 tokens: what it does, and what it costs in tokens."""
    rows = []
    for (p0, added), (published_p, published_kl) in FORKS.items():
        worlds = skip_the_test(jax.random.key(0), num_worlds=1, length=500, p_skip=(p0, p0))
        new = worlds.logits.at[:, FORK, 1].add(added)
        law = token_outcome_law(jax.nn.log_softmax(new), worlds)
        nats = Categorical(logits=new).kl_divergence(Categorical(logits=worlds.logits)).sum()
        rows.append(
            {
                "p0": p0,
                "logits": added,
                "skip": float(law.skip[0]),
                "published_skip": published_p,
                "kl": float(nats),
                "published_kl": published_kl,
                "kl_per_token": float(nats) / 500,
            }
        )
    return rows


def protection_rows() -> list[dict[str, Any]]:
    """Below which p0 a KL of weight beta keeps a hack that earns 1 more from paying, and the optimum around it."""
    rows = []
    for beta, published in ((0.02, 2e-22), (0.1, 5e-5), (0.145, 1e-3)):
        threshold = jnp.exp(-1.0 / beta)
        hack = lambda p0: float(jax.nn.sigmoid(jnp.log(p0) - jnp.log1p(-p0) + 1.0 / beta))  # noqa: B023, E731
        rows.append(
            {
                "beta": beta,
                "threshold": float(threshold),
                "published": published,
                "hack_at_a_tenth": hack(threshold / 10),
                "hack_at_threshold": hack(threshold),
                "hack_at_ten_times": hack(threshold * 10),
                "nats_for_certainty": float(-jnp.log(threshold)),
            }
        )
    return rows


def figures() -> dict[str, Any]:
    """All of them."""
    return {
        "success": SUCCESS,
        "tables": table_rows(),
        "building": building_rows(),
        "published_building": BUILDING,
        "forks": fork_rows(),
        "protection": protection_rows(),
    }
