"""Sums of terms, gradients accumulated over shares of a batch, penalties, and what steps, epochs and the loop mean."""

import functools
from dataclasses import replace

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import CASES, TERMS, A, K, cast

import polopt_jax as po
from polopt_jax.reductions import count
from polopt_jax.rows import split_rows

CLOSE = dict(rtol=1e-5, atol=1e-6)
ROWS, STEPS = 6, 3
# On jax 0.10 jit(vmap(train)) hangs on a CPU under XLA's default scheduler.
VMAPPED = {"compiler_options": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}}
VMAPPED = VMAPPED if jax.__version_info__ < (0, 11) else {}


def assert_close(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, **(CLOSE | tolerance))


def assert_identical(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, e = jax.random.key_data(a), jax.random.key_data(e)
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


PARAMS = {
    "actor": jnp.asarray(np.random.default_rng(0).normal(size=(A, A)), jnp.float32),
    "critic": jnp.asarray(np.random.default_rng(1).normal(size=A), jnp.float32),
}


def model(params, obs):
    value = obs @ params["critic"]
    logits = value[..., None] * jnp.linspace(-1, 1, K)
    return po.Outputs(policy=po.Categorical(logits=obs @ params["actor"]), value=value, value_logits=logits)


def example(leading=(ROWS, STEPS), label="ppo", seed=0):
    """A batch whose first rows have few real decisions or none and whose last is full: no two shares weigh the same."""
    _, batch = cast(CASES[label].example(seed, leading), jnp.float32)
    mask = np.array(batch.mask)
    rows = mask if leading[0] == 2 else mask.reshape(1, -1, leading[-1])
    rows[:, 0], rows[:, 1], rows[:, -1] = [True, False, False], False, True
    return replace(batch, mask=jnp.asarray(mask))


def value_and_grad(objective, params, batch):
    return jax.jit(jax.value_and_grad(objective, has_aux=True))(params, batch)


# --- weighted_sum -------------------------------------------------------------------------------------------------


def test_weighted_sum_of_terms_by_hand():
    batch = example()
    parts = {"policy": po.ppo(), "value": po.value_loss(), "entropy": po.entropy_bonus()}
    weights = {"policy": 1.0, "value": 0.5, "entropy": -0.01}
    total = po.weighted_sum(**{name: (weights[name], part) for name, part in parts.items()})
    outputs = model(PARAMS, batch.obs)
    (loss, metrics), each = jax.jit(lambda *x: (total(*x), {name: part(*x) for name, part in parts.items()}))(
        outputs, batch
    )
    assert_close(loss, sum(weights[name] * each[name][0] for name in parts))
    expected = {f"{name}/loss": value for name, (value, _) in each.items()}
    for name, (_, its) in each.items():
        expected |= {f"{name}/{key}": value for key, value in its.items()}
    assert_close(metrics, expected)
    assert {"policy/clip_fraction", "value/value_mean", "entropy/loss"} <= set(metrics)


def test_weighted_sum_of_objectives_equals_that_of_terms():
    batch = example()
    terms = po.objective(model, po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss())))
    objectives = po.weighted_sum(
        policy=(1.0, po.objective(model, po.ppo())), value=(0.5, po.objective(model, po.value_loss()))
    )
    assert_close(value_and_grad(objectives, PARAMS, batch), value_and_grad(terms, PARAMS, batch))


def test_weighted_sums_nest_and_weights_are_traced():
    batch, outputs = example(), model(PARAMS, example().obs)

    def loss(weight):
        inner = po.weighted_sum(policy=(1.0, po.ppo()), entropy=(weight, po.entropy_bonus()))
        return po.weighted_sum(all=(2.0, inner))(outputs, batch)

    weights, one = np.array([-0.5, 0.0, 0.3], np.float32), jax.jit(loss)
    values, metrics = jax.jit(jax.vmap(loss))(weights)
    assert_close(values, np.stack([one(w)[0] for w in weights]))
    assert {"all/loss", "all/policy/loss", "all/entropy/loss"} <= set(metrics)
    # d total / d weight is the entropy, doubled
    entropy = jax.jit(po.entropy_bonus())(outputs, batch)[0]
    assert_close(jax.jit(jax.grad(lambda w: loss(w)[0]))(0.3), 2 * entropy)
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    assert_close(jax.jit(lambda count: loss(schedule(count))[0])(5), loss(0.5)[0])


