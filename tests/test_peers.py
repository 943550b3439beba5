"""The same numbers as other libraries, where they mean the same thing. Those not installed are skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import polopt_jax as po
from polopt_jax.solvers import CGStatus

N, T, ACTIONS = 20, 7, 5
pytestmark = pytest.mark.usefixtures("x64")


def decisions(seed):
    """N sequences of T decisions: logits, old logits, actions, advantages and a batch without gaps."""
    rng = np.random.default_rng(seed)
    logits, old_logits = (jnp.asarray(x) for x in rng.normal(size=(2, N, T, ACTIONS)))
    action, advantage = jnp.asarray(rng.integers(ACTIONS, size=(N, T))), jnp.asarray(rng.normal(size=(N, T)))
    batch = po.Batch(
        obs=None,
        action=action,
        mask=jnp.ones((N, T), bool),
        advantage=advantage,
        log_prob=po.Categorical(logits=old_logits).log_prob(action),
    )
    return logits, old_logits, batch


def same_loss_and_gradient(term, theirs, logits, batch):
    """`theirs(logits, action, advantage)` is one sequence's loss; the mean over sequences of equal length is ours."""

    def mean(x):
        return jax.vmap(theirs)(x, batch.action, batch.advantage, batch.log_prob).mean()

    def ours(x):
        return term(po.Outputs(policy=po.Categorical(logits=x)), batch)[0]

    found, expected = (jax.jit(jax.value_and_grad(f))(logits) for f in (ours, mean))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-13)
    assert np.abs(found[1]).max() > 1e-3


@pytest.mark.peers
def test_reinforce_is_rlax_policy_gradient_loss():
    rlax = pytest.importorskip("rlax")
    logits, _, batch = decisions(0)
    ones = jnp.ones(T)
    same_loss_and_gradient(
        po.reinforce(), lambda x, a, adv, _: rlax.policy_gradient_loss(x, a, adv, ones), logits, batch
    )


@pytest.mark.peers
@pytest.mark.parametrize("clip_eps", [0.1, 0.2, 0.5])
def test_ppo_is_rlax_clipped_surrogate(clip_eps):
    rlax = pytest.importorskip("rlax")
    logits, _, batch = decisions(1)

    def theirs(x, action, advantage, old):
        ratio = jnp.exp(jnp.take_along_axis(jax.nn.log_softmax(x), action[:, None], axis=-1)[:, 0] - old)
        return rlax.clipped_surrogate_pg_loss(ratio, advantage, clip_eps)

    same_loss_and_gradient(po.ppo(clip_eps=clip_eps), theirs, logits, batch)


@pytest.mark.peers
def test_entropy_is_minus_rlax_entropy_loss():
    rlax = pytest.importorskip("rlax")
    logits, _, batch = decisions(2)
    bonus = po.weighted_sum(entropy=(1.0, po.entropy_bonus()))
    same_loss_and_gradient(bonus, lambda x, *_: rlax.entropy_loss(x, jnp.ones(T)), logits, batch)


