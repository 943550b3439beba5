"""TRPO: exact KL, improvement, refusals that change no bit, the line search, the theory's bound; the norm clip."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact_mdp import MDP, discounted_world, log_softmax, random_mdps, ravel, relative_error
from policy_families import (
    LOG_2_PI,
    N,
    apply,
    batch_of,
    categorical,
    gaussian,
    problems,
)

import polopt_jax as po
from polopt_jax import outcomes, solvers


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
    "NaN divergence": {"constraints": [(lambda old, new, batch: jnp.nan, 1.0)]},
    "divergence out of bounds": {"constraints": [(lambda old, new, batch: jnp.float32(1.0), 0.5)]},
}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        *(
            pytest.param(name, jax.jit, id=f"jit-{name}", marks=pytest.mark.slow if number % 2 else ())
            for number, name in enumerate(REFUSALS)
        ),
        *(
            pytest.param(
                name, lambda f: f, id=f"eager-{name}", marks=() if name == "NaN in the gradient" else pytest.mark.slow
            )
            for name in REFUSALS
        ),
    ],
)
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


def test_a_traced_radius_of_nan_refuses_every_step():
    """Where it is concrete it raises; where it cannot be looked at, no candidate is within it."""
    params = jnp.array([0.0, -0.0, 1e-30])
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))  # noqa: E731
    batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    objective = lambda p, b: (p @ jnp.array([1.0, -1.0, 0.0]), {})  # noqa: E731

    @jax.jit
    def step(radius):
        updates, state = apply(po.trpo(model, radius=radius), objective, params, batch)
        return optax.apply_updates(params, updates), state[-1]

    new, state = step(jnp.nan)
    assert not bool(state.accepted)
    np.testing.assert_array_equal(bits(new), bits(params))
    assert bool(step(0.01)[1].accepted)
    with pytest.raises(ValueError, match="radius must be at least 0; it is nan"):
        po.trpo(model, radius=jnp.nan)


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


@pytest.mark.usefixtures("x64")
def test_the_share_of_a_step_in_float64_is_one():
    update, state = jax.jit(lambda: search(0.8, 0.3))()
    assert update.dtype == jnp.float64
    np.testing.assert_allclose(update[0], 0.8 ** (int(state.trials) - 1), rtol=1e-14)
    assert int(state.trials) > 1


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


def held_trpo(model):
    return solvers.constrained_trpo(model, costs=[(outcomes.outcome_mean(), 0.9)])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [po.trpo, pytest.param(held_trpo, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_state_keeps_its_types_from_the_first(dtype, make):
    """A scan goes on with it, whatever the width of the parameters and of everything else."""
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.stack([params] * 2)[:, None]))  # noqa: E731
    batch = po.Batch(
        obs=None, action=jnp.array([[0], [1]]), mask=jnp.ones((2, 1), bool), outcome=jnp.array([0, 1]),
        advantage=jnp.array([[1.0], [-1.0]], dtype), log_prob=jnp.log(jnp.full((2, 1), 0.5, dtype)),
    )  # fmt: skip
    objective, optimizer, params = po.objective(model, po.surrogate()), make(model), jnp.zeros(2, dtype)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda params: objective(params, batch)[0])(params)
        updates, state = optimizer.update(grads, state, params, batch=batch, objective=objective)
        return (optax.apply_updates(params, updates), state), None

    (moved, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2)
    assert moved[0] > moved[1]