def test_nothing_to_sum_is_an_error():
    for f in (po.weighted_sum, po.weighted_divergence, po.sequential):
        with pytest.raises(ValueError, match="at least one"):
            f()


def test_model_is_evaluated_once():
    calls = []

    def counting(params, obs):
        calls.append(None)
        return model(params, obs)

    batch = example()
    po.objective(counting, po.actor_critic())(PARAMS, batch)
    assert len(calls) == 1


# --- divergences as penalties -------------------------------------------------------------------------------------


def kl(p, q):
    return jnp.sum(jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q)), axis=-1)


@pytest.mark.parametrize("direction", ["to the reference", "from the reference"])
def test_kl_to_reference_value_and_gradient(direction):
    """KL(π ‖ ref) by default, KL(ref ‖ π) with action_kl; the mean over real decisions; the reference is frozen."""
    batch, rng = example(), np.random.default_rng(4)
    ref_params = jax.tree.map(lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), PARAMS)
    if direction == "to the reference":
        make, swap = (lambda ref_params: po.kl_to_reference(model, ref_params)), False
    else:
        make, swap = (lambda ref_params: po.kl_to_reference(model, ref_params, divergence=po.action_kl)), True

    def by_hand(params):
        p, q = batch.obs @ params["actor"], jax.lax.stop_gradient(batch.obs @ ref_params["actor"])
        return jnp.where(batch.mask, kl(q, p) if swap else kl(p, q), 0).sum() / batch.mask.sum()

    (value, metrics), gradient = value_and_grad(po.objective(model, make(ref_params)), PARAMS, batch)
    assert metrics == {}
    expected = jax.jit(jax.value_and_grad(by_hand))
    assert_close((value, gradient), expected(PARAMS))
    assert np.abs(gradient["actor"]).max() > 1e-3
    # Descending it brings the policy closer: the sign is that of a penalty.
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, PARAMS, gradient)
    assert expected(moved)[0] < expected(PARAMS)[0]

    frozen = jax.jit(jax.grad(lambda r: po.objective(model, make(r))(PARAMS, batch)[0]))(ref_params)
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(frozen))
    assert float(po.objective(model, make(PARAMS))(PARAMS, batch)[0]) == 0


def test_reverse_and_weighted_divergence():
    batch, rng = example(), np.random.default_rng(4)
    old, new = (po.Outputs(policy=po.Categorical(logits=jnp.asarray(rng.normal(size=(ROWS, STEPS, A))))) for _ in "ab")
    forward, backward = po.action_kl(old, new, batch), po.action_kl(new, old, batch)
    assert abs(forward - backward) > 1e-3
    assert po.reverse(po.action_kl)(old, new, batch) == backward
    assert po.reverse(po.reverse(po.action_kl))(old, new, batch) == forward
    assert_close(forward, jnp.where(batch.mask, kl(old.policy.logits, new.policy.logits), 0).sum() / batch.mask.sum())
    per_row = float(batch.mask.sum() / batch.mask.any(-1).sum())
    assert_close(po.trajectory_kl(old, new, batch), forward * per_row)
    both = lambda w: po.weighted_divergence(a=(w, po.action_kl), b=(2.0, po.reverse(po.action_kl)))(old, new, batch)  # noqa: E731
    assert_close(both(0.5), 0.5 * forward + 2 * backward)
    assert_close(jax.grad(both)(0.5), forward)


# --- accumulate_gradients -----------------------------------------------------------------------------------------

REDUCTIONS = {
    "token_mean": po.token_mean,
    "sequence_mean": po.sequence_mean,
    "sequence_sum": po.sequence_sum,
    "constant_length": po.constant_length(5.0),
}


