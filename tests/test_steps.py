"""One update: which optimizers it drives, what it refuses to take, what its phases and its optimizers report."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import surrogates
from polopt_jax.algorithms._algorithm import with_terms
from polopt_jax.guards import all_finite
from polopt_jax.steps import reported

BATCH = po.Batch(
    obs=jnp.ones((4, 2, 3)),
    action=jnp.asarray(np.arange(8).reshape(4, 2) % 3),
    mask=jnp.ones((4, 2), bool),
    log_prob=jnp.full((4, 2), np.log(1 / 3)),
    advantage=jnp.linspace(-1.0, 1.0, 8).reshape(4, 2),
    ref_log_prob=jnp.full((4, 2), np.log(1 / 3)),
)
PARAMS = {"policy": jnp.zeros((3, 3)), "critic": jnp.full(3, 0.1)}


def model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=obs @ params["policy"]), value=obs @ params["critic"])


def quadratic(params, batch):
    """½ Σ c (x - 1)², badly scaled."""
    return 0.5 * jnp.sum(jnp.array([1.0, 100.0]) * (params - 1) ** 2), {}


def same(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# --- what an optimizer is passed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "updates"),
    [(optax.lbfgs(), 10), (optax.polyak_sgd(max_learning_rate=1.0), 400), (optax.sgd(0.005), 1500)],
    ids=["lbfgs", "polyak", "sgd"],
)
def test_optimizers_that_ask_for_value_gradient_or_function_reach_the_minimum(optimizer, updates):
    """optax's L-BFGS starts with infinities in its state, which is no reason to refuse its steps."""
    step = po.make_step((quadratic, optimizer))

    def one(carry, _):
        params, state, metrics = step.update(*carry, BATCH, None)
        return (params, state), metrics["skipped"]

    params = jnp.zeros(2)
    (params, _), skipped = jax.jit(lambda c: jax.lax.scan(one, c, None, length=updates))((params, step.init(params)))
    assert skipped.sum() == 0
    np.testing.assert_allclose(params, [1, 1], atol=1e-3)


def test_the_start_of_lbfgs_is_not_finite():
    """Otherwise the test above would not test the guard."""
    assert not all_finite(optax.lbfgs().init(jnp.zeros(2)))


# --- what is refused -------------------------------------------------------------------------------------------------


def illegal(params, obs):
    """No action is legal anywhere."""
    return po.Outputs(policy=model(params, obs).policy.only(jnp.zeros((4, 2, 3), bool)), value=model(params, obs).value)


