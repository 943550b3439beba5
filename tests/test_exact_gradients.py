"""Gradients against an enumerated Markov decision process: every expectation here is a finite sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_mdp import (
    ACTIONS,
    DISCOUNT,
    GAMMA,
    PATHS,
    STATES,
    A,
    H,
    S,
    expected_return,
    log_policy,
    log_softmax,
    logits,
    path_probability,
    random_mdps,
    random_params,
    ravel,
    relative_error,
    rewards,
    rewards_to_go,
    values,
)

import polopt_jax as po

N = 20
TIMES = np.broadcast_to(np.arange(H), STATES.shape)


def model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=logits(params, obs)), value=obs @ params["value"])


@jax.jit
@jax.vmap
def exact_quantities(mdp, params):
    log_pi = log_policy(params)
    q, v = values(mdp, log_pi)
    return {
        "gradient": ravel(jax.grad(lambda p: expected_return(mdp, log_policy(p)))(params)),
        "return": expected_return(mdp, log_pi),
        "probability": path_probability(mdp, log_pi)[:, None],
        "log_prob": log_pi[STATES, ACTIONS],
        "to_go": rewards_to_go(mdp),
        "q": q[TIMES, STATES, ACTIONS],
        "v": v[TIMES, STATES],
    }


def problems(seed, count=N):
    """Worlds, networks and the exact quantities of each: float64 numpy, leading axis `count`."""
    rng = np.random.default_rng(seed)
    mdps, params = random_mdps(rng, count), random_params(rng, count)
    params["value"] = rng.normal(size=(count, S))

    with jax.enable_x64(True):
        return mdps, params, jax.tree.map(np.asarray, exact_quantities(mdps, params))


def all_paths(**fields):
    """Every trajectory once, [PATHS, H]."""
    fields = {name: jnp.asarray(x) for name, x in fields.items()}
    return po.Batch(
        obs=jax.nn.one_hot(STATES, S), action=jnp.asarray(ACTIONS), mask=jnp.ones(STATES.shape, bool), **fields
    )


def gradients(term, params, **fields):
    """∇ of the term on all paths, [count, P]; parameters and fields have a leading axis of instances."""

    @jax.jit
    @jax.vmap
    def gradient(params, fields):
        return ravel(jax.grad(lambda p: po.objective(model, term)(p, all_paths(**fields))[0])(params))

    return np.asarray(gradient(params, fields))


def weighted(exact, advantage):
    """γ^t times the advantage times the trajectory's probability, so that a mean over rows is the expectation."""
    return PATHS * exact["probability"] * DISCOUNT * advantage


REINFORCE = po.reinforce(reduce=po.sequence_sum)


