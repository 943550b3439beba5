"""The report and the fork profile against enumeration."""

import functools
from dataclasses import replace

import enumerated as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import outcomes
from polopt_jax.outcomes._report import _parts
from polopt_jax.worlds import skip_the_test, token_outcome_law

OLD, NEW = world.table(0), world.table(1)
SUCCESS, SIDE_EFFECT = (lambda o: o["success"]), (lambda o: o["side_effect"])


def kl(p, q, axes=-1):
    some = p > 0
    return (np.where(some, p, 0) * np.log(np.where(some, p, 1) / np.where(some, q, 1))).sum(axes)


def tables(logits):
    """P(s, z) `[N, 2, 3]`."""
    cells = world.OUTCOME["success"] * 3 + world.OUTCOME["side_effect"]
    return world.cells_law(world.law(logits), cells, 6).reshape(world.N, 2, 3)


@jax.jit
def report(old, new, batch):
    return outcomes.outcome_report(
        world.model, old, new, batch, success=SUCCESS, side_effect=SIDE_EFFECT, num_side_effects=3
    )


def found(batch):
    return report(jnp.asarray(OLD, jnp.float32), jnp.asarray(NEW, jnp.float32), batch)


def test_every_number_of_the_report():
    result = found(world.batch())
    for shift, a, b in ((result.old_new, OLD, NEW), (result.new_old, NEW, OLD)):
        p, q = tables(a), tables(b)
        trajectory = kl(world.law(a), world.law(b)).mean()
        exact = {
            "outcome": kl(p, q, (-2, -1)),
            "success": kl(p.sum(-1), q.sum(-1)),
            "side_effect": kl(p.sum(-2), q.sum(-2)),
            "side_effect_given_success": kl(p, q, (-2, -1)) - kl(p.sum(-1), q.sum(-1)),
        }
        np.testing.assert_allclose(shift.trajectory_kl, trajectory, rtol=2e-5)
        np.testing.assert_allclose(shift.rows_kl, trajectory, rtol=2e-5)
        np.testing.assert_allclose(shift.action_kl, trajectory / world.T, rtol=2e-5)
        for name, value in exact.items():
            np.testing.assert_allclose(getattr(shift, name).plug_in, value.mean(), rtol=5e-5, err_msg=name)
        np.testing.assert_allclose(shift.leverage, exact["outcome"].mean() / trajectory, rtol=5e-5)
        np.testing.assert_allclose(shift.chain_gap, trajectory - exact["outcome"].mean(), rtol=5e-4)
    for when, logits in (("old", OLD), ("new", NEW)):
        table = tables(logits).mean(0)
        np.testing.assert_allclose(getattr(result, f"success_rate_{when}"), table[1].sum(), rtol=1e-5)
        np.testing.assert_allclose(getattr(result, f"side_effect_law_{when}"), table.sum(0), rtol=1e-5)


def test_the_chain_holds_on_any_sample():
    rng = np.random.default_rng(0)
    for seed in range(5):
        drawn = np.stack([rng.choice(world.G, 10, p=p) for p in world.law(OLD)])
        rows = lambda x, d=drawn: jnp.take_along_axis(x, d[..., None] if x.ndim == 3 else d, axis=1)  # noqa: E731
        batch = jax.tree.map(rows, world.batch(OLD))
        result = report(jnp.asarray(OLD, jnp.float32), jnp.asarray(world.table(seed + 5), jnp.float32), batch)
        for shift in (result.old_new, result.new_old):
            assert float(shift.rows_kl) >= float(shift.outcome.plug_in) - 1e-6
            assert float(shift.outcome.plug_in) >= float(shift.side_effect.plug_in) - 1e-6
            np.testing.assert_allclose(
                shift.outcome.plug_in,
                shift.success.plug_in + shift.side_effect_given_success.plug_in,
                rtol=1e-4,
            )
            assert 0 <= float(shift.leverage) <= 1 + 1e-5


def test_it_can_be_read_and_logged():
    result = found(world.batch())
    text = str(result)
    for word in ("success", "D(old ‖ new)", "D(new ‖ old)", "trajectory_kl", "side_effect_given_success", "ESS"):
        assert word in text
    metrics = result.metrics()
    assert all(np.shape(x) == () for x in metrics.values())
    assert metrics["old_new/side_effect"] == result.old_new.side_effect.value
    assert metrics["new_old/side_effect_low"] == result.new_old.side_effect.low
    assert metrics["new_old/trajectory_kl"] == result.new_old.trajectory_kl
    assert metrics["side_effect_2_new"] == result.side_effect_law_new[2]
    assert metrics["old_new/leverage"] == result.old_new.leverage


