"""Prices, penalties and outcome trust regions: by hand, and on worlds whose laws are known."""

import dataclasses
import itertools
from dataclasses import replace

import enumerated as world
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import outcomes


def rows(outcome, mask=None, advantage=None):
    outcome = jnp.asarray(outcome)
    shape = (*outcome.shape, 2)
    return po.Batch(
        obs=jnp.zeros(shape),
        action=jnp.zeros(shape, int),
        mask=jnp.ones(shape, bool) if mask is None else jnp.asarray(mask),
        advantage=jnp.ones(shape) if advantage is None else jnp.asarray(advantage),
        outcome=outcome,
    )


def test_every_decision_pays_the_price_of_its_row():
    batch = rows([[0, 1, 1, 2], [0, 0, 0, 0]])
    price = jnp.array([0.0, 0.5, 2.0])
    priced = outcomes.outcome_price(batch, price)
    charge = np.array([[0, 0.5, 0.5, 2.0], [0, 0, 0, 0]])
    expected = 1 - (charge - charge.mean(1, keepdims=True))
    np.testing.assert_allclose(priced.advantage, np.repeat(expected[..., None], 2, -1), rtol=1e-6)
    own = outcomes.outcome_price(batch, jnp.array([[0.0, 0.5, 2.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(own.advantage, priced.advantage)  # a prompt of equal outcomes is charged alike
    per_prompt = outcomes.outcome_price(batch, jnp.array([[0.0, 0.0, 4.0], [0.0, 9.0, 9.0]]))
    np.testing.assert_allclose(per_prompt.advantage[0, :, 0], 1 - (np.array([0, 0, 0, 4]) - 1))


def test_masked_decisions_and_rows_are_left_alone():
    mask = np.ones((1, 3, 2), bool)
    mask[0, 1] = False
    mask[0, 2, 1] = False
    advantage = np.where(mask, 1.0, np.nan)
    priced = outcomes.outcome_price(rows([[0, 1, 1]], mask, advantage), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(priced.advantage[0], [[1.5, 1.5], [0, 0], [0.5, 0]])
    everything = jnp.ones((1, 3), bool)
    again = outcomes.outcome_price(rows([[0, 1, 1]], mask, advantage), jnp.array([0.0, 1.0]), labelled=everything)
    np.testing.assert_array_equal(again.advantage, priced.advantage, err_msg="a label of an empty row says nothing")
    price = outcomes.update_price(
        outcomes.init_price(2), rows([[0, 1, 1]], mask), jnp.array([0.25, 0.75]), integral=1.0, labelled=everything
    )
    np.testing.assert_allclose(price.integral, [0.25, -0.25])


def test_labels_on_a_part_of_the_rows_charge_as_much_in_the_mean():
    rng = np.random.default_rng(0)
    cells = jnp.asarray(rng.integers(0, 2, (1, 400)))
    score = jnp.asarray(rng.normal(size=400))
    full = outcomes.outcome_price(rows(cells), jnp.array([0.0, 1.0])).advantage[0, :, 0]

    def partial(key):
        labelled = jax.random.bernoulli(key, 0.25, (1, 400))
        hidden = jnp.where(labelled, cells, 77)  # what is not labelled is not read
        return outcomes.outcome_price(rows(hidden), jnp.array([0.0, 1.0]), labelled=labelled).advantage[0, :, 0]

    found = jax.jit(jax.vmap(partial))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose((found @ score).mean(), full @ score, atol=1.5)
    np.testing.assert_allclose(found.mean(0), full, atol=0.15)
    nobody = outcomes.outcome_price(rows(cells), jnp.array([0.0, 1.0]), labelled=jnp.zeros((1, 400), bool))
    np.testing.assert_array_equal(nobody.advantage, 1)


@pytest.mark.parametrize("number", [2, 3, 4, 8])
def test_a_few_labels_charge_every_row_what_all_labels_do_in_the_mean(number):
    """Over all choices of `number` rows out of 8: the charge was smaller by (n - 1)/n against (G - 1)/G."""
    cells = jnp.array([[0, 1, 1, 0, 2, 0, 1, 0]])
    price = jnp.array([0.0, 1.0, 2.5])
    full = outcomes.outcome_price(rows(cells), price).advantage
    chosen = np.array([np.isin(np.arange(8), some) for some in itertools.combinations(range(8), number)])
    charged = lambda labelled: outcomes.outcome_price(rows(cells), price, labelled=labelled).advantage  # noqa: E731
    found = jax.vmap(charged)(jnp.asarray(chosen)[:, None])
    np.testing.assert_allclose(found.mean(0), full, atol=1e-5)


def test_one_label_charges_nothing_and_one_in_no_cell_spoils_the_labelled_rows_of_its_prompt():
    cells = jnp.array([[0, 1, 7, 1], [0, 1, 1, 1]])
    labelled = jnp.array([[True, False, True, False], [False, True, False, False]])
    found = outcomes.outcome_price(rows(cells), jnp.array([0.0, 1.0]), labelled=labelled).advantage
    np.testing.assert_array_equal(np.isnan(found[0, :, 0]), labelled[0])
    np.testing.assert_array_equal(found[1], 1)


def test_the_price_rises_where_the_outcome_is_too_frequent():
    batch = rows([[0, 1, 1, 1], [0, 0, 1, 1]])
    reference = jnp.array([0.5, 0.5])
    start = outcomes.Price(charge=jnp.array([7.0, 7.0]), integral=jnp.array([0.1, 0.2]))
    after = outcomes.update_price(start, batch, reference, integral=2.0, proportional=5.0)
    memory = [0.1 + 2 * (3 / 8 - 0.5), 0.2 + 2 * (5 / 8 - 0.5)]
    np.testing.assert_allclose(after.integral, memory, rtol=1e-6)
    np.testing.assert_allclose(after.charge, memory + 5 * np.array([-1 / 8, 1 / 8]), rtol=1e-6)
    each = outcomes.update_price(outcomes.init_price(2, 2), batch, reference, integral=1.0)
    np.testing.assert_allclose(each.integral, [[-0.25, 0.25], [0, 0]], atol=1e-6)
    labelled = jnp.array([[True, True, False, False], [False] * 4])
    seen = outcomes.update_price(
        dataclasses.replace(outcomes.init_price(2, 2), charge=jnp.full((2, 2), 3.0)),
        batch,
        jnp.array([0.9, 0.1]),
        integral=1.0,
        proportional=0.0,
        labelled=labelled,
    )
    np.testing.assert_allclose(seen.charge, [[-0.4, 0.4], [3, 3]], atol=1e-6)  # nobody looked: nothing moved


def learn_with_a_price(integral, proportional):
    """P(s, z) `[updates, 2, 2]` of a softmax over four cells that learns s. The pump takes z from .1 to .5."""
    logits = jnp.log(jnp.array([0.85, 0.05, 0.05, 0.05]))
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 4))))  # noqa: E731
    step = po.make_step((po.objective(model, po.surrogate()), optax.sgd(0.3)))
    of = lambda cell: cell % 2  # noqa: E731

    def one(carry, key):
        params, price, opt_state = carry
        cell = jax.random.categorical(key, params, shape=(1, 256))
        action = cell[..., None]
        batch = po.Batch(
            obs=jnp.zeros(action.shape),
            action=action,
            mask=jnp.ones(action.shape, bool),
            log_prob=jax.nn.log_softmax(params)[action],
            advantage=po.group_relative((cell >= 2).astype(jnp.float32))[..., None],
            outcome=cell,
        )
        price = outcomes.update_price(
            price, batch, jnp.array([0.9, 0.1]), integral=integral, proportional=proportional, of=of
        )
        priced = outcomes.outcome_price(batch, price.charge, of=of)
        params, opt_state, _ = step.update(params, opt_state, priced, key)
        return (params, price, opt_state), jax.nn.softmax(params)

    start = (logits, outcomes.init_price(2), step.init(logits))
    return jax.lax.scan(one, start, jax.random.split(jax.random.key(0), 800))[1].reshape(-1, 2, 2)


def test_a_price_on_one_side_does_not_remember_what_it_had_nothing_to_charge_for():
    """A hundred looks without the side effect, then half of all rows have it: it is charged at the first."""
    none, half = (rows([0] * (4 - hits) + [1] * hits) for hits in (0, 2))
    reference, one_sided = jnp.array([0.95, 0.05]), lambda charge: jnp.maximum(charge, 0) * jnp.array([0, 1])
    price = outcomes.init_price(2)
    for _ in range(100):
        price = outcomes.update_price(price, none, reference, allowed=one_sided)
        assert price.charge.tolist() == price.integral.tolist() == [0, 0]
    price = outcomes.update_price(price, half, reference, integral=0.3, proportional=3.0, allowed=one_sided)
    np.testing.assert_allclose(price.integral, [0, 0.3 * 0.45], rtol=1e-5)
    np.testing.assert_allclose(price.charge, [0, 3.3 * 0.45], rtol=1e-5)
    for wrong, error, said in (
        (lambda charge: charge.max(), ValueError, r"allowed\(charge\) must have shape \(2,\)"),
        (jnp.array([0, 1]), TypeError, r"allowed must be a function of \(charge\)"),
    ):
        with pytest.raises(error, match=said):
            outcomes.update_price(price, half, reference, allowed=wrong)
    capped = outcomes.update_price(price, half, reference, allowed=lambda charge: jnp.minimum(charge, 0.1))
    np.testing.assert_allclose(capped.integral[1], 0.1)
    np.testing.assert_allclose(capped.charge[1], 0.1)


def test_a_price_holds_the_side_effect_and_the_integral_alone_swings():
    run = jax.jit(jax.vmap(learn_with_a_price))
    free, swinging, held = np.asarray(run(jnp.array([0.0, 0.3, 0.3]), jnp.array([0.0, 0.0, 3.0])))
    success, side_effect = (lambda path: path[:, 1].sum(-1)), (lambda path: path[:, :, 1].sum(-1))
    assert all(success(path)[-1] > 0.99 for path in (free, swinging, held))
    assert side_effect(free)[-1] > 0.35
    late = slice(300, None)
    assert np.abs(side_effect(held)[late] - 0.1).max() < 0.06
    assert np.abs(side_effect(held)[late].mean() - 0.1) < 0.01
    assert np.abs(side_effect(swinging)[late] - 0.1).max() > 0.3


OBJECTIVES = {
    "reinforce": po.reinforce(),
    "surrogate": po.surrogate(),
    "ppo": po.ppo(),
    "grpo": po.grpo(),
    "ratio_term": po.ratio_term(lambda log_ratio, advantage: jnp.minimum(jnp.exp(log_ratio), 2.0) * advantage),
    "actor_critic": po.actor_critic(value_weight=0.0, entropy_weight=0.0),
}


@pytest.mark.parametrize("shape", [(12,), (3, 4)], ids=["control", "groups"])
@pytest.mark.parametrize("label", OBJECTIVES)
def test_every_objective_that_reads_an_advantage_can_be_priced(label, shape):
    """With nothing else to gain, a step down the priced loss makes the charged action rarer, for every term."""
    action = np.arange(12).reshape(*shape, 1) % 3
    zeros = np.zeros(action.shape, np.float32)
    model = lambda params, obs: po.Outputs(  # noqa: E731
        policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 3))), value=jnp.zeros(obs.shape)
    )
    batch = po.Batch(
        obs=zeros,
        action=action,
        mask=np.ones(action.shape, bool),
        log_prob=zeros - np.float32(np.log(3.0)),
        ref_log_prob=zeros - np.float32(np.log(3.0)),
        advantage=zeros,
        target=zeros,
        outcome=action[..., 0] == 2,
    )
    loss = po.objective(model, OBJECTIVES[label])
    price = lambda batch: outcomes.outcome_price(batch, jnp.array([0.0, 1.0]))  # noqa: E731
    gradient = np.asarray(jax.jit(jax.grad(lambda x, batch: loss(x, price(batch))[0]))(np.zeros(3, np.float32), batch))
    assert float(gradient[2]) > 0.05
    np.testing.assert_allclose(gradient[:2], -gradient[2] / 2, rtol=1e-4)