REFUSED = {
    "a NaN clip range": lambda eps: po.objective(model, po.grpo(clip_eps=eps)),
    "a loss of NaN and a finite gradient": lambda eps: (
        lambda params, batch: (
            quadratic(params["critic"][:2], batch)[0] + jax.lax.stop_gradient(eps),
            {},
        )
    ),
    "an infinite loss and a finite gradient": lambda eps: (
        lambda params, batch: (
            quadratic(params["critic"][:2], batch)[0] + jnp.inf,
            {},
        )
    ),
    "no legal action, reinforce": lambda eps: po.objective(illegal, po.reinforce()),
    "no legal action, actor_critic": lambda eps: po.objective(
        illegal, po.weighted_sum(policy=(1.0, po.reinforce()), entropy=(0.1, po.entropy_bonus()))
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_step_whose_loss_is_not_finite_is_not_taken(name):
    def update(eps, params, state):
        return po.make_step((REFUSED[name](eps), optax.adam(0.1))).update(params, state, BATCH, None)

    state = optax.adam(0.1).init(PARAMS)
    params, new_state, metrics = jax.jit(update)(jnp.nan, PARAMS, state)
    assert metrics["skipped"] == 1
    assert same((params, new_state), (PARAMS, state))


def test_no_legal_action_in_a_preference_is_refused():
    batch = po.Batch(
        obs=jnp.ones((2, 4, 2, 3)),
        action=jnp.zeros((2, 4, 2), int),
        mask=jnp.ones((2, 4, 2), bool),
        ref_log_prob=jnp.zeros((2, 4, 2)),
    )
    impossible = lambda params, obs: po.Outputs(  # noqa: E731
        policy=model(params, obs).policy.only(jnp.zeros((2, 4, 2, 3), bool))
    )
    step = po.make_step((po.objective(impossible, po.dpo()), optax.adam(0.1)))
    params, _, metrics = jax.jit(step.update)(PARAMS, step.init(PARAMS), batch, None)
    assert metrics["skipped"] == 1
    assert same(params, PARAMS)


def test_an_infinity_that_stays_in_an_optimizers_state_is_no_reason_to_refuse():
    endless = optax.GradientTransformation(lambda p: jnp.full((), jnp.inf), lambda g, s, p=None: (g, s + 1))
    step = po.make_step((quadratic, optax.chain(endless, optax.sgd(0.01))))
    params, _, metrics = jax.jit(step.update)(jnp.zeros(2), step.init(jnp.zeros(2)), BATCH, None)
    assert metrics["skipped"] == 0
    assert not same(params, jnp.zeros(2))


def test_a_nan_in_an_optimizers_state_is_refused():
    poison = optax.GradientTransformation(lambda p: jnp.zeros(()), lambda g, s, p=None: (g, s + jnp.nan))
    step = po.make_step((quadratic, optax.chain(poison, optax.sgd(0.01))))
    params, state, metrics = step.update(jnp.zeros(2), step.init(jnp.zeros(2)), BATCH, None)
    assert metrics["skipped"] == 1
    assert same((params, state[0]), (jnp.zeros(2), jnp.zeros(())))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: po.ppo(clip_eps=-0.2), "ppo: clip_eps must be at least 0; it is -0.2"),
        (lambda: po.ppo(clip_eps=-np.inf), "ppo: clip_eps"),
        (lambda: po.ppo(clip_eps=(0.2, np.nan)), "ppo: clip_eps must be at least 0; it is nan"),
        (lambda: po.ppo(clip_eps=jnp.array([0.2, -0.1])), "ppo: clip_eps"),
        (lambda: po.grpo(clip_eps=np.nan), "grpo: clip_eps"),
        (lambda: po.grpo(beta=-1.0), "grpo: beta"),
        (lambda: po.dpo(beta=-0.1), "dpo: beta"),
        (lambda: po.clipped_value_loss(clip_eps=-1.0), "clipped_value_loss: clip_eps"),
        (lambda: po.natural_gradient(model, damping=-1e-3), "natural_gradient: damping"),
        (lambda: po.npg(model, damping=-1e-3), "natural_gradient: damping"),
        (lambda: po.trpo(model, radius=-0.01), "scale_to_radius: radius"),
        (lambda: po.backtrack(model, [(po.action_kl, np.nan)]), "backtrack: radius"),
        (lambda: po.trpo(model, shrink=1.5), "backtrack: shrink must be above 0 and below 1"),
        (lambda: po.clip_by_global_norm(-1.0), "clip_by_global_norm: max_norm"),
    ],
)
def test_numbers_out_of_range_are_refused_where_they_are_concrete(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_the_ends_of_the_ranges_are_inside():
    po.ppo(clip_eps=0.0)
    po.ppo(clip_eps=(0.0, np.inf))
    po.grpo(beta=0)
    po.trpo(model, radius=0.0, damping=0.0)
    jax.eval_shape(lambda eps: po.objective(model, po.ppo(clip_eps=eps))(PARAMS, BATCH)[0], jnp.float32(-1.0))


# --- phases and reports ----------------------------------------------------------------------------------------------


def trpo_step():
    surrogate, value = po.objective(model, po.surrogate()), po.objective(model, po.value_loss())
    return po.make_step(policy=(surrogate, po.trpo(model)), critic=(value, optax.adam(1e-3)))


def test_phases_and_their_metrics_have_names_and_need_no_key():
    batch = replace(BATCH, target=BATCH.advantage)
    step = trpo_step()
    params, state, metrics = jax.jit(lambda p: step.update(p, step.init(p), batch, None))(PARAMS)
    assert set(state) == {"policy", "critic"}
    assert {name.split("/")[0] for name in metrics} == {"policy", "critic"}
    assert metrics["policy/line_search_accepted"] == 1
    assert metrics["critic/loss"] > 0
    assert metrics["critic/skipped"] == metrics["policy/skipped"] == 0
    assert not np.array_equal(params["critic"], PARAMS["critic"])


def test_the_reports_of_the_solvers_are_those_of_their_states():
    objective = po.objective(model, po.surrogate())
    optimizer = po.trpo(model)

    @jax.jit
    def apart(params):
        grads = jax.grad(lambda p: objective(p, BATCH)[0])(params)
        return optimizer.update(grads, optimizer.init(params), params, batch=BATCH, objective=objective)[1]

    states = apart(PARAMS)
    solve, scale, search = states[0].solve, states[1], states[3]
    step = po.make_step((objective, optimizer))
    metrics = jax.jit(lambda p: step.update(p, step.init(p), BATCH, None)[2])(PARAMS)
    expected = {
        "cg_iterations": solve.iterations,
        "cg_residual": solve.residual,
        "cg_failed": 0,
        "natural_step_factor": scale.factor,
        "step_size": search.step_size,
        "line_search_trials": search.trials,
        "line_search_accepted": 1,
        "surrogate_improvement": search.improvement,
    }
    for name, value in expected.items():
        assert metrics[name].dtype == jnp.float32
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    assert 1 <= int(solve.iterations) <= 10


def test_a_field_called_metrics_is_no_report():
    class Held(NamedTuple):
        metrics: dict

    assert reported((Held({"x": jnp.ones(())}), optax.EmptyState())) == {}


def test_a_state_of_ones_own_reports_too():
    class Counter(NamedTuple):
        taken: jax.Array

        def metrics(self):
            return {"taken": self.taken}

    counting = optax.GradientTransformation(
        lambda p: Counter(jnp.zeros((), jnp.int32)), lambda g, s, p=None: (g, Counter(s.taken + 1))
    )
    step = po.make_step((quadratic, optax.chain(counting, optax.sgd(0.01))))
    state = step.init(jnp.zeros(2))
    for expected in (1, 2):
        _, state, metrics = step.update(jnp.zeros(2), state, BATCH, None)
        assert metrics["taken"] == expected


@pytest.mark.parametrize(
    "call",
    [
        po.make_step,
        lambda: po.make_step((quadratic, optax.sgd(0.1)), policy=(quadratic, optax.sgd(0.1))),
    ],
)
def test_a_step_has_one_phase_without_a_name_or_several_with_names(call):
    with pytest.raises(ValueError, match="one phase"):
        call()


def test_a_backtracking_line_search_of_optax_is_driven_too():
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=20))
    step = po.make_step((quadratic, optimizer))
    params, _, metrics = jax.jit(step.update)(jnp.zeros(2), step.init(jnp.zeros(2)), BATCH, None)
    assert metrics["skipped"] == 0
    assert quadratic(params, BATCH)[0] < quadratic(jnp.zeros(2), BATCH)[0]


