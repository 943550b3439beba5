"""What every public term, divergence, reduction, estimator and distribution has to keep; the rows are in `registry.py`.

P8, P21 ... are numbers of the project's list of properties.
"""

import collections
import functools
import inspect
import re
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import (
    ARRAY_CASES,
    CASES,
    DIVERGENCES,
    OTHER_KINDS,
    PAIRS,
    TERMS,
    A,
    B,
    T,
    cast,
    group_arrays,
    public,
    registered,
)

import polopt_jax as po
from polopt_jax import outcomes

CLOSE = dict(rtol=2e-6, atol=2e-6)
GARBAGE = (np.nan, np.inf, -np.inf, 1e38, -1e38)
GARBAGE_IDS = (-100, 256, 2**31 - 1, -(2**31), A)

PER_ROW = ("label", "reference_point")  # fields [...] without T
PREFERENCES = [label for label in TERMS if CASES[label].leading == PAIRS]
TRACES = collections.Counter()

# Made of the same parts as others that are left: what takes a program more for each row is of these in the slow set.
ALIKE = {
    *("surrogate-tanh", "ppo-pair", "clipped_value_loss", "huber_value_loss", "entropy_bonus-tanh", "ipo", "slic"),
    *("nca", "sppo", "apo_zero", "apo_down", "dpo-mean", "dpo-free", "conservative_dpo", "exo", "f_dpo-alpha", "cpo"),
    *("aot_unpaired", "bco", "dual_clip", "dapo", "dr_grpo", "gspo_token", "luspo", "sapo"),
    *("truncated_importance_sampling-rows", "mask_low_entropy", "simple_policy_optimization"),
    *("sampled_kl_to_reference-k3", "corrected_kl_to_reference-k2", "v_mpo", "ratio_term", "ratio_term-sequence"),
    *("kl_to_reference-tanh", "action_kl-choices", "outcome_tv", "outcome_js", "outcome_kl-gaussian"),
    *("outcome_divergence", "sequence_sum", "constant_length", "discopop", "simpo", "robust_dpo", "lambda_returns"),
    *("n_step_returns", "group_centred", "leave_one_out", "mean_reference_point", "k2", "weighted_k2"),
    *("total_variation", "jensen_shannon", "MultiCategorical.entropy", "MultiCategorical.kl_divergence"),
    *("TanhGaussian.kl_divergence", "TanhGaussian.where", "MultiCategorical.where", "DiagGaussian.where"),
}

each_case = pytest.mark.parametrize("label", CASES)
each_array_case = pytest.mark.parametrize("label", ARRAY_CASES)


def few_at_once(labels):
    """All of them, those that are like others marked slow; a new one is not."""
    return pytest.mark.parametrize(
        "label", [pytest.param(x, marks=pytest.mark.slow) if x in ALIKE else x for x in labels]
    )


# --- machinery ----------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    value: Any
    metrics: Any
    input_grads: Any
    """With respect to every leaf of the outputs."""
    batch_grads: Any
    """With respect to every float leaf of the batch."""


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def float_fields(batch):
    """The fields of a batch that are trees of floats."""
    present = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return {name: x for name, x in present.items() if x is not None and all(map(is_float, jax.tree.leaves(x)))}


def evaluation(label):
    """Value, metrics and all gradients of a row, as a function of `(hyper, inputs, batch)`."""
    case = CASES[label]

    def evaluate(hyper, inputs, batch):
        TRACES[label] += 1

        def value(inputs, floats):
            return case.call(hyper, inputs, replace(batch, **floats))

        (loss, metrics), grads = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(inputs, float_fields(batch))
        return Result(loss, metrics, *grads)

    return evaluate


@functools.cache
def compiled(label):
    return jax.jit(evaluation(label))


def eager(label, inputs, batch):
    return CASES[label].call(CASES[label].defaults(), inputs, batch)


def run(label, inputs, batch, hyper=None):
    return compiled(label)(CASES[label].defaults() if hyper is None else hyper, inputs, batch)


def example(label, seed=0, dtype=jnp.float32):
    return cast(CASES[label].example(seed), dtype)


def stack(trees):
    return jax.tree.map(lambda *xs: np.stack(xs), *trees)


def assert_close(actual, expected, **tolerance):
    """Relative to the largest entry of each expected leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        assert np.isfinite(e).all()
        tolerances = CLOSE | tolerance
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerances["rtol"] * np.abs(e).max(initial=1e-3))


def assert_identical(actual, expected):
    """Bit for bit."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes(), (a, e)


def assert_all_zero(tree):
    for x in jax.tree.leaves(tree):
        assert (np.asarray(x) == 0).all(), x


def assert_all_finite(tree):
    for x in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(x, np.float64)).all(), x


