"""The formulas of the objectives: clipping, stop-gradients, preferences, groups and reductions, against numpy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_mdp import log_softmax, relative_error

import polopt_jax as po
from polopt_jax.surrogates import LOG_RATIO_LIMIT
from polopt_jax.surrogates._ratio import expm1_with_tangent

N = 20
GROUP = (3, 4, 5)  # prompts, attempts, tokens
ACTIONS = 6
pytestmark = pytest.mark.usefixtures("x64")


def numpy_log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def pick(log_p, action):
    return np.take_along_axis(log_p, action[..., None], axis=-1)[..., 0]


def ragged(rng, shape):
    """Masks [..., T] of rows of random length from 0 to T, of which the first along the last axis are full."""
    length = rng.integers(0, shape[-1] + 1, shape[:-1])
    length[..., 0] = shape[-1]
    return np.arange(shape[-1]) < length[..., None]


def data(rng, shape=GROUP, *, spread=1.0):
    """Random logits and every field of a batch, in numpy; `spread` is how far the old policy lies from the new."""
    logits = rng.normal(size=(*shape, ACTIONS))
    action = rng.integers(ACTIONS, size=shape)
    log_prob = pick(numpy_log_softmax(logits), action)
    return {
        "logits": logits,
        "outputs_value": rng.normal(size=shape),
        "action": action,
        "mask": ragged(rng, shape),
        "log_prob": log_prob + spread * rng.normal(size=shape),
        "advantage": rng.normal(size=shape),
        "value": rng.normal(size=shape),
        "target": rng.normal(size=shape),
        "ref_log_prob": log_prob + spread * rng.normal(size=shape),
    }


def stacked(seed, count=N, **keywords):
    """`count` of them, with a leading axis."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda *x: np.stack(x), *(data(rng, **keywords) for _ in range(count)))


def evaluate(term, fields):
    fields = dict(fields)
    outputs = po.Outputs(policy=po.Categorical(logits=fields.pop("logits")), value=fields.pop("outputs_value"))
    return term(outputs, po.Batch(obs=None, **fields))


def losses(term, fields):
    """Value, metrics and gradient in the logits, over the leading axis of instances."""

    @jax.jit
    @jax.vmap
    def both(logits, rest):
        return jax.value_and_grad(lambda x: evaluate(term, {**rest, "logits": x}), has_aux=True)(logits)

    rest = {k: v for k, v in fields.items() if k != "logits"}
    (value, metrics), gradient = both(fields["logits"], rest)
    return np.asarray(value), metrics, np.asarray(gradient)


def instances(fields):
    """One dictionary of arrays per instance, for the loops."""
    return [{k: v[i] for k, v in fields.items()} for i in range(len(fields["mask"]))]


# --- the clip --------------------------------------------------------------------------------------------------------


def quadrants(count=4000, edge=1e-6):
    """Single decisions with ratios on both sides of an asymmetric clip range, and advantages of both signs."""
    rng = np.random.default_rng(0)
    logits, action = rng.normal(size=(count, 1, ACTIONS)), rng.integers(ACTIONS, size=(count, 1))
    ratio, advantage = rng.uniform(0.3, 2.0, (count, 1)), rng.normal(size=(count, 1))
    low, high = rng.uniform(0.05, 0.4, (2, count))
    away = (np.abs(ratio[:, 0] - 1 + low) > edge) & (np.abs(ratio[:, 0] - 1 - high) > edge)
    assert away.all()
    log_p = numpy_log_softmax(logits)
    score = np.eye(ACTIONS)[action] - np.exp(log_p)
    log_prob = pick(log_p, action) - np.log(ratio)
    fields = {"logits": logits, "action": action, "log_prob": log_prob, "advantage": advantage}
    fields["ref_log_prob"] = log_prob
    return fields, ratio, score, low, high