# Epochs of minibatches: what is asked of each, and what of all


def numbers(*rows):
    """A batch of one decision a row, whose advantage is given."""
    return po.Batch(
        obs=jnp.zeros((len(rows), 1)),
        action=jnp.zeros((len(rows), 1), int),
        mask=jnp.ones((len(rows), 1), bool),
        advantage=jnp.array(rows, float)[:, None],
    )


def towards_the_advantage(params, batch):
    """Minus the sum of the advantages is its gradient, and 0 its value, which overflows nowhere."""
    return (jax.lax.stop_gradient(params) - params) * batch.advantage.sum(), {}


def test_a_minibatch_that_is_not_finite_is_skipped_and_the_others_are_not():
    step = po.epochs(po.make_step((towards_the_advantage, optax.sgd(1.0))), 1, 4, groups=1)
    params, _, metrics = jax.jit(step.update)(
        jnp.zeros(()), step.init(jnp.zeros(())), numbers(1.0, jnp.nan, 2.0, 4.0), jax.random.key(0)
    )
    assert float(params) == 7
    assert float(metrics["skipped"]) == 0.25


@pytest.mark.parametrize("nested", [False, True])
def test_an_update_that_leaves_parameters_without_number_is_undone_whole(nested):
    """Two finite gradients of 2e38 each: the second takes the parameter beyond the largest float."""
    step = po.epochs(po.make_step((towards_the_advantage, optax.sgd(1.0))), 1, 4, groups=1)
    step = po.epochs(step, 2, 1) if nested else step
    start = jnp.float32(1.5)
    params, state, metrics = jax.jit(step.update)(start, step.init(start), numbers(2e38, 2e38, 1, 1), jax.random.key(0))
    assert float(params) == 1.5
    assert same(state, step.init(start))
    assert float(metrics["skipped"]) == 1


def test_an_update_that_leaves_a_nan_in_the_optimizers_state_is_undone_whole():
    """The state is the product of a NaN and how often it was asked, so the first update is as good as the second."""
    forgets = optax.GradientTransformation(lambda params: jnp.zeros(()), lambda g, s, params=None: (g, s * 0 + jnp.nan))
    step = po.epochs(po.make_step((towards_the_advantage, forgets)), 2, 2, groups=1)
    params, state, metrics = step.update(jnp.zeros(()), step.init(jnp.zeros(())), numbers(1, 1), jax.random.key(0))
    assert (float(params), float(state), float(metrics["skipped"])) == (0, 0, 1)


