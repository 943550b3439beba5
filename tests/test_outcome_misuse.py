"""What a person gets wrong is said at once, by the name of the argument."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import outcomes

TABLE = jnp.array([[0.7, 0.2], [0.05, 0.05]])
ROWS = po.Batch(
    obs=jnp.zeros((4, 2)),
    action=jnp.zeros((4, 2), int),
    mask=jnp.ones((4, 2), bool),
    log_prob=jnp.full((4, 2), -0.7),
    advantage=jnp.zeros((4, 2)),
    outcome={"z": jnp.array([0, 1, 0, 1]), "share": jnp.array([0.1, 0.2, 0.3, 0.4])},
)


def model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 2))))


OUTPUTS = model(jnp.zeros(2), ROWS.obs)
Z = lambda o: o["z"]  # noqa: E731


def profile(**rest):
    return outcomes.fork_profile(model, jnp.zeros(2), jnp.ones(2), ROWS, 2, of=Z, **rest)


def report(success, side_effect):
    return outcomes.outcome_report(model, jnp.zeros(2), jnp.ones(2), ROWS, success=success, side_effect=side_effect)


WRONG = {
    "a feature that is not there": (
        lambda: outcomes.outcome_kl(2, of=lambda o: o["vase"])(OUTPUTS, OUTPUTS, ROWS),
        r"outcome_kl: of\(batch\.outcome\) asks for 'vase'; batch\.outcome has \['share', 'z'\]",
    ),
    "a float for success": (lambda: report(lambda o: o["share"], Z), r"outcome_report: success\(batch\.outcome\)"),
    "a float for a side effect": (lambda: report(Z, lambda o: o["share"]), r"side_effect\(batch\.outcome\)"),
    "positions without their number": (
        lambda: profile(position=jnp.zeros((4, 2), int)),
        "needs num_positions with position",
    ),
    "a number without positions": (lambda: profile(num_positions=2), "needs position with num_positions"),
    "no position": (
        lambda: profile(position=jnp.zeros((4, 2), int), num_positions=0),
        "fork_profile: num_positions must be at least 1",
    ),
    "positions that are floats": (lambda: profile(position=jnp.zeros((4, 2)), num_positions=2), "position must be"),
    "a negative table": (lambda: outcomes.pump(-TABLE, 0.9), "pump: table must be at least 0"),
    "a table of NaN": (lambda: outcomes.ipf(TABLE * jnp.nan, 0.9), "ipf: table must be at least 0"),
    "best of none": (lambda: outcomes.best_of_n(TABLE, 0), "best_of_n: n must be above 0"),
    "a bandwidth of 0": (lambda: outcomes.outcome_mmd(Z, bandwidth=0.0), "outcome_mmd: bandwidth must be above 0"),
    "the same to report": (lambda: outcomes.mmd_estimate(Z, bandwidth=-1.0), "mmd_estimate: bandwidth"),
    "the same of samples": (
        lambda: outcomes.sample_mmd(jnp.zeros(3), jnp.zeros(3), bandwidth=0.0),
        "sample_mmd: bandwidth",
    ),
    "a reference that is no law": (lambda: outcomes.outcome_penalty(jnp.array([2.0, -1.0])), "reference must be"),
    "a reference that does not sum to one": (
        lambda: outcomes.outcome_penalty(jnp.array([0.1, 0.1])),
        "outcome_penalty: reference must be laws that sum to one; they sum to 0.2",
    ),
    "one reference of two that does not": (
        lambda: outcomes.outcome_penalty(jnp.array([[0.5, 0.5], [0.1, 0.1]])),
        "outcome_penalty: reference must be laws that sum to one; they sum to",
    ),
    "a penalty to a number": (lambda: outcomes.outcome_penalty(0.5), "outcome_penalty: reference must be a law"),
    "one rollout without an axis": (lambda: outcomes.forecast(True, True), "forecast: success must be of rollouts"),
    "one outcome without an axis": (
        lambda: outcomes.sample_estimate(jnp.array(1), jnp.array(0), 2),
        "sample_estimate: .*both must have rows",
    ),
    "features of other widths": (
        lambda: outcomes.sample_mmd(jnp.zeros((3, 2)), jnp.zeros((4, 1))),
        "sample_mmd: second must have the axes of first",
    ),
    "a reference of another length": (
        lambda: outcomes.update_price(outcomes.init_price(2), ROWS, jnp.ones(3) / 3, of=Z),
        r"reference must have shape \(2,\), or the price's; it has \(3,\)",
    ),
    "a reference that is a number": (
        lambda: outcomes.update_price(outcomes.init_price(2), ROWS, jnp.array(0.1), of=Z),
        "reference must have shape",
    ),
    "a negative reference": (
        lambda: outcomes.g_statistic(jnp.zeros(3, int), jnp.array([1.5, -0.5])),
        "g_statistic: reference must be at least 0",
    ),
    "a reference for each prompt": (
        lambda: outcomes.g_statistic(jnp.zeros((2, 3), int), jnp.ones((2, 2)) / 2),
        r"g_statistic: reference must be one law \[K\]; it has shape \(2, 2\)",
    ),
    "labels that are numbers": (
        lambda: outcomes.g_statistic(jnp.zeros(3, int), jnp.ones(2) / 2, labelled=jnp.ones(3, int)),
        "g_statistic: labelled must be boolean",
    ),
    "counts for a price": (
        lambda: outcomes.update_price(outcomes.init_price(2), ROWS, jnp.array([90.0, 10.0]), of=Z),
        r"update_price: reference must be laws that sum to one; they sum to 100\.0",
    ),
    "a negative law of a price": (
        lambda: outcomes.update_price(outcomes.init_price(2), ROWS, jnp.array([1.5, -0.5]), of=Z),
        "update_price: reference must be at least 0",
    ),
    "a statistic of what is no law": (
        lambda: outcomes.g_statistic(jnp.zeros(3, int), jnp.array([0.05, 0.05])),
        r"g_statistic: reference must be laws that sum to one; they sum to 0\.1",
    ),
    "an advantage for each row": (
        lambda: outcomes.outcome_price(replace(ROWS, advantage=jnp.zeros(4)), jnp.zeros(2), of=Z),
        r"outcome_price: batch\.advantage must have shape \(4, 2\), that of batch\.mask; it has \(4,\)",
    ),
    "a float for the number of cells": (lambda: outcomes.outcome_kl(2.0), "outcome_kl: num_outcomes must be a whole"),
    "no cells": (lambda: outcomes.outcome_tv(0), "outcome_tv: num_outcomes must be a whole number from 1; it is 0"),
    "a true number of cells": (lambda: outcomes.outcome_estimate(True), "outcome_estimate: num_outcomes must be"),
    "the same of samples, of cells": (
        lambda: outcomes.sample_estimate(jnp.array([1]), jnp.array([0]), 2.0),
        "sample_estimate: num_outcomes must be",
    ),
    "the same of a profile": (
        lambda: outcomes.fork_profile(model, jnp.zeros(2), jnp.ones(2), ROWS, 2.0, of=Z),
        "fork_profile: num_outcomes must be",
    ),
    "the name of a feature": (
        lambda: outcomes.outcome_kl(2, of="z")(OUTPUTS, OUTPUTS, ROWS),
        r"outcome_kl: of must be a function of batch\.outcome; it is a str",
    ),
    "more hits than labels": (
        lambda: outcomes.cusum(0.0, 9, 8, rate=0.05, alarm_rate=0.2),
        "cusum: hits must be from 0 to labels; they are 9, labels 8",
    ),
    "fewer hits than none": (lambda: outcomes.cusum(0.0, -1, 8, rate=0.05, alarm_rate=0.2), "hits must be from 0"),
    "a table of zeros": (lambda: outcomes.pump(jnp.zeros((2, 3)), 0.9), "pump: the sum of table must be above 0"),
    "a rate of 0": (
        lambda: outcomes.cusum(jnp.zeros(()), jnp.zeros(()), jnp.ones(()), rate=0, alarm_rate=0.1),
        "0 < rate < alarm_rate < 1",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_is_named(what):
    call, words = WRONG[what]
    with pytest.raises((ValueError, TypeError), match=words):
        call()


ALONE = jax.tree.map(lambda x: x[:, None], ROWS)
ONE_LAW = jax.tree.map(lambda x: x[None], ROWS)
MOVED = jnp.array([0.0, 1.0])


def moved(batch, measure):
    return measure(model(jnp.zeros(2), batch.obs), model(MOVED, batch.obs), batch)


def of_rows(term):
    return lambda batch: term(model(MOVED, batch.obs), batch)[0]


LAWS = {
    **{
        name: lambda batch, name=name: moved(batch, getattr(outcomes, name)(2, of=Z))
        for name in ("outcome_kl", "outcome_tv", "outcome_js", "outcome_chi2", "outcome_estimate")
    },
    **{
        name: lambda batch, name=name: moved(batch, getattr(outcomes, name)(of=lambda o: o["share"]))
        for name in ("outcome_mmd", "mmd_estimate")
    },
    "conditional_outcome_kl": lambda batch: moved(batch, outcomes.conditional_outcome_kl(2, 2, of=Z, given=Z)),
    "outcome_report": lambda batch: outcomes.outcome_report(
        model, jnp.zeros(2), MOVED, batch, success=Z, side_effect=Z
    ),
    "fork_profile": lambda batch: outcomes.fork_profile(model, jnp.zeros(2), MOVED, batch, 2, of=Z),
    "outcome_penalty": of_rows(outcomes.outcome_penalty(jnp.array([0.5, 0.5]), of=Z)),
    "outcome_mean": of_rows(outcomes.outcome_mean(of=Z)),
    "outcome_price": lambda batch: outcomes.outcome_price(batch, jnp.ones(2), of=Z),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_prompt_of_one_row_has_no_law_that_moves(name):
    """Its weight is 1 whatever the policy: every one of these was 0, or charged nothing, without a word."""
    with pytest.raises(ValueError, match=rf"{name}: laws are taken per prompt.*\(4, 1, 2\).*\[1, N, T\] or \[N, T\]"):
        jax.eval_shape(LAWS[name], ALONE)
    jax.eval_shape(LAWS[name], ONE_LAW)
    jax.eval_shape(LAWS[name], ROWS)


BETWEEN = [outcomes.kl, outcomes.total_variation, outcomes.jensen_shannon, outcomes.chi_square]


@pytest.mark.parametrize("between", BETWEEN)
def test_probabilities_are_no_log_laws(between):
    law, other = np.array([[0.7, 0.3], [0.5, 0.5]], np.float32), np.array([[0.6, 0.4], [0.5, 0.5]], np.float32)
    log_law, log_other = jnp.asarray(np.log(law)), jnp.asarray(np.log(other))
    said = f"{between.__name__}: log_{{}} must be log-probabilities"
    for bad in (jnp.asarray(law), law, jnp.asarray([[0, 1], [1, 0]]), jnp.asarray(0 * law)):
        with pytest.raises(ValueError, match=said.format("p") + ".*take their logarithm"):
            between(bad, log_other)
    with pytest.raises(ValueError, match=said.format("q") + ".*they sum to 3.314; it looks like"):
        between(log_law, jnp.asarray(other))
    for shift in (2e-3, -2e-3):
        with pytest.raises(ValueError, match=said.format("q") + r".*they sum to (1\.002|0\.998)$"):
            between(log_law, jnp.asarray(np.log(other) + np.array([[0.0], [shift]], np.float32)))
    assert np.isfinite(between(jnp.asarray(np.log(law) + np.float32(5e-4)), log_other)).all(), "to 1e-3"


@pytest.mark.parametrize("between", BETWEEN)
def test_what_a_log_law_may_be(between):
    """Empty cells, prompts without rows or with rows in no cell, coarse numbers; what is traced is not looked at."""
    nothing, nowhere, sure = [-np.inf] * 3, [np.nan, -0.7, -0.7], [0.0, -np.inf, -np.inf]
    even = np.full((3, 3), 1 / 3, np.float32)
    between(jnp.asarray([nothing, nowhere, sure]), jnp.asarray(np.log(even)))
    between(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    many = np.log(np.random.default_rng(0).dirichlet(np.ones(50), 20))
    for dtype in (jnp.bfloat16, jnp.float16):
        between(jnp.asarray(many, dtype), jnp.asarray(many, dtype))
    for wrapped in (jax.jit(between), jax.vmap(between), jax.grad(lambda p, q: between(p, q).sum(), argnums=(0, 1))):
        wrapped(jnp.asarray(even), jnp.asarray(even))


def same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


TAKEN = {
    "g_statistic": lambda of: outcomes.g_statistic(of([0, 1, 1]), of([0.5, 0.5]), labelled=of([True, True, False])),
    "outcome_price": lambda of: outcomes.outcome_price(ROWS, of([0.0, 1.0]), of=Z, labelled=of([True] * 4)),
    "update_price": lambda of: outcomes.update_price(
        outcomes.init_price(2), ROWS, of([0.75, 0.25]), of=Z, labelled=of([True, True, True, False])
    ),
    "outcome_penalty": lambda of: outcomes.outcome_penalty(of([0.75, 0.25]), of=Z)(OUTPUTS, ROWS),
    "sample_mmd": lambda of: outcomes.sample_mmd(of([0.0, 1.0, 2.0]), of([1.0, 2.0])),
    "token_statistics": lambda of: outcomes.token_statistics(OUTPUTS, ROWS, reward=of([0.0, 1.0, 1.0, 0.0])),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_list_is_taken_for_the_array_that_it_is(name):
    same(TAKEN[name](list), TAKEN[name](jnp.array))


def test_lists_are_as_good_as_arrays():
    np.testing.assert_allclose(jnp.exp(outcomes.log_law([0, 1, 1, 1], 2)), [0.25, 0.75], rtol=1e-6)
    assert float(outcomes.forecast([True, True], [True, False]).share) == 0.5
    estimate = jax.jit(lambda: outcomes.sample_estimate([0, 1, 1, 1], [0, 0, 1, 1], 2))()
    assert float(estimate.plug_in) > 0
    batch = replace(ROWS, outcome=[0, 1, 0, 1])
    assert float(outcomes.outcome_kl(2)(OUTPUTS, OUTPUTS, batch)) == 0


def test_rows_in_no_cell_poison_what_looks_at_them():
    out = replace(ROWS, outcome={"z": jnp.array([0, 1, 0, 7])})
    price = outcomes.update_price(outcomes.init_price(2), out, jnp.array([0.5, 0.5]), of=Z)
    assert np.isnan(price.charge).all()
    assert np.isnan(outcomes.g_statistic(jnp.array([0, 5]), jnp.array([0.5, 0.5])).statistic)
    ignored = outcomes.g_statistic(jnp.array([0, 5]), jnp.array([0.5, 0.5]), labelled=jnp.array([True, False]))
    assert np.isfinite(ignored.statistic)


def test_several_estimates_can_be_printed():
    rows = np.zeros((3, 4), int)
    several = jax.vmap(lambda a, b: outcomes.sample_estimate(a, b, 2))(rows, rows)
    assert "plug_in" in str(several)
