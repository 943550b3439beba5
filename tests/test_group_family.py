"""The variants of GRPO and what is done to their batches, against loops over rows and decisions, and as identities."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import A, ragged_mask

import polopt_jax as po
from polopt_jax.objectives import sequence_ratio, trajectory_ratio

GROUP = (4, 3, 5)
pytestmark = pytest.mark.usefixtures("x64")


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def example(leading=GROUP, seed=0, *, drift=0.8, per_row=False):
    """Outputs, batch, and log π of the actions; ragged, NaN under the mask, some advantages exactly 0."""
    rng = np.random.default_rng(seed)
    logits, action = 1.5 * rng.normal(size=(*leading, A)), rng.integers(A, size=leading)
    log_prob = np.take_along_axis(log_softmax(logits), action[..., None], -1)[..., 0]
    mask = ragged_mask(leading, rng)
    advantage = rng.normal(size=leading)
    advantage[..., 0] *= rng.random(leading[:-1]) < 0.8
    advantage = np.broadcast_to(advantage[..., :1], leading) if per_row else advantage
    field = lambda x: jnp.asarray(np.where(mask, x, np.nan))  # noqa: E731
    batch = po.Batch(
        obs=None,
        action=jnp.asarray(action),
        mask=jnp.asarray(mask),
        log_prob=field(log_prob - drift * rng.normal(size=leading)),
        advantage=field(advantage),
        ref_log_prob=field(log_prob - 0.5 * rng.normal(size=leading)),
        sampler_log_prob=field(log_prob - drift * rng.normal(size=leading)),
    )
    return po.Outputs(policy=po.Categorical(logits=jnp.asarray(logits))), batch, log_prob


def rows(batch):
    """Indices of rows with their real decisions."""
    mask = np.asarray(batch.mask)
    return [(index, mask[index]) for index in np.ndindex(mask.shape[:-1]) if mask[index].any()]


def evaluate(terms, outputs, batch):
    """`{name: ((loss, metrics), gradient with respect to the logits)}`, in one program."""
    both = lambda term: jax.value_and_grad(lambda o: term(o, batch), has_aux=True)(outputs)  # noqa: E731
    return {
        name: (value, np.asarray(gradient.policy.logits))
        for name, (value, gradient) in jax.jit(lambda: {name: both(term) for name, term in terms.items()})().items()
    }


# --- every member against a loop ----------------------------------------------------------------------------------


def clipped(rho, advantage, low, high):
    """min(ρA, clip(ρ)A) of one decision, and its derivative with respect to log ρ."""
    if advantage >= 0:
        return (rho * advantage, rho * advantage) if rho <= high else (high * advantage, 0.0)
    return (rho * advantage, rho * advantage) if rho >= low else (low * advantage, 0.0)


def clipped_tokens(low, high):
    def row(difference, advantage):
        gains = np.array([clipped(np.exp(d), a, low, high) for d, a in zip(difference, advantage, strict=True)])
        return gains[:, 0].sum(), gains[:, 1], gains[:, 1] == 0

    return row


def dual(low, high, cap):
    def decision(d, a):
        return (cap * a, 0.0) if a < 0 and np.exp(d) > cap else clipped(np.exp(d), a, low, high)

    def row(difference, advantage):
        gains = np.array([decision(d, a) for d, a in zip(difference, advantage, strict=True)])
        return gains[:, 0].sum(), gains[:, 1], gains[:, 1] == 0

    return row


def capped(cap):
    def row(difference, advantage):
        weight = np.array([min(np.exp(d), cap) for d in difference])
        return (weight * difference * advantage).sum(), weight * advantage, advantage == 0

    return row


def gated(positive, negative):
    def row(difference, advantage):
        total, slopes = 0.0, []
        for d, a in zip(difference, advantage, strict=True):
            temperature, rho = positive if a > 0 else negative, np.exp(d)
            p = 1 / (1 + np.exp(-temperature * (rho - 1)))
            total += 4 / temperature * p * a / len(difference)
            slopes.append(4 * p * (1 - p) * rho * a / len(difference))
        return total, np.array(slopes), advantage == 0

    return row


def sequence(low, high, *, length, own):
    """GSPO: one ratio; the mean over tokens (or the sum: `length`), and whose gradient a token has."""

    def row(difference, advantage):
        ratio, size = np.exp(difference.mean()), len(difference)
        gains = np.array([clipped(ratio, a, low, high) for a in advantage])
        scale = 1 if length else 1 / size
        slopes = gains[:, 1] * scale if own else np.full(size, gains[:, 1].sum() * scale / size)
        return gains[:, 0].sum() * scale, slopes, gains[:, 1] == 0

    return row


def geometric(low, high):
    def row(difference, advantage):
        kept = [min(d, high) if a > 0 else max(d, -low) for d, a in zip(difference, advantage, strict=True)]
        ratio = np.prod(np.exp(kept)) ** (1 / len(kept))
        free = np.array(kept) == difference
        slope = ratio * advantage.mean() / len(kept)
        return ratio * advantage.mean(), slope * free, ~free | (advantage == 0)

    return row


MEMBERS = {
    # name: (term, a row's part of the objective with its slopes and whether its gradient is removed, denominator)
    "dapo": (po.dapo(), clipped_tokens(0.8, 1.28), "decisions"),
    "dr_grpo": (po.dr_grpo(length=7.0, clip_eps=(0.3, 0.1)), clipped_tokens(0.7, 1.1), 7.0),
    "dual_clip": (po.dual_clip(clip_eps=(0.2, 0.3), cap=1.6), dual(0.8, 1.3, 1.6), "decisions"),
    "cispo": (po.cispo(cap=1.3), capped(1.3), "decisions"),
    "sapo": (po.sapo(temperature_positive=0.8, temperature_negative=1.7), gated(0.8, 1.7), "rows"),
    "gspo": (po.gspo(clip_eps=(0.1, 0.2)), sequence(0.9, 1.2, length=False, own=False), "rows"),
    "gspo_token": (po.gspo_token(clip_eps=(0.1, 0.2)), sequence(0.9, 1.2, length=False, own=True), "rows"),
    "luspo": (po.luspo(clip_eps=(0.1, 0.2)), sequence(0.9, 1.2, length=True, own=False), "rows"),
    "gmpo": (po.gmpo(log_clip=(0.4, 0.25)), geometric(0.4, 0.25), "rows"),
}
TERMS = {name: term for name, (term, _, _) in MEMBERS.items()}


def by_loop(row, denominator, outputs, batch, log_prob, advantage=None):
    """Loss, gradient with respect to the logits, and the share of decisions whose gradient was removed."""
    old, advantage = np.asarray(batch.log_prob), np.asarray(batch.advantage if advantage is None else advantage)
    policy = np.exp(log_softmax(np.asarray(outputs.policy.logits)))
    score = np.eye(A)[np.asarray(batch.action)] - policy
    count = {"decisions": np.asarray(batch.mask).sum(), "rows": len(rows(batch))}
    over = count[denominator] if denominator in count else count["rows"] * denominator
    loss, gradient, removed = 0.0, np.zeros_like(policy), 0
    for index, real in rows(batch):
        gain, slopes, gone = row((log_prob - old)[index][real], advantage[index][real])
        loss -= gain / over
        gradient[index][real] = -slopes[:, None] * score[index][real] / over
        removed += (gone & (advantage[index][real] != 0)).sum()
    return loss, gradient, removed / count["decisions"]


@pytest.fixture(scope="module")
def found():
    with jax.enable_x64(True):
        outputs, batch, log_prob = example()
        return evaluate(TERMS, outputs, batch), outputs, batch, log_prob


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_its_formula_value_and_gradient(name, found):
    results, outputs, batch, log_prob = found
    loss, gradient, removed = by_loop(*MEMBERS[name][1:], outputs, batch, log_prob)
    (value, metrics), actual = results[name]
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    np.testing.assert_allclose(actual, gradient, atol=1e-13)
    np.testing.assert_allclose(metrics["clip_fraction"], removed, rtol=1e-6)
    assert removed > 0 or name in ("cispo", "sapo")
    assert np.abs(gradient).max() > 1e-3
    if name == "cispo":
        difference = (log_prob - np.asarray(batch.log_prob))[np.asarray(batch.mask)]
        np.testing.assert_allclose(metrics["capped_fraction"], (np.exp(difference) > 1.3).mean(), rtol=1e-6)
        assert 0 < metrics["capped_fraction"] < 1


def test_the_defaults_are_the_papers():
    """What is left of a ratio of e^2 and of one of e^-2, in a row of two equal decisions."""
    zeros = jnp.zeros((1, 2))
    outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 2, 4))))

    def loss(term, log_ratio, advantage):
        batch = po.Batch(
            obs=None,
            action=zeros.astype(int),
            mask=jnp.ones((1, 2), bool),
            log_prob=jnp.log(0.25) - log_ratio * jnp.ones((1, 2)),
            advantage=advantage * jnp.ones((1, 2)),
        )
        return term(outputs, batch)[0]

    both_sides = {
        po.dapo(): (1.28, 0.8),
        po.dr_grpo(length=2.0): (1.2, 0.8),
        po.gspo(): (1.0004, 0.9997),
        po.gspo_token(): (1.0004, 0.9997),
        po.luspo(): (2 * 1.0025, 2 * 0.998),
        po.gmpo(): (np.exp(0.4), np.exp(-0.4)),
        po.dual_clip(): (1.2, 0.8),
    }
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    cases = [
        *[(term, 2.0, 1.0, -above) for term, (above, _) in both_sides.items()],
        *[(term, -2.0, -1.0, below) for term, (_, below) in both_sides.items()],
        (po.dual_clip(), 2.0, -1.0, 3.0),
        (po.cispo(), 2.0, -1.0, 5.0 * 2.0),
        (po.sapo(), 1.0, 1.0, -4 * sigmoid(np.e - 1)),
        (po.sapo(), 1.0, -1.0, 4 / 1.05 * sigmoid(1.05 * (np.e - 1))),
    ]
    found = jax.jit(lambda: [loss(*case[:3]) for case in cases])()
    np.testing.assert_allclose(found, [expected for *_, expected in cases], rtol=1e-12)


# --- identities ---------------------------------------------------------------------------------------------------


def test_at_ratio_one_every_member_has_the_policy_gradient():
    outputs, batch, log_prob = example(seed=1, per_row=True)
    batch = replace(batch, log_prob=jnp.asarray(log_prob))
    reductions = {
        **dict.fromkeys(("dapo", "dual_clip", "cispo"), po.token_mean),
        **dict.fromkeys(("sapo", "gspo", "gspo_token", "gmpo"), po.sequence_mean),
        "luspo": po.sequence_sum,
        "dr_grpo": po.constant_length(7.0),
    }
    plain = {f"reinforce {name}": po.reinforce(reduce=reduce) for name, reduce in reductions.items()}
    results = evaluate(TERMS | plain, outputs, batch)
    for name in MEMBERS:
        np.testing.assert_allclose(results[name][1], results[f"reinforce {name}"][1], atol=1e-14, err_msg=name)
        assert np.abs(results[name][1]).max() > 1e-3


def test_gspo_and_its_token_form_agree_where_a_row_has_one_advantage():
    outputs, batch, _ = example(seed=2, per_row=True)
    terms = {"row": po.gspo(clip_eps=0.1), "token": po.gspo_token(clip_eps=0.1)}
    results = evaluate(terms, outputs, batch)
    np.testing.assert_allclose(results["row"][1], results["token"][1], atol=1e-15)
    np.testing.assert_allclose(results["row"][0][0], results["token"][0][0], rtol=1e-14)
    assert 0 < results["row"][0][1]["clip_fraction"] < 1


def test_where_the_policy_that_acted_knew_no_action_the_token_form_is_what_gspo_is():
    """A log-probability of -inf of one decision: its row's ratio is at the limit in both, and no gradient is NaN."""
    outputs, batch, _ = example(seed=2, per_row=True)
    batch = replace(batch, log_prob=batch.log_prob.at[0, 0].set(-jnp.inf), mask=batch.mask.at[0, 0].set(True))
    results = evaluate({"row": po.gspo(clip_eps=0.1), "token": po.gspo_token(clip_eps=0.1)}, outputs, batch)
    assert np.isfinite(results["row"][0][0])
    np.testing.assert_allclose(results["row"][0][0], results["token"][0][0], rtol=1e-12)
    assert np.isfinite(results["token"][1]).all()


