"""From options to a plan, everything checked and decided before anything is built."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import optax

from polopt_jax import loggers, runs, settings
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli import _envs, _recipes
from polopt_jax.cli._kinds import APPLIED, VECTORS, Kind, kind_of
from polopt_jax.cli._options import Compare, Train
from polopt_jax.cli._versions import PACKAGES, versions
from polopt_jax.cli._words import UsageError, choose, flag, unique
from polopt_jax.networks import INITIAL_LOG_STD
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
    "eval_every": (1, 10**12),
    "eval_episodes": (1, 2**16),
    "hidden": (1, 2**16),
    "memory": (1, 2**16),
    "initial_log_std": (-20, 20),
}
"""From what to what each may be."""
GROUP_SIZE = 8
EVAL_EPISODES = 16
RATES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda rate, updates: rate,
    "linear": lambda rate, updates: optax.linear_schedule(rate, 0.0, updates),
    "cosine": lambda rate, updates: optax.cosine_decay_schedule(rate, updates),
}
"""By its name, what becomes of a learning rate in so many updates: a number, or a schedule of the update's number."""
LOGGERS = {"csv": "csv", "tensorboard": "tensorboardX", "wandb": "wandb"}
"""By its name, the package that a logger writes with."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One algorithm on one environment, every size decided."""

    algorithm: str
    env: str
    backend: str | None
    episode_length: int | None
    vectorization: str | None
    """How simulators run, of `VECTORS`."""
    num_envs: int
    rollout_steps: int
    group_size: int | None
    hidden: tuple[int, ...] | None
    """None of the token world, as `activation`."""
    memory: int | None
    activation: str | None
    initial_log_std: float | None
    """None where actions are choices."""
    rate: str
    """What becomes of the learning rate, of `RATES`."""
    eval_every: int | None
    """Updates between two evaluations; None for none."""
    eval_episodes: int | None
    log_to: tuple[str, ...]
    hyperparameters: dict[str, Any]
    """Every one: as given, else the preset's, else the recipe's default. What is a function has a name
    (`_recipes.NAMED`)."""
    schedule: runs.Schedule

    @property
    def title(self) -> str:
        """What is learnt, in a few words."""
        return f"{self.algorithm} on {self.env}"

    @property
    def name(self) -> str:
        """What its directory is called, where nobody says."""
        return runs.plain_name(f"{self.env.replace(':', '.')}-{self.algorithm}")

    @property
    def is_token(self) -> bool:
        """Whether the environment is the token world."""
        return self.env == _envs.TOKEN_ENV

    @property
    def kind(self) -> Kind:
        """What kind of environment it is."""
        return kind_of(self.env)

    @property
    def arguments(self) -> dict[str, Any]:
        """The hyperparameters, the learning rate as the schedule that it follows."""
        if self.rate not in RATES or "learning_rate" not in self.hyperparameters:
            return self.hyperparameters
        rate = RATES[self.rate](self.hyperparameters["learning_rate"], self.schedule.updates)
        return {**self.hyperparameters, "learning_rate": rate}

    @property
    def measured_apart(self) -> bool:
        """Whether the reward is measured apart, on rollouts that nothing is learnt from."""
        return put_together(self).measure is not None

    def config(self) -> dict[str, Any]:
        """The plan as JSON, with every default, constant and version written out: equal configs are equal runs."""
        apart = ("hyperparameters", "schedule", "rate", "eval_every")
        own = {name: x for name, x in asdict(self).items() if name not in apart}
        sizes = {name: list(x) if isinstance(x, tuple) else x for name, x in own.items()}
        return {
            **sizes,
            **self.schedule.config(),
            "schedule": self.rate,
            "eval_every": self.eval_every and self.eval_every * self.schedule.decisions,
            "hyperparameters": self.hyperparameters,
            "world": _envs.TOKEN_WORLD._asdict() if self.is_token else None,
            "versions": versions(*PACKAGES, *filter(None, (self.kind.package,))),
        }


