"""Returns and advantages over time: loops, matrices, published vectors, and every way for an episode to end."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po

N, T = 40, 9
pytestmark = pytest.mark.usefixtures("x64")


def rollouts(seed, *, ends=0.3):
    """N columns [T, N] of random rewards, values and flags; both flags may be set at once."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, T, N))
    terminated, truncated = rng.random((2, T, N)) < ends
    return reward, value, next_value, terminated, truncated


FIELDS = ("reward", "value", "next_value", "terminated", "truncated")


def gae(*arrays, **hyper):
    return po.gae(**dict(zip(FIELDS, arrays, strict=True)), **hyper)


def discounted_returns(reward, *rest, **hyper):
    return po.discounted_returns(reward=reward, **dict(zip(FIELDS[2:], rest, strict=True)), **hyper)


def numpy_gae(reward, value, next_value, terminated, truncated, gamma, lambda_):
    """Definition, as a double loop: sum the discounted errors of this episode from each step on."""
    advantage = np.zeros_like(reward)
    for b, t in np.ndindex(reward.shape[1], reward.shape[0]):
        for u in range(t, reward.shape[0]):
            bootstrap = 0.0 if terminated[u, b] else next_value[u, b]
            delta = reward[u, b] + gamma * bootstrap - value[u, b]
            advantage[t, b] += (gamma * lambda_) ** (u - t) * delta
            if terminated[u, b] or truncated[u, b]:
                break
    return advantage


def numpy_returns(reward, next_value, terminated, truncated, gamma):
    """Definition, as a double loop: reward to go, and what the end of it is worth."""
    total = np.zeros_like(reward)
    for b, t in np.ndindex(reward.shape[1], reward.shape[0]):
        for u in range(t, reward.shape[0]):
            total[t, b] += gamma ** (u - t) * reward[u, b]
            if terminated[u, b]:
                break
            if truncated[u, b] or u == reward.shape[0] - 1:
                total[t, b] += gamma ** (u - t + 1) * next_value[u, b]
                break
    return total


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.5, 0.3)])
def test_gae_equals_a_double_loop(gamma, lambda_, wide, tolerance):
    data = rollouts(0)
    with jax.enable_x64(wide):
        advantage, target = gae(*data, gamma=gamma, lambda_=lambda_)
    expected = numpy_gae(*data, gamma, lambda_)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(advantage, expected, atol=tolerance * scale)
    np.testing.assert_allclose(target, expected + data[1], atol=tolerance * scale)


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_discounted_returns_equal_a_double_loop(gamma, wide, tolerance):
    reward, _, next_value, terminated, truncated = rollouts(1)
    with jax.enable_x64(wide):
        found = discounted_returns(reward, next_value, terminated, truncated, gamma=gamma)
    expected = numpy_returns(reward, next_value, terminated, truncated, gamma)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_gae_solves_its_linear_system():
    """A = (I - γλP)⁻¹ δ, where P goes from each step to the next of the same episode."""
    reward, value, next_value, terminated, truncated = rollouts(2)
    gamma, lambda_ = 0.97, 0.8
    delta = reward + gamma * np.where(terminated, 0, next_value) - value
    advantage, _ = gae(reward, value, next_value, terminated, truncated, gamma=gamma, lambda_=lambda_)
    for b in range(N):
        follows = np.eye(T, k=1) * ~(terminated | truncated)[:, b, None]
        solved = np.linalg.solve(np.eye(T) - gamma * lambda_ * follows, delta[:, b])
        np.testing.assert_allclose(advantage[:, b], solved, atol=1e-12)


def test_lambda_0_is_the_td_error_and_lambda_1_the_return_minus_the_value():
    reward, value, next_value, terminated, truncated = data = rollouts(3)
    one_step = reward + 0.9 * np.where(terminated, 0, next_value) - value
    np.testing.assert_allclose(gae(*data, gamma=0.9, lambda_=0.0)[0], one_step, atol=1e-13)
    # With λ = 1 values telescope within an episode, where the value after a step is that before the next.
    cut = terminated | truncated
    following = next_value.copy()
    following[:-1] = np.where(cut[:-1], next_value[:-1], value[1:])
    advantage, target = gae(reward, value, following, terminated, truncated, gamma=0.9, lambda_=1.0)
    monte_carlo = numpy_returns(reward, following, terminated, truncated, 0.9)
    np.testing.assert_allclose(advantage, monte_carlo - value, atol=1e-12)
    np.testing.assert_allclose(target, monte_carlo, atol=1e-12)
    library = discounted_returns(reward, following, terminated, truncated, gamma=0.9)
    np.testing.assert_allclose(target, library, atol=1e-12)


