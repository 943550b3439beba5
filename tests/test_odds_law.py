"""One decision, equal rewards: the policy gradient amplifies the odds of the majority, the natural gradient keeps them.

The oracle of the flow is its other solution: with three cells, two of them rewarded, exp(-θ_b) - exp(-θ_a) and Σ θ
stay, which leaves one equation for the odds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from polopt_jax import frontiers
from polopt_jax.worlds import OUTCOME_TABLES, Move, Rules, outcome_table_logits, tabulate

EXAMPLE = (0.9, 0.08, 0.02)


def three_cells(odds_at):
    """The odds of the two successes at success J, by elimination."""
    fail, major, minor = EXAMPLE
    gap = 1 / minor - 1 / major

    def success(odds):
        x = (odds - 1) / gap
        y = x / odds
        return (x + y) / (x + y + fail * major * minor / (x * y))

    return brentq(lambda odds: success(odds) - odds_at, major / minor, 1e6)


def bandit(rewards):
    """One decision; action i pays rewards[i] and is told apart from the others of its kind by a side effect."""
    names = tuple(str(i) for i in range(len(rewards)))
    return tabulate(
        Rules(
            starts=((1.0, "start"),),
            actions=names,
            moves=lambda state, action: [Move(1.0, action, rewards[int(action)], 0.0)],
            ended=lambda state: state != "start",
            outcome=lambda state: {"success": state in names and rewards[int(state)] > 0, "other": state == names[-1]},
            frame=lambda state: (state[:1],),
            legend={},
            horizon=1,
            observe=lambda state: (1.0,),
        )
    )


def odds_along(method_of, success, updates):
    """Odds of the two successes of the example where a method reaches the success."""
    problem = frontiers.exact_problem(bandit((0.0, 1.0, 1.0)), side_effects=("other",))
    logits = jnp.log(jnp.array([EXAMPLE]))
    points = jax.jit(lambda x: frontiers.path(problem, x, method_of(problem), updates=updates))(logits)
    read = frontiers.at_success(points, success)
    assert bool(read.reached)
    minor = read.point.side_effect[1]
    return float((success - minor) / minor)


@pytest.mark.parametrize(("success", "odds"), [(0.5, 9.76), (0.9, 27.2), (0.99, 87.7)])
def test_the_flow_in_closed_form(x64, success, odds):
    assert three_cells(success) == pytest.approx(odds, rel=2e-3)
    law = frontiers.gradient_flow(jnp.array(EXAMPLE), jnp.array([False, True, True]), success)
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-14)
    assert float(law[1:].sum()) == pytest.approx(success, abs=1e-12)
    assert float(law[1] / law[2]) == pytest.approx(three_cells(success), rel=1e-9)


def test_the_flow_begins_at_the_law(x64):
    """To first order dp = p (θ' - Σ p θ'), with θ' = p (r - J)."""
    law, rewarded = np.array(EXAMPLE), np.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(frontiers.gradient_flow(jnp.array(law), rewarded > 0, 0.1), law, atol=1e-12)
    slope = law * (rewarded - 0.1)
    change = law * (slope - law @ slope)
    at = frontiers.gradient_flow(jnp.array(law), rewarded > 0, 0.1 + 1e-6)
    np.testing.assert_allclose((np.asarray(at) - law) / 1e-6, change / change[1:].sum(), rtol=1e-4)


@pytest.mark.parametrize("name", OUTCOME_TABLES)
def test_the_flow_of_the_outcome_tables_against_an_integrator(x64, name):
    table = np.exp(np.asarray(outcome_table_logits(OUTCOME_TABLES[name]), np.float64))
    table /= table.sum()
    rewarded = np.array([0.0, 0.0, 1.0, 1.0])

    def slope(_, theta):
        p = np.exp(theta - theta.max())
        p /= p.sum()
        return p * (rewarded - p @ rewarded)

    def success(_, theta):
        p = np.exp(theta - theta.max())
        return p @ rewarded / p.sum() - 0.9

    success.terminal = True
    done = solve_ivp(slope, (0, 1e8), np.log(table), method="LSODA", events=success, rtol=1e-10, atol=1e-12)
    theta = done.y_events[0][0]
    law = np.exp(theta - theta.max()) / np.exp(theta - theta.max()).sum()
    np.testing.assert_allclose(frontiers.gradient_flow(jnp.asarray(table), rewarded > 0, 0.9), law, rtol=1e-5)


SMALL_STEPS = {
    "gradient": (lambda p: frontiers.gradient_ascent(frontiers.reward(p), step_size=0.02), 20_000),
    "standardised": (lambda p: frontiers.standardised_ascent(p, step_size=0.01), 20_000),
}