def test_without_a_bound_each_is_what_it_bounds():
    outputs, batch, _ = example(seed=3)
    terms = {
        "dual": po.dual_clip(clip_eps=0.2, cap=np.inf),
        "ppo": po.ppo(clip_eps=0.2),
        "cispo": po.cispo(cap=1e6),
        "surrogate": po.surrogate(),
        "dapo": po.dapo(clip_eps=np.inf),
    }
    results = evaluate(terms, outputs, batch)
    for ours, theirs in (("dual", "ppo"), ("dapo", "surrogate")):
        np.testing.assert_allclose(results[ours][0][0], results[theirs][0][0], rtol=1e-14)
    for ours, theirs in (("dual", "ppo"), ("cispo", "surrogate"), ("dapo", "surrogate")):
        np.testing.assert_allclose(results[ours][1], results[theirs][1], atol=1e-15)


def test_the_dual_clip_is_the_two_sided_clip():
    """min(min(ρ, δ)A, clip(ρ)A), for every δ of at least 1 + ε."""
    from polopt_jax.surrogates import dual_clipped_surrogate

    rho, advantage = np.meshgrid(np.exp(np.linspace(-3, 3, 200)), [-2.0, -0.5, 0.0, 0.5, 2.0])
    for delta in (1.3, 1.7, 4.0, 100.0):
        two_sided = np.minimum(np.minimum(rho, delta) * advantage, np.clip(rho, 0.8, 1.3) * advantage)
        ours = dual_clipped_surrogate(jnp.log(rho), jnp.asarray(advantage), clip_eps=(0.2, 0.3), cap=delta)
        np.testing.assert_allclose(ours, two_sided, atol=1e-13)


