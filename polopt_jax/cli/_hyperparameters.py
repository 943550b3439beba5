"""The hyperparameter flags: which recipe has which, and what values make sense."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, NamedTuple

from polopt_jax.cli._errors import UsageError
from polopt_jax.cli._flags import name_, number, setting, whole_number
from polopt_jax.cli._names import nearest

BASELINES = ("none", "batch-mean", "running-mean", "learned")

_Float = Annotated[float | None, number, setting("FLOAT")]
_Int = Annotated[int | None, whole_number, setting("INT")]
_Lambda = Annotated[float | None, number, setting("FLOAT", name="lambda")]
_Name = Annotated[str | None, name_, setting("NAME")]


@dataclass(frozen=True)
class Hyperparameters:
    """What is not given is the preset's, else the recipe's default. Each recipe has some of these."""

    learning_rate: _Float = None
    """Step size of the policy; not trpo, which has a radius."""
    gamma: _Float = None
    """Discount, 0 to 1; not dpo, grpo."""
    lambda_: _Lambda = None
    """λ of generalised advantage estimation, 0 to 1; actor_critic, npg, trpo, ppo."""
    entropy_weight: _Float = None
    """Weight of the entropy bonus; reinforce, actor_critic, ppo."""
    value_weight: _Float = None
    """Weight of the value loss; actor_critic, ppo."""
    max_grad_norm: _Float = None
    """Norm to which a gradient is clipped; not npg, trpo."""
    baseline: _Name = None
    """none, batch-mean, running-mean or learned; reinforce."""
    clip_eps: _Float = None
    """The ratio is clipped to 1 ± this; ppo, grpo."""
    beta: _Float = None
    """Weight of the KL to the reference; dpo, grpo."""
    radius: _Float = None
    """Largest KL(old‖new) of an update, in nats per decision; trpo."""
    damping: _Float = None
    """Added to the diagonal of the Fisher matrix; npg, trpo."""
    cg_iters: _Int = None
    """Most iterations of conjugate gradients; npg, trpo."""
    fisher_every: _Int = None
    """The Fisher matrix is estimated on every so many-th row; npg, trpo."""
    value_learning_rate: _Float = None
    """Step size of the critic; npg, trpo."""
    value_epochs: _Int = None
    """Passes of the critic over each batch; npg, trpo."""
    value_minibatches: _Int = None
    """Minibatches of each such pass; npg, trpo."""
    num_epochs: _Int = None
    """Passes over each batch; ppo, grpo."""
    num_minibatches: _Int = None
    """Minibatches of each pass; ppo, grpo."""
    num_pairs: _Int = None
    """Preference pairs, drawn once; dpo."""
    max_redraws: _Int = None
    """Draws of a pair until its rewards differ; dpo."""


class _Range(NamedTuple):
    low: int
    high: int | None = None
    above: bool = False
    """Whether `low` itself is excluded."""

    def __contains__(self, value: Any) -> bool:
        representable = abs(value) < 3e38  # as float32; false for NaN
        enough = value > self.low if self.above else value >= self.low
        return representable and enough and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is not None:
            return f"from {self.low} to {self.high:,}"
        return f"above {self.low}" if self.above else f"of at least {self.low}"


_POSITIVE, _NONNEGATIVE, _UNIT, _COUNT = _Range(0, above=True), _Range(0), _Range(0, 1), _Range(1, 10**6)
_RANGES = {
    "learning_rate": _POSITIVE,
    "gamma": _UNIT,
    "lambda_": _UNIT,
    "entropy_weight": _NONNEGATIVE,
    "value_weight": _NONNEGATIVE,
    "max_grad_norm": _POSITIVE,
    "clip_eps": _POSITIVE,
    "beta": _NONNEGATIVE,
    "radius": _POSITIVE,
    "damping": _NONNEGATIVE,
    "value_learning_rate": _POSITIVE,
    "max_redraws": _Range(0, 10**6),
}
"""Those not named are counts."""


def flag(name: str) -> str:
    """The flag that sets a parameter.

    >>> flag("lambda_"), flag("clip_eps")
    ('--lambda', '--clip-eps')
    """
    return "--" + name.strip("_").replace("_", "-")


def given(options: Hyperparameters) -> dict[str, Any]:
    """Those that were set on the command line, each checked for its range alone."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if name == "baseline":
            if value not in BASELINES:
                near = nearest(value, BASELINES)
                raise UsageError(f"unknown baseline {value!r}; did you mean {near!r}? Known: {', '.join(BASELINES)}")
        elif value not in _RANGES.get(name, _COUNT):
            raise UsageError(f"{flag(name)} must be a finite number {_RANGES.get(name, _COUNT)}; it is {value!r}")
    return values


def recipe(algorithm: str) -> Callable[..., Any]:
    """The function of `polopt_jax.algorithms` called `algorithm`."""
    from polopt_jax import algorithms

    known = (
        algorithms.reinforce,
        algorithms.actor_critic,
        algorithms.npg,
        algorithms.trpo,
        algorithms.ppo,
        algorithms.dpo,
        algorithms.grpo,
    )
    return {function.__name__: function for function in known}[algorithm]


def parameters(algorithm: str) -> dict[str, Any]:
    """The keyword parameters of a recipe, with their defaults."""
    signature = inspect.signature(recipe(algorithm)).parameters.values()
    return {p.name: p.default for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_parameters(algorithm: str, values: Mapping[str, Any]) -> None:
    """Raises UsageError if the recipe has no such parameter, naming those that it has."""
    known = parameters(algorithm)
    for name in values:
        if name not in known:
            flags = ", ".join(flag(field.name) for field in fields(Hyperparameters) if field.name in known)
            raise UsageError(f"{algorithm} has no {flag(name)}; it has {flags}")


def describe(value: Any) -> Any:
    """A hyperparameter as JSON: numbers and names as they are, functions by name."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [describe(entry) for entry in value]
    return getattr(value, "__qualname__", type(value).__name__)