def term_for(label, hyper=None):
    case = CASES[label]
    return lambda outputs, batch: case.call(hyper or case.defaults(), (outputs,), batch)


def batch_for(label):
    pairs = CASES[label].rows == 1
    return (example((2, ROWS, STEPS), label), 1) if pairs else (example((ROWS, STEPS), label), 0)


ONE_OF_A_KIND = (
    "ppo",
    "actor_critic",
    "categorical_value_loss",
    "on_chosen",
    "dpo",
    "orpo",
    "kto",
    "grpo",
    "gspo",
    "mpo",
)
"""Of these shares are added up in every run; of the other terms, made of the same parts, in the slow set."""


@pytest.mark.parametrize(
    "label",
    [
        label if label in ONE_OF_A_KIND else pytest.param(label, marks=pytest.mark.slow)
        for label in TERMS
        if "-" not in label and not CASES[label].couples
    ],
)
def test_accumulated_equals_whole(label):
    """Value, metrics and gradient, with ragged masks; and the mean of means would differ."""
    batch, axis = batch_for(label)
    whole = po.objective(model, term_for(label))
    expected = value_and_grad(whole, PARAMS, batch)
    assert_close(value_and_grad(po.accumulate_gradients(whole, 3, axis=axis), PARAMS, batch), expected)
    if CASES[label].held:  # the value of a Lagrangian is that of its bound, whatever the share
        return
    own = jax.jit(jax.vmap(lambda share: whole(PARAMS, share)[0]))(split_rows(batch, 3, axis=axis))
    assert abs(own.mean() - expected[0][0]) > 1e-3 * abs(expected[0][0])


def test_accumulated_eagerly_and_in_any_number_of_shares():
    batch = example()
    whole = po.objective(model, po.ppo())
    expected = value_and_grad(whole, PARAMS, batch)
    for parts in (1, 2, 6):
        assert_close(value_and_grad(po.accumulate_gradients(whole, parts), PARAMS, batch), expected)
    accumulated = po.accumulate_gradients(whole, 2)
    assert_close(accumulated(PARAMS, batch), expected[0])
    assert_close(jax.value_and_grad(accumulated, has_aux=True)(PARAMS, batch), expected)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow if x in ("sequence_sum", "constant_length") else ()) for x in REDUCTIONS],
)
def test_accumulated_equals_whole_for_every_reduction(name):
    batch = example((3, 2, STEPS))
    whole = po.objective(model, po.ppo(reduce=REDUCTIONS[name]))
    expected = value_and_grad(whole, PARAMS, batch)
    for parts, axis in ((3, 0), (2, 1)):
        assert_close(value_and_grad(po.accumulate_gradients(whole, parts, axis=axis), PARAMS, batch), expected)
    own = jax.jit(jax.vmap(lambda share: whole(PARAMS, share)[0]))(split_rows(batch, 3))
    assert abs(own.mean() - expected[0][0]) > 1e-3 * abs(expected[0][0])


@po.couples_rows
def batch_wide_baseline(outputs, batch):
    """A user's own coupled term: log π (A - mean of A over the *batch*), as a plain jnp.mean has it."""
    policy = outputs.policy.where(batch.mask)
    log_prob = policy.log_prob(jnp.where(batch.mask, batch.action, 0))
    centred = batch.advantage - po.token_mean(batch.advantage, batch)
    return -po.token_mean(log_prob * centred, batch), {}