def test_a_bad_action_that_became_likely_costs_no_more_than_the_cap():
    outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((1, 4))))
    batch = po.Batch(
        obs=None,
        action=jnp.zeros(1, int),
        mask=jnp.ones(1, bool),
        log_prob=jnp.full(1, -15.0),
        advantage=-jnp.ones(1),
    )
    results = evaluate({"dual": po.dual_clip(cap=3.0), "ppo": po.ppo()}, outputs, batch)
    assert results["ppo"][0][0] > 1e5
    assert float(results["dual"][0][0]) == 3.0
    assert not results["dual"][1].any()


def test_a_penalty_to_the_reference_has_no_ratio_in_it():
    """Beside a sequence's ratio the penalty stays per token and unweighted: grpo's own, added."""
    outputs, batch, log_prob = example(seed=4, per_row=True)
    term = po.weighted_sum(policy=(1.0, po.gspo()), penalty=(1.0, po.grpo(beta=0.5)))
    (total, metrics), _ = evaluate({"sum": term}, outputs, replace(batch, advantage=0 * batch.advantage))["sum"]
    surplus = np.asarray(batch.ref_log_prob) - log_prob
    expected = np.mean([(np.exp(surplus) - 1 - surplus)[index][real].mean() for index, real in rows(batch)])
    np.testing.assert_allclose(total, 0.5 * expected, rtol=1e-12)
    assert float(metrics["policy/loss"]) == 0