def test_a_step_of_ones_own_is_repeated_as_it_is():
    """It has no attempt, and nobody looks at what it leaves."""
    own = po.Step(lambda params: (), lambda params, state, batch, key: (params + jnp.inf, state, {}))
    repeated = po.epochs(own, 2, 1)
    assert repeated.attempt is None
    assert float(repeated.update(jnp.zeros(()), (), numbers(1), None)[0]) == jnp.inf


# --- batches with nothing in them, and what is no step ----------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda step: step, lambda step: po.epochs(step, 2, 2)], ids=["once", "in epochs"])
def test_a_batch_without_a_decision_moves_nothing(make):
    """On a gradient of 0, Adam would go on as it was going."""
    step = make(po.make_step((po.objective(model, po.reinforce()), optax.adam(0.1))))
    update = jax.jit(step.update)
    params, state, metrics = update(PARAMS, step.init(PARAMS), BATCH, jax.random.key(0))
    assert float(metrics["skipped"]) == 0
    assert not same(params, PARAMS)
    nothing = replace(BATCH, mask=jnp.zeros((4, 2), bool))
    after, kept, metrics = update(params, state, nothing, jax.random.key(1))
    assert same((after, kept), (params, state))
    assert float(metrics["skipped"]) == 1


def test_one_reward_that_is_no_number_costs_its_own_episode():
    reward = jnp.ones((6, 4)).at[-1, 0].set(jnp.nan)
    zero, no = jnp.zeros((6, 4)), jnp.zeros((6, 4), bool)
    rollout = po.Rollout(
        obs=jnp.ones((6, 4, 3)), action=jnp.zeros((6, 4), int), log_prob=zero, reward=reward + jnp.arange(4.0),
        terminated=no, truncated=no, next_obs=jnp.ones((6, 4, 3)), mask=~no, value=zero, next_value=zero,
    )  # fmt: skip
    advantage, target = po.gae(rollout)
    standard = po.standardize(advantage, rollout.mask)
    batch = po.to_batch(rollout, advantage=standard, target=target)
    assert batch.mask.sum(-1).tolist() == [0, 6, 6, 6]
    expected = np.asarray(advantage)[:, 1:]
    np.testing.assert_allclose(standard[:, 1:], (expected - expected.mean()) / expected.std(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "skipped"])
def test_a_metric_of_an_objective_may_not_be_called_as_one_of_the_step(name):
    step = po.make_step((lambda params, batch: (jnp.sum(params**2), {name: jnp.ones(())}), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=f"make_step has metrics loss, grad_norm, skipped; an objective has '{name}'"):
        step.update(jnp.ones(2), step.init(jnp.ones(2)), BATCH, None)


PAIR = (po.objective(model, po.reinforce()), optax.sgd(0.1))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: po.epochs(PAIR, 2, 2), "epochs: step"),
        (lambda: po.raveled(PAIR), "raveled: step"),
        (lambda: po.side_by_side(PAIR), "side_by_side: step"),
        (lambda: po.monitored(PAIR, model, kl=po.action_kl), "monitored: step"),
        (lambda: po.sequential(policy=PAIR), "sequential: policy"),
    ],
)
def test_a_step_is_no_pair(call, name):
    with pytest.raises(TypeError, match=f"{name} must be a Step, as make_step makes it; it is a tuple of 2"):
        call()


def test_what_is_monitored_takes_two_policies_and_a_batch():
    with pytest.raises(TypeError, match=r"monitored: moved must be a function of \(old, new, batch\)"):
        po.monitored(po.make_step(PAIR), model, moved=lambda old, new: 0.0)


def test_an_update_says_its_order():
    step = po.make_step(PAIR)
    for wrong in ((PARAMS, BATCH, step.init(PARAMS), None), (BATCH, PARAMS, step.init(PARAMS), None)):
        with pytest.raises(TypeError, match=r"update takes \(params, opt_state, batch, key\), in this order"):
            step.update(*wrong)


