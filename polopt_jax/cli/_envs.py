"""The environments that the command knows, and `polopt envs`."""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from polopt_jax.cli import _worlds
from polopt_jax.cli._presets import PRESETS
from polopt_jax.cli._recipes import takes_groups
from polopt_jax.cli._words import OWN, UsageError, choose
from polopt_jax.envs import (
    Box,
    Environment,
    brax_backends,
    brax_names,
)
from polopt_jax.envs._families import FAMILIES, Family, family_of
from polopt_jax.settings import SIMULATED, is_own, is_simulated, own_env, simulated
from polopt_jax.simulators import Simulator

TOKEN_ENV = "skip_the_test"


class TokenWorld(NamedTuple):
    """What the token world is made of: the same in every run, whatever its seeds."""

    num_worlds: int = 8
    world_seed: int = 0
    network_width: int = 32
    network_depth: int = 1
    imitation_updates: int = 300
    imitation_seed: int = 1


TOKEN_WORLD = TokenWorld()


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
    return () if env == TOKEN_ENV or ":" in env else brax_backends(env)


def algorithms(env: str) -> tuple[str, ...]:
    """The algorithms that an environment can be learnt with, in the order of their history."""
    return tuple(name for name in PRESETS if env == TOKEN_ENV or not takes_groups(name))


def check_environment(name: str) -> str:
    """The environment called `name`; raises UsageError with the nearest name if there is none.

    One's own, `package.module:factory`, and a simulator, `gymnasium:NAME`, are imported, made and looked at; of a
    family's, `playground:NAME`, the name is.
    """
    if (family := family_of(name)) is not None:
        known = choose(f"environment of {family.called}", name.removeprefix(family.prefix), family.names())
        if not family.is_installed():
            raise UsageError(f"--env {name} needs the package {family.package}: {family.how_to_install()}")
        return family.prefix + known
    if ":" in name:
        _made(name)
        return name
    if gymnasium := re.fullmatch(r"(?:\w+/)?([A-Za-z0-9]+)-v\d+", name):
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", gymnasium[1]).lower()
        here = [known for known in (snake, snake.replace("_", "")) if known in environments()]
        hint = f"; --env {here[0]} is Brax's own, with other physics" if here else ""
        hint += f"; --env {SIMULATED}{name} is Gymnasium's, which is slower"
        known = ", ".join(environments())
        raise UsageError(f"{name!r} is a name of Gymnasium's, and this is Brax's list: {known}{hint}")
    world = name.replace("_", "-")
    if name not in environments() and world in _worlds.world_names():
        raise UsageError(f"--env {name} is a world{_learnt_by(world)}; environments are {', '.join(environments())}")
    prefixes = " or ".join(f"{family.prefix}NAME" for family in FAMILIES)
    return choose("environment", name, environments(), f"{OWN}, {prefixes}, a simulator {SIMULATED}NAME")


def _learnt_by(world: str) -> str:
    """The commands that learn in a world, if there are any."""
    from polopt_jax import study, suite

    found = [command for command, known in (("outcomes", suite.CASES), ("study", study.GROUNDS)) if world in known]
    said = " and ".join(f"`polopt {command} --worlds {world}`" for command in found)
    return f" of {said}" if found else f", which no command learns in (`polopt envs {world}`)"


def _made(name: str) -> Environment | Simulator:
    """An environment that is no name of a list's; raises UsageError with what is wrong with it."""
    try:
        if (family := family_of(name)) is not None:
            return family.make(name.removeprefix(family.prefix), None)
        return simulated(name) if is_simulated(name) else _readable(own_env(name))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--env {name}: {error}") from error


def _readable(env: Environment) -> Environment:
    """The same environment. Raises ValueError if an observation is no array of numbers, for an MLP to read."""
    obs = jax.eval_shape(env.reset, jax.random.key(0))[1]
    if not isinstance(obs, jax.ShapeDtypeStruct) or not math.prod(env.obs_shape):
        said = f"a {type(obs).__name__}" if not isinstance(obs, jax.ShapeDtypeStruct) else f"of shape {list(obs.shape)}"
        raise ValueError(f"observations must be an array of one number or more; they are {said}")
    return env


