"""From options to a plan, everything checked and decided before anything is built; and what came of it."""

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, NoReturn

import polopt_jax
from polopt_jax import runs
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli import _envs, _recipes
from polopt_jax.cli._options import Compare, Resume, Train
from polopt_jax.cli._words import UsageError, flag
from polopt_jax.tasks import GroupTask, Task

DEFAULT_STEPS = {"inverted_pendulum": 400_000, _envs.TOKEN_ENV: 200_000}
OTHER_STEPS = 5_000_000
"""Steps per seed where nothing is said: enough to see learning, and minutes on two CPU cores."""
SIZES = {
    "steps": (1, 10**12),
    "num_envs": (1, 2**20),
    "episode_length": (1, 10**6),
    "seed": (0, 10**9),
    "num_seeds": (1, 4096),
    "rollout_steps": (1, 10**5),
    "group_size": (1, 2**20),
}
"""From what to what each may be."""
GROUP_SIZE = 8
EPISODE_LENGTH = 1000
PACKAGES = ("jax", "jaxlib", "flax", "optax")
"""What, besides this package, decides the numbers of any run."""


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
    hyperparameters: dict[str, Any]
    """Every one: as given, else the preset's, else the recipe's default. What is a function has a name
    (`_recipes.NAMED`)."""
    schedule: runs.Schedule

    @property
    def title(self) -> str:
        """What is learnt, in a few words."""
        return f"{self.algorithm} on {self.env}"

    @property
    def is_token(self) -> bool:
        """Whether the environment is the token world."""
        return self.env == _envs.TOKEN_ENV

    def config(self) -> dict[str, Any]:
        """The plan as JSON, with every default, constant and version written out: equal configs are equal runs."""
        sizes = {name: x for name, x in asdict(self).items() if name not in ("hyperparameters", "schedule")}
        return {
            **sizes,
            **self.schedule.config(),
            "hyperparameters": self.hyperparameters,
            "world": _envs.TOKEN_WORLD._asdict() if self.is_token else None,
            "versions": versions(*PACKAGES, *(() if self.is_token else ("brax",))),
        }


Summary = dict[str, Any]
"""A run in numbers: a line of the table."""


class Result(NamedTuple):
    """A run as far as it went."""

    plan: Plan
    rows: Sequence[runs.Row]
    complaint: str | None = None
    """Why it was given up."""

    @property
    def status(self) -> str:
        """`finished`, `interrupted` or `non-finite`."""
        if self.complaint is not None:
            return "non-finite"
        return "finished" if self.rows and self.rows[-1]["update"] >= self.plan.schedule.updates else "interrupted"

    @property
    def failure(self) -> str | None:
        """What was given up, and why."""
        return self.complaint and f"{self.plan.title}: {self.complaint}"

    @property
    def summary(self) -> Summary:
        """Its line of the table. The reward of what learns from no rollouts of its own is measured apart, on others."""
        named = {"algorithm": self.plan.algorithm, "env": self.plan.env, "status": self.status}
        return {**named, "measured_apart": _put_together(self.plan).measure is not None, **runs.summarise(self.rows)}