def test_a_skipped_minibatch_is_left_out_of_the_means():
    """Rows 0 and 2 have no advantage: with some keys they are one of the two minibatches, and it alone is skipped."""
    broken = replace(BATCH, advantage=BATCH.advantage.at[::2].set(jnp.nan))
    term = po.weighted_sum(policy=(1.0, po.reinforce()), entropy=(0.1, po.entropy_bonus()))
    one = po.make_step((po.objective(model, term), optax.sgd(0.0)))
    phases = po.make_step(
        policy=(po.objective(model, po.reinforce()), optax.sgd(0.0)),
        critic=(lambda params, batch: (jnp.sum(params["critic"]) * batch.obs.mean(), {}), optax.sgd(0.0)),
    )
    good = float(po.objective(model, po.reinforce())(PARAMS, jax.tree.map(lambda x: x[1::2], BATCH))[0])
    for step, skipped in ((one, "skipped"), (phases, "policy/skipped")):
        update = jax.jit(po.epochs(step, 1, 2).update)
        found = [update(PARAMS, step.init(PARAMS), broken, jax.random.key(seed))[2] for seed in range(8)]
        halves = [metrics for metrics in found if metrics[skipped] == 0.5]
        assert 0 < len(halves) < 8
        for metrics in halves:
            np.testing.assert_allclose(metrics["policy/loss"], good, rtol=1e-5)
            assert all(bool(jnp.isfinite(x)) for x in metrics.values())
        none = next(metrics for metrics in found if metrics[skipped] == 1)
        assert np.isnan(none["policy/loss"]), "if none was taken, what they were is said"
        finite = ("entropy/loss", -np.log(3)) if step is one else ("critic/loss", 0.3)
        np.testing.assert_allclose(none[finite[0]], finite[1], rtol=1e-5)


def test_names_of_metrics_that_would_hide_others_are_refused():
    named = lambda outputs, batch: (po.reinforce()(outputs, batch)[0], {"loss": jnp.ones(())})  # noqa: E731
    with pytest.raises(ValueError, match="weighted_sum: own has a metric 'loss'"):
        po.objective(model, po.weighted_sum(own=(1.0, named)))(PARAMS, BATCH)
    step = po.make_step((po.objective(model, po.reinforce()), optax.sgd(0.1)))
    collect = lambda params, state, key: (state, BATCH, {"loss": jnp.ones(())})  # noqa: E731
    with pytest.raises(ValueError, match="train: collect and step both have a metric 'loss'"):
        po.train(collect, step, po.init_state(step, PARAMS, jax.random.key(0)), updates=1)
    own = po.weighted_sum(policy=(1.0, po.reinforce()))
    with pytest.raises(ValueError, match="terms: the recipe has 'policy/loss' itself"):
        with_terms(own, {"policy": (0.1, po.entropy_bonus())})(model(PARAMS, BATCH.obs), BATCH)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: po.trpo(model, max_trials=0), "backtrack: max_trials must be at least 1; it is 0"),
        (lambda: po.trpo(model, cg_iters=0), "natural_gradient: cg_iters must be at least 1; it is 0"),
        (lambda: po.npg(model, cg_iters=-3), "natural_gradient: cg_iters must be at least 1; it is -3"),
        (lambda: po.trpo(model, shrink=1.0), "backtrack: shrink must be above 0 and below 1; it is 1.0"),
        (lambda: po.trpo(model, shrink=0.0), "backtrack: shrink must be above 0 and below 1; it is 0.0"),
        (
            lambda: po.lagrangian(po.value_loss(), multiplier=-1.0, bound=0.1),
            "lagrangian: multiplier must be at least 0",
        ),
        (lambda: po.grpo(clip_eps=[0.2, 0.28]), "grpo: clip_eps must be a number or a pair"),
        (lambda: po.gmpo(log_clip=(0.4, 0.4, 0.4)), "gmpo: log_clip must be a number or a pair"),
        (lambda: po.constant_length(0), "constant_length: length must be above 0; it is 0"),
        (lambda: surrogates.alpha_slope(jnp.ones(2), alpha=0.0), "alpha_slope: alpha must be above 0 and at most 1"),
        (lambda: po.group_relative(jnp.arange(2.0), eps=-1.0), "group_relative: eps must be at least 0; it is -1.0"),
        (lambda: po.batch_relative(jnp.arange(2.0), ddof=-5), "batch_relative: ddof must be 0 or 1; it is -5"),
        (
            lambda: po.accumulate_gradients(po.objective(model, po.reinforce()), 2.5),
            "accumulate_gradients: num_microbatches must be a whole number; it is 2.5",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()
