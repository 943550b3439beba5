"""Fisher products, conjugate gradients, NPG and TRPO against dense linear algebra and formulas of their own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact_mdp import MDP, discounted_world, log_softmax, random_mdps, ravel, relative_error
from jax.flatten_util import ravel_pytree

import polopt_jax as po
from polopt_jax.solvers import CGStatus, policy_parameters

N = 20
ROWS, LENGTH, FEATURES, HIDDEN, ACTIONS, DIMENSIONS = 4, 3, 3, 4, 4, 2
LOG_2_PI = np.log(2 * np.pi)


# --- three families of policies, each with log-probabilities and divergences written out -----------------------------


def network(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["head"]


def categorical(params, obs):
    return po.Outputs(policy=po.Categorical(logits=network(params, obs["x"])).only(obs["legal"]))


def gaussian(params, obs, kind=po.DiagGaussian):
    mean, log_std = jnp.split(network(params, obs["x"]), 2, axis=-1)
    return po.Outputs(policy=kind(mean=mean, log_std=log_std))


def categorical_log_prob(params, obs):
    """log π of every action, and 0 for those that are illegal; with the weights π, which are 0 there."""
    logits, legal = network(params, obs["x"]), obs["legal"]
    log_p = jnp.where(legal, logits - jnp.log(jnp.sum(jnp.where(legal, jnp.exp(logits), 0))), 0)
    return log_p, jax.lax.stop_gradient(jnp.where(legal, jnp.exp(log_p), 0))


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
GRID = np.stack(np.meshgrid(NODES, NODES, indexing="ij"), -1).reshape(-1, DIMENSIONS)
GRID_WEIGHTS = np.outer(WEIGHTS, WEIGHTS).ravel()


def gaussian_log_prob(params, obs, *, squashed=False):
    """log-density at the nodes of a quadrature, exact for products of scores (degree 4), and its weights."""
    mean, log_std = jnp.split(network(params, obs["x"]), 2)
    action = jax.lax.stop_gradient(mean + jnp.exp(log_std) * GRID)
    log_p = (-0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std - 0.5 * LOG_2_PI).sum(-1)
    return log_p - (jnp.log(1 - jnp.tanh(action) ** 2).sum(-1) if squashed else 0), GRID_WEIGHTS


def categorical_kl(p, q, obs):
    log_p, weights = categorical_log_prob(p, obs)
    log_q, _ = categorical_log_prob(q, obs)
    return (jnp.where(obs["legal"], jnp.exp(log_p), 0) * (log_p - log_q)).sum() + 0 * weights.sum()


def gaussian_kl(p, q, obs):
    (m, s), (n, t) = (jnp.split(network(params, obs["x"]), 2) for params in (p, q))
    return (t - s + (jnp.exp(2 * s) + (m - n) ** 2) / (2 * jnp.exp(2 * t)) - 0.5).sum()


FAMILIES = {
    "categorical": (categorical, categorical_log_prob, categorical_kl),
    "gaussian": (gaussian, gaussian_log_prob, gaussian_kl),
    "tanh": (partial(gaussian, kind=po.TanhGaussian), partial(gaussian_log_prob, squashed=True), gaussian_kl),
}


def problems(seed, count=N, *, scale=0.6, shape=(ROWS, LENGTH)):
    """Weights, observations with one illegal action each, and ragged masks with an empty row; leading axis `count`."""
    rng = np.random.default_rng(seed)
    params = {
        "hidden": rng.normal(size=(count, FEATURES, HIDDEN)),
        "head": scale * rng.normal(size=(count, HIDDEN, ACTIONS)),
    }
    illegal = rng.integers(ACTIONS, size=(count, *shape))
    obs = {"x": rng.normal(size=(count, *shape, FEATURES)), "legal": np.arange(ACTIONS) != illegal[..., None]}
    length = rng.integers(1, shape[-1] + 1, (count, *shape[:-1]))
    length[:, -1] = 0 if shape[0] > 1 else shape[-1]
    length[:, 0] = shape[-1]
    return params, obs, np.arange(shape[-1]) < length[..., None]


def batch_of(obs, mask, **fields):
    fields = {"action": jnp.zeros(mask.shape, int)} | fields
    return po.Batch(obs=obs, mask=mask, **fields)


def scaled_sums(mask):
    """Weight of each decision [...] in `action_kl` and in `trajectory_kl`."""
    return {"action_kl": mask / mask.sum(), "trajectory_kl": mask / mask.any(-1).sum()}


def dense_fisher(log_prob, params, obs, mask):
    """Σ_s w_s E_a[∇log π ∇log πᵀ] from the scores of all actions (or nodes), for both ways to weigh decisions."""
    vector, unravel = ravel_pytree(params)

    def per_decision(obs):
        scores = jax.jacfwd(lambda v: log_prob(unravel(v), obs)[0])(vector)
        return (scores.T * log_prob(params, obs)[1]) @ scores

    fishers = jax.vmap(jax.vmap(per_decision))(obs)
    return {name: jnp.einsum("rt,rtij->ij", w, fishers) for name, w in scaled_sums(mask).items()}


def dense_hessians(kl, params, obs, mask):
    """Hessians at θ' = θ of the mean KL(θ ‖ θ') and of KL(θ' ‖ θ)."""
    vector, unravel = ravel_pytree(params)

    def mean_kl(p, q):
        per_decision = jax.vmap(jax.vmap(lambda obs: kl(unravel(p), unravel(q), obs)))(obs)
        return (jnp.where(mask, per_decision, 0)).sum() / mask.sum()

    return jax.hessian(lambda v: mean_kl(vector, v))(vector), jax.hessian(lambda v: mean_kl(v, vector))(vector)


def operator_matrix(model, divergence, params, batch, **keywords):
    """All columns of the Fisher operator, by vmap over the basis."""
    vector, unravel = ravel_pytree(params)
    operator = po.fisher_operator(model, divergence, params, batch, **keywords)
    return jax.vmap(lambda v: ravel_pytree(operator(unravel(v)))[0])(jnp.eye(vector.size, dtype=vector.dtype)).T


@pytest.fixture(scope="module")
def fishers():
    """Per family: the problems, the dense matrices in float64, and those of the library in both precisions."""
    table = {}
    for seed, (name, (model, log_prob, kl)) in enumerate(FAMILIES.items()):
        data = problems(seed)

        def dense(params, obs, mask, log_prob=log_prob, kl=kl):
            return dense_fisher(log_prob, params, obs, mask), dense_hessians(kl, params, obs, mask)

        def library(params, obs, mask, model=model):
            batch = batch_of(obs, mask)
            return {d.__name__: operator_matrix(model, d, params, batch) for d in (po.action_kl, po.trajectory_kl)}

        def found(wide, data=data, library=library):
            with jax.enable_x64(wide):
                return jax.tree.map(np.asarray, jax.jit(jax.vmap(library))(*data))

        with jax.enable_x64(True):
            exact = jax.tree.map(np.asarray, jax.jit(jax.vmap(dense))(*data))
        table[name] = data, exact, {wide: found(wide) for wide in (True, False)}
    return table


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize("divergence", ["action_kl", "trajectory_kl"])
def test_fisher_operator_is_the_outer_product_of_scores(fishers, name, wide, tolerance, divergence):
    _, (dense, _), found = fishers[name]
    assert found[wide][divergence].dtype == (np.float64 if wide else np.float32)
    assert relative_error(found[wide][divergence], dense[divergence]) < tolerance
    assert relative_error(dense["action_kl"], dense["trajectory_kl"]) > 0.1, "the two must differ to be told apart"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
def test_fisher_operator_is_the_hessian_of_the_kl_in_both_directions(fishers, name, wide, tolerance):
    _, (_, hessians), found = fishers[name]
    for hessian in hessians:
        assert relative_error(found[wide]["action_kl"], hessian) < tolerance


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
def test_fisher_operator_is_symmetric_and_positive_semidefinite(fishers, name, wide, tolerance):
    for matrices in fishers[name][2][wide].values():
        assert relative_error(matrices.swapaxes(1, 2), matrices) < tolerance
        eigenvalues = np.linalg.eigvalsh(matrices.astype(np.float64))
        assert np.all(eigenvalues.min(1) >= -tolerance * eigenvalues.max(1))
        assert np.all(eigenvalues.max(1) > 1e-3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.usefixtures("x64")
def test_fisher_operator_is_linear_and_damping_and_quadratic_form_are_its(fishers, name):
    (params, obs, mask), (dense, _), _ = fishers[name]
    model, rng = FAMILIES[name][0], np.random.default_rng(5)
    u, v = (jax.tree.map(lambda x: rng.normal(size=x.shape), params) for _ in range(2))

    @jax.jit
    @jax.vmap
    def products(params, obs, mask, u, v):
        f = po.fisher_operator(model, po.action_kl, params, batch_of(obs, mask))
        damped = po.fisher_operator(model, po.action_kl, params, batch_of(obs, mask), damping=0.3)
        mixed = f(jax.tree.map(lambda u, v: 2.0 * u - 3.0 * v, u, v))
        form = po.quadratic_form(model, po.action_kl, params, batch_of(obs, mask), v)
        return ravel(mixed), ravel(f(u)), ravel(f(v)), ravel(damped(v)), form

    mixed, fu, fv, damped, form = (np.asarray(x) for x in products(params, obs, mask, u, v))
    flat = np.asarray(jax.vmap(ravel)(v))
    assert relative_error(fv, np.einsum("nij,nj->ni", dense["action_kl"], flat)) < 1e-12
    assert relative_error(mixed, 2 * fu - 3 * fv) < 1e-12
    assert relative_error(damped, fv + 0.3 * flat) < 1e-12
    assert relative_error(form, np.einsum("ni,nij,nj->n", flat, dense["action_kl"], flat)) < 1e-12
    # Outside jit and vmap, the first instance alone.
    first = jax.tree.map(lambda x: jnp.asarray(x[0]), (params, obs, mask, v))
    eager = po.fisher_operator(model, po.action_kl, first[0], batch_of(*first[1:3]))(first[3])
    np.testing.assert_allclose(ravel(eager), fv[0], atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_sum_of_divergences_has_the_sum_of_their_fishers(fishers):
    (params, obs, mask), (dense, _), _ = fishers["categorical"]
    both = po.weighted_divergence(a=(0.3, po.action_kl), b=(2.0, po.reverse(po.trajectory_kl)))
    found = jax.jit(jax.vmap(lambda p, o, m: operator_matrix(categorical, both, p, batch_of(o, m))))(params, obs, mask)
    assert relative_error(found, 0.3 * dense["action_kl"] + 2.0 * dense["trajectory_kl"]) < 1e-12


# --- conjugate gradients ---------------------------------------------------------------------------------------------


def spd(rng, count, size, condition):
    """Symmetric positive definite matrices of the given condition number, and right-hand sides."""
    q, _ = np.linalg.qr(rng.normal(size=(count, size, size)))
    eigenvalues = np.linspace(1, condition, size)
    return np.einsum("nij,j,nkj->nik", q, eigenvalues, q), rng.normal(size=(count, size))


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None, None))
def solve(matrix, b, iters, tol):
    return po.conjugate_gradient(lambda v: matrix @ v, b, iters=iters, tol=tol)


def true_residual(matrix, b, x):
    matrix, b, x = (np.asarray(y, np.float64) for y in (matrix, b, x))
    return np.linalg.norm(b - np.einsum("nij,nj->ni", matrix, x), axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-9), (False, 1e-3)])