def has_real_actions(env: str) -> bool:
    """Whether the actions of an environment, one that was checked, are real numbers rather than choices."""
    if env == TOKEN_ENV:
        return False
    return isinstance(_made(env).action_space, Box) if ":" in env else True


def check_algorithm(name: str) -> str:
    """The algorithm called `name`; raises UsageError with the nearest one if there is none."""
    return choose("algorithm", name, tuple(PRESETS))


def check_backend(name: str, env: str) -> str:
    """The backend called `name` of an environment; raises UsageError with the nearest one."""
    return choose(f"backend of {env}", name, backends(env))


def check_pair(algorithm: str, env: str) -> None:
    """Raises UsageError if the environment cannot be learnt with the algorithm."""
    if algorithm not in algorithms(env):
        raise UsageError(
            f"{algorithm} learns token worlds only, and {env} is not one; use --env {TOKEN_ENV}, "
            f"or one of {', '.join(algorithms(env))}"
        )


def show(name: str | None, html: Path | None) -> None:
    """The command `polopt envs`: everything in tables, or what is known of one, or a page of worlds.

    One of the user's own is looked at: what it takes and gives.

    A token world that can be learnt in is an environment as well: of such a name both are shown.

    Raises UsageError if there is no such name, or if the page cannot be written where it should be.
    """
    worlds = _worlds.world_names()
    if name is not None and ":" in name and html is None:
        name = check_environment(name) if family_of(name) else name
        env = _made(name)
        if is_own(name) and (world := _worlds.own_rules(name)) is not None:
            _worlds.print_entry(world, _console())
            _console().print(f"\nLearnt by {', '.join(algorithms(name))}.", style="dim")
            return
        found = "; check_env finds nothing wrong" if is_own(name) else ""
        found = "; it can be reset and stepped" if is_simulated(name) else found
        print(f"{name}: observations {list(env.obs_shape)}, actions {env.action_space}{found}")
        print(f"Learnt by {', '.join(algorithms(name))}.")
        return
    if name is not None:
        name = choose("environment or world", name, (*worlds, *environments()), OWN)
    world = None if name is None else name.replace("_", "-")
    if html is not None:
        if world not in (None, *worlds):
            raise UsageError(f"--html draws worlds, and {name} is none; worlds: {', '.join(worlds)}")
        _worlds.write_worlds(html, worlds if world is None else (world,))
        print(f"Page: {html}")
    elif name is None:
        _print_environments(environments())
        _print_notes()
        _worlds.print_worlds(_console())
        _console().print("\npolopt envs WORLD draws one, and --html FILE makes a page of all.", style="dim")
    else:
        if name in environments():
            _print_environments((name,))
            _console().print(f"\nLearnt by {', '.join(algorithms(name))}.\n", style="dim")
        if world in worlds:
            _worlds.print_world(world, _console())


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)


def _print_environments(names: Sequence[str]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("environment", "obs", "action", "backends", "rewarded"):
        table.add_column(title, no_wrap=title != "rewarded", style="cyan" if title == "environment" else "")
    for name in names:
        about, known = ABOUT[name], backends(name)
        shown = "all four" if len(known) == 4 else ", ".join(known) or "none"
        table.add_row(name, about.observation, about.action, shown, about.rewarded)
    _console().print(table)


def _print_notes() -> None:
    token_only = [name for name in PRESETS if takes_groups(name)]
    slow = f"{SIMULATED}NAME is any environment of Gymnasium's, if that is installed; slow, as it steps on the host."
    more = "".join(_list(family) for family in FAMILIES if family.is_installed())
    _console().print(
        f"\nThe four backends are {', '.join(backends('ant'))}; spring is the default. A box n is n numbers in "
        f"[-1, 1].\nOf these {' and '.join(token_only)} learn {TOKEN_ENV} alone (and texts, --data); the others all.\n"
        f"{slow}\n{more}",
        style="dim",
    )


def _list(family: Family) -> str:
    return f"{family.prefix}NAME is one of {family.called}: {', '.join(family.names())}.\n"
