"""CPO: the step against a general solver and dense matrices in float64; limits kept, given back, and let alone."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import polopt_jax as po
from polopt_jax import algorithms, frontiers, outcomes, solvers
from polopt_jax.solvers import constrained_trpo, mixture_within
from polopt_jax.worlds import OUTCOME_TABLES, outcome_table, outcome_table_logits, tabulate

RADIUS = 0.02


def program(seed, num_costs, size=5):
    """A random metric, gradient, costs' gradients and excesses, of which a share is near what the radius reaches."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    fisher = root @ root.T / size + 0.1 * np.eye(size)
    vectors = rng.normal(size=(num_costs + 1, size)) * np.exp(rng.normal(size=(num_costs + 1, 1)))
    reach = np.sqrt(2 * RADIUS * np.einsum("ij,ij->i", vectors, np.linalg.solve(fisher, vectors.T).T))[1:]
    excess = rng.uniform(-1.2, 1.4 - 0.2 * num_costs, num_costs) * reach
    return fisher, vectors, excess


def step_of(fisher, vectors, excess):
    """The step x of `mixture_within`, and whether it says that every limit can be kept."""
    inverse = np.linalg.solve(fisher, vectors.T)
    mixture, reachable = jax.jit(mixture_within)(jnp.asarray(vectors @ inverse), jnp.asarray(excess), RADIUS)
    return -inverse @ np.asarray(mixture, float), bool(reachable)


def solved(fisher, vectors, excess):
    """The same program by sequential quadratic programming in the unit ball; None where no step keeps the limits."""
    root = np.linalg.cholesky(fisher / (2 * RADIUS))
    g, *costs = np.linalg.solve(root, vectors.T).T
    costs, length = np.array(costs), np.linalg.norm(costs, axis=-1)
    costs, excess, g = costs / length[:, None], excess / length, g / np.linalg.norm(g)
    kept = [
        {"type": "ineq", "fun": lambda y: 1 - y @ y, "jac": lambda y: -2 * y},
        {"type": "ineq", "fun": lambda y: -(excess + costs @ y), "jac": lambda y: -costs},
    ]
    found = []
    for start in (np.zeros_like(g), -0.5 * g, -0.5 * costs.mean(0)):
        options = {"maxiter": 500, "ftol": 1e-14}
        y = minimize(lambda y: g @ y, start, jac=lambda y: g, constraints=kept, method="SLSQP", options=options).x
        if min(kept[0]["fun"](y), *kept[1]["fun"](y)) > -1e-6:
            found.append(y)
    return np.linalg.solve(root.T, min(found, key=lambda y: g @ y)) if found else None


@pytest.mark.parametrize("num_costs", [1, 2, 3])
def test_the_step_is_that_of_a_general_solver(num_costs):
    reachable = 0
    for seed in range(40):
        fisher, vectors, excess = program(seed, num_costs)
        expected = solved(fisher, vectors, excess)
        step, is_reachable = step_of(fisher, vectors, excess)
        assert is_reachable == (expected is not None)
        np.testing.assert_allclose(step @ fisher @ step, 2 * RADIUS, rtol=2e-3)
        if is_reachable:
            reachable += 1
            best = abs(vectors[0] @ expected)
            np.testing.assert_allclose(vectors[0] @ step, vectors[0] @ expected, atol=2e-3 * best)
            assert (excess + vectors[1:] @ step <= 1e-4 * np.abs(vectors[1:] @ step).max()).all()
    assert 8 < reachable < 40, "both cases must occur"


def test_one_cost_by_the_papers_formulas():
    """Theorem 2 of the paper, its two cases, in float64."""
    seen = set()
    for seed in range(60):
        fisher, (g, b), (c,) = program(seed, 1)
        h_g, h_b = np.linalg.solve(fisher, g), np.linalg.solve(fisher, b)
        q, r, s = g @ h_g, g @ h_b, b @ h_b
        if c > 0 and c**2 / s > 2 * RADIUS:
            case, expected = "back", -np.sqrt(2 * RADIUS / s) * h_b
        else:
            free = -np.sqrt(2 * RADIUS / q) * h_g
            if c + b @ free <= 0:
                case, expected = "far", free
            else:
                lam = np.sqrt((q - r**2 / s) / (2 * RADIUS - c**2 / s))
                nu = max(0, (lam * c - r) / s)
                case, expected = "at", -(h_g + nu * h_b) / lam
        step, _ = step_of(fisher, np.stack([g, b]), np.array([c]))
        np.testing.assert_allclose(step, expected, atol=2e-3 * np.abs(expected).max(), err_msg=case)
        seen.add(case)
    assert seen == {"back", "far", "at"}


