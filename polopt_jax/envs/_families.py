"""Environments of other packages that are pure JAX, by a name: a prefix, which says whose it is, and theirs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from polopt_jax.envs._gymnax import LIMIT, gymnax_env
from polopt_jax.envs._playground import playground_env, playground_names
from polopt_jax.envs._protocol import Environment


class Family(NamedTuple):
    """The environments of a package."""

    prefix: str
    """What their names begin with, `playground:`."""
    called: str
    """Whose they are, in words."""
    package: str
    """Under which it is installed, and the name of the extra that does it."""
    module: str
    names: Callable[[], tuple[str, ...]]
    """What there is, without importing it."""
    make: Callable[[str, int | None], Environment]
    """`(name, episode length) -> environment`, of the usual length if that is None."""
    episode_length: int | None
    """The usual one; None where each has its own."""

    def is_installed(self) -> bool:
        """Whether it is. Does not import it."""
        return importlib.util.find_spec(self.module) is not None

    def how_to_install(self) -> str:
        """What to type."""
        return f"pip install 'polopt-jax[{self.package}]'"


_USUAL_LENGTH = 1000
_OF_GYMNAX = (
    *("Acrobot-v1", "Asterix-MinAtar", "BernoulliBandit-misc", "Breakout-MinAtar", "CartPole-v1", "Catch-bsuite"),
    *("DeepSea-bsuite", "DiscountingChain-bsuite", "FourRooms-misc", "Freeway-MinAtar", "GaussianBandit-misc"),
    *("MemoryChain-bsuite", "MetaMaze-misc", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"),
    *("PointRobot-misc", "Pong-misc", "Reacher-misc", "SpaceInvaders-MinAtar", "Swimmer-misc", "UmbrellaChain-bsuite"),
)
"""All of version 0.0.9 but MNISTBandit-bsuite, which downloads its data, and SimpleBandit-bsuite, whose step fails."""
_SEES_TIME = (
    *("BernoulliBandit-misc", "DiscountingChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc", "PointRobot-misc"),
)
"""Whose observations tell how much of the episode is left: its length is part of the task, and its end is an end."""


def _playground(name: str, episode_length: int | None) -> Environment:
    return playground_env(name, episode_length=episode_length or _USUAL_LENGTH)


def _gymnax(name: str, episode_length: int | None) -> Environment:
    env, params = importlib.import_module("gymnax").make(name)
    if episode_length is not None:
        params = params.replace(**{LIMIT: type(getattr(params, LIMIT))(episode_length)})
    return gymnax_env(env, params, limit=None if name in _SEES_TIME else LIMIT)


FAMILIES = (
    Family(
        *("playground:", "Playground's", "playground", "mujoco_playground"),
        *(playground_names, _playground, _USUAL_LENGTH),
    ),
    Family("gymnax:", "gymnax's", "gymnax", "gymnax", lambda: _OF_GYMNAX, _gymnax, None),
)


def family_of(env: str) -> Family | None:
    """That of a name, by what it begins with; None if it is of none.

    >>> family_of("gymnax:CartPole-v1").package, family_of("ant")
    ('gymnax', None)
    """
    return next((family for family in FAMILIES if env.startswith(family.prefix)), None)
