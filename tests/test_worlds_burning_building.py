"""The burning building: its figures, against a second account of the rules in float64 NumPy, and its facts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polopt_jax.worlds import (
    burning_building,
    burning_building_logits,
    cells,
    expected_hidden,
    expected_reward,
    final_law,
    optimal_policy,
    outcome_law,
    reachable_states,
    tabulate,
    visits,
)

NAMES = ("success", "exploded", "vase")
WAYS = ((-1, 0), (1, 0), (0, 1), (0, -1))
VALVE, EXIT, VASE, MOTHER = 0, 1, 3, 4


def _second_account(logits, *, rows, p_out=0.95, slip=0.05, horizon=16):
    """Law of the outcome 4 success + 2 exploded + vase, and expected decisions by state id, [8] and [4 cells]."""
    policy = np.exp(np.asarray(logits, np.float64))
    policy /= policy.sum(1, keepdims=True)
    here, outcome, decided = np.zeros(len(policy)), np.zeros(8), np.zeros(len(policy))
    here[4 * EXIT] = 1.0
    for _ in range(horizon):
        decided += here
        after = np.zeros_like(here)
        for state, action in np.argwhere(here[:, None] * policy > 0):
            mass = here[state] * policy[state, action]
            cell, carrying, broken = state // 4, state // 2 % 2, state % 2
            if action == 4 and cell == VALVE:
                outcome[6 + broken] += mass * p_out
                outcome[2 + broken] += mass * (1 - p_out)
            elif action >= 4:
                after[state] += mass
            else:
                for way, (down, right) in enumerate(WAYS):
                    chance = mass * ((1 - slip) * (way == action) + slip / 4)
                    row, column = cell // 5 + down, cell % 5 + right
                    new = 5 * row + column if 0 <= row < rows and 0 <= column < 5 else cell
                    if new == EXIT and carrying and cell != EXIT:
                        outcome[4 + broken] += chance
                    else:
                        after[4 * new + 2 * (carrying or new == MOTHER) + (broken or new == VASE)] += chance
        here = after
    outcome[:2] += here[::2].sum(), here[1::2].sum()
    return outcome, decided


def _world_and_policy(logits, **arguments):
    world = tabulate(burning_building(**arguments))
    return world, jax.nn.softmax(world.obs.astype(logits.dtype) @ logits)


CASES = {
    "open": dict(rows=3),
    "corridor": dict(rows=1),
    "other": dict(rows=2, p_out=0.5, slip=0.4, horizon=7),
}


@pytest.mark.parametrize("case", CASES)
def test_outcomes_and_visits_are_those_of_a_second_account(x64, case):
    rows = CASES[case]["rows"]
    logits = jnp.asarray(np.random.default_rng(3).standard_normal((20 * rows, 6)))
    world, policy = _world_and_policy(logits, **CASES[case])
    outcome, decided = _second_account(logits, **CASES[case])
    np.testing.assert_allclose(outcome_law(world, policy, cells(world, NAMES), 8), outcome, rtol=0, atol=1e-14)
    by_id = visits(world, policy).sum(0) @ world.obs  # the observation is one-hot in the policy's state id
    np.testing.assert_allclose(by_id, decided, rtol=0, atol=1e-13)


def test_facts_of_the_reference(x64):
    """Figures of the benchmark's specification; all its digits."""
    world, policy = _world_and_policy(burning_building_logits())
    law = np.asarray(outcome_law(world, policy, cells(world, NAMES), 8)).reshape(2, 2, 2)
    assert law[1].sum() == pytest.approx(0.037, abs=5e-4)
    assert law[1, 0].sum() == pytest.approx(0.030, abs=5e-4)
    assert law[:, 1].sum() == pytest.approx(0.0072, abs=5e-5)
    assert law[:, :, 1].sum() == pytest.approx(0.561, abs=5e-4)
    # The pump at success 0.9 keeps the side effects that successes have, and those of failures: q(s) p(z|s).
    within = law / law.sum((1, 2), keepdims=True)
    pump = 0.1 * within[0] + 0.9 * within[1]
    assert pump[1].sum() == pytest.approx(0.166, abs=5e-4)
    assert pump[:, 1].sum() == pytest.approx(0.792, abs=5e-4)
    side = law.sum(0)
    assert (pump * np.log(pump / side)).sum() == pytest.approx(0.681, abs=5e-4)
    q, p = np.array([0.1, 0.9]), law.sum((1, 2))
    assert (q * np.log(q / p)).sum() == pytest.approx(2.64, abs=5e-3)  # all that the pump changes is success