# The vectors of rlax's own tests, rounded to four digits. Its discount of 0 in the second row is a termination.
REWARD = np.array([[0.0, 0, 1, 0, -0.5], [0, 0, 0, 0, 1]])
VALUES = np.array([[1.0, 4, -3, -2, -1, -1], [-3, -2, -1, 0, 5, -1]])
GAE_VECTORS = {
    1.0: [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3, 2, 1, 0, -4.9]],
    0.7: [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1, 0, -4.9]],
}


@pytest.mark.parametrize("lambda_", GAE_VECTORS)
def test_gae_golden_vectors(lambda_):
    gamma = np.array([0.99, 0.9])
    terminated = np.zeros((5, 2), bool)
    terminated[3, 1] = True
    found, _ = gae(
        REWARD.T, VALUES[:, :-1].T, VALUES[:, 1:].T, terminated, np.zeros_like(terminated), gamma=gamma, lambda_=lambda_
    )
    np.testing.assert_allclose(found.T, GAE_VECTORS[lambda_], atol=5.1e-5)


# --- how episodes end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("terminated_here", "truncated_here"), list(itertools.product([False, True], repeat=2)))
def test_truth_table_of_ends_at_every_step(terminated_here, truncated_here):
    """Bootstrap from the final observation unless terminated; cut the trace unless the episode goes on."""
    reward, value, next_value, _, _ = rollouts(4)
    none = np.zeros((T, N), bool)

    @jax.jit
    def estimate(reward, next_value, terminated, truncated):
        advantage, _ = gae(reward, value, next_value, terminated, truncated, gamma=0.9, lambda_=0.8)
        return jnp.stack([advantage, discounted_returns(reward, next_value, terminated, truncated, gamma=0.9)])

    for t in range(T):
        terminated, truncated = none.copy(), none.copy()
        terminated[t], truncated[t] = terminated_here, truncated_here

        def estimates(reward, next_value, ends=(terminated, truncated)):
            return np.asarray(estimate(reward, next_value, *ends))

        plain = estimates(reward, next_value)
        final = next_value.copy()
        final[t] += 100.0
        reads_gae, reads_return = np.any(estimates(reward, final) != plain, axis=(1, 2))
        assert reads_gae == (not terminated_here)
        assert reads_return == (not terminated_here and (truncated_here or t == T - 1))
        if t + 1 < T:
            later = reward.copy()
            later[t + 1] += 100.0
            changed = np.any(estimates(later, next_value) != plain, axis=2)[:, t]
            assert np.all(changed == (not terminated_here and not truncated_here))
        final[t] = np.nan
        if terminated_here:
            np.testing.assert_array_equal(estimates(reward, final), plain)


def test_two_concatenated_episodes_are_the_two_apart():
    first, second = rollouts(5, ends=0.0), rollouts(6, ends=0.0)
    for flag in (3, 4):
        first[flag][-1] = True
        both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
        for estimate in (
            lambda *x: gae(*x)[0],
            lambda reward, value, *rest: discounted_returns(reward, *rest),
        ):
            apart = np.concatenate([estimate(*first), estimate(*second)])
            np.testing.assert_array_equal(estimate(*both), apart)
        first[flag][-1] = False


def test_splitting_an_episode_by_truncation():
    """TD(0) advantages do not change at all; the return does not where the values are exact."""
    reward, value, next_value, _, _ = rollouts(7)
    none = np.zeros((T, N), bool)
    next_value[:-1] = value[1:]
    exact = next_value.copy()
    for t in reversed(range(T - 1)):
        exact[t] = reward[t + 1] + 0.9 * exact[t + 1]
    estimate = jax.jit(lambda *ends, lambda_: gae(reward, value, next_value, *ends, gamma=0.9, lambda_=lambda_)[0])
    discounted = jax.jit(lambda *ends: discounted_returns(reward, exact, *ends, gamma=0.9))
    whole, long_trace, returns = (
        estimate(none, none, lambda_=0.0),
        estimate(none, none, lambda_=0.9),
        discounted(none, none),
    )
    for t in range(T - 1):
        cut = none.copy()
        cut[t] = True
        split = estimate(none, cut, lambda_=0.0)
        np.testing.assert_allclose(split, whole, atol=1e-12)
        np.testing.assert_allclose(discounted(none, cut), returns, atol=1e-12)
        shorter = estimate(none, cut, lambda_=0.9)
        assert np.abs(np.asarray(shorter - long_trace)[t]).min() > 1e-6
        np.testing.assert_allclose(shorter[t + 1 :], long_trace[t + 1 :], atol=1e-13)
        as_termination = estimate(cut, none, lambda_=0.0)
        assert np.abs(np.asarray(as_termination - whole)[t]).min() > 1e-6


