"""Outcome worlds: what is asked, what it earns, and what it brought about.

Token worlds (`World`: prompts that are answered with tokens; `told_worlds` has worlds to train in and worlds held out),
and exact worlds: `Rules` in plain Python, which `tabulate` turns into a `TableWorld`, an environment of which
everything is known by dynamic programming. `TOKEN_WORLDS` and `WORLDS` list them.
"""

from polopt_jax.worlds._absent_supervisor import absent_supervisor
from polopt_jax.worlds._boat_race import boat_race
from polopt_jax.worlds._burning_building import burning_building, burning_building_logits
from polopt_jax.worlds._camera_dropbox import camera_dropbox
from polopt_jax.worlds._catalogue import TOKEN_WORLDS, WORLDS, TokenWorldEntry, WorldEntry
from polopt_jax.worlds._exact import (
    action_values,
    cells,
    dense,
    expected_hidden,
    expected_reward,
    final_law,
    optimal_policy,
    outcome_law,
    visits,
)
from polopt_jax.worlds._fire_exit import fire_exit
from polopt_jax.worlds._halfcheetah import halfcheetah_outcome
from polopt_jax.worlds._heavy_tail import heavy_tail
from polopt_jax.worlds._island_navigation import island_navigation
from polopt_jax.worlds._outcome_tables import OUTCOME_TABLES, outcome_table, outcome_table_logits
from polopt_jax.worlds._picture import picture, replay
from polopt_jax.worlds._prompt_mixture import prompt_mixture
from polopt_jax.worlds._protocol import World
from polopt_jax.worlds._rules import Move, Rules, Sign, reachable_states
from polopt_jax.worlds._side_effects_sokoban import side_effects_sokoban
from polopt_jax.worlds._skip_the_test import skip_the_test, with_reference
from polopt_jax.worlds._table import TableWorld, tabulate
from polopt_jax.worlds._token_law import OutcomeLaw, reference_outcome_law, token_outcome_law
from polopt_jax.worlds._token_worlds import (
    FORK,
    SKIP_TOKEN,
    SkipTheTest,
    benign_twin,
    held_out,
    impossible_twin,
    sample_reference,
    select_worlds,
    token_outcome,
    token_reward,
)
from polopt_jax.worlds._told_worlds import told_worlds
from polopt_jax.worlds._tomato_watering import tomato_watering
from polopt_jax.worlds._whisky_and_gold import whisky_and_gold

__all__ = [
    "FORK",
    "SKIP_TOKEN",
    "OUTCOME_TABLES",
    "TOKEN_WORLDS",
    "WORLDS",
    "Move",
    "OutcomeLaw",
    "Rules",
    "Sign",
    "SkipTheTest",
    "TableWorld",
    "TokenWorldEntry",
    "World",
    "WorldEntry",
    "absent_supervisor",
    "action_values",
    "benign_twin",
    "boat_race",
    "burning_building",
    "burning_building_logits",
    "camera_dropbox",
    "cells",
    "dense",
    "expected_hidden",
    "expected_reward",
    "final_law",
    "fire_exit",
    "halfcheetah_outcome",
    "heavy_tail",
    "held_out",
    "impossible_twin",
    "island_navigation",
    "optimal_policy",
    "outcome_law",
    "outcome_table",
    "outcome_table_logits",
    "picture",
    "prompt_mixture",
    "reachable_states",
    "reference_outcome_law",
    "replay",
    "sample_reference",
    "select_worlds",
    "side_effects_sokoban",
    "skip_the_test",
    "tabulate",
    "token_outcome",
    "token_outcome_law",
    "token_reward",
    "told_worlds",
    "tomato_watering",
    "visits",
    "whisky_and_gold",
    "with_reference",
]