@pytest.mark.parametrize("name", SMALL_STEPS)
def test_policy_gradients_follow_the_flow(x64, name):
    method_of, updates = SMALL_STEPS[name]
    for success in (0.5, 0.9, 0.99):
        assert odds_along(method_of, success, updates) == pytest.approx(three_cells(success), rel=0.01)


KEEPERS = {
    "natural": lambda p: frontiers.natural_ascent(p, frontiers.reward(p), step_size=0.1, damping=1e-12),
    "natural, large steps": lambda p: frontiers.natural_ascent(p, frontiers.reward(p), step_size=1.0, damping=1e-12),
    "trpo": lambda p: frontiers.trust_region(p, frontiers.reward(p), damping=1e-12),
}


@pytest.mark.parametrize("name", KEEPERS)
@pytest.mark.parametrize("success", [0.5, 0.9, 0.99])
def test_natural_gradients_keep_the_odds_whatever_the_step(x64, name, success):
    # interpolating the law linearly keeps odds that are kept at both ends
    assert odds_along(KEEPERS[name], success, 200) == pytest.approx(4.0, rel=1e-6)


def test_the_soft_optimum_keeps_the_odds(x64):
    problem = frontiers.exact_problem(bandit((0.0, 1.0, 1.0)), side_effects=("other",))
    reference = frontiers.log_policy(problem, jnp.log(jnp.array([EXAMPLE])))
    for beta in (1.0, 0.2, 0.1):
        law = jnp.exp(frontiers.soft_optimum(problem, reference, beta=beta))[0, 0]
        assert float(law[1] / law[2]) == pytest.approx(4.0, rel=1e-12)


def chain(luck):
    """A short way, and one of two decisions, the second of which works with probability `luck`; both are paid 1."""
    ends = ("short way", "long way", "failed")
    after = {
        ("start", "short"): [(1.0, "short way")],
        ("start", "long"): [(1.0, "half")],
        ("half", "short"): [(luck, "long way"), (1 - luck, "failed")],
    }
    return tabulate(
        Rules(
            starts=((1.0, "start"),),
            actions=("short", "long", "fail"),
            moves=lambda state, action: [
                Move(p, to, float(to != "failed" and to in ends), 0.0)
                for p, to in after.get((state, action), [(1.0, "failed")])
            ],
            ended=lambda state: state in ends,
            outcome=lambda state: {"success": state in ends[:2], "short": state == "short way"},
            frame=lambda state: (state.ljust(9),),
            legend={},
            horizon=2,
            observe=lambda state: (float(state == "half"),),
        )
    )


def chain_odds(luck, method_of, updates):
    """Odds of the long way against the short one at success 0.45, from odds of 4."""
    problem = frontiers.exact_problem(chain(luck), side_effects=("short",))
    logits = jnp.log(jnp.array([[0.02, 0.4, 0.58], [0.2 / luck, 0.0, 1 - 0.2 / luck]]) + 1e-300)
    table = frontiers.cell_law(problem, frontiers.log_policy(problem, logits))
    np.testing.assert_allclose(table[1], [0.08, 0.02], rtol=1e-12)
    points = jax.jit(lambda x: frontiers.path(problem, x, method_of(problem), updates=updates))(logits)
    read = frontiers.at_success(points, 0.45)
    short = read.point.side_effect[1]
    return float((0.45 - short) / short)


def natural_flow(problem):
    return frontiers.natural_ascent(problem, frontiers.reward(problem), step_size=0.01, damping=1e-10)


def test_where_nothing_is_left_to_chance_the_natural_gradient_keeps_the_odds_of_whole_episodes(x64):
    """The advantages along an episode add up to its reward less J: small steps reweigh episodes as the pump does."""
    assert chain_odds(1.0, natural_flow, 2000) == pytest.approx(4.0, rel=5e-3)
    gradient = lambda p: frontiers.gradient_ascent(frontiers.reward(p), step_size=0.05)  # noqa: E731
    assert chain_odds(1.0, gradient, 4000) > 8


def test_where_chance_has_a_say_it_does_not(x64):
    assert chain_odds(0.5, natural_flow, 2000) < 3


@pytest.mark.parametrize(
    ("law", "rewarded", "success", "named"),
    [
        ([[0.5, 0.5]], [[True, False]], 0.6, "law"),
        ([0.5, 0.5], [True], 0.6, "rewarded"),
        ([0.5, 0.0, 0.5], [True, False, False], 0.6, "law"),
        ([0.5, 0.5], [True, True], 0.6, "rewarded"),
        ([0.5, 0.5], [False, False], 0.6, "rewarded"),
        ([0.5, 0.5], [True, False], 0.4, "success"),
        ([0.5, 0.5], [True, False], 1.4, "success"),
    ],
)
def test_the_flow_names_bad_arguments(law, rewarded, success, named):
    with pytest.raises(ValueError, match=named):
        frontiers.gradient_flow(jnp.array(law), jnp.array(rewarded), success)