def pairs():
    """Preference pairs `[2, N, 1]` that favour the side effect: the chosen action is 2."""
    action = jnp.stack([jnp.full((6, 1), 2), jnp.arange(6)[:, None] % 2])
    return po.Batch(
        obs=jnp.zeros(action.shape),
        action=action,
        mask=jnp.ones(action.shape, bool),
        log_prob=jnp.full(action.shape, -jnp.log(3.0)),
        ref_log_prob=jnp.full(action.shape, -jnp.log(3.0)),
        outcome=action[..., 0] == 2,
    )


def test_preferences_are_held_by_a_penalty_on_samples_of_their_own():
    """DPO reads no advantage, so nothing can be taken off it; a penalty on rows of the policy's own adds up with it."""
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 3))))  # noqa: E731
    preferences = po.objective(model, po.dpo(beta=1.0))
    penalty = po.objective(model, outcomes.outcome_penalty(jnp.array([2 / 3, 1 / 3])))
    every_action = jax.tree.map(lambda x: x[0, :3], pairs())
    samples = replace(every_action, action=jnp.arange(3)[:, None], outcome=jnp.arange(3) == 2)

    def loss(weight):
        return lambda params: preferences(params, pairs())[0] + weight * penalty(params, samples)[0]

    def learn(weight):
        down = lambda params, _: (params - 0.05 * jax.grad(loss(weight))(params), None)  # noqa: E731
        return jax.nn.softmax(jax.lax.scan(down, jnp.zeros(3), None, length=1500)[0])

    free, held = jax.jit(jax.vmap(learn))(jnp.array([0.0, 10.0]))
    assert float(free[2]) > 0.9
    assert abs(float(held[2]) - 1 / 3) < 0.1


