"""PPO's adaptive penalty and the multiplier of a constraint, on steps whose KL is known; standardised minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po

pytestmark = pytest.mark.usefixtures("x64")
SLOPE, TARGET = 0.8, 0.02
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def gaussian(mean, obs):
    """A policy of unit variance around one number."""
    ones = jnp.ones((*obs.shape, 1))
    return po.Outputs(policy=po.DiagGaussian(mean=mean * ones, log_std=0 * ones))


def nodes_around(mean):
    """Quadrature of the policy at `mean`, exact for what follows, whose advantage is a slope times the action.

    Against KL(old ‖ new) = Δ²/2 the best step of E[ρA] - βKL is Δ = slope/β.
    """
    action = (mean + NODES)[:, None, None]
    obs = jnp.zeros((len(NODES), 1))
    return po.Batch(
        obs=obs,
        action=action,
        mask=jnp.ones_like(obs, bool),
        log_prob=gaussian(mean, obs).policy.log_prob(action),
        advantage=jnp.asarray(len(NODES) * WEIGHTS * SLOPE * NODES)[:, None],
    )


def run(beta, *, updates=60, **keywords):
    """PPO's loop: steps on the penalised surrogate, the KL they made, the next β. `(β, KL)` after every update."""

    def update(carry, _):
        old, penalty = carry
        batch = nodes_around(old)
        term = po.weighted_sum(
            policy=(1.0, po.surrogate()),
            kl=(penalty.beta, po.kl_to_reference(gaussian, old, divergence=po.action_kl)),
        )
        slope = jax.grad(lambda mean: po.objective(gaussian, term)(mean, batch)[0])
        new = jax.lax.fori_loop(0, 30, lambda _, mean: mean - 0.5 / penalty.beta * slope(mean), old)
        kl = po.action_kl(gaussian(old, batch.obs), gaussian(new, batch.obs), batch)
        penalty = po.update_kl_penalty(penalty, kl, target=TARGET, **keywords)
        return (new, penalty), (penalty.beta, kl)

    start = (jnp.zeros(()), po.init_kl_penalty(beta=beta))
    return jax.jit(lambda start: jax.lax.scan(update, start, None, length=updates)[1])(start)


@pytest.mark.parametrize("beta", [0.5, 400.0])
def test_a_factor_within_the_band_settles_with_the_kl_at_its_target(beta):
    betas, kls = run(beta, factor=1.4)
    np.testing.assert_array_equal(betas[-20:], betas[-1])
    assert np.all((kls[-20:] > TARGET / 1.5) & (kls[-20:] < TARGET * 1.5))
    # The step itself has the closed form that the β of the update before gives it.
    np.testing.assert_allclose(kls[-20:], (SLOPE / betas[-1]) ** 2 / 2, rtol=1e-6)
    exact = SLOPE / np.sqrt(2 * TARGET)
    assert exact / np.sqrt(1.5) < betas[-1] < exact * np.sqrt(1.5)


@pytest.mark.parametrize("beta", [1.0, 37.0])
def test_the_papers_factor_holds_the_kl_about_its_target(beta):
    _, kls = run(beta)
    assert np.all((kls[-20:] > TARGET / 3) & (kls[-20:] < TARGET * 3))
    assert abs(np.log(kls[-20:] / TARGET).mean()) < np.log(1.5) + 1e-6


def test_beta_moves_by_the_rule_of_the_paper():
    for kl, beta in ((0.031, 6.0), (0.029, 3.0), (0.014, 3.0), (0.013, 1.5), (0.0, 1.5), (np.inf, 6.0), (np.nan, 3.0)):
        moved = po.update_kl_penalty(po.init_kl_penalty(beta=3.0), jnp.asarray(kl), target=0.02)
        assert float(moved.beta) == beta, kl
    wide = po.update_kl_penalty(po.init_kl_penalty(beta=3.0), jnp.asarray(0.05), target=0.02, band=3.0, factor=10.0)
    assert float(wide.beta) == 3.0
    far = po.update_kl_penalty(po.init_kl_penalty(beta=3.0), jnp.asarray(0.07), target=0.02, band=3.0, factor=10.0)
    assert float(far.beta) == 30.0