def plan_train(algorithm: str, options: Train, hyperparameters: Mapping[str, Any] | None = None) -> Plan:
    """The plan of `polopt train`, with the hyperparameters that were given; raises UsageError."""
    algorithm = _envs.check_algorithm(algorithm)
    env = _envs.check_environment(options.env)
    _check_sizes(options)
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out, the run directory to go on with")
    return _plan(algorithm, env, options, hyperparameters or {}, steps=options.steps or default_steps(env))


def plan_compare(options: Compare) -> list[Plan]:
    """The plans of `polopt compare`, environment by environment; raises UsageError."""
    _check_sizes(options)
    if not (math.isfinite(options.budget) and options.budget > 0):
        raise UsageError(f"--budget must be a finite number above 0; it is {options.budget}")
    envs = unique([_envs.check_environment(env) for env in options.env], "--env")
    wanted = unique([_envs.check_algorithm(name) for name in options.algorithms], "--algorithms")
    pairs = [(name, env) for env in envs for name in _envs.algorithms(env) if not wanted or name in wanted]
    for name in wanted:
        if not any(name == paired for paired, _ in pairs):
            _envs.check_pair(name, envs[0])
    for env in envs:
        if not any(env == paired for _, paired in pairs):
            _envs.check_pair(wanted[0], env)
    if len({kind_of(env) for env in envs}) == 1:
        _check_applicable(options, envs[0])

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
        _check_applicable(options, env)
    kind = kind_of(env)
    rollout_steps = _option(options, "rollout_steps") or preset.num_steps
    num_envs = options.num_envs or preset.num_rows
    decisions = num_envs * rollout_steps
    eval_every = _option(options, "eval_every")
    evaluated = eval_every and max(1, round(eval_every / decisions))
    plan = Plan(
        algorithm=algorithm,
        env=env,
        backend=_backend(options.backend, env) if "backend" in kind.options else None,
        episode_length=(options.episode_length or kind.episode_length) if "episode_length" in kind.options else None,
        vectorization=_named(options, "vectorization", VECTORS) if "vectorization" in kind.options else None,
        num_envs=num_envs,
        rollout_steps=rollout_steps,
        group_size=(_option(options, "group_size") or GROUP_SIZE) if is_token else None,
        hidden=None if is_token else _option(options, "hidden") or settings.HIDDEN,
        memory=_option(options, "memory"),
        activation=None if is_token else _named(options, "activation", settings.ACTIVATIONS),
        initial_log_std=_initial_log_std(_option(options, "initial_log_std"), env),
        rate=_rate(algorithm, options),
        eval_every=evaluated,
        eval_episodes=evaluated and (_option(options, "eval_episodes") or EVAL_EPISODES),
        log_to=check_loggers(_option(options, "log_to") or ()),
        hyperparameters={**_recipes.defaults(algorithm, is_token=is_token), **overrides},
        schedule=runs.schedule(
            steps=steps, decisions=decisions, seed=options.seed, num_seeds=options.num_seeds, within=evaluated
        ),
    )
    _check_division(plan)
    _check_recipe(plan)
    return plan


def _option(options: Train | Compare, name: str) -> Any:
    """What was said; None where nothing was, or where the command has no such option."""
    return getattr(options, name, None)


def _named(options: Train | Compare, name: str, known: Mapping[str, Any]) -> str:
    """Which of the known was said, by its name; the first where nothing was."""
    said = _option(options, name)
    return next(iter(known)) if said is None else choose(name, said, tuple(known))


def _initial_log_std(wanted: float | None, env: str) -> float | None:
    real = _envs.has_real_actions(env)
    if wanted is not None and not real:
        raise UsageError(f"--initial-log-std is of real actions, and those of {env} are choices")
    return INITIAL_LOG_STD if real and wanted is None else wanted


