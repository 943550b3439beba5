"""The flags of an algorithm's hyperparameters, made from its recipe's signature, and what was said with them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import tyro

from polopt_jax.cli import _recipes
from polopt_jax.cli._flags import NAME, NUMBER, NUMBERS, WHOLE
from polopt_jax.cli._options import Train
from polopt_jax.cli._words import UsageError, choose, flag
from polopt_jax.ranges import Interval

MOST = 10**6
"""The largest whole number that a hyperparameter may be."""


def train_options(algorithm: str) -> Any:
    """A dataclass of what `polopt train ALGORITHM` takes: `run`, a `Train`, and `hyperparameters`."""
    parameters = _recipes.parameters(algorithm)
    defaults = {name: _default(algorithm, name) for name in parameters}
    return options_with(Train, algorithm, parameters, defaults)


def options_with(
    run: Any, title: str, parameters: Mapping[str, _recipes.Parameter], defaults: Mapping[str, str]
) -> Any:
    """A dataclass of `run`, of the type `run`, and of `hyperparameters`, under a title of their own in the help."""
    flags = [_field(parameter, defaults[name]) for name, parameter in parameters.items()]
    hyperparameters = dataclasses.make_dataclass("Hyperparameters", flags, frozen=True)
    hyperparameters.__doc__ = ""  # or the help would show the signature
    of_run = Annotated[run, tyro.conf.arg(name="")]
    own = Annotated[hyperparameters, tyro.conf.arg(name=title)]
    return dataclasses.make_dataclass("Options", [("run", of_run), ("hyperparameters", own)], frozen=True)


def _field(parameter: _recipes.Parameter, default: str) -> tuple[str, Any, Any]:
    """A field for `make_dataclass`: what is not given is None."""
    kind, metavar = (WHOLE, "N") if parameter.whole else (NAME, "NAME") if parameter.choices else (NUMBER, "FLOAT")
    if parameter.pair:
        kind, metavar = NUMBERS, "FLOAT[,FLOAT]"
    text, allowed = parameter.text, ", ".join(parameter.choices) or str(parameter.range)
    told = tyro.conf.arg(
        name=parameter.name.strip("_"),
        metavar=metavar,
        help=text[:1].upper() + text[1:] if text[:1].isascii() else text,
        help_behavior_hint=f"({allowed}; default: {default})",
    )
    return parameter.name, Annotated[Any, kind, told], None


def _default(algorithm: str, name: str) -> str:
    """What holds where nothing is said, on environments and on token worlds where the two differ."""
    kinds = (True,) if _recipes.takes_groups(algorithm) else (False, True)
    values = [_recipes.defaults(algorithm, is_token=is_token)[name] for is_token in kinds]
    texts = [shown(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]}; on token worlds {texts[1]}"


def shown(value: Any) -> str:
    """A default as the help has it.

    >>> shown(0.0003), shown((0.2, 0.28)), shown(None)
    ('0.0003', '0.2,0.28', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def given(parameters: Mapping[str, _recipes.Parameter], options: Any) -> dict[str, Any]:
    """The hyperparameters that the command line set, each checked for what it may be. Raises UsageError."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    values = {name: value for name, value in values.items() if value is not None}
    for name, parameter in parameters.items():
        if name in values and parameter.choices:
            values[name] = choose(f"value of {flag(name)}", values[name], tuple(parameter.choices))
        elif name in values and parameter.range is not None:
            for number in values[name] if isinstance(values[name], tuple) else [values[name]]:
                _check_number(flag(name), number, parameter.range, whole=parameter.whole)
    return values


def _check_number(name: str, value: float, allowed: Interval, *, whole: bool) -> None:
    """Raises UsageError unless a number is finite, allowed, and neither 0 nor infinite once it is a float32.

    What float32 holds only as a subnormal number counts as 0, which is what XLA makes of it. Whole numbers end at MOST.
    """
    if whole and not allowed.low <= value <= MOST:
        raise UsageError(f"{name} must be a whole number from {allowed.low:g} to {MOST:,}; it is {value!r}")
    if not math.isfinite(value) or value not in allowed:
        raise UsageError(f"{name} must be finite and {allowed}; it is {value!r}")
    smallest, largest = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
    if value and not smallest <= abs(value) <= largest:
        extent = "small" if abs(value) < smallest else "large"
        raise UsageError(f"{name} must be a number that float32 can hold; {value!r} is too {extent}")