def test_estimators_take_any_trailing_axes_and_traced_hyperparameters():
    data = rollouts(8)
    flat = gae(*data, gamma=0.9, lambda_=0.7)
    folded = gae(*(x.reshape(T, 5, 8) for x in data), gamma=0.9, lambda_=0.7)
    single = gae(*(x[:, 3] for x in data), gamma=0.9, lambda_=0.7)
    traced = jax.jit(jax.vmap(lambda g, l: gae(*data, gamma=g, lambda_=l)[0]))(
        jnp.array([0.9, 0.5]), jnp.array([0.7, 0.1])
    )
    np.testing.assert_allclose(np.asarray(folded).reshape(2, T, N), flat, atol=1e-14)
    np.testing.assert_allclose(np.asarray(single), np.asarray(flat)[:, :, 3], atol=1e-14)
    np.testing.assert_allclose(traced[0], flat[0], atol=1e-14)
    np.testing.assert_allclose(traced[1], numpy_gae(*data, 0.5, 0.1), atol=1e-12)


@pytest.mark.parametrize("name", ["value", "next_value", "terminated", "truncated"])
def test_shapes_and_flags_are_checked_by_name(name):
    fields = dict(zip(FIELDS, rollouts(9), strict=True))
    for changed in (fields[name][0], fields[name][:, :1], fields[name].T):
        with pytest.raises(ValueError, match=name):
            po.gae(**{**fields, name: changed})
    if fields[name].dtype == bool:
        with pytest.raises(TypeError, match=name):
            po.gae(**{**fields, name: fields[name].astype(float)})


@pytest.mark.usefixtures("x64")
def test_a_rollout_and_its_arrays_give_the_same_and_nothing_else_is_taken():
    fields = {name: jnp.asarray(x) for name, x in zip(FIELDS, rollouts(10), strict=True)}
    zeros = jnp.zeros_like(fields["reward"])
    rollout = po.Rollout(
        obs=zeros, action=zeros, log_prob=zeros, next_obs=zeros, mask=jnp.ones_like(fields["terminated"]), **fields
    )
    for ours, theirs in zip(po.gae(rollout, gamma=0.8), po.gae(**fields, gamma=0.8), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    returns = {name: x for name, x in fields.items() if name != "value"}
    np.testing.assert_array_equal(po.discounted_returns(rollout), po.discounted_returns(**returns))
    with pytest.raises(TypeError, match="gae takes a Rollout, or by keyword"):
        po.gae(rollout, reward=zeros)
    with pytest.raises(TypeError, match="gae takes a Rollout, or by keyword"):
        po.gae(**returns)
    with pytest.raises(ValueError, match="needs rollout.value, which is None"):
        po.gae(replace(rollout, value=None))


EVERY = {
    "gae": po.gae,
    "discounted_returns": po.discounted_returns,
    "lambda_returns": po.lambda_returns,
    "n_step_returns": po.n_step_returns,
    "v_trace": po.v_trace,
}


def taken(name, fields):
    """Those of the fields that an estimator takes."""
    no_values = name.endswith("_returns")
    return {field: x for field, x in fields.items() if not (no_values and field == "value")}


@pytest.mark.parametrize("name", EVERY)
def test_lists_are_as_good_as_arrays_and_a_step_is_the_least(name):
    fields = taken(name, dict(zip(FIELDS, rollouts(12), strict=True)))
    if name == "v_trace":
        fields |= {"log_prob": -(fields["reward"] ** 2), "new_log_prob": -(fields["value"] ** 2)}
    lists = EVERY[name](**{field: x.tolist() for field, x in fields.items()})
    jax.tree.map(np.testing.assert_array_equal, lists, EVERY[name](**fields))
    for empty in ({field: x[:0] for field, x in fields.items()}, {field: x[0, 0] for field, x in fields.items()}):
        with pytest.raises(ValueError, match=rf"{name}: reward must have a leading time axis \[T, ...\], T >= 1"):
            EVERY[name](**empty)


@pytest.mark.parametrize("hyper", [float, np.float64, np.asarray, jnp.asarray])
@pytest.mark.parametrize("wide", ["reward", "next_value", None])
@pytest.mark.parametrize("name", ["gae", "discounted_returns", "lambda_returns", "n_step_returns", "v_trace"])
def test_fields_and_numbers_may_be_of_different_precision(name, wide, hyper):
    """One wide field makes all wide; a wide discount makes none."""
    fields = {f: jnp.ones((3, 2), jnp.float64 if f == wide else jnp.float32) for f in ("reward", "value", "next_value")}
    fields |= {"terminated": jnp.zeros((3, 2), bool), "truncated": jnp.zeros((3, 2), bool)}
    if name == "v_trace":
        fields |= {"log_prob": jnp.zeros((3, 2), jnp.float32), "new_log_prob": jnp.zeros((3, 2), jnp.float32)}
    elif name != "gae":
        del fields["value"]
    numbers = {"gamma": 0.5} | ({} if name in ("discounted_returns", "n_step_returns") else {"lambda_": 1.0})
    found = getattr(po, name)(**fields, **{key: hyper(value) for key, value in numbers.items()})
    target = found[1] if isinstance(found, tuple) else found
    assert target.dtype == (jnp.float32 if wide is None else jnp.float64)
    np.testing.assert_allclose(target[:, 0], [1.875, 1.75, 1.5])


@pytest.mark.parametrize("bad", [{"gamma": 1.5}, {"gamma": -0.1}, {"lambda_": float("nan")}, {"lambda_": 2}])
def test_a_discount_outside_the_unit_interval_is_refused_where_it_is_concrete(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"gae: {name} must be from 0 to 1"):
        gae(*rollouts(11), **bad)
    if name == "gamma":
        with pytest.raises(ValueError, match="discounted_returns: gamma"):
            discounted_returns(*(x for i, x in enumerate(rollouts(11)) if i != 1), **bad)
    traced = jax.jit(lambda x: gae(*rollouts(11), **{name: x})[0])(bad[name])
    assert traced.shape == (T, N)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e15, 1e20, 1e30])