# --- the oracle itself -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_dynamic_programming_and_enumeration_agree():
    _, _, exact = problems(0)
    np.testing.assert_allclose(exact["probability"].sum((1, 2)), 1, rtol=1e-13)
    by_path = (exact["probability"][..., 0] * exact["to_go"][..., 0]).sum(1)
    np.testing.assert_allclose(by_path, exact["return"], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_library_knows_the_same_world():
    tabular = pytest.importorskip("polopt_jax.envs._tabular")
    mdps, params, exact = problems(1)

    @jax.jit
    @jax.vmap
    def library(mdp, params):
        world = tabular.TabularMDP(**mdp._asdict(), terminal=jnp.zeros(S, bool), horizon=H)
        policy = jnp.exp(log_policy(params))
        found = tabular.q_values(world, policy, gamma=GAMMA)
        visits = tabular.visitation(world, policy, gamma=GAMMA)
        return tabular.expected_return(world, policy, gamma=GAMMA), found.q, found.v, visits

    value, q, v, visits = library(mdps, params)
    np.testing.assert_allclose(value, exact["return"], rtol=1e-12)
    assert relative_error(q[:, TIMES, STATES, ACTIONS], exact["q"]) < 1e-12
    assert relative_error(v[:, TIMES, STATES], exact["v"]) < 1e-12
    for s in range(S):
        by_path = (exact["probability"] * DISCOUNT * (s == STATES)).sum(1)
        np.testing.assert_allclose(visits[:, :, s], by_path, atol=1e-13)


# --- policy gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 5e-5)])
def test_reinforce_over_all_paths_is_the_gradient_of_the_return(wide, tolerance):
    _, params, exact = problems(2)
    with jax.enable_x64(wide):
        found = gradients(REINFORCE, params, advantage=weighted(exact, exact["to_go"]))
        assert found.dtype == (jnp.float64 if wide else jnp.float32)
    assert relative_error(-found, exact["gradient"]) < tolerance


@pytest.mark.usefixtures("x64")
def test_reinforce_with_the_return_of_the_whole_episode_is_the_same():
    _, params, exact = problems(3)
    whole = exact["to_go"][..., :1] / DISCOUNT
    assert relative_error(-gradients(REINFORCE, params, advantage=weighted(exact, whole)), exact["gradient"]) < 1e-12


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-11), (False, 1e-4)])
def test_a_baseline_of_the_state_changes_nothing(wide, tolerance):
    _, params, exact = problems(4)
    scale = 10 * np.abs(exact["to_go"]).max((1, 2), keepdims=True)
    table = np.random.default_rng(4).normal(size=(N, H, S))
    baseline = scale * table[:, TIMES, STATES]
    with jax.enable_x64(wide):
        found = gradients(REINFORCE, params, advantage=weighted(exact, exact["to_go"] - baseline))
    assert relative_error(-found, exact["gradient"]) < tolerance


@pytest.mark.usefixtures("x64")
def test_a_baseline_of_the_action_biases_the_gradient():
    _, params, exact = problems(4)
    baseline = np.random.default_rng(5).normal(size=(N, H, S, A))[:, TIMES, STATES, ACTIONS]
    found = gradients(REINFORCE, params, advantage=weighted(exact, exact["to_go"] - baseline))
    error = np.abs(-found - exact["gradient"]).max(1) / np.abs(exact["gradient"]).max(1)
    assert error.min() > 1e-2


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 5e-5)])
def test_actor_critic_with_exact_values_is_the_gradient_of_the_return(wide, tolerance):
    _, params, exact = problems(5)
    term = po.actor_critic(value_weight=0.0, entropy_weight=0.0, reduce=po.sequence_sum)
    with jax.enable_x64(wide):
        advantage = weighted(exact, exact["q"] - exact["v"])
        found = gradients(term, params, advantage=advantage, target=exact["v"])
    assert relative_error(-found, exact["gradient"]) < tolerance


