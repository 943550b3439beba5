"""From options to a plan: everything checked and decided before anything is built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polopt_jax.cli import _names
from polopt_jax.cli import _presets as presets
from polopt_jax.cli._errors import UsageError
from polopt_jax.cli._hyperparameters import check_parameters, describe, flag, given, parameters
from polopt_jax.cli._options import Compare, Train

DEFAULT_STEPS = {"inverted_pendulum": 400_000, _names.TOKEN_ENV: 200_000}
OTHER_STEPS = 5_000_000
"""Steps per seed where nothing is said: enough to see learning, and minutes on two CPU cores."""
GROUP_SIZE = 8
EPISODE_LENGTH = 1000
WANTED_CHUNKS = 25
CHUNK_UPDATES = 100
"""No chunk is longer, so that a long run still shows progress and is still interrupted soon."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One algorithm on one environment, every size decided."""

    algorithm: str
    env: str
    backend: str | None
    episode_length: int | None
    num_envs: int
    rollout_steps: int
    group_size: int | None
    seed: int
    num_seeds: int
    chunk_updates: int
    num_chunks: int
    hyperparameters: dict[str, Any]
    """Keyword arguments of the recipe: all that are not at its defaults. A baseline is given by its name."""

    @property
    def is_token(self) -> bool:
        """Whether the environment is the token world."""
        return self.env == _names.TOKEN_ENV

    @property
    def decisions(self) -> int:
        """Decisions in one update of one seed."""
        return self.num_envs * self.rollout_steps

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.chunk_updates * self.num_chunks

    @property
    def steps(self) -> int:
        """Environment steps (decisions) of one seed in the whole run."""
        return self.updates * self.decisions

    def config(self) -> dict[str, Any]:
        """The plan as JSON, with the recipe's defaults written out: equal configs are equal runs."""
        values = {**parameters(self.algorithm), **self.hyperparameters}
        if "baseline" in values:
            values["baseline"] = values["baseline"] or "batch-mean"  # the recipe's, by the command's name
        return {
            "algorithm": self.algorithm,
            "env": self.env,
            "backend": self.backend,
            "episode_length": self.episode_length,
            "num_envs": self.num_envs,
            "rollout_steps": self.rollout_steps,
            "group_size": self.group_size,
            "seed": self.seed,
            "num_seeds": self.num_seeds,
            "chunk_updates": self.chunk_updates,
            "updates": self.updates,
            "steps": self.steps,
            "hyperparameters": {name: describe(value) for name, value in values.items()},
        }