@pytest.mark.parametrize("condition", [2.0, 1e2, 1e3])
def test_cg_equals_a_direct_solve_in_n_iterations(condition, wide, tolerance):
    matrix, b = spd(np.random.default_rng(0), 50, 12, condition)
    with jax.enable_x64(wide):
        x, info = solve(jnp.asarray(matrix, float), jnp.asarray(b, float), 12, 0.0)
    assert relative_error(x, np.linalg.solve(matrix, b[..., None])) < tolerance
    curvature = np.einsum("ni,nij,nj->n", x, matrix, x)
    np.testing.assert_allclose(info.curvature, curvature, rtol=10 * tolerance)


@pytest.mark.usefixtures("x64")
def test_truncated_cg_equals_the_textbook_loop():
    """After k iterations, for every k: the iterate of Hestenes and Stiefel in numpy, and the count of them."""
    matrix, b = spd(np.random.default_rng(1), N, 12, 1e2)
    for k in range(12):
        x, info = solve(matrix, b, k, 0.0)
        for i in range(N):
            y, r, p = np.zeros(12), b[i].copy(), b[i].copy()
            for _ in range(k):
                ap = matrix[i] @ p
                alpha = r @ r / (p @ ap)
                y, r_new = y + alpha * p, r - alpha * ap
                p, r = r_new + (r_new @ r_new) / (r @ r) * p, r_new
            np.testing.assert_allclose(x[i], y, atol=1e-9)
        assert np.all(info.iterations == k)
        np.testing.assert_allclose(info.residual, true_residual(matrix, b, x), atol=1e-12)
        assert np.all(info.status == CGStatus.ITERATION_LIMIT)


@pytest.mark.usefixtures("x64")
def test_cg_stops_at_its_tolerance_and_says_converged():
    matrix, b = spd(np.random.default_rng(2), N, 40, 1e2)
    iterations = []
    for tol in (1e-1, 1e-4, 1e-8):
        x, info = solve(matrix, b, 100, tol)
        assert np.all(info.status == CGStatus.CONVERGED)
        assert np.all(true_residual(matrix, b, x) <= tol * (1 + 1e-9))
        before, _ = solve(matrix, b, int(info.iterations.max()) - 1, 0.0)
        longest = np.asarray(info.iterations) == info.iterations.max()
        assert np.all(true_residual(matrix, b, before)[longest] > tol), "it went on although it was there"
        iterations.append(int(info.iterations.sum()))
    assert iterations[0] < iterations[1] < iterations[2] <= 40 * N