def per_decision(f, tree, leading):
    """`f` on the leaves `[..., *]` that have the batch's leading shape; the others (an outcome) stay."""
    return jax.tree.map(lambda x: f(x) if x.shape[: len(leading)] == leading else x, tree)


def under_mask(x, mask, garbage):
    """`x` with `garbage` where the mask is False."""
    return np.where(np.asarray(mask).reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, np.asarray(garbage, x.dtype))


def garbled(inputs, batch, garbage, garbage_id=0):
    """Inputs and batch with garbage in every masked entry of every float, and of every integer."""
    fill = lambda x: x if x.dtype == bool else under_mask(x, batch.mask, garbage if is_float(x) else garbage_id)  # noqa: E731
    return per_decision(fill, (inputs, batch), batch.mask.shape)


def entries(tree, mask):
    """The leaves `[..., *]` of a tree at the True entries of a mask."""
    return [np.asarray(x)[np.asarray(mask)] for x in jax.tree.leaves(tree) if x.shape[: mask.ndim] == mask.shape]


# --- the registry is complete -------------------------------------------------------------------------------------


def test_what_is_alike_has_a_row():
    assert {*CASES, *ARRAY_CASES} >= ALIKE


def test_every_public_name_has_a_row():
    names = {*po.__all__, *outcomes.__all__}
    missing = names - registered() - OTHER_KINDS
    assert not missing, f"enter these in tests/registry.py: {sorted(missing)}"
    assert registered() <= names
    assert names >= OTHER_KINDS
    assert not OTHER_KINDS & registered()
    assert not set(po.__all__) & set(outcomes.__all__)
    assert all(callable(public(name)) or name in OTHER_KINDS for name in names)


def test_every_objective_and_every_hyperparameter_has_a_row():
    from polopt_jax import objectives

    parts = {name for name in objectives.__all__ if name.endswith(("_ratio", "_log_prob"))}  # ratios and scores
    assert set(objectives.__all__) - parts <= {CASES[label].name for label in TERMS}
    # Every keyword of a term that is a number is traced somewhere. (`reduce`, `ddof`, `divergence` are no numbers.)
    for name in registered():
        function = public(name)
        if inspect.isclass(function):
            continue
        numbers = {
            k for k, p in inspect.signature(function).parameters.items() if isinstance(p.default, float) and k != "ddof"
        }
        rows = [case for case in [*CASES.values(), *ARRAY_CASES.values()] if case.name == name]
        traced = {k for case in rows for k in case.hyper}
        assert numbers <= traced, f"{name}: {numbers - traced} is traced nowhere"


def test_examples_are_not_vacuous():
    """Ragged masks, clipped and unclipped decisions, and a gradient to lose in every row of the table."""
    for label, case in CASES.items():
        inputs, batch = example(label)
        assert 0 < batch.mask.sum() < batch.mask.size
        assert batch.mask.any(-1).any()
        assert not batch.mask.any(-1).all()
        result = run(label, inputs, batch)
        assert_all_finite(result)
        reached = [np.abs(x).max() for x in entries(result.input_grads, batch.mask)]
        assert max(reached) > 1e-4, label
        smooth = ("surrogate", "cispo", "sapo", "discovered_policy_optimization", "simple_policy_optimization")
        if case.name in smooth:
            assert float(result.metrics["clip_fraction"]) == 0, "nothing is clipped"
        elif "clip_fraction" in result.metrics:
            assert 0 < float(result.metrics["clip_fraction"]) < 1, label
        assert len(case.inputs) == len(inputs)


# --- jit, vmap, hyperparameters -----------------------------------------------------------------------------------


@each_case
def test_jit_equals_eager(label):
    inputs, batch = example(label)
    assert_close(run(label, inputs, batch)[:2], eager(label, inputs, batch))


def padded(inputs, batch, before, after):
    """With masked decisions on the left (a context) and on the right of T, and what decisions are real."""
    leading = batch.mask.shape
    width = [(0, 0)] * (len(leading) - 1) + [(before, after)]

    def pad(x):
        garbage = np.nan if is_float(x) else False if x.dtype == bool else -100
        return np.pad(x, width + [(0, 0)] * (x.ndim - len(leading)), constant_values=garbage)

    return per_decision(pad, (inputs, batch), leading), np.pad(np.ones(leading, bool), width)


