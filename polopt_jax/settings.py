"""What a run acts in and what acts: the environment or token world and the network, from the run's config."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax.envs import Environment, brax_env
from polopt_jax.envs._families import family_of
from polopt_jax.envs._import import MAKES_ONE, checked_env, import_factory
from polopt_jax.language import ByteTokenizer, TokenNetwork, rotary_positions, tempered_network, transformer
from polopt_jax.networks import INITIAL_LOG_STD, Network, mlp_actor_critic
from polopt_jax.recurrent import gru_actor_critic, with_memory
from polopt_jax.simulators import Simulator, simulator
from polopt_jax.types import Array
from polopt_jax.worlds import Rules, SkipTheTest, skip_the_test, tabulate

HIDDEN = (64, 64)
"""Units of each hidden layer, where nothing is said."""
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
}
"""By name; the first where nothing is said."""
SIMULATED = "gymnasium:"
"""What the names of simulators begin with."""


class Control(NamedTuple):
    """An environment, or a simulator, and a network for its observations; with a memory, both of `with_memory`."""

    env: Environment | Simulator
    network: Network


class Tokens(NamedTuple):
    """A token world and a network that speaks it."""

    env: SkipTheTest
    network: TokenNetwork


class Texts(NamedTuple):
    """A network that speaks bytes."""

    env: None
    network: TokenNetwork


def setting(config: Mapping[str, Any]) -> Control | Tokens | Texts:
    """That of a config.json: the token world if it says what that is made of (`world`), texts if it has their sum, else
    an environment.

    Raises KeyError for what the config lacks, and what `brax_env`, `own_env`, `simulator` and a family's `make` do.
    """
    if "data_sha256" in config:
        return Texts(None, byte_transformer(**{name: config[name] for name in TEXT_SIZES}))
    world = config["world"]
    if world is None:
        names = ("backend", "episode_length", "hidden", "activation")
        return control(config["env"], **{name: config[name] for name in names}, memory=config.get("memory"))
    return tokens(world)


def is_own(env: str) -> bool:
    """Whether an environment is one's own, `package.module:factory`, rather than one of a family's."""
    return ":" in env and not is_simulated(env) and family_of(env) is None


def is_simulated(env: str) -> bool:
    """Whether an environment is a simulator of Gymnasium's, `gymnasium:NAME`."""
    return env.startswith(SIMULATED)


def simulated(env: str) -> Simulator:
    """The simulator that is called so. Raises what `simulator` does."""
    return simulator(env.removeprefix(SIMULATED))


def own_env(env: str) -> Environment:
    """What `package.module:factory` makes, as `envs.import_env` has it; of `worlds.Rules` the table."""
    made = import_factory(env, what="an environment", needed=MAKES_ONE)
    return checked_env(env, tabulate(made) if isinstance(made, Rules) else made)


def control(
    env: str,
    *,
    backend: str | None,
    episode_length: int | None,
    hidden: Sequence[int],
    activation: str,
    memory: int | None = None,
    initial_log_std: float | None = None,
) -> Control:
    """The environment or the simulator of a name, and MLPs or GRUs. What has no backend or episode length ignores it.

    `initial_log_std` is None where nothing begins: of parameters that are there, and of choices.
    """
    made: Environment | Simulator
    if is_simulated(env):
        made = simulated(env)
    elif (family := family_of(env)) is not None:
        made = family.make(env.removeprefix(family.prefix), episode_length)
    elif is_own(env):
        made = own_env(env)
    else:
        made = brax_env(env, backend=backend or "spring", episode_length=episode_length or 1000)
    layers: dict[str, Any] = {
        "hidden": tuple(hidden),
        "activation": ACTIVATIONS[activation],
        "initial_log_std": INITIAL_LOG_STD if initial_log_std is None else initial_log_std,
    }
    if memory is None or isinstance(made, Simulator):
        return Control(made, mlp_actor_critic(made.obs_shape, made.action_space, **layers))
    return Control(*with_memory(made, gru_actor_critic(made.obs_shape, made.action_space, memory=memory, **layers)))


def tokens(world: Mapping[str, Any]) -> Tokens:
    """The token world, the same in every run whatever its seeds, and its transformer."""
    worlds = skip_the_test(jax.random.key(world["world_seed"]), num_worlds=world["num_worlds"])
    network = transformer(
        vocab_size=worlds.input_vocabulary,
        num_outputs=worlds.vocabulary,
        max_length=worlds.length,
        width=world["network_width"],
        depth=world["network_depth"],
    )
    return Tokens(worlds, network)


TOKENIZER = ByteTokenizer()
"""Of every run on texts."""


TEXT_SIZES = ("max_length", "width", "depth", "heads", "temperature")
"""What the config of a run on texts says of its network."""


@functools.lru_cache(maxsize=8)
def byte_transformer(
    *, max_length: int, width: int, depth: int, heads: int, temperature: float | None = None
) -> TokenNetwork:
    """The transformer of runs on texts: it reads and says the tokens of `TOKENIZER`, at a temperature if it has one."""
    network = transformer(
        vocab_size=TOKENIZER.vocab_size,
        num_outputs=TOKENIZER.vocab_size,
        max_length=max_length,
        width=width,
        depth=depth,
        heads=heads,
        positions=rotary_positions(),
    )
    return network if temperature in (None, 1.0) else tempered_network(network, temperature=temperature)