# --- estimators ---------------------------------------------------------------------------------------------------


def estimated(estimate, *arrays, ddof=1, **hyper):
    return jax.jit(lambda *arrays, **hyper: estimate(*arrays, ddof=ddof, **hyper))(*arrays, **hyper)


def sample_std(x):
    return np.sqrt(sum((v - sum(x) / len(x)) ** 2 for v in x) / (len(x) - 1))


def test_batch_relative_is_relative_to_all_that_could_be_scored():
    reward = np.random.default_rng(0).normal(size=(4, 3)) * 5 + 2
    reward[1, 2], reward[3, 0] = np.nan, np.inf
    scored = reward[np.isfinite(reward)].tolist()
    expected = (reward - sum(scored) / len(scored)) / (sample_std(scored) + 1e-3)
    expected[~np.isfinite(reward)] = np.nan
    found = estimated(po.batch_relative, reward, eps=1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(estimated(po.batch_relative, reward.reshape(-1), eps=1e-3).reshape(4, 3), found)
    population = estimated(po.batch_relative, np.array([0.0, 2.0, 4.0]), eps=0.0, ddof=0)
    np.testing.assert_allclose(population, np.array([-2, 0, 2]) / np.sqrt(8 / 3), rtol=1e-14)
    assert not np.any(estimated(po.batch_relative, jnp.full((3, 2), 0.1)))
    for shape in ((), (0,), (2, 0)):
        with pytest.raises(ValueError, match="batch_relative: reward"):
            po.batch_relative(jnp.zeros(shape))


def test_reinforce_plus_plus_with_baseline_is_a_composition():
    reward = np.random.default_rng(1).normal(size=(4, 3)) + np.arange(4)[:, None]
    reward[2, 1] = np.nan
    centred = reward - np.nanmean(reward, axis=1, keepdims=True)
    scored = centred[np.isfinite(centred)].tolist()
    expected = centred / (sample_std(scored) + 1e-6)
    found = jax.jit(lambda x: po.batch_relative(po.group_centred(x)))(reward)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_decoupled_relative_by_loop():
    rng = np.random.default_rng(2)
    reward = rng.normal(size=(3, 4, 5)) * np.array([1.0, 50.0, 0.01])[:, None, None]
    reward[1, 2], weight = 7.0, np.array([1.0, 0.25, -2.0])
    reward[0, 1, 3] = np.nan  # one of three
    reward[:, 3, 0] = np.nan  # none of three
    reward[2, 0, :4] = np.inf  # a group of one
    total = np.zeros((4, 5))
    for k, n, g in product(range(3), range(4), range(5)):
        group = [r for r in reward[k, n] if np.isfinite(r)]
        if np.isfinite(reward[k, n, g]) and len(group) > 1:
            total[n, g] += weight[k] * (reward[k, n, g] - sum(group) / len(group)) / (sample_std(group) + 1e-4)
    total[3, 0] = np.nan
    scored = total[np.isfinite(total)].tolist()
    expected = (total - sum(scored) / len(scored)) / (sample_std(scored) + 1e-4)
    np.testing.assert_allclose(
        estimated(po.decoupled_relative, reward, weight, eps=1e-4), expected, rtol=1e-9, atol=1e-12
    )
    assert np.isnan(expected).sum() == 1
    for shapes in (((3,), (3,)), ((3, 4, 5), (4,)), ((3, 4, 5), ()), ((3, 4, 5), (3, 1))):
        with pytest.raises(ValueError, match="decoupled_relative: (reward|weight)"):
            po.decoupled_relative(*map(jnp.zeros, shapes))


def test_decoupled_rewards_tell_apart_what_their_sum_does_not():
    """(1, 0) and (0, 1) add up to the same; a rare reward is worth more where it is given."""
    reward = jnp.array([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 1.0, 0.0]]])
    together = estimated(po.group_relative, reward.sum(0))[0]
    apart = estimated(po.decoupled_relative, reward, jnp.ones(2))[0]
    assert together[0] == together[1]
    assert apart[0] > apart[1] + 0.1


