"""The two seams on their own: members of either family that the library does not name, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import PAIRS, A, ragged_mask

import polopt_jax as po
from polopt_jax.masking import masked_mean
from polopt_jax.objectives import summed_log_ratio, token_ratio

GROUP = (3, 2, 5)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def example(leading, seed=0):
    rng = np.random.default_rng(seed)
    logits, action = rng.normal(size=(*leading, A)), rng.integers(A, size=leading)
    log_prob = np.take_along_axis(log_softmax(logits), action[..., None], -1)[..., 0]
    batch = po.Batch(
        obs=None,
        action=jnp.asarray(action),
        mask=jnp.asarray(ragged_mask(leading, rng)),
        log_prob=jnp.asarray(log_prob - 0.5 * rng.normal(size=leading)),
        advantage=jnp.asarray(rng.normal(size=leading)),
        ref_log_prob=jnp.asarray(log_prob - 0.5 * rng.normal(size=leading)),
    )
    return po.Outputs(policy=po.Categorical(logits=jnp.asarray(logits))), batch, log_prob


def rows(batch):
    """Indices of rows with their real decisions."""
    mask = np.asarray(batch.mask)
    return [(index, mask[index]) for index in np.ndindex(mask.shape[:-1]) if mask[index].any()]


def sequence_ratio(difference, batch):
    mean = masked_mean(difference, batch.mask, axis=-1)
    return jnp.broadcast_to(mean[..., None], difference.shape)


@pytest.mark.usefixtures("x64")
def test_a_ratio_of_the_whole_row_makes_gspo():
    """One ratio per sequence, exp of the mean log-ratio, clipped; the mean over sequences. Value and gradient."""
    outputs, batch, log_prob = example(GROUP)
    gain = lambda log_ratio, advantage: jnp.minimum(  # noqa: E731
        jnp.exp(log_ratio) * advantage, jnp.clip(jnp.exp(log_ratio), 0.9, 1.1) * advantage
    )
    term = po.ratio_term(gain, ratio=sequence_ratio, reduce=po.sequence_mean)
    (loss, metrics), gradient = jax.jit(jax.value_and_grad(lambda o: term(o, batch), has_aux=True))(outputs)
    old, advantage = np.asarray(batch.log_prob), np.asarray(batch.advantage)
    total, expected = 0.0, np.zeros((*GROUP, A))
    score = np.eye(A)[np.asarray(batch.action)] - np.exp(log_softmax(np.asarray(outputs.policy.logits)))
    clipped = 0
    for index, real in rows(batch):
        ratio = np.exp((log_prob - old)[index][real].mean())
        gains = np.minimum(ratio * advantage[index], np.clip(ratio, 0.9, 1.1) * advantage[index])[real]
        total -= gains.mean() / len(rows(batch))
        lost = ((advantage[index] > 0) & (ratio > 1.1)) | ((advantage[index] < 0) & (ratio < 0.9))
        clipped += (lost & real).sum()
        slope = (np.where(lost, 0, advantage[index]) * ratio)[real].mean()
        expected[index][real] = -slope * score[index][real] / real.sum() / len(rows(batch))
    np.testing.assert_allclose(loss, total, rtol=1e-12)
    np.testing.assert_allclose(gradient.policy.logits, expected, atol=1e-13)
    np.testing.assert_allclose(metrics["clip_fraction"], clipped / np.asarray(batch.mask).sum(), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_ppo_surrogate_and_grpo_are_members_of_the_ratio_family():
    outputs, batch, _ = example(GROUP, seed=1)
    rho = lambda log_ratio, advantage: jnp.exp(log_ratio) * advantage  # noqa: E731
    clip = lambda log_ratio, advantage: jnp.minimum(  # noqa: E731
        rho(log_ratio, advantage), jnp.clip(jnp.exp(log_ratio), 0.8, 1.2) * advantage
    )
    pairs = {
        "surrogate": (po.surrogate(), po.ratio_term(rho)),
        "ppo": (po.ppo(), po.ratio_term(clip, ratio=token_ratio, reduce=po.token_mean)),
        "grpo": (po.grpo(beta=0.0), po.ratio_term(clip, reduce=po.sequence_mean)),
    }
    for name, (named, spelled) in pairs.items():
        ours, theirs = named(outputs, batch), spelled(outputs, batch)
        np.testing.assert_array_equal(ours[0], theirs[0], err_msg=name)
        for metric, value in theirs[1].items():
            np.testing.assert_array_equal(ours[1][metric], value, err_msg=f"{name} {metric}")


def test_grpos_penalty_does_not_depend_on_the_type_of_beta():
    outputs, batch, _ = example(GROUP, seed=2)
    values = [jax.jit(po.grpo(beta=beta))(outputs, batch) for beta in (0, 0.0, np.float32(0), jnp.zeros(()))]
    for value in values[1:]:
        assert jax.tree.map(float, value) == jax.tree.map(float, values[0])
    for beta in (0, jnp.zeros(())):
        with pytest.raises(ValueError, match="grpo needs batch.ref_log_prob"):
            jax.eval_shape(po.grpo(beta=beta), outputs, po.Batch(**{**vars(batch), "ref_log_prob": None}))


LINKS = {
    "IPO": (lambda chosen, rejected: (chosen - rejected - 1 / (2 * 0.1)) ** 2, 1.0),
    "hinge": (lambda chosen, rejected: jnp.maximum(1 - (chosen - rejected), 0), 0.4),
    "both scores": (lambda chosen, rejected: jax.nn.softplus(-chosen) + jax.nn.softplus(rejected), 0.4),
}


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.usefixtures("x64")
def test_a_link_of_two_scores_makes_a_preference_loss(name):
    link, beta = LINKS[name]
    outputs, batch, log_prob = example(PAIRS, seed=3)
    loss, metrics = jax.jit(po.preference(link, summed_log_ratio, beta=beta))(outputs, batch)
    score = np.where(batch.mask, log_prob - np.asarray(batch.ref_log_prob), 0).sum(-1)
    valid = np.asarray(batch.mask).any(-1).all(0)
    assert 0 < valid.sum() < len(valid)
    chosen, rejected = score[:, valid]
    np.testing.assert_allclose(loss, np.asarray(link(beta * chosen, beta * rejected)).mean(), rtol=1e-12)
    expected = {
        "margin": beta * (chosen - rejected).mean(),
        "accuracy": (chosen > rejected).mean(),
        "chosen_log_ratio": chosen.mean(),
        "rejected_log_ratio": rejected.mean(),
    }
    for metric, value in expected.items():
        np.testing.assert_allclose(metrics[metric], value, rtol=1e-12, err_msg=metric)


@pytest.mark.parametrize(
    ("term", "name"),
    [
        (po.ratio_term(lambda x, a: x * a), "ratio_term"),
        (po.ratio_term(lambda x, a: x * a, caller="mine"), "mine"),
        (po.ppo(), "ppo"),
        (po.surrogate(), "surrogate"),
    ],
)
def test_errors_name_the_member(term, name):
    outputs, batch, _ = example(GROUP)
    with pytest.raises(ValueError, match=f"^{name} needs batch.advantage"):
        term(outputs, po.Batch(**{**vars(batch), "advantage": None}))
