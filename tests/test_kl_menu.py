"""Whose gradient every sampled KL has: all actions of small policies enumerated, on- and off-policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import SENTENCES, G, N, T, batch, law, log_probs, model, table

import polopt_jax as po

S, A = 4, 5
WORLDS = 30
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module")
def logits():
    """Policy, reference and sampler of many worlds, `[3, WORLDS, S, A]`."""
    return np.random.default_rng(0).normal(size=(3, WORLDS, S, A))


def exact(direction):
    """∇ of the mean over states of a KL, by differentiating the sum over actions."""

    def kl(x, ref):
        p, q = jax.nn.log_softmax(x), jax.nn.log_softmax(ref)
        p, q = (p, q) if direction == "KL(pi || ref)" else (q, p)
        return (jnp.exp(p) * (p - q)).sum(-1).mean()

    return jax.value_and_grad(kl)


def expectation(term_of, logits, ref, sampler):
    """Value and gradient of a term in expectation: every action of every state once, weighed by the sampler's law."""
    mu = jax.nn.softmax(jax.lax.stop_gradient(sampler))
    actions = jnp.broadcast_to(jnp.arange(A), (S, A))
    taken = lambda x: jax.nn.log_softmax(x)  # noqa: E731  # row s, column a: log-probability of action a in state s
    batch = po.Batch(
        obs=None, action=actions, mask=jnp.ones((S, A), bool), ref_log_prob=taken(ref), log_prob=taken(sampler)
    )

    def loss(x):
        outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(x[:, None], (S, A, A))))
        return term_of(reduce=lambda value, _: (mu * value).sum(-1).mean())(outputs, batch)[0]

    return jax.value_and_grad(loss)(logits)


def sampled(estimator):
    return lambda reduce: po.sampled_kl_to_reference(estimator=estimator, reduce=reduce)


def corrected(estimator):
    return lambda reduce: po.corrected_kl_to_reference(estimator=estimator, reduce=reduce)


TOWARDS, OTHER, NOTHING = "KL(pi || ref)", "KL(ref || pi)", "nothing"
GRADIENTS = {
    "k1": (sampled(po.k1), "on", NOTHING),
    "k2": (sampled(po.k2), "on", TOWARDS),
    "k3": (sampled(po.k3), "on", OTHER),
    "the default on-policy": (lambda reduce: po.sampled_kl_to_reference(reduce=reduce), "on", TOWARDS),
    "weighted k2 on-policy": (corrected(po.weighted_k2), "on", TOWARDS),
    "weighted k3 on-policy": (corrected(po.weighted_k3), "on", TOWARDS),
    "weighted k2 off-policy": (corrected(po.weighted_k2), "off", TOWARDS),
    "weighted k3 off-policy": (corrected(po.weighted_k3), "off", TOWARDS),
    "the default off-policy": (lambda reduce: po.corrected_kl_to_reference(reduce=reduce), "off", TOWARDS),
    "one's own, weighted k1": (corrected(lambda ratio, weight: jnp.exp(weight) * po.k1(ratio)), "off", TOWARDS),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_expected_gradient_is_that_of_the_kl_it_names(name, logits):
    term_of, where, whose = GRADIENTS[name]
    policy, ref, sampler = logits if where == "off" else (logits[0], logits[1], logits[0])
    _, found = jax.jit(jax.vmap(lambda *x: expectation(term_of, *x)))(policy, ref, sampler)
    _, towards = jax.jit(jax.vmap(exact(TOWARDS)))(policy, ref)
    _, other = jax.jit(jax.vmap(exact(OTHER)))(policy, ref)
    assert np.abs(towards - other).max((1, 2)).min() > 1e-2, "the two directions must be told apart"
    expected = {TOWARDS: towards, OTHER: other, NOTHING: np.zeros_like(towards)}[whose]
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("estimator", [po.k1, po.k2, po.k3])
def test_what_is_not_corrected_has_neither_gradient_off_policy(estimator, logits):
    _, found = jax.jit(jax.vmap(lambda *x: expectation(sampled(estimator), *x)))(*logits)
    for direction in (TOWARDS, OTHER):
        _, named = jax.jit(jax.vmap(exact(direction)))(*logits[:2])
        assert np.abs(found - named).max((1, 2)).min() > 1e-2


def test_which_values_are_unbiased(logits):
    truth, _ = jax.jit(jax.vmap(exact(TOWARDS)))(*logits[:2])
    on = (logits[0], logits[1], logits[0])
    unbiased = [(sampled(po.k1), on), (sampled(po.k3), on), (corrected(po.weighted_k3), on)]
    unbiased += [(corrected(po.weighted_k3), tuple(logits))]
    for term_of, laws in unbiased:
        value, _ = jax.jit(jax.vmap(lambda *x, term_of=term_of: expectation(term_of, *x)))(*laws)
        np.testing.assert_allclose(value, truth, rtol=1e-12)
    for term_of in (sampled(po.k2), corrected(po.weighted_k2)):
        value, _ = jax.jit(jax.vmap(lambda *x, term_of=term_of: expectation(term_of, *x)))(*on)
        assert np.mean(np.abs(value - truth) > 1e-2) > 0.5


def test_the_weight_is_to_the_engine_that_sampled_where_that_was_recorded(logits):
    """`log_prob` is another policy's here: only `sampler_log_prob` is right, and it is what is read."""
    policy, ref, sampler = (jnp.asarray(x[0]) for x in logits)
    outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(policy[:, None], (S, A, A))))
    fields = {
        "obs": None,
        "action": jnp.broadcast_to(jnp.arange(A), (S, A)),
        "mask": jnp.ones((S, A), bool),
        "ref_log_prob": jax.nn.log_softmax(ref),
    }
    term = po.corrected_kl_to_reference(reduce=lambda x, _: (jax.nn.softmax(sampler) * x).sum(-1).mean())
    recorded = po.Batch(log_prob=jnp.full((S, A), jnp.nan), sampler_log_prob=jax.nn.log_softmax(sampler), **fields)
    found, wanted = jax.jit(term)(outputs, recorded)[0], jax.jit(exact(TOWARDS))(policy, ref)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("make", [po.sampled_kl_to_reference, po.corrected_kl_to_reference])