@pytest.mark.parametrize("make", [po.ppo, lambda clip_eps: po.grpo(clip_eps=clip_eps, beta=0.0)], ids=["ppo", "grpo"])
def test_gradient_is_exactly_zero_where_clipped_and_the_policy_gradient_elsewhere(make):
    fields, ratio, score, low, high = quadrants()

    @jax.jit
    @jax.vmap
    def one(fields, low, high):
        def loss(logits):
            batch = po.Batch(obs=None, mask=jnp.ones(1, bool), **{k: v for k, v in fields.items() if k != "logits"})
            return make(clip_eps=(low, high))(po.Outputs(policy=po.Categorical(logits=logits)), batch)

        return jax.value_and_grad(loss, has_aux=True)(fields["logits"])

    (value, metrics), gradient = one(fields, low, high)
    advantage = fields["advantage"]
    clipped = ((advantage > 0) & (ratio > 1 + high[:, None])) | ((advantage < 0) & (ratio < 1 - low[:, None]))
    for sign in (advantage > 0, advantage < 0):
        for side in (ratio > 1 + high[:, None], ratio < 1 - low[:, None]):
            assert (sign & side).sum() > 100, "a quadrant is empty"
    assert not np.any(np.asarray(gradient)[clipped[:, 0]])
    expected = -(advantage * ratio)[..., None] * score
    np.testing.assert_allclose(gradient[~clipped[:, 0]], expected[~clipped[:, 0]], atol=1e-12)
    numpy_value = -np.minimum(ratio * advantage, np.clip(ratio, 1 - low[:, None], 1 + high[:, None]) * advantage)
    np.testing.assert_allclose(value, numpy_value[:, 0], atol=1e-13)
    np.testing.assert_array_equal(metrics["clip_fraction"], clipped[:, 0])


@pytest.mark.parametrize("make", [po.ppo, po.surrogate, lambda: po.grpo(beta=0.1)], ids=["ppo", "surrogate", "grpo"])
def test_log_ratios_are_exact_up_to_20_and_clamped_and_counted_beyond(make):
    log_ratio = np.array([-1e30, -1e3, -88.0, -20.001, -19.999, -3.0, 3.0, 19.999, 20.001, 88.0, 1e3, 1e30])
    advantage = -np.sign(log_ratio)  # the sides that no clip touches

    def one(log_ratio, advantage):
        def loss(logits):
            log_prob = jax.lax.stop_gradient(log_softmax(logits)[0, 2])
            batch = po.Batch(
                obs=None,
                action=jnp.array([2]),
                mask=jnp.ones(1, bool),
                log_prob=(log_prob - log_ratio)[None],
                ref_log_prob=log_prob[None],
                advantage=advantage[None],
            )
            return make()(po.Outputs(policy=po.Categorical(logits=logits)), batch)

        return jax.value_and_grad(loss, has_aux=True)(jnp.log(jnp.array([[0.2, 0.3, 0.5]])))

    (value, metrics), gradient = jax.jit(jax.vmap(one))(log_ratio, advantage)
    inside = np.abs(log_ratio) <= 20
    ratio = np.exp(np.clip(log_ratio, -20, 20))
    untouched = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    if make is po.surrogate:
        untouched = ratio * advantage
    np.testing.assert_allclose(value, -untouched, rtol=1e-9)
    expected = np.where(inside, -advantage * ratio, 0)[:, None, None] * np.array([-0.2, -0.3, 0.5])
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)
    assert not np.any(np.asarray(gradient)[~inside])
    np.testing.assert_array_equal(metrics["clamped_fraction"], ~inside)
    assert LOG_RATIO_LIMIT == 20


def test_an_infinite_clip_range_is_the_plain_surrogate():
    fields = stacked(1)
    ppo, surrogate = (losses(term, fields) for term in (po.ppo(clip_eps=jnp.inf), po.surrogate()))
    np.testing.assert_allclose(ppo[0], surrogate[0], rtol=1e-14)
    np.testing.assert_allclose(ppo[2], surrogate[2], atol=1e-14)
    clipped = losses(po.ppo(), fields)
    assert relative_error(clipped[2], surrogate[2]) > 1e-2


# --- at the old policy, all policy losses are one --------------------------------------------------------------------


