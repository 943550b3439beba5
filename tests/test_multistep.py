"""λ-returns, n-step returns and V-trace against sums written out from their definitions, and against each other."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po

N, T = 30, 7
pytestmark = pytest.mark.usefixtures("x64")


def rollouts(seed, *, ends=0.25):
    """Random rewards, values, flags and log-probabilities `[T, N]`; both flags may be set at once."""
    rng = np.random.default_rng(seed)
    floats = dict(zip(("reward", "value", "next_value", "log_prob"), rng.normal(size=(4, T, N)), strict=True))
    terminated, truncated = rng.random((2, T, N)) < ends
    return floats | {"terminated": terminated, "truncated": truncated}


def chained(seed, **keywords):
    """The same, where the value after a step is that before the next of the same episode."""
    data = rollouts(seed, **keywords)
    ends = data["terminated"] | data["truncated"]
    data["next_value"][:-1] = np.where(ends[:-1], data["next_value"][:-1], data["value"][1:])
    return data


def without(data, *names):
    return {name: x for name, x in data.items() if name not in names}


def bootstrap(data, t, b):
    return 0.0 if data["terminated"][t, b] else data["next_value"][t, b]


def ends(data, t, b):
    return data["terminated"][t, b] or data["truncated"][t, b] or t == T - 1


def numpy_n_step(data, n, gamma):
    """Definition: at most n rewards of this episode and window, and what the last of them leads to."""
    total = np.zeros((T, N))
    for t, b in np.ndindex(T, N):
        for k in range(n):
            total[t, b] += gamma**k * data["reward"][t + k, b]
            if k == n - 1 or ends(data, t + k, b):
                total[t, b] += gamma ** (k + 1) * bootstrap(data, t + k, b)
                break
    return total


def numpy_lambda(data, gamma, lambda_):
    """Definition: (1-λ) Σ λⁿ⁻¹ of the n-step returns, of which the one that reaches the end takes all that is left."""
    n_step = {n: numpy_n_step(data, n, gamma) for n in range(1, T + 1)}
    total = np.zeros((T, N))
    for t, b in np.ndindex(T, N):
        left = 1.0
        for n in range(1, T + 1):
            share = left if ends(data, t + n - 1, b) else left * (1 - lambda_)
            total[t, b] += share * n_step[n][t, b]
            left -= share
            if ends(data, t + n - 1, b):
                break
    return total


def numpy_v_trace(data, new_log_prob, gamma, lambda_, rho_bar, c_bar):
    """Equation 1 of the paper as a double sum, with λ in c; the advantage from the targets of the next step."""
    ratio = np.exp(new_log_prob - data["log_prob"])
    rho, c = np.minimum(ratio, rho_bar), lambda_ * np.minimum(ratio, c_bar)
    target, advantage = data["value"].copy(), np.zeros((T, N))
    for t, b in np.ndindex(T, N):
        weight = 1.0
        for u in range(t, T):
            delta = data["reward"][u, b] + gamma * bootstrap(data, u, b) - data["value"][u, b]
            target[t, b] += weight * rho[u, b] * delta
            weight *= gamma * c[u, b]
            if ends(data, u, b):
                break
    for t, b in np.ndindex(T, N):
        after = bootstrap(data, t, b)
        if not ends(data, t, b):
            after += lambda_ * (target[t + 1, b] - data["value"][t + 1, b])
        advantage[t, b] = rho[t, b] * (data["reward"][t, b] + gamma * after - data["value"][t, b])
    return advantage, target


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize("n", [1, 2, 4, T, T + 3])
def test_n_step_returns_are_their_sums(n, wide, tolerance):
    data = without(rollouts(0), "value", "log_prob")
    with jax.enable_x64(wide):
        found = po.n_step_returns(**data, n=n, gamma=0.9)
    np.testing.assert_allclose(found, numpy_n_step(data, n, 0.9), atol=tolerance * 10)


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_lambda_returns_are_mixtures_of_n_step_returns(lambda_, wide, tolerance):
    data = without(rollouts(1), "value", "log_prob")
    with jax.enable_x64(wide):
        found = po.lambda_returns(**data, gamma=0.9, lambda_=lambda_)
    np.testing.assert_allclose(found, numpy_lambda(data, 0.9, lambda_), atol=tolerance * 10)


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 2e-5)])
@pytest.mark.parametrize(
    ("lambda_", "rho_bar", "c_bar"), [(1.0, 1.0, 1.0), (0.7, 2.0, 0.5), (1.0, np.inf, np.inf), (0.0, 1.0, 1.0)]
)
def test_v_trace_is_its_sum(lambda_, rho_bar, c_bar, wide, tolerance):
    data, new_log_prob = rollouts(2), np.random.default_rng(20).normal(size=(T, N))
    ratio = np.exp(new_log_prob - data["log_prob"])
    assert (ratio > 2).any()
    assert (ratio < 0.5).any()
    hyper = {"gamma": 0.9, "lambda_": lambda_, "rho_bar": rho_bar, "c_bar": c_bar}
    with jax.enable_x64(wide):
        found = po.v_trace(**data, new_log_prob=jnp.asarray(new_log_prob), **hyper)
    for ours, expected in zip(found, numpy_v_trace(data, new_log_prob, **hyper), strict=True):
        np.testing.assert_allclose(ours, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("bars", [{}, {"rho_bar": np.inf, "c_bar": np.inf}])
def test_v_trace_of_the_policy_that_acted_is_the_n_step_return(bars):
    data = chained(3)
    advantage, target = po.v_trace(**data, new_log_prob=data["log_prob"], gamma=0.9, **bars)
    returns = numpy_n_step(data, T, 0.9)
    np.testing.assert_allclose(target, returns, atol=1e-12)
    np.testing.assert_allclose(advantage, returns - data["value"], atol=1e-12)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_on_policy_v_trace_is_gae_and_its_target_the_lambda_return(lambda_):
    data = chained(4)
    hyper = {"gamma": 0.95, "lambda_": lambda_}
    estimates = po.v_trace(**data, new_log_prob=data["log_prob"], **hyper)
    for ours, theirs in zip(estimates, po.gae(**without(data, "log_prob"), **hyper), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(
        estimates[1], po.lambda_returns(**without(data, "value", "log_prob"), **hyper), atol=1e-12
    )


def test_the_ends_of_the_family_are_discounted_returns_and_one_step_targets():
    data = without(rollouts(5), "value", "log_prob")
    whole = po.discounted_returns(**data, gamma=0.9)
    np.testing.assert_allclose(po.lambda_returns(**data, gamma=0.9, lambda_=1.0), whole, atol=1e-12)
    np.testing.assert_allclose(po.n_step_returns(**data, gamma=0.9, n=T), whole, atol=1e-12)
    one = po.n_step_returns(**data, gamma=0.9, n=1)
    np.testing.assert_allclose(po.lambda_returns(**data, gamma=0.9, lambda_=0.0), one, atol=1e-12)


def test_v_trace_corrects_for_the_policy():
    """One decision between two actions, every action once and weighted by μ: the target's mean is the value under π."""
    mu, pi, reward = np.array([0.8, 0.2]), np.array([0.3, 0.7]), np.array([1.0, -2.0])
    once = {"value": np.full((1, 2), 0.4), "next_value": np.full((1, 2), np.nan), "reward": reward[None]}
    flags = {"terminated": np.ones((1, 2), bool), "truncated": np.zeros((1, 2), bool)}
    logs = {"log_prob": np.log(mu)[None], "new_log_prob": jnp.log(pi)[None]}
    for rho_bar in (np.inf, 1.0):
        advantage, target = po.v_trace(**once, **flags, **logs, rho_bar=rho_bar)
        effective = np.minimum(rho_bar * mu, pi)  # the policy of the fixed point, equation 3 of the paper
        fixed_point = (effective @ reward) / effective.sum()
        np.testing.assert_allclose(mu @ (target[0] - 0.4), effective.sum() * (fixed_point - 0.4), rtol=1e-12)
        np.testing.assert_allclose(advantage, target - 0.4, rtol=1e-12)


