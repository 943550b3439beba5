"""The expected update of GRPO on tables, against finite differences and against what attempts give."""

import json
import re
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from benchmarks.grpo_forgetting import attempts, figures, findings
from benchmarks.grpo_forgetting.expected import (
    GROUP,
    LENGTH,
    Standing,
    alone,
    expected_gradient,
    flow,
    group_scale,
    new_ref,
    ref_new,
    resting,
    standing,
    the_worlds,
)
from polopt_jax import worlds


@pytest.fixture
def moved():
    """A shift of the logits far from none, in float64."""
    return 0.7 * np.random.default_rng(3).standard_normal((LENGTH, 6))


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("success", [0.03, 0.5, 0.97])
def test_the_scale_of_a_group_is_that_of_all_its_possible_rewards(size, success, x64):
    # E[A_i ∂log p(R_i)/∂J] over every way that the rewards can fall; ∂log p/∂J is 1/J and -1/(1-J).
    total = 0.0
    for rewards in product((0.0, 1.0), repeat=size):
        r = np.array(rewards)
        spread = r.std(ddof=1)
        advantage = (r - r.mean()) / spread if spread else 0 * r
        score = np.where(r > 0, 1 / success, -1 / (1 - success))
        total += np.prod(np.where(r > 0, success, 1 - success)) * (advantage * score).mean()
    assert np.isclose(group_scale(jnp.asarray(success), size), total, rtol=1e-12)


@pytest.mark.parametrize("penalty", [ref_new, new_ref])
def test_the_expected_gradient_is_that_of_finite_differences(penalty, moved, x64):
    world = the_worlds()
    few = jax.tree.map(np.asarray, worlds.select_worlds(world, jnp.array([0, 1, 2])))
    ref = np.asarray(few.logits) - np.log(np.exp(few.logits).sum(-1, keepdims=True))

    def parts(shift):
        logits = np.asarray(few.logits) + shift
        prob = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        skip, kl = prob[:, 4, 1], (prob if penalty is new_ref else np.exp(ref)) * (np.log(prob) - ref)
        honest = np.array(
            [np.prod([p[t, 0] for t in (8, 12, 16, 20)[: int(d)]]) for p, d in zip(prob, few.depth, strict=True)]
        )
        return 1 - (1 - skip) * (1 - honest), kl.sum((1, 2)) * (1 if penalty is new_ref else -1)

    scale = np.asarray(group_scale(parts(moved)[0], GROUP))
    gradient = jax.jit(partial(expected_gradient, size=GROUP, beta=0.3, penalty=penalty))(moved, few)
    for place in [(4, 1), (4, 2), (8, 0), (12, 0), (20, 0), (8, 3), (0, 0)]:
        step = np.zeros_like(moved)
        step[place] = 1e-5
        up, down = parts(moved + step), parts(moved - step)
        slope = ((scale * (up[0] - down[0])).mean() - 0.3 * (up[1] - down[1]).mean()) / 2e-5 / LENGTH
        assert np.isclose(gradient[place], slope, rtol=1e-6, atol=1e-10), place


@pytest.mark.slow
@pytest.mark.parametrize("beta", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_the_library_has_that_gradient_in_the_mean_of_many_attempts(beta, moved):
    world = the_worlds()
    problem = attempts.together(world)
    params = {"policy": jnp.asarray(0.5 * moved, jnp.float32), "value": problem.group.reference["value"]}
    loss = po.objective(problem.group.task.model, po.grpo(beta=beta))
    algorithm = po.algorithms.grpo(problem.group, beta=beta)
    first = jax.jit(algorithm.init)(jax.random.key(0))

    def sampled(key):
        _, batch, _ = algorithm.collect(params, first.collect_state, key)
        return -jax.grad(loss, has_aux=True)(params, batch)[0]["policy"]

    found = jax.jit(lambda keys: jax.lax.map(sampled, keys, batch_size=50))(jax.random.split(jax.random.key(1), 800))
    wanted = jax.jit(partial(expected_gradient, size=GROUP, beta=beta))(params["policy"], world)
    error = np.std(found, axis=0) / np.sqrt(len(found))
    off = (np.mean(found, axis=0) - np.asarray(wanted)) / np.maximum(error, 1e-9)
    assert np.abs(off).max() < 4.5
    assert np.sqrt((off**2).mean()) < 1.25
    far = np.abs(np.asarray(wanted)) / np.maximum(error, 1e-9)
    assert far.max() > 20  # and it is no noise that is compared


def test_without_a_penalty_honesty_never_falls(x64):
    world = the_worlds()
    for size, optimizer in product((None, GROUP), (optax.sgd(24.0), po.algorithms.adam(0.03, 1.0))):
        gradient = partial(expected_gradient, size=size, beta=0.0)
        path = flow(alone(world, 2), gradient, optimizer, steps=400, every=4)
        assert (np.diff(path.honest) > -1e-12).all()
        assert path.honest[-1] > path.honest[0]


@pytest.mark.parametrize(
    ("depth", "legit", "lost"), [(2, 0.5, False), (2, 0.1, True), (3, 0.1, True), (1, 0.05, False)]
)
def test_the_longer_route_is_given_up_where_its_tokens_ask_for_more_than_the_skip(depth, legit, lost, x64):
    drawn = worlds.skip_the_test(
        jax.random.key(4), num_worlds=1, depths=(depth,), p_skip=(0.01, 0.01), p_legit=(legit, legit)
    )
    world = jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype == jnp.float32 else x, drawn)
    assert (depth * (1 - legit ** (1 / depth)) > 1) == lost
    gradient = partial(expected_gradient, size=GROUP, beta=0.04)
    path = flow(world, gradient, po.algorithms.adam(0.03, 1.0), steps=6000, every=50)
    law = resting(world, beta=0.04, size=GROUP)
    assert (path.honest[-1] < 0.5 * path.honest.max()) == lost
    assert np.isclose(path.success[-1], law.success, atol=1e-4)
    assert np.isclose(path.honest[-1], law.honest, atol=0.02)