ADVERSARIES = {
    "indefinite": lambda rng: (np.where(np.arange(12) % 3, 1.0, -1.0) * rng.uniform(0.5, 2, 12), 1e-6),
    "negative": lambda rng: (-rng.uniform(0.5, 2, 12), 1e-6),
    "singular": lambda rng: (np.maximum(rng.uniform(-1, 1, 12), 0), 1e-6),
    "ill-conditioned": lambda rng: (np.geomspace(1e-9, 1e3, 12), 1e-6),
    "tolerance beyond rounding": lambda rng: (np.geomspace(1, 1e4, 12), 1e-10),
    "tiny": lambda rng: (1e-30 * rng.uniform(0.5, 2, 12), 1e-6),
    "huge": lambda rng: (1e30 * rng.uniform(0.5, 2, 12), 1e-6),
}


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_cg_never_claims_a_convergence_that_is_not_there(name, wide):
    rng = np.random.default_rng(3)
    eigenvalues, tol = zip(*(ADVERSARIES[name](rng) for _ in range(200)), strict=True)
    q, _ = np.linalg.qr(rng.normal(size=(200, 12, 12)))
    matrix = np.einsum("nij,nj,nkj->nik", q, np.stack(eigenvalues), q).astype(np.float64 if wide else np.float32)
    b = rng.normal(size=(200, 12)).astype(matrix.dtype)
    with jax.enable_x64(wide):
        x, info = solve(jnp.asarray(matrix), jnp.asarray(b), 200, tol[0])
    assert np.all(np.isfinite(x))
    true, claimed = true_residual(matrix, b, x), np.asarray(info.residual)
    converged = np.asarray(info.status) == CGStatus.CONVERGED
    # What a residual of x can be known to: rounding of A x.
    length = np.linalg.norm(np.asarray(x, np.float64), axis=1)
    known_to = 30 * np.finfo(matrix.dtype).eps * np.abs(eigenvalues).max(1) * length
    known_to = known_to / np.linalg.norm(b, axis=1)
    assert np.all(true[converged] <= tol[0] + known_to[converged])
    assert np.all(np.abs(claimed - true) <= 1e-3 * true + known_to)
    curvature = np.asarray(info.status) == CGStatus.NONPOSITIVE_CURVATURE
    if name in ("indefinite", "negative"):
        assert curvature.mean() > 0.5
    if name == "singular":
        outside = np.stack(eigenvalues).min(1) == 0
        assert outside.mean() > 0.9
        assert not np.any(converged & outside)
    if name == "tolerance beyond rounding" and not wide:
        assert not converged.any()
        assert (np.asarray(info.status) == CGStatus.STAGNATED).mean() > 0.5
    if name == "huge" or (name == "tiny" and wide):  # in float32 the curvature of a tiny matrix underflows
        assert converged.mean() > 0.9


@pytest.mark.usefixtures("x64")
def test_cg_solves_a_singular_system_within_its_range_with_the_shortest_solution():
    rng = np.random.default_rng(4)
    q, _ = np.linalg.qr(rng.normal(size=(N, 12, 12)))
    matrix = np.einsum("nij,j,nkj->nik", q, np.maximum(np.linspace(-1, 1, 12), 0), q)
    b = np.einsum("nij,nj->ni", matrix, rng.normal(size=(N, 12)))
    x, info = solve(matrix, b, 20, 1e-10)
    assert np.all(info.status == CGStatus.CONVERGED)
    assert relative_error(x, np.einsum("nij,nj->ni", np.linalg.pinv(matrix), b)) < 1e-9


def test_cg_on_degenerate_systems_is_finite_and_says_why():
    b, nan, inf = np.ones(3, np.float32), np.nan, np.inf
    eye, cases = np.eye(3, dtype=np.float32), []
    cases += [(eye, 0 * b, CGStatus.CONVERGED), (0 * eye, 0 * b, CGStatus.CONVERGED)]
    cases += [(0 * eye, b, CGStatus.NONPOSITIVE_CURVATURE), (-eye, b, CGStatus.NONPOSITIVE_CURVATURE)]
    cases += [(eye + nan, b, CGStatus.NONFINITE), (eye + inf, b, CGStatus.NONFINITE)]
    cases += [(eye, np.array([1, nan, 1]), CGStatus.NONFINITE), (eye, np.array([inf, 1, 1]), CGStatus.NONFINITE)]
    poisoned = np.diag([1.0, 4, 9])
    poisoned[2, 2] = nan
    cases += [(poisoned, np.array([1.0, 1, 0]), CGStatus.NONFINITE)]
    matrix, right, status = zip(*cases, strict=True)
    x, info = solve(jnp.asarray(np.stack(matrix), jnp.float32), jnp.asarray(np.stack(right), jnp.float32), 10, 1e-6)
    assert [CGStatus(int(s)).name for s in info.status] == [s.name for s in status]
    np.testing.assert_array_equal(x, 0.0)
    assert float(info.residual[0]) == 0.0
    np.testing.assert_array_equal(info.residual[6:8], 1.0, "of a right-hand side that is not finite nothing is solved")


def test_cg_is_equivariant_to_the_scale_of_the_right_hand_side():
    matrix, b = (np.asarray(x, np.float32) for x in spd(np.random.default_rng(5), N, 12, 10))
    x, info = solve(matrix, b, 6, 1e-3)
    for factor in 10.0 ** np.arange(-30, 31, 6):
        scaled, scaled_info = solve(matrix, (b * factor).astype(np.float32), 6, 1e-3)
        assert relative_error(np.asarray(scaled, np.float64) / factor, x) < 1e-5
        np.testing.assert_array_equal(scaled_info.status, info.status)
        np.testing.assert_array_equal(scaled_info.iterations, info.iterations)
        assert np.all(np.isfinite(scaled_info.curvature))
    for exponent in (-90, 90):  # a power of two rounds nothing
        scaled, scaled_info = solve(matrix, np.ldexp(b, exponent), 6, 1e-3)
        np.testing.assert_array_equal(scaled, np.ldexp(x, exponent))
        np.testing.assert_array_equal(scaled_info.residual, info.residual)


@pytest.mark.usefixtures("x64")
def test_lanes_of_a_vmapped_solve_freeze_where_they_stopped():
    """Lanes that converge early, break or run to the limit, side by side: each as if it were alone."""
    rng = np.random.default_rng(6)
    matrix, b = spd(rng, 8, 12, 10)
    matrix[0] = np.eye(12)
    matrix[1] = np.diag(np.where(np.arange(12) < 6, 1.0, 2.0))
    matrix[2] -= 3 * np.eye(12)
    matrix[3, 0, 0] = np.nan
    b[4] = 0
    b[5, 3] = np.nan
    together, info = solve(matrix, b, 8, 1e-6)
    apart = jax.jit(lambda m, b: po.conjugate_gradient(lambda v: m @ v, b, iters=8, tol=1e-6))
    assert len({int(s) for s in info.status}) == 4
    assert len({int(i) for i in info.iterations}) >= 4
    for lane in range(8):
        x, alone = apart(matrix[lane], b[lane])
        np.testing.assert_allclose(together[lane], x, rtol=1e-7, atol=1e-9)
        assert int(info.iterations[lane]) == int(alone.iterations)
        assert int(info.status[lane]) == int(alone.status)
    # The same program over copies of one lane, instead of beside lanes that go on for longer: bit for bit.
    alike, _ = solve(np.stack([matrix[1]] * 8), np.stack([b[1]] * 8), 8, 1e-6)
    np.testing.assert_array_equal(alike[0], together[1])