def test_a_coupled_term_is_right_on_a_batch_and_raises_by_name_on_shares_of_one():
    batch = replace(example(), mask=jnp.ones((ROWS, STEPS), bool))
    for objective in (
        po.objective(model, batch_wide_baseline),
        po.objective(model, po.weighted_sum(policy=(1.0, po.ppo()), mine=(0.5, batch_wide_baseline))),
    ):
        value, gradient = value_and_grad(objective, PARAMS, batch)
        assert np.isfinite(value[0])
        with pytest.raises(ValueError, match="batch_wide_baseline couples rows"):
            po.accumulate_gradients(objective, 2)(PARAMS, batch)
    # What the marker prevents: on shares, with the counts of the whole, the baseline is another one.
    unmarked = po.objective(model, batch_wide_baseline.__wrapped__)
    whole = value_and_grad(unmarked, PARAMS, batch)[1]
    wrong = value_and_grad(po.accumulate_gradients(unmarked, 2), PARAMS, batch)[1]
    difference = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (whole, wrong)), strict=True))
    assert difference > 1e-3


def test_a_coupled_divergence_raises_too():
    pooled = po.couples_rows(lambda old, new, batch: jnp.max(old.policy.kl_divergence(new.policy)))
    batch = example()
    old = model(PARAMS, batch.obs)
    assert pooled(old, old, batch) == 0
    with pytest.raises(ValueError, match="couples rows"):
        pooled(old, old, replace(batch, counts=count(batch.mask)))


@pytest.mark.parametrize(("label", "name"), [("ppo", "clip_eps"), ("grpo", "beta"), ("dpo", "beta")])
def test_accumulated_under_vmap_over_a_traced_hyperparameter(label, name):
    batch, axis = batch_for(label)

    def gradient(value, wrap):
        whole = po.objective(model, term_for(label, CASES[label].defaults() | {name: value}))
        return value_and_grad(wrap(whole), PARAMS, batch)

    values = jnp.array(CASES[label].hyper[name])
    accumulated = jax.jit(jax.vmap(lambda v: gradient(v, lambda f: po.accumulate_gradients(f, 2, axis=axis))))(values)
    expected = jax.jit(jax.vmap(lambda v: gradient(v, lambda f: f)))(values)
    assert_close(accumulated, expected)
    assert abs(np.subtract(*expected[0][0])) > 1e-6


def test_accumulated_is_scaled_by_its_cotangent_and_nests():
    batch = example((3, 2, STEPS))
    whole = po.objective(model, po.ppo())
    nested = po.accumulate_gradients(po.accumulate_gradients(whole, 2, axis=1), 3, axis=0)
    assert_close(value_and_grad(nested, PARAMS, batch), value_and_grad(whole, PARAMS, batch))
    total = po.weighted_sum(
        policy=(3.0, po.accumulate_gradients(whole, 3)), value=(0.5, po.objective(model, po.value_loss()))
    )
    expected = po.weighted_sum(policy=(3.0, whole), value=(0.5, po.objective(model, po.value_loss())))
    assert_close(value_and_grad(total, PARAMS, batch), value_and_grad(expected, PARAMS, batch))
    of_advantage = jax.grad(lambda advantage: total(PARAMS, replace(batch, advantage=advantage))[0])
    constant = jax.jit(of_advantage)(batch.advantage)
    assert (np.asarray(constant) == 0).all()


def test_accumulated_in_a_step_and_with_garbage_under_the_mask():
    batch = example()
    dirty = replace(batch, advantage=jnp.where(batch.mask, batch.advantage, jnp.nan))
    whole = po.objective(model, po.ppo())
    for objective, data in ((whole, batch), (po.accumulate_gradients(whole, 3), dirty)):
        step = po.make_step((objective, optax.adam(0.1)))
        params, _, metrics = jax.jit(step.update)(PARAMS, step.init(PARAMS), data, None)
        if objective is whole:
            expected = params, metrics
    assert_close((params, metrics), expected)


def test_gradients_are_added_up_in_float32():
    """1024 equal shares of -1/1024: a sum in bfloat16 stops at -0.25."""
    batch = po.Batch(obs=None, action=None, mask=jnp.ones((1024, 1), bool))

    def slope(w, batch):
        return -po.token_mean(jnp.broadcast_to(w, batch.mask.shape), batch).astype(w.dtype), {"rows": batch.mask.sum()}

    found = jax.jit(jax.value_and_grad(po.accumulate_gradients(slope, 1024), has_aux=True))(jnp.bfloat16(1.0), batch)
    assert (float(found[0][0]), int(found[0][1]["rows"]), float(found[1])) == (-1.0, 1024, -1.0)
    assert found[0][0].dtype == found[1].dtype == jnp.bfloat16


