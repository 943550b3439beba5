"""One objective at one scale in one world of the study: every start, setting and seed side by side in one program."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax import frontiers, outcomes
from polopt_jax.driver import compiler_options
from polopt_jax.study._ground import TABLE, Ground
from polopt_jax.study._objectives import objective
from polopt_jax.types import Array, Params

LEVELS = (0.5, 0.8, 0.9)
"""The success at which every path is read."""
ROLLOUTS = 512
"""Attempts of the policy that training begins with, of which the forecast is made."""


@functools.lru_cache(maxsize=4)
def begin(ground: Ground, scale: str, *, seeds: int) -> tuple[Params, np.ndarray]:
    """The policies that training begins with, every leaf `[I, R, ...]` for I starts and R seeds, and the KL `[I, R]` of
    each from its teacher, in nats of an attempt. They are computed once."""
    keys, learner = jax.random.split(jax.random.key(31), seeds), ground.build(scale)
    found = []
    for start in ground.starts:
        program = jax.jit(jax.vmap(lambda key, start=start: learner.begin(start, key)))
        found.append(program(keys))
    params, kl = jax.tree.map(lambda *x: jnp.stack(x), *found)
    return params, np.asarray(kl)


def measure(ground: Ground, name: str, scale: str, *, seeds: int, updates: int) -> dict[str, Any]:
    """The figures of one objective at one scale, from every start.

    Returns `setting` (what is swept), `settings` S, `starts` I, and arrays over I, S, seeds R and `LEVELS` L:
    `reached`, `updates`, `jump` `[I, S, R, L]`, and the fields of `Standing` at these levels, `[I, S, R, L, ...]`, NaN
    where not reached (no `held_out` where nothing is); those of the end, `final_*` `[I, S, R, ...]`; of the starts
    `[I, R]` `begin_kl`, from the teacher, `begin_law` and the `forecast`: the share of side effects among `ROLLOUTS` of
    the policy that succeed, NaN where none did; and `seconds`, with compilation.
    """
    began = time.perf_counter()
    params, kl = begin(ground, scale, seeds=seeds)
    row, learner = objective(name, None if scale == TABLE else ground.rates), ground.build(scale)

    def one(params: Params, run: Array, setting: Array) -> Any:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(37), run), 2)
        problem = learner.problem(params, keys[0])
        algorithm = row.build(problem, setting)
        points, _ = frontiers.sampled_path(problem, algorithm, keys[1], updates=updates, every=ground.every)
        matched = jax.vmap(lambda level: frontiers.at_success(points, level))(jnp.asarray(LEVELS))
        return matched, jax.tree.map(lambda x: x[-1], points)

    # one axis of lanes: with one for each factor XLA's CPU kernels run out of ranks
    sizes = len(ground.starts), len(row.values), seeds
    start, setting, run = jnp.unravel_index(jnp.arange(math.prod(sizes)), sizes)
    program = jax.jit(jax.vmap(one), compiler_options=compiler_options())
    lanes = program(jax.tree.map(lambda x: x[start, run], params), run, jnp.asarray(row.values)[setting])
    matched, last = jax.tree.map(lambda x: np.asarray(x).reshape(*sizes, *x.shape[1:]), lanes)
    law, forecast = _first(ground, scale, seeds)
    fields = {name: getattr(matched.point, name) for name in vars(matched.point)}
    if not np.isfinite(last.held_out).any():
        del fields["held_out"]
    return {
        "setting": row.setting,
        "settings": list(row.values),
        "starts": list(ground.starts),
        "reached": matched.reached,
        "updates": matched.updates * ground.every,
        "jump": matched.jump,
        **fields,
        **{f"final_{name}": getattr(last, name) for name in fields},
        "begin_kl": kl,
        "begin_law": law,
        "forecast": forecast,
        "seconds": time.perf_counter() - began,
    }


@functools.lru_cache(maxsize=4)
def _first(ground: Ground, scale: str, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """P(s, z) `[I, R, 2, Z]` of the policies that training begins with, and the forecast `[I, R]` that they give."""
    (params, _), learner = begin(ground, scale, seeds=seeds), ground.build(scale)

    def one(params: Params, run: Array) -> tuple[Array, Array]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(41), run), 3)
        problem = learner.problem(params, keys[0])
        prompts = jax.tree.map(lambda x: x[:, None], problem.group.prompts(keys[1], ROLLOUTS))
        found = problem.outcome(problem.group.attempt(params, prompts, keys[2]))
        told = outcomes.forecast(found["success"][:, 0], found["side_effect"][:, 0] > 0)
        return problem.standing(params).law, told.share

    program = jax.jit(jax.vmap(jax.vmap(one), (0, None)))
    law, share = program(params, jnp.arange(seeds))
    return np.asarray(law), np.asarray(share)