@few_at_once(CASES)
def test_vmap_over_padded_batches_equals_a_loop_over_bare_ones(label):
    """P21, and in one program: over batches, over every hyperparameter at once, and masked decisions change nothing."""
    case, examples = CASES[label], [jax.tree.map(np.asarray, example(label, seed)) for seed in range(2)]
    hyper = [{name: values[i] for name, values in case.hyper.items()} for i in range(2)]
    wide, real = zip(*(padded(*e, *sides) for e, sides in zip(examples, [(0, 2), (2, 0)], strict=True)), strict=True)
    arguments = cast(stack([(h, *e) for e, h in zip(wide, hyper, strict=True)]), jnp.float32)
    together = jax.jit(jax.vmap(evaluation(label)))(*arguments)
    assert_all_zero(together.batch_grads)
    for i, alone in enumerate([run(label, *e, h) for e, h in zip(examples, hyper, strict=True)]):
        result = jax.tree.map(lambda x, i=i: x[i], together)
        assert_close((result.value, result.metrics), (alone.value, alone.metrics), rtol=1e-5)
        assert len(entries(result.input_grads, real[i])) == len(jax.tree.leaves(alone.input_grads)), "none is left out"
        assert_close(
            [x.reshape(-1) for x in entries(result.input_grads, real[i])],
            [x.reshape(-1) for x in entries(alone.input_grads, np.ones(examples[i][1].mask.shape, bool))],
            rtol=1e-5,
        )
        assert_all_zero(entries(result.input_grads, ~real[i]))


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if case.hyper])
def test_hyperparameters_are_traced(label):
    """Another value does not retrace, and has an influence."""
    case, (inputs, batch) = CASES[label], example(label)
    first = run(label, inputs, batch).value
    traces = TRACES[label]
    for name, values in case.hyper.items():
        assert float(run(label, inputs, batch, case.defaults() | {name: values[1]}).value) != float(first), name
    assert TRACES[label] == traces > 0


# --- what is read -------------------------------------------------------------------------------------------------


def unread(label):
    case = CASES[label]
    return [f.name for f in fields(po.Batch) if f.name not in {*case.reads, *case.optional, "mask", "counts"}]


@each_case
def test_undocumented_fields_are_not_read(label):
    inputs, batch = example(label)
    case = CASES[label]
    evaluate = lambda inputs, batch: jax.eval_shape(  # noqa: E731
        lambda i, b: case.call(case.defaults(), i, b), inputs, batch
    )
    clean = run(label, inputs, batch)
    expected = evaluate(inputs, batch)
    poison = lambda x: jnp.full_like(x, np.nan if is_float(x) else -100)  # noqa: E731
    poisoned = {name: jax.tree.map(poison, getattr(batch, name)) for name in unread(label)}
    actual = run(label, inputs, replace(batch, **poisoned))
    assert_identical(
        (actual.value, actual.metrics, actual.input_grads), (clean.value, clean.metrics, clean.input_grads)
    )
    assert_all_zero(actual.batch_grads)
    for wrong in (None, jnp.zeros((7, 9)), object()):
        hidden = replace(batch, **dict.fromkeys(unread(label), wrong))
        closed = lambda i, hidden=hidden: case.call(case.defaults(), i, hidden)  # noqa: E731
        assert jax.eval_shape(closed, inputs) == expected
    if case.inputs == ("outputs",):
        if not case.critic:
            assert evaluate((replace(inputs[0], value=None),), batch) == expected
        if not case.value_logits:
            assert evaluate((replace(inputs[0], value_logits=None),), batch) == expected
        if not case.policy:
            assert evaluate((replace(inputs[0], policy=None),), batch) == expected


@each_case
def test_missing_field_is_named(label):
    inputs, batch = example(label)
    case = CASES[label]
    evaluate = lambda inputs, batch: jax.eval_shape(lambda i: case.call(case.defaults(), i, batch), inputs)  # noqa: E731
    for name in {*case.reads, "mask"} - {"obs"}:
        with pytest.raises(ValueError, match=rf"batch\.{name}\b"):
            evaluate(inputs, replace(batch, **{name: None}))
    for position, name in enumerate(case.inputs):
        name = "(old|new)" if label == "reverse" else name
        for part, needed in (("policy", case.policy), ("value", case.critic), ("value_logits", case.value_logits)):
            if needed:
                short = [replace(x, **{part: None}) if i == position else x for i, x in enumerate(inputs)]
                with pytest.raises(ValueError, match=rf"{name}\.{part}\b"):
                    evaluate(tuple(short), batch)


@pytest.mark.parametrize("label", [label for label in [*TERMS, *DIVERGENCES] if CASES[label].documented])
def test_docstring_says_what_is_read_and_reported(label):
    case = CASES[label]
    doc = public(case.name).__doc__
    said = re.search(r"Reads (.*?)(?:Metrics|No metrics|Averages|Raises|\n\n)", doc, re.DOTALL).group(1)
    words = set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`\n]*)`", said))))
    names = {f.name for f in fields(po.Batch)}
    assert words & names == case.reads | case.optional | {"mask"}
    assert ("outputs.value" in words) == case.critic
    assert ("outputs.value_logits" in words) == case.value_logits
    inputs, batch = example(label)
    for metric in run(label, inputs, batch).metrics:
        assert metric.split("/")[0] in doc, f"the docstring of {case.name} does not mention its metric {metric}"


# --- masks --------------------------------------------------------------------------------------------------------


