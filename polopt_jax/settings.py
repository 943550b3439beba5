"""What a run acts in and what acts: the environment or token world and the network, from the run's config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from polopt_jax.envs import Environment, brax_env
from polopt_jax.language import TokenNetwork, transformer
from polopt_jax.networks import Network, mlp_actor_critic
from polopt_jax.worlds import SkipTheTest, skip_the_test


class Control(NamedTuple):
    """An environment and a network for its observations."""

    env: Environment
    network: Network


class Tokens(NamedTuple):
    """A token world and a network that speaks it."""

    env: SkipTheTest
    network: TokenNetwork


def setting(config: Mapping[str, Any]) -> Control | Tokens:
    """That of a config.json: the token world if it says what that is made of (`world`), else an environment.

    Raises KeyError for what the config lacks, and what `brax_env` raises.
    """
    world = config["world"]
    if world is None:
        return control(config["env"], backend=config["backend"], episode_length=config["episode_length"])
    return tokens(world)


def control(env: str, *, backend: str, episode_length: int) -> Control:
    """A Brax environment and the MLPs that the command trains."""
    made = brax_env(env, backend=backend, episode_length=episode_length)
    return Control(made, mlp_actor_critic(made.obs_shape, made.action_space))


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