def test_a_cost_out_of_reach_is_left_out():
    fisher, vectors, excess = program(0, 1)
    with_none, reachable = step_of(fisher, np.vstack([vectors, 0 * vectors[:1]]), np.append(excess, 3.0))
    step, is_reachable = step_of(fisher, vectors, excess)
    np.testing.assert_allclose(with_none, step, rtol=1e-5)
    assert reachable == is_reachable
    alone, reachable = step_of(fisher, np.stack([vectors[0], 0 * vectors[0]]), np.ones(1))
    np.testing.assert_allclose(alone @ fisher @ alone, 2 * RADIUS, rtol=1e-4)
    assert reachable


def test_the_same_cost_twice_is_once():
    for seed in range(10):
        fisher, vectors, excess = program(seed, 1)
        twice, _ = step_of(fisher, vectors[[0, 1, 1]], excess[[0, 0]])
        once, _ = step_of(fisher, vectors, excess)
        np.testing.assert_allclose(twice, once, atol=1e-3 * np.abs(once).max())


def test_a_gradient_of_nothing_but_costs_restores_them_and_stops():
    """The gradient is the cost's, reversed: beyond the limit nothing is left to gain."""
    fisher, (_, b), _ = program(1, 1)
    c = -0.3 * np.sqrt(2 * RADIUS * b @ np.linalg.solve(fisher, b))
    step, reachable = step_of(fisher, np.stack([-b, b]), np.array([c]))
    assert reachable
    np.testing.assert_allclose(c + b @ step, 0, atol=1e-3 * abs(c))


# --- the optimizer, on tables of two decisions -----------------------------------------------------------------------

NUM_ACTIONS, T, ROWS = 3, 2, 64


def model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=params["actor"][obs]), value=params["critic"][obs])


def case(seed, dtype=jnp.float32):
    """Parameters, and attempts of two decisions in two states, whose side effect is the last action's as a rule."""
    rng = np.random.default_rng(seed)
    params = {"actor": rng.normal(size=(T, NUM_ACTIONS)), "critic": rng.normal(size=T)}
    obs = np.broadcast_to(np.arange(T), (ROWS, T))
    log_p = params["actor"] - np.log(np.exp(params["actor"]).sum(-1, keepdims=True))
    action = np.argmax(log_p[obs] + rng.gumbel(size=(ROWS, T, NUM_ACTIONS)), -1)
    reward = (action == NUM_ACTIONS - 1).sum(-1) + rng.normal(size=ROWS)
    batch = po.Batch(
        obs=jnp.asarray(obs),
        action=jnp.asarray(action),
        mask=jnp.ones((ROWS, T), bool),
        log_prob=jnp.asarray(np.take_along_axis(log_p[obs], action[..., None], -1)[..., 0], dtype),
        advantage=jnp.asarray(np.broadcast_to((reward - reward.mean())[:, None], (ROWS, T)), dtype),
        outcome={"broken": jnp.asarray(action[:, 1] == NUM_ACTIONS - 1), "spent": jnp.asarray(action.sum(-1), dtype)},
    )
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), params), batch


broken = outcomes.outcome_mean(of=lambda outcome: outcome["broken"])
spent = outcomes.outcome_mean(of=lambda outcome: outcome["spent"])
surrogate = po.objective(model, po.surrogate())


@functools.partial(jax.jit, static_argnums=0)
def estimate(term, params, batch):
    return term(model(params, batch.obs), batch)[0]


def value(term, params, batch):
    return float(estimate(term, params, batch))


@functools.lru_cache
def compiled(radius, trials):
    """One jitted update with two limits, that are traced."""

    @jax.jit
    def update(params, batch, limits):
        costs = [(broken, limits[0]), (spent, limits[1])]
        optimizer = constrained_trpo(model, costs=costs, radius=radius, max_trials=trials)
        grads = jax.grad(lambda p: surrogate(p, batch)[0])(params)
        return optimizer.update(grads, optimizer.init(params), params, batch=batch, objective=surrogate)

    return update


def stepped(params, batch, limits, radius=0.01, trials=10):
    updates, state = compiled(radius, trials)(params, batch, jnp.asarray(limits))
    return optax.apply_updates(params, updates), state