def test_rewards_of_any_size_are_told_apart(scale):
    """Their squares are no number of float32: a penalty of -1e20 made every advantage of its group 0."""
    reward = scale * jnp.array([1.0, 0.0, -2.0])
    expected = np.array([4.0, 1.0, -5.0]) / 3
    np.testing.assert_allclose(po.group_relative(reward, eps=0.0), expected / expected.std(ddof=1), rtol=1e-5)
    everything = jnp.ones(3, bool)
    np.testing.assert_allclose(po.standardize(reward, everything, eps=0.0), expected / expected.std(), rtol=1e-5)
    eps = 3 * scale
    unit = expected * scale
    np.testing.assert_allclose(
        po.standardize(reward, everything, eps=eps), unit / (unit.std() + eps), rtol=1e-5, err_msg="eps is no share"
    )


@pytest.mark.parametrize("name", ["gamma", "lambda_"])
@pytest.mark.parametrize("estimator", ["gae", "lambda_returns", "v_trace"])
def test_a_discount_is_a_number_or_one_for_each_environment(estimator, name):
    """rlax's is one for each step, whose 0 ends an episode; here the flags do."""
    columns = dict(zip(FIELDS, map(jnp.asarray, rollouts(3)), strict=True))
    if estimator == "lambda_returns":
        del columns["value"]
    if estimator == "v_trace":
        columns |= {"log_prob": jnp.zeros((T, N)), "new_log_prob": jnp.zeros((T, N))}
    call = jax.jit(lambda columns, number: jax.tree.leaves(getattr(po, estimator)(**columns, **{name: number})))
    numbers = jnp.linspace(0.1, 1.0, N)
    found = call(columns, numbers)
    for column in (0, N - 1):
        alone = jax.tree.map(lambda x, column=column: x[:, column], columns)
        for mine, theirs in zip(found, call(alone, numbers[column]), strict=True):
            np.testing.assert_allclose(mine[:, column], theirs)
    with pytest.raises(
        ValueError, match=rf"{estimator}: {name} must be .* one for each environment, \(40,\); .* \(9,\)"
    ):
        call(columns, jnp.ones(T))
    with pytest.raises(ValueError, match=rf"{estimator}: {name} must be a number; it has shape \(9,\)"):
        call(jax.tree.map(lambda x: x[:, 0], columns), jnp.ones(T))


@pytest.mark.parametrize("estimator", [po.discounted_returns, po.n_step_returns])
def test_a_discount_of_another_shape_is_refused_by_every_return(estimator):
    reward, _, next_value, terminated, truncated = map(jnp.asarray, rollouts(3))
    columns = dict(reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    with pytest.raises(ValueError, match=rf"{estimator.__name__}: gamma must be a number or one for each environment"):
        estimator(**columns, gamma=jnp.ones(N + 1))


@pytest.mark.parametrize("name", ["rho_bar", "c_bar"])
def test_a_clip_of_v_trace_of_another_shape_is_refused(name):
    columns = dict(zip(FIELDS, map(jnp.asarray, rollouts(3)), strict=True))
    zeros = jnp.zeros((T, N))
    with pytest.raises(ValueError, match=rf"v_trace: {name} must be a number or one for each environment"):
        po.v_trace(**columns, log_prob=zeros, new_log_prob=zeros, **{name: jnp.ones(T)})