def library_gae(mdp, v, lambda_):
    """The library's estimator on every path, with the exact values `v` [PATHS, H]; batch-major."""
    last = jnp.broadcast_to(jnp.arange(H)[:, None] == H - 1, (H, PATHS))
    following = jnp.concatenate([v[:, 1:], jnp.full((PATHS, 1), jnp.nan)], axis=1)  # nothing reads what follows the end
    advantage, target = po.gae(
        reward=rewards(mdp).T,
        value=v.T,
        next_value=following.T,
        terminated=last,
        truncated=jnp.zeros_like(last),
        gamma=GAMMA,
        lambda_=lambda_,
    )
    return advantage.T, target.T


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.usefixtures("x64")
def test_gae_with_exact_values_gives_the_gradient_of_the_return_at_every_lambda(lambda_):
    mdps, params, exact = problems(6)
    advantage, target = jax.jit(jax.vmap(lambda m, v: library_gae(m, v, lambda_)))(mdps, exact["v"])
    found = gradients(REINFORCE, params, advantage=weighted(exact, advantage))
    assert relative_error(-found, exact["gradient"]) < 1e-12
    mean_advantage = (exact["probability"] * advantage).sum(1)
    np.testing.assert_allclose(mean_advantage, 0, atol=1e-12)
    np.testing.assert_allclose((exact["probability"] * (target - exact["v"])).sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("lambda_", [0.0, 1.0])
@pytest.mark.usefixtures("x64")
def test_performance_difference_lemma(lambda_):
    """J(π') - J(π) = E_π'[Σ γ^t A_π]: with λ = 0 summed over the episode, with λ = 1 its first entry."""
    mdps, _, exact = problems(7)
    other = jax.jit(jax.vmap(log_policy))(random_params(np.random.default_rng(70), N))
    probability = jax.jit(jax.vmap(path_probability))(mdps, other)
    advantage, _ = jax.jit(jax.vmap(lambda m, v: library_gae(m, v, lambda_)))(mdps, exact["v"])
    total = (DISCOUNT * advantage).sum(-1) if lambda_ == 0 else advantage[..., 0]
    difference = jax.jit(jax.vmap(expected_return))(mdps, other) - exact["return"]
    np.testing.assert_allclose((probability * total).sum(1), difference, atol=1e-12)
    assert np.abs(difference).min() > 1e-3


@pytest.mark.usefixtures("x64")
def test_importance_weights_of_another_sampler_keep_the_gradient():
    """`surrogate` on data of μ: ∇ E_μ[ρ A] at θ is that of E_π[log π A], decision by decision."""
    _, params, exact = problems(8)
    sampler = jax.jit(jax.vmap(log_policy))(random_params(np.random.default_rng(80), N))
    sampled = sampler[:, STATES, ACTIONS]
    # State law of π, action law of μ: the surrogate corrects the action alone.
    advantage = weighted(exact, exact["q"] - exact["v"]) * jnp.exp(sampled - exact["log_prob"])
    found = gradients(po.surrogate(reduce=po.sequence_sum), params, advantage=advantage, log_prob=sampled)
    assert relative_error(-found, exact["gradient"]) < 1e-12


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_sampled_reinforce_is_within_its_standard_error():
    """20,000 trajectories per world, actions drawn by the library; each coordinate within 4.5 standard errors."""
    mdps, params, exact = problems(9)
    rows = 20_000

    @jax.jit
    @jax.vmap
    def draw(mdp, params, key):
        first_key, *keys = jax.random.split(key, H + 1)
        state = jax.random.categorical(first_key, jnp.log(mdp.initial), shape=(rows,))
        path = jnp.zeros(rows, int)
        for key in keys:
            action_key, state_key = jax.random.split(key)
            action = model(params, jax.nn.one_hot(state, S)).policy.sample(seed=action_key)
            path = path * (S * A) + state * A + action
            state = jax.random.categorical(state_key, jnp.log(mdp.transition[state, action]))
        return path

    @jax.jit
    @jax.vmap
    def estimate(params, to_go, v, path):
        def row_gradient(obs, action, advantage):
            row = po.Batch(obs=obs, action=action, mask=jnp.ones(H, bool), advantage=advantage)
            return ravel(jax.grad(lambda p: po.objective(model, REINFORCE)(p, row)[0])(params))

        batch = all_paths(advantage=DISCOUNT * (to_go - v))
        per_path = jax.vmap(row_gradient)(batch.obs, batch.action, batch.advantage)
        count = jnp.bincount(path, length=PATHS) / rows
        sampled = jax.tree.map(lambda x: x[path], batch)
        mean = ravel(jax.grad(lambda p: po.objective(model, REINFORCE)(p, sampled)[0])(params))
        return mean, count @ per_path**2 - (count @ per_path) ** 2

    path = draw(mdps, params, jax.random.split(jax.random.key(9), N))
    mean, variance = estimate(params, exact["to_go"], exact["v"], path)
    truth, error = exact["gradient"], np.sqrt(np.maximum(variance, 1e-30) / rows)
    assert np.all(np.abs(-mean - truth) <= 4.5 * error + 1e-12)
    size = np.linalg.norm(error, axis=1) / np.linalg.norm(truth, axis=1)
    assert np.median(size) < 0.05, "so noisy an estimate would agree with anything"
    # Nor would a wrong factor pass: half or twice the gradient is many standard errors away.
    assert np.max(np.abs(0.5 * truth) / error, axis=1).min() > 4.5


# --- score, entropy and KL ----------------------------------------------------------------------------------------


def all_actions(rng, count, states, actions):
    """Logits [count, S, A], and per-decision rows [S, A] that hold every action in every state."""
    return rng.normal(size=(count, states, actions)), np.broadcast_to(np.arange(actions), (states, actions))


def table_model(logits, obs):
    """One row per state, its actions along time: [S, A] decisions of a tabular policy."""
    return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits[:, None], (*obs, logits.shape[-1]))))


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-13), (False, 1e-6)])
def test_the_expected_score_is_zero(wide, tolerance):
    table, action = all_actions(np.random.default_rng(10), 100, 4, 5)
    with jax.enable_x64(wide):
        batch = po.Batch(obs=action.shape, action=jnp.asarray(action), mask=jnp.ones(action.shape, bool))

        @jax.jit
        @jax.vmap
        def expected_score(logits):
            probability = jax.lax.stop_gradient(jnp.exp(log_softmax(logits)))

            def loss(logits):
                rows = po.Batch(obs=None, action=batch.action, mask=batch.mask, advantage=probability)
                return po.reinforce(reduce=po.sequence_sum)(table_model(logits, batch.obs), rows)[0]

            return jax.grad(loss)(logits)

        assert np.abs(expected_score(jnp.asarray(table, float))).max() < tolerance