@each_case
def test_garbage_under_the_mask_is_inert(label):
    """P24: bit-identical results, and a gradient of exactly 0 there, in the batch and in the outputs."""
    inputs, batch = jax.tree.map(np.asarray, example(label))
    clean = run(label, *garbled(inputs, batch, 0.0))
    assert_all_zero(entries(clean.input_grads, ~batch.mask))
    for garbage, garbage_id in zip(GARBAGE, GARBAGE_IDS, strict=True):
        result = run(label, *garbled(inputs, batch, garbage, garbage_id))
        assert_identical((result.value, result.metrics), (clean.value, clean.metrics))
        assert_identical(entries(result.input_grads, batch.mask), entries(clean.input_grads, batch.mask))
        assert_all_zero(entries(result.input_grads, ~batch.mask))
        assert_all_zero(result.batch_grads)
    assert_close((clean.value, clean.metrics), tuple(run(label, inputs, batch)[:2]))


@pytest.mark.parametrize("label", PREFERENCES)
@pytest.mark.parametrize("missing", [0, 1])
def test_half_a_pair_is_no_pair(label, missing):
    """One row without the other adds nothing, neither to the mean nor to the number of pairs."""
    (outputs,), batch = example(label)
    mask = jnp.ones_like(batch.mask)
    half = replace(batch, mask=mask.at[missing, 0].set(False))
    without = replace(batch, mask=mask.at[:, 0].set(False))
    assert_close(run(label, (outputs,), half)[0], run(label, (outputs,), without)[0])
    assert_close(run(label, (outputs,), half).input_grads, run(label, (outputs,), without).input_grads)
    assert_all_zero(jax.tree.map(lambda x: x[:, 0], run(label, (outputs,), half).input_grads))


ONE_SIDED = {
    "on_chosen",
    "nca",
}  # the chosen row's own score has a price of its own, so a swap changes more than the order


@pytest.mark.parametrize("label", [label for label in PREFERENCES if label not in ONE_SIDED])
def test_a_pair_that_favours_its_chosen_row_costs_less_than_the_same_pair_swapped(label):
    (outputs,), batch = example(label)
    swap = lambda tree: jax.tree.map(lambda x: x[::-1], tree)  # noqa: E731
    batch = replace(batch, mask=jnp.ones_like(batch.mask), outcome=None)
    there, back = run(label, (outputs,), batch), run(label, (swap(outputs),), swap(batch))
    of_scores = lambda metrics: {name.removeprefix("preference/"): value for name, value in metrics.items()}  # noqa: E731
    forth, reverse = of_scores(there.metrics), of_scores(back.metrics)
    assert_close(forth["margin"], -reverse["margin"])
    assert_close(forth["accuracy"], 1 - reverse["accuracy"])
    score = "reward" if CASES[label].critic else "log_ratio"
    assert_close(forth[f"chosen_{score}"], reverse[f"rejected_{score}"])
    assert (forth["margin"] > 0) == (there.value < back.value)


@each_case
def test_batch_is_constant(label):
    """P8: the gradient with respect to every float field of the batch is exactly 0."""
    result = run(label, *example(label))
    assert {"log_prob", "advantage", "value", "target", "ref_log_prob"} <= set(result.batch_grads)
    assert_all_zero(result.batch_grads)


@each_case
def test_empty_mask(label):
    """P23: loss and gradient exactly 0, metrics finite, and the count says so, with NaN everywhere underneath."""
    inputs, batch = jax.tree.map(np.asarray, example(label))
    batch = replace(batch, mask=np.zeros_like(batch.mask))
    result = run(label, *garbled(inputs, batch, np.nan, -100))
    assert_all_zero((result.value, result.input_grads, result.batch_grads))
    assert_all_finite(result.metrics)
    for name, metric in result.metrics.items():
        if name.endswith("num_valid"):
            assert float(metric) == 0


@each_case
def test_rows_are_exchangeable(label):
    inputs, batch = example(label)
    axis = CASES[label].rows
    order = np.random.default_rng(5).permutation(B)
    permute = lambda x: jnp.take(x, order, axis=min(axis, x.ndim - 1))  # noqa: E731
    clean, permuted = run(label, inputs, batch), run(label, *jax.tree.map(permute, (inputs, batch)))
    assert_close(permuted.value, clean.value)
    assert_close(permuted.metrics, clean.metrics)
    assert_close(permuted.input_grads, jax.tree.map(permute, clean.input_grads))


@each_case
def test_counts_replace_those_of_the_mask(label):
    """Twice every count halves the value: that is what accumulate_gradients rests on. What couples rows refuses."""
    from polopt_jax.reductions import count

    inputs, batch = example(label)
    if CASES[label].couples:
        with pytest.raises(ValueError, match=rf"{CASES[label].name}.* couples rows"):
            eager(label, inputs, replace(batch, counts=count(batch.mask)))
        return
    doubled = jax.tree.map(lambda x: 2 * x, count(batch.mask))
    assert_close(2 * eager(label, inputs, replace(batch, counts=doubled))[0], run(label, inputs, batch).value)