@pytest.mark.usefixtures("x64")
def test_iterations_and_tolerance_may_be_traced():
    matrix, b = spd(np.random.default_rng(7), 1, 12, 1e2)
    run = jax.jit(jax.vmap(lambda k, tol: po.conjugate_gradient(lambda v: matrix[0] @ v, b[0], iters=k, tol=tol)))
    x, info = run(jnp.arange(6), jnp.zeros(6))
    assert info.iterations.tolist() == list(range(6))
    for k in range(6):
        fixed, _ = po.conjugate_gradient(lambda v: matrix[0] @ v, b[0], iters=k, tol=0.0)
        np.testing.assert_allclose(x[k], fixed, atol=1e-12)
    _, loose = run(jnp.full(2, 50), jnp.array([1e-1, 1e-3]))
    assert int(loose.iterations[0]) < int(loose.iterations[1])


def test_cg_takes_trees_of_any_dtype_and_answers_in_float32_at_least():
    b = {"a": jnp.ones(2, jnp.bfloat16), "b": (jnp.ones((2, 2), jnp.float32),)}
    scale = {"a": jnp.array([1.0, 2.0]), "b": (jnp.full((2, 2), 4.0),)}
    x, info = po.conjugate_gradient(lambda v: jax.tree.map(jnp.multiply, scale, v), b, iters=10, tol=1e-5)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(x))
    np.testing.assert_allclose(ravel(x), 1 / ravel(scale), rtol=1e-5)
    assert int(info.iterations) == 3


# --- the natural gradient --------------------------------------------------------------------------------------------


def apply(optimizer, objective, params, batch):
    """One update: `(updates, state)`."""
    grads = jax.grad(lambda p: objective(p, batch)[0])(params)
    return optimizer.update(grads, optimizer.init(params), params, batch=batch, objective=objective)


def bandit(logits, obs):
    """Every action of a bandit once, [A, 1]."""
    return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits, (*obs.shape, obs.shape[0]))))


@pytest.mark.usefixtures("x64")
def test_natural_gradient_of_a_softmax_bandit_is_the_centred_advantage():
    """F⁺ ∇J for J = Σ p r is r - mean(r), whatever the policy."""
    logits, reward = np.random.default_rng(10).normal(size=(2, N, 6))

    @jax.jit
    @jax.vmap
    def step(logits, reward):
        p = jnp.exp(log_softmax(logits))
        batch = po.Batch(
            obs=jnp.zeros((6, 1)),
            action=jnp.arange(6)[:, None],
            mask=jnp.ones((6, 1), bool),
            advantage=(6 * p * reward)[:, None],
            log_prob=log_softmax(logits)[:, None],
        )
        optimizer = po.npg(bandit, learning_rate=0.5, damping=0.0, cg_iters=30)
        return apply(optimizer, po.objective(bandit, po.surrogate()), logits, batch)[0]

    centred = reward - reward.mean(1, keepdims=True)
    assert relative_error(step(logits, reward), 0.5 * centred) < 1e-9


@pytest.mark.usefixtures("x64")
def test_natural_gradient_of_a_gaussian_mean_is_the_variance_times_the_gradient():
    rng = np.random.default_rng(11)
    mean, log_std, gradient = rng.normal(size=(3, N, 5))

    def update(mean, log_std, gradient):
        def model(params, obs):
            return po.Outputs(policy=po.DiagGaussian(mean=params[None], log_std=log_std[None]))

        batch = po.Batch(obs=None, action=jnp.zeros((1, 5)), mask=jnp.ones(1, bool))
        transform = po.natural_gradient(model, damping=0.0, cg_iters=20)
        return transform.update(gradient, transform.init(mean), mean, batch=batch)[0]

    found = jax.jit(jax.vmap(update))(mean, log_std, gradient)
    assert relative_error(found, np.exp(2 * log_std) * gradient) < 1e-9


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-9), (False, 2e-3)])
def test_natural_gradient_solves_the_damped_dense_system(fishers, wide, tolerance):
    (params, obs, mask), (dense, _), _ = fishers["gaussian"]
    gradient = jax.tree.map(lambda x: np.random.default_rng(12).normal(size=x.shape), params)
    with jax.enable_x64(wide):

        def update(params, obs, mask, gradient):
            transform = po.natural_gradient(gaussian, damping=0.1, cg_iters=100)
            x, state = transform.update(gradient, transform.init(params), params, batch=batch_of(obs, mask))
            return ravel(x), state.solve

        data = jax.tree.map(lambda x: x if x.dtype == bool else jnp.asarray(x, float), (params, obs, mask, gradient))
        x, solve_info = jax.tree.map(np.asarray, jax.jit(jax.vmap(update))(*data))
    flat = np.concatenate([gradient[k].reshape(N, -1) for k in sorted(gradient)], axis=1)
    damped = dense["action_kl"] + 0.1 * np.eye(flat.shape[1])
    assert relative_error(x, np.linalg.solve(damped, flat[..., None])) < tolerance
    assert np.all(solve_info.residual < 1e-5)


@pytest.mark.usefixtures("x64")
def test_the_natural_gradient_does_not_depend_on_the_parameters_chosen(fishers):
    """θ = M φ: the same step in policy space when the damping is mapped along, and nearly so when it is small."""
    (params, obs, mask), _, _ = fishers["gaussian"]
    rng = np.random.default_rng(13)
    size = sum(x[0].size for x in params.values())
    q, r = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    m = q @ np.diag(np.geomspace(0.1, 10, size)) @ r  # condition 100
    gradient = rng.normal(size=(N, size))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
    def steps(params, obs, mask, gradient, damping):
        theta, unravel = ravel_pytree(params)
        batch = batch_of(obs, mask)
        direct = po.fisher_operator(lambda p, o: gaussian(unravel(p), o), po.action_kl, theta, batch, damping=damping)
        phi = jnp.asarray(np.linalg.inv(m)) @ theta
        bare = po.fisher_operator(lambda p, o: gaussian(unravel(m @ p), o), po.action_kl, phi, batch)
        solve = partial(po.conjugate_gradient, iters=1500, tol=1e-14)
        x = solve(direct, gradient)[0]
        mapped = m @ solve(lambda v: bare(v) + damping * (m.T @ (m @ v)), m.T @ gradient)[0]
        unmapped = m @ solve(lambda v: bare(v) + damping * v, m.T @ gradient)[0]
        return x, mapped, unmapped

    # A gradient in the range of F, so that the limit of no damping exists.
    f = jax.jit(jax.vmap(lambda p, o, k, g: ravel(po.fisher_operator(gaussian, po.action_kl, p, batch_of(o, k))(
        ravel_pytree(p)[1](g)))))  # fmt: skip
    gradient = np.asarray(f(params, obs, mask, gradient))
    distance = []
    for damping in (1e-1, 1e-3, 1e-5):
        x, mapped, unmapped = (np.asarray(y) for y in steps(params, obs, mask, gradient, damping))
        if damping == 1e-1:
            assert relative_error(mapped, x) < 1e-9
        length = lambda v: np.sqrt(np.abs(np.einsum("ni,ni->n", v, np.asarray(f(params, obs, mask, v)))))  # noqa: E731
        distance.append(np.median(length(unmapped - x) / length(x)))
    assert distance[0] > 1e-2
    assert distance[0] > 3 * distance[1] > 9 * distance[2] > 0


