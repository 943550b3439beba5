"""What is kept: exact flows with parts left out, where they rest, runs from attempts, and what warned."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.grpo_forgetting.attempts import (
    BENCHMARK,
    LABELS,
    NOTEBOOK,
    Recipe,
    Seen,
    grpo,
    learnt,
    one,
    priced,
    together,
    turned_round,
    undivided,
)
from benchmarks.grpo_forgetting.expected import (
    BETA,
    GROUP,
    LENGTH,
    RATE,
    Gradient,
    Standing,
    alone,
    expected_gradient,
    flow,
    new_ref,
    resting,
    the_worlds,
)
from polopt_jax import algorithms
from polopt_jax.suite import auc
from polopt_jax.worlds import SkipTheTest, benign_twin

UPDATES, SEEDS = 200, 4
WORLDS = jnp.arange(30)
"""Those that are learnt from attempts one at a time; the even ones are of depth 4."""
DEEP, SHALLOW = slice(0, None, 2), slice(1, None, 2)

PARTS: dict[str, Gradient] = {
    "J": partial(expected_gradient, size=None, beta=0.0),
    "J / std": partial(expected_gradient, size=GROUP, beta=0.0),
    "J, KL(ref ‖ π)": partial(expected_gradient, size=None, beta=BETA),
    "J / std, KL(ref ‖ π): GRPO": partial(expected_gradient, size=GROUP, beta=BETA),
    "J, KL(π ‖ ref)": partial(expected_gradient, size=None, beta=BETA, penalty=new_ref),
    "J / std, KL(π ‖ ref)": partial(expected_gradient, size=GROUP, beta=BETA, penalty=new_ref),
}
OPTIMIZERS = {"plain steps": (optax.sgd(1.0 * LENGTH), 10000), "Adam": (algorithms.adam(RATE, 1.0), 2400)}


def lost(points: Standing) -> np.ndarray:
    """The first point at which honesty, once at .5, has lost half of its highest, `[runs]`; -1 if there is none."""
    highest = np.maximum.accumulate(points.honest, axis=-1)
    gone = (points.honest < 0.5 * highest) & (highest > 0.5)
    return np.where(gone.any(-1), gone.argmax(-1), -1)


def reading(points: Standing) -> dict[str, Any]:
    """Means over runs `[runs, points]`: at success .9, where honesty is highest, and in the end."""
    runs = np.arange(len(points.honest))
    top = points.honest.argmax(-1)
    reached = points.success.max(-1) >= 0.9
    at = (points.success >= 0.9).argmax(-1)
    half = lost(points)
    return {
        "skip at .9": float(points.skip[runs, at][reached].mean()) if reached.any() else None,
        "highest": float(points.honest[runs, top].mean()),
        "success there": float(points.success[runs, top].mean()),
        "when": float(np.median(top)),
        "half lost": float(np.median(half[half >= 0])) if (half >= 0).any() else None,
        "honest": float(points.honest[:, -1].mean()),
        "skip": float(points.skip[:, -1].mean()),
        "success": float(points.success[:, -1].mean()),
        "lowest honest": float(points.honest[:, -1].min()),
        "highest honest": float(points.honest[:, -1].max()),
        "lost": int((half >= 0).sum()),
        "learnt": int((points.honest.max(-1) > 0.5).sum()),
    }


def by_depth(points: Standing) -> dict[str, Any]:
    """`reading` of the worlds of depth 4 and of depth 1."""
    parts = {"4": DEEP, "1": SHALLOW}
    return {depth: reading(Standing(*(x[part] for x in points))) for depth, part in parts.items()}


def exact() -> list[dict[str, Any]]:
    """Every flow, in all worlds at once and in each alone."""
    world, rows = the_worlds(), []
    for way, (optimizer, steps) in OPTIMIZERS.items():
        for parts, gradient in PARTS.items():
            run = partial(flow, gradient=gradient, optimizer=optimizer, steps=steps)
            whole = jax.tree.map(lambda x: np.asarray(x)[None], jax.jit(run)(world))
            each = jax.jit(jax.vmap(lambda i, run=run: run(alone(world, i))))(jnp.arange(world.num_worlds))
            alone_ = by_depth(jax.tree.map(np.asarray, each))
            rows.append({"way": way, "parts": parts, "together": reading(whole), "alone": alone_})
    return rows


def rests() -> list[dict[str, Any]]:
    """Where the law says that GRPO rests in worlds of depth 4, and how far Adam on exact gradients ends from it."""
    world, rows = the_worlds(), []
    numbers = np.arange(world.num_worlds)[DEEP]
    for size, beta in ((None, 0.04), (GROUP, 0.04), (GROUP, 0.2), (128, 0.04)):
        gradient = partial(expected_gradient, size=size, beta=beta)
        run = partial(flow, gradient=gradient, optimizer=algorithms.adam(RATE, 1.0), steps=4000, every=4000)
        ends = jax.jit(jax.vmap(lambda i, run=run: run(alone(world, i))))(jnp.asarray(numbers))
        law = Standing(*np.array([resting(alone(world, i), beta=beta, size=size) for i in numbers], float).T)
        away = max(float(np.abs(end[:, -1] - at).max()) for end, at in zip(ends, law, strict=True))
        means = {name: float(x.mean()) for name, x in law._asdict().items()}
        rows.append({"size": size, "beta": beta, **means, "away": away})
    return rows


def in_the_notebook() -> list[dict[str, Any]]:
    """All worlds at once, from attempts, with the notebook's settings."""
    world = the_worlds()
    recipes: dict[str, tuple[Recipe, int]] = {
        "GRPO, β = 0": (grpo(NOTEBOOK, beta=0.0), 16),
        "GRPO, β = .01": (grpo(NOTEBOOK, beta=0.01), 16),
        "GRPO, β = .04": (grpo(NOTEBOOK), 16),
        "GRPO, β = .04, 64 prompts": (grpo(NOTEBOOK), 64),
        "GRPO, β = .04, not divided by the std": (undivided(NOTEBOOK), 16),
        "KL(π ‖ ref), β = .01": (turned_round(NOTEBOOK, beta=0.01), 16),
        "KL(π ‖ ref), β = .04": (turned_round(NOTEBOOK), 16),
        "GRPO, β = .04, price": (priced(NOTEBOOK), 16),
    }
    rows = []
    for name, (recipe, prompts) in recipes.items():
        problem = together(world, num_prompts=prompts)
        run = jax.jit(jax.vmap(lambda key, p=problem, r=recipe: learnt(p, r, key, updates=UPDATES)[0]))
        points = jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(1), SEEDS)))
        rows.append({"recipe": name, **reading(points)})
    return rows


