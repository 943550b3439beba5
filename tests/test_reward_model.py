"""The loss of a reward model and the reward that it gives, against loops in numpy and a closed form."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import PAIRS, ragged_mask

import polopt_jax as po
from polopt_jax.masking import masked_last


def example(seed, leading=PAIRS):
    """`(value, mask)` of float64 and bool, with full, partial and empty rows."""
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=leading), ragged_mask(leading, rng)


def batch_of(mask):
    return po.Batch(obs=None, action=None, mask=jnp.asarray(mask))


def outputs_of(value):
    return po.Outputs(policy=None, value=jnp.asarray(value))


def last(value, mask):
    """The entry of one row that counts, and where it stands; None if there is none."""
    real = [t for t in range(len(mask)) if mask[t]]
    return (value[real[-1]], real[-1]) if real else None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_loss_is_its_formula_in_value_and_gradient(weight):
    value, mask = example(3)
    pairs = []
    for n in range(mask.shape[1]):
        rows = [last(value[side, n], mask[side, n]) for side in (0, 1)]
        if None not in rows:
            pairs.append((n, rows))
    assert 1 < len(pairs) < mask.shape[1]
    assert any(place < mask.shape[2] - 1 for _, rows in pairs for _, place in rows), "a row that is padded"
    total, expected = 0.0, np.zeros(value.shape)
    for n, ((c, at_c), (r, at_r)) in pairs:
        total += math.log1p(math.exp(r - c)) + weight * (c + r) ** 2
        wrong = 1 / (1 + math.exp(c - r))
        expected[0, n, at_c] = (-wrong + 2 * weight * (c + r)) / len(pairs)
        expected[1, n, at_r] = (wrong + 2 * weight * (c + r)) / len(pairs)

    term = po.reward_model_loss(centring_weight=weight)
    found = jax.jit(jax.value_and_grad(lambda x: term(outputs_of(x), batch_of(mask)), has_aux=True))
    (loss, metrics), gradient = found(value)
    np.testing.assert_allclose(loss, total / len(pairs), rtol=1e-13)
    np.testing.assert_allclose(gradient, expected, atol=1e-15)
    scores = np.array([[c, r] for _, ((c, _), (r, _)) in pairs])
    np.testing.assert_allclose(metrics["chosen_reward"], scores[:, 0].mean(), rtol=1e-13)
    np.testing.assert_allclose(metrics["rejected_reward"], scores[:, 1].mean(), rtol=1e-13)
    np.testing.assert_allclose(metrics["margin"], (scores[:, 0] - scores[:, 1]).mean(), rtol=1e-13)
    np.testing.assert_allclose(metrics["accuracy"], (scores[:, 0] > scores[:, 1]).mean(), rtol=1e-13)
    assert int(metrics["num_valid"]) == mask.sum()


@pytest.mark.usefixtures("x64")
def test_at_the_optimum_the_rewards_are_the_log_odds_of_the_preferences():
    """Of three answers, a was preferred to b in 3 of 4 pairs and b to c in 4 of 5: so r_a - r_b = log 3.

    Centring draws the sum of a pair to 0; a little of it hardly moves the differences.
    """
    a, b, c = 0, 1, 2
    chosen, rejected = zip(*[(a, b)] * 3, (b, a), *[(b, c)] * 4, (c, b), strict=True)
    answers = jnp.array([chosen, rejected])
    batch = po.Batch(obs=answers[..., None], action=None, mask=jnp.ones((2, len(chosen), 1), bool))

    def model(rewards, obs):
        return po.Outputs(policy=None, value=rewards[obs])

    def learnt(weight):
        step = po.make_step((po.objective(model, po.reward_model_loss(centring_weight=weight)), optax.lbfgs()))

        def update(carry, _):
            return step.update(*carry, batch, None)[:2], None

        start = jnp.array([5.0, 4.0, 6.0])
        return jax.jit(lambda: jax.lax.scan(update, (start, step.init(start)), length=40)[0][0])()

    free, centred = learnt(0.0), learnt(1e-3)
    np.testing.assert_allclose([free[a] - free[b], free[b] - free[c]], np.log([3, 4]), atol=1e-6)
    np.testing.assert_allclose([centred[a] - centred[b], centred[b] - centred[c]], np.log([3, 4]), atol=0.05)
    assert float(jnp.abs(free.mean())) > 3, "no pair says what the rewards are together"
    assert float(jnp.abs(centred.mean())) < 0.5


def test_a_penalty_of_no_weight_does_not_overflow():
    value, batch = np.array([[[1e30]], [[0.0]]], np.float32), batch_of(np.ones((2, 1, 1), bool))
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: po.reward_model_loss()(outputs_of(x), batch)[0]))(value)
    assert float(loss) == 0
    assert np.isfinite(gradient).all()


def test_half_a_pair_is_left_out_whatever_its_reward_is():
    value = jnp.array([[[jnp.inf], [1.0]], [[2.0], [3.0]]])
    batch = batch_of(np.array([[[True], [True]], [[False], [True]]]))
    term = po.reward_model_loss(centring_weight=0.1)
    loss, gradient = jax.value_and_grad(lambda x: term(outputs_of(x), batch)[0])(value)
    np.testing.assert_allclose(loss, math.log1p(math.exp(2.0)) + 0.1 * 16, rtol=1e-6)
    assert np.isfinite(gradient[:, 1]).all()
    assert not np.asarray(gradient[:, 0]).any()


def test_a_model_without_a_value_is_refused():
    _, mask = example(0)
    with pytest.raises(ValueError, match=r"reward_model_loss needs outputs\.value"):
        po.reward_model_loss()(po.Outputs(policy=None), batch_of(mask))
    with pytest.raises(ValueError, match="reward_model_loss: centring_weight must be at least 0"):
        po.reward_model_loss(centring_weight=-0.1)


# --- what was learnt, as a reward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", [(7, 4), (3, 2, 4), (4,)])
def test_the_reward_is_the_last_real_value_and_nan_where_there_is_none(leading):
    value, mask = example(1, leading)
    mask = mask if len(leading) > 1 else np.array([True, True, False, False])
    found = np.asarray(
        po.modelled_reward(outputs_of(np.where(mask, value, np.nan).astype(np.float32)), jnp.asarray(mask))
    )
    assert found.shape == leading[:-1]
    rows = zip(value.reshape(-1, leading[-1]), mask.reshape(-1, leading[-1]), found.reshape(-1), strict=True)
    empty = 0
    for row, real, reward in rows:
        if last(row, real) is None:
            empty += 1
            assert np.isnan(reward)
        else:
            np.testing.assert_allclose(reward, last(row, real)[0], rtol=1e-6)
    assert empty == (1 if len(leading) > 1 else 0)


def test_the_loss_and_the_reward_read_the_same_entry():
    value, mask = example(5)
    rewards = np.asarray(po.modelled_reward(outputs_of(value.astype(np.float32)), jnp.asarray(mask)))
    complete = np.isfinite(rewards).all(0)
    assert 0 < complete.sum() < len(complete)
    metrics = po.reward_model_loss()(outputs_of(value.astype(np.float32)), batch_of(mask))[1]
    np.testing.assert_allclose(metrics["chosen_reward"], rewards[0, complete].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["rejected_reward"], rewards[1, complete].mean(), rtol=1e-6)


def test_a_group_goes_on_without_the_row_that_has_no_reward():
    mask = jnp.ones((1, 3, 2), bool).at[0, 1].set(False)
    reward = po.modelled_reward(outputs_of(jnp.array([[[0.0, 1.0], [0.0, 9.0], [0.0, 3.0]]])), mask)
    assert reward.shape == (1, 3)
    advantage = np.asarray(po.group_centred(reward))
    np.testing.assert_allclose(advantage[0, [0, 2]], [-1.0, 1.0], rtol=1e-6)
    assert np.isnan(advantage[0, 1])


def test_a_reward_has_no_gradient():
    value, mask = example(2)
    gradient = jax.grad(lambda x: jnp.nansum(po.modelled_reward(outputs_of(x), jnp.asarray(mask))))(jnp.asarray(value))
    assert not np.asarray(gradient).any()


def test_what_is_no_reward_model_is_refused():
    value, mask = example(0)
    with pytest.raises(ValueError, match=r"modelled_reward needs outputs\.value"):
        po.modelled_reward(po.Outputs(policy=None), jnp.asarray(mask))
    with pytest.raises(ValueError, match=r"modelled_reward: outputs\.value must have shape"):
        po.modelled_reward(outputs_of(value[0]), jnp.asarray(mask))
    with pytest.raises(TypeError, match="modelled_reward: mask must be boolean"):
        po.modelled_reward(outputs_of(value), jnp.asarray(mask, jnp.float32))
    with pytest.raises(ValueError, match="modelled_reward: mask must have at least a time axis"):
        po.modelled_reward(replace(outputs_of(value), value=jnp.zeros(())), jnp.array(True))


def test_the_last_entry_of_a_mask_with_holes():
    x = jnp.array([[1.0, 2.0, 3.0, jnp.inf], [4.0, jnp.nan, jnp.nan, jnp.nan], [5.0, 6.0, 7.0, 8.0]])
    mask = jnp.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]], bool)
    assert masked_last(x, mask).tolist() == [3.0, 4.0, 8.0]
    with pytest.raises(ValueError, match="masked_last: x must have shape"):
        masked_last(x[0], mask)


# --- an answer that comes near the longest allowed --------------------------------------------------------------------


def told(length, longest, margin):
    """Equation 13 of DAPO's paper, in its words: L_max, and L_cache below it."""
    if length <= longest - margin:
        return 0.0
    return ((longest - margin) - length) / margin if length <= longest else -1.0


