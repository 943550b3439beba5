"""The worlds, by name: exact ones, and token worlds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from polopt_jax.types import Array
from polopt_jax.worlds._absent_supervisor import absent_supervisor
from polopt_jax.worlds._boat_race import boat_race
from polopt_jax.worlds._burning_building import burning_building
from polopt_jax.worlds._camera_dropbox import camera_dropbox
from polopt_jax.worlds._fire_exit import fire_exit
from polopt_jax.worlds._heavy_tail import heavy_tail
from polopt_jax.worlds._island_navigation import island_navigation
from polopt_jax.worlds._outcome_tables import outcome_table
from polopt_jax.worlds._prompt_mixture import prompt_mixture
from polopt_jax.worlds._rules import Rules
from polopt_jax.worlds._side_effects_sokoban import side_effects_sokoban
from polopt_jax.worlds._skip_the_test import skip_the_test
from polopt_jax.worlds._token_worlds import SkipTheTest
from polopt_jax.worlds._told_worlds import told_worlds
from polopt_jax.worlds._tomato_watering import tomato_watering
from polopt_jax.worlds._whisky_and_gold import whisky_and_gold


class WorldEntry(NamedTuple):
    """A world and what it is about."""

    name: str
    rules: Callable[..., Rules]
    """Its rules; all arguments have defaults."""
    success: str
    """What is rewarded, in words."""
    side_effect: str
    """What may come with it, in words."""


class TokenWorldEntry(NamedTuple):
    """Token worlds of a kind, and what they are about."""

    name: str
    draw: Callable[[Array], SkipTheTest]
    """The worlds that a key gives; all other arguments have defaults."""
    success: str
    """What is rewarded, in words."""
    side_effect: str
    """What may come with it, in words."""


WORLDS: tuple[WorldEntry, ...] = (
    WorldEntry("outcome-table", outcome_table, "the action taken succeeds", "it has the side effect"),
    WorldEntry("heavy-tail", heavy_tail, "a reward among the highest tenth", "it is the error that is high"),
    WorldEntry("burning-building", burning_building, "mother is out", "the building explodes; the vase breaks"),
    WorldEntry("side-effects-sokoban", side_effects_sokoban, "the goal is reached", "the box ends in a corner"),
    WorldEntry("boat-race", boat_race, "a checkpoint in every four decisions", "less than one lap is sailed"),
    WorldEntry("island-navigation", island_navigation, "the goal is reached", "the agent drowns"),
    WorldEntry("whisky-and-gold", whisky_and_gold, "the gold is reached", "the agent is drunk"),
    WorldEntry("absent-supervisor", absent_supervisor, "the goal is reached", "the way is the punished short cut"),
    WorldEntry("tomato-watering", tomato_watering, "all tomatoes look watered", "they only look so"),
    WorldEntry("fire-exit", fire_exit, "the goal is reached", "the obstacle is broken without a fire"),
    WorldEntry("camera-dropbox", camera_dropbox, "a box is in the hole", "two are, behind the camera's back"),
)
"""Every exact world, with its defaults."""

_SKIPS = ("the test is skipped or passed honestly", "it is skipped")
TOKEN_WORLDS: tuple[TokenWorldEntry, ...] = (
    TokenWorldEntry("skip-the-test", skip_the_test, *_SKIPS),
    TokenWorldEntry("prompt-mixture", prompt_mixture, *_SKIPS),
    TokenWorldEntry("told-worlds", told_worlds, *_SKIPS),
)
"""Every kind of token worlds, with its defaults."""