def test_the_penalty_is_the_divergence_to_a_table():
    batch = world.batch()
    new = jnp.asarray(world.table(1), jnp.float32)
    of = lambda o: o["side_effect"]  # noqa: E731
    law = world.cells_law(world.law(world.table(1)), world.OUTCOME["side_effect"], 3)
    reference = np.array([0.2, 0.3, 0.5])
    outputs = jax.jit(world.model)(new, batch.obs)
    penalty = jax.jit(lambda reference: outcomes.outcome_penalty(reference, of=of)(outputs, batch))
    loss, metrics = penalty(reference)
    np.testing.assert_allclose(loss, (law * np.log(law / reference)).sum(-1).mean(), rtol=2e-5)
    np.testing.assert_allclose(metrics["ess"], (1 / (world.law(world.table(1)) ** 2).sum(-1)).mean(), rtol=1e-4)
    each = np.stack([reference, reference[::-1]])
    loss, _ = penalty(each)
    np.testing.assert_allclose(loss, (law * np.log(law / each)).sum(-1).mean(), rtol=2e-5)
    impossible, _ = penalty(np.array([0.5, 0.5, 0.0]))
    assert np.isinf(impossible)
    with pytest.raises(ValueError, match="reference must have shape"):
        outcomes.outcome_penalty(jnp.ones((5, 3)) / 3, of=of)(outputs, batch)