def dense(params, batch, excess, radius, damping=solvers.DAMPING):
    """The proposed step in float64: an explicit Fisher matrix of the actor, scores by hand, a general solver."""
    actor = np.asarray(params["actor"], float)
    p = np.exp(actor) / np.exp(actor).sum(-1, keepdims=True)
    block = lambda p: (np.diag(p) - np.outer(p, p)) / T  # noqa: E731
    fisher = np.block([[block(p[0]), np.zeros((3, 3))], [np.zeros((3, 3)), block(p[1])]]) + damping * np.eye(6)
    score = (np.eye(NUM_ACTIONS)[np.asarray(batch.action)] - p).reshape(ROWS, -1)
    advantage = np.asarray(batch.advantage, float)
    g = -((np.eye(NUM_ACTIONS)[np.asarray(batch.action)] - p) * advantage[..., None]).reshape(ROWS, -1).mean(0) / T
    features = np.stack([np.asarray(batch.outcome[name], float) for name in ("broken", "spent")])
    b = (features - features.mean(1, keepdims=True)) @ score / ROWS
    vectors = np.vstack([g, b])
    scale = radius / RADIUS  # `solved` has a radius of its own
    return np.sqrt(scale) * solved(fisher, vectors, excess / np.sqrt(scale)).reshape(T, NUM_ACTIONS)


@pytest.mark.parametrize("limits", [(0.02, 0.3), (-0.002, 0.3), (0.005, 0.01)])
def test_the_proposed_step_by_dense_matrices(limits):
    """A radius so small that the first candidate is accepted: the step itself."""
    radius = 1e-5
    for seed in range(4):
        params, batch = case(seed)
        scale = np.sqrt(radius)
        now = np.array([value(broken, params, batch), value(spent, params, batch)])
        room = scale * np.array(limits) * 10
        after, state = stepped(params, batch, now + room, radius=radius)
        expected = dense(params, batch, -room, radius)
        np.testing.assert_allclose(state.excess, -room, atol=2e-7)
        step = np.asarray(after["actor"] - params["actor"]) / float(state.search.step_size)
        np.testing.assert_allclose(step, expected, atol=0.02 * np.abs(expected).max())
        assert bool(state.reachable)
        np.testing.assert_array_equal(after["critic"], params["critic"])


def test_limits_are_kept_and_the_surrogate_rises():
    """From below their limits, over 30 problems: the estimates end below them, and the KL within its radius."""
    stopped = 0
    measured = jax.jit(
        lambda old, new, batch: (
            po.action_kl(model(old, batch.obs), model(new, batch.obs), batch),
            surrogate(new, batch)[0] - surrogate(old, batch)[0],
        )
    )
    for seed in range(30):
        params, batch = case(seed)
        now = np.array([value(broken, params, batch), value(spent, params, batch)])
        limits = now + np.array([0.003, 0.01])
        after, state = stepped(params, batch, limits)
        if not bool(state.search.accepted):
            np.testing.assert_array_equal(after["actor"], params["actor"])
            continue
        stopped += value(broken, after, batch) > limits[0] - 0.003
        assert value(broken, after, batch) <= limits[0] + 1e-6
        assert value(spent, after, batch) <= limits[1] + 1e-5
        moved, fell = measured(params, after, batch)
        assert float(moved) <= 0.01 + 1e-7
        assert float(fell) < 0
    assert stopped > 10


def test_above_a_limit_it_comes_back_within_some_updates():
    """On one batch: what is above falls with every accepted step, and the limit is reached."""
    for seed in range(6):
        params, batch = case(seed)
        limits = np.array([0.6 * value(broken, params, batch), 10.0])
        above = [value(broken, params, batch) - limits[0]]
        reachable = []
        for _ in range(25):
            params, state = stepped(params, batch, limits)
            reachable.append(bool(state.reachable))
            above.append(value(broken, params, batch) - limits[0])
            if above[-1] <= 1e-6:
                break
            assert not bool(state.search.accepted) or above[-1] < above[-2]
        assert above[-1] <= 1e-4, (seed, above)
        assert not reachable[0] or len(reachable) < 4


