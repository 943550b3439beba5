"""What the recipes say of themselves: which hyperparameters they have, of what kind and range, and what they learn.

Nothing here names an algorithm. A recipe is a function of `polopt_jax.algorithms` that has a preset; its signature and
the `Args:` of its docstring are all that the command knows of it.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_origin

import docstring_parser

from polopt_jax import advantages, algorithms
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli._presets import PRESETS, Preset
from polopt_jax.ranges import Interval
from polopt_jax.tasks import GroupTask, Task

NAMED: dict[Any, dict[str, Callable[[], Any]]] = {
    advantages.Baseline: {
        "batch-mean": advantages.batch_mean_baseline,
        "none": advantages.static_baseline,
        "running-mean": advantages.running_mean_baseline,
        "learned": advantages.learned_baseline,
    }
}
"""What a parameter of such a type is called on the command line; the first is what a recipe takes for None."""


class Parameter(NamedTuple):
    """A hyperparameter of a recipe that the command line can set."""

    name: str
    text: str
    """What the docstring says of it."""
    default: Any
    """The recipe's own; of a named function its name."""
    range: Interval | None
    """None for a named function."""
    whole: bool
    """Whether it is a whole number."""
    choices: dict[str, Callable[[], Any]]
    """The functions that it may be, by name; empty for a number."""
    pair: bool = False
    """Whether it may also be two numbers."""


def recipe(algorithm: str) -> Callable[..., Algorithm]:
    """The function of `polopt_jax.algorithms` called `algorithm`."""
    return getattr(algorithms, algorithm)


def takes_groups(algorithm: str) -> bool:
    """Whether the recipe takes a `GroupTask`, and so learns token worlds only."""
    task = next(iter(_signature(algorithm)))
    return task.annotation is GroupTask


def preset(algorithm: str, *, is_token: bool) -> Preset:
    """How the command runs an algorithm on a token world or on an environment."""
    return PRESETS[algorithm].tokens if is_token else PRESETS[algorithm].control


def parameters(algorithm: str) -> dict[str, Parameter]:
    """The hyperparameters that the command line can set, by name, in the recipe's order."""
    return parameters_of(recipe(algorithm))


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword parameters of any function that the command line can set.

    A parameter whose annotation has no interval and is no type of `NAMED` is for Python alone.
    """
    documented = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    texts = {name: entry.description or "" for entry in documented.params for name in entry.arg_name.split(", ")}
    found = {}
    for entry in inspect.signature(function, eval_str=True).parameters.values():
        if entry.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        range_ = next((x for x in getattr(entry.annotation, "__metadata__", ()) if isinstance(x, Interval)), None)
        choices = next((NAMED[x] for x in (entry.annotation, *get_args(entry.annotation)) if _is_named(x)), {})
        if range_ is not None or choices:
            text = " ".join(texts.get(entry.name, "").replace("`", "").split())
            default = next(iter(choices)) if choices and entry.default is None else entry.default
            whole = range_ is not None and entry.annotation.__origin__ is int
            pair = range_ is not None and any(get_origin(x) is tuple for x in get_args(entry.annotation.__origin__))
            found[entry.name] = Parameter(entry.name, text, default, range_, whole, choices, pair)
    return found


def defaults(algorithm: str, *, is_token: bool) -> dict[str, Any]:
    """What each hyperparameter is where nothing is said: the preset's value, else the recipe's default."""
    own = {name: parameter.default for name, parameter in parameters(algorithm).items()}
    return {**own, **preset(algorithm, is_token=is_token).hyperparameters}


def make(algorithm: str, task: Task | GroupTask, values: Mapping[str, Any]) -> Algorithm:
    """The algorithm with hyperparameters as the command line has them, where functions have names."""
    known = parameters(algorithm)
    chosen = {name: known[name].choices[x]() if known[name].choices else x for name, x in values.items()}
    return recipe(algorithm)(task, **chosen)


def about(algorithm: str) -> list[str]:
    """The paragraphs of the recipe's docstring, without those on its arguments and on what it raises."""
    return paragraphs_of(recipe(algorithm))


def paragraphs_of(function: Callable[..., Any]) -> list[str]:
    """The paragraphs of any function's docstring, without those on its arguments and on what it raises."""
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(function) or function.__name__)
    return [" ".join(paragraph.split()) for paragraph in paragraphs if not paragraph.startswith(("Args:", "Raises"))]


def _signature(algorithm: str) -> list[inspect.Parameter]:
    return list(inspect.signature(recipe(algorithm), eval_str=True).parameters.values())


def _is_named(kind: Any) -> bool:
    return isinstance(kind, type) and kind in NAMED