def split_updates(updates: int) -> tuple[int, int]:
    """`(chunks, updates per chunk)` covering at least `updates`: as near to 25 chunks, or more, as whole updates allow.

    >>> split_updates(7), split_updates(97), split_updates(10_000)
    ((7, 1), (25, 4), (100, 100))
    """
    wanted = max(WANTED_CHUNKS, math.ceil(updates / CHUNK_UPDATES))
    sizes = (max(1, updates // wanted), math.ceil(updates / wanted))
    size = min(sizes, key=lambda size: abs(math.ceil(updates / size) - wanted))
    return math.ceil(updates / size), size


def plan_train(options: Train) -> Plan:
    """The plan of `polopt train`; raises UsageError."""
    algorithm = _names.check_algorithm(options.algorithm)
    env = _names.check_environment(options.env)
    _check_sizes(options)
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out, the run directory to go on with")
    return _plan(algorithm, env, options, given(options.hyperparameters), steps=options.steps or default_steps(env))


def plan_compare(options: Compare) -> list[Plan]:
    """The plans of `polopt compare`, environment by environment; raises UsageError."""
    _check_sizes(options)
    if not (math.isfinite(options.budget) and options.budget > 0):
        raise UsageError(f"--budget must be a finite number above 0; it is {options.budget}")
    envs = _unique([_names.check_environment(env) for env in options.env], "--env")
    wanted = _unique([_names.check_algorithm(name) for name in options.algorithms], "--algorithms")
    pairs = [(name, env) for env in envs for name in _names.algorithms(env) if not wanted or name in wanted]
    for name in wanted:
        if not any(name == paired for paired, _ in pairs):
            _names.check_pair(name, envs[0])
    for env in envs:
        if not any(env == paired for _, paired in pairs):
            _names.check_pair(wanted[0], env)
    if all(env == _names.TOKEN_ENV for env in envs):
        _check_applicable(options, envs[0], is_token=True)

    def steps(env: str) -> int:
        return max(1, round(min((options.steps or default_steps(env)) * options.budget, 10**12)))

    return [_plan(name, env, options, {}, steps=steps(env)) for name, env in pairs]


def default_steps(env: str) -> int:
    """Steps per seed where nothing is said."""
    return DEFAULT_STEPS.get(env, OTHER_STEPS)


def _plan(algorithm: str, env: str, options: Train | Compare, overrides: Mapping[str, Any], *, steps: int) -> Plan:
    _names.check_pair(algorithm, env)
    check_parameters(algorithm, overrides)
    is_token = env == _names.TOKEN_ENV
    preset = (presets.TOKENS if is_token else presets.CONTROL)[algorithm]
    if isinstance(options, Train):
        _check_applicable(options, env, is_token=is_token)
    backend = None if is_token else _backend(options.backend, env)
    rollout_steps = (getattr(options, "rollout_steps", None) or preset.num_steps) if not is_token else preset.num_steps
    num_envs = options.num_envs or preset.num_rows
    chunks, chunk_updates = split_updates(math.ceil(steps / (num_envs * rollout_steps)))
    plan = Plan(
        algorithm=algorithm,
        env=env,
        backend=backend,
        episode_length=None if is_token else options.episode_length or EPISODE_LENGTH,
        num_envs=num_envs,
        rollout_steps=rollout_steps,
        group_size=(getattr(options, "group_size", None) or GROUP_SIZE) if is_token else None,
        seed=options.seed,
        num_seeds=options.num_seeds,
        chunk_updates=chunk_updates,
        num_chunks=chunks,
        hyperparameters={**preset.hyperparameters, **overrides},
    )
    _check_division(plan)
    return plan


def _backend(name: str | None, env: str) -> str:
    if name is not None:
        return _names.check_backend(name, env)
    known = _names.backends(env)
    return "spring" if "spring" in known else known[0]


def _unique(names: list[str], flag_name: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{flag_name} names {name} twice")
    return names


def _check_size(name: str, value: int | None, most: int, least: int = 1) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(f"{name} must be from {least} to {most:,}; it is {value}")


def _check_sizes(options: Train | Compare) -> None:
    _check_size("--steps", options.steps, 10**12)
    _check_size("--num-envs", options.num_envs, 2**20)
    _check_size("--episode-length", options.episode_length, 10**6)
    _check_size("--seed", options.seed, 10**9, least=0)
    _check_size("--num-seeds", options.num_seeds, 4096)
    if isinstance(options, Train):
        _check_size("--rollout-steps", options.rollout_steps, 10**5)
        _check_size("--group-size", options.group_size, 2**20)


def _check_applicable(options: Train | Compare, env: str, *, is_token: bool) -> None:
    """Raises UsageError if an option is given that means nothing for the environment."""
    kind = "the token world" if is_token else "a Brax environment"
    for name in ("rollout_steps", "episode_length", "backend") if is_token else ("group_size",):
        if getattr(options, name, None) is not None:
            raise UsageError(f"{flag(name)} does not apply to {kind} {env}")


def _check_division(plan: Plan) -> None:
    """Raises UsageError where one size must be a multiple of another and is not."""
    values = {**parameters(plan.algorithm), **plan.hyperparameters}
    divisors = {name: values[name] for name in ("num_minibatches", "value_minibatches") if name in values}
    if plan.group_size is not None:
        divisors["group_size"] = plan.group_size
    for name, divisor in divisors.items():
        if plan.num_envs % divisor:
            raise UsageError(f"--num-envs {plan.num_envs} is not a multiple of {flag(name)} {divisor}")
        if plan.group_size is not None and name != "group_size" and plan.num_envs // plan.group_size % divisor:
            raise UsageError(
                f"--num-envs {plan.num_envs} in groups of {plan.group_size} is not a multiple of {flag(name)} "
                f"{divisor} groups: groups stay whole"
            )
    if plan.algorithm == "grpo" and plan.group_size == 1:
        raise UsageError("grpo compares attempts at a prompt, so --group-size must be at least 2; it is 1")
    if plan.algorithm == "dpo" and (plan.num_envs % 2 or plan.num_envs > 2 * values["num_pairs"]):
        raise UsageError(
            f"dpo takes its --num-envs {plan.num_envs} sequences in pairs: an even number, of at most --num-pairs "
            f"{values['num_pairs']} pairs"
        )
    if plan.decisions * plan.num_seeds > 2**26:
        raise UsageError(
            f"an update would hold {plan.decisions * plan.num_seeds:,} decisions (environments x steps x seeds), "
            f"more than {2**26:,}; use fewer --num-envs or --num-seeds"
        )