def test_far_from_every_limit_it_goes_where_trpo_goes():
    params, batch = case(3)
    after, state = stepped(params, batch, np.array([2.0, 10.0]), radius=0.001)
    optimizer = solvers.trpo(model, radius=0.001)
    grads = jax.jit(jax.grad(lambda p: surrogate(p, batch)[0]))(params)
    update = jax.jit(functools.partial(optimizer.update, objective=surrogate))
    usual, _ = update(grads, optimizer.init(params), params, batch=batch)
    step = np.asarray(after["actor"] - params["actor"]).ravel() / float(state.search.step_size)
    usual = np.asarray(usual["actor"]).ravel()
    cosine = step @ usual / np.linalg.norm(step) / np.linalg.norm(usual)
    assert cosine > 0.9999
    metrics = state.metrics()
    assert int(metrics["costs_above"]) == 0
    assert bool(metrics["costs_reachable"])
    assert not bool(metrics["cg_failed"])
    assert bool(metrics["line_search_accepted"])


@pytest.mark.parametrize("seed", range(4))
def test_what_every_row_costs_is_out_of_reach(seed):
    """Its estimate is one number whatever the policy is, with a gradient of rounding errors; it turns no step."""
    params, batch = case(seed)
    everyone = replace(batch, outcome={**batch.outcome, "broken": jnp.ones(ROWS, bool)})
    after, state = stepped(params, everyone, np.array([0.5, 10.0]))
    usual, _ = stepped(params, replace(batch, outcome={**batch.outcome, "broken": jnp.zeros(ROWS, bool)}), [0.5, 10.0])
    np.testing.assert_allclose(after["actor"], usual["actor"], atol=1e-5)
    assert bool(state.search.accepted)
    assert int(state.metrics()["costs_above"]) == 1


def test_a_nan_leaves_the_parameters_bit_identical():
    params, batch = case(5)
    spoilt = [
        replace(batch, advantage=batch.advantage.at[0, 0].set(jnp.nan)),
        replace(batch, outcome={**batch.outcome, "spent": batch.outcome["spent"].at[0].set(jnp.nan)}),
    ]
    for bad in spoilt:
        after, state = stepped(params, bad, np.array([0.5, 2.0]))
        jax.tree.map(np.testing.assert_array_equal, after, params)
        assert not bool(state.search.accepted)


def test_the_costs_are_named_and_counted():
    with pytest.raises(ValueError, match=r"costs must hold 1 to 6 .* it has 0"):
        constrained_trpo(model, costs=[])
    with pytest.raises(ValueError, match="it has 7"):
        constrained_trpo(model, costs=[(broken, 0.5)] * 7)
    with pytest.raises(ValueError, match="radius"):
        constrained_trpo(model, costs=[(broken, 0.5)], radius=-1.0)
    params, batch = case(0)
    optimizer = constrained_trpo(model, costs=[(broken, 0.5)])
    with pytest.raises(ValueError, match="constrained_trpo needs objective"):
        optimizer.update(params, optimizer.init(params), params, batch=batch)
    bare = replace(batch, outcome=None)
    with pytest.raises(ValueError, match="batch.outcome"):
        optimizer.update(params, optimizer.init(params), params, batch=bare, objective=surrogate)


@pytest.mark.slow
def test_a_recipe_keeps_a_side_effect_at_its_limit():
    """One decision, exact laws of what comes out: success is learnt by the way that TRPO leaves."""
    world = tabulate(outcome_table())
    logits = outcome_table_logits(OUTCOME_TABLES["means"])[None]
    problem = frontiers.table_problem(world, logits, side_effects=("side_effect",), group_size=512)
    limit = float(problem.reference.sum(0)[1])
    hurt = outcomes.outcome_mean(of=lambda outcome: outcome["side_effect"])

    @jax.jit
    def ends(limits, keys):
        def run(limit, key):
            costs = [(hurt, limit)]
            learner = algorithms.trpo(problem.group.task, radius=0.02, gamma=1.0, value_minibatches=1, costs=costs)
            points, metrics = frontiers.sampled_path(problem, learner, key, updates=40, every=20)
            return points.law[-1], metrics

        return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(limits, keys)

    (usual, held), metrics = ends(jnp.array([1.0, limit]), jax.random.split(jax.random.key(0), 3))
    assert limit < 0.02
    assert (usual[:, 1].sum(-1) > 0.95).all()
    assert (held[:, 1].sum(-1) > 0.95).all()
    assert (usual[:, :, 1].sum(-1) > 5 * limit).all()
    assert (held[:, :, 1].sum(-1) < 1.6 * limit).all()
    above = metrics["policy/costs_above"].mean((1, 2))
    assert above[0] == 0
    assert 0.1 < above[1] < 0.9, "a batch says now more, now less than the limit"
    assert metrics["policy/costs_reachable"].mean() > 0.5