def test_at_the_old_policy_every_policy_loss_has_the_gradient_of_reinforce():
    fields = stacked(2, spread=0.0)
    terms = {
        "reinforce": po.reinforce(),
        "actor_critic": po.actor_critic(value_weight=0.0, entropy_weight=0.0),
        "surrogate": po.surrogate(),
        "ppo": po.ppo(),
        "grpo": po.grpo(beta=0.0, reduce=po.token_mean),
    }
    found = {name: losses(term, fields) for name, term in terms.items()}
    reference = found["reinforce"][2]
    mean_advantage = [i["advantage"][i["mask"]].mean() for i in instances(fields)]
    assert np.abs(reference).max() > 1e-2
    for name, (value, _, gradient) in found.items():
        assert relative_error(gradient, reference) < 1e-14, name
        if name not in ("reinforce", "actor_critic"):
            np.testing.assert_allclose(value, -np.array(mean_advantage), rtol=1e-13, atol=1e-15)


def test_the_sampled_kl_has_the_score_outer_product_as_hessian():
    """Second derivative of `approx_kl` at the old policy: the empirical Fisher information of the samples."""
    fields = stacked(3, spread=0.0, shape=(4, 2))
    fields = {k: v[:, :, :] for k, v in fields.items()}

    def approx_kl(x, i):
        logits = jnp.broadcast_to(x, (4, 2, ACTIONS))
        return evaluate(po.surrogate(), {**i, "logits": logits})[1]["approx_kl"]

    table = np.random.default_rng(3).normal(size=(N, ACTIONS))
    log_p = numpy_log_softmax(table)
    fields["log_prob"] = np.stack([lp[a] for lp, a in zip(log_p, fields["action"], strict=True)])
    hessian = jax.jit(jax.vmap(jax.hessian(approx_kl)))(table, fields)
    for h, lp, i in zip(hessian, log_p, instances(fields), strict=True):
        scores = np.eye(ACTIONS)[i["action"][i["mask"]]] - np.exp(lp)
        np.testing.assert_allclose(h, scores.T @ scores / len(scores), atol=1e-13)


# --- constants -------------------------------------------------------------------------------------------------------

ALL_TERMS = {
    "reinforce": po.reinforce(),
    "actor_critic": po.actor_critic(),
    "surrogate": po.surrogate(),
    "ppo": po.ppo(),
    "grpo": po.grpo(),
    "value_loss": po.value_loss(),
    "clipped_value_loss": po.clipped_value_loss(),
    "entropy_bonus": po.entropy_bonus(),
    "dpo": po.dpo(),
}


@pytest.mark.parametrize("name", ALL_TERMS)
def test_the_batch_is_constant_and_the_heads_are_apart(name):
    """No term has a gradient in the data; a policy loss has none in the values, nor a value loss in the policy."""
    fields = stacked(4, shape=(2, 3, 5) if name == "dpo" else GROUP)
    floats = {k: v for k, v in fields.items() if v.dtype == np.float64}
    rest = {k: v for k, v in fields.items() if k not in floats}
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, rest: evaluate(ALL_TERMS[name], {**x, **rest})[0])))(floats, rest)
    moves = {"value_loss": {"outputs_value"}, "clipped_value_loss": {"outputs_value"}}
    moves |= {"actor_critic": {"logits", "outputs_value"}}
    for field, g in gradient.items():
        if field in moves.get(name, {"logits"}):
            assert np.abs(g).max(tuple(range(1, g.ndim))).min() > 1e-6, field
        else:
            assert not np.any(g), field


def test_estimators_are_constants():
    rng = np.random.default_rng(5)
    reward, value, following = jnp.asarray(rng.normal(size=(3, 6, 4)))
    flags = dict(zip(("terminated", "truncated"), jnp.asarray(rng.random((2, 6, 4)) < 0.2), strict=True))

    def everything(reward, value, following):
        parts = [
            *po.gae(reward=reward, value=value, next_value=following, **flags),
            po.discounted_returns(reward=reward, next_value=following, **flags),
            po.group_relative(reward),
            po.group_centred(reward),
            po.leave_one_out(reward),
        ]
        return sum(jnp.sum(jnp.sin(x)) for x in parts)

    for gradient in jax.jit(jax.grad(everything, argnums=(0, 1, 2)))(reward, value, following):
        assert not np.any(gradient)


# --- the critic ------------------------------------------------------------------------------------------------------