@pytest.mark.usefixtures("x64")
def test_fisher_rows_may_be_fewer_while_the_gradient_stays_on_all():
    params, obs, mask = problems(14, shape=(6, 1))
    mask[:] = True
    fields = {"advantage": np.random.default_rng(14).normal(size=mask.shape)}

    def update(params, obs, mask, fields):
        batch = batch_of(obs, mask, **fields)
        transform = po.natural_gradient(categorical, damping=0.1, cg_iters=60, fisher_batch=po.every(3))
        objective = po.objective(categorical, po.reinforce())
        grads = jax.grad(lambda p: objective(p, batch)[0])(params)
        few = jax.tree.map(lambda x: x[::3], (obs, mask))
        return (
            ravel(apply(transform, objective, params, batch)[0]),
            ravel(grads),
            dense_fisher(categorical_log_prob, params, *few)["action_kl"],
        )

    legal = np.argmax(obs["legal"], axis=-1)
    x, gradient, fisher = jax.jit(jax.vmap(update))(params, obs, mask, {**fields, "action": legal})
    expected = np.linalg.solve(np.asarray(fisher) + 0.1 * np.eye(x.shape[1]), np.asarray(gradient)[..., None])
    assert relative_error(x, expected) < 1e-9


# --- what the critic owns --------------------------------------------------------------------------------------------


def actor_and_critic(params, obs):
    value = jnp.tanh(obs["x"] @ params["critic"]["hidden"]) @ params["critic"]["head"]
    return po.Outputs(policy=categorical(params["actor"], obs).policy, value=value[..., 0])


def with_critic(seed):
    params, obs, mask = problems(seed)
    rng = np.random.default_rng(seed)
    critic = {"hidden": rng.normal(size=(N, FEATURES, HIDDEN)), "head": rng.normal(size=(N, HIDDEN, 1))}
    fields = {
        "action": np.argmax(obs["legal"], axis=-1),
        "advantage": rng.normal(size=mask.shape),
        "log_prob": rng.normal(size=mask.shape) - 1,
        "target": 10 * rng.normal(size=mask.shape),
    }
    return {"actor": params, "critic": critic}, obs, mask, fields


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
@pytest.mark.parametrize("name", ["npg", "trpo"])
@pytest.mark.usefixtures("x64")
def test_critic_parameters_do_not_move_even_if_the_objective_has_a_value_loss(name, wrap):
    params, obs, mask, fields = with_critic(15)
    model = wrap(actor_and_critic)

    def update(params, obs, mask, fields, value_weight):
        batch = batch_of(obs, mask, **fields)
        term = po.weighted_sum(policy=(1.0, po.surrogate()), value=(value_weight, po.value_loss()))
        return apply(getattr(po, name)(model), po.objective(model, term), params, batch)[0]

    run = jax.jit(jax.vmap(update, in_axes=(0, 0, 0, 0, None)))
    with_value, without = run(params, obs, mask, fields, 1.0), run(params, obs, mask, fields, 0.0)
    assert not np.any(ravel(with_value["critic"]))
    assert np.abs(ravel(with_value["actor"])).min() > 0
    np.testing.assert_allclose(ravel(with_value["actor"]), ravel(without["actor"]), atol=1e-12)


def test_policy_parameters_are_found_through_jit_and_checkpoint_and_sharing():
    params, obs, mask, _ = jax.tree.map(lambda x: x[0], with_critic(16))
    own = {"actor": {"hidden": True, "head": True}, "critic": {"hidden": False, "head": False}}
    batch = batch_of(obs, mask)
    wraps = [lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(lambda p, o: jax.checkpoint(f)(p, o))]
    for wrap in wraps:
        assert policy_parameters(wrap(actor_and_critic), params, batch) == own

    @jax.jit
    def shared(params, obs):
        trunk = jax.nn.relu(obs["x"] @ params["trunk"])
        return po.Outputs(policy=po.Categorical(logits=trunk @ params["policy"]), value=trunk @ params["value"])

    leaves = {"trunk": jnp.ones((FEATURES, 4)), "policy": jnp.ones((4, 3)), "value": jnp.ones(4), "unused": jnp.ones(2)}
    found = policy_parameters(shared, leaves, batch)
    assert found == {"trunk": True, "policy": True, "value": False, "unused": False}


# --- TRPO ------------------------------------------------------------------------------------------------------------


def numpy_network(params, x):
    return np.einsum("n...h,nha->n...a", np.tanh(np.einsum("n...f,nfh->n...h", x, params["hidden"])), params["head"])


def numpy_categorical(params, obs):
    logits = np.where(obs["legal"], numpy_network(params, obs["x"]), -np.inf)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def numpy_kl(old, new):
    """KL(old ‖ new) per decision from log-probabilities."""
    with np.errstate(invalid="ignore"):
        return np.where(np.exp(old) > 0, np.exp(old) * (old - new), 0).sum(-1)


def masked_means(x, mask):
    return np.where(mask, x, 0).sum((1, 2)) / mask.sum((1, 2))


def trpo_problems(seed, count, dtype):
    """Policies from nearly uniform to nearly deterministic, with actions of their own and radii over three decades."""
    rng = np.random.default_rng(seed)
    params, obs, mask = problems(seed, count)
    params["head"] *= np.geomspace(0.1, 50, count)[:, None, None]
    params, obs = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(dtype), (params, obs))
    log_p = numpy_categorical(jax.tree.map(lambda x: x.astype(np.float64), params), obs)
    noise = rng.gumbel(size=log_p.shape)
    action = np.argmax(
        np.where(rng.random(mask.shape)[..., None] < 0.7, log_p, np.where(obs["legal"], 0, -np.inf)) + noise, -1
    )
    fields = {
        "action": action,
        "log_prob": np.take_along_axis(log_p, action[..., None], -1)[..., 0].astype(dtype),
        "advantage": rng.normal(size=mask.shape).astype(dtype),
    }
    order = rng.permutation(count)
    radius, damping = np.geomspace(1e-4, 1e-1, count)[order], np.geomspace(1e-8, 1e-1, count)[order[::-1]]
    return params, obs, mask, fields, radius.astype(dtype), damping.astype(dtype)