def versions(*packages: str) -> dict[str, str | None]:
    """The installed version of each package, None where it is not installed; before them that of polopt_jax."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {"polopt_jax": polopt_jax.__version__, **{package: version(package) for package in packages}}


def plan_train(algorithm: str, options: Train, hyperparameters: Mapping[str, Any] | None = None) -> Plan:
    """The plan of `polopt train`, with the hyperparameters that were given; raises UsageError."""
    algorithm = _envs.check_algorithm(algorithm)
    env = _envs.check_environment(options.env)
    _check_sizes(options)
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out, the run directory to go on with")
    return _plan(algorithm, env, options, hyperparameters or {}, steps=options.steps or default_steps(env))


def plan_resume(options: Resume) -> tuple[Train, Plan]:
    """The options and the plan of the run in a directory, from its config; raises UsageError and RunError."""
    path = runs.check_path(options.out) / runs.CONFIG
    config = runs.read_config(options.out)
    try:
        is_token = config["world"] is not None
        own = ("group_size",) if is_token else ("rollout_steps", "episode_length", "backend")
        sizes = {name: config[name] for name in ("env", "num_envs", "seed", "num_seeds", *own)}
        steps = options.steps or config["steps"]
        train = Train(**sizes, steps=steps, out=options.out, resume=True, json=options.json)
        return train, plan_train(config["algorithm"], train, config["hyperparameters"])
    except (KeyError, TypeError, AttributeError) as error:
        raise runs.RunError(f"{path} is damaged, or that of another version: {error!r}") from error


def plan_compare(options: Compare) -> list[Plan]:
    """The plans of `polopt compare`, environment by environment; raises UsageError."""
    _check_sizes(options)
    if not (math.isfinite(options.budget) and options.budget > 0):
        raise UsageError(f"--budget must be a finite number above 0; it is {options.budget}")
    envs = _unique([_envs.check_environment(env) for env in options.env], "--env")
    wanted = _unique([_envs.check_algorithm(name) for name in options.algorithms], "--algorithms")
    pairs = [(name, env) for env in envs for name in _envs.algorithms(env) if not wanted or name in wanted]
    for name in wanted:
        if not any(name == paired for paired, _ in pairs):
            _envs.check_pair(name, envs[0])
    for env in envs:
        if not any(env == paired for _, paired in pairs):
            _envs.check_pair(wanted[0], env)
    if all(env == _envs.TOKEN_ENV for env in envs):
        _check_applicable(options, envs[0], is_token=True)

    def steps(env: str) -> int:
        return max(1, round(min((options.steps or default_steps(env)) * options.budget, 10**12)))

    return [_plan(name, env, options, {}, steps=steps(env)) for name, env in pairs]


def default_steps(env: str) -> int:
    """Steps per seed where nothing is said."""
    return DEFAULT_STEPS.get(env, OTHER_STEPS)


def _plan(algorithm: str, env: str, options: Train | Compare, overrides: Mapping[str, Any], *, steps: int) -> Plan:
    _envs.check_pair(algorithm, env)
    is_token = env == _envs.TOKEN_ENV
    preset = _recipes.preset(algorithm, is_token=is_token)
    if isinstance(options, Train):
        _check_applicable(options, env, is_token=is_token)
    backend = None if is_token else _backend(options.backend, env)
    rollout_steps = getattr(options, "rollout_steps", None) or preset.num_steps
    num_envs = options.num_envs or preset.num_rows
    plan = Plan(
        algorithm=algorithm,
        env=env,
        backend=backend,
        episode_length=None if is_token else options.episode_length or EPISODE_LENGTH,
        num_envs=num_envs,
        rollout_steps=rollout_steps,
        group_size=(getattr(options, "group_size", None) or GROUP_SIZE) if is_token else None,
        hyperparameters={**_recipes.defaults(algorithm, is_token=is_token), **overrides},
        schedule=runs.schedule(
            steps=steps, decisions=num_envs * rollout_steps, seed=options.seed, num_seeds=options.num_seeds
        ),
    )
    _check_division(plan)
    _check_recipe(plan)
    return plan


def _backend(name: str | None, env: str) -> str:
    if name is not None:
        return _envs.check_backend(name, env)
    known = _envs.backends(env)
    return "spring" if "spring" in known else known[0]


def _unique(names: list[str], flag_name: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{flag_name} names {name} twice")
    return names


def _check_sizes(options: Train | Compare) -> None:
    for name, (least, most) in SIZES.items():
        value = getattr(options, name, None)
        if value is not None and not least <= value <= most:
            raise UsageError(f"{flag(name)} must be from {least} to {most:,}; it is {value}")


def _check_applicable(options: Train | Compare, env: str, *, is_token: bool) -> None:
    """Raises UsageError if an option is given that means nothing for the environment."""
    kind = "the token world" if is_token else "a Brax environment"
    for name in ("rollout_steps", "episode_length", "backend") if is_token else ("group_size",):
        if getattr(options, name, None) is not None:
            raise UsageError(f"{flag(name)} does not apply to {kind} {env}")


def _check_division(plan: Plan) -> None:
    """Raises UsageError where one size must be a multiple of another and is not, or an update would not fit anywhere.

    A hyperparameter `...minibatches` divides the rows of an update, of which groups stay whole.
    """
    divisors = {} if plan.group_size is None else {"group_size": plan.group_size}
    divisors |= {name: value for name, value in plan.hyperparameters.items() if name.endswith("minibatches")}
    for name, divisor in divisors.items():
        if plan.num_envs % divisor:
            raise UsageError(f"--num-envs {plan.num_envs} is not a multiple of {flag(name)} {divisor}")
        if plan.group_size is not None and name != "group_size" and plan.num_envs // plan.group_size % divisor:
            raise UsageError(
                f"--num-envs {plan.num_envs} in groups of {plan.group_size} is not a multiple of {flag(name)} "
                f"{divisor} groups: groups stay whole"
            )
    decisions = plan.schedule.decisions * plan.schedule.num_seeds
    if decisions > 2**26:
        raise UsageError(
            f"an update would hold {decisions:,} decisions (environments x steps x seeds), "
            f"more than {2**26:,}; use fewer --num-envs or --num-seeds"
        )


def _check_recipe(plan: Plan) -> None:
    """Raises UsageError if the recipe refuses the sizes and hyperparameters. It names parameters; they become flags."""
    try:
        _put_together(plan)
    except ValueError as error:
        names = {*_recipes.parameters(plan.algorithm), "num_envs", "group_size"}
        said = re.sub(r"\b[a-z]+(_[a-z]*)+\b", lambda m: flag(m[0]) if m[0] in names else m[0], str(error))
        raise UsageError(f"--num-envs {plan.num_envs}: {said}") from None


def _put_together(plan: Plan) -> Algorithm:
    """The algorithm of a plan on a task that has sizes and nothing else, so that it cannot be run."""

    def unused(*_: Any) -> NoReturn:
        raise NotImplementedError("a recipe runs nothing while it is put together")

    group = plan.group_size
    rows = (plan.num_envs,) if group is None else (plan.num_envs // group, group)
    task: Any = Task(unused, unused, unused, unused, rows, plan.rollout_steps)
    if _recipes.takes_groups(plan.algorithm):
        task = GroupTask(task, reference=None, prompts=unused, attempt=unused)
    return _recipes.make(plan.algorithm, task, plan.hyperparameters)