# --- shapes -------------------------------------------------------------------------------------------------------


def wrong_shapes(shape, leading):
    """Every single change of a leading axis of `shape`, and the scalar."""
    n = len(leading)
    rest = shape[n:]
    changed = {(), (1,), leading[::-1], (*leading, 1), (1, *leading), leading[1:], leading[:-1]}
    for axis, size in enumerate(leading):
        for other in (1, size + 1):
            changed.add((*leading[:axis], other, *leading[axis + 1 :]))
    whole = {(*c, *rest) for c in changed - {leading}}
    return sorted((whole | {()}) - {shape})


@each_case
def test_wrong_shape_is_refused_by_name(label):
    """P33: nothing is broadcast silently; the message names the argument."""
    case = CASES[label]
    inputs, batch = case.example()
    struct = lambda x, shape=None: jax.ShapeDtypeStruct(x.shape if shape is None else shape, _dtype(x))  # noqa: E731
    as_structs = lambda tree: jax.tree.map(struct, tree)  # noqa: E731
    evaluate = lambda inputs, batch: jax.eval_shape(  # noqa: E731
        lambda i, b: case.call(case.defaults(), i, b), as_structs(inputs), as_structs(batch)
    )
    evaluate(inputs, batch)
    checked = 0
    for name in {*case.reads, "mask"} - {"obs"}:
        field = getattr(batch, name)
        if name == "outcome":
            for shape in [(), (1,), (B, 1), (B + 1,), batch.mask.shape, batch.mask.shape[1:-1]]:
                a_feature = case.name == "outcome_mmd" and shape[:1] == batch.mask.shape[:1]  # [G, F]
                if shape != batch.mask.shape[:-1] and not a_feature:
                    with pytest.raises(ValueError, match=r"\boutcome\b"):
                        evaluate(inputs, replace(batch, outcome={"score": np.zeros(shape)}))
            continue
        for shape in wrong_shapes(field.shape, field.shape if name in PER_ROW else batch.mask.shape):
            with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
                evaluate(inputs, replace(batch, **{name: np.zeros(shape, field.dtype)}))
            checked += 1
    for position, name in enumerate(case.inputs):
        for part, x in jax.tree_util.tree_leaves_with_path(inputs[position]):
            path = jax.tree_util.keystr(part)
            read = {".policy": case.policy, ".value": case.critic, ".value_logits": case.value_logits}
            part = next((part for part in (".policy", ".value_logits", ".value") if path.startswith(part)), "")
            if not read.get(part, True):
                continue
            for shape in wrong_shapes(x.shape, batch.mask.shape):
                leaf = np.zeros(shape)
                wrong = jax.tree.map(lambda y, x=x, leaf=leaf: leaf if y is x else y, inputs)
                subject = name + part
                if label == "reverse":  # hands its arguments on, swapped
                    subject = "(old|new).policy"
                with pytest.raises((ValueError, TypeError), match=rf"\b{subject}\b|log_std|choices"):
                    evaluate(wrong, batch)
                checked += 1
    assert checked >= 12


def _dtype(x):
    return jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype


@pytest.mark.parametrize("label", PREFERENCES)
def test_preference_terms_need_pairs(label):
    for leading in [(T,), (2, T), (3, B, T)]:
        inputs, batch = cast(CASES[label].example(leading=leading), jnp.float32)
        with pytest.raises(ValueError, match=f"{CASES[label].name} needs a preference batch"):
            eager(label, inputs, batch)


def test_mask_must_be_boolean():
    for label in CASES:
        inputs, batch = example(label)
        with pytest.raises(TypeError, match=r"mask must be boolean"):
            CASES[label].call(CASES[label].defaults(), inputs, replace(batch, mask=batch.mask.astype(jnp.float32)))


@few_at_once([label for label in [*TERMS, *DIVERGENCES] if "-" not in label and not CASES[label].couples])
def test_any_leading_shape(label):
    """`[T]`, `[B, T]`, `[1, N, G, T]`, `[2, N, T]`: only the grouping into rows of T counts."""
    case = CASES[label]
    flat, shapes = ((6, T), [(6, T), (1, 2, 3, T)])
    if case.leading == PAIRS:
        flat, shapes = (2, 6, T), [(2, 6, T), (2, 3, 2, T)]
    inputs, batch = cast(case.example(leading=flat), jnp.float32)
    batch = replace(batch, outcome=None)
    rows = {name: getattr(batch, name) for name in PER_ROW}

    @jax.jit
    def values(inputs, batch):
        call = lambda inputs, batch: case.call(case.defaults(), inputs, batch)  # noqa: E731
        reshaped = []
        for shape in shapes:
            reshape = lambda x, shape=shape: x.reshape(*shape, *x.shape[len(flat) :])  # noqa: E731
            per_row = {name: x.reshape(shape[:-1]) for name, x in rows.items()}
            reshaped.append(call(*per_decision(reshape, (inputs, replace(batch, **per_row)), flat)))
        if case.leading == PAIRS:
            return reshaped
        one, row = (jax.tree.map(lambda x, i=i: x[i], (inputs, batch)) for i in (slice(0, 1), 0))
        return reshaped, (call(*one), call(*row))

    if case.leading == PAIRS:
        several = values(inputs, batch)
    else:
        several, (one, row) = values(inputs, batch)
        assert_close(row, one)
    for other in several[1:]:
        assert_close(other, several[0])