@pytest.mark.usefixtures("x64")
def test_the_expected_score_of_a_gaussian_is_zero():
    """Gauss-Hermite quadrature is exact here: a score is a quadratic in the action."""
    rng = np.random.default_rng(11)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    for kind in (po.DiagGaussian, po.TanhGaussian):

        @jax.jit
        @jax.vmap
        def expected_score(mean, log_std, kind=kind):
            action = (mean + jnp.exp(log_std) * nodes)[:, None]

            def loss(leaves):
                leaves = (jnp.broadcast_to(x, (5, 1)) for x in leaves)
                return jnp.asarray(weights) @ kind(**dict(zip(("mean", "log_std"), leaves, strict=True))).log_prob(
                    action
                )

            return jax.grad(loss)((mean, log_std))

        score = expected_score(rng.normal(size=100), rng.normal(size=100))
        assert max(np.abs(x).max() for x in score) < 1e-12, kind


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 5e-5)])
def test_the_entropy_bonus_is_the_gradient_of_the_entropy(wide, tolerance):
    table, action = all_actions(np.random.default_rng(12), N, 4, 5)

    def oracle(logits):
        log_p = log_softmax(logits)
        return -(jnp.exp(log_p) * log_p).sum(-1).mean()

    with jax.enable_x64(True):
        exact = jax.jit(jax.vmap(jax.grad(oracle)))(jnp.asarray(table))
    with jax.enable_x64(wide):
        batch = po.Batch(obs=None, action=jnp.asarray(action), mask=jnp.ones(action.shape, bool))
        found = jax.jit(jax.vmap(jax.grad(lambda x: -po.entropy_bonus()(table_model(x, action.shape), batch)[0])))(
            jnp.asarray(table, float)
        )
    assert relative_error(found, exact) < tolerance


def kl(log_p, log_q):
    """Mean over states of KL(p ‖ q)."""
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


@pytest.fixture
def laws():
    """Logits of π, of the reference and of a sampler, [100, 4, 5] each."""
    rng = np.random.default_rng(13)
    return tuple(rng.normal(size=(100, 4, 5)) for _ in range(3))


def estimator_gradient(k, logits, ref, weight):
    """∇ E[weight · k(log π, log ref)] by enumeration; `weight(log π)` holds the sampling law. [100, 4, 5]."""

    def loss(logits, ref, *args):
        log_p = po.Categorical(logits=jnp.broadcast_to(logits[:, None], (4, 5, 5))).log_prob(
            jnp.broadcast_to(jnp.arange(5), (4, 5))
        )
        return (weight(log_p, *args) * k(log_p - log_softmax(ref))).sum(-1).mean()

    return lambda *args: jax.jit(jax.vmap(jax.grad(loss)))(logits, ref, *args)


