"""Rows are exchangeable: interleaved shares, shuffles within groups, samples at equal distances."""

import math
from collections import Counter
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax.reductions import count
from polopt_jax.rows import GROUPS, sample_rows, shuffle_rows, shuffled_parts, split_rows


def numbered(rows, *, steps=3, axis=0, counts=None):
    """A batch in which every field says which row it is of; `[rows, T]`, or `[2, rows, T]` along axis 1."""
    lead = (rows,) if axis == 0 else (2, rows)
    row = jnp.broadcast_to(jnp.arange(float(rows)), lead)
    ids = jnp.broadcast_to(row[..., None], (*lead, steps))
    obs = {"row": ids, "wide": jnp.broadcast_to(ids[..., None], (*ids.shape, 2))}
    mask = jnp.ones(ids.shape, bool)
    return po.Batch(obs=obs, action=ids.astype(int), mask=mask, advantage=ids, outcome=row, counts=counts)


def rows_of(batch, *, axis=0, leading=0):
    """Which row stands where, `[..., rows]`; every field of the batch must agree."""
    ids = np.asarray(batch.advantage)[..., 0]
    for field in (batch.obs["row"][..., 0], batch.obs["wide"][..., 0, 0], batch.action[..., 0], batch.outcome):
        np.testing.assert_array_equal(field, ids)
    if axis == 1:
        both = np.moveaxis(ids, leading, 0)
        np.testing.assert_array_equal(both[0], both[1])
        ids = both[0]
    return ids.astype(int)


# --- shares -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_shares_are_interleaved(axis, parts):
    shares = rows_of(split_rows(numbered(12, axis=axis), parts, axis=axis), axis=axis, leading=1)
    assert shares.tolist() == [list(range(j, 12, parts)) for j in range(parts)]


def test_counts_are_repeated_for_every_share():
    batch = numbered(6)
    shares = split_rows(numbered(6, counts=count(batch.mask)), 3)
    assert shares.counts.decisions.tolist() == [18.0] * 3
    assert split_rows(batch, 3).counts is None


def shuffled(batch, parts, *, axis=0, seed=0, **options):
    draw = jax.jit(lambda batch, key: shuffled_parts(batch, key, parts, axis=axis, **options))
    return draw(batch, jax.random.key(seed))


@pytest.mark.parametrize("split", [split_rows, shuffled])
def test_what_cannot_be_split_is_refused(split):
    with pytest.raises(ValueError, match="5 parts do not divide axis 0 of the batch, of size 12"):
        split(numbered(12), 5)
    with pytest.raises(ValueError, match="24 parts do not divide"):
        split(numbered(12), 24)
    for axis in (1, -1):
        with pytest.raises(ValueError, match="axis must be one of the axes before T"):
            split(numbered(12), 3, axis=axis)


# --- shuffles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shuffle_stays_within_its_groups(axis):
    blocks = rows_of(shuffle_rows(numbered(24, axis=axis), jax.random.key(0), axis=axis, groups=4), axis=axis)
    blocks = blocks.reshape(4, 6)
    np.testing.assert_array_equal(np.sort(blocks), np.arange(24).reshape(4, 6))
    orders = {tuple(block - block.min()) for block in blocks}
    assert len(orders) == 4, "each group is in an order of its own"
    assert (
        shuffle_rows(numbered(24, axis=axis), jax.random.key(0), axis=axis).mask.shape
        == numbered(24, axis=axis).mask.shape
    )


def test_every_order_of_a_group_is_equally_likely():
    """Six orders of each of two groups over 3000 keys: χ² with 5 degrees of freedom exceeds 25.7 in 1 of 10000."""
    batch = numbered(6, steps=1)
    orders = jax.jit(jax.vmap(lambda key: shuffle_rows(batch, key, groups=2).outcome))(
        jax.random.split(jax.random.key(1), 3000)
    )
    orders = np.asarray(orders, int).reshape(3000, 2, 3) - np.array([[0], [3]])
    for group in (0, 1):
        found = Counter(map(tuple, orders[:, group].tolist()))
        assert sum((found[order] - 500) ** 2 / 500 for order in permutations(range(3))) < 25.7
    # And the two are independent: all 36 pairs of orders, χ² with 35 degrees of freedom.
    both = Counter(tuple(pair.ravel()) for pair in orders)
    expected = 3000 / 36
    assert sum((n - expected) ** 2 / expected for n in both.values()) + (36 - len(both)) * expected < 75


