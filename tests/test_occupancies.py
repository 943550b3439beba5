"""A penalty on the occupancy, exactly and by what a discriminator makes of the ratio."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.outcomes_exact import building, occupancies
from polopt_jax import frontiers

CASE = next(case for case in building.CASES if case.rows == 1)


@pytest.fixture
def moved(x64):
    """A building, the reference's logits and others, and the occupancies of both."""
    problem, logits = building.building(CASE)
    other = logits + 0.3 * jax.random.normal(jax.random.key(0), logits.shape)
    return problem, logits, other, *(occupancies.occupancy(problem, x) for x in (logits, other))


def test_the_exact_ratio_as_a_reward_has_the_gradient_of_the_root_of_chi(moved):
    problem, _, other, old, new = moved
    taken_off = occupancies.ratio_reward(occupancies.log_ratio(new, old), new)
    found = jax.grad(lambda x: (occupancies.occupancy(problem, x) * taken_off).sum())(other)
    wanted = jax.grad(lambda x: occupancies.chi(occupancies.occupancy(problem, x), old))(other)
    assert float(jnp.abs(wanted).max()) > 1e-2
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_discriminator_learns_the_ratio_where_somebody_goes_and_nothing_elsewhere(moved):
    *_, old, new = moved
    once = occupancies.learning(1)(jnp.zeros_like(old), new, old)
    np.testing.assert_allclose(once, 10.0 * (new - old) / 2, atol=1e-12)
    often = occupancies.learning(20_000)(jnp.zeros_like(old), new, old)
    seen = np.asarray(new + old) > 0.01
    assert seen.sum() > 3
    np.testing.assert_allclose(np.asarray(often)[seen], np.log(np.asarray(new / old))[seen], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(often)[np.asarray(new + old) == 0], 0)
    on = occupancies.learning(1)(once, new, old)
    np.testing.assert_allclose(on, occupancies.learning(2)(jnp.zeros_like(old), new, old), atol=1e-12)


def chi_after(problem, logits, method, updates=15):
    """The root of χ² and the success in the end."""
    state = method.init(logits)
    step, x = jax.jit(method.step), logits
    for _ in range(updates):
        x, state = step(x, state)
    success = frontiers.standing(problem, *(frontiers.log_policy(problem, y) for y in (logits, x))).success
    return float(occupancies.chi(*(occupancies.occupancy(problem, y) for y in (x, logits)))), float(success)


@pytest.mark.slow
def test_what_is_taken_off_keeps_the_occupancy_nearer_and_a_better_ratio_keeps_it_better(moved):
    problem, logits, *_ = moved
    of = lambda ratio, weight: chi_after(problem, logits, occupancies.discriminated(ratio)(problem, logits, weight))  # noqa: E731
    free, success = of(occupancies.exact, 0.0)
    plain, _ = chi_after(problem, logits, building.trpo(problem, logits, jnp.float64(0.02)))
    assert free == pytest.approx(plain, rel=1e-6)
    assert success > 0.5
    exact, often = (of(ratio, 1.0)[0] for ratio in (occupancies.exact, occupancies.learning(1000)))
    assert exact < 0.5 * free
    assert often < 0.8 * free


@pytest.mark.slow
def test_the_discriminator_goes_on_from_where_it_was_after_every_update(moved):
    problem, logits, _, old, _ = moved
    method = occupancies.discriminated(occupancies.learning(1))(problem, logits, jnp.float64(0.1))
    first, known = method.step(logits, method.init(logits))
    np.testing.assert_array_equal(known, 0)  # at first there is nothing to tell apart
    second, known = method.step(first, known)
    _, later = method.step(second, known)
    np.testing.assert_allclose(
        later, occupancies.learning(1)(known, occupancies.occupancy(problem, second), old), atol=1e-12
    )
    assert float(jnp.abs(known).max()) > 1e-4