def test_greedy_centred_and_what_cannot_be_scored():
    reward, greedy = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]]), np.array([2.0, -np.inf])
    np.testing.assert_array_equal(po.greedy_centred(reward, greedy), [[-1, np.nan, 1], [np.nan] * 3])
    with pytest.raises(ValueError, match="greedy must have shape"):
        po.greedy_centred(jnp.zeros((2, 3)), jnp.zeros((2, 1)))


@pytest.mark.parametrize(
    "estimate",
    [
        po.group_relative,
        po.group_centred,
        po.leave_one_out,
        po.batch_relative,
        lambda reward: po.greedy_centred(reward, [0.5, 1.0]),
        lambda reward: po.decoupled_relative([reward, reward], [1.0, 0.5]),
    ],
)
def test_rewards_may_be_lists_of_a_labeller(estimate):
    found = estimate([[0.0, 1.0, float("nan")], [2, 0, 1]])
    np.testing.assert_array_equal(found, estimate(np.array([[0.0, 1.0, np.nan], [2.0, 0.0, 1.0]]).tolist()))
    assert found.shape == (2, 3)
    np.testing.assert_array_equal(np.isnan(found), [[False, False, True], [False] * 3])


@pytest.mark.parametrize("estimate", ["remax", "rloo"])
def test_the_expected_gradient_is_that_of_the_expected_reward(estimate):
    """Over every group of two of three actions; the mean baseline of `group_centred` would give half of it."""
    logits, payoff = jnp.array([0.4, -0.3, 0.9]), jnp.array([1.0, 5.0, -2.0])
    exact = jax.grad(lambda x: jnp.vdot(jax.nn.softmax(x), payoff))(logits)
    groups = jnp.array(list(product(range(3), repeat=2)))
    reward = payoff[groups]
    advantage = {
        "rloo": po.leave_one_out(reward),
        "remax": po.greedy_centred(reward, jnp.full(9, payoff[jnp.argmax(logits)])),
    }[estimate]
    probability = jax.nn.softmax(logits)[groups].prod(-1)

    def loss(x, action, advantage):
        batch = po.Batch(obs=None, action=action[:, None], mask=jnp.ones((2, 1), bool), advantage=advantage[:, None])
        outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(x, (2, 1, 3))))
        return po.reinforce(reduce=po.sequence_sum)(outputs, batch)[0]

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(logits, groups, advantage)
    np.testing.assert_allclose(-(probability @ gradients), exact, atol=1e-14)