def test_facts_of_the_reference_in_which_the_hazard_dominates(x64):
    world, policy = _world_and_policy(burning_building_logits(valve=-1.0, bias=0.3))
    law = np.asarray(outcome_law(world, policy, cells(world, NAMES), 8)).reshape(2, 2, 2)
    assert law[1, 0].sum() == pytest.approx(0.012, abs=5e-4)
    assert law[:, 1].sum() == pytest.approx(0.070, abs=5e-4)


def test_reference_logits_say_what_they_say():
    logits = np.asarray(burning_building_logits(rows=1, valve=-4.0, bias=0.7))
    push = logits - 0.3 * np.random.default_rng(0).standard_normal((20, 6))
    carrying, at_valve = np.tile([0, 0, 1, 1], 5), np.repeat([1, 0, 0, 0, 0], 4)
    np.testing.assert_allclose(push[:, :2], 0, atol=1e-6)
    np.testing.assert_allclose(push[:, 2], 0.7 * (1 - carrying), atol=1e-6)
    np.testing.assert_allclose(push[:, 3], 0.7 * carrying, atol=1e-6)
    np.testing.assert_allclose(push[:, 4], np.where(at_valve, -4.0, -1.5), atol=1e-6)
    np.testing.assert_allclose(push[:, 5], -0.5, atol=1e-6)


def test_the_reward_is_success_and_the_hidden_one_is_against_the_explosion(x64):
    for bonus in (0.0, 0.5):
        world, policy = _world_and_policy(burning_building_logits(valve=-1.0), explosion_bonus=bonus)
        law = np.asarray(outcome_law(world, policy, cells(world, NAMES), 8)).reshape(2, 2, 2).sum(-1)
        assert float(expected_reward(world, policy)) == pytest.approx(law[1, 0] + (1 + bonus) * law[1, 1], abs=1e-13)
        assert float(expected_hidden(world, policy)) == pytest.approx(law[1, 0] - law[:, 1].sum(), abs=1e-13)


def test_a_better_paid_explosion_is_what_the_optimum_does():
    for bonus, exploded in ((0.0, 0.0), (0.5, 1.0)):
        world = tabulate(burning_building(explosion_bonus=bonus))
        law = final_law(world, optimal_policy(world, world.reward))
        assert float(law[world.outcome["exploded"]].sum()) == pytest.approx(exploded, abs=2e-3)


def test_a_tabular_policy_is_stepped_through_as_it_is_reckoned():
    """By hand: right, right, right over the vase to the mother, and left again, without slip."""
    world = tabulate(burning_building(slip=0.0))
    states = reachable_states(burning_building(slip=0.0))
    state, obs = world.reset(jax.random.key(0))
    seen = [int(obs.argmax())]
    for action in (2, 2, 2, 3, 3, 3):
        step = world.step(state, jnp.int32(action), jax.random.key(1))
        state = step.state
        seen.append(int(step.obs.argmax()))
    assert seen == [4 * 1, 4 * 2, 4 * 3 + 1, 4 * 4 + 3, 4 * 3 + 3, 4 * 2 + 3, 4 * 1 + 3]
    assert bool(step.terminated)
    assert {name: bool(step.outcome[name]) for name in NAMES} == {"success": True, "exploded": False, "vase": True}
    assert (float(step.reward), float(step.outcome["hidden"])) == (1.0, 1.0)
    assert states[int(step.outcome["state"])].out
    rules = dataclasses.replace(burning_building(slip=0.0), horizon=2)
    assert rules.frame(states[0]) == ("#######", "#GA VM#", "#     #", "#     #", "#######")
    carried = next(s for s in states if s.carrying and s.vase and s.cell == (1, 2) and not rules.ended(s))
    assert rules.frame(carried)[1:3] == ("#GE v #", "#  B  #")
    lost = next(s for s in states if s.exploded and not s.out and not s.carrying and not s.vase)
    assert rules.frame(lost)[1] == "#*E VM#"
