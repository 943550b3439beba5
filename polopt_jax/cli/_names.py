"""Which environments and algorithms the command knows, and what it says about those it does not."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from polopt_jax.cli import _presets as presets
from polopt_jax.cli._errors import UsageError
from polopt_jax.envs import brax_backends, brax_names

TOKEN_ENV = "skip_the_test"


class About(NamedTuple):
    """What `polopt envs` says of an environment."""

    observation: str
    action: str
    rewarded: str


ABOUT = {
    "ant": About("27", "box 8", "running, staying up"),
    "halfcheetah": About("17", "box 6", "running forward"),
    "hopper": About("11", "box 3", "hopping, staying up"),
    "humanoid": About("244", "box 17", "running, staying up"),
    "humanoidstandup": About("244", "box 17", "raising the torso"),
    "inverted_double_pendulum": About("8", "box 1", "balancing two poles"),
    "inverted_pendulum": About("4", "box 1", "balancing a pole"),
    "pusher": About("23", "box 7", "pushing an object home"),
    "reacher": About("11", "box 2", "reaching a target"),
    "swimmer": About("8", "box 2", "swimming forward"),
    "walker2d": About("17", "box 6", "walking, staying up"),
    TOKEN_ENV: About("24 tokens", "6 tokens", "skip or pass the test"),
}
"""By name, in the order of the table. A test holds the sizes against Brax."""


def environments() -> tuple[str, ...]:
    """Every name that `--env` takes."""
    return (*brax_names(), TOKEN_ENV)


def backends(env: str) -> tuple[str, ...]:
    """The physics backends of an environment; none for the token world."""
    return () if env == TOKEN_ENV else brax_backends(env)


def algorithms(env: str) -> tuple[str, ...]:
    """The algorithms that an environment can be learnt with, in the order of their history."""
    return tuple(presets.TOKENS if env == TOKEN_ENV else presets.CONTROL)


def check_environment(name: str) -> str:
    """The environment called `name`; raises UsageError with the nearest name if there is none."""
    return _known("environment", name, environments())


def check_algorithm(name: str) -> str:
    """The algorithm called `name` (hyphens are as good as underscores); raises UsageError with the nearest one."""
    return _known("algorithm", name, algorithms(TOKEN_ENV))


def check_pair(algorithm: str, env: str) -> None:
    """Raises UsageError if the environment cannot be learnt with the algorithm."""
    if algorithm not in algorithms(env):
        raise UsageError(
            f"{algorithm} learns token worlds only, and {env} is not one; use --env {TOKEN_ENV}, "
            f"or one of {', '.join(algorithms(env))}"
        )


def check_backend(name: str, env: str) -> str:
    """The backend called `name` of an environment; raises UsageError with the nearest one."""
    return _known(f"backend of {env}", name, backends(env))


def nearest(name: str, known: Sequence[str]) -> str:
    """The entry of `known` most like `name`, capitals apart."""
    return difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]


def _known(kind: str, name: str, known: Sequence[str]) -> str:
    for candidate in (name, name.lower().replace("-", "_")):
        if candidate in known:
            return candidate
    raise UsageError(f"unknown {kind} {name!r}; did you mean {nearest(name, known)!r}? Known: {', '.join(known)}")