# --- corrections --------------------------------------------------------------------------------------------------

PPO = clipped_tokens(0.8, 1.2)


def correction_weights(batch, level, cap):
    difference = np.asarray(batch.log_prob - batch.sampler_log_prob)
    weight = np.full(difference.shape, np.nan)
    for index, real in rows(batch):
        own = difference[index][real]
        log_weight = {"token": own, "trajectory": own.sum(), "sequence": own.mean()}[level]
        weight[index][real] = np.minimum(np.exp(log_weight), cap)
    return weight


LEVELS = {"token": {}, "trajectory": {"ratio": trajectory_ratio}, "sequence": {"ratio": sequence_ratio}}


@pytest.fixture(scope="module")
def weighted():
    with jax.enable_x64(True):
        outputs, batch, log_prob = example(seed=5)
        terms = {
            level: po.truncated_importance_sampling(po.ppo(), cap=1.3, **options) for level, options in LEVELS.items()
        }
        return evaluate(terms, outputs, batch), outputs, batch, log_prob


@pytest.mark.parametrize("level", LEVELS)
def test_truncated_importance_sampling_by_loop(level, weighted):
    """Decisions are clipped by the ratio to π_old, not to the sampler."""
    results, outputs, batch, log_prob = weighted
    weight = correction_weights(batch, level, 1.3)
    loss, gradient, clip_fraction = by_loop(
        PPO, "decisions", outputs, batch, log_prob, weight * np.asarray(batch.advantage)
    )
    (value, metrics), actual = results[level]
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    np.testing.assert_allclose(actual, gradient, atol=1e-13)
    real = weight[np.asarray(batch.mask)]
    np.testing.assert_allclose(metrics["sampler_weight"], real.mean(), rtol=1e-12)
    np.testing.assert_allclose(metrics["truncated_fraction"], (real == 1.3).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["clip_fraction"], clip_fraction, rtol=1e-6)
    assert 0 < metrics["truncated_fraction"] < 1


def test_a_sampler_that_is_the_policy_needs_no_correction_and_the_default_cap_is_two():
    outputs, batch, _ = example(seed=6)
    term = po.truncated_importance_sampling(po.grpo())
    same = evaluate({"ours": term, "plain": po.grpo()}, outputs, replace(batch, sampler_log_prob=batch.log_prob))
    np.testing.assert_allclose(same["ours"][1], same["plain"][1], atol=1e-16)
    assert float(same["ours"][0][1]["sampler_weight"]) == 1
    assert float(same["ours"][0][1]["truncated_fraction"]) == 0
    far = replace(batch, sampler_log_prob=batch.log_prob - 30)
    (_, metrics), gradient = evaluate({"far": term}, outputs, far)["far"]
    assert float(metrics["sampler_weight"]) == 2
    assert np.isfinite(gradient).all()


def off_policy(batch, log_prob, sampled, threshold):
    """The advantage, 0 where the mask of DeepSeek-V3.2 is 0."""
    advantage = np.array(batch.advantage)
    silent = 0
    for index, real in rows(batch):
        drift = (np.asarray(sampled) - log_prob)[index][real].mean()
        for t in np.flatnonzero(real):
            if advantage[index][t] < 0 and drift > threshold:
                advantage[index][t] = 0
                silent += 1
    return advantage, silent / np.asarray(batch.mask).sum()