def test_observations_may_be_any_tree():
    inputs, batch = example("ppo")
    logits, tokens = inputs[0].policy.logits, jnp.zeros(batch.mask.shape, jnp.int32)

    def model(params, obs):
        features = obs if isinstance(obs, jax.Array) else jax.tree.leaves(obs)[0]
        return po.Outputs(policy=po.Categorical(logits=features * params))

    loss = po.objective(model, po.ppo())
    params = jnp.array(2.0)
    step = po.epochs(po.make_step((loss, po.clip_by_global_norm(1.0))), 1, B)

    @jax.jit
    def everything(obs):
        data = replace(batch, obs=obs)
        return loss(params, data)[0], step.update(params, step.init(params), data, jax.random.key(0))

    expected = everything(logits)
    for obs in ({"logits": logits, "tokens": tokens}, (logits, tokens), [logits, {"positions": tokens}]):
        assert_close(everything(obs), expected)


# --- dtypes -------------------------------------------------------------------------------------------------------


@each_case
def test_float32_in_float32_out(strict, label):
    """Under strict promotion, and with rank promotion an error; in half precision values still come in float32."""
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        inputs, batch = example(label, dtype=dtype)
        result = jax.eval_shape(evaluation(label), CASES[label].defaults(), inputs, batch)
        assert {x.dtype for x in jax.tree.leaves((result.value, result.metrics))} == {jnp.dtype("float32")}
        assert {x.dtype for x in jax.tree.leaves((result.input_grads, result.batch_grads))} == {jnp.dtype(dtype)}
        assert {x.shape for x in jax.tree.leaves((result.value, result.metrics))} == {()}


@few_at_once(CASES)
def test_float64(x64, label):
    """Under x64, and strict: float64 in and out, the same numbers, and the derivative is that of the value.

    It is not where a part is held constant, on purpose; tests of its own have the gradient.
    """
    inputs, batch = example(label, dtype=jnp.float64)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(evaluation(label), CASES[label].defaults(), inputs, batch)
    result = run(label, inputs, batch)
    assert {x.dtype for x in jax.tree.leaves((result.value, result.input_grads))} == {jnp.dtype("float64")}
    with jax.enable_x64(False):
        single = run(label, *example(label))
    assert_close(single, result, rtol=1e-5)

    rng, h = np.random.default_rng(0), 1e-6
    leaves, tree = jax.tree.flatten(inputs)
    direction = [rng.normal(size=x.shape) for x in leaves]
    moved = lambda h: tree.unflatten([x + h * d for x, d in zip(leaves, direction, strict=True)])  # noqa: E731
    difference = (run(label, moved(h), batch).value - run(label, moved(-h), batch).value) / (2 * h)
    slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(result.input_grads), direction, strict=True))
    assert np.isclose(slope, difference, rtol=1e-6, atol=1e-8) != CASES[label].held


@few_at_once(CASES)
def test_bfloat16_is_accumulated_in_float32(label):
    """P25: equal to the float64 computation on the same rounded inputs."""
    case, low = CASES[label], example(label, dtype=jnp.bfloat16)
    result = jax.jit(case.call)(case.defaults(), *low)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64) if is_float(x) else x, low)
    with jax.enable_x64(True):
        expected = run(label, *cast(wide, jnp.float64))
    assert_close(result, (expected.value, expected.metrics), rtol=1e-5)


# --- functions of arrays ------------------------------------------------------------------------------------------


GROUPS = [label for label, case in ARRAY_CASES.items() if case.make is group_arrays]


@pytest.mark.parametrize("label", GROUPS)
def test_groups_are_permuted_inside_and_among_each_other_and_never_mixed(label):
    """P20."""
    reward = array_example(label)["reward"]
    plain = np.asarray(run_arrays(label, {"reward": reward}))
    rng = np.random.default_rng(0)
    inside, among = rng.permutation(reward.shape[1]), rng.permutation(reward.shape[0])
    assert_close(run_arrays(label, {"reward": reward[:, inside]}), plain[:, inside])
    assert_identical(run_arrays(label, {"reward": reward[among]}), plain[among])
    mixed = reward.at[0, 0].set(reward[1, 0]).at[1, 0].set(reward[0, 0])
    assert np.abs(np.asarray(run_arrays(label, {"reward": mixed}))[:2, 1:] - plain[:2, 1:]).max() > 1e-2
    np.testing.assert_allclose(plain.sum(-1), 0, atol=1e-5)


