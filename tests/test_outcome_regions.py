"""What an outcome trust region leaves free: with λ = 1 nothing that pays, below it a good deal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from benchmarks.outcome_regions import region
from polopt_jax import frontiers, outcomes, worlds


@pytest.mark.parametrize(("lambda_", "inside"), [(1.0, True), (0.95, False)])
def test_only_with_lambda_one_the_gradient_is_made_of_the_scores_of_outcomes(lambda_, inside):
    world = worlds.select_worlds(worlds.skip_the_test(jax.random.key(0), p_skip=(0.1, 0.2), p_legit=(0.1, 0.2)), 0)
    problem = frontiers.token_problem(world, group_size=128)
    held = outcomes.outcome_kl(4, of=lambda outcome: 2 * outcome["success"] + outcome["side_effect"])
    learner = region(problem, held, weight=1000.0, lambda_=lambda_)
    first = learner.init(jax.random.key(0))
    _, batch, _ = learner.collect(first.params, first.collect_state, jax.random.key(1))
    loss = po.objective(problem.group.task.model, po.surrogate())
    gradient = -np.asarray(jax.grad(loss, has_aux=True)(first.params, batch)[0]["policy"], float).ravel()
    prob = np.asarray(jax.nn.softmax(first.params["policy"][0]), float)
    scores = (np.eye(6)[np.asarray(batch.action).reshape(128, 24)] - prob).reshape(128, -1)
    cells = np.asarray(2 * batch.outcome["success"] + batch.outcome["side_effect"]).ravel()
    means = np.stack([scores[cells == cell].mean(0) for cell in np.unique(cells)])
    rest = gradient - means.T @ np.linalg.lstsq(means.T, gradient, rcond=None)[0]
    share = np.linalg.norm(rest) / np.linalg.norm(gradient)
    assert len(means) >= 3
    assert share < 1e-4 if inside else share > 0.3


@pytest.mark.slow
def test_with_lambda_one_an_update_under_the_joint_region_does_not_lower_success():
    drawn = worlds.skip_the_test(jax.random.key(0))
    held = outcomes.outcome_kl(4, of=lambda outcome: 2 * outcome["success"] + outcome["side_effect"])

    def gain(number, lambda_):
        problem = frontiers.token_problem(worlds.select_worlds(drawn, number), group_size=512)
        learner = region(problem, held, weight=1000.0, lambda_=lambda_)
        points, _ = frontiers.sampled_path(problem, learner, jax.random.fold_in(jax.random.key(3), number), updates=1)
        return points.success[1] - points.success[0]

    gains = jax.jit(jax.vmap(jax.vmap(gain, (0, None)), (None, 0)))(jnp.arange(8), jnp.array([1.0, 0.95]))
    assert (gains[0] >= 0).all()
    assert gains[0].mean() > 0 > gains[1].mean()