def test_value_losses_equal_a_numpy_loop():
    fields = stacked(6)
    plain, clipped = losses(po.value_loss(), fields), losses(po.clipped_value_loss(clip_eps=0.3), fields)
    gradient = jax.grad(lambda v, f: evaluate(po.clipped_value_loss(clip_eps=0.3), {**f, "outputs_value": v})[0])
    gradient = jax.jit(jax.vmap(gradient))(fields["outputs_value"], fields)
    for k, i in enumerate(instances(fields)):
        total = worst = beyond = mean = 0.0
        expected = np.zeros(GROUP)
        number = i["mask"].sum()
        for index in np.argwhere(i["mask"]):
            v, old, target = (i[name][tuple(index)] for name in ("outputs_value", "value", "target"))
            near = old + min(max(v - old, -0.3), 0.3)
            total += 0.5 * (v - target) ** 2
            worst += 0.5 * max((v - target) ** 2, (near - target) ** 2)
            beyond += abs(v - old) > 0.3
            mean += v
            moving = abs(v - old) <= 0.3 or (v - target) ** 2 >= (near - target) ** 2
            expected[tuple(index)] = (v - target) / number if moving else 0.0
        np.testing.assert_allclose(plain[0][k], total / number, rtol=1e-13)
        np.testing.assert_allclose(clipped[0][k], worst / number, rtol=1e-13)
        np.testing.assert_allclose(clipped[1]["clip_fraction"][k], beyond / number, rtol=1e-6)
        np.testing.assert_allclose(clipped[1]["value_mean"][k], mean / number, rtol=1e-12)
        np.testing.assert_allclose(gradient[k], expected, atol=1e-14)
    assert np.any(clipped[0] > plain[0] + 1e-3)


# --- DPO -------------------------------------------------------------------------------------------------------------


def preferences(seed, **keywords):
    return stacked(seed, shape=(2, 6, 5), **keywords)


def test_dpo_gradient_is_the_one_assembled_by_hand():
    fields = preferences(7)
    beta = 0.7
    value, metrics, gradient = losses(po.dpo(beta=beta), fields)
    for k, i in enumerate(instances(fields)):
        log_p = numpy_log_softmax(i["logits"])
        row_ratio = np.where(i["mask"], pick(log_p, i["action"]) - i["ref_log_prob"], 0).sum(-1)
        margin = beta * (row_ratio[0] - row_ratio[1])
        valid = i["mask"].any(-1).all(0)
        sigma = 1 / (1 + np.exp(margin))  # σ(-margin)
        score = (np.eye(ACTIONS)[i["action"]] - np.exp(log_p)) * i["mask"][..., None]
        expected = beta * (sigma * valid)[None, :, None, None] * score / valid.sum()
        expected[0] *= -1
        np.testing.assert_allclose(gradient[k], expected, atol=1e-13)
        np.testing.assert_allclose(value[k], np.log1p(np.exp(-margin))[valid].mean(), rtol=1e-13)
        np.testing.assert_allclose(metrics["accuracy"][k], (margin[valid] > 0).mean(), rtol=1e-13)
        np.testing.assert_allclose(metrics["margin"][k], margin[valid].mean(), rtol=1e-12)
        np.testing.assert_allclose(metrics["chosen_log_ratio"][k], row_ratio[0][valid].mean(), rtol=1e-12)
        np.testing.assert_allclose(metrics["rejected_log_ratio"][k], row_ratio[1][valid].mean(), rtol=1e-12)


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-15), (False, 1e-7)])
def test_dpo_starts_with_margin_exactly_0_and_loss_log_2(wide, tolerance):
    with jax.enable_x64(wide):
        rng = np.random.default_rng(8)
        logits = jnp.asarray(rng.normal(size=(2, 6, 5, ACTIONS)), float)
        action, mask = jnp.asarray(rng.integers(ACTIONS, size=(2, 6, 5))), jnp.asarray(ragged(rng, (2, 6, 5)))
        policy = po.Categorical(logits=logits)
        batch = po.Batch(obs=None, action=action, mask=mask, ref_log_prob=policy.log_prob(action))
        loss, metrics = po.dpo()(po.Outputs(policy=policy), batch)
        assert float(metrics["margin"]) == 0.0
        assert float(metrics["accuracy"]) == 0.5
        assert abs(float(loss) - np.log(2)) <= tolerance