def test_a_shuffle_needs_groups_that_divide():
    for groups in (0, 5):
        with pytest.raises(ValueError, match=f"{groups} groups do not divide axis 0 of the batch, of size 12"):
            shuffle_rows(numbered(12), jax.random.key(0), groups=groups)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "parts", "groups", "usable"), [
    (32, 4, 8, 8), (24, 2, 8, 4), (8, 8, 8, 1), (7, 1, 8, 1), (30, 2, 5, 5), (36, 3, 8, 4), (12, 2, 64, 2),
])  # fmt: skip
def test_every_share_has_equally_many_rows_of_every_group(axis, rows, parts, groups, usable):
    """gcd(groups, rows of a share) groups; every row is in exactly one share."""
    assert usable == math.gcd(groups, rows // parts)
    batch = numbered(rows, axis=axis)
    shares = rows_of(shuffled(batch, parts, axis=axis, groups=groups), axis=axis, leading=1)
    assert shares.shape == (parts, rows // parts)
    assert sorted(shares.ravel()) == list(range(rows))
    groups_of = shares // (rows // usable)
    # Equally many of each, which stand side by side in the order of the groups: where the devices expect them.
    np.testing.assert_array_equal(groups_of, np.tile(np.repeat(np.arange(usable), rows // parts // usable), (parts, 1)))


def test_every_row_can_come_into_every_share():
    batch = numbered(16, steps=1)
    draw = lambda key: shuffled_parts(batch, key, 4, groups=2).outcome  # noqa: E731
    shares = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 2000)), int)
    found = np.stack([(shares == row).any(-1).mean(0) for row in range(16)])
    assert np.abs(found - 1 / 4).max() < 0.05  # five standard deviations of 2000 draws


def test_shares_do_not_depend_on_groups_that_are_not_usable():
    shares = [rows_of(shuffled(numbered(12), 2, groups=groups), leading=1) for groups in (2, 4, 8)]
    np.testing.assert_array_equal(shares[1], shares[0])
    np.testing.assert_array_equal(shares[2], shares[0])
    with pytest.raises(ValueError, match="groups must be at least 1"):
        shuffled(numbered(12), 2, groups=0)


# --- samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "rows", "expected"), [
    (8, 4, [0, 2, 4, 6]), (8, 8, list(range(8))), (8, 9, list(range(8))), (8, 1, [0]), (12, 5, [0, 2, 4, 6, 8, 10]),
    (7, 2, list(range(7))),
])  # fmt: skip
def test_samples_are_at_equal_distances_and_never_fewer_than_asked(size, rows, expected):
    for axis in (0, 1):
        sample = sample_rows(numbered(size, axis=axis, counts=count(jnp.ones((4, 3), bool))), rows, axis=axis)
        assert rows_of(sample, axis=axis).tolist() == expected
        assert sample.counts is None
    with pytest.raises(ValueError, match="rows must be at least 1"):
        sample_rows(numbered(size), 0)


def test_monitored_looks_at_rows_from_everywhere():
    """A step that moves the policy in the last half of the rows alone: the first rows would not show it."""

    def model(params, obs):
        return po.Outputs(
            policy=po.Categorical(logits=jnp.stack([params * (obs["row"] >= 4), 0 * obs["row"]], axis=-1))
        )

    step = po.Step(lambda params: (), lambda params, state, batch, key: (params + 1.0, state, {}))
    monitored = po.monitored(step, model, rows=4, kl=po.action_kl)
    batch = numbered(8)
    kl = jax.jit(monitored.update)(jnp.zeros(()), (), batch, None)[2]["kl"]
    whole = jax.jit(po.monitored(step, model, kl=po.action_kl).update)(jnp.zeros(()), (), batch, None)[2]["kl"]
    np.testing.assert_allclose(kl, whole, rtol=1e-6)
    assert kl > 0.05


