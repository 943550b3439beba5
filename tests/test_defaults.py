"""A number has one home: a recipe's default is that of the library function it is passed to, or has a source."""

import inspect

import pytest

import polopt_jax as po
from polopt_jax import algorithms, outcomes, solvers

USED = {
    "reinforce": [po.discounted_returns],
    "actor_critic": [po.gae, po.actor_critic],
    "npg": [po.gae, solvers.npg],
    "trpo": [po.gae, solvers.trpo],
    "ppo": [po.gae, po.ppo],
    "dpo": [po.dpo],
    "grpo": [po.grpo],
}
ELSEWHERE = {
    # No entropy bonus in continuous control (Schulman et al. 2017, section 6.1); the term's 0.01 is A3C's, for Atari.
    ("actor_critic", "entropy_weight"): 0.0,
}


def defaults(function):
    return {
        name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not inspect._empty
    }


@pytest.mark.parametrize("recipe", USED)
def test_recipes_take_the_librarys_own_numbers(recipe):
    ours = defaults(getattr(algorithms, recipe))
    shared = 0
    for function in USED[recipe]:
        for name, theirs in defaults(function).items():
            if name in ours:
                assert ours[name] == ELSEWHERE.get((recipe, name), theirs), f"{recipe}: {name}"
                shared += 1
    assert shared >= 1


def test_every_recipe_is_held_to_it():
    assert set(USED) == {name for name in algorithms.__all__ if name[0].islower()} - {
        "adam",
        "assemble",
        "gae_estimate",
        "priced",
    }


def test_a_priced_algorithm_has_the_gains_of_the_price():
    theirs, ours = defaults(outcomes.update_price), defaults(algorithms.priced)
    assert {ours[name] == theirs[name] for name in ("integral", "proportional")} == {True}


@pytest.mark.parametrize("function", [solvers.natural_gradient, solvers.npg, solvers.trpo])
def test_there_is_one_damping(function):
    assert defaults(function)["damping"] == solvers.DAMPING == 1e-2


def test_trpos_parts_have_its_numbers():
    whole = defaults(solvers.trpo)
    for part in (solvers.natural_gradient, solvers.scale_to_radius, solvers.backtrack):
        for name, default in defaults(part).items():
            assert whole.get(name, default) == default, name