@pytest.mark.peers
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_gae_without_truncation_is_that_of_rlax(lambda_):
    rlax = pytest.importorskip("rlax")
    rng = np.random.default_rng(3)
    reward, values = jnp.asarray(rng.normal(size=(T, N))), jnp.asarray(rng.normal(size=(T + 1, N)))
    terminated = jnp.asarray(rng.random((T, N)) < 0.2)
    discount = 0.97 * (1.0 - terminated)
    theirs = jax.vmap(
        lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, lambda_, v), in_axes=1, out_axes=1
    )(reward, discount, values)
    no = jnp.zeros_like(terminated)
    ours, _ = po.gae(
        reward=reward,
        value=values[:-1],
        next_value=values[1:],
        terminated=terminated,
        truncated=no,
        gamma=0.97,
        lambda_=lambda_,
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.peers
def test_discounted_returns_are_those_of_rlax():
    rlax = pytest.importorskip("rlax")
    rng = np.random.default_rng(4)
    reward, value = jnp.asarray(rng.normal(size=(T, N))), jnp.asarray(rng.normal(size=(T, N)))
    terminated = jnp.asarray(rng.random((T, N)) < 0.2)
    theirs = jax.vmap(rlax.discounted_returns, in_axes=1, out_axes=1)(reward, 0.97 * (1.0 - terminated), value)
    ours = po.discounted_returns(
        reward=reward, next_value=value, terminated=terminated, truncated=jnp.zeros_like(terminated), gamma=0.97
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.peers
def test_categorical_is_that_of_distrax():
    distrax = pytest.importorskip("distrax")
    logits, old_logits, batch = decisions(5)
    ours, theirs = (kind(logits=logits) for kind in (po.Categorical, distrax.Categorical))
    other, their_other = (kind(logits=old_logits) for kind in (po.Categorical, distrax.Categorical))
    np.testing.assert_allclose(ours.log_prob(batch.action), theirs.log_prob(batch.action), atol=1e-12)
    np.testing.assert_allclose(ours.entropy(), theirs.entropy(), atol=1e-12)
    np.testing.assert_allclose(ours.kl_divergence(other), theirs.kl_divergence(their_other), atol=1e-12)
    np.testing.assert_array_equal(ours.mode(), theirs.mode())


@pytest.mark.peers
@pytest.mark.parametrize("squashed", [False, True])
def test_gaussians_are_those_of_distrax(squashed):
    distrax = pytest.importorskip("distrax")
    rng = np.random.default_rng(6)
    mean, log_std, other_mean, other_log_std, u = (jnp.asarray(x) for x in 0.7 * rng.normal(size=(5, N, 3)))

    def theirs(mean, log_std):
        base = distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))
        return distrax.Transformed(base, distrax.Block(distrax.Tanh(), 1)) if squashed else base

    kind = po.TanhGaussian if squashed else po.DiagGaussian
    ours, other = kind(mean=mean, log_std=log_std), kind(mean=other_mean, log_std=other_log_std)
    log_prob = theirs(mean, log_std).log_prob(ours.squash(u))
    np.testing.assert_allclose(ours.log_prob(u), log_prob, atol=1e-9)
    kl = theirs(mean, log_std).kl_divergence(theirs(other_mean, other_log_std))
    np.testing.assert_allclose(ours.kl_divergence(other), kl, atol=1e-10)
    if not squashed:
        np.testing.assert_allclose(ours.entropy(), theirs(mean, log_std).entropy(), atol=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (1.0, 0.5), (-2.0, 1.0), (3.0, 1.0)])
def test_entropy_of_a_squashed_gaussian_is_scipys_integral(mean, std):
    def integrand(u):
        log_density = norm.logpdf(u, mean, std) - 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))
        return -norm.pdf(u, mean, std) * log_density

    exact, _ = quad(integrand, mean - 12 * std, mean + 12 * std, epsabs=1e-12, limit=200)
    policy = po.TanhGaussian(mean=jnp.array([[mean]]), log_std=jnp.log(jnp.array([[std]])))
    assert abs(float(policy.entropy()[0]) - exact) < 2e-7


# --- jax.scipy, which is always there -------------------------------------------------------------------------------


def systems(seed, condition):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(N, 15, 15)))
    return np.einsum("nij,j,nkj->nik", q, np.linspace(1, condition, 15), q), rng.normal(size=(N, 15))


@pytest.mark.parametrize("condition", [2.0, 1e3])
def test_cg_is_that_of_jax_scipy(condition):
    matrix, b = systems(7, condition)

    @jax.jit
    @jax.vmap
    def both(matrix, b):
        matvec = lambda v: matrix @ v  # noqa: E731
        ours, info = po.conjugate_gradient(matvec, b, iters=40, tol=1e-10)
        return ours, info.status, jax.scipy.sparse.linalg.cg(matvec, b, tol=1e-10, maxiter=40)[0]

    ours, status, theirs = both(matrix, b)
    assert np.all(status == CGStatus.CONVERGED)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_truncated_cg_is_that_of_jax_scipy():
    matrix, b = systems(8, 50.0)
    for k in (1, 3, 6):
        ours = jax.vmap(lambda m, b, k=k: po.conjugate_gradient(lambda v: m @ v, b, iters=k, tol=0.0)[0])(matrix, b)
        theirs = jax.vmap(
            lambda m, b, k=k: jax.scipy.sparse.linalg.cg(lambda v: m @ v, b, tol=0.0, atol=0.0, maxiter=k)[0]
        )(matrix, b)
        np.testing.assert_allclose(ours, theirs, atol=1e-11)


def test_what_the_docstring_says_of_jax_scipy_is_so():
    """Infinities for a zero matrix, and 0 for a tiny right-hand side: ours is finite and right."""
    with jax.enable_x64(False):
        b = jnp.array([1.0, 2.0], jnp.float32)
        assert not np.all(np.isfinite(jax.scipy.sparse.linalg.cg(lambda v: 0 * v, b)[0]))
        assert np.all(np.isfinite(po.conjugate_gradient(lambda v: 0 * v, b)[0]))
        assert not np.any(jax.scipy.sparse.linalg.cg(lambda v: 2 * v, 1e-21 * b)[0])
        np.testing.assert_allclose(po.conjugate_gradient(lambda v: 2 * v, 1e-21 * b)[0], 0.5e-21 * b, rtol=1e-6)