@pytest.mark.parametrize(("longest", "margin"), [(8, 3), (8, 8), (5, 1), (12, 4)])
def test_the_penalty_of_length_is_the_papers(longest, margin):
    mask = np.arange(12) < np.arange(13)[:, None]
    mask = np.random.default_rng(0).permuted(mask, axis=1)  # it is the number of tokens, wherever they stand
    found = np.asarray(po.overlong_penalty(jnp.asarray(mask).reshape(13, 1, 12), max_length=longest, margin=margin))
    assert found.shape == (13, 1)
    np.testing.assert_allclose(found[:, 0], [told(n, longest, margin) for n in range(13)], rtol=1e-6)


def test_a_penalty_of_no_length_is_refused():
    mask = jnp.ones((2, 4), bool)
    for numbers, said in (
        ({"max_length": 4, "margin": 5}, "margin must be at most max_length=4; it is 5"),
        ({"max_length": 4, "margin": 0}, "margin must be at least 1; it is 0"),
        ({"max_length": 2.5, "margin": 1}, "max_length must be a whole number; it is 2.5"),
    ):
        with pytest.raises(ValueError, match=f"overlong_penalty: {said}"):
            po.overlong_penalty(mask, **numbers)
    with pytest.raises(TypeError, match="overlong_penalty: mask must be boolean"):
        po.overlong_penalty(jnp.ones((2, 4)), max_length=4, margin=1)
