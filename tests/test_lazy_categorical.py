"""A lazy head says what the logits say: to every term, divergence and solver, in value, gradient and forward mode."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import CASES, A, B, T, cast, example_batch, ragged_mask

import polopt_jax as po
from polopt_jax.distributions import _lazy_categorical

W = np.array([[1.0, 0.3, 0.0, -0.5], [0.2, 1.5, 0.4, 0.0], [-0.3, 0.0, 0.8, 0.6], [0.1, -0.7, 0.2, 1.1]])  # invertible


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """So that the 15 decisions of an example are four chunks, of which the last is not full."""
    monkeypatch.setattr(_lazy_categorical, "CHUNK", 4)


def lazy(logits):
    return po.LazyCategorical(hidden=logits @ np.linalg.inv(W), unembedding=jnp.asarray(W))


def of_logits(outputs):
    return replace(outputs, policy=lazy(outputs.policy.logits))


LABELS = [
    *("reinforce", "ppo", "grpo", "gspo", "dpo", "ipo", "simpo", "orpo", "aot", "kto", "entropy_bonus", "mpo"),
    *("mask_low_entropy", "action_kl", "trajectory_kl", "reverse", "outcome_kl", "actor_critic"),
]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.usefixtures("x64")
def test_every_term_and_divergence_takes_it(label):
    """Value and metrics; and the gradient, which of hidden states is that of the logits times Wᵀ."""
    case = CASES[label]
    inputs, batch = cast(case.example(), jnp.float64)

    @jax.jit
    def both(inputs, lazily):
        evaluate = lambda inputs: case.call(case.defaults(), inputs, batch)  # noqa: E731
        return [jax.value_and_grad(evaluate, has_aux=True)(x) for x in (inputs, lazily)]

    plain, found = both(inputs, tuple(map(of_logits, inputs)))
    for name, value in {"value": plain[0][0], **plain[0][1]}.items():
        ours = found[0][0] if name == "value" else found[0][1][name]
        np.testing.assert_allclose(ours, value, rtol=1e-9, atol=1e-12, err_msg=name)
    for old, of_plain, of_lazy in zip(inputs, plain[1], found[1], strict=True):
        slope, hidden = np.asarray(of_plain.policy.logits), np.asarray(old.policy.logits) @ np.linalg.inv(W)
        np.testing.assert_allclose(of_lazy.policy.hidden, slope @ W.T, atol=1e-9)
        rows = (-1, A)
        np.testing.assert_allclose(
            of_lazy.policy.unembedding, hidden.reshape(rows).T @ slope.reshape(rows), atol=1e-9, err_msg="unembedding"
        )


@pytest.mark.usefixtures("x64")
def test_fisher_products_and_a_trpo_step_are_those_of_the_logits():
    rng = np.random.default_rng(0)
    batch = cast(example_batch("Categorical", (B, T), rng), jnp.float64)
    batch = replace(batch, obs=jnp.asarray(rng.normal(size=(B, T, 3))))
    params = {"body": jnp.asarray(rng.normal(size=(3, A))), "head": jnp.asarray(W)}

    def plain(params, obs):
        return po.Outputs(policy=po.Categorical(logits=jnp.tanh(obs @ params["body"]) @ params["head"]))

    def head(params, obs):
        return po.Outputs(policy=po.LazyCategorical(hidden=jnp.tanh(obs @ params["body"]), unembedding=params["head"]))

    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)

    @jax.jit
    def both(params):
        found = []
        for model in (plain, head):
            product = po.fisher_operator(model, po.action_kl, params, batch)(direction)
            loss = po.objective(model, po.surrogate())
            step = po.make_step((loss, po.trpo(model, divergence=po.action_kl, radius=0.01)))
            new, _, metrics = step.update(params, step.init(params), batch, None)
            found.append((product, new, metrics))
        return found

    for ours, theirs in zip(*map(jax.tree.leaves, reversed(both(params))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    assert both(params)[1][2]["line_search_accepted"] == 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "leading", [(), (B, T), *(pytest.param(x, marks=pytest.mark.slow) for x in ((3,), (2, 3, 5), (17,)))]
)
def test_methods_are_those_of_the_logits(leading, monkeypatch):
    rng = np.random.default_rng(1)
    policy, other = (po.Categorical(logits=2 * rng.normal(size=(*leading, A))) for _ in range(2))
    head, other_head = lazy(policy.logits), lazy(other.logits)
    action = jnp.asarray(rng.integers(-1, A + 1, size=leading))
    assert head.batch_shape == leading
    assert head.num_actions == A
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)  # noqa: E731
    assert head.squash(action) is action

    @jax.jit
    def said(policy, other, head, other_head):
        each = [(p.logits, p.log_prob(action), p.entropy(), p.mode()) for p in (head, policy)]
        pairs = ((policy, other), (head, other_head), (head, other), (policy, other_head), (head, head))
        return each, [one.kl_divergence(two) for one, two in pairs]

    (of_head, of_policy), (exact, *lazily, zero) = said(policy, other, head, other_head)
    for x, y in zip(of_head[:3], of_policy[:3], strict=True):
        close(x, y)
    np.testing.assert_array_equal(of_head[3], of_policy[3])
    for divergence in lazily:
        close(divergence, exact)
    np.testing.assert_array_equal(zero, np.zeros(leading))
    for seed in (jax.random.key(0), jax.random.PRNGKey(0)):
        drawn = jax.jit(lambda key: head.sample(seed=key))(seed)
        assert (drawn.shape, drawn.dtype) == (leading, jnp.int32)
        with monkeypatch.context() as patch:
            patch.setattr(_lazy_categorical, "CHUNK", 1000)
            whole = jax.jit(lambda key: head.sample(seed=key))(seed)
            np.testing.assert_array_equal(whole, drawn, err_msg="chunks change nothing")


def test_samples_have_the_probabilities_and_differ_from_decision_to_decision(monkeypatch):
    law = np.array([0.1, 0.2, 0.3, 0.4])
    head = po.LazyCategorical(hidden=jnp.ones((50, 400, 1)), unembedding=jnp.log(jnp.asarray(law))[None])
    monkeypatch.setattr(_lazy_categorical, "CHUNK", 1000)
    drawn = np.asarray(jax.jit(lambda key: head.sample(seed=key))(jax.random.key(0)))
    assert drawn.shape == (50, 400)
    assert abs(np.bincount(drawn.ravel()) / drawn.size - law).max() < 0.015  # four standard errors
    assert all(len(set(row.tolist())) == 4 for row in drawn)


def test_where_hides_hidden_states_and_leaves_the_unembedding():
    rng = np.random.default_rng(2)
    mask = ragged_mask((B, T), rng)
    hidden = np.where(mask[..., None], rng.normal(size=(B, T, A)), np.nan)

    @jax.jit
    def value_and_grad(hidden, unembedding):
        def loss(hidden, unembedding):
            return po.LazyCategorical(hidden=hidden, unembedding=unembedding).where(jnp.asarray(mask)).entropy().sum()

        return jax.value_and_grad(loss, (0, 1))(hidden, unembedding)

    value, (of_hidden, of_unembedding) = value_and_grad(jnp.asarray(hidden, jnp.float32), jnp.asarray(W, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(of_unembedding).all()
    assert (np.asarray(of_hidden)[~mask] == 0).all()
    with pytest.raises(ValueError, match="mask must have shape"):
        po.LazyCategorical(hidden=jnp.zeros((2, 3, 4)), unembedding=jnp.zeros((4, 5))).where(jnp.ones((2, 1), bool))


def test_what_does_not_fit_is_refused():
    head = po.LazyCategorical(hidden=jnp.zeros((B, T, 4)), unembedding=jnp.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"action must have the policy's batch shape \(5, 3\); it has \(5,\)"):
        head.log_prob(jnp.zeros(B, int))
    with pytest.raises(TypeError, match="action must be integer ids"):
        head.log_prob(jnp.zeros((B, T)))
    with pytest.raises(ValueError, match=r"other must have batch shape \(5, 3\); it has \(5,\)"):
        head.kl_divergence(replace(head, hidden=jnp.zeros((B, 4))))
    batch = po.Batch(obs=None, action=jnp.zeros((B, 2), int), mask=jnp.ones((B, 2), bool), advantage=jnp.ones((B, 2)))
    with pytest.raises(ValueError, match=r"outputs.policy must have batch shape \(5, 2\)"):
        po.reinforce()(po.Outputs(policy=head), batch)


def test_half_precision_is_accumulated_in_float32():
    rng = np.random.default_rng(3)
    hidden = jnp.asarray(rng.normal(size=(3, 7, 64)), jnp.bfloat16)
    unembedding = jnp.asarray(rng.normal(size=(64, 50)), jnp.bfloat16)
    head = po.LazyCategorical(hidden=hidden, unembedding=unembedding)
    action = jnp.asarray(rng.integers(50, size=(3, 7)))
    found = head.log_prob(action)
    assert found.dtype == jnp.float32
    wide = np.asarray(hidden, np.float64) @ np.asarray(unembedding, np.float64)
    exact = np.take_along_axis(log_softmax(wide), np.asarray(action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    slope = jax.grad(lambda h: replace(head, hidden=h).entropy().sum())(hidden)
    assert slope.dtype == jnp.bfloat16


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_the_logits_are_never_stored(monkeypatch):
    """Temporary memory of loss and gradient, as the compiler plans it: a fraction of the logits, where stored ones
    take more than once their size."""
    monkeypatch.setattr(_lazy_categorical, "CHUNK", 128)
    rows, time, width, vocabulary = 8, 512, 64, 4096
    shape = lambda *size, dtype=jnp.float32: jax.ShapeDtypeStruct(size, dtype)  # noqa: E731
    hidden, unembedding = shape(rows, time, width), shape(width, vocabulary)
    action, real = shape(rows, time, dtype=jnp.int32), shape(rows, time)

    def stored(hidden, unembedding):
        return po.Categorical(logits=hidden @ unembedding)

    def temporary(make):
        def loss(hidden, unembedding, action, advantage, log_prob):
            batch = po.Batch(obs=None, action=action, mask=jnp.ones((rows, time), bool), advantage=advantage,
                             log_prob=log_prob)  # fmt: skip
            return po.ppo()(po.Outputs(policy=make(hidden, unembedding)), batch)[0]

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, unembedding, action, real, real).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * rows * time * vocabulary)

    def head(hidden, unembedding):
        return po.LazyCategorical(hidden=hidden, unembedding=unembedding)

    assert temporary(stored) > 0.9
    assert temporary(head) < 0.2


def test_a_model_learns_through_it():
    rng = np.random.default_rng(4)
    batch = cast(example_batch("Categorical", (6, T), rng), jnp.float32)
    params = {"body": jnp.asarray(rng.normal(size=(A, 4)), jnp.float32), "head": jnp.asarray(W, jnp.float32)}
    heads = {
        "stored": lambda hidden, unembedding: po.Categorical(logits=hidden @ unembedding),
        "lazy": lambda hidden, unembedding: po.LazyCategorical(hidden=hidden, unembedding=unembedding),
    }
    found = []
    for head in heads.values():
        model = lambda params, obs, head=head: po.Outputs(policy=head(obs @ params["body"], params["head"]))  # noqa: E731
        for loss in (po.objective(model, po.ppo()), po.accumulate_gradients(po.objective(model, po.ppo()), 2)):
            step = po.make_step((loss, optax.sgd(0.1)))
            found.append(jax.jit(step.update)(params, step.init(params), batch, None)[0])
    for leaves in zip(*map(jax.tree.leaves, found), strict=True):
        for ours in leaves[1:]:
            np.testing.assert_allclose(ours, leaves[0], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(found[0]["head"] - params["head"]).max()) > 1e-3


SEPARABLE = {
    "reinforce": po.reinforce(),
    "ppo": po.ppo(),
    "grpo": po.grpo(beta=0.1),
    "dapo": po.dapo(),
    "cispo": po.cispo(),
    "with a critic": po.weighted_sum(policy=(1.0, po.gradient_in_forward(po.ppo())), value=(0.5, po.value_loss())),
}


def sequences(key=0):
    """Hidden states, an unembedding and a ragged batch of 15 decisions; the last chunk is not full."""
    rng = np.random.default_rng(key)

    def normal(*shape, mean=0.0, std=1.0):
        return jnp.asarray(mean + std * rng.normal(size=shape), jnp.float32)

    typical = dict(mean=-np.log(A), std=0.3)
    batch = po.Batch(
        obs=None,
        action=jnp.asarray(rng.integers(A, size=(B, T))),
        mask=jnp.asarray(ragged_mask((B, T), np.random.default_rng(key))),
        advantage=normal(B, T),
        log_prob=normal(B, T, **typical),
        ref_log_prob=normal(B, T, **typical),
        target=normal(B, T),
    )
    return normal(B, T, 4), jnp.asarray(W), normal(B, T), batch


def slopes(term, hidden, unembedding, value, batch):
    def loss(hidden, unembedding, value):
        policy = po.LazyCategorical(hidden=hidden, unembedding=unembedding)
        return term(po.Outputs(policy=policy, value=value), batch)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(hidden, unembedding, value)


@pytest.mark.parametrize("label", SEPARABLE)
@pytest.mark.usefixtures("x64")
def test_a_gradient_in_the_forward_pass_is_the_gradient(label):
    """Of hidden states, unembedding and values, beside that of the term itself on stored logits, in float64."""
    arguments = cast(sequences(), jnp.float64)
    assert not arguments[-1].mask.all()
    plain = {**SEPARABLE, "with a critic": po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))}[label]

    def stored(outputs, batch):
        return plain(replace(outputs, policy=po.Categorical(logits=outputs.policy.logits)), batch)

    at_once = SEPARABLE[label] if label == "with a critic" else po.gradient_in_forward(SEPARABLE[label])
    (value, metrics), gradient = slopes(at_once, *arguments)
    (expected, their_metrics), of_stored = slopes(stored, *arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert metrics.keys() == their_metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], their_metrics[name], rtol=1e-9, atol=1e-12, err_msg=name)
    for ours, theirs in zip(gradient, of_stored, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.abs(of_stored[1]).max() > 1e-3


def test_it_has_the_scale_of_what_is_built_on_it():
    arguments = sequences()
    scaled = po.weighted_sum(policy=(3.0, po.gradient_in_forward(po.grpo())))
    for ours, once in zip(slopes(scaled, *arguments)[1][:2], slopes(po.grpo(), *arguments)[1][:2], strict=True):
        np.testing.assert_allclose(ours, 3 * np.asarray(once), atol=1e-5)


@pytest.mark.parametrize("term", [po.gspo(), po.luspo()])
def test_where_a_decision_has_a_say_in_anothers_slope_everything_is_nan(term):
    arguments = sequences()
    (value, _), gradient = slopes(po.gradient_in_forward(term), *arguments)
    assert np.isnan(value)
    assert np.isnan(gradient[0][arguments[-1].mask]).all()
    assert np.isnan(gradient[1]).all()


def test_what_stands_under_the_mask_says_nothing():
    hidden, unembedding, value, batch = sequences()
    poisoned = jnp.where(batch.mask[..., None], hidden, jnp.nan)
    batch = replace(batch, action=jnp.where(batch.mask, batch.action, 10**6))
    at_once = po.gradient_in_forward(po.grpo())
    (loss, _), gradient = slopes(at_once, poisoned, unembedding, value, batch)
    (expected, _), clean = slopes(at_once, hidden, unembedding, value, batch)
    assert loss == expected
    for ours, theirs in zip(gradient[:2], clean[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(gradient[1]).all()


def test_an_action_that_is_none_is_not_silent():
    hidden, unembedding, value, batch = sequences()
    batch = replace(batch, action=jnp.where(batch.mask, A, 0))
    (loss, _), _ = slopes(po.gradient_in_forward(po.grpo()), hidden, unembedding, value, batch)
    assert np.isnan(loss)


def test_a_term_that_reads_more_of_the_policy_is_refused():
    with pytest.raises(ValueError, match="reads entropy of the policy"):
        slopes(po.gradient_in_forward(po.entropy_bonus()), *sequences())


def test_with_stored_logits_it_is_the_term_itself():
    batch = sequences()[-1]
    outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((B, T, A))))
    assert po.gradient_in_forward(po.grpo())(outputs, batch)[0] == po.grpo()(outputs, batch)[0]
    policy = po.LazyCategorical(hidden=jnp.zeros((B, T + 1, 4)), unembedding=jnp.asarray(W))
    with pytest.raises(ValueError, match="batch shape"):
        po.gradient_in_forward(po.grpo())(po.Outputs(policy=policy), batch)
    policy = po.LazyCategorical(hidden=jnp.zeros((B, T, 4)), unembedding=jnp.asarray(W))
    with pytest.raises(ValueError, match="needs batch.action"):
        po.gradient_in_forward(po.grpo())(po.Outputs(policy=policy), replace(batch, action=None))


@pytest.mark.parametrize("fused", [False, True])
def test_in_bfloat16_the_gradient_of_the_unembedding_is_that_of_all_chunks(fused):
    """The mean of 4096 equal decisions of 8 actions: 1/8 - 1. In bfloat16 a sum over 1024 chunks stops halfway."""
    term = po.negative_log_likelihood()
    batch = po.Batch(obs=None, action=jnp.zeros((4, 1024), int), mask=jnp.ones((4, 1024), bool))

    @jax.grad
    def slope(unembedding):
        policy = po.LazyCategorical(hidden=jnp.ones((4, 1024, 2), jnp.bfloat16), unembedding=unembedding)
        return (po.gradient_in_forward(term) if fused else term)(po.Outputs(policy=policy), batch)[0]

    found = jax.jit(slope)(jnp.zeros((2, 8), jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert np.asarray(found[:, 0], np.float32).tolist() == [-0.875, -0.875]


def test_in_bfloat16_the_gradient_of_the_other_of_two_policies_is_that_of_all_chunks():
    hidden = jnp.ones((4, 1024, 2), jnp.bfloat16)
    policy = po.Categorical(logits=jnp.asarray(np.broadcast_to(np.log([0.9, 0.1]), (4, 1024, 2)), jnp.float32))
    unembedding = jnp.log(jnp.array([[0.9, 0.1]] * 2, jnp.bfloat16)) / 2
    lazily = po.LazyCategorical(hidden=hidden, unembedding=unembedding)
    divergence = lambda w: lazily.kl_divergence(po.LazyCategorical(hidden=hidden, unembedding=w)).mean()  # noqa: E731
    stored = lambda w: policy.kl_divergence(po.Categorical(logits=hidden @ w)).mean()  # noqa: E731
    expected = jax.jit(jax.grad(stored))(jnp.zeros((2, 2)))
    found = jax.jit(jax.grad(divergence))(jnp.zeros((2, 2), jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=0.01)  # of bfloat16: 2⁻⁸


@pytest.mark.parametrize("jitted", [False, True])
def test_a_gradient_in_the_forward_pass_is_also_that_of_what_the_term_closes_over(jitted):
    rng = np.random.default_rng(9)
    batch = cast(example_batch("Categorical", (B, T), rng), jnp.float32)
    params = (jnp.asarray(rng.normal(size=(B, T, A)), jnp.float32), jnp.asarray(W, jnp.float32), jnp.asarray(0.3))

    def slopes(wrap):
        def loss(hidden, unembedding, log_alpha):
            held = wrap(po.lagrangian(po.ppo(), multiplier=jnp.exp(log_alpha), bound=0.1))
            return held(po.Outputs(policy=po.LazyCategorical(hidden=hidden, unembedding=unembedding)), batch)[0]

        return (jax.jit if jitted else lambda f: f)(jax.value_and_grad(loss, (0, 1, 2)))(*params)

    plain, found = slopes(lambda term: term), slopes(po.gradient_in_forward)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), found, plain)
    assert abs(plain[1][2]) > 1e-3