def test_swapping_a_pair_negates_the_margin_and_a_common_shift_of_the_reference_does_nothing():
    fields = preferences(9)
    term = po.dpo(beta=0.7)
    value, metrics, _ = losses(term, fields)
    swapped = losses(term, {k: v[:, ::-1] for k, v in fields.items()})
    np.testing.assert_allclose(swapped[1]["margin"], -metrics["margin"], rtol=1e-13)
    np.testing.assert_allclose(swapped[0] - value, metrics["margin"], rtol=1e-11)  # softplus(x) - softplus(-x) = x
    first = np.zeros_like(fields["ref_log_prob"])
    first[..., 0] = 3.7  # on the first token, which a row has or has not
    shifted = losses(term, {**fields, "ref_log_prob": fields["ref_log_prob"] + first})
    np.testing.assert_allclose(shifted[0], value, atol=1e-12)
    np.testing.assert_allclose(shifted[2], losses(term, fields)[2], atol=1e-12)


ARMS = 4


def expected_dpo(beta):
    """E[dpo] of a bandit: all ordered pairs of arms, preferred with the Bradley-Terry probability of their rewards."""
    chosen, rejected = np.nonzero(~np.eye(ARMS, dtype=bool))

    def loss(logits, ref, reward):
        def pair(i, j):
            action = jnp.stack([i, j])[:, None, None]
            batch = po.Batch(
                obs=None,
                action=action,
                mask=jnp.ones((2, 1, 1), bool),
                ref_log_prob=log_softmax(ref)[action],
            )
            outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits, (2, 1, 1, ARMS))))
            return po.dpo(beta=beta)(outputs, batch)[0]

        preferred = 1 / (1 + jnp.exp(reward[rejected] - reward[chosen]))
        return (preferred * jax.vmap(pair)(jnp.asarray(chosen), jnp.asarray(rejected))).mean()

    return loss


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-6)])
def test_dpo_is_stationary_at_the_regularised_optimum(wide, tolerance):
    """π* ∝ ref exp(r/β), the optimum of E[r] - β KL(π ‖ ref), with exact preference probabilities."""
    rng = np.random.default_rng(10)
    ref, reward = rng.normal(size=(2, 100, ARMS))
    with jax.enable_x64(wide):
        gradient = jax.jit(jax.vmap(jax.grad(expected_dpo(0.5))))
        ref, reward = jnp.asarray(ref, float), jnp.asarray(reward, float)
        assert np.abs(gradient(ref + reward / 0.5, ref, reward)).max() < tolerance
        assert np.abs(gradient(ref, ref, reward)).max(1).min() > 1e-3


def test_dpo_descends_to_the_regularised_optimum():
    rng = np.random.default_rng(11)
    ref, reward = rng.normal(size=(2, N, ARMS))
    gradient = jax.grad(expected_dpo(0.5))

    @jax.jit
    @jax.vmap
    def descend(ref, reward):
        return jax.lax.scan(lambda x, _: (x - 20.0 * gradient(x, ref, reward), None), ref, None, length=2000)[0]

    found = np.exp(numpy_log_softmax(np.asarray(descend(ref, reward))))
    optimum = np.exp(numpy_log_softmax(ref + reward / 0.5))
    assert (0.5 * np.abs(found - optimum).sum(1)).max() < 1e-3
    assert (0.5 * np.abs(np.exp(numpy_log_softmax(ref)) - optimum).sum(1)).min() > 1e-2


# --- groups ----------------------------------------------------------------------------------------------------------