def of_all_parameters(params, batch, wrap):
    """A Lagrangian whose multiplier, and a bound that the batch has nothing to do with, are parameters."""
    held = po.lagrangian(po.ppo(), multiplier=jnp.exp(params["log_alpha"]), bound=params["bound"])
    return wrap(po.objective(model, held))(params["model"], batch)


@pytest.mark.parametrize("jitted", [False, True])
def test_what_an_objective_closes_over_has_its_gradient(jitted):
    params = {"model": PARAMS, "log_alpha": jnp.asarray(0.3), "bound": jnp.asarray(0.1)}
    plain, found = (
        (jax.jit if jitted else lambda f: f)(
            jax.value_and_grad(functools.partial(of_all_parameters, wrap=wrap), has_aux=True)
        )(params, example())
        for wrap in (lambda f: f, lambda f: po.accumulate_gradients(f, 2))
    )
    assert_close(found, plain)
    assert abs(plain[1]["log_alpha"]) > 1e-3
    assert abs(plain[1]["bound"]) > 1e-3


def test_a_part_that_couples_rows_takes_its_batch_by_name():
    batch = example()
    outputs = model(PARAMS, batch.obs)
    named = po.couples_rows(lambda outputs, batch: (po.token_mean(outputs.value, batch), {}))
    assert named(outputs=outputs, batch=batch)[0] == named(outputs, batch)[0]
    with pytest.raises(ValueError, match="couples rows"):
        named(outputs=outputs, batch=replace(batch, counts=count(batch.mask)))


def test_there_is_at_least_one_share():
    with pytest.raises(ValueError, match="accumulate_gradients: num_microbatches must be at least 1; it is 0"):
        po.accumulate_gradients(po.objective(model, po.ppo()), 0)


def test_shares_must_divide_an_axis_before_time():
    objective = po.objective(model, po.ppo())
    with pytest.raises(ValueError, match="4 parts do not divide axis 0"):
        po.accumulate_gradients(objective, 4)(PARAMS, example())
    for axis in (1, -1, 2):
        with pytest.raises(ValueError, match="axis"):
            po.accumulate_gradients(objective, 3, axis=axis)(PARAMS, example())


# --- steps --------------------------------------------------------------------------------------------------------


def scale_objective(weight):
    """An objective whose gradient is `weight` everywhere."""
    return lambda params, batch: (weight * jnp.sum(params), {"weight": jnp.asarray(weight)})


def test_phases_see_what_the_phase_before_left():
    """θ - 1, then the gradient of ½θ² at the new θ; each optimizer keeps a state of its own, and gets its extras."""
    seen = []

    def update(grads, state, params=None, *, batch, objective, **extra):
        seen.append(objective(params, batch)[0])
        return jax.tree.map(lambda g: -g, grads), state + 1

    spy = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)
    square = lambda params, batch: (0.5 * jnp.sum(params**2), {})  # noqa: E731
    step = po.make_step(scale=(scale_objective(1.0), spy), square=(square, spy))
    params, state, metrics = step.update(jnp.array([3.0]), step.init(jnp.array([3.0])), example(), jax.random.key(0))
    assert float(params[0]) == 0.0  # 3 - 1 = 2, and 2 - 2 = 0
    assert [float(x) for x in seen] == [3.0, 2.0]
    assert [int(x) for x in jax.tree.leaves(state)] == [1, 1]
    assert {k: float(v) for k, v in metrics.items()} == {
        "scale/loss": 3.0, "scale/weight": 1.0, "scale/grad_norm": 1.0, "scale/skipped": 0.0,
        "square/loss": 2.0, "square/grad_norm": 2.0, "square/skipped": 0.0,
    }  # fmt: skip