@pytest.mark.parametrize("recorded", [True, False])
def test_mask_off_policy_by_loop(recorded):
    """Denominators are those of all real decisions, and a penalty goes on."""
    outputs, batch, log_prob = example(seed=7)
    sampled = batch.sampler_log_prob if recorded else batch.log_prob
    batch = batch if recorded else replace(batch, sampler_log_prob=None)
    terms = {
        "ppo": po.mask_off_policy(po.ppo(), threshold=0.2),
        "grpo": po.mask_off_policy(po.grpo(beta=0.3), threshold=0.2),
        "none": po.mask_off_policy(po.ppo(), threshold=100.0),
        "plain": po.ppo(),
    }
    results = evaluate(terms, outputs, batch)
    advantage, share = off_policy(batch, log_prob, sampled, 0.2)
    loss, gradient, _ = by_loop(PPO, "decisions", outputs, batch, log_prob, advantage)
    (value, metrics), actual = results["ppo"]
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    np.testing.assert_allclose(actual, gradient, atol=1e-13)
    np.testing.assert_allclose(metrics["off_policy_fraction"], share, rtol=1e-6)
    assert 0 < share < 0.5
    assert np.abs(actual - results["plain"][1]).max() > 1e-3
    np.testing.assert_array_equal(results["none"][1], results["plain"][1])
    surplus = np.asarray(batch.ref_log_prob) - log_prob
    penalty = np.mean([(np.exp(surplus) - 1 - surplus)[index][real].mean() for index, real in rows(batch)])
    mean_row = lambda d, a: (PPO(d, a)[0] / len(d), PPO(d, a)[1], PPO(d, a)[2])  # noqa: E731
    policy = by_loop(mean_row, "rows", outputs, batch, log_prob, advantage)[0]
    np.testing.assert_allclose(results["grpo"][0][0], policy + 0.3 * penalty, rtol=1e-12)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.8, 1.0])
def test_mask_low_entropy_by_loop(quantile):
    outputs, batch, log_prob = example(seed=8)
    term = po.mask_low_entropy(po.ppo(), quantile=quantile)
    (value, metrics), actual = evaluate({"masked": term}, outputs, batch)["masked"]
    policy, mask = np.exp(log_softmax(np.asarray(outputs.policy.logits))), np.asarray(batch.mask)
    entropy = -(policy * np.log(policy)).sum(-1)
    kept = entropy >= np.quantile(entropy[mask], quantile) - 1e-12
    loss, gradient, _ = by_loop(
        PPO, "decisions", outputs, batch, log_prob, np.where(kept, np.asarray(batch.advantage), 0)
    )
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    np.testing.assert_allclose(actual, gradient, atol=1e-13)
    np.testing.assert_allclose(metrics["kept_fraction"], kept[mask].mean(), rtol=1e-6)
    assert (metrics["kept_fraction"] == 1) == (quantile == 0)


def test_equal_entropies_are_all_kept_and_the_default_keeps_a_fifth():
    _, batch, _ = example(seed=9)
    uniform = po.Outputs(policy=po.Categorical(logits=jnp.zeros((*GROUP, A))))
    (_, metrics), _ = evaluate({"masked": po.mask_low_entropy(po.ppo())}, uniform, batch)["masked"]
    assert float(metrics["kept_fraction"]) == 1
    logits = jnp.zeros((100, A)).at[:, 0].set(jnp.arange(100) / 20)
    batch = po.Batch(obs=None, action=jnp.zeros(100, int), mask=jnp.ones(100, bool), advantage=jnp.ones(100))
    outputs = po.Outputs(policy=po.Categorical(logits=logits))
    (_, metrics), gradient = evaluate({"masked": po.mask_low_entropy(po.reinforce())}, outputs, batch)["masked"]
    np.testing.assert_allclose(metrics["kept_fraction"], 0.2, rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(np.abs(gradient).sum(-1)), np.arange(20))


def test_corrections_nest_in_any_order():
    outputs, batch, _ = example(seed=10)
    weigh = lambda term: po.truncated_importance_sampling(term, cap=1.3)  # noqa: E731
    mask = lambda term: po.mask_off_policy(term, threshold=0.2)  # noqa: E731
    results = evaluate({"one": weigh(mask(po.cispo())), "other": mask(weigh(po.cispo()))}, outputs, batch)
    np.testing.assert_allclose(results["one"][1], results["other"][1], atol=1e-15)
    (_, one), (_, other) = results["one"][0], results["other"][0]
    assert set(one) == set(other) >= {"off_policy_fraction", "truncated_fraction", "capped_fraction"}