def surrogate_loss(log_p, fields, mask):
    chosen = np.take_along_axis(log_p, fields["action"][..., None], -1)[..., 0]
    return -masked_means(np.exp(np.clip(chosen - fields["log_prob"], -20, 20)) * fields["advantage"], mask)


@pytest.mark.parametrize(("wide", "slack"), [(True, 1e-6), (False, 1e-2)])
def test_an_accepted_trpo_step_keeps_the_exact_kl_and_improves_the_surrogate(wide, slack):
    """1,000 problems; both are recomputed from outside in float64, and a rejected step changes no bit."""
    dtype = np.float64 if wide else np.float32
    params, obs, mask, fields, radius, damping = trpo_problems(20, 1000, dtype)

    def update(params, obs, mask, fields, radius, damping):
        objective = po.objective(categorical, po.surrogate())
        optimizer = po.trpo(categorical, radius=radius, damping=damping)
        updates, state = apply(optimizer, objective, params, batch_of(obs, mask, **fields))
        return optax.apply_updates(params, updates), state[-1], state[0].solve

    with jax.enable_x64(wide):
        new, state, solve_info = jax.tree.map(
            np.asarray, jax.jit(jax.vmap(update))(params, obs, mask, fields, radius, damping)
        )
    old_log_p, new_log_p = (
        numpy_categorical({k: v.astype(np.float64) for k, v in p.items()}, obs) for p in (params, new)
    )
    kl = masked_means(numpy_kl(old_log_p, new_log_p), mask)
    improvement = surrogate_loss(old_log_p, fields, mask) - surrogate_loss(new_log_p, fields, mask)
    accepted, noise = state.accepted, 1e-13 if wide else 1e-6
    assert np.all(kl[accepted] <= radius[accepted] * (1 + slack) + noise * noise)
    assert np.all(improvement[accepted] > -noise)
    clear = accepted & (state.improvement > 100 * noise)
    assert np.all(improvement[clear] > 0)
    np.testing.assert_allclose(state.improvement[clear], improvement[clear], rtol=1e-5 if wide else 0.1, atol=noise)
    np.testing.assert_allclose(state.divergence[accepted], kl[accepted], rtol=1e-5 if wide else 1e-2, atol=noise)
    for k in params:
        np.testing.assert_array_equal(new[k][~accepted].view(np.uint8), params[k][~accepted].view(np.uint8))
        assert np.any(new[k] != params[k], axis=(1, 2))[clear].all()
    np.testing.assert_array_equal(state.step_size[~accepted], 0)
    # Not vacuous: most are accepted, with most of the radius used, and near-deterministic ones are among them.
    certain = np.exp(old_log_p).max(-1).mean((1, 2)) > 0.95
    assert accepted.mean() > 0.8
    assert np.median(kl[accepted] / radius[accepted]) > 0.5
    assert (accepted & certain).sum() > 50
    assert (state.trials > 1).sum() > 50
    assert np.all(np.isfinite(solve_info.residual))


@pytest.mark.usefixtures("x64")
def test_trpo_on_gaussians_keeps_the_exact_kl():
    params, obs, mask = problems(21, 300)
    rng = np.random.default_rng(21)
    mean, log_std = np.split(numpy_network(params, obs["x"]), 2, axis=-1)
    action = mean + np.exp(log_std) * rng.normal(size=mean.shape)
    log_prob = (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * LOG_2_PI).sum(-1)
    fields = {"action": action, "log_prob": log_prob, "advantage": rng.normal(size=mask.shape)}

    def update(params, obs, mask, fields):
        optimizer, objective = po.trpo(gaussian, radius=0.02), po.objective(gaussian, po.surrogate())
        updates, state = apply(optimizer, objective, params, batch_of(obs, mask, **fields))
        return optax.apply_updates(params, updates), state[-1].accepted

    new, accepted = jax.tree.map(np.asarray, jax.jit(jax.vmap(update))(params, obs, mask, fields))
    new_mean, new_log_std = np.split(numpy_network(new, obs["x"]), 2, axis=-1)
    per_dimension = (
        new_log_std - log_std + (np.exp(2 * log_std) + (mean - new_mean) ** 2) / (2 * np.exp(2 * new_log_std)) - 0.5
    )
    kl = masked_means(per_dimension.sum(-1), mask)
    assert accepted.mean() > 0.95
    assert np.all(kl[accepted] <= 0.02 * (1 + 1e-6))
    assert np.median(kl[accepted]) > 0.01


def test_the_kl_of_a_scaled_step_tends_to_its_radius():
    """Without the line search: |KL(old ‖ new) - δ| = O(δ^1.5)."""
    with jax.enable_x64(True):
        params, obs, mask, fields, _, _ = trpo_problems(22, 40, np.float64)
        params["head"] = 0.3 * np.random.default_rng(22).normal(size=params["head"].shape)
        old = numpy_categorical(params, obs)
        fields["log_prob"] = np.take_along_axis(old, fields["action"][..., None], -1)[..., 0]

        @jax.jit
        @partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
        def update(params, obs, mask, fields, radius):
            parts = po.natural_gradient(categorical, damping=1e-2), po.scale_to_radius(categorical, radius=radius)
            objective = po.objective(categorical, po.surrogate())
            batch = batch_of(obs, mask, **fields)
            step, _ = apply(optax.chain(*parts, optax.scale(-1.0)), objective, params, batch)
            return optax.apply_updates(params, step)

        scaled = []
        for radius in (1e-3, 1e-5, 1e-7):
            new = jax.tree.map(np.asarray, update(params, obs, mask, fields, radius))
            kl = masked_means(numpy_kl(old, numpy_categorical(new, obs)), mask)
            scaled.append(np.abs(kl - radius) / radius**1.5)
    assert np.all(scaled[0] * 1e-3**0.5 < 0.5)
    assert np.all(scaled[2] < 2 * scaled[0] + 1)
    assert np.all(scaled[1] < 2 * scaled[0] + 1)


