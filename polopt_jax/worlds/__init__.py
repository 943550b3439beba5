"""Outcome worlds, one file each, one protocol (`World`): what is asked, what it earns, and what it brought about."""

from polopt_jax.worlds._protocol import World
from polopt_jax.worlds._skip_the_test import (
    OutcomeLaw,
    SkipTheTest,
    benign_twin,
    impossible_twin,
    sample_reference,
    select_worlds,
    skip_the_test,
    token_outcome,
    token_outcome_law,
    token_reward,
)

__all__ = [
    "OutcomeLaw",
    "SkipTheTest",
    "World",
    "benign_twin",
    "impossible_twin",
    "sample_reference",
    "select_worlds",
    "skip_the_test",
    "token_outcome",
    "token_outcome_law",
    "token_reward",
]