def test_group_advantages_equal_numpy_and_sum_to_zero():
    reward = np.random.default_rng(12).normal(size=(50, 3, 7)) * 10 ** np.linspace(-3, 3, 50)[:, None, None]
    mean, std = reward.mean(-1, keepdims=True), reward.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(po.group_relative(reward), (reward - mean) / (std + 1e-6), rtol=1e-9, atol=1e-13)
    population = (reward - mean) / (reward.std(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(po.group_relative(reward, eps=1e-3, ddof=0), population, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(po.group_centred(reward), reward - mean, atol=1e-12 * np.abs(reward).max())
    others = (reward.sum(-1, keepdims=True) - reward) / 6
    np.testing.assert_allclose(po.leave_one_out(reward), reward - others, atol=1e-12 * np.abs(reward).max())
    assert np.abs(po.group_relative(reward).sum(-1)).max() < 1e-6 * 7


def test_centred_advantage_is_rloo_short_of_one_over_g():
    for size in (2, 3, 8, 17):
        reward = np.random.default_rng(size).normal(size=(N, size))
        shortened = (size - 1) / size * po.leave_one_out(reward)
        np.testing.assert_allclose(po.group_centred(reward), shortened, atol=1e-14)


NASTY = [0.0, -0.0, 0.1, 0.35, 1 / 3, 1e8, -1e8, 1e-30, 1e30, 16777217.0, 2.0**-149, 1e-7]


@pytest.mark.parametrize("wide", [True, False])
def test_a_group_of_equal_rewards_gives_exact_zeros(wide):
    @jax.jit
    def everything(reward):
        grpo = [po.group_relative(reward, **k) for k in ({}, {"eps": 0.0}, {"eps": 0.0, "ddof": 0})]
        return jnp.stack([*grpo, po.group_centred(reward), po.leave_one_out(reward)])

    with jax.enable_x64(wide):
        for size in (1, 2, 3, 7, 10, 33):
            reward = np.repeat(np.asarray(NASTY, np.float64 if wide else np.float32)[:, None], size, axis=1)
            np.testing.assert_array_equal(everything(reward), 0.0, err_msg=f"groups of {size}")
            naive = reward - np.cumsum(reward, axis=-1)[:, -1:] / reward.dtype.type(size)
            assert size < 7 or np.any(naive), "a plain mean leaves a residue: the test is not vacuous"


def test_a_group_of_both_zeros_is_a_group_of_equal_rewards():
    assert not np.any(po.group_relative(jnp.array([0.0, -0.0, 0.0]), eps=0.0))


def test_group_relative_golden_vectors():
    reward, root = jnp.array([0.0, 1.0]), np.sqrt(0.5)
    np.testing.assert_allclose(po.group_relative(reward, eps=0.0), [-root, root], rtol=1e-14)
    np.testing.assert_allclose(po.group_relative(reward, eps=0.0, ddof=0), [-1, 1], rtol=1e-14)
    np.testing.assert_allclose(po.leave_one_out(reward), [-1, 1])
    np.testing.assert_allclose(po.group_centred(reward), [-0.5, 0.5])


def test_group_relative_is_invariant_to_positive_affine_maps():
    rng = np.random.default_rng(13)
    reward, scale = rng.normal(size=(100, 6)), np.exp(rng.uniform(-2, 2, (100, 1)))
    shift, eps = 10 * rng.normal(size=(100, 1)), 1e-3
    exact = po.group_relative(reward, eps=0.0)
    np.testing.assert_allclose(po.group_relative(scale * reward + shift, eps=0.0), exact, atol=1e-12)
    np.testing.assert_allclose(po.group_relative(-scale * reward + shift, eps=0.0), -exact, atol=1e-12)
    # With ε, A = A₀ / (1 + ε/std): the two differ by that factor alone.
    std = reward.std(-1, ddof=1, keepdims=True)
    moved = po.group_relative(scale * reward + shift, eps=eps)
    np.testing.assert_allclose(moved, exact / (1 + eps / (scale * std)), atol=1e-12)
    assert np.abs(moved - exact).max() > 1e-4


@pytest.mark.parametrize("estimate", [po.group_relative, po.group_centred, po.leave_one_out])
def test_groups_are_equivariant_inside_and_independent_of_each_other(estimate):
    rng = np.random.default_rng(14)
    reward = rng.normal(size=(5, 6))
    plain, order, groups = np.asarray(estimate(reward)), rng.permutation(6), rng.permutation(5)
    np.testing.assert_allclose(estimate(reward[:, order]), plain[:, order], atol=1e-14)
    np.testing.assert_array_equal(estimate(reward[groups]), plain[groups])
    np.testing.assert_array_equal(estimate(reward.reshape(5, 1, 6))[:, 0], plain)
    mixed = reward.copy()
    mixed[[0, 1], 0] = reward[[1, 0], 0]
    assert np.abs(np.asarray(estimate(mixed))[:2, 1:] - plain[:2, 1:]).max() > 1e-2
    np.testing.assert_array_equal(np.asarray(estimate(mixed))[2:], plain[2:])
    poisoned = reward.copy()
    poisoned[3, 2] = np.nan
    others = np.arange(5) != 3
    np.testing.assert_array_equal(np.asarray(estimate(poisoned))[others], plain[others])


# --- reductions ------------------------------------------------------------------------------------------------------


def loops(x, mask):
    """The four reductions of per-token values [..., T], in Python."""
    rows = [
        (xr[mr], mr.sum()) for xr, mr in zip(x.reshape(-1, x.shape[-1]), mask.reshape(-1, x.shape[-1]), strict=True)
    ]
    full = [(values, n) for values, n in rows if n]
    return {
        "token_mean": sum(v.sum() for v, _ in full) / max(sum(n for _, n in full), 1),
        "sequence_mean": sum(v.sum() / n for v, n in full) / max(len(full), 1),
        "sequence_sum": sum(v.sum() for v, _ in full) / max(len(full), 1),
        "constant_length": sum(v.sum() for v, _ in full) / max(len(full), 1) / 9,
    }


REDUCTIONS = {
    "token_mean": po.token_mean,
    "sequence_mean": po.sequence_mean,
    "sequence_sum": po.sequence_sum,
    "constant_length": po.constant_length(9),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_equal_a_loop_and_the_four_differ(name):
    fields = stacked(15)
    found = jax.jit(jax.vmap(lambda x, mask: REDUCTIONS[name](x, po.Batch(obs=None, action=None, mask=mask))))
    x = np.where(fields["mask"], fields["advantage"], np.nan)
    values = found(x, fields["mask"])
    for k, i in enumerate(instances(fields)):
        expected = loops(i["advantage"], i["mask"])
        np.testing.assert_allclose(values[k], expected[name], rtol=1e-13)
        assert len({round(v, 9) for v in expected.values()}) == 4
    nothing = found(x, np.zeros_like(fields["mask"]))
    assert not np.any(nothing)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_accumulated_microbatches_equal_the_whole_batch(name):
    fields = stacked(16, shape=(8, 4, 5))
    term = po.grpo(beta=0.1, reduce=REDUCTIONS[name])
    whole_value, _, whole_gradient = losses(term, fields)

    @jax.jit
    @jax.vmap
    def accumulated(fields):
        rest = {k: v for k, v in fields.items() if k not in ("logits", "outputs_value")}
        batch = po.Batch(obs=jnp.arange(8)[:, None, None] + jnp.zeros((8, 4, 5), int), **rest)

        def model(logits, obs):  # obs holds the row, so that a share of the batch finds its logits
            return po.Outputs(policy=po.Categorical(logits=logits[obs[:, 0, 0]]))

        objective = po.accumulate_gradients(po.objective(model, term), 8)
        return jax.value_and_grad(lambda x: objective(x, batch)[0])(fields["logits"])

    value, gradient = accumulated(fields)
    np.testing.assert_allclose(value, whole_value, rtol=1e-12, atol=1e-14)
    assert relative_error(gradient, whole_gradient) < 1e-13


GRPO_FAMILY = {
    "GRPO": (dict(clip_eps=0.2, beta=0.04), "sequence_mean"),
    "Dr.GRPO": (dict(clip_eps=0.2, beta=0, reduce=po.constant_length(9)), "constant_length"),
    "DAPO": (dict(clip_eps=(0.2, 0.28), beta=0, reduce=po.token_mean), "token_mean"),
}


@pytest.mark.parametrize("name", GRPO_FAMILY)
def test_the_grpo_family_equals_numpy(name):
    keywords, reduction = GRPO_FAMILY[name]
    fields = stacked(17)
    estimate = po.group_centred if name == "Dr.GRPO" else po.group_relative
    reward = np.random.default_rng(17).normal(size=(N, *GROUP[:2]))
    fields["advantage"] = np.repeat(np.asarray(estimate(reward))[..., None], GROUP[2], axis=-1)
    value, metrics, _ = losses(po.grpo(**keywords), fields)
    low, high = keywords["clip_eps"] if isinstance(keywords["clip_eps"], tuple) else (0.2, 0.2)
    for k, i in enumerate(instances(fields)):
        centred = reward[k] - reward[k].mean(-1, keepdims=True)
        if name != "Dr.GRPO":
            centred = centred / (reward[k].std(-1, ddof=1, keepdims=True) + 1e-6)
        log_p = pick(numpy_log_softmax(i["logits"]), i["action"])
        ratio, to_ref = np.exp(log_p - i["log_prob"]), i["ref_log_prob"] - log_p
        gain = np.minimum(ratio * centred[..., None], np.clip(ratio, 1 - low, 1 + high) * centred[..., None])
        penalty = np.exp(to_ref) - to_ref - 1
        expected = -loops(gain - keywords["beta"] * penalty, i["mask"])[reduction]
        np.testing.assert_allclose(value[k], expected, rtol=1e-11, atol=1e-13)
        if name == "GRPO":
            np.testing.assert_allclose(metrics["ref_kl"][k], penalty[i["mask"]].mean(), rtol=1e-12)
        approx_kl = (ratio - 1 - np.log(ratio))[i["mask"]].mean()
        np.testing.assert_allclose(metrics["approx_kl"][k], approx_kl, rtol=1e-12)
        assert metrics["num_valid"][k] == i["mask"].sum()


def test_grpo_at_ratio_one_is_reinforce_with_the_group_mean_as_baseline():
    fields = stacked(18, spread=0.0)
    reward = np.random.default_rng(18).normal(size=(N, *GROUP[:2]))
    fields["advantage"] = np.repeat((reward - reward.mean(-1, keepdims=True))[..., None], GROUP[2], axis=-1)
    reinforce = losses(po.reinforce(reduce=po.sequence_mean), fields)[2]
    fields["advantage"] = np.repeat(np.asarray(po.group_centred(reward))[..., None], GROUP[2], axis=-1)
    assert relative_error(losses(po.grpo(beta=0.0), fields)[2], reinforce) < 1e-13
    fields["advantage"] = np.repeat(np.asarray(po.leave_one_out(reward))[..., None], GROUP[2], axis=-1)
    shortened = (GROUP[1] - 1) / GROUP[1] * losses(po.grpo(beta=0.0), fields)[2]
    assert relative_error(shortened, reinforce) < 1e-13


@pytest.mark.parametrize("name", ["reinforce", "surrogate", "ppo", "entropy_bonus"])
def test_policy_losses_equal_a_numpy_loop(name):
    fields = stacked(19)
    value = losses(ALL_TERMS[name], fields)[0]
    for k, i in enumerate(instances(fields)):
        total = 0.0
        for index in map(tuple, np.argwhere(i["mask"])):
            log_p = numpy_log_softmax(i["logits"][index])
            chosen, advantage = log_p[i["action"][index]], i["advantage"][index]
            ratio = np.exp(chosen - i["log_prob"][index])
            total += {
                "reinforce": -chosen * advantage,
                "surrogate": -ratio * advantage,
                "ppo": -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage),
                "entropy_bonus": (np.exp(log_p) * log_p).sum(),
            }[name]
        np.testing.assert_allclose(value[k], total / i["mask"].sum(), rtol=1e-11)


def test_actor_critic_is_the_sum_of_its_parts():
    fields = stacked(20)
    whole = losses(po.actor_critic(value_weight=0.7, entropy_weight=0.3), fields)[0]
    parts = [losses(ALL_TERMS[name], fields)[0] for name in ("reinforce", "value_loss", "entropy_bonus")]
    np.testing.assert_allclose(whole, parts[0] + 0.7 * parts[1] + 0.3 * parts[2], rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_the_exponential_goes_on_along_its_tangent():
    """Value and slope fit at 20; beyond, the slope stays e^20 and the value is a straight line."""
    function = expm1_with_tangent
    slope = jax.grad(function)
    np.testing.assert_allclose(function(20 + 1e-9), np.expm1(20 + 1e-9), rtol=1e-12)
    for x in (20.5, 30.0, 1e4):
        np.testing.assert_allclose(slope(x), np.exp(20), rtol=1e-12)
        np.testing.assert_allclose(function(x), np.expm1(20) + np.exp(20) * (x - 20), rtol=1e-12)
    for x in (-50.0, -1e-9, 3.0):
        # An older JAX has expm1(x) + 1 for the slope of expm1, which at -50 is 0 and not 2e-22.
        np.testing.assert_allclose((function(x), slope(x)), (np.expm1(x), np.exp(x)), rtol=1e-12, atol=1e-16)