def test_trpo_without_its_line_search_is_npg_of_the_same_length():
    with jax.enable_x64(True):
        params, obs, mask, fields, _, _ = trpo_problems(23, N, np.float64)

        def update(params, obs, mask, fields):
            objective, batch = po.objective(categorical, po.surrogate()), batch_of(obs, mask, **fields)
            parts = po.natural_gradient(categorical), po.scale_to_radius(categorical), optax.scale(-1.0)
            step, state = apply(optax.chain(*parts), objective, params, batch)
            plain, _ = apply(po.npg(categorical, learning_rate=state[1].factor), objective, params, batch)
            whole, search = apply(po.trpo(categorical), objective, params, batch)
            return ravel(step), ravel(plain), ravel(whole), search[-1].step_size

        step, plain, whole, share = jax.tree.map(np.asarray, jax.jit(jax.vmap(update))(params, obs, mask, fields))
    assert relative_error(plain, step) < 1e-6  # the factor is reported in float32
    assert np.all(np.linalg.norm(step, axis=1) > 0)
    np.testing.assert_allclose(whole, share[:, None] * step, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_further_constraints_hold_as_well_and_bind():
    params, obs, mask, fields, _, _ = trpo_problems(24, 200, np.float64)
    limits = {"reverse": 0.002, "trajectory": 0.004}

    def update(params, obs, mask, fields, *, constraints):
        optimizer = po.trpo(categorical, radius=0.01, constraints=constraints, max_trials=20)
        objective = po.objective(categorical, po.surrogate())
        updates, state = apply(optimizer, objective, params, batch_of(obs, mask, **fields))
        return optax.apply_updates(params, updates), state[-1].accepted

    constraints = [(po.reverse(po.action_kl), limits["reverse"]), (po.trajectory_kl, limits["trajectory"])]
    old = numpy_categorical(params, obs)
    broken = []
    for chosen in (constraints, []):
        run = jax.jit(jax.vmap(partial(update, constraints=chosen)))
        new, accepted = jax.tree.map(np.asarray, run(params, obs, mask, fields))
        new = numpy_categorical(new, obs)
        backward = masked_means(numpy_kl(new, old), mask)
        per_row = np.where(mask, numpy_kl(old, new), 0).sum((1, 2)) / mask.any(-1).sum(1)
        assert accepted.mean() > 0.9
        broken.append(accepted & ((backward > 0.002 * (1 + 1e-6)) | (per_row > 0.004 * (1 + 1e-6))))
    assert not broken[0].any()
    assert broken[1].mean() > 0.5


def scaling_problem(scale):
    params, obs, mask, fields, _, _ = trpo_problems(25, N, np.float32)
    params["head"] = problems(25)[0]["head"].astype(np.float32)
    log_p = numpy_categorical(params, obs)
    fields["log_prob"] = np.take_along_axis(log_p, fields["action"][..., None], -1)[..., 0].astype(np.float32)
    return params, obs, mask, {**fields, "advantage": np.float32(scale) * fields["advantage"]}


@pytest.fixture(scope="module")
def trpo_default():
    def update(params, obs, mask, fields):
        objective, batch = po.objective(categorical, po.surrogate()), batch_of(obs, mask, **fields)
        updates, state = apply(po.trpo(categorical), objective, params, batch)
        return ravel(updates), state[-1].accepted

    return jax.jit(jax.vmap(update))


@pytest.mark.parametrize("exponent", [-83, -40, 40, 83])
def test_the_trpo_step_does_not_depend_on_the_scale_of_the_advantage(trpo_default, exponent):
    """A power of two rounds nothing, so that the default float32 solve takes the same path."""
    step, accepted = trpo_default(*scaling_problem(1.0))
    scaled, scaled_accepted = trpo_default(*scaling_problem(2.0**exponent))
    assert np.mean(accepted) > 0.9
    np.testing.assert_array_equal(scaled_accepted, accepted)
    assert relative_error(scaled, step) < 1e-6


def bits(tree):
    return [np.asarray(x).view(np.uint8) for x in jax.tree.leaves(tree)]


REFUSALS = {
    "NaN in the gradient": {"gradient": np.nan},
    "infinite gradient": {"gradient": np.inf},
    "zero gradient": {"gradient": 0.0},
    "NaN objective": {"objective": lambda p, b: (jnp.nan * p["a"].sum(), {})},
    "objective that is NaN anywhere else": {"objective": lambda p, b: (jnp.where(p["a"][0] == 0, 0.0, jnp.nan), {})},
    "objective that is -inf anywhere else": {"objective": lambda p, b: (jnp.where(p["a"][0] == 0, 0.0, -jnp.inf), {})},
    "constant objective": {"objective": lambda p, b: (jnp.zeros(()), {})},
    "objective that rises": {"objective": lambda p, b: (-p["a"] @ jnp.array([1.0, -1.0, 0.0]), {})},
    "no room": {"radius": 0.0},
    "NaN radius": {"radius": np.nan},
    "NaN divergence": {"constraints": [(lambda old, new, batch: jnp.nan, 1.0)]},
    "divergence out of bounds": {"constraints": [(lambda old, new, batch: jnp.float32(1.0), 0.5)]},
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_refused_step_changes_no_bit(name, wrap):
    """Zeros of both signs among the parameters keep their sign. (Denormal numbers XLA itself may flush to zero.)"""
    case = {"gradient": 1.0, "radius": 0.01, "objective": None, "constraints": ()} | REFUSALS[name]
    params = {
        "a": np.array([0.0, -0.0, 1e-30], np.float32),
        "idle": np.array([-0.0, 0.0, 3.0], np.float32),
        "half": jnp.array([-0.0, 0.0, 2.0], jnp.bfloat16),
    }

    def model(params, obs):
        return po.Outputs(policy=po.Categorical(logits=params["a"][None]))

    batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    objective = case["objective"] or (lambda p, b: (p["a"] @ jnp.array([1.0, -1.0, 0.0]), {}))

    def step(params, gradient):
        optimizer = po.trpo(model, radius=case["radius"], constraints=case["constraints"])
        grads = {"a": gradient * jnp.array([1.0, -1.0, 0.0])} | {k: 0 * params[k] for k in ("idle", "half")}
        updates, state = optimizer.update(grads, optimizer.init(params), params, batch=batch, objective=objective)
        return optax.apply_updates(params, updates), state[-1]

    new, state = wrap(step)(params, jnp.float32(case["gradient"]))
    assert not bool(state.accepted)
    assert float(state.step_size) == float(state.improvement) == float(state.divergence) == 0.0
    for before, after in zip(bits(params), bits(new), strict=True):
        np.testing.assert_array_equal(after, before)


def test_the_same_problem_is_accepted_when_nothing_is_wrong():
    """Guards the test above: without a fault, its step is taken."""
    params = jnp.array([0.0, -0.0, 1e-30])

    def model(params, obs):
        return po.Outputs(policy=po.Categorical(logits=params[None]))

    batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    objective = lambda p, b: (p @ jnp.array([1.0, -1.0, 0.0]), {})  # noqa: E731
    updates, state = apply(po.trpo(model), objective, params, batch)
    assert bool(state[-1].accepted)
    assert float(updates[0]) < 0 < float(updates[1])


# --- the line search -------------------------------------------------------------------------------------------------


def bare_model(params, obs):
    return po.Outputs(policy=params)


def squared_distance(old, new, batch):
    return jnp.sum((new.policy - old.policy) ** 2)


def falling(params, batch):
    return -jnp.sum(params), {}


def search(shrink, radius, *, step=1.0, objective=falling, **keywords):
    """Backtracking of a step of one parameter, by default of length 1: the divergence of a share s is s²."""
    batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    transform = po.backtrack(bare_model, [(squared_distance, radius)], shrink=shrink, **keywords)
    params = jnp.zeros(1)
    return transform.update(jnp.full(1, step), transform.init(params), params, batch=batch, objective=objective)


def test_the_line_search_takes_the_first_share_that_fits():
    shrink, radius = np.meshgrid([0.3, 0.5, 0.8, 0.95], [2.0, 1.0, 0.7, 0.3, 0.1, 1e-2, 1e-3])
    shrink, radius = shrink.ravel(), radius.ravel() * (1 + 1e-4)
    update, state = jax.jit(jax.vmap(search))(jnp.asarray(shrink, jnp.float32), jnp.asarray(radius, jnp.float32))
    for k, (s, r) in enumerate(zip(shrink, radius, strict=True)):
        fits = [i for i in range(10) if s ** (2 * i) <= r]
        assert bool(state.accepted[k]) == bool(fits)
        assert int(state.trials[k]) == (fits[0] + 1 if fits else 10)
        share = s ** fits[0] if fits else 0.0
        np.testing.assert_allclose(state.step_size[k], share, rtol=1e-6)
        np.testing.assert_allclose(update[k, 0], share, rtol=1e-6)
        np.testing.assert_allclose(state.improvement[k], share, rtol=1e-6)
        np.testing.assert_allclose(state.divergence[k], share**2, rtol=1e-6)
    assert 4 < state.accepted.sum() < len(radius)
    assert len(set(state.trials.tolist())) > 5


def test_a_constraint_may_be_met_with_equality_and_the_loss_must_fall_strictly():
    _, state = search(0.5, 0.25)
    assert bool(state.accepted)
    assert float(state.divergence) == 0.25
    assert int(state.trials) == 2
    assert not bool(search(0.5, 10.0, objective=lambda p, b: (jnp.ones(()), {}))[1].accepted)
    # A loss that falls only near the start: (s - 0.3)² - 0.09 < 0 for s < 0.6.
    _, state = search(0.5, 10.0, objective=lambda p, b: (jnp.sum((p - 0.3) ** 2), {}))
    assert float(state.step_size) == 0.5


@pytest.mark.parametrize("max_trials", [1, 3, 5])
def test_the_search_gives_up_after_its_trials(max_trials):
    update, state = search(0.5, 1e-9, max_trials=max_trials)
    assert int(state.trials) == max_trials
    assert not bool(state.accepted)
    assert np.signbit(np.asarray(update)).all()
    assert not np.any(update)


@pytest.mark.parametrize("missing", ["params", "batch", "objective"])
def test_solvers_name_the_argument_that_is_missing(missing):
    batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    given = {"params": jnp.zeros(2), "batch": batch, "objective": falling}
    given[missing] = None
    constraint = [(squared_distance, 1.0)]
    transforms = [po.backtrack(bare_model, constraint)]
    if missing != "objective":
        transforms += [po.natural_gradient(bare_model), po.scale_to_radius(bare_model)]
    for transform in transforms:
        with pytest.raises(ValueError, match=missing):
            transform.update(jnp.zeros(2), transform.init(jnp.zeros(2)), **given)
    with pytest.raises(ValueError, match="constraint"):
        po.backtrack(bare_model, [])


# --- the theory's bound ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_the_return_after_a_trpo_step_is_never_below_the_bound_of_the_theory():
    """J(π') >= L(π') - 4 ε γ/(1-γ)² max_s KL(π ‖ π'), ε = max |A|, on 200 tabular worlds (TRPO, theorem 1)."""
    rng, gamma, states, actions = np.random.default_rng(30), 0.8, 4, 3
    worlds = random_mdps(rng, 200, states=states, actions=actions)
    table = rng.normal(size=(200, states, actions))
    policy = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
    solved = [discounted_world(MDP(*x), p, gamma) for *x, p in zip(*worlds, policy, strict=True)]
    value, q, v, visits = (np.stack(x) for x in zip(*solved, strict=True))
    advantage = q - v[..., None]

    def model(table, obs):
        return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(table[:, None], (*obs.shape, actions))))

    def update(table, weight):
        pairs = (states, actions)
        batch = po.Batch(
            obs=jnp.zeros(pairs),
            action=jnp.broadcast_to(jnp.arange(actions), pairs),
            mask=jnp.ones(pairs, bool),
            advantage=weight * states * actions,
            log_prob=log_softmax(table),
        )
        updates, state = apply(po.trpo(model, radius=0.05), po.objective(model, po.surrogate()), table, batch)
        return table + updates, state[-1]

    new, state = jax.tree.map(np.asarray, jax.jit(jax.vmap(update))(table, visits[..., None] * policy * advantage))
    new_policy = np.exp(new) / np.exp(new).sum(-1, keepdims=True)
    new_value = np.array([discounted_world(MDP(*x), p, gamma)[0] for *x, p in zip(*worlds, new_policy, strict=True)])
    surrogate = (visits[..., None] * new_policy * advantage).sum((1, 2))
    kl = (policy * (np.log(policy) - np.log(new_policy))).sum(-1)
    penalty = 4 * np.abs(advantage).max((1, 2)) * gamma / (1 - gamma) ** 2 * kl.max(1)
    assert state.accepted.mean() > 0.95
    np.testing.assert_allclose(state.improvement, surrogate, rtol=1e-5)
    assert np.all(kl.mean(1) <= 0.05 * (1 + 1e-6))
    assert np.all(new_value >= value + surrogate - penalty)
    assert np.all(surrogate[state.accepted] > 0)
    # The surrogate alone is no bound: what the step gains differs from it, in both directions.
    assert 0.05 < (new_value < value + surrogate).mean() < 0.95
    # In the limit of small steps it is exact: the gain is within the penalty of it on the other side as well.
    assert np.all(np.abs(new_value - value - surrogate) <= penalty)