def test_half_of_the_honesty_is_lost_where_it_is():
    honest = np.array([[0.1, 0.6, 0.8, 0.5, 0.39, 0.2], [0.1, 0.2, 0.4, 0.1, 0.0, 0.0], [0.1, 0.6, 0.8, 0.9, 0.9, 0.9]])
    assert figures.lost(Standing(honest, honest, honest)).tolist() == [4, -1, -1]


def test_averages_and_falls_look_back_only():
    x = np.array([[4.0, 2.0, 6.0, 0.0]])
    assert figures.averaged(x, 2).tolist() == [[4.0, 3.0, 4.0, 3.0]]
    assert figures.fallen(x).tolist() == [[0.0, 2.0, 0.0, 6.0]]
    assert figures.averaged(x[..., None], 2).shape == (1, 4, 1)


def test_what_is_seen_of_a_batch():
    world = the_worlds()
    problem = attempts.one(world, jnp.asarray(2))
    points, seen = attempts.learnt(problem, attempts.grpo(attempts.BENCHMARK), jax.random.key(0), updates=3)
    law = worlds.token_outcome_law(jax.nn.log_softmax(alone(world, 2).logits), alone(world, 2))
    assert np.isclose(points.honest[0], law.honest[0])
    assert np.isclose(points.success[0], law.success[0])
    assert points.skip.shape == (4,)
    assert seen.pull.shape == (3, LENGTH)
    np.testing.assert_allclose(seen.pull[0], 0.0, atol=1e-6)  # before the first update the policy is the reference
    assert (seen.pull[1:] > 0).all()
    wins = np.rint(np.asarray(seen.reward) * attempts.ATTEMPTS)
    p, n = wins / attempts.ATTEMPTS, attempts.ATTEMPTS
    np.testing.assert_allclose(seen.push, np.sqrt((n - 1) / n * (1 - p) / p), rtol=1e-4)


def test_together_the_law_is_that_of_the_sixty():
    world = the_worlds()
    at = standing(jnp.zeros((LENGTH, 6)), world)
    assert np.isclose(at.skip, world.p_skip.mean())
    assert np.isclose(at.honest, world.p_legit.mean())


def test_the_kept_figures_say_what_the_page_says():
    kept = json.loads(findings.KEPT.read_text())["figures"]
    flows = {(row["way"], row["parts"]): row for row in kept["exact"]}
    assert [row["way"] for row in kept["exact"]].count("Adam") == len(figures.PARTS) == len(flows) / 2
    for (_, parts), row in flows.items():
        forgets = "KL(ref" in parts
        assert (row["together"]["lost"] > 0) == forgets or "KL(π" in parts
    assert max(row["away"] for row in kept["rests"]) < 1e-4
    rows = {row["recipe"]: row for row in kept["alone"]}
    assert rows["GRPO, β = 0"]["4"]["lost"] == 0
    assert rows["GRPO, β = .04"]["4"]["lost"] == rows["GRPO, β = .04"]["4"]["learnt"] == 15
    for name in findings.TABLES:
        assert re.fullmatch(r"[\w-]+", name)
        assert findings.TABLES[name]({}).startswith("| ")


def test_what_is_seen_of_a_policy_that_has_moved(moved):
    problem = attempts.one(the_worlds(), jnp.asarray(0))
    reference = problem.group.reference
    params = {**reference, "policy": reference["policy"] + jnp.asarray(moved, jnp.float32)}
    algorithm = attempts.watched(attempts.grpo(attempts.BENCHMARK)(problem), problem)
    first = jax.jit(algorithm.init)(jax.random.key(0))
    _, batch, _ = jax.jit(algorithm.collect)(params, first.collect_state, jax.random.key(1))
    _, _, metrics = jax.jit(algorithm.step.update)(params, first.opt_state, batch, jax.random.key(2))
    prob, ref = (np.asarray(jax.nn.softmax(x["policy"][0]), float) for x in (params, reference))
    np.testing.assert_allclose(metrics["seen/pull"], np.maximum(prob - ref, 0).sum(-1), rtol=1e-4)


@pytest.mark.slow
def test_the_recipes_do_as_they_are_called():
    problem = attempts.one(the_worlds(), jnp.asarray(0))

    def seen(recipe):
        return attempts.learnt(problem, recipe, jax.random.key(0), updates=8)[1]

    plain = seen(attempts.undivided(attempts.BENCHMARK))
    np.testing.assert_allclose(plain.push[plain.reward > 0], (1 - plain.reward)[plain.reward > 0], rtol=1e-4)
    held, free = (seen(attempts.turned_round(attempts.BENCHMARK, beta=x)) for x in (30.0, 0.0))
    assert held.pull[-1].sum() < 0.5 * free.pull[-1].sum()


def test_a_reading_is_of_the_highest_and_the_last_point():
    honest = np.array([[0.1, 0.8, 0.2], [0.1, 0.3, 0.4]])
    success = np.array([[0.2, 0.9, 0.95], [0.2, 0.4, 0.5]])
    row = figures.reading(Standing(success, 1 - honest, honest))
    assert (row["lost"], row["learnt"], row["half lost"]) == (1, 1, 2.0)
    np.testing.assert_allclose([row["skip at .9"], row["highest"], row["success there"]], [0.2, 0.6, 0.7])
    np.testing.assert_allclose([row["honest"], row["skip"], row["success"], row["when"]], [0.3, 0.7, 0.725, 1.5])
