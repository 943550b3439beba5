"""Conjugate gradients against direct solves and a textbook loop, and what they say of their end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_mdp import ravel, relative_error
from policy_families import (
    N,
)

import polopt_jax as po
from polopt_jax.solvers import CGStatus


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
