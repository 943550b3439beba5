"""The Fisher operator against dense Fisher matrices, the natural gradient against formulas, and the critic's share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_mdp import log_softmax, ravel, relative_error
from jax.flatten_util import ravel_pytree
from policy_families import (
    FAMILIES,
    FEATURES,
    HIDDEN,
    N,
    apply,
    batch_of,
    categorical,
    categorical_log_prob,
    dense_fisher,
    dense_hessians,
    gaussian,
    operator_matrix,
    problems,
)

import polopt_jax as po
from polopt_jax.solvers import policy_parameters


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


# --- the natural gradient --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        pytest.param("npg", lambda f: f, id="npg-plain"),
        pytest.param("npg", jax.jit, id="npg-jit", marks=pytest.mark.slow),
        pytest.param("npg", jax.checkpoint, id="npg-checkpoint", marks=pytest.mark.slow),
        pytest.param("trpo", lambda f: f, id="trpo-plain", marks=pytest.mark.slow),
        pytest.param("trpo", jax.jit, id="trpo-jit", marks=pytest.mark.slow),
        pytest.param("trpo", jax.checkpoint, id="trpo-checkpoint"),
    ],
)
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


def test_a_critic_that_shares_a_scan_with_the_policy_is_told_apart():
    """Two stacks of layers applied in one `lax.scan`, as deep networks are written: only one is the policy's."""

    def model(params, obs):
        def layer(carry, weights):
            policy, value = carry
            return (jnp.tanh(policy @ weights["actor"]), jnp.tanh(value @ weights["critic"])), None

        (policy, value), _ = jax.lax.scan(layer, (obs, obs), params["layers"])
        return po.Outputs(policy=po.Categorical(logits=policy), value=value @ params["head"])

    rng = np.random.default_rng(0)
    params = {
        "layers": {name: jnp.asarray(rng.normal(size=(3, 4, 4)), jnp.float32) for name in ("actor", "critic")},
        "head": jnp.ones(4),
    }
    batch = po.Batch(
        obs=jnp.asarray(rng.normal(size=(6, 2, 4)), jnp.float32),
        action=jnp.zeros((6, 2), int),
        mask=jnp.ones((6, 2), bool),
    )
    assert policy_parameters(model, params, batch) == {"layers": {"actor": True, "critic": False}, "head": False}
    transform = po.natural_gradient(model, damping=1e-3)
    ones = jax.tree.map(jnp.ones_like, params)
    update = jax.jit(lambda g: transform.update(g, transform.init(params), params, batch=batch)[0])(ones)
    assert not np.any(update["layers"]["critic"]), "or it would be divided by the damping: 1000"
    assert not np.any(update["head"])
    assert np.any(update["layers"]["actor"])