def test_beta_always_finds_its_way_back():
    penalty = po.init_kl_penalty()
    for _ in range(100):
        penalty = po.update_kl_penalty(penalty, jnp.zeros(()), target=0.02)
    assert float(penalty.beta) == 1e-10
    for _ in range(100):
        penalty = po.update_kl_penalty(penalty, jnp.ones(()), target=0.02)
    assert float(penalty.beta) == 1e10


def test_it_vmaps_over_targets_and_refuses_what_is_out_of_range():
    kl, target = jnp.array([0.05, 0.05]), jnp.array([0.01, 0.05])
    moved = jax.vmap(lambda k, t: po.update_kl_penalty(po.init_kl_penalty(), k, target=t).beta)(kl, target)
    assert moved.tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="update_kl_penalty: target must be above 0"):
        po.update_kl_penalty(po.init_kl_penalty(), kl[0], target=0.0)
    for name in ("band", "factor"):
        with pytest.raises(ValueError, match=f"update_kl_penalty: {name} must be at least 1; it is 0.5"):
            po.update_kl_penalty(po.init_kl_penalty(), kl[0], target=0.01, **{name: 0.5})
    with pytest.raises(ValueError, match="init_kl_penalty: beta must be above 0"):
        po.init_kl_penalty(beta=-1.0)


# --- a multiplier among the parameters --------------------------------------------------------------------------------


def test_a_lagrangian_has_the_gradients_of_its_formula():
    rng = np.random.default_rng(0)
    value, target = rng.normal(size=(2, 3, 4))
    batch = po.Batch(obs=None, action=None, mask=jnp.ones((3, 4), bool), target=jnp.asarray(target))

    def loss(value, alpha):
        held = po.lagrangian(po.value_loss(), multiplier=alpha, bound=0.3)
        return held(po.Outputs(policy=None, value=value), batch)

    (found, metrics), slopes = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(jnp.asarray(value), 1.7)
    error = (0.5 * (value - target) ** 2).mean()
    np.testing.assert_allclose(found, 1.7 * 0.3, rtol=1e-12)
    np.testing.assert_allclose(slopes[0], 1.7 * (value - target) / 12, atol=1e-14)
    np.testing.assert_allclose(slopes[1], 0.3 - error, rtol=1e-12)
    np.testing.assert_allclose(metrics["constrained"], error, rtol=1e-12)


def test_a_lagrangian_is_exact_on_shares_of_a_batch():
    rng = np.random.default_rng(1)
    mask = jnp.asarray(rng.random((4, 5)) < 0.6)
    batch = po.Batch(obs=jnp.asarray(rng.normal(size=(4, 5))), action=None, mask=mask, target=jnp.ones((4, 5)))

    def objective(params, batch):
        held = po.lagrangian(po.value_loss(), multiplier=params["alpha"], bound=0.3)
        return po.objective(lambda p, obs: po.Outputs(policy=None, value=p * obs), held)(params["scale"], batch)

    params = {"alpha": jnp.asarray(1.3), "scale": jnp.asarray(0.4)}
    whole, shares = (
        jax.value_and_grad(f, has_aux=True)(params, batch) for f in (objective, po.accumulate_gradients(objective, 4))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), shares, whole)


def test_descent_on_the_parameters_and_the_multiplier_holds_the_bound():
    """Maximise a slope times Δ under Δ²/2 <= bound: Δ = √(2 bound), α = slope/Δ."""
    batch = nodes_around(jnp.zeros(()))

    def loss(params):
        held = po.lagrangian(
            po.kl_to_reference(gaussian, jnp.zeros(()), divergence=po.action_kl),
            multiplier=jnp.exp(params["log_alpha"]),
            bound=TARGET,
        )
        term = po.weighted_sum(policy=(1.0, po.surrogate()), kl=(1.0, held))
        return po.objective(gaussian, term)(params["mean"], batch)[0]

    def step(_, params):
        slope = jax.grad(loss)(params)
        return {"mean": params["mean"] - 0.1 * slope["mean"], "log_alpha": params["log_alpha"] - slope["log_alpha"]}

    start = {"mean": jnp.zeros(()), "log_alpha": jnp.zeros(())}
    found = jax.jit(lambda p: jax.lax.fori_loop(0, 2000, step, p))(start)
    np.testing.assert_allclose(found["mean"], np.sqrt(2 * TARGET), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(found["log_alpha"]), SLOPE / np.sqrt(2 * TARGET), rtol=1e-6)