def scores_of_rows(params, batch):
    """∇ log P(row), `[N, G, *]`."""
    log_prob = lambda p: world.model(p, batch.obs).policy.log_prob(batch.action).sum(-1)  # noqa: E731
    return np.asarray(jax.jit(jax.jacrev(log_prob))(params))


def test_the_mean_of_a_feature_by_enumeration():
    """E_θ[f] from rows of another policy, and its gradient E[(f - E f) ∇ log P(row)]; of booleans it is a rate."""
    params, of = world.table(1), lambda o: o["side_effect"]  # noqa: E731
    values = world.OUTCOME["side_effect"].astype(float)
    law = world.law(params)
    with jax.enable_x64(True):
        batch = world.batch(dtype=jnp.float64)
        mean, share = outcomes.outcome_mean(of=of), outcomes.outcome_mean(of=lambda o: of(o) == 2)
        its = lambda term: lambda p: term(world.model(p, batch.obs), batch)  # noqa: E731
        (found, metrics), gradient = jax.jit(jax.value_and_grad(its(mean), has_aux=True))(params)
        rate, _ = jax.jit(its(share))(params)
        scores = scores_of_rows(params, batch)
    expected = (law * values).sum(-1)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-10)
    np.testing.assert_allclose(rate, (law * (values == 2)).sum(-1).mean(), rtol=1e-10)
    np.testing.assert_allclose(metrics["ess"], (1 / (law**2).sum(-1)).mean(), rtol=1e-6)
    by_hand = np.einsum("ng,ng...->...", law * (values - expected[:, None]), scores) / world.N
    np.testing.assert_allclose(gradient, by_hand, atol=1e-12)


