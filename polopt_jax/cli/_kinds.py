"""The kinds of environments that `--env` takes, and which options mean something for each."""

from typing import NamedTuple

from polopt_jax import settings, simulators
from polopt_jax.cli._envs import TOKEN_ENV
from polopt_jax.envs._families import FAMILIES, family_of


class Kind(NamedTuple):
    """What is the same for all environments of a kind."""

    called: str
    options: tuple[str, ...]
    """Those that mean something here and not everywhere."""
    package: str | None = None
    """Whose version decides the numbers, too."""
    episode_length: int | None = None
    """Where nothing is said; None: that of the environment."""


_MLPS = ("rollout_steps", "hidden", "activation", "initial_log_std")
TOKEN = Kind("the token world", ("group_size",))
_GRUS = (*_MLPS, "memory")
OWN = Kind("an environment of one's own", _GRUS)
BRAX = Kind("a Brax environment", (*_GRUS, "episode_length", "backend"), "brax", 1000)
SIMULATOR = Kind("a simulator of Gymnasium's", (*_MLPS, "vectorization"), "gymnasium")
OF_FAMILIES = {
    family.prefix: Kind(
        f"an environment of {family.called}", (*_GRUS, "episode_length"), family.package, family.episode_length
    )
    for family in FAMILIES
}
"""By what their names begin with."""
KINDS = (TOKEN, OWN, BRAX, SIMULATOR, *OF_FAMILIES.values())
APPLIED = tuple(dict.fromkeys(name for kind in KINDS for name in kind.options))
"""Every option that means nothing for some kind."""

VECTORS = {"sync": simulators.sync_vector, "async": simulators.async_vector}
"""What runs simulators, by its name: in turn, or each in a process of its own. The first where nothing is said."""


def kind_of(env: str) -> Kind:
    """The kind of an environment by its name.

    >>> kind_of("ant").called, kind_of("my.module:Env").called, kind_of("gymnasium:CartPole-v1").called
    ('a Brax environment', "an environment of one's own", "a simulator of Gymnasium's")
    """
    if env == TOKEN_ENV:
        return TOKEN
    if settings.is_simulated(env):
        return SIMULATOR
    if (family := family_of(env)) is not None:
        return OF_FAMILIES[family.prefix]
    return OWN if settings.is_own(env) else BRAX