KL_GRADIENTS = {
    "k1 on-policy": (po.k1, "on", lambda p, q: 0 * kl(p, q)),
    "k2 on-policy": (po.k2, "on", lambda p, q: kl(p, q)),
    "k3 on-policy": (po.k3, "on", lambda p, q: kl(q, p)),
    "k1 times the differentiable ratio": (po.k1, "ratio", lambda p, q: kl(p, q)),
    "k2 times the constant ratio": (po.k2, "constant ratio", lambda p, q: kl(p, q)),
    "k3 times the differentiable ratio": (po.k3, "ratio", lambda p, q: kl(p, q)),
    "k3 times the constant ratio": (po.k3, "constant ratio", lambda p, q: kl(q, p)),
}


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-13), (False, 5e-6)])
@pytest.mark.parametrize("case", KL_GRADIENTS)
def test_expected_gradients_of_the_kl_estimators(case, wide, tolerance, laws):
    k, placing, oracle = KL_GRADIENTS[case]
    fixed = jax.lax.stop_gradient
    weights = {
        "on": lambda log_p, _: fixed(jnp.exp(log_p)),
        "ratio": lambda log_p, log_mu: jnp.exp(log_mu) * jnp.exp(log_p - log_mu),
        "constant ratio": lambda log_p, log_mu: jnp.exp(log_mu) * fixed(jnp.exp(log_p - log_mu)),
    }
    with jax.enable_x64(True):
        oracle_gradient = jax.grad(lambda x, ref: oracle(log_softmax(x), log_softmax(ref)))
        exact = np.asarray(jax.jit(jax.vmap(oracle_gradient))(*laws[:2]))
    with jax.enable_x64(wide):
        logits, ref, sampler = (jnp.asarray(x, float) for x in laws)
        found = estimator_gradient(k, logits, ref, weights[placing])(jax.vmap(log_softmax)(sampler))
    assert np.abs(np.asarray(found) - exact).max() < tolerance


@pytest.mark.usefixtures("x64")
def test_k1_and_k3_are_unbiased_and_the_directions_differ(laws):
    log_p, log_q = (log_softmax(jnp.asarray(x)) for x in laws[:2])
    exact = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    for k in (po.k1, po.k3):
        np.testing.assert_allclose((jnp.exp(log_p) * k(log_p - log_q)).sum(-1), exact, atol=1e-13)
    assert po.k2(log_p - log_q).min() >= 0
    assert po.k3(log_p - log_q).min() >= 0
    assert (np.abs((jnp.exp(log_p) * po.k2(log_p - log_q)).sum(-1) - exact) > 1e-2).mean() > 0.5
    forward, backward = (
        jax.jit(jax.vmap(jax.grad(lambda x, y, d=d: d(log_softmax(x), log_softmax(y)))))(*laws[:2])
        for d in (kl, lambda p, q: kl(q, p))
    )
    apart = np.abs(forward - backward).max((1, 2)) / np.abs(forward).max((1, 2))
    assert apart.min() > 0.1, "the two directions must be told apart by the tests above"


@pytest.mark.usefixtures("x64")
def test_the_penalty_term_has_the_gradient_of_its_direction(laws):
    logits, ref = (jnp.asarray(x) for x in laws[:2])
    batch = po.Batch(obs=None, action=jnp.zeros((4, 1), int), mask=jnp.ones((4, 1), bool))

    def outputs(logits):
        return po.Outputs(policy=po.Categorical(logits=logits[:, None]))

    for keywords, oracle in (({}, kl), ({"divergence": po.action_kl}, lambda p, q: kl(q, p))):

        def penalty(x, ref, keywords=keywords):
            return po.kl_to_reference(lambda p, obs: outputs(p), ref, **keywords)(outputs(x), batch)[0]

        found = jax.jit(jax.vmap(jax.value_and_grad(penalty)))(logits, ref)
        exact = jax.value_and_grad(lambda x, y, oracle=oracle: oracle(log_softmax(x), log_softmax(y)))
        exact = jax.jit(jax.vmap(exact))(logits, ref)
        for x, y in zip(found, exact, strict=True):
            assert relative_error(x, y) < 1e-12
        assert not np.any(jax.jit(jax.grad(penalty, argnums=1))(logits[0], ref[0]))