def test_bounds_and_multipliers_are_scalars():
    with pytest.raises(ValueError, match="lagrangian: multiplier must be a scalar"):
        po.lagrangian(po.value_loss(), multiplier=jnp.ones(2), bound=0.1)
    with pytest.raises(TypeError, match="lagrangian: term must be a function"):
        po.lagrangian(po.value_loss, multiplier=1.0, bound=0.1)


# --- standardised minibatches -----------------------------------------------------------------------------------------


def test_standardised_advantages_are_those_of_numpy_over_the_real_decisions():
    rng = np.random.default_rng(2)
    mask, advantage = rng.random((4, 5)) < 0.6, 3 + 2 * rng.normal(size=(4, 5))
    action, logits = rng.integers(3, size=(4, 5)), rng.normal(size=(4, 5, 3))
    fields = {"obs": None, "action": jnp.asarray(action), "mask": jnp.asarray(mask)}
    fields["log_prob"] = jnp.asarray(rng.normal(size=(4, 5)) - 1)
    by_hand = (advantage - advantage[mask].mean()) / (advantage[mask].std() + 0.1)

    def evaluate(term, advantage):
        batch = po.Batch(advantage=jnp.asarray(advantage), **fields)
        loss = lambda x, batch: term(po.Outputs(policy=po.Categorical(logits=x)), batch)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(logits, batch)

    found, expected = evaluate(po.standardize_advantage(po.ppo(), eps=0.1), advantage), evaluate(po.ppo(), by_hand)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), found, expected)
    garbage = np.where(mask, advantage, np.nan)
    jax.tree.map(np.testing.assert_array_equal, evaluate(po.standardize_advantage(po.ppo(), eps=0.1), garbage), found)


def test_minibatches_are_standardised_apart_and_shares_are_refused():
    rng = np.random.default_rng(3)
    batch = po.Batch(
        obs=jnp.zeros((4, 1, 2)), action=jnp.array([[0], [1], [0], [1]]), mask=jnp.ones((4, 1), bool),
        log_prob=jnp.full((4, 1), np.log(0.5)), advantage=jnp.asarray(rng.normal(size=(4, 1))),
    )  # fmt: skip
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs + params))  # noqa: E731
    whole = po.objective(model, po.weighted_sum(policy=(1.0, po.standardize_advantage(po.surrogate()))))
    gradient = jax.jit(jax.grad(lambda p, part: whole(p, part)[0]))
    for rows in (slice(0, 2), slice(2, 4)):
        part = jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], batch)
        advantage = np.asarray(part.advantage)[:, 0]
        sign = np.sign(advantage[0] - advantage[1])  # two numbers, standardised, are -1 and 1
        slope = gradient(jnp.zeros(2), part)
        np.testing.assert_allclose(slope, [-0.5 * sign, 0.5 * sign], atol=1e-7)
    with pytest.raises(ValueError, match="standardize_advantage couples rows"):
        po.accumulate_gradients(whole, 2)(jnp.zeros(2), batch)


@pytest.mark.parametrize(
    ("penalty", "kl", "error", "said"),
    [
        (1.0, jnp.array(0.1), TypeError, "penalty must be what init_kl_penalty gives; it is a float"),
        (jnp.array(0.1), po.init_kl_penalty(), TypeError, r"penalty must be .*; it is float32\[\]"),
        (
            po.init_kl_penalty(),
            jnp.full(3, 0.1),
            ValueError,
            r"update_kl_penalty: kl must be a scalar; it is float32\[3\]",
        ),
    ],
)
def test_a_penalty_is_updated_by_one_number(penalty, kl, error, said):
    with pytest.raises(error, match=said):
        po.update_kl_penalty(penalty, kl, target=0.01)