def test_ragged_rows_weigh_their_decisions():
    batch = world.batch()
    mask = batch.mask.at[:, ::2, -1].set(False)
    result = report(jnp.asarray(OLD, jnp.float32), jnp.asarray(NEW, jnp.float32), replace(batch, mask=mask))
    keep = np.asarray(mask)
    weights = np.exp((world.log_probs(OLD) * keep).sum(-1) + keep.sum(-1) * np.log(world.V))
    weights /= weights.sum(-1, keepdims=True)
    policies = [world.model(jnp.asarray(x), batch.obs).policy for x in (OLD, NEW)]
    nats = np.asarray(policies[0].kl_divergence(policies[1])) * keep
    expected = (weights * nats.sum(-1)).sum(-1)
    np.testing.assert_allclose(result.old_new.trajectory_kl, expected.mean(), rtol=1e-4)
    length = (weights * keep.sum(-1)).sum(-1)
    np.testing.assert_allclose(result.old_new.action_kl, expected.mean() / length.mean(), rtol=1e-4)


@pytest.mark.parametrize("argument", [pytest.param("success", marks=pytest.mark.slow), "side_effect"])
def test_features_out_of_range_give_nan(argument):
    arguments = {"success": SUCCESS, "side_effect": SIDE_EFFECT, argument: lambda o: o["side_effect"] + 2}
    result = jax.jit(
        lambda old, new: outcomes.outcome_report(world.model, old, new, world.batch(), num_side_effects=3, **arguments)
    )(jnp.asarray(OLD), jnp.asarray(NEW))
    assert np.isnan(result.old_new.outcome.value)


@pytest.mark.slow
def test_what_is_infinite_has_no_upper_end():
    """Two cells that the second sample lacks: KLs that see them are infinite, and that of the success is not."""
    parts = outcomes.sample_estimate(jnp.array([0, 1, 2, 3]), jnp.array([0, 0, 2, 2]), 4, between=_parts(2))
    assert np.isinf(parts.high[jnp.array([0, 2, 3])]).all()  # D_out, D_z and, of two infinities, D_{z|s}
    assert np.isfinite(parts.high[1])  # success: two of four rows either way
    assert float(parts.novel_mass) == 0.5


# --- forks --------------------------------------------------------------------------------------------------------


def test_the_profile_is_exact_where_everything_is_enumerated():
    batch = world.batch()
    profile = jax.jit(lambda old, new: outcomes.fork_profile(world.model, old, new, batch, 3, of=SIDE_EFFECT))(
        jnp.asarray(OLD, jnp.float32), jnp.asarray(NEW, jnp.float32)
    )
    old, new = world.log_probs(OLD), world.log_probs(NEW)
    law = world.cells_law(np.exp(old.sum(-1)), world.OUTCOME["side_effect"], 3)
    for t in range(world.T):
        mixed = old.copy()
        mixed[..., t] = new[..., t]
        expected = kl(law, world.cells_law(np.exp(mixed.sum(-1)), world.OUTCOME["side_effect"], 3)).mean()
        np.testing.assert_allclose(profile.outcome.plug_in[t], expected, rtol=1e-4)
        nats = (np.exp(old.sum(-1)) * (old - new)[..., t]).sum(-1).mean()
        np.testing.assert_allclose(profile.action_kl[t], nats, rtol=1e-4)
    np.testing.assert_allclose(profile.decisions, 1, rtol=1e-5)
    np.testing.assert_allclose(profile.action_kl.sum(), kl(world.law(OLD), world.law(NEW)).mean(), rtol=1e-4)


def test_a_prompt_without_a_row_is_left_out():
    """Of the profile's means as of the report's; one with a single row has no law, and has decisions."""
    batch, old, new = world.batch(), jnp.asarray(OLD, jnp.float32), jnp.asarray(NEW, jnp.float32)
    policies = [world.model(x, batch.obs).policy for x in (old, new)]
    nats = np.asarray(policies[0].kl_divergence(policies[1]))
    law = np.exp(world.log_probs(OLD).sum(-1))
    law /= law.sum(-1, keepdims=True)
    none = replace(batch, mask=batch.mask.at[0].set(False))
    profile = jax.jit(lambda batch: outcomes.fork_profile(world.model, old, new, batch, 3, of=SIDE_EFFECT))(none)
    np.testing.assert_allclose(profile.decisions, 1, rtol=1e-5)
    np.testing.assert_allclose(profile.action_kl, (law[..., None] * nats)[1].sum(0), rtol=1e-4)
    one = replace(batch, mask=batch.mask.at[0, 1:].set(False))
    expected = [nats[0, 0].sum(), *(law * nats.sum(-1)).sum(-1)[1:]]
    np.testing.assert_allclose(report(old, new, one).old_new.trajectory_kl, np.mean(expected), rtol=1e-4)


def test_positions_may_be_states():
    batch = world.batch()
    last = jnp.where(jnp.arange(world.T) == 2, 1, 0)
    position = jnp.broadcast_to(last, batch.mask.shape)
    arguments = (world.model, jnp.asarray(OLD, jnp.float32), jnp.asarray(NEW, jnp.float32), batch, 3)
    profile = lambda **rest: jax.jit(lambda: outcomes.fork_profile(*arguments, of=SIDE_EFFECT, **rest))()  # noqa: E731
    by_state, by_time = profile(position=position, num_positions=2), profile()
    np.testing.assert_allclose(by_state.outcome.plug_in[1], by_time.outcome.plug_in[2], rtol=1e-5)
    np.testing.assert_allclose(by_state.action_kl[0], by_time.action_kl[:2].sum(), rtol=1e-5)
    np.testing.assert_allclose(by_state.decisions, [2, 1], rtol=1e-5)
    with pytest.raises(ValueError, match="needs num_positions with position"):
        outcomes.fork_profile(*arguments, of=SIDE_EFFECT, position=position)
    with pytest.raises(ValueError, match="position must have shape"):
        outcomes.fork_profile(*arguments, of=SIDE_EFFECT, position=position[0], num_positions=2)


