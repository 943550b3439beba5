"""Decisions dealt out to minibatches: every one once, equally many of each row, in a random order."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import tasks
from polopt_jax.envs import Quadratic
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.reductions import count
from polopt_jax.rows import shuffled_decisions, shuffled_parts, standardized_shares

pytestmark = pytest.mark.filterwarnings("ignore")


def numbered(*leading, steps, **more):
    """A batch whose fields all say which decision they are of: T times its row, and its step."""
    place = jnp.arange(float(np.prod(leading) * steps)).reshape(*leading, steps)
    obs = {"place": place, "wide": jnp.stack([place, -place], -1)}
    return po.Batch(obs=obs, action=place.astype(int), mask=place >= 0, advantage=place, **more)


def places(shares):
    """Which decision stands where, `[parts, n]`; every field must agree."""
    assert shares.mask.shape == (*shares.mask.shape[:2], 1)
    found = np.asarray(shares.advantage)[..., 0]
    for field in (shares.obs["place"], shares.obs["wide"][..., 0], -shares.obs["wide"][..., 1], shares.action):
        np.testing.assert_array_equal(field[..., 0], found)
    assert shares.mask.all()
    return found.astype(int)


def dealt(batch, parts, *, seed=0, **options):
    draw = jax.jit(lambda batch, key: shuffled_decisions(batch, key, parts, **options))
    return places(draw(batch, jax.random.key(seed)))


@pytest.mark.parametrize(
    ("rows", "steps", "parts", "groups"),
    [(6, 16, 8, 8), (6, 16, 8, 1), (8, 4, 8, 8), (8, 4, 8, 2), (12, 1, 4, 8), (5, 12, 1, 8), (6, 9, 6, 8)],
)
def test_every_decision_is_in_one_share_and_of_each_row_equally_many(rows, steps, parts, groups):
    found = dealt(numbered(rows, steps=steps), parts, groups=groups)
    assert found.shape == (parts, rows * steps // parts)
    assert sorted(found.ravel()) == list(range(rows * steps))
    shares_of_a_row = np.gcd(steps, parts)
    for row in range(rows):
        number = (found // steps == row).sum(1)
        assert sorted(set(number)) == (
            [steps // shares_of_a_row] if parts == shares_of_a_row else [0, steps // shares_of_a_row]
        )
        assert (number > 0).sum() == shares_of_a_row


def test_every_order_of_a_row_is_equally_likely_and_rows_are_independent():
    batch = numbered(2, steps=4)
    draw = jax.jit(jax.vmap(lambda key: shuffled_decisions(batch, key, 2, groups=1).advantage[..., 0]))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)), int)  # [draws, shares, 4]
    first = np.sort(found[:, 0], axis=1)
    pairs = (first[:, :2], first[:, 2:] - 4)  # of each row, the two that are in the first share
    codes = [4 * pair[:, 0] + pair[:, 1] for pair in pairs]
    for code in codes:
        _, numbers = np.unique(code, return_counts=True)
        assert len(numbers) == 6
        assert np.abs(numbers / 4000 - 1 / 6).max() < 5 * np.sqrt(5 / 36 / 4000)
    _, numbers = np.unique(16 * codes[0] + codes[1], return_counts=True)
    assert len(numbers) == 36
    assert np.abs(numbers / 4000 - 1 / 36).max() < 5 * np.sqrt(1 / 36 / 4000)


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        dealt(numbered(8, steps=2), 4)


def test_keys_decide():
    batch = numbered(4, steps=8)
    np.testing.assert_array_equal(dealt(batch, 4), dealt(batch, 4))
    assert (dealt(batch, 4) != dealt(batch, 4, seed=1)).any()


def test_rows_are_split_at_random_where_there_are_too_few_steps():
    batch = numbered(8, steps=2)
    halves = [frozenset(dealt(batch, 4, seed=seed)[:2].ravel() // 2) for seed in range(20)]
    assert all(len(half) == 4 for half in halves)
    assert len(set(halves)) > 5


def test_groups_of_attempts_are_rows_and_counts_are_repeated():
    batch = numbered(2, 3, steps=4)
    assert sorted(dealt(batch, 2).ravel()) == list(range(24))
    batch = numbered(2, 3, steps=4, counts=count(batch.mask))
    assert shuffled_decisions(batch, jax.random.key(0), 2).counts.decisions.tolist() == [24.0, 24.0]


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"outcome": jnp.zeros(4)}, {}, "batch.outcome is of whole rows"),
        ({"label": jnp.zeros(4, bool)}, {}, "batch.label is of whole rows"),
        ({"reference_point": jnp.zeros(4)}, {}, "batch.reference_point is of whole rows"),
        ({}, {"axis": 1}, "axis is 1"),
        ({}, {"groups": 0}, "groups and parts must be at least 1; they are 0 and 2"),
        ({}, {"parts": 0}, "groups and parts must be at least 1"),
        ({}, {"parts": 3}, "3 parts do not divide axis 0"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(more, options, message):
    options = {"parts": 2, **options}
    with pytest.raises(ValueError, match=message):
        shuffled_decisions(numbered(4, steps=4, **more), jax.random.key(0), options.pop("parts"), **options)


def test_epochs_learn_from_what_the_shuffle_gives():
    """One decision of each row at a time; a loss that adds up what it sees adds up everything, once an epoch."""
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs["wide"] * params))  # noqa: E731
    seen = []

    def term(outputs, batch):
        seen.append(batch.mask.shape)
        return 0.0 * outputs.policy.logits.sum() + 0.0, {"sum": batch.advantage.sum()}

    step = po.epochs(po.make_step((po.objective(model, term), optax.sgd(0.1))), 2, 4, shuffle=shuffled_decisions)
    batch = numbered(3, steps=4)
    _, _, metrics = step.update(jnp.zeros(2), step.init(jnp.zeros(2)), batch, jax.random.key(0))
    assert set(seen) == {(3, 1)}
    assert float(metrics["sum"]) == pytest.approx(float(batch.advantage.sum()) / 4)


def test_control_deals_decisions_and_can_be_told_to_keep_rows(monkeypatch):
    from polopt_jax import algorithms
    from polopt_jax.algorithms import _algorithm, _ppo

    given = []
    for module in (_algorithm, _ppo):
        monkeypatch.setattr(module, "epochs", lambda step, *numbers, shuffle, **rest: given.append(shuffle) or step)
    env = Quadratic()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    for more, expected in (({}, shuffled_decisions), ({"shuffle": shuffled_parts}, shuffled_parts)):
        task = tasks.control_task(env, network, num_envs=4, num_steps=2, **more)
        assert task.shuffle is expected
        for recipe in (algorithms.ppo, algorithms.trpo, algorithms.npg):
            recipe(task)
        assert [shuffle for shuffle in given if shuffle.__name__ != "standardized"] == [expected] * 2
        assert len(given) == 3
        given.clear()


# Standardised shares


@pytest.mark.parametrize("shuffle", [shuffled_parts, shuffled_decisions])
def test_every_share_has_advantages_of_mean_0_and_deviation_1(shuffle):
    batch = numbered(8, steps=4)
    mask = batch.mask.at[:, -1].set(False)
    batch = replace(batch, mask=mask, advantage=jnp.where(mask, batch.advantage**2, jnp.nan))
    raw = shuffle(batch, jax.random.key(3), 4, groups=2)
    shares = standardized_shares(shuffle)(batch, jax.random.key(3), 4, groups=2)
    np.testing.assert_array_equal(shares.obs["place"], raw.obs["place"])
    for advantage, kept, before in zip(shares.advantage, shares.mask, raw.advantage, strict=True):
        one, known = np.asarray(advantage)[kept], np.asarray(before)[kept]
        np.testing.assert_allclose(one, (known - known.mean()) / known.std(), atol=1e-5)
        assert (np.asarray(advantage)[~np.asarray(kept)] == 0).all()


def test_standardised_shares_need_an_advantage_and_take_an_epsilon():
    batch = numbered(4, steps=2)
    with pytest.raises(ValueError, match=r"needs batch.advantage, which is None"):
        standardized_shares(shuffled_parts)(replace(batch, advantage=None), jax.random.key(0), 2)
    wide = standardized_shares(shuffled_parts, eps=1e6)(batch, jax.random.key(0), 2)
    assert float(jnp.abs(wide.advantage).max()) < 1e-4


def test_an_estimate_of_ones_own_is_learnt_from_as_it_is(monkeypatch):
    """A price among its advantages keeps its scale."""
    from polopt_jax import algorithms
    from polopt_jax.algorithms import _ppo

    given = []
    monkeypatch.setattr(_ppo, "epochs", lambda step, *numbers, shuffle, **rest: given.append(shuffle) or step)
    env = Quadratic()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    task = tasks.control_task(env, network, num_envs=4, num_steps=2)
    algorithms.ppo(task, estimate=algorithms.gae_estimate(0.9, 0.9))
    algorithms.ppo(task._replace(outcome=lambda rollout: rollout.reward.sum(0)))  # `priced` may stand around this one
    assert given == [task.shuffle] * 2


def test_ppo_standardises_minibatch_by_minibatch(monkeypatch):
    from polopt_jax import algorithms
    from polopt_jax.algorithms import _ppo

    given = []
    monkeypatch.setattr(_ppo, "epochs", lambda step, *numbers, shuffle, **rest: given.append(shuffle) or step)
    env = Quadratic()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(4,))
    algorithms.ppo(tasks.control_task(env, network, num_envs=4, num_steps=2))
    shares = given[0](numbered(4, steps=2), jax.random.key(0), 2)
    assert shares.mask.shape == (2, 4, 1)
    np.testing.assert_allclose(shares.advantage.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(shares.advantage.std((1, 2)), 1, atol=1e-5)