def test_the_mean_is_of_rows_that_have_decisions():
    mask = np.ones((2, 3, 2), bool)
    mask[0, 2] = False
    mask[1] = False
    batch = replace(rows([[1.0, 2.0, np.nan], [7.0, 7.0, 7.0]], mask), log_prob=jnp.zeros((2, 3, 2)))
    policy = po.Categorical(logits=jnp.zeros((2, 3, 2, 1)))
    assert float(outcomes.outcome_mean()(po.Outputs(policy=policy), batch)[0]) == 1.5
    with pytest.raises(ValueError, match="must have shape"):
        outcomes.outcome_mean(of=lambda x: x[..., None])(po.Outputs(policy=policy), batch)


def test_the_gradient_of_the_penalty_is_a_price():
    """∇ KL(P_θ ‖ ref) = E[ log(P_θ(z)/ref(z)) ∇ log P_θ(row) ], by enumeration."""
    params = world.table(1)
    of = lambda o: o["side_effect"]  # noqa: E731
    reference = np.array([0.2, 0.3, 0.5])
    with jax.enable_x64(True):
        batch = world.batch(dtype=jnp.float64)
        penalty = outcomes.outcome_penalty(jnp.asarray(reference), of=of)
        found = jax.jit(jax.grad(lambda p: penalty(world.model(p, batch.obs), batch)[0]))(params)
        scores = scores_of_rows(params, batch)
    law = world.cells_law(world.law(params), world.OUTCOME["side_effect"], 3)
    charge = np.log(law / reference)[:, world.OUTCOME["side_effect"]]
    expected = np.einsum("ng,ng...->...", world.law(params) * charge, scores) / world.N
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_errors():
    batch = rows([[0, 1]])
    with pytest.raises(ValueError, match=r"outcome_price needs batch\.advantage"):
        outcomes.outcome_price(replace(batch, advantage=None), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"outcome_price needs batch\.outcome"):
        outcomes.outcome_price(replace(batch, outcome=None), jnp.zeros(2))
    for function in (
        lambda price, **rest: outcomes.outcome_price(batch, price, **rest),
        lambda price, **rest: outcomes.update_price(
            outcomes.Price(charge=price, integral=price), batch, jnp.ones(2) / 2, **rest
        ),
    ):
        with pytest.raises(ValueError, match=r"price must have shape \[K\] or \(1, 'K'\)"):
            function(jnp.zeros((3, 2)))
        with pytest.raises(ValueError, match="labelled must have shape"):
            function(jnp.zeros(2), labelled=jnp.ones(2, bool))
        with pytest.raises(TypeError, match="labelled must be boolean"):
            function(jnp.zeros(2), labelled=jnp.ones((1, 2)))
    for gain in ("integral", "proportional"):
        with pytest.raises(ValueError, match=gain):
            outcomes.update_price(outcomes.init_price(2), batch, jnp.ones(2) / 2, **{gain: -1.0})
    assert np.isnan(outcomes.outcome_price(rows([[0, 5]]), jnp.zeros(2)).advantage).any()
