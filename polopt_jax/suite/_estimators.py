"""How good the estimates of outcome divergences are: bias and coverage against exact laws.

Two ways to estimate: whole episodes of the burning building, sampled from an old policy and weighted as a new one's
(`outcomes.outcome_estimate`), and two samples of outcome tables (`outcomes.sample_estimate`). The truth is computed by
dynamic programming, or is in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from polopt_jax import outcomes
from polopt_jax.types import Array
from polopt_jax.worlds import OUTCOME_TABLES, burning_building, burning_building_logits, cells, outcome_law, tabulate

FEATURES: Mapping[str, tuple[str, ...]] = {
    "success": ("success",),
    "exploded": ("exploded",),
    "vase": ("vase",),
    "all three": ("success", "exploded", "vase"),
}
"""What is estimated in the building."""
BETWEEN = {"KL": outcomes.kl, "JS": outcomes.jensen_shannon, "chi2": outcomes.chi_square}
STEPS, NUMBERS = (0.1, 0.5), (128, 512, 2048)
"""Sizes of the change of the logits, and of samples."""
TABLES, SUCCESS = ("means", "independent", "by_product"), 0.3
"""Tables, of which one sample is drawn, and the other from its pump at this success."""
BUILDING = "building"
PARTS = (BUILDING, *TABLES)
CHUNK = 8


class Quality(NamedTuple):
    """An estimate over many samples, against the truth."""

    world: str
    feature: str
    divergence: str
    step: float
    rows: int
    truth: float
    plug_in_bias: float
    bias: float
    standard_error: float
    """Of the bias."""
    coverage: float
    """Share of the 95% intervals that hold the truth."""
    rarest: float
    """Expected rows of the rarest cell that either law has at all."""


def qualities(part: str, *, repeats: int) -> list[Quality]:
    """The rows of a part of the table: `building`, or one of `TABLES`, each estimate from so many samples."""
    if part == BUILDING:
        return _building(repeats)
    return [row for number in NUMBERS for row in _table(part, number, repeats)]


def quality(found: outcomes.Estimate, truth: float, laws: Any, **about: Any) -> Quality:
    """A row from an estimate whose fields are `[repeats]`."""
    value, low, high = (np.asarray(x, np.float64) for x in (found.value, found.low, found.high))
    return Quality(
        truth=truth,
        plug_in_bias=float(np.mean(found.plug_in)) - truth,
        bias=float(value.mean()) - truth,
        standard_error=float(value.std() / np.sqrt(len(value))),
        coverage=float(((low <= truth) & (truth <= high)).mean()),
        rarest=about["rows"] * min(float(p[p > 1e-7].min()) for p in laws),
        **about,
    )


def _building(repeats: int) -> list[Quality]:
    """All sizes and steps in one program: what is beyond the size of a sample is masked out."""
    world = tabulate(burning_building())
    old = jnp.asarray(burning_building_logits(), jnp.float32)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=old.shape), jnp.float32)
    model = lambda logits, obs: po.Outputs(policy=po.Categorical(logits=obs @ logits))  # noqa: E731
    estimators = {
        (name, d): outcomes.outcome_estimate(
            2 ** len(names), of=outcomes.joint(**dict.fromkeys(names, 2)), between=between
        )
        for name, names in FEATURES.items()
        for d, between in BETWEEN.items()
    }

    def once(key: Array, step: Array, number: Array) -> dict[tuple[str, str], outcomes.Estimate]:
        start_key, key = jax.random.split(key)
        loop = po.start(world, start_key, num_envs=max(NUMBERS))
        _, rollout = po.unroll(world, lambda obs: model(old, obs), loop, key, num_steps=world.horizon)
        whole, _ = po.first_episodes(rollout)
        batch = po.to_batch(whole, outcome=lambda episode: po.final_step(episode).outcome)
        batch = replace(batch, mask=batch.mask & (jnp.arange(max(NUMBERS)) < number)[:, None])
        policies = model(old, batch.obs), model(old + step * noise, batch.obs)
        return {name: estimator(*policies, batch) for name, estimator in estimators.items()}

    def all_repeats(step: Array, number: Array) -> Any:
        keys = jax.random.split(jax.random.key(0), repeats)
        return jax.lax.map(lambda key: once(key, step, number), keys, batch_size=CHUNK)

    program, rows = jax.jit(all_repeats), []
    for step in STEPS:
        policies = [jax.nn.softmax(world.obs @ logits) for logits in (old, old + step * noise)]
        for number in NUMBERS:
            for (name, d), estimate in jax.device_get(program(jnp.float32(step), jnp.int32(number))).items():
                cell, num = cells(world, FEATURES[name]), 2 ** len(FEATURES[name])
                laws = [np.asarray(outcome_law(world, p, cell, num), np.float64) for p in policies]
                about = dict(world="burning building", feature=name, divergence=d, step=step, rows=number)
                rows.append(quality(estimate, _truth(d, laws), laws, **about))
    return rows


def _table(name: str, number: int, repeats: int) -> list[Quality]:
    reference = np.maximum(np.asarray(OUTCOME_TABLES[name], np.float64), 1e-9)
    new = np.asarray(outcomes.pump(jnp.asarray(reference), SUCCESS).law, np.float64)
    laws = [p.reshape(-1) / p.sum() for p in (new, reference)]

    def once(key: Array) -> dict[str, outcomes.Estimate]:
        keys = jax.random.split(key)
        pairs = zip(keys, laws, strict=True)
        first, second = (jax.random.choice(k, len(p), (number,), p=jnp.asarray(p, jnp.float32)) for k, p in pairs)
        return {d: outcomes.sample_estimate(first, second, len(laws[0]), between=b) for d, b in BETWEEN.items()}

    keys = jax.random.split(jax.random.key(0), repeats)
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(once, keys, batch_size=CHUNK))(keys))
    about = dict(world=f"table {name}", feature="success, side effect", step=SUCCESS, rows=number)
    return [quality(estimate, _truth(d, laws), laws, divergence=d, **about) for d, estimate in found.items()]


def _truth(divergence: str, laws: list[np.ndarray]) -> float:
    logs = [jnp.where(jnp.asarray(p) > 1e-9, jnp.log(jnp.maximum(jnp.asarray(p), 1e-30)), -jnp.inf) for p in laws]
    return float(BETWEEN[divergence](*logs))
