"""One shape of data: axes are swapped once, groups and pairs keep theirs, only whole episodes count as such."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax.envs import TimeLimit, chain, expected_return
from polopt_jax.language import sample_tokens, transformer

T = 4
ROWS = {"environments": (5,), "groups": (3, 2), "pairs": (2, 6)}


def rollout_of(rows, seed=0):
    """Every entry tells its own place: 1000 t + the number of its row."""
    place = 1000.0 * np.arange(T).reshape(T, *(1,) * len(rows)) + np.arange(np.prod(rows)).reshape(rows)
    no = np.zeros((T, *rows), bool)
    return po.Rollout(
        obs={"a": jnp.asarray(place[..., None] + np.array([0.0, 0.5])), "id": jnp.asarray(place, jnp.int32)},
        action=jnp.asarray(place, jnp.int32),
        log_prob=jnp.asarray(-place),
        reward=jnp.asarray(place / 2),
        terminated=jnp.asarray(no | (np.arange(T) == T - 1).reshape(T, *(1,) * len(rows))),
        truncated=jnp.asarray(no),
        next_obs={"a": jnp.asarray(np.zeros((T, *rows, 2))), "id": jnp.asarray(np.zeros((T, *rows), np.int32))},
        mask=jnp.asarray(~no),
        value=jnp.asarray(place * 3),
    )


@pytest.mark.parametrize("kind", ROWS)
def test_time_goes_last_and_the_rows_keep_their_axes(kind):
    rows = ROWS[kind]
    rollout = rollout_of(rows)
    batch = po.to_batch(
        rollout,
        advantage=rollout.reward + 1,
        target=rollout.reward + 2,
        outcome=lambda episode: {"return": episode.reward.sum(), "last": episode.action[-1]},
    )
    rollout, batch = jax.tree.map(np.asarray, (rollout, batch))
    expected = {
        "action": rollout.action,
        "log_prob": rollout.log_prob,
        "advantage": rollout.reward + 1,
        "target": rollout.reward + 2,
        "value": rollout.value,
        "mask": rollout.mask,
    }
    for index in np.ndindex(*rows):
        for t in range(T):
            for name, x in expected.items():
                assert getattr(batch, name)[(*index, t)] == x[(t, *index)], (name, index, t)
            np.testing.assert_array_equal(batch.obs["a"][(*index, t)], rollout.obs["a"][(t, *index)])
            assert batch.obs["id"][(*index, t)] == rollout.obs["id"][(t, *index)]
        assert batch.outcome["return"][index] == rollout.reward[(slice(None), *index)].sum()
        assert batch.outcome["last"][index] == rollout.action[(-1, *index)]
    assert batch.obs["a"].shape == (*rows, T, 2)
    assert {f.name for f in fields(batch) if getattr(batch, f.name) is None} == {
        "ref_log_prob",
        "reference_point",
        "sampler_log_prob",
        "label",
        "counts",
    }


def test_outcomes_may_be_given_as_values_and_must_have_the_row_axes():
    rollout = rollout_of((3, 2))
    values = {"z": jnp.arange(6).reshape(3, 2), "vector": jnp.zeros((3, 2, 7))}
    batch = po.to_batch(rollout, outcome=values)
    np.testing.assert_array_equal(batch.outcome["z"], values["z"])
    assert batch.advantage is None
    for wrong in (jnp.zeros((2, 3)), jnp.zeros((T, 3, 2)), jnp.zeros(3)):
        with pytest.raises(ValueError, match=r"outcome must have the rollout's row axes \(3, 2\)"):
            po.to_batch(rollout, outcome={"z": wrong})
    with pytest.raises(ValueError, match=r"row axes \(3, 2\); it has shape \(\)"):
        po.to_batch(rollout, outcome={"z": 1.0})
    for name in ("advantage", "target"):
        with pytest.raises(ValueError, match=f"{name} must have the rollout's shape"):
            po.to_batch(rollout, **{name: jnp.zeros((3, 2, T))})


def test_a_feature_sees_one_row_and_its_own_arguments():
    rollout = rollout_of((3, 2))
    weight = jnp.arange(6.0).reshape(3, 2)
    seen = []

    def feature(episode, weight):
        seen.append((episode.reward.shape, episode.obs["a"].shape, weight.shape))
        return episode.reward[0] * weight

    found = po.per_episode(feature, rollout, weight)
    assert seen == [((T,), (T, 2), ())]
    np.testing.assert_array_equal(found, rollout.reward[0] * weight)


def test_what_is_not_finite_is_masked_in_every_row_axis():
    rollout = rollout_of((3, 2))
    rollout = replace(
        rollout,
        obs={**rollout.obs, "a": rollout.obs["a"].at[1, 2, 0, 1].set(jnp.inf)},
        log_prob=rollout.log_prob.at[0, 0, 1].set(jnp.nan),
        value=rollout.value.at[3, 0, 0].set(jnp.inf),
    )
    advantage = jnp.ones((T, 3, 2)).at[:, 1, 1].set(jnp.nan)
    batch = po.to_batch(rollout, advantage=advantage)
    masked = {tuple(i) for i in np.argwhere(~np.asarray(batch.mask))}
    assert masked == {(2, 0, 1), (0, 1, 0), (0, 0, 3), *((1, 1, t) for t in range(T))}
    assert np.isfinite(batch.obs["a"]).all()


# --- whole episodes --------------------------------------------------------------------------------------------------


def recorded(environments):
    """A rollout [T, B] from strings, one per environment: `.` goes on, `x` terminated, `t` time limit, `b` a step that
    broke, `c` one that nobody decided, `C` one that terminated. As `unroll` records it, the step before a break is
    truncated."""

    table = np.array([list(row) for row in environments]).T
    mask, broke = ~np.isin(table, ["b", "c", "C"]), table == "b"
    terminated = np.isin(table, ["x", "C"])
    before_break = np.concatenate([broke[1:], np.zeros_like(broke[:1])])
    truncated = (table == "t") | broke | (before_break & ~terminated)
    steps = 100.0 * np.arange(table.shape[1]) + np.arange(table.shape[0])[:, None]
    return po.Rollout(
        obs=jnp.asarray(steps)[..., None],
        action=jnp.asarray(steps),
        log_prob=jnp.zeros(steps.shape),
        reward=jnp.asarray(steps),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        next_obs=jnp.zeros((*steps.shape, 1)),
        mask=jnp.asarray(mask),
    )


@pytest.mark.parametrize(
    ("environments", "kept", "dropped"),
    [
        (["..x..x"], [[0, 1, 2], [3, 4, 5]], 0),
        (["..x..t", "...x.."], [[0, 1, 2], [3, 4, 5], [100, 101, 102, 103]], 1),
        (["..b..x"], [[3, 4, 5]], 1),  # the part before the break is no episode, nor is the break
        (["..xb.x"], [[0, 1, 2], [4, 5]], 1),  # a fresh episode broke at its first step
        (["bbx..x"], [[2], [3, 4, 5]], 2),
        ([".....b"], [], 1),
        (["..b...", "x....x"], [[100], [101, 102, 103, 104, 105]], 2),
    ],
)
def test_no_episode_that_broke_is_whole(environments, kept, dropped):
    rollout = recorded(environments)
    whole, lost = jax.jit(lambda r: po.episodes(r, max_length=6, num_episodes=5))(rollout)
    lengths = np.asarray(whole.mask).sum(0)
    found = [np.asarray(whole.reward)[:n, i].tolist() for i, n in enumerate(lengths) if n]
    assert found == kept
    assert int(lost) == dropped
    assert (lengths[: len(kept)] > 0).all(), "no empty column before the last episode"
    assert (np.asarray(whole.mask) == (np.arange(6)[:, None] < lengths)).all()


def test_episodes_needs_environments():
    with pytest.raises(ValueError, match=r"episodes needs a rollout \[T, B\]"):
        po.episodes(rollout_of((3, 2)), max_length=3, num_episodes=2)


final_step = jax.jit(po.final_step)


@pytest.mark.parametrize(
    ("environments", "lengths", "dropped"),
    [
        (["..x..x", ".....t", "xxxxxx"], [3, 6, 1], 0),
        (["......", "..x..."], [0, 3], 1),  # still running
        (["..b..x", "..xb.x", "b....x"], [0, 3, 0], 2),  # broken in its first episode, and after it
    ],
)
def test_first_episodes_are_whole_and_in_their_columns(environments, lengths, dropped):
    rollout = recorded(environments)
    whole, lost = jax.tree.map(np.asarray, jax.jit(po.first_episodes)(rollout))
    assert np.asarray(whole.mask).sum(0).tolist() == lengths
    assert int(lost) == dropped
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(whole.reward[:n, i], rollout.reward[:n, i])
        assert (np.asarray(whole.reward)[n:, i] == 0).all()
        assert (np.asarray(whole.obs)[n:, i] == 0).all()
        assert not np.asarray(whole.terminated | whole.truncated)[n:, i].any()
        last = final_step(jax.tree.map(lambda x, i=i: x[:, i], whole))
        assert float(last.reward) == float(whole.reward[max(n - 1, 0), i])
        assert bool(last.terminated | last.truncated) == (n > 0)


@pytest.mark.parametrize(
    ("environments", "kept", "dropped"),
    [
        (["cc..x", "cc..t"], [[0, 1, 2, 3, 4], [100, 101, 102, 103, 104]], 0),
        (["cc.cc..xc.t."], [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10]], 1),  # the last is still running
        (["..tc..x"], [[0, 1, 2], [3, 4, 5, 6]], 0),  # a time limit before a context is no break
        (["c..bc.x"], [[4, 5, 6]], 1),
        (["c.b.x..."], [[3, 4]], 2),
        ([".xccC"], [[0, 1], [2, 3, 4]], 0),
        ([".ccC"], [[0, 1, 2, 3]], 0),  # padded, and the end recorded behind the padding
    ],
)
def test_what_nobody_decided_stays_in_its_episode(environments, kept, dropped):
    rollout = recorded(environments)
    whole, lost = jax.jit(lambda r: po.episodes(r, max_length=8, num_episodes=4))(rollout)
    rollout, whole = jax.tree.map(np.asarray, (rollout, whole))
    assert int(lost) == dropped
    for column, steps in enumerate(kept):
        assert np.asarray(whole.reward)[: len(steps), column].tolist() == steps
        at = [(int(step) % 100, int(step) // 100) for step in steps]
        decided = [bool(rollout.mask[i]) for i in at]
        assert np.asarray(whole.mask)[:, column].tolist() == decided + [False] * (8 - len(at))
        assert np.asarray(whole.terminated | whole.truncated)[:, column].nonzero()[0].tolist() == [len(at) - 1]
    assert not np.asarray(whole.terminated | whole.truncated)[:, len(kept) :].any(), "no other one is there"
    first, lost = jax.tree.map(np.asarray, jax.jit(po.first_episodes)(rollout))
    starts = [steps for steps in kept if steps[0] in (0, 100)]
    assert int(lost) == len(environments) - len(starts)
    for steps in starts:
        column, n = int(steps[0]) // 100, len(steps)
        np.testing.assert_array_equal(first.mask[:n, column], rollout.mask[:n, column])
        assert np.asarray(first.reward)[:n, column].tolist() == steps
        assert not np.asarray(first.mask)[n:, column].any()


def test_answers_are_whole_episodes_already():
    """Rows of the sampler, with a context of two tokens, come back as they were, also one after the other in time."""
    network = transformer(vocab_size=5, num_outputs=3, max_length=6, width=8, depth=1)
    prompt = np.array([[3, 4, 3], [4, 4, 3]], np.int32)

    @jax.jit
    def sampled():
        params = network.init(jax.random.key(0))
        answers = sample_tokens(network, params, prompt, jax.random.key(1), length=4)
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), answers)
        whole = [po.episodes(x, max_length=6, num_episodes=n) for x, n in ((answers, 2), (both, 4))]
        return answers, po.first_episodes(answers), *whole

    answers, (first, dropped), (again, lost), (twice, missing) = sampled()
    assert not np.asarray(answers.mask)[:2].any()
    assert (int(dropped), int(lost), int(missing)) == (0, 0, 0)
    for name in ("obs", "action", "mask", "log_prob", "terminated"):
        expected = np.asarray(getattr(answers, name))
        np.testing.assert_array_equal(getattr(first, name), expected)
        np.testing.assert_array_equal(getattr(again, name), expected)
        np.testing.assert_array_equal(getattr(twice, name), np.repeat(expected, 2, axis=1))


def test_first_episodes_have_the_law_and_whole_ones_of_a_window_are_too_short():
    world = chain(num_states=4, horizon=8)
    act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))  # noqa: E731
    exact = float(jax.jit(lambda: expected_return(world, jnp.full((4, 2), 0.5)))())
    reached = lambda episode: po.final_step(episode).reward  # noqa: E731

    @jax.jit
    def measured():
        loop = po.start(world, jax.random.key(0), num_envs=20_000)
        _, rollout = po.unroll(world, act, loop, jax.random.key(1), num_steps=8)
        first, dropped = po.first_episodes(rollout)
        several, _ = po.episodes(rollout, max_length=8, num_episodes=40_000)
        return po.per_episode(reached, first), dropped, po.per_episode(reached, several), several.mask.any(0)

    ends, dropped, several, real = map(np.asarray, measured())
    assert int(dropped) == 0
    np.testing.assert_allclose(ends.mean(), exact, atol=4 * np.sqrt(0.25 / 20_000))
    assert several[real].mean() > exact + 0.02


# --- groups ----------------------------------------------------------------------------------------------------------

ESTIMATORS = [po.group_relative, po.group_centred, po.leave_one_out]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_a_reward_that_nobody_can_give_is_left_out_of_its_group(estimate, bad):
    rng, estimate = np.random.default_rng(0), jax.jit(estimate)
    reward = rng.normal(size=(6, 5))
    for place in range(5):
        poisoned = np.insert(reward, place, bad, axis=1)
        found = np.asarray(estimate(jnp.asarray(poisoned)))
        np.testing.assert_allclose(np.delete(found, place, axis=1), estimate(jnp.asarray(reward)), rtol=1e-6, atol=1e-6)
        assert np.isnan(found[:, place]).all()
    alone = np.asarray(estimate(jnp.array([[bad, 3.0, bad], [bad, bad, bad], [bad, 0.1, 0.1]])))
    np.testing.assert_array_equal(alone[0], [np.nan, 0, np.nan])
    assert np.isnan(alone[1]).all()
    np.testing.assert_array_equal(alone[2], [np.nan, 0, 0])


def test_an_unscorable_attempt_changes_nothing_but_its_own_row():
    """The GRPO loss and gradient of the batch are those of the batch in which that attempt was never made."""
    rollout = rollout_of((3, 4))
    rng = np.random.default_rng(1)
    reward, logits = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 4, T, 5)).astype(np.float32)
    reward[1, 2] = np.nan
    log_prob = np.full((T, 3, 4), np.log(0.2), np.float32)
    rollout = replace(rollout, action=np.asarray(rollout.action) % 5, log_prob=log_prob)

    @jax.jit
    @jax.value_and_grad
    def loss(logits, batch):
        outputs = po.Outputs(policy=po.Categorical(logits=logits))
        return po.grpo(reduce=po.sequence_sum)(outputs, batch)[0] * batch.mask.any(-1).sum()

    @jax.jit
    def batch_of(reward):
        advantage = jnp.broadcast_to(po.group_relative(reward), rollout.reward.shape)
        batch = po.to_batch(rollout, advantage=advantage)
        return replace(batch, ref_log_prob=batch.log_prob)

    batch = batch_of(reward)
    assert (~np.asarray(batch.mask)).sum() == T
    value, gradient = loss(logits, batch)
    assert np.isfinite(value)
    assert (np.asarray(gradient)[1, 2] == 0).all()
    others = [0, 1, 3]
    group = jax.tree.map(lambda x: np.asarray(x)[1:2][:, others], batch_of(np.nan_to_num(reward)))
    advantage = np.asarray(po.group_relative(jnp.asarray(reward[1:2, others])))
    group = replace(group, advantage=np.broadcast_to(advantage[..., None], (1, 3, T)))
    _, alone = loss(logits[1:2][:, others], group)
    np.testing.assert_allclose(np.asarray(gradient)[1][others], np.asarray(alone)[0], rtol=1e-5, atol=1e-7)


# --- rows of a sampler, and every k-th -------------------------------------------------------------------------------


def noisy(params, key):
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(key, x.shape), params)


def said_by(apply, params, batch):
    outputs = apply(params, batch.obs)
    return outputs, outputs.policy.log_prob(batch.action)


@pytest.mark.parametrize("rows", [(4,), (3, 2), pytest.param((2, 3), marks=pytest.mark.slow)])
def test_the_sampler_keeps_the_axes_of_its_prompts(rows):
    network = transformer(vocab_size=9, num_outputs=5, max_length=6, width=8, depth=1, heads=2)
    init = jax.jit(lambda key, noise: noisy(network.init(key), noise))
    params = init(jax.random.key(0), jax.random.key(1))
    prompt = 5 + np.arange(np.prod(rows)).reshape(*rows, 1) % 4
    rollout = jax.jit(lambda p, key: sample_tokens(network, params, p, key, length=6))(prompt, jax.random.key(2))
    batch = jax.jit(po.to_batch)(rollout)
    rollout = jax.tree.map(np.asarray, rollout)
    assert rollout.action.shape == (6, *rows)
    np.testing.assert_array_equal(rollout.obs[0], prompt[..., 0])
    np.testing.assert_array_equal(rollout.obs[1:], rollout.action[:-1])
    outputs, said = jax.jit(said_by, static_argnums=0)(network.apply, params, batch)
    np.testing.assert_allclose(said, batch.log_prob, atol=2e-6)
    np.testing.assert_allclose(outputs.value, batch.value, atol=2e-6)
    assert rollout.terminated[-1].all()
    assert not rollout.terminated[:-1].any()


@pytest.mark.parametrize(
    ("shape", "k", "expected"),
    [((6, 3), 2, (3, 3)), ((3, 4, 5), 2, (3, 2, 5)), ((2, 7, 3), 3, (2, 3, 3)), ((2, 7, 3), 1, (2, 7, 3))],
)
def test_every_kth_row_is_taken_along_the_axis_before_time(shape, k, expected):
    """So that pairs lose no half and prompts keep attempts of their own."""
    place = np.arange(np.prod(shape)).reshape(shape)
    batch = po.Batch(
        obs=place[..., None],
        action=place,
        mask=place >= 0,
        outcome={"z": place[..., 0]},
        label=place[..., 0] > 0,
        counts=po.reductions.count(jnp.asarray(place >= 0)),
    )
    few = jax.jit(po.every(k))(jax.tree.map(jnp.asarray, batch))
    assert few.mask.shape == expected
    np.testing.assert_array_equal(few.action, place[..., ::k, :])
    np.testing.assert_array_equal(np.asarray(few.obs)[..., 0], few.action)
    np.testing.assert_array_equal(few.outcome["z"], place[..., ::k, 0])
    assert few.label.shape == expected[:-1]
    assert few.counts is None


def test_every_refuses_what_has_too_few_rows():
    batch = po.Batch(obs=None, action=jnp.zeros((2, 3, 4), int), mask=jnp.ones((2, 3, 4), bool))
    with pytest.raises(ValueError, match=r"every\(4\) needs at least 4 rows along the axis before T"):
        po.every(4)(batch)
    with pytest.raises(ValueError, match=r"every\(1\)"):
        po.every(1)(po.Batch(obs=None, action=None, mask=jnp.ones(3, bool)))


# --- nothing is broadcast ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask", "log_prob", "value"])
@pytest.mark.parametrize("cut", [lambda x: x[..., :1], lambda x: x[0], lambda x: x[..., None], lambda x: x[:-1]])
def test_every_number_of_a_rollout_has_the_shape_of_its_reward(name, cut):
    rollout = po.Rollout(
        **{name: jnp.zeros((4, 3, 2)) for name in ("obs", "reward", "next_obs", "log_prob", "value")},
        action=jnp.zeros((4, 3, 2), int),
        **{name: jnp.ones((4, 3, 2), bool) for name in ("terminated", "truncated", "mask")},
    )
    po.to_batch(rollout)
    with pytest.raises(ValueError, match=rf"rollout\.{name} must have the shape of its reward, \(4, 3, 2\)"):
        po.to_batch(replace(rollout, **{name: cut(getattr(rollout, name))}))


def test_both_that_gae_returns_are_no_advantage():
    rollout = po.Rollout(
        **{name: jnp.zeros((4, 3)) for name in ("obs", "reward", "next_obs", "log_prob", "value", "next_value")},
        action=jnp.zeros((4, 3), int),
        **{name: jnp.ones((4, 3), bool) for name in ("terminated", "truncated", "mask")},
    )
    with pytest.raises(TypeError, match="advantage must be an array; it is a tuple of 2: po.gae returns both"):
        po.to_batch(rollout, advantage=po.gae(rollout, gamma=0.9, lambda_=0.9))


def test_an_answer_that_ended_early_is_no_episode_that_still_runs():
    done = jnp.zeros((5, 3), bool).at[jnp.array([1, 4, 2]), jnp.arange(3)].set(True)
    mask = jnp.arange(5)[:, None] <= jnp.array([1, 4, 2])
    numbers = {name: jnp.zeros((5, 3)) for name in ("obs", "reward", "next_obs", "log_prob")}
    flags = {"terminated": done, "truncated": jnp.zeros_like(done), "mask": mask}
    rollout = po.Rollout(action=jnp.zeros((5, 3), int), **numbers, **flags)
    whole, dropped = po.episodes(rollout, max_length=5, num_episodes=3)
    assert sorted(whole.mask.sum(0).tolist()) == [2, 3, 5]
    assert dropped == 0
    running = replace(rollout, mask=mask.at[3:, 0].set(True))  # the first goes on with another
    assert po.episodes(running, max_length=5, num_episodes=3)[1] == 1


def test_an_outcome_is_of_whole_episodes():
    """A row that goes on after an end holds more than one, and its outcome would be that of none."""
    env = TimeLimit(limit=4)
    act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))))  # noqa: E731
    _, rollout = po.unroll(env, act, po.start(env, jax.random.key(0), num_envs=2), jax.random.key(1), num_steps=6)
    total = lambda episode: jnp.where(episode.mask, episode.reward, 0).sum()  # noqa: E731
    for outcome in (total, jnp.zeros(2)):
        with pytest.raises(ValueError, match="an outcome is of whole episodes, .* po.first_episodes"):
            po.to_batch(rollout, outcome=outcome)
    whole, _ = po.first_episodes(rollout)
    assert po.to_batch(whole, outcome=total).outcome.tolist() == [4, 4]
    assert po.to_batch(rollout).mask.all()
    assert jax.jit(lambda rollout: po.to_batch(rollout, outcome=total).outcome)(rollout).shape == (2,)  # unseen there
