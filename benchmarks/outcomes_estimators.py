"""How good the estimates of outcome divergences are: bias and coverage against exact laws.

python -m benchmarks.outcomes_estimators [--repeats 400]

Worlds: the burning building (whole episodes, weighted from the old policy) and outcome tables (two samples). The truth
is computed by dynamic programming. A row per world, feature, divergence, step and number of episodes.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import polopt_jax as po
from benchmarks.record import save
from polopt_jax import outcomes
from polopt_jax.worlds import OUTCOME_TABLES, burning_building, burning_building_logits, cells, outcome_law, tabulate

FEATURES = {
    "success": (("success",), 2),
    "exploded": (("exploded",), 2),
    "vase": (("vase",), 2),
    "success, exploded, vase": (("success", "exploded", "vase"), 8),
}
BETWEEN = {"KL": outcomes.kl, "JS": outcomes.jensen_shannon, "chi2": outcomes.chi_square}
CHUNK = 8


class Row(NamedTuple):
    """What `--json` holds of one estimate."""

    world: str
    feature: str
    divergence: str
    step: float
    rows: int
    truth: float
    plug_in_bias: float
    bias: float
    standard_error: float
    """Of the two biases."""
    coverage: float
    width_over_truth: float
    novel_mass: float
    rarest_cell_rows: float
    """Expected rows of the rarest cell that either law has at all."""


def summary(found: outcomes.Estimate, truth: float, laws: Any, **row: Any) -> Row:
    """One row from many estimates, each field `[repeats]`."""
    value, low, high = (np.asarray(x, np.float64) for x in (found.value, found.low, found.high))
    rarest = min(float(p[p > 1e-7].min()) for p in laws)
    return Row(
        truth=truth,
        plug_in_bias=float(np.mean(found.plug_in)) - truth,
        bias=float(value.mean()) - truth,
        standard_error=float(value.std() / np.sqrt(len(value))),
        coverage=float(((low <= truth) & (truth <= high)).mean()),
        width_over_truth=float((high - low).mean() / truth) if truth > 0 else float("nan"),
        novel_mass=float(np.mean(found.novel_mass)),
        rarest_cell_rows=row["rows"] * rarest,
        **row,
    )


def burning(step: float, num_rows: int, repeats: int) -> list[Row]:
    """Rows of the burning building: `num_rows` episodes of the reference, the new policy by their weights."""
    world = tabulate(burning_building())
    old = burning_building_logits()
    new = old + step * jnp.asarray(np.random.default_rng(1).normal(size=old.shape))
    model = lambda logits, obs: po.Outputs(policy=po.Categorical(logits=obs @ logits))  # noqa: E731
    estimators = {
        (name, d): outcomes.outcome_estimate(k, of=outcomes.joint(**dict.fromkeys(names, 2)), between=between)
        for name, (names, k) in FEATURES.items()
        for d, between in BETWEEN.items()
    }

    def once(key: jax.Array) -> dict[tuple[str, str], outcomes.Estimate]:
        start_key, key = jax.random.split(key)
        loop = po.start(world, start_key, num_envs=num_rows)
        act = lambda obs: model(old, obs)  # noqa: E731
        _, rollout = po.unroll(world, act, loop, key, num_steps=world.horizon)
        whole, _ = po.first_episodes(rollout)
        batch = po.to_batch(whole, outcome=lambda episode: po.final_step(episode).outcome)
        policies = model(old, batch.obs), model(new, batch.obs)
        return {name: estimator(*policies, batch) for name, estimator in estimators.items()}

    keys = jax.random.split(jax.random.key(0), repeats)
    found = jax.jit(lambda keys: jax.lax.map(once, keys, batch_size=CHUNK))(keys)
    rows = []
    policies = [jax.nn.softmax(world.obs @ logits) for logits in (old, new)]
    for (name, divergence), estimate in found.items():
        names, k = FEATURES[name]
        laws = [np.asarray(outcome_law(world, p, cells(world, names), k), np.float64) for p in policies]
        log_laws = [jnp.where(jnp.asarray(p) > 1e-9, jnp.log(jnp.maximum(p, 1e-30)), -jnp.inf) for p in laws]
        truth = float(BETWEEN[divergence](*log_laws))
        about = dict(world="burning building", feature=name, divergence=divergence, step=step, rows=num_rows)
        rows.append(summary(estimate, truth, laws, **about))
    return rows


def tables(name: str, success: float, num_rows: int, repeats: int) -> list[Row]:
    """Rows of an outcome table: a sample of the pump's law at some success, and one of the table itself."""
    reference = np.maximum(np.asarray(OUTCOME_TABLES[name], np.float64), 1e-9)
    reference = reference / reference.sum()
    new = np.asarray(outcomes.pump(jnp.asarray(reference), success).law, np.float64)
    laws = [p.reshape(-1) / p.sum() for p in (new, reference)]

    def once(key: jax.Array) -> dict[str, outcomes.Estimate]:
        samples = [
            jax.random.choice(k, len(p), (num_rows,), p=jnp.asarray(p))
            for k, p in zip(jax.random.split(key), laws, strict=True)
        ]
        return {d: outcomes.sample_estimate(*samples, len(laws[0]), between=b) for d, b in BETWEEN.items()}

    found = jax.jit(lambda keys: jax.lax.map(once, keys, batch_size=CHUNK))(
        jax.random.split(jax.random.key(0), repeats)
    )
    about = dict(world=f"table {name}", feature="success, side effect", step=success, rows=num_rows)
    log_laws = [jnp.log(jnp.asarray(p)) for p in laws]
    return [
        summary(estimate, float(BETWEEN[d](*log_laws)), laws, divergence=d, **about) for d, estimate in found.items()
    ]


def show(rows: list[Row], console: Console) -> None:
    """The table on the terminal."""
    table = Table("world", "feature", "D", "step", "rows", "truth", "plug-in bias", "bias", "cover", "rarest", box=None)
    for row in rows:
        table.add_row(
            row.world,
            row.feature,
            row.divergence,
            f"{row.step:g}",
            str(row.rows),
            f"{row.truth:.4g}",
            f"{row.plug_in_bias / row.truth:+.1%}",
            f"{row.bias / row.truth:+.1%} ± {row.standard_error / row.truth:.1%}",
            f"{row.coverage:.3f}",
            f"{row.rarest_cell_rows:.1f}",
        )
    console.print(table)


def main() -> None:
    """Runs the table and stores it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    console = Console(width=140)
    jobs = [(burning, (step, n)) for step in (0.1, 0.5) for n in (128, 512, 2048)]
    jobs += [(tables, (name, 0.3, n)) for name in ("means", "independent", "by_product") for n in (128, 512, 2048)]
    rows: list[Row] = []
    for job, arguments in track(jobs, description="estimates", console=Console(stderr=True)):
        rows += job(*arguments, repeats)
    show(rows, console)
    save(f"outcomes-estimators-{repeats}", {"repeats": repeats, "rows": [row._asdict() for row in rows]})


if __name__ == "__main__":
    main()