def test_the_fork_of_the_text():
    """The text's " skip" for " look": two logits at one token of 24. Nothing else moves, and the law is exact."""
    worlds = jax.jit(functools.partial(skip_the_test, num_worlds=3, p_skip=(0.01, 0.05)))(jax.random.key(0))
    moved = worlds.logits.at[:, 4, 1].add(2.0)
    key = jax.random.key(1)
    tokens = jax.jit(functools.partial(jax.random.categorical, shape=(3, 4000, 24)))(key, worlds.logits[:, None])
    model = lambda logits, obs: po.Outputs(  # noqa: E731
        policy=po.Categorical(logits=jnp.broadcast_to(logits[:, None], (*obs.shape, 6)))
    )
    batch = po.Batch(
        obs=tokens,
        action=tokens,
        mask=np.ones(tokens.shape, bool),
        log_prob=jax.jit(lambda tokens: model(worlds.logits, tokens).policy.log_prob(tokens))(tokens),
        outcome=tokens[..., 4] == 1,
    )
    profile = jax.jit(lambda new: outcomes.fork_profile(model, worlds.logits, new, batch, 2))(moved)
    law = jax.jit(lambda logits: token_outcome_law(jax.nn.log_softmax(logits), worlds).skip)
    skip = [np.asarray(law(x)) for x in (worlds.logits, moved)]
    laws = [np.stack([1 - p, p], -1) for p in skip]
    expected = kl(*laws).mean()
    estimate = profile.outcome
    assert int(jnp.argmax(estimate.value)) == 4
    assert float(estimate.low[4]) <= expected <= float(estimate.high[4])
    np.testing.assert_allclose(estimate.value[4], expected, rtol=0.15)
    others = np.delete(np.arange(24), 4)
    assert np.abs(np.asarray(estimate.value)[others]).max() < 1e-6
    # On the fork the outcome is the token: all nats that moved there moved the outcome.
    np.testing.assert_allclose(profile.action_kl[4], expected, rtol=1e-4)


LENGTH = 60


@functools.cache
def three_kinds(dtype):
    """A hundred rows each of failure, clean and dirty success, all decisions of a row alike: reports on a policy."""
    action = jnp.broadcast_to((jnp.arange(300) % 3)[:, None], (300, LENGTH))
    batch = po.Batch(
        obs=jnp.zeros((300, LENGTH), dtype),
        action=action,
        mask=jnp.ones((300, LENGTH), bool),
        log_prob=jnp.full((300, LENGTH), np.log(1 / 3), dtype),
        outcome={"success": action[:, 0] > 0, "dirty": action[:, 0] == 2},
    )
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 3))))  # noqa: E731
    success, dirty = (lambda outcome, name=name: outcome[name] for name in ("success", "dirty"))

    @jax.jit
    def reported(new):
        old = jnp.zeros(3, dtype)
        plain = outcomes.outcome_kl(2, of=success)(model(old, batch.obs), model(new, batch.obs), batch)
        return outcomes.outcome_report(model, old, new, batch, success=success, side_effect=dirty).old_new, plain

    return reported


@pytest.mark.parametrize("last", [-np.inf, *(pytest.param(x, marks=pytest.mark.slow) for x in (-200.0, -60.0, -87.0))])
def test_a_vanishing_cell_spoils_no_part_that_is_finite(last):
    """The success loses its dirty half, whatever is left of that; float32 says what float64 does."""
    new = np.array([0.0, 0.0, last]) / LENGTH
    parts, plain = three_kinds(jnp.float32)(jnp.asarray(new, jnp.float32))
    expected = np.log((1 / 3) / (1 / 2)) / 3 + np.log((2 / 3) / (1 / 2)) * 2 / 3
    np.testing.assert_allclose(plain, expected, rtol=1e-4)
    np.testing.assert_allclose(parts.success.plug_in, expected, rtol=1e-4)
    assert 0.03 < parts.success.low < expected < parts.success.high < 0.1
    assert bool(jnp.isinf(parts.side_effect.high)) == np.isinf(last)
    if np.isfinite(last):
        with jax.enable_x64(True):
            exact, _ = three_kinds(jnp.float64)(jnp.asarray(new))
        for name in ("outcome", "success", "side_effect", "side_effect_given_success"):
            for field in ("value", "plug_in", "low", "high"):
                ours, theirs = (float(getattr(getattr(x, name), field)) for x in (parts, exact))
                np.testing.assert_allclose(ours, theirs, rtol=2e-4, err_msg=f"{name}.{field}")