def test_one_phase_is_one_step_of_the_optimizer():
    batch, optimizer = example(), optax.adam(0.1)
    loss = po.objective(model, po.actor_critic())
    step = po.make_step((loss, optimizer))
    params, state, metrics = jax.jit(step.update)(PARAMS, step.init(PARAMS), batch, None)
    (value, its), grads = value_and_grad(loss, PARAMS, batch)
    updates, expected_state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    assert_close((params, state), (optax.apply_updates(PARAMS, updates), expected_state))
    assert_close(metrics["loss"], value)
    assert_close({k: v for k, v in metrics.items() if k in its}, its)
    assert_close(metrics["grad_norm"], np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads))))


def test_sequential_is_one_after_the_other():
    batch, key = example(), jax.random.key(0)
    first = po.make_step((po.objective(model, po.ppo()), optax.sgd(0.5)))
    second = po.epochs(po.make_step((po.objective(model, po.value_loss()), optax.adam(0.1))), 3, 1)
    both = po.sequential(a=first, b=second)
    params, states, metrics = jax.jit(both.update)(PARAMS, both.init(PARAMS), batch, key)
    between, first_state, first_metrics = jax.jit(first.update)(PARAMS, first.init(PARAMS), batch, key)
    after, second_state, second_metrics = jax.jit(second.update)(between, second.init(between), batch, key)
    assert_close((params, states), (after, {"a": first_state, "b": second_state}))
    expected = {f"a/{k}": v for k, v in first_metrics.items()} | {f"b/{k}": v for k, v in second_metrics.items()}
    assert_close(metrics, expected)


def test_epochs_of_one_minibatch_are_repeated_steps():
    batch, key = example(), jax.random.key(0)
    step = po.make_step((po.objective(model, po.actor_critic()), optax.adam(0.05)))
    repeated = po.epochs(step, 4, 1)
    update = jax.jit(step.update)
    params, state, losses = PARAMS, step.init(PARAMS), []
    for _ in range(4):
        params, state, metrics = update(params, state, batch, key)
        losses.append(metrics["loss"])
    actual = jax.jit(repeated.update)(PARAMS, repeated.init(PARAMS), batch, key)
    assert_close(actual[:2], (params, state))
    assert_close(actual[2]["loss"], np.mean(losses))


def recording_step(rows):
    """A step that changes no parameters but writes down which rows, and which whole rows, it was shown."""

    def update(seen, order, batch, key):
        ids = batch.obs["row"].reshape(-1).astype(jnp.int32)
        own = (batch.obs["row"] == batch.advantage).all() & (batch.obs["row"] == batch.obs["copy"]).all()
        return seen.at[ids].add(1), jnp.concatenate([order[len(ids) :], ids]), {"own": own.astype(jnp.float32)}

    return po.Step(lambda params: jnp.full(rows * STEPS, -1), update)