def test_v_traces_ratios_are_clamped_at_20_nats():
    """Untruncated and in float32, where exp(100) is infinite: e^20 and e^-20 times the error, and no NaN."""
    with jax.enable_x64(False):
        once = {name: jnp.zeros((1, 3)) for name in ("value", "next_value", "log_prob")}
        flags = {"terminated": jnp.ones((1, 3), bool), "truncated": jnp.zeros((1, 3), bool)}
        ratios = jnp.array([[100.0, -100.0, 1.0]])
        advantage, target = po.v_trace(
            reward=jnp.full((1, 3), 2.0), **once, **flags, new_log_prob=ratios, rho_bar=jnp.inf, c_bar=jnp.inf
        )
    np.testing.assert_allclose(target[0], 2 * np.exp([20.0, -20.0, 1.0]), rtol=1e-6)
    np.testing.assert_array_equal(advantage, target)


@pytest.mark.parametrize("estimate", ["v_trace", "lambda_returns", "n_step_returns"])
def test_nothing_leaks_over_the_end_of_an_episode(estimate):
    """What follows an end is NaN, and so is the value after a termination: nothing before it changes by a bit."""
    data, new = rollouts(6, ends=0.0), jnp.asarray(np.random.default_rng(60).normal(size=(T, N)))
    needs = {"lambda_returns": ("value", "log_prob"), "n_step_returns": ("value", "log_prob"), "v_trace": ()}[estimate]
    more = {"new_log_prob": new} if estimate == "v_trace" else {}
    call = jax.jit(lambda arrays: getattr(po, estimate)(**arrays, **more))
    for flag in ("terminated", "truncated"):
        data[flag][3] = True
        clean = without(data, *needs)
        dirty = {k: x.copy() for k, x in clean.items()}
        for name in set(dirty) - {"terminated", "truncated"}:
            dirty[name][4:] = np.nan
        if flag == "terminated":
            dirty["next_value"][3] = np.nan
        for one, other in zip(jax.tree.leaves(call(clean)), jax.tree.leaves(call(dirty)), strict=True):
            np.testing.assert_array_equal(one[:4], other[:4])
            assert np.isfinite(other[:4]).all()
        data[flag][3] = False