def test_metrics_and_means_are_those_of_the_real_decisions(make):
    rng = np.random.default_rng(1)
    logits, mask = rng.normal(size=(S, A, 3)), rng.random((S, A)) < 0.7
    action = rng.integers(3, size=(S, A))
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_prob = np.take_along_axis(log_prob, action[..., None], -1)[..., 0]
    ref, sampler = log_prob + rng.normal(size=(2, S, A))
    mask[0, :2] = True
    ref[0, 0], sampler[0, 1] = log_prob[0, 0] + 21.0, log_prob[0, 1] + 25.0
    batch = po.Batch(
        obs=None, action=jnp.asarray(action), mask=jnp.asarray(mask), ref_log_prob=jnp.asarray(ref),
        log_prob=jnp.asarray(sampler),
    )  # fmt: skip
    value, metrics = make()(po.Outputs(policy=po.Categorical(logits=jnp.asarray(logits))), batch)
    x = (log_prob - ref)[mask]
    k3 = np.where(x < -20, np.exp(20.0) * (1 - x - 20), np.exp(-x)) - 1 + x
    weight = np.exp(np.clip((log_prob - sampler)[mask], -20, 20))
    if make is po.sampled_kl_to_reference:
        np.testing.assert_allclose(value, (x**2 / 2).mean(), rtol=1e-12)
        np.testing.assert_allclose(metrics["ref_kl"], k3.mean(), rtol=1e-10)
        np.testing.assert_allclose(metrics["ref_clamped_fraction"], 1 / mask.sum(), rtol=1e-6)
    else:
        np.testing.assert_allclose(value, (weight * k3).mean(), rtol=1e-10)
        np.testing.assert_allclose(metrics["ref_kl"], value, rtol=1e-12)
        np.testing.assert_allclose(metrics["clamped_fraction"], 1 / mask.sum(), rtol=1e-6)


@pytest.mark.parametrize("nats", [30.0, 300.0])
def test_a_weight_is_clamped_at_20_nats_and_has_no_gradient_beyond(nats):
    """Beyond e^20 the weight is constant, so that only k3 itself is differentiated, as its tangent says: 1 - ref/π."""
    logits = np.log([[0.2, 0.3, 0.5]])
    log_prob = jnp.asarray(logits[:, 2])
    batch = po.Batch(
        obs=None, action=jnp.array([2]), mask=jnp.ones(1, bool), log_prob=log_prob - nats, ref_log_prob=log_prob - 1.0
    )
    loss = lambda x: po.corrected_kl_to_reference()(po.Outputs(policy=po.Categorical(logits=x)), batch)[0]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, np.exp(20.0) * np.exp(-1.0), rtol=1e-12)
    expected = np.exp(20.0) * (1 - np.exp(-1.0)) * np.array([[-0.2, -0.3, 0.5]])
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