@pytest.mark.parametrize("label", GROUPS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_no_member_of_its_group(label, bad):
    reward = array_example(label)["reward"]
    found = np.asarray(run_arrays(label, {"reward": reward.at[1, 2].set(bad)}))
    assert np.isnan(found[1, 2])
    others = np.arange(reward.shape[1]) != 2
    assert_close(found[1][others], array_call(label)(ARRAY_CASES[label].defaults(), {"reward": reward[1, others]}))
    assert_identical(np.delete(found, 1, 0), np.delete(np.asarray(run_arrays(label, {"reward": reward})), 1, 0))


@pytest.mark.parametrize("label", GROUPS)
@pytest.mark.parametrize("value", [0.1, 0.35, 1e8, -0.0])
def test_equal_rewards_and_a_group_of_one_give_exactly_nothing(label, value):
    assert_all_zero(array_call(label)(ARRAY_CASES[label].defaults(), {"reward": jnp.full((3, 7), value)}))
    assert_all_zero(array_call(label)(ARRAY_CASES[label].defaults(), {"reward": jnp.full((3, 1), value)}))


def array_call(label):
    case = ARRAY_CASES[label]
    return lambda hyper, arrays: case.call(hyper, **arrays)


@functools.cache
def compiled_arrays(label):
    return jax.jit(array_call(label))


def array_example(label, seed=0, dtype=jnp.float32):
    return cast(ARRAY_CASES[label].example(seed), dtype)


def run_arrays(label, arrays, hyper=None):
    return compiled_arrays(label)(ARRAY_CASES[label].defaults() if hyper is None else hyper, arrays)


def infinities_aside(tree):
    """-inf stands for an illegal action, and is compared as a large finite number."""
    return jax.tree.map(lambda x: np.where(np.isneginf(np.asarray(x, np.float64)), -1e3, np.asarray(x)), tree)


@each_array_case
def test_arrays_jit_equals_eager_and_vmap_equals_loop(label):
    case, examples = ARRAY_CASES[label], [array_example(label, seed) for seed in range(3)]
    loop = [infinities_aside(run_arrays(label, e)) for e in examples]
    assert_close(infinities_aside(array_call(label)(case.defaults(), examples[0])), loop[0])
    if case.random:
        return
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *examples)
    several = jax.jit(jax.vmap(array_call(label), (None, 0)))(case.defaults(), stacked)
    assert_close(infinities_aside(several), stack(loop))


@each_array_case
def test_arrays_hyperparameters_are_traced(label):
    case, arrays, traces = ARRAY_CASES[label], array_example(label), []

    @jax.jit
    def f(hyper):
        traces.append(None)
        return case.call(hyper, **arrays)

    low, high = ({name: values[i] for name, values in case.hyper.items()} for i in (0, 1))
    loop = [f(low), f(high)]
    assert len(traces) == 1
    if case.hyper:
        for name in case.hyper:
            changed = f(low | {name: high[name]})
            assert any((a != b).any() for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(loop[0]), strict=True))
        stacked = {name: jnp.array(values) for name, values in case.hyper.items()}
        assert_close(jax.jit(jax.vmap(lambda hyper: case.call(hyper, **arrays)))(stacked), stack(loop))


@each_array_case
def test_arrays_rows_are_exchangeable(label):
    case, arrays = ARRAY_CASES[label], array_example(label)
    order = np.random.default_rng(5).permutation(B)
    if case.random:  # a sample depends on where its decision stands
        return
    permute = lambda x: jnp.take(x, order, axis=case.rows)  # noqa: E731
    clean = run_arrays(label, arrays)
    permuted = run_arrays(label, jax.tree.map(permute, arrays))
    assert_close(infinities_aside(permuted), infinities_aside(jax.tree.map(permute, clean)))


@each_array_case
def test_arrays_wrong_shape_is_refused_by_name(label):
    case, arrays = ARRAY_CASES[label], ARRAY_CASES[label].example()
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, _dtype(x))  # noqa: E731
    evaluate = lambda arrays: jax.eval_shape(lambda a: case.call(case.defaults(), **a), jax.tree.map(struct, arrays))  # noqa: E731
    evaluate(arrays)
    if case.alone:
        if list(arrays) == ["reward"]:
            with pytest.raises(ValueError, match="reward"):
                evaluate({"reward": np.zeros(())})
        return
    for name, x in arrays.items():
        leading = x.shape[:-1] if name in case.event else x.shape
        shapes = wrong_shapes(x.shape, leading)
        if name in case.event and name not in case.free:
            shapes += [(*leading, 1), (*leading, x.shape[-1] + 1)]
        for shape in shapes:
            subject = rf"\b{name.replace('other_', 'other.')}\b" + (
                r"|\bpolicy\b|\blog_std\b" if name in case.event else ""
            )
            with pytest.raises((ValueError, TypeError), match=subject):
                evaluate(arrays | {name: np.zeros(shape, x.dtype)})