def test_a_rollout_and_its_arrays_give_the_same():
    data, new = jax.tree.map(jnp.asarray, rollouts(7)), jnp.asarray(np.random.default_rng(70).normal(size=(T, N)))
    zeros = jnp.zeros((T, N))
    rollout = po.Rollout(obs=zeros, action=zeros, next_obs=zeros, mask=zeros == 0, **data)
    short = without(data, "value", "log_prob")
    pairs = [
        (po.v_trace(rollout, new_log_prob=new), po.v_trace(**data, new_log_prob=new)),
        (po.lambda_returns(rollout), po.lambda_returns(**short)),
        (po.n_step_returns(rollout), po.n_step_returns(**short)),
    ]
    for one, other in pairs:
        jax.tree.map(np.testing.assert_array_equal, one, other)
    for call in (po.lambda_returns, po.n_step_returns, lambda *x, **k: po.v_trace(*x, **k, new_log_prob=new)):
        with pytest.raises(TypeError, match="takes a Rollout, or by keyword"):
            call(rollout, reward=zeros)
        with pytest.raises(ValueError, match="needs rollout.next_value, which is None"):
            call(replace(rollout, next_value=None))
    with pytest.raises(ValueError, match="v_trace: new_log_prob must have shape"):
        po.v_trace(rollout, new_log_prob=new[0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: po.lambda_returns(**d, lambda_=1.5), "lambda_returns: lambda_ must be from 0 to 1"),
        (lambda d: po.n_step_returns(**d, n=0), "n_step_returns: n must be at least 1"),
        (lambda d: po.n_step_returns(**d, gamma=2.0), "n_step_returns: gamma must be from 0 to 1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(without(rollouts(8), "value", "log_prob"))
    with pytest.raises(ValueError, match="v_trace: c_bar must be at least 0"):
        po.v_trace(**rollouts(8), new_log_prob=jnp.zeros((T, N)), c_bar=-1.0)


@pytest.mark.peers
def test_v_trace_and_the_returns_are_those_of_rlax():
    rlax = pytest.importorskip("rlax")
    data, new = chained(9), np.random.default_rng(90).normal(size=(T, N))
    data["truncated"][:] = False
    data["next_value"][:-1] = data["value"][1:]
    discount = 0.95 * (1.0 - data["terminated"])
    ratio = np.exp(new - data["log_prob"])
    columns = lambda f: jax.vmap(f, in_axes=1, out_axes=1)  # noqa: E731
    for lambda_, rho_bar in ((1.0, 1.0), (0.8, 1.5)):
        theirs = columns(
            lambda v, w, r, d, rho, lam=lambda_, bar=rho_bar: rlax.vtrace_td_error_and_advantage(
                v, w, r, d, rho, lam, bar, bar
            )
        )(*(jnp.asarray(x) for x in (data["value"], data["next_value"], data["reward"], discount, ratio)))
        ours = po.v_trace(**data, new_log_prob=jnp.asarray(new), gamma=0.95, lambda_=lambda_, rho_bar=rho_bar)
        np.testing.assert_allclose(ours[0], theirs.pg_advantage, atol=1e-11)
        np.testing.assert_allclose(ours[1] - data["value"], theirs.errors, atol=1e-11)
    arrays = [jnp.asarray(x) for x in (data["reward"], discount, data["next_value"])]
    short = without(data, "value", "log_prob")
    theirs = columns(lambda r, d, v: rlax.lambda_returns(r, d, v, 0.7))(*arrays)
    np.testing.assert_allclose(po.lambda_returns(**short, gamma=0.95, lambda_=0.7), theirs, atol=1e-12)
    theirs = columns(lambda r, d, v: rlax.n_step_bootstrapped_returns(r, d, v, 3))(*arrays)
    np.testing.assert_allclose(po.n_step_returns(**short, gamma=0.95, n=3), theirs, atol=1e-12)