# --- the clip of the global norm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.0, 1e-35, 1e-10, 0.5, 2.0, 1e10, 1e30, 3e38])
def test_the_norm_clip_keeps_the_direction_of_any_finite_gradient(length):
    direction = np.array([0.6, 0.8], np.float32)
    gradient = {
        "a": jnp.asarray(direction[:1] * np.float32(length)),
        "b": jnp.asarray(direction[1:] * np.float32(length)),
    }
    clip = po.clip_by_global_norm(1.0)
    clipped, _ = clip.update(gradient, clip.init(None))
    if length <= 1:
        np.testing.assert_array_equal(ravel(clipped), ravel(gradient))
    else:
        np.testing.assert_allclose(ravel(clipped), direction, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_norm_clip_leaves_a_broken_gradient_broken(bad):
    clip = po.clip_by_global_norm(1.0)
    assert not np.all(np.isfinite(clip.update(jnp.array([1.0, bad]), clip.init(None))[0]))


def test_a_vanishing_direction_is_scaled_without_an_infinite_diagnostic():
    """A direction of 1e-36 reaches the radius all the same; its factor saturates, and the guard sees no infinity."""
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))  # noqa: E731
    batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    transform = po.scale_to_radius(model, radius=1e6)
    direction = jnp.array([1e-36, -1e-36], jnp.float32)
    scaled, state = transform.update(direction, transform.init(jnp.zeros(2)), jnp.zeros(2), batch=batch)
    assert np.isfinite(state.factor)
    assert (np.abs(scaled) > 100).all()