@pytest.mark.parametrize("axis", [0, 1])
def test_every_row_is_seen_once_per_epoch(axis):
    leading = (8, STEPS) if axis == 0 else (2, 8, STEPS)
    ids = jnp.broadcast_to(jnp.arange(8.0)[:, None], leading)
    batch = po.Batch(
        obs={"row": ids, "copy": ids}, action=jnp.zeros(leading, int), mask=jnp.ones(leading, bool), advantage=ids
    )
    decisions = ids.size // 8
    for minibatches in (1, 2, 4, 8):
        step = po.epochs(recording_step(decisions * 8 // STEPS), 3, minibatches, axis=axis)
        update = jax.jit(step.update)
        seen, order, metrics = update(jnp.zeros(8), step.init(None), batch, jax.random.key(10 + minibatches))
        np.testing.assert_array_equal(seen, 3 * decisions)
        assert float(metrics["own"]) == 1  # the fields of a row stay together
        if minibatches == 4:  # and the last epoch is a permutation, in shares of two whole rows
            shares = np.asarray(order).reshape(4, -1)
            assert all(len(set(share)) == 2 for share in shares)
            assert sorted(set(shares[0]) | set(shares[1]) | set(shares[2]) | set(shares[3])) == list(range(8))
            assert shares.tolist() != sorted(shares.tolist())
            other = update(jnp.zeros(8), step.init(None), batch, jax.random.key(99))[1]
            assert (np.asarray(other) != np.asarray(order)).any()


def test_epochs_checks_its_numbers():
    step = po.make_step((scale_objective(1.0), optax.sgd(0.1)))
    for bad in ((0, 1), (1, 0), (-1, 2)):
        with pytest.raises(ValueError, match="must be at least 1; it is"):
            po.epochs(step, *bad)
    with pytest.raises(ValueError, match="do not divide"):
        po.epochs(step, 1, 4).update(jnp.ones(1), step.init(jnp.ones(1)), example(), jax.random.key(0))


def test_skipped_minibatch_is_counted_and_the_others_count():
    """One row's advantage is NaN and *not* masked: its minibatch is skipped, the other two are taken."""
    batch = example()
    broken = replace(batch, advantage=batch.advantage.at[-1, 0].set(jnp.nan))
    step = po.make_step((po.objective(model, po.ppo()), optax.adam(0.1)))
    several = po.epochs(step, 1, 3)
    params, state, metrics = jax.jit(several.update)(PARAMS, several.init(PARAMS), broken, jax.random.key(0))
    np.testing.assert_allclose(metrics["skipped"], 1 / 3, rtol=1e-6)
    assert int(state[0].count) == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))
    kept = jax.jit(step.update)(PARAMS, step.init(PARAMS), broken, None)
    assert_identical(kept[:2], (PARAMS, step.init(PARAMS)))


# --- the loop -----------------------------------------------------------------------------------------------------

PAYOFF = jnp.array([0.1, 0.5, 0.9, 0.3])


def bandit_model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape[:2], A))))


def collect(params, count, key):
    """A bandit of four arms: sixteen rows of one decision, and a counter as the state."""
    act_key, noise_key = jax.random.split(key)
    outputs = bandit_model(params, jnp.zeros((16, 1, 1)))
    action = outputs.policy.sample(seed=act_key)
    reward = PAYOFF[action] + 0.1 * jax.random.normal(noise_key, action.shape)
    mask = jnp.ones((16, 1), bool)
    batch = po.Batch(
        obs=jnp.zeros((16, 1, 1)), action=action, mask=mask,
        log_prob=outputs.policy.log_prob(action), advantage=po.standardize(reward, mask),
    )  # fmt: skip
    return count + 1, batch, {"reward": reward.mean()}


def bandit_step(clip_eps=0.2, learning_rate=0.05):
    loss = po.objective(bandit_model, po.ppo(clip_eps=clip_eps))
    return po.epochs(po.make_step((loss, optax.adam(learning_rate))), 2, 4)


def bandit_state(step, seed=0):
    params = jnp.zeros(A)
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    return po.TrainState(
        params=params, opt_state=step.init(params), collect_state=jnp.zeros((), jnp.int32), key=key,
        update=jnp.zeros((), jnp.int32),
    )  # fmt: skip


def test_train_learns_counts_and_continues():
    step = bandit_step()
    state = bandit_state(step)
    run = jax.jit(lambda state: po.train(collect, step, state, updates=20))
    middle, first = run(state)
    end, second = run(middle)
    assert (int(end.update), int(end.collect_state)) == (40, 40)
    assert first["reward"].shape == first["clip_fraction"].shape == (20,)
    assert float(second["reward"][-5:].mean()) > float(first["reward"][:5].mean()) + 0.1
    assert int(jnp.argmax(end.params)) == 2
    # Two halves are the whole, bit for bit, and the same seed is the same run.
    whole, metrics = jax.jit(lambda state: po.train(collect, step, state, updates=40))(state)
    assert_identical((whole.params, whole.opt_state, whole.key), (end.params, end.opt_state, end.key))
    assert_identical(metrics["reward"], jnp.concatenate([first["reward"], second["reward"]]))
    assert_identical(run(state), (middle, first))
    assert (run(bandit_state(step, 1))[1]["reward"] != first["reward"]).any()
    with pytest.raises(ValueError, match="updates"):
        po.train(collect, step, state, updates=0)