@pytest.mark.usefixtures("x64")
def test_grpo_regularises_towards_the_other_direction():
    """On-policy data whose frequencies *are* the policy: the penalty's gradient is β ∇KL(ref ‖ π)."""
    rng = np.random.default_rng(14)
    counts = np.stack([1 + rng.multinomial(27, np.full(5, 0.2)) for _ in range(N)])
    action = np.stack([np.repeat(np.arange(5), c) for c in counts])
    logits, ref = jnp.log(jnp.asarray(counts / 32)), rng.normal(size=(N, 5))

    def loss(x, action, ref):
        batch = po.Batch(
            obs=None,
            action=action[:, None],
            mask=jnp.ones((32, 1), bool),
            log_prob=jnp.zeros((32, 1)),
            advantage=jnp.zeros((32, 1)),
            ref_log_prob=log_softmax(ref)[action][:, None],
        )
        outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(x, (32, 1, 5))))
        return po.grpo(beta=0.3)(outputs, batch)[0]

    value, found = jax.jit(jax.vmap(jax.value_and_grad(loss)))(logits, action, ref)
    reverse = jax.jit(jax.vmap(lambda x, y: 0.3 * kl(log_softmax(x), log_softmax(y))))(logits, ref)
    forward = jax.jit(jax.vmap(jax.grad(lambda x, y: 0.3 * kl(log_softmax(y), log_softmax(x)))))(logits, ref)
    np.testing.assert_allclose(value, reverse, rtol=1e-12)
    assert relative_error(found, forward) < 1e-12


# --- signs ---------------------------------------------------------------------------------------------------------


def small_step(loss, x):
    """x moved by 1e-4 against the gradient of `loss`, whatever the gradient's length."""
    gradient = jax.grad(loss)(x)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda x, g: x - 1e-4 * g / norm, x, gradient)


POLICY_LOSSES = {
    "reinforce": po.reinforce(),
    "actor_critic": po.actor_critic(value_weight=0.0, entropy_weight=0.0),
    "surrogate": po.surrogate(),
    "ppo": po.ppo(),
    "grpo": po.grpo(beta=0.0),
}


@pytest.mark.parametrize("name", [*POLICY_LOSSES, "npg", "trpo"])
@pytest.mark.usefixtures("x64")
def test_a_small_step_of_every_policy_loss_raises_the_return(name):
    mdps, params, exact = problems(15, 100)
    objective = po.objective(model, POLICY_LOSSES.get(name, po.surrogate()))
    optimizers = {
        "npg": po.npg(model, learning_rate=1e-5, damping=1e-6),
        "trpo": po.trpo(model, radius=1e-9, damping=1e-6),
    }

    @jax.jit
    @jax.vmap
    def step(mdp, params, fields):
        batch = all_paths(**fields)
        if name in POLICY_LOSSES:
            new = small_step(lambda p: objective(p, batch)[0], params)
        else:
            optimizer = optimizers[name]
            grads = jax.grad(lambda p: objective(p, batch)[0])(params)
            updates, _ = optimizer.update(grads, optimizer.init(params), params, batch=batch, objective=objective)
            new = jax.tree.map(jnp.add, params, updates)
        return expected_return(mdp, log_policy(new))

    fields = {
        "advantage": weighted(exact, exact["to_go"] - exact["v"]),
        "log_prob": exact["log_prob"],
        "ref_log_prob": exact["log_prob"],
        "target": exact["v"],
    }
    after = step(mdps, params, fields)
    assert np.all(after > exact["return"])


