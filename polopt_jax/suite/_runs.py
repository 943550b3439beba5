"""One method in one world, all settings and seeds side by side in one program, read at matched success."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax import frontiers
from polopt_jax.driver import compiler_options
from polopt_jax.suite._cases import GROUP_SIZE, Case
from polopt_jax.suite._methods import Row

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""The success at which every path is read."""
EVERY = 2
"""Updates between two points of a path."""
FIELDS = (
    "law",
    "reward",
    "hidden",
    "trajectory_kl",
    "trajectory_kl_ref_new",
    "action_kl",
)
"""What is kept of each point; what its law says is computed from that (`table_kl`)."""


def measure(case: Case, row: Row, *, seeds: int, updates: int) -> dict[str, Any]:
    """The figures of one method in one world.

    Returns `settings`, `attempts` (at each update) and arrays over settings S, runs R and `LEVELS` L: `reached`
    `[S, R, L]` bool, `updates` and `jump` `[S, R, L]`, and each of `FIELDS`, `[S, R, L, ...]`, NaN where not reached;
    `best` and `final` success `[S, R]`, the last law `final_law` `[S, R, 2, Z]`; and `seconds`, with compilation. The
    runs of a kind of many worlds are those worlds, each as often as there are seeds for it; else they are the seeds.
    """
    problem_of = case.build()
    began = time.perf_counter()

    def one(run: jax.Array, setting: jax.Array) -> Any:
        problem = problem_of(run % case.num_worlds)
        key = jax.random.fold_in(jax.random.key(17), run)
        points, _ = frontiers.sampled_path(problem, row.build(problem, setting), key, updates=updates, every=EVERY)
        matched = jax.vmap(lambda level: frontiers.at_success(points, level))(jnp.asarray(LEVELS))
        return matched, jax.tree.map(lambda x: x[-1], points)

    lanes = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    runs = jnp.arange(number_of_runs(case, seeds))
    program = jax.jit(lanes, compiler_options=compiler_options())
    matched, last = jax.device_get(program(runs, jnp.asarray(row.values)))
    return {
        "settings": list(row.values),
        "attempts": GROUP_SIZE,
        "reached": matched.reached,
        "best": matched.best[..., 0],
        "updates": matched.updates * EVERY,
        "jump": matched.jump,
        **{name: getattr(matched.point, name) for name in FIELDS},
        "final": last.success,
        "final_law": last.law,
        "seconds": time.perf_counter() - began,
    }


def references(case: Case, *, seeds: int) -> np.ndarray:
    """P(s, z) of the reference of each run, `[R, 2, Z]`."""
    problem_of = case.build()
    runs = jnp.arange(number_of_runs(case, seeds)) % case.num_worlds
    return np.asarray(jax.jit(jax.vmap(lambda run: jnp.asarray(problem_of(run).reference)))(runs))


def number_of_runs(case: Case, seeds: int) -> int:
    """R: the seeds of one world; of many, each once, and again until there are as many runs as seeds."""
    return max(seeds, case.num_worlds)
