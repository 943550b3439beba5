"""`polopt evaluate`: what a run has learnt is worth."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax import checkpoint, report, runs
from polopt_jax.cli._kinds import VECTORS
from polopt_jax.cli._options import Evaluate
from polopt_jax.cli._progress import counted, say
from polopt_jax.cli._table import show_table
from polopt_jax.cli._text_acting import evaluate_texts
from polopt_jax.cli._text_plan import is_of_texts
from polopt_jax.cli._words import UsageError, flag
from polopt_jax.evaluation import Evaluation, evaluate_policy
from polopt_jax.language import greedy_network
from polopt_jax.loading import load_seeds
from polopt_jax.policies import Policy, greedy
from polopt_jax.report import Column, Group
from polopt_jax.simulators import Simulator, evaluate_simulator
from polopt_jax.tasks import token_task
from polopt_jax.types import Array, Outputs

GREEDY, SAMPLED = "greedy", "sampled"
PATIENCE = 10_000
"""Steps after which an episode that has not ended is given up, where its environment has no longer limit."""


def evaluate(options: Evaluate) -> int:
    """Evaluates every seed of a run, greedily and sampled; prints a table, or JSON."""
    for name, value, least, most in (("episodes", options.episodes, 2, 10**6), ("key", options.key, 0, 10**9)):
        if not least <= value <= most:
            raise UsageError(f"{flag(name)} must be from {least} to {most:,}; it is {value}")
    config = runs.read_run_config(options.run)
    if is_of_texts(config):
        return evaluate_texts(options.run, config, as_json=options.json)
    policies = load_seeds(options.run)
    update = checkpoint.latest_step(options.run / runs.CHECKPOINTS)
    first = next(iter(policies.values()))
    what = f"{first.config['algorithm']} on {first.config['env']}"
    say(f"{what} after {update} updates, {options.episodes} episodes of each seed")
    both = _both_of(first, options.episodes)
    found: dict[int, dict[str, Evaluation]] = {}
    with counted(len(policies)) as part:
        for seed, policy in policies.items():
            part(f"seed {seed}")
            found[seed] = both(policy, jax.random.key(options.key))
    rows = [row_of(seed, kind, found[seed][kind]) for kind in (GREEDY, SAMPLED) for seed in found]
    over = [over_seeds(kind, [row for row in rows if row["policy"] == kind]) for kind in (GREEDY, SAMPLED)]
    if unended := sum(row["unended"] for row in rows):
        limit = f"{unended} of {len(rows) * options.episodes} episodes did not end in {patience(first.config):,} steps"
        say(f"{limit}: the means are of those that ended")
    if options.json:
        said = {"directory": str(options.run), "env": first.config["env"], "algorithm": first.config["algorithm"]}
        said |= {"update": update, "episodes": options.episodes, "seeds": rows, "all": over}
        print(runs.to_json(runs.without_empty(said), indent=2))
    else:
        _print(rows, over)
    return 0


def _both_of(made: Policy, episodes: int) -> Callable[[Policy, Array], dict[str, Evaluation]]:
    """`(policy, key) -> what it is worth both ways`, of policies that share the environment and the model of `made`."""
    if isinstance(made.env, Simulator):
        return lambda policy, key: {
            kind: worth(policy, act, key, episodes=episodes) for kind, act in _acts(policy).items()
        }
    compiled = jax.jit(lambda learnt, key: _both(made, learnt, key, episodes=episodes))
    return lambda policy, key: jax.device_get(compiled({"params": policy.params, "normalizer": policy.normalizer}, key))


def worth(policy: Policy, act: Callable[..., Outputs], key: Array, *, episodes: int) -> Evaluation:
    """What it is worth to act so in the simulator of a policy."""
    vector = VECTORS[policy.config["vectorization"]]
    limit = patience(policy.config)
    return evaluate_simulator(policy.env, act, key, episodes=episodes, max_steps=limit, vector=vector)


def patience(config: Mapping[str, Any]) -> int:
    """Steps after which an episode of a run is given up: no fewer than it may have.

    >>> patience({"episode_length": 20_000}), patience({"episode_length": None})
    (20000, 10000)
    """
    return max(PATIENCE, config["episode_length"] or 0)


def _acts(policy: Policy) -> dict[str, Callable[..., Outputs]]:
    return {GREEDY: greedy(policy), SAMPLED: policy}


def _both(made: Policy, learnt: Mapping[str, Any], key: Array, *, episodes: int) -> dict[str, Evaluation]:
    """Greedily and sampled, from the same first states or prompts."""
    policy = replace(made, **learnt)
    if policy.normalizer is None:
        networks = {GREEDY: greedy_network(policy.network), SAMPLED: policy.network}
        return {
            kind: answers(replace(policy, network=network), key, episodes=episodes)
            for kind, network in networks.items()
        }
    limit = patience(policy.config)
    return {
        kind: evaluate_policy(policy.env, act, key, episodes=episodes, max_steps=limit)
        for kind, act in _acts(policy).items()
    }


def answers(policy: Policy, key: Array, *, episodes: int) -> Evaluation:
    """Answers to so many prompts of the token world, one each."""
    prompt_key, key = jax.random.split(key)
    task = token_task(policy.network, policy.env, policy.params, num_prompts=episodes, group_size=1)
    rollout = task.attempt(policy.params, task.prompts(prompt_key, episodes), key)
    total = rollout.reward.sum(0)
    outcome = {name: jnp.asarray(x[-1], jnp.float32) for name, x in rollout.outcome.items()}
    scored = jnp.isfinite(total)
    return Evaluation(
        episode_return=jnp.where(scored, total, jnp.nan),
        length=rollout.mask.sum(0),
        ended=scored,
        broken=~scored,
        outcome=outcome,
        outcome_mean=outcome,
    )


# In numbers


def row_of(seed: int, kind: str, found: Evaluation) -> dict[str, Any]:
    """One seed, one way to act: means over the episodes that ended, with their 95% t-intervals over episodes."""
    ended = np.asarray(found.ended)

    def mean(x: Any) -> float | None:
        return float(np.asarray(x, float)[ended].mean()) if ended.any() else None

    known = np.asarray(found.episode_return, float)[ended]
    reward, half_width = runs.interval(known.tolist())
    return {
        "seed": seed,
        "policy": kind,
        "return": reward,
        "return_interval": half_width,
        "return_lowest": float(known.min()) if len(known) else None,
        "return_highest": float(known.max()) if len(known) else None,
        "length": mean(found.length),
        "unended": int((~ended & ~np.asarray(found.broken)).sum()),
        "broken": int(np.asarray(found.broken).sum()),
        "outcome": {
            name: {"last": mean(found.outcome[name]), "mean": mean(found.outcome_mean[name])} for name in found.outcome
        },
    }


def over_seeds(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds; the interval is that of the seeds' means, if they are enough."""
    reward, half_width = runs.over_seeds([row["return"] for row in rows])
    return {
        "policy": kind,
        "num_seeds": len(rows),
        "return": reward,
        "return_interval": half_width,
        "return_lowest": _over(rows, min, "return_lowest"),
        "return_highest": _over(rows, max, "return_highest"),
        "length": _over(rows, _mean, "length"),
        "unended": sum(row["unended"] for row in rows),
        "broken": sum(row["broken"] for row in rows),
        "outcome": {
            name: {what: _over([row["outcome"][name] for row in rows], _mean, what) for what in ("last", "mean")}
            for name in rows[0]["outcome"]
        },
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _over(rows: list[dict[str, Any]], what: Any, name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return what(known) if known else None


# In words


def _print(rows: list[dict[str, Any]], over: list[dict[str, Any]]) -> None:
    groups = [
        Group(title, [row for row in (*rows, *over) if row["policy"] == kind])
        for kind, title in ((GREEDY, "greedy: the most probable action"), (SAMPLED, "sampled, as it was trained"))
    ]
    if len(rows) == len(over):  # one seed: what all seeds do is what it does
        groups = [group._replace(rows=group.rows[:1]) for group in groups]
    show_table(report.informative(columns_of(rows), groups), groups)


def columns_of(rows: list[dict[str, Any]]) -> list[Column]:
    """The columns. A feature has one for the end of an episode, and one for its mean where that is another number."""
    return [
        Column(("", "seed"), lambda row: str(row["seed"]) if "seed" in row else "all"),
        Column(
            ("", "return"),
            lambda row: report.estimate(row["return"], row["return_interval"]),
            "Mean over episodes, undiscounted, ± half-width of its 95% t-interval; of all, over the means of the seeds "
            f"({runs.FEW_SEEDS} or more).",
        ),
        Column(("lowest to", "highest"), _extent),
        Column(("", "length"), lambda row: report.short(row["length"])),
        Column(
            ("not", "ended"),
            lambda row: str(row["unended"]) if row["unended"] else report.NONE,
            "Episodes that were given up; all else is of those that ended.",
        ),
        Column(("", "broken"), lambda row: str(row["broken"]) if row["broken"] else report.NONE, "No longer finite."),
        *(column for name in rows[0]["outcome"] for column in _of_feature(name, rows)),
    ]


def _extent(row: dict[str, Any]) -> str:
    return f"{report.short(row['return_lowest'])} to {report.short(row['return_highest'])}"


def _of_feature(name: str, rows: list[dict[str, Any]]) -> list[Column]:
    def column(what: str) -> Column:
        return Column((name, what), lambda row: report.short(row["outcome"][name][what]))

    same = all(row["outcome"][name]["last"] == row["outcome"][name]["mean"] for row in rows)
    return [column("mean")] if same else [column("last"), column("mean")]