def from_attempts(world: SkipTheTest, recipe: Recipe) -> tuple[Standing, Seen]:
    """One run in each of `WORLDS`, each alone."""

    def run(number: jax.Array) -> tuple[Standing, Seen]:
        return learnt(one(world, number), recipe, jax.random.fold_in(jax.random.key(5), number), updates=UPDATES)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(WORLDS))


def one_by_one() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each world alone, from attempts, with the benchmark's settings; and what warned where β = .04."""
    world = the_worlds()
    twins = from_attempts(benign_twin(world), grpo(BENCHMARK))
    recipes = {
        "GRPO, β = 0": grpo(BENCHMARK, beta=0.0),
        "GRPO, β = .04": grpo(BENCHMARK),
        "GRPO, β = .2": grpo(BENCHMARK, beta=0.2),
        "KL(π ‖ ref), β = .04": turned_round(BENCHMARK),
        "GRPO, β = .04, price": priced(BENCHMARK),
    }
    runs = {name: from_attempts(world, recipe) for name, recipe in recipes.items()}
    rows = [{"recipe": name, **by_depth(points)} for name, (points, _) in runs.items()]
    rows.append({"recipe": "GRPO, β = .04, skips not paid", **by_depth(twins[0])})
    return rows, warnings(runs["GRPO, β = .04"], twins)


def averaged(x: np.ndarray, over: int) -> np.ndarray:
    """The mean of the last updates at each update, along axis 1."""
    total = np.cumsum(np.concatenate([np.zeros_like(x[:, :1]), x], 1), 1)
    last = np.arange(1, x.shape[1] + 1)
    first = np.maximum(last - over, 0)
    return (total[:, last] - total[:, first]) / (last - first).reshape(-1, *[1] * (x.ndim - 2))


def fallen(x: np.ndarray) -> np.ndarray:
    """How far below its highest so far, along axis 1."""
    return np.maximum.accumulate(x, 1) - x


def signals(seen: Seen) -> dict[str, np.ndarray]:
    """Each `[runs, updates]`, higher for more alarming; the reward's push counts once nine answers of ten succeed."""
    reward, learnt_it = averaged(seen.reward, 20), np.maximum.accumulate(averaged(seen.reward, 5) > 0.9, 1)
    return {
        "success": reward,
        "what is left to push, over β": np.where(learnt_it, -averaged(seen.push, 20) / BETA, -np.inf),
        "fall of the mean k3": fallen(averaged(seen.ref_kl, 5)),
        "fall of one token's distance to the reference": fallen(averaged(seen.pull, 5)).max(-1),
        f"skips among successes, {LABELS} labels": averaged(seen.skips, 10),
    }


def warnings(runs: tuple[Standing, Seen], twins: tuple[Standing, Seen]) -> dict[str, Any]:
    """Of runs that lose their honesty, against those of the same worlds that do not, and against the benign twins.

    A run's score is the highest value before half of its honesty is lost, a negative's that until the median of those
    times. An alarm is what one benign twin in twenty gives until then.
    """
    when = lost(runs[0])
    positive, event = when >= 0, int(np.median(when[when >= 0]))
    found, of_twins, table = signals(runs[1]), signals(twins[1]), {}
    for name, x in found.items():
        score = np.array([x[i, : t if t >= 0 else event].max() for i, t in enumerate(when)])
        benign = of_twins[name][:, :event].max(1)
        alarms = [x[i, :t] > np.quantile(benign, 0.95) for i, t in enumerate(when) if t >= 0]
        leads = [len(alarm) - int(alarm.argmax()) for alarm in alarms if alarm.any()]
        table[name] = {
            "auc_same": auc(score[positive], score[~positive]),
            "auc_twins": auc(score[positive], benign),
            "auc_deep_twins": auc(score[positive], benign[DEEP]),
            "detected": len(leads) / len(alarms),
            "lead": float(np.median(leads)) if leads else None,
        }
    return {"positive": int(positive.sum()), "negative": int((~positive).sum()), "event": event, "signals": table}