# --- in the reward: sentences of three tokens, all of them ------------------------------------------------------------

BETA = 0.3


def sentences(penalised, logits, ref, reward):
    """∇ of REINFORCE's loss over every sentence, each weighed by its probability; returns to go, undiscounted."""
    log_prob, ref_log_prob = log_probs(logits), log_probs(ref)
    at_the_end = np.zeros((N, G, T))
    at_the_end[..., -1] = reward
    rewards = penalised(reward=at_the_end, log_prob=log_prob, ref_log_prob=ref_log_prob)
    no = np.zeros((T, N, G), bool)
    to_go = jax.jit(po.discounted_returns)(
        reward=np.moveaxis(np.asarray(rewards), -1, 0), next_value=np.zeros((T, N, G)), terminated=no, truncated=no,
        gamma=1.0,
    )  # fmt: skip
    probability = jnp.asarray(law(logits))
    term = po.reinforce(reduce=lambda x, _: (probability * x.sum(-1)).sum())
    data = po.types.Batch(**{**vars(batch(dtype=jnp.float64)), "advantage": np.moveaxis(np.asarray(to_go), 0, -1)})
    return jax.jit(jax.grad(lambda x: po.objective(model, term)(x, data)[0]))(logits)


def penalised_return(reward, ref):
    """-(E[R] - β KL(π ‖ ref)) of whole sentences, differentiable, summed over prompts."""

    def loss(logits):
        policy = model(logits, batch(dtype=jnp.float64).obs).policy
        action = jnp.broadcast_to(jnp.asarray(SENTENCES), (N, G, T))
        log_p = policy.log_prob(action).sum(-1)
        spent = log_p - jnp.asarray(log_probs(ref).sum(-1))
        return -(jnp.exp(log_p) * (reward - BETA * spent)).sum()

    return jax.grad(loss)


def test_in_the_reward_it_is_the_kl_of_whole_trajectories():
    logits, ref = table(1), table(2)
    reward = np.random.default_rng(3).normal(size=(N, G))
    expected = jax.jit(penalised_return(reward, ref))(logits)
    mask = jnp.ones((N, G, T), bool)

    def ours(**arrays):
        return po.reward_minus_kl(**{k: jnp.asarray(x) for k, x in arrays.items()}, mask=mask, beta=BETA)

    def with_k3(reward, log_prob, ref_log_prob):
        return reward - BETA * np.asarray(po.k3(jnp.asarray(log_prob - ref_log_prob)))

    np.testing.assert_allclose(sentences(ours, logits, ref, reward), expected, atol=1e-13)
    assert np.abs(sentences(with_k3, logits, ref, reward) - expected).max() > 1e-3

    # A penalty in the loss, per decision, does not see where decisions lead: another gradient.
    probability, data = jnp.asarray(law(logits)), batch(dtype=jnp.float64)
    data = po.types.Batch(**{**vars(data), "ref_log_prob": jnp.asarray(log_probs(ref))})
    term = po.sampled_kl_to_reference(reduce=lambda x, _: BETA * (probability * x.sum(-1)).sum())
    in_the_loss = jax.jit(jax.grad(lambda x: po.objective(model, term)(x, data)[0]))(logits)
    plain = sentences(lambda reward, **_: reward, logits, ref, reward)
    assert np.abs(plain + in_the_loss - expected).max() > 1e-3


def test_rewards_minus_a_kl_are_a_loop_and_spare_what_is_masked():
    rng = np.random.default_rng(4)
    reward, log_prob, ref_log_prob = rng.normal(size=(3, 4, 6))
    mask = rng.random((4, 6)) < 0.6
    log_prob[~mask] = np.nan
    ref_log_prob[~mask] = -np.inf
    arrays = {"reward": reward, "log_prob": log_prob, "ref_log_prob": ref_log_prob, "mask": mask}
    found = np.asarray(po.reward_minus_kl(**{k: jnp.asarray(x) for k, x in arrays.items()}, beta=0.7))
    for index in np.ndindex(4, 6):
        spent = log_prob[index] - ref_log_prob[index] if mask[index] else 0.0
        np.testing.assert_allclose(found[index], reward[index] - 0.7 * spent, rtol=1e-12)
    with pytest.raises(ValueError, match="reward_minus_kl: ref_log_prob must have shape"):
        po.reward_minus_kl(**{**arrays, "ref_log_prob": ref_log_prob[:1]}, beta=0.7)
    with pytest.raises(ValueError, match="reward_minus_kl: beta must be at least 0"):
        po.reward_minus_kl(**arrays, beta=-0.7)