# --- epochs -------------------------------------------------------------------------------------------------------


def writing(rows):
    """A step whose parameters are a diary: the rows of every minibatch, in order, `[steps taken, rows of each]`."""

    def update(diary, time, batch, key):
        return diary.at[time].set(batch.outcome), time + 1, {}

    return po.Step(lambda params: jnp.int32(0), update)


def diary(key, *, rows=32, num_epochs=3, num_minibatches=4, **options):
    step = po.epochs(writing(rows), num_epochs, num_minibatches, **options)
    pages = jnp.full((num_epochs * num_minibatches, rows // num_minibatches), -1.0)
    written, time, _ = jax.jit(step.update)(pages, step.init(pages), numbered(rows), key)
    assert int(time) == num_epochs * num_minibatches
    return np.asarray(written, int).reshape(num_epochs, num_minibatches, -1)


def test_an_epoch_sees_every_row_once_in_minibatches_that_change():
    found = diary(jax.random.key(0))
    for epoch in found:
        assert sorted(epoch.ravel()) == list(range(32))
        for minibatch in epoch:
            assert Counter(minibatch // 4) == dict.fromkeys(range(GROUPS), 1)
    assert len({tuple(map(tuple, epoch)) for epoch in found}) == 3, "epochs differ"
    assert (diary(jax.random.key(1)) != found).any(), "keys differ"
    np.testing.assert_array_equal(diary(jax.random.key(0)), found)
    assert any((minibatch % 4).tolist() != [(minibatch % 4)[0]] * 8 for minibatch in found[0])


def test_groups_are_a_number_of_the_program():
    one = diary(jax.random.key(0), groups=1)
    assert any(max(Counter(minibatch // 4).values()) > 1 for minibatch in one.reshape(-1, 8))
    assert (diary(jax.random.key(0), groups=2) != one).any()


def test_one_minibatch_is_the_batch_as_it_is_and_needs_no_key():
    found = diary(None, num_epochs=2, num_minibatches=1)
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(32), (2, 1, 32)))
    np.testing.assert_array_equal(diary(jax.random.key(0), num_epochs=2, num_minibatches=1), found)
    with pytest.raises(ValueError, match="needs a key to shuffle 4 minibatches"):
        diary(None)
    step = po.sequential(one=po.epochs(writing(32), 2, 1), two=writing(32))
    pages = jnp.full((3, 32), -1.0)
    written, *_ = step.update(pages, {"one": jnp.int32(0), "two": jnp.int32(2)}, numbered(32), None)
    assert (np.asarray(written, int) == np.arange(32)).all()


def test_epochs_refuses_numbers_that_make_no_sense():
    for numbers in ({"num_epochs": 0}, {"num_minibatches": 0}, {"groups": 0}):
        with pytest.raises(ValueError, match="must be at least 1; it is 0"):
            diary(jax.random.key(0), **numbers)
    with pytest.raises(ValueError, match="5 parts do not divide axis 0"):
        po.epochs(writing(32), 1, 5).update(jnp.zeros((5, 6)), jnp.int32(0), numbered(32), jax.random.key(0))


def test_epochs_reuses_no_key():
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs["wide"] * params))  # noqa: E731
    step = po.epochs(po.make_step((po.objective(model, po.reinforce()), optax.sgd(0.1))), 2, 4)
    with jax.debug_key_reuse(True):
        jax.jit(step.update)(jnp.zeros(2), step.init(jnp.zeros(2)), numbered(8), jax.random.key(0))


def test_accumulated_gradients_are_those_of_the_whole_whatever_the_rows():
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs["wide"] * params))  # noqa: E731
    batch = numbered(12)
    batch = po.Batch(
        obs=batch.obs, action=batch.action % 2, advantage=jnp.sin(batch.advantage),
        mask=jnp.arange(3) <= (jnp.arange(12) % 3)[:, None],
    )  # fmt: skip
    whole = po.objective(model, po.reinforce())
    params = jnp.array([0.1, -0.2])
    expected = jax.jit(jax.grad(lambda p: whole(p, batch)[0]))(params)
    found = jax.jit(jax.grad(lambda p: po.accumulate_gradients(whole, 3)(p, batch)[0]))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