def test_train_under_jit_equals_eager():
    step = bandit_step()
    jitted = jax.jit(lambda state: po.train(collect, step, state, updates=3))(bandit_state(step))
    eager = po.train(collect, step, bandit_state(step), updates=3)
    assert_close((jitted[0].params, jitted[1]), (eager[0].params, eager[1]), rtol=1e-5, atol=1e-5)


def test_train_by_hand():
    """What the loop is: collect on the old parameters, one step, with keys that never repeat."""
    step = bandit_step()
    state, metrics = jax.jit(lambda state: po.train(collect, step, state, updates=2))(bandit_state(step))
    params, opt_state, count, key = jnp.zeros(A), step.init(jnp.zeros(A)), jnp.zeros((), jnp.int32), jax.random.key(0)
    rewards = []
    update, gather = jax.jit(step.update), jax.jit(collect)
    for _ in range(2):
        key, collect_key, step_key = jax.random.split(key, 3)
        count, batch, collected = gather(params, count, collect_key)
        params, opt_state, _ = update(params, opt_state, batch, step_key)
        rewards.append(collected["reward"])
    assert_close((state.params, metrics["reward"]), (params, jnp.stack(rewards)))
    assert_identical(state.key, key)


def test_train_vmapped_over_seeds_and_hyperparameters_equals_a_loop():
    def run(key, clip_eps, learning_rate):
        step = bandit_step(clip_eps, learning_rate)
        state, metrics = po.train(collect, step, bandit_state(step, key), updates=5)
        return state.params, metrics

    keys = jax.random.split(jax.random.key(0), 3)
    clip_eps, learning_rate = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.02, 0.05, 0.1])
    one = jax.jit(run)
    loop = [one(*x) for x in zip(keys, clip_eps, learning_rate, strict=True)]
    together = jax.jit(jax.vmap(run), **VMAPPED)(keys, clip_eps, learning_rate)
    assert_close(together, jax.tree.map(lambda *x: jnp.stack(x), *loop), rtol=1e-4, atol=1e-5)


def test_train_reuses_no_key():
    step = bandit_step()
    with jax.debug_key_reuse(True):
        state, _ = jax.jit(lambda state: po.train(collect, step, state, updates=2))(bandit_state(step))
    assert int(state.update) == 2


def test_nothing_compiles_after_the_first_call():
    """P36: new seeds, new hyperparameter values, more updates - one program."""
    compiled = []
    listener = lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731

    @jax.jit
    def chunk(state, clip_eps, learning_rate):
        return po.train(collect, bandit_step(clip_eps, learning_rate), state, updates=5)

    states = [bandit_state(bandit_step(), seed) for seed in range(2)]
    values = [(jnp.float32(e), jnp.float32(r)) for e, r in ((0.1, 0.01), (0.2, 0.02), (0.3, 0.05))]
    state = states[0]
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        state, _ = chunk(state, *values[0])
        assert compiled, "the first call must be seen to compile, or this test sees nothing"
        jax.block_until_ready(state)
        compiled.clear()
        for value in values * 2:
            state, _ = chunk(state, *value)
        chunk(states[1], *values[0])
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert compiled == []
    assert int(state.update) == 35


def test_an_objective_among_terms_is_told():
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params), value=obs.sum(-1))  # noqa: E731
    batch = po.Batch(obs=jnp.ones((3, 2)), action=jnp.zeros(3, int), mask=jnp.ones(3, bool), advantage=jnp.ones(3))
    inner = po.objective(model, po.reinforce())
    for term in (inner, po.weighted_sum(a=(1.0, po.reinforce()), b=(0.5, inner))):
        with pytest.raises(TypeError, match="an objective was given the outputs of a model, .* among the terms"):
            po.objective(model, term)(jnp.zeros((2, 4)), batch)