@pytest.mark.parametrize(
    "make",
    [po.truncated_importance_sampling, po.mask_low_entropy, lambda term: po.mask_off_policy(term, threshold=1.0)],
)
def test_what_is_no_term_is_refused_by_name(make):
    outputs, batch, _ = example(seed=11)
    for wrong in (0.5, lambda outputs: outputs):
        with pytest.raises(TypeError, match="(truncated_importance_sampling|mask_low_entropy|mask_off_policy).*term"):
            make(wrong)
    with pytest.raises((TypeError, ValueError), match="(truncated|mask_).*term"):
        make(lambda outputs, batch: jnp.zeros(()))(outputs, batch)


# --- under accumulation, and what is refused ----------------------------------------------------------------------


def test_every_separable_member_is_exact_under_accumulation():
    """Shares of a ragged batch in which no two weigh the same, all members in one sum; `test_combinators` sees that the
    mean of the shares' own means would be something else."""
    outputs, batch, log_prob = example((6, 2, 5), seed=12)
    mask = np.array(batch.mask)
    mask[0, :, 1:], mask[1] = False, False
    obs = jnp.asarray(np.random.default_rng(13).normal(size=(6, 2, 5, A)))
    clean = lambda x: jnp.where(jnp.isnan(x), -1.0, x)  # noqa: E731
    batch = jax.tree.map(lambda x: clean(x) if x.dtype == jnp.float64 else x, replace(batch, obs=obs))
    batch = replace(batch, mask=jnp.asarray(mask))
    terms = TERMS | {
        "weighed": po.truncated_importance_sampling(po.dapo(), cap=1.3),
        "weighed rows": po.truncated_importance_sampling(po.gspo(clip_eps=0.1), cap=1.3, ratio=trajectory_ratio),
        "masked": po.mask_off_policy(po.grpo(), threshold=0.1),
    }
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))  # noqa: E731
    params = jnp.asarray(np.random.default_rng(14).normal(size=(A, A)))
    weights = np.random.default_rng(15).uniform(0.5, 1.5, len(terms))
    parts = {name: (w, term) for (name, term), w in zip(terms.items(), weights, strict=True)}
    whole = po.objective(model, po.weighted_sum(**parts))
    shares = po.accumulate_gradients(whole, 3)
    both = [jax.value_and_grad(f, has_aux=True) for f in (whole, shares)]
    expected, found = jax.jit(lambda p: [f(p, batch) for f in both])(params)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        rtol = 1e-6 if ours.dtype == jnp.float32 else 1e-11  # shares of decisions are float32
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-13)
    assert np.abs(expected[1]).max() > 1e-3
    with pytest.raises(ValueError, match="mask_low_entropy couples rows"):
        po.accumulate_gradients(po.objective(model, po.mask_low_entropy(po.ppo())), 3)(params, batch)


@pytest.mark.parametrize(
    ("make", "name", "bad"),
    [
        *[(make, "clip_eps", -0.1) for make in (po.dapo, po.gspo, po.gspo_token, po.luspo, po.dual_clip)],
        (lambda **k: po.dr_grpo(length=3.0, **k), "clip_eps", (0.1, -0.1)),
        (po.dr_grpo, "length", 0.0),
        (po.dual_clip, "cap", 1.0),
        (po.cispo, "cap", 0.2),
        (po.gmpo, "log_clip", -1.0),
        (po.sapo, "temperature_positive", 0.0),
        (po.sapo, "temperature_negative", np.nan),
        (lambda **k: po.truncated_importance_sampling(po.ppo(), **k), "cap", 0.0),
        (lambda **k: po.mask_off_policy(po.ppo(), **k), "threshold", -0.1),
        (lambda **k: po.mask_low_entropy(po.ppo(), **k), "quantile", 1.1),
    ],
)
def test_a_hyperparameter_out_of_its_range_is_refused_by_name(make, name, bad):
    with pytest.raises(ValueError, match=f": {name} must be"):
        make(**{name: bad})


@pytest.mark.parametrize("name", MEMBERS)
def test_errors_name_the_member(name):
    outputs, batch, _ = example(seed=15)
    with pytest.raises(ValueError, match=f"^{name} needs batch.advantage"):
        TERMS[name](outputs, replace(batch, advantage=None))
