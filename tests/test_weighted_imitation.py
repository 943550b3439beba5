"""AWR, MPO and V-MPO against loops in numpy, the closed forms of a bandit, and rlax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import polopt_jax as po
from polopt_jax.surrogates import top_entries

GROUP = (3, 6, 4)  # states' rows, actions, time
ACTIONS = 5
pytestmark = pytest.mark.usefixtures("x64")


def example(seed, shape=GROUP):
    rng = np.random.default_rng(seed)
    fields = {
        "logits": rng.normal(size=(*shape, ACTIONS)),
        "action": rng.integers(ACTIONS, size=shape),
        "mask": rng.random(shape) < 0.7,
        "advantage": rng.normal(size=shape),
    }
    fields["mask"][0, ..., 0] = False  # a state without actions
    return fields


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def evaluate(make, fields, hyper):
    """`(value, metrics)`, and the gradients in the logits and in the hyperparameters."""

    def loss(logits, hyper):
        batch = po.Batch(obs=None, **{k: jnp.asarray(x) for k, x in fields.items() if k != "logits"})
        return make(**hyper)(po.Outputs(policy=po.Categorical(logits=logits)), batch)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(jnp.asarray(fields["logits"]), hyper)


def score(logits, action):
    return np.eye(ACTIONS)[action] - np.exp(log_softmax(logits))


def taken(fields):
    return np.take_along_axis(log_softmax(fields["logits"]), fields["action"][..., None], -1)[..., 0]


def dual(values, temperature, epsilon):
    return temperature * (epsilon + np.log(np.mean(np.exp(np.asarray(values) / temperature))))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def kl_to_uniform(weights):
    return (weights * np.log(weights * len(weights))).sum()


# --- AWR --------------------------------------------------------------------------------------------------------------


def test_awr_is_a_loop_over_decisions():
    fields, beta, cap = example(0), 0.6, 3.0
    (value, metrics), (gradient, _) = evaluate(po.awr, fields, {"beta": beta, "cap": cap})
    number, log_prob = fields["mask"].sum(), taken(fields)
    total, weights, capped, expected = 0.0, 0.0, 0, np.zeros((*GROUP, ACTIONS))
    for index in map(tuple, np.argwhere(fields["mask"])):
        weight = min(np.exp(fields["advantage"][index] / beta), cap)
        total -= weight * log_prob[index]
        weights += weight
        capped += np.exp(fields["advantage"][index] / beta) > cap
        expected[index] = -weight * score(fields["logits"][index], fields["action"][index]) / number
    assert 0 < capped < number
    np.testing.assert_allclose(value, total / number, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, atol=1e-14)
    np.testing.assert_allclose(metrics["weight_mean"], weights / number, rtol=1e-12)
    np.testing.assert_allclose(metrics["capped_fraction"], capped / number, rtol=1e-6)


def test_the_least_loss_of_awr_is_the_policy_that_acted_times_the_exponential():
    """A bandit with every action once, weighed by what acted: no gradient at μ exp(A/β) / Z."""
    rng = np.random.default_rng(1)
    mu, advantage = softmax(rng.normal(size=ACTIONS)), rng.normal(size=ACTIONS)
    best = mu * np.exp(advantage / 0.8)
    fields = {
        "logits": np.broadcast_to(np.log(best), (ACTIONS, 1, ACTIONS)),
        "action": np.arange(ACTIONS)[:, None],
        "mask": np.ones((ACTIONS, 1), bool),
        "advantage": advantage[:, None],
    }
    law = lambda x, batch: jnp.asarray(mu) @ x[:, 0]  # noqa: E731
    _, (gradient, _) = evaluate(lambda **h: po.awr(cap=1e8, reduce=law, **h), fields, {"beta": 0.8})
    np.testing.assert_allclose(np.asarray(gradient).sum((0, 1)), 0, atol=1e-14)
    assert np.abs(gradient).max() > 1e-3


def test_awr_never_overflows():
    fields = example(2, (1, 4)) | {"advantage": np.array([[1e9, -1e9, 300.0, 0.0]]), "mask": np.ones((1, 4), bool)}
    with jax.enable_x64(False):
        for cap in (20.0, jnp.inf):
            (value, _), gradients = evaluate(po.awr, fields, {"beta": 0.05, "cap": cap})
            assert np.isfinite(value)
            assert np.isfinite(gradients[0]).all()


# --- MPO --------------------------------------------------------------------------------------------------------------


def test_mpo_is_a_loop_over_states():
    fields, hyper = example(3), {"temperature": 0.7, "epsilon": 0.15}
    (value, metrics), (gradient, slopes) = evaluate(po.mpo, fields, hyper)
    log_prob, states = taken(fields), [s for s in np.ndindex(GROUP[0], GROUP[2]) if fields["mask"][s[0], :, s[1]].any()]
    assert len(states) < GROUP[0] * GROUP[2]
    policy, duals, kls, expected = 0.0, 0.0, 0.0, np.zeros((*GROUP, ACTIONS))
    for n, t in states:
        real = fields["mask"][n, :, t]
        q = fields["advantage"][n, real, t]
        weights = softmax(q / 0.7)
        policy -= weights @ log_prob[n, real, t]
        duals += dual(q, 0.7, 0.15)
        kls += kl_to_uniform(weights)
        slope = score(fields["logits"][n, real, t], fields["action"][n, real, t])
        expected[n, real, t] = -weights[:, None] * slope / len(states)
    number = len(states)
    np.testing.assert_allclose(metrics["policy_loss"], policy / number, rtol=1e-12)
    np.testing.assert_allclose(metrics["temperature_loss"], duals / number, rtol=1e-12)
    np.testing.assert_allclose(value, (policy + duals) / number, rtol=1e-12)
    np.testing.assert_allclose(metrics["weight_kl"], kls / number, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, atol=1e-14)
    np.testing.assert_allclose(slopes["temperature"], 0.15 - kls / number, rtol=1e-11)
    np.testing.assert_allclose(slopes["epsilon"], 0.7, rtol=1e-12)


def test_v_mpo_is_a_loop_over_the_better_half():
    for seed, top in ((4, 0.5), (5, 0.3)):
        fields, hyper = example(seed), {"temperature": 0.7, "epsilon": 0.15, "top": top}
        (value, metrics), (gradient, slopes) = evaluate(po.v_mpo, fields, hyper)
        real = list(map(tuple, np.argwhere(fields["mask"])))
        used = sorted(real, key=lambda i: -fields["advantage"][i])[: int(top * len(real))]
        advantage = np.array([fields["advantage"][i] for i in used])
        weights = softmax(advantage / 0.7)
        log_prob = taken(fields)
        expected, policy = np.zeros((*GROUP, ACTIONS)), 0.0
        for index, weight in zip(used, weights, strict=True):
            policy -= weight * log_prob[index]
            expected[index] = -weight * score(fields["logits"][index], fields["action"][index])
        np.testing.assert_allclose(metrics["policy_loss"], policy, rtol=1e-12)
        np.testing.assert_allclose(metrics["temperature_loss"], dual(advantage, 0.7, 0.15), rtol=1e-12)
        np.testing.assert_allclose(value, policy + dual(advantage, 0.7, 0.15), rtol=1e-12)
        np.testing.assert_allclose(metrics["weight_kl"], kl_to_uniform(weights), rtol=1e-11)
        np.testing.assert_allclose(metrics["top_fraction"], len(used) / len(real), rtol=1e-6)
        np.testing.assert_allclose(gradient, expected, atol=1e-14)
        np.testing.assert_allclose(slopes["temperature"], 0.15 - kl_to_uniform(weights), rtol=1e-11)


@pytest.mark.parametrize("size", [10, 100, 1000])
def test_the_top_is_as_large_as_the_fraction_says(size):
    """Of 100 the top 0.53 are 53, though 0.53 times 100 is a little less in floating point."""
    worth, real = jnp.arange(size, dtype=jnp.float32), jnp.ones(size, bool)
    top = jax.jit(lambda fraction: top_entries(worth, real, jnp.float32(fraction)).sum())
    for number in range(1, size + 1):
        assert int(top(number / size)) == number
    assert int(top(0.999999)) == size - 1


def test_the_top_has_at_least_one_decision_and_all_that_tie():
    tied = {"advantage": np.array([[1.0, 1.0, 1.0, 0.0]]), "mask": np.ones((1, 4), bool)}
    fields = example(6, (1, 4)) | tied
    for top, share in ((0.0, 0.75), (0.5, 0.75), (1.0, 1.0)):
        (_, metrics), _ = evaluate(po.v_mpo, fields, {"temperature": 1.0, "epsilon": 0.1, "top": top})
        assert float(metrics["top_fraction"]) == share
    one = fields | {"mask": np.array([[False, False, False, True]])}
    (_, metrics), _ = evaluate(po.v_mpo, one, {"temperature": 1.0, "epsilon": 0.1})
    np.testing.assert_allclose(metrics["policy_loss"], -taken(one)[0, 3], rtol=1e-12)
    np.testing.assert_allclose(metrics["temperature_loss"], 0.1, rtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_the_temperature_of_least_dual_makes_weights_whose_kl_is_epsilon(epsilon):
    """A bandit: weights are exp(Q/η) / Z, and η is where their KL from uniform is ε, found by bisection."""
    q = np.random.default_rng(7).normal(size=8)
    exact = brentq(lambda eta: kl_to_uniform(softmax(q / eta)) - epsilon, 1e-2, 1e3, xtol=1e-13)
    mask = jnp.ones(8, bool)
    slope = jax.grad(lambda x: po.temperature_loss(jnp.asarray(q), mask, temperature=jnp.exp(x), epsilon=epsilon))
    found = jax.jit(lambda x: jax.lax.fori_loop(0, 3000, lambda _, x: x - 1.0 * slope(x), x))(jnp.zeros(()))
    np.testing.assert_allclose(jnp.exp(found), exact, rtol=1e-6)
    weights = po.improved_weights(jnp.asarray(q), mask, temperature=jnp.exp(found))
    np.testing.assert_allclose(weights, softmax(q / exact), rtol=1e-5)


@pytest.mark.parametrize("name", ["mpo", "v_mpo"])
def test_descent_on_policy_and_duals_finds_the_improved_policy(name):
    """Every action of a bandit once, μ uniform: the policy becomes the weights, and its bound is not reached."""
    q, epsilon = np.random.default_rng(8).normal(size=ACTIONS), 0.2
    exact = brentq(lambda eta: kl_to_uniform(softmax(q / eta)) - epsilon, 1e-2, 1e3, xtol=1e-13)
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs + params))  # noqa: E731
    batch = po.Batch(
        obs=jnp.zeros((1, ACTIONS, 1, ACTIONS)), action=jnp.arange(ACTIONS)[None, :, None],
        mask=jnp.ones((1, ACTIONS, 1), bool), advantage=jnp.asarray(q)[None, :, None],
    )  # fmt: skip
    build = {"mpo": po.mpo, "v_mpo": lambda **h: po.v_mpo(top=1.0, **h)}[name]

    def loss(params):
        eta, alpha = jnp.exp(params["log_temperature"]), jnp.exp(params["log_alpha"])
        kl = po.kl_to_reference(model, jnp.zeros(ACTIONS), divergence=po.action_kl)
        term = po.weighted_sum(
            policy=(1.0, build(temperature=eta, epsilon=epsilon)),
            kl=(1.0, po.lagrangian(kl, multiplier=alpha, bound=1.0)),
        )
        return po.objective(model, term)(params["model"], batch)[0]

    start = {"model": jnp.zeros(ACTIONS), "log_temperature": jnp.zeros(()), "log_alpha": jnp.zeros(())}
    step = lambda _, p: jax.tree.map(lambda x, g: x - 0.5 * g, p, jax.grad(loss)(p))  # noqa: E731
    found = jax.jit(lambda p: jax.lax.fori_loop(0, 8000, step, p))(start)
    np.testing.assert_allclose(jax.nn.softmax(found["model"]), softmax(q / exact), atol=1e-3)
    np.testing.assert_allclose(jnp.exp(found["log_temperature"]), exact, rtol=1e-6)


def test_constants_and_large_values_do_no_harm():
    """A constant added to Q changes the weights by nothing and the dual by itself; exponentials never overflow."""
    q, mask = np.random.default_rng(9).normal(size=(2, 6)), np.array([[True] * 6, [True] * 3 + [False] * 3])
    with jax.enable_x64(False):
        arrays = lambda shift: (jnp.asarray(q + shift, jnp.float32), jnp.asarray(mask))  # noqa: E731
        plain = po.temperature_loss(*arrays(0), temperature=1e-2, epsilon=0.1, axis=-1)
        moved = po.temperature_loss(*arrays(100.0), temperature=1e-2, epsilon=0.1, axis=-1)
        np.testing.assert_allclose(moved - 100.0, plain, atol=1e-4)
        weights = po.improved_weights(*arrays(100.0), temperature=1e-2, axis=-1)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
        assert not np.any(np.asarray(weights)[~mask])


def test_groups_are_needed_and_shares_are_refused():
    fields = example(10, (4,) + (3,))
    batch = po.Batch(
        obs=jnp.asarray(fields["logits"]), **{k: jnp.asarray(fields[k]) for k in ("action", "mask", "advantage")}
    )
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs * params))  # noqa: E731
    hyper = {"temperature": 1.0, "epsilon": 0.1}
    for name in ("mpo", "v_mpo"):
        whole = po.objective(model, getattr(po, name)(**hyper))
        with pytest.raises(ValueError, match=f"{name} couples rows"):
            po.accumulate_gradients(whole, 2)(jnp.ones(()), batch)
        with pytest.raises(ValueError, match=f"{name}: temperature must be above 0"):
            getattr(po, name)(temperature=0.0, epsilon=0.1)
    of_one_state = jax.tree.map(lambda x: x[0], batch)
    with pytest.raises(ValueError, match=r"mpo needs groups of actions, a mask \[..., N, G, T\]"):
        po.objective(model, po.mpo(**hyper))(jnp.ones(()), of_one_state)


@pytest.mark.peers
def test_mpo_and_v_mpo_are_those_of_rlax():
    """With no bound of the M-step for MPO, and with one for V-MPO, whose multiplier is differentiated as well."""
    rlax = pytest.importorskip("rlax")
    fields = example(11) | {"mask": np.ones(GROUP, bool)}
    old = jnp.asarray(np.random.default_rng(12).normal(size=(*GROUP, ACTIONS)))
    advantage, action = jnp.asarray(fields["advantage"]), jnp.asarray(fields["action"])
    hyper = {"temperature": jnp.asarray(0.7), "alpha": jnp.asarray(0.4)}

    def theirs(logits, hyper, name):
        policy = po.Categorical(logits=logits)
        temperature = rlax.LagrangePenalty(hyper["temperature"], 0.15)
        if name == "mpo":
            kl = (jnp.zeros((GROUP[0], GROUP[2])), rlax.LagrangePenalty(0.0 * hyper["alpha"], 0.05))
            return rlax.mpo_loss(policy.log_prob(action), advantage, temperature, [kl], sample_axis=1)[0].mean()
        kl = (po.Categorical(logits=old).kl_divergence(policy), rlax.LagrangePenalty(hyper["alpha"], 0.05))
        return rlax.vmpo_loss(policy.log_prob(action), advantage, temperature, [kl])[0].mean()

    def ours(name):
        def build(temperature, alpha):
            kl = po.kl_to_reference(
                lambda p, obs: po.Outputs(policy=po.Categorical(logits=old)), divergence=po.action_kl
            )
            held = po.lagrangian(kl, multiplier=alpha * (name == "v_mpo"), bound=0.05)
            policy = getattr(po, name)(temperature=temperature, epsilon=0.15)
            return po.weighted_sum(policy=(1.0, policy), kl=(1.0, held))

        return build

    for name in ("mpo", "v_mpo"):
        (value, _), gradients = evaluate(ours(name), fields, hyper)
        call = jax.jit(jax.value_and_grad(lambda *x, name=name: theirs(*x, name), argnums=(0, 1)))
        expected = call(jnp.asarray(fields["logits"]), hyper)
        np.testing.assert_allclose(value, expected[0], rtol=1e-8)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), gradients, expected[1])
