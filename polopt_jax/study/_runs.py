"""One objective from one start at one scale in one world of the study: every setting and seed in one program."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax import frontiers, outcomes
from polopt_jax.driver import compiler_options
from polopt_jax.study._ground import TABLE, Ground
from polopt_jax.study._objectives import objective
from polopt_jax.suite import Row
from polopt_jax.types import Array, Params

LEVELS = (0.5, 0.8, 0.9)
"""The success at which every path is read."""
ROLLOUTS = 512
"""Attempts of the policy that training begins with, of which the forecast is made."""


@functools.lru_cache(maxsize=4)
def begin(ground: Ground, scale: str, start: str, *, seeds: int) -> tuple[Params, np.ndarray]:
    """The policies that training begins with, every leaf `[R, ...]` for R seeds, and the KL `[R]` of each from its
    teacher, in nats of an attempt. They are computed once."""
    learner = ground.build(scale)
    params, kl = jax.jit(jax.vmap(lambda key: learner.begin(start, key)))(jax.random.split(jax.random.key(31), seeds))
    return params, np.asarray(kl)


def measure(ground: Ground, name: str, scale: str, start: str, *, seeds: int, updates: int) -> dict[str, Any]:
    """The figures of one objective at one scale, from one start.

    Returns `setting` (what is swept), `settings` S, and arrays over S, seeds R and `LEVELS` L: `reached`, `updates`,
    `jump` `[S, R, L]`, and the fields of `Standing` at these levels, `[S, R, L, ...]`, NaN where not reached (no
    `held_out` where nothing is); those of the end, `final_*` `[S, R, ...]`; of the start `[R]` `begin_kl`, from the
    teacher, `begin_law` and the `forecast`: the share of side effects among `ROLLOUTS` of the policy that succeed, NaN
    where none did; and `seconds`, with compilation.
    """
    began = time.perf_counter()
    params, kl = begin(ground, scale, start, seeds=seeds)
    row = _row(ground, name, scale)
    # one axis of lanes: with one for each factor XLA's CPU kernels run out of ranks
    sizes = len(row.values), seeds
    setting, run = (x.reshape(-1) for x in jnp.indices(sizes))
    lanes = _learning(ground, name, scale, updates)(
        (jax.tree.map(lambda x: x[run], params), run, jnp.asarray(row.values)[setting])
    )
    matched, last = jax.tree.map(lambda x: np.asarray(x).reshape(*sizes, *x.shape[1:]), lanes)
    law, forecast = _first(ground, scale, start, seeds)
    fields = {name: getattr(matched.point, name) for name in vars(matched.point)}
    if not np.isfinite(last.held_out).any():
        del fields["held_out"]
    return {
        "setting": row.setting,
        "settings": list(row.values),
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


def from_starts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `measure` found from each start, by its name, as one: `starts` I, every array with a first axis of I more (a
    list), and the seconds of all.

    >>> parts = {start: {"setting": "rate", "settings": [1, 2], "seconds": 1.5, "forecast": [0.5]} for start in "ab"}
    >>> from_starts(parts)
    {'starts': ['a', 'b'], 'setting': 'rate', 'settings': [1, 2], 'seconds': 3.0, 'forecast': [[0.5], [0.5]]}
    """
    found = list(parts.values())
    first = found[0]
    same = {"setting": first["setting"], "settings": first["settings"]}
    arrays = {name: [part[name] for part in found] for name in first if name not in (*same, "seconds")}
    return {"starts": list(parts), **same, "seconds": sum(part["seconds"] for part in found), **arrays}


def _row(ground: Ground, name: str, scale: str) -> Row:
    return objective(name, None if scale == TABLE else ground.rates)


@functools.lru_cache(maxsize=4)
def _learning(ground: Ground, name: str, scale: str, updates: int) -> Callable[[Any], Any]:
    """Learns from `(params, run, setting)` of many lanes, with the same program from every start."""
    row, learner = _row(ground, name, scale), ground.build(scale)

    def one(lane: tuple[Params, Array, Array]) -> Any:
        params, run, setting = lane
        keys = jax.random.split(jax.random.fold_in(jax.random.key(37), run), 2)
        problem = learner.problem(params, keys[0])
        algorithm = row.build(problem, setting)
        points, _ = frontiers.sampled_path(problem, algorithm, keys[1], updates=updates, every=ground.every)
        matched = jax.vmap(lambda level: frontiers.at_success(points, level))(jnp.asarray(LEVELS))
        return matched, jax.tree.map(lambda x: x[-1], points)

    return jax.jit(lambda lanes: jax.lax.map(one, lanes, batch_size=ground.lanes), compiler_options=compiler_options())


@functools.lru_cache(maxsize=4)
def _first(ground: Ground, scale: str, start: str, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """P(s, z) `[R, 2, Z]` of the policies that training begins with, and the forecast `[R]` that they give."""
    (params, _), learner = begin(ground, scale, start, seeds=seeds), ground.build(scale)

    def one(params: Params, run: Array) -> tuple[Array, Array]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(41), run), 3)
        problem = learner.problem(params, keys[0])
        prompts = jax.tree.map(lambda x: x[:, None], problem.group.prompts(keys[1], ROLLOUTS))
        found = problem.outcome(problem.group.attempt(params, prompts, keys[2]))
        told = outcomes.forecast(found["success"][:, 0], found["side_effect"][:, 0] > 0)
        return problem.standing(params).law, told.share

    law, share = jax.jit(jax.vmap(one))(params, jnp.arange(seeds))
    return np.asarray(law), np.asarray(share)