def _rate(algorithm: str, options: Train | Compare) -> str:
    constant = next(iter(RATES))  # what a run without a learning rate has written down, and goes on with
    if _option(options, "schedule") not in (None, constant) and "learning_rate" not in _recipes.parameters(algorithm):
        raise UsageError(f"--schedule is what becomes of --learning-rate, and {algorithm} has none")
    return _named(options, "schedule", RATES)


def check_loggers(names: tuple[str, ...]) -> tuple[str, ...]:
    """The loggers that are meant; raises UsageError where one is unknown, named twice, or its package is missing."""
    chosen = unique([choose("logger", name, tuple(LOGGERS)) for name in names], "--log-to")
    for name in chosen:
        try:
            loggers.package(LOGGERS[name], f"--log-to {name}")
        except loggers.MissingPackage as error:
            raise UsageError(str(error)) from error
    return tuple(chosen)


def _backend(name: str | None, env: str) -> str:
    if name is not None:
        return _envs.check_backend(name, env)
    known = _envs.backends(env)
    return "spring" if "spring" in known else known[0]


def _check_sizes(options: Train | Compare) -> None:
    for name, (least, most) in SIZES.items():
        value = _option(options, name)
        for size in value if isinstance(value, tuple) else [] if value is None else [value]:
            if not least <= size <= most:
                raise UsageError(f"{flag(name)} must be from {least} to {most:,}; it is {size}")


def _check_applicable(options: Train | Compare, env: str) -> None:
    """Raises UsageError if an option is given that means nothing for the environment."""
    kind = kind_of(env)
    for name in APPLIED:
        if name not in kind.options and _option(options, name) is not None:
            raise UsageError(f"{flag(name)} does not apply to {kind.called}{' ' + env if ':' not in env else ''}")
    if _option(options, "eval_episodes") is not None and _option(options, "eval_every") is None:
        raise UsageError("--eval-episodes says how long an evaluation is; --eval-every N asks for them")


def _check_division(plan: Plan) -> None:
    """Raises UsageError where one size must be a multiple of another and is not, or an update would not fit anywhere.

    A hyperparameter `...minibatches` divides the rows of an update. Groups and rows that are remembered stay whole;
    others are dealt out step by step (`rows.shuffled_decisions`).
    """
    is_whole = plan.is_token or plan.memory is not None
    divisors = {} if plan.group_size is None else {"group_size": plan.group_size}
    divisors |= {name: value for name, value in plan.hyperparameters.items() if name.endswith("minibatches")}
    for name, divisor in divisors.items():
        dealt = 1 if is_whole else math.gcd(divisor, plan.rollout_steps)
        if plan.num_envs % (divisor // dealt):  # where steps are dealt too: it does not divide the decisions
            steps, decisions = plan.rollout_steps, plan.num_envs * plan.rollout_steps
            whole = "" if is_whole else f" x --rollout-steps {steps} = {decisions}"
            raise UsageError(f"{flag(name)} {divisor} must divide --num-envs {plan.num_envs}{whole}")
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
        put_together(plan)
    except ValueError as error:
        names = {*_recipes.parameters(plan.algorithm), "num_envs", "group_size"}
        said = re.sub(r"\b[a-z]+(_[a-z]*)+\b", lambda m: flag(m[0]) if m[0] in names else m[0], str(error))
        raise UsageError(f"--num-envs {plan.num_envs}: {said}") from None


def put_together(plan: Plan) -> Algorithm:
    """The algorithm of a plan on a task that has sizes and nothing else, so that it cannot be run."""

    def unused(*_: Any) -> NoReturn:
        raise NotImplementedError("a recipe runs nothing while it is put together")

    group = plan.group_size
    rows = (plan.num_envs,) if group is None else (plan.num_envs // group, group)
    task: Any = Task(unused, unused, unused, unused, rows, plan.rollout_steps)
    if _recipes.takes_groups(plan.algorithm):
        task = GroupTask(task, reference=None, prompts=unused, attempt=unused)
    return _recipes.make(plan.algorithm, task, plan.arguments)