@pytest.mark.parametrize("name", ["towards the reference", "the other direction", "k2", "k3", "grpo's penalty"])
@pytest.mark.usefixtures("x64")
def test_a_small_step_of_every_kl_loss_lowers_the_kl(name):
    rng = np.random.default_rng(16)
    logits, ref = rng.normal(size=(2, 100, 5))
    everything = po.Batch(
        obs=None, action=jnp.arange(5)[:, None], mask=jnp.ones((5, 1), bool), log_prob=jnp.zeros((5, 1)),
        advantage=jnp.zeros((5, 1)),
    )  # fmt: skip

    def outputs(x):
        return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(x, (5, 1, 5))))

    def loss(x, start, ref):
        probability = jnp.exp(log_softmax(start))
        if name == "grpo's penalty":
            batch = po.types.Batch(**{**vars(everything), "ref_log_prob": log_softmax(ref)[:, None]})
            # Per-action losses, averaged under π rather than uniformly.
            return po.grpo(beta=1.0, reduce=lambda x, _: probability @ x[:, 0])(outputs(x), batch)[0]
        if name in ("k2", "k3"):
            return probability @ getattr(po, name)(
                outputs(x).policy.log_prob(everything.action)[:, 0] - log_softmax(ref)
            )
        keywords = {"divergence": po.action_kl} if name == "the other direction" else {}
        return po.kl_to_reference(lambda p, obs: outputs(p), ref, **keywords)(outputs(x), everything)[0]

    new = jax.jit(jax.vmap(lambda x, ref: small_step(lambda y: loss(y, x, ref), x)))(logits, ref)
    other = name in ("the other direction", "k3", "grpo's penalty")
    measure = jax.vmap(
        lambda x, ref: kl(log_softmax(ref), log_softmax(x)) if other else kl(log_softmax(x), log_softmax(ref))
    )
    assert np.all(measure(new, ref) < measure(jnp.asarray(logits), ref))


@pytest.mark.usefixtures("x64")
def test_a_small_step_raises_entropy_lowers_the_critics_error_and_widens_the_preference_margin():
    rng = np.random.default_rng(17)
    x, value, target = rng.normal(size=(100, 4, 5)), rng.normal(size=(100, 4)), rng.normal(size=(100, 4))
    ones = jnp.ones((4, 1), bool)

    def bonus(x):
        batch = po.Batch(obs=None, action=jnp.zeros((4, 1), int), mask=ones)
        return po.weighted_sum(entropy=(0.01, po.entropy_bonus()))(
            po.Outputs(policy=po.Categorical(logits=x[:, None])), batch
        )[0]

    def entropy(x):
        return -(jnp.exp(log_softmax(x)) * log_softmax(x)).sum(-1).mean()

    new = jax.jit(jax.vmap(lambda x: small_step(bonus, x)))(x)
    assert np.all(jax.vmap(entropy)(new) > jax.vmap(entropy)(x))

    for term in (po.value_loss(), po.clipped_value_loss(clip_eps=0.5)):

        def error(v, target, term=term):
            batch = po.Batch(obs=None, action=None, mask=ones, target=target[:, None], value=v[:, None])
            return small_step(lambda u: term(po.Outputs(policy=None, value=u[:, None]), batch)[0], v)

        new = jax.jit(jax.vmap(error))(value, target)
        assert np.all(((new - target) ** 2).sum(1) < ((value - target) ** 2).sum(1))

    def margin(x, ref):
        row = log_softmax(x)[:2] - log_softmax(ref)[:2]  # state 0 prefers action 1 to 3, state 1 action 0 to 4
        return row[0, 1] - row[0, 3], row[1, 0] - row[1, 4]

    def preference(x, ref):
        action = jnp.array([[1, 0], [3, 4]])[..., None]
        table = jnp.broadcast_to(x[:2], (2, 2, 5))[:, :, None]
        ref_log_prob = jnp.take_along_axis(jnp.broadcast_to(log_softmax(ref)[:2], (2, 2, 5)), action, axis=-1)
        batch = po.Batch(obs=None, action=action, mask=jnp.ones((2, 2, 1), bool), ref_log_prob=ref_log_prob)
        return po.dpo(beta=0.3)(po.Outputs(policy=po.Categorical(logits=table)), batch)[0]

    ref, margins = rng.normal(size=x.shape), jax.jit(jax.vmap(margin))
    new = jax.jit(jax.vmap(lambda x, ref: small_step(lambda y: preference(y, ref), x)))(x, ref)
    for before, after in zip(margins(x, ref), margins(new, ref), strict=True):
        assert np.all(after > before)