@pytest.mark.parametrize(
    "label",
    ["gae", "discounted_returns", "lambda_returns", "n_step_returns", "v_trace", "reward_minus_kl", "standardize"],
)
def test_flags_and_masks_must_be_boolean(label):
    arrays = array_example(label)
    for name, x in arrays.items():
        if x.dtype == bool:
            with pytest.raises(TypeError, match=f"{name} must be boolean"):
                run_arrays(label, arrays | {name: x.astype(jnp.float32)})


@each_array_case
def test_arrays_float32_in_float32_out(strict, label):
    case = ARRAY_CASES[label]
    result = jax.eval_shape(array_call(label), case.defaults(), array_example(label))
    assert {x.dtype for x in jax.tree.leaves(result)} <= {jnp.dtype("float32"), jnp.dtype("int32")}


@few_at_once(ARRAY_CASES)
def test_arrays_float64_and_gradient(x64, label):
    """float64 under x64 gives float64; estimates are constants, and everything else has the derivative of its value."""
    case, arrays = ARRAY_CASES[label], array_example(label, dtype=jnp.float64)
    floats = {name: x for name, x in arrays.items() if is_float(x)}
    weights = jax.tree.map(
        lambda x: np.random.default_rng(1).normal(size=x.shape), case.call(case.defaults(), **arrays)
    )

    def value(floats):
        result = jax.tree.leaves(case.call(case.defaults(), **arrays | floats))
        finite = [jnp.where(jnp.isfinite(x), x, 0) for x in result if is_float(x)]
        return sum([jnp.vdot(x, w) for x, w in zip(finite, jax.tree.leaves(weights), strict=False)], jnp.zeros(()))

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(array_call(label), case.defaults(), arrays)
    result = run_arrays(label, arrays)
    assert {x.dtype for x in jax.tree.leaves(result)} <= {jnp.dtype("float64"), jnp.dtype("int32")}
    with jax.enable_x64(False):
        if not case.random:
            assert_close(infinities_aside(run_arrays(label, array_example(label))), infinities_aside(result), rtol=1e-5)
    value_and_grad = jax.jit(jax.value_and_grad(value))
    grads = value_and_grad(floats)[1]
    if case.constant:
        assert_all_zero(grads)
    direction = {name: np.random.default_rng(2).normal(size=x.shape) for name, x in floats.items()}
    moved = lambda h: {name: x + h * direction[name] for name, x in floats.items()}  # noqa: E731
    slope = sum(np.vdot(grads[name], direction[name]) for name in floats)
    if not case.constant and not case.held:
        difference = (value_and_grad(moved(1e-6))[0] - value_and_grad(moved(-1e-6))[0]) / 2e-6
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("label", [k for k, case in ARRAY_CASES.items() if case.exact and not case.random])
def test_arrays_bfloat16_is_accumulated_in_float32(label):
    low = array_example(label, dtype=jnp.bfloat16)
    result = run_arrays(label, low)
    assert {x.dtype for x in jax.tree.leaves(result)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64) if is_float(x) else x, low)
    with jax.enable_x64(True):
        expected = run_arrays(label, cast(wide, jnp.float64))
    assert_close(result, expected, rtol=1e-5)


@pytest.mark.parametrize("label", ["standardize", *(k for k in ARRAY_CASES if k.endswith(".where"))])
def test_arrays_garbage_under_the_mask_is_inert(label):
    arrays = jax.tree.map(np.asarray, array_example(label))
    mask = arrays["mask"]
    floats = {name: x for name, x in arrays.items() if is_float(x)}

    @jax.jit
    def value_and_grad(floats):
        def loss(floats):
            results = jax.tree.leaves(ARRAY_CASES[label].call({}, **floats, mask=mask))
            return sum((x**2).sum() for x in results)

        return run_arrays(label, {**floats, "mask": mask}), jax.grad(loss)(floats)

    fill = lambda garbage: {name: under_mask(x, mask, garbage) for name, x in floats.items()}  # noqa: E731
    clean, clean_grads = value_and_grad(fill(0.0))
    for garbage in GARBAGE:
        result, grads = value_and_grad(fill(garbage))
        assert_identical(result, clean)
        assert_identical(grads, clean_grads)
        assert_all_zero(entries(grads, ~mask))
    assert_all_zero(entries(clean, ~mask))
