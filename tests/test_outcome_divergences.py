"""Divergences between outcome laws against enumeration, and what the machinery makes of them."""

from dataclasses import replace
from functools import cache

import enumerated as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import outcomes
from polopt_jax.language import transformer

OLD, NEW, OTHER = world.table(0), world.table(1), world.table(2)
CELLS = 2 * world.OUTCOME["success"] * 3 // 2 + world.OUTCOME["side_effect"]
BOTH = outcomes.joint(success=2, side_effect=3)
NAMES = ("outcome_kl", "outcome_tv", "outcome_js", "outcome_chi2")


def exact(name, p, q):
    """Mean over prompts, in numpy's float64; cells without mass in either are left out."""

    def kl(p, q):
        some = p > 0
        return (np.where(some, p, 0) * np.log(np.where(some, p, 1) / np.where(some, q, 1))).sum(-1)

    middle = (p + q) / 2
    values = {
        "outcome_kl": lambda: kl(p, q),
        "outcome_tv": lambda: np.abs(p - q).sum(-1) / 2,
        "outcome_js": lambda: (kl(p, middle) + kl(q, middle)) / 2,
        "outcome_chi2": lambda: (np.where(q > 0, (p - q) ** 2, 0) / np.where(q > 0, q, 1)).sum(-1),
    }
    return values[name]().mean()


@jax.jit
def outputs_of(logits, obs):
    return world.model(logits, obs)


def outputs(logits, batch):
    return outputs_of(jnp.asarray(logits, jnp.float32), batch.obs)


@cache
def compiled(name, num, of=BOTH):
    """Once for each shape: an eager call compiles a hundred programs."""
    return jax.jit(getattr(outcomes, name)(num, of=of))


def laws(logits, cells, num):
    return world.cells_law(world.law(logits), cells, num)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("of", "cells", "num"),
    [
        (BOTH, CELLS, 6),
        (lambda o: o["success"], world.OUTCOME["success"], 2),
        (lambda o: o["side_effect"], world.OUTCOME["side_effect"], 3),
    ],
    ids=["joint", "success", "side effect"],
)
def test_the_exact_value(name, of, cells, num):
    batch = world.batch()
    found = compiled(name, num, of)(outputs(OLD, batch), outputs(NEW, batch), batch)
    np.testing.assert_allclose(found, exact(name, laws(OLD, cells, num), laws(NEW, cells, num)), rtol=2e-5)
    reversed_value = exact(name, laws(NEW, cells, num), laws(OLD, cells, num))
    symmetric = name in ("outcome_tv", "outcome_js")
    assert symmetric or not np.isclose(found, reversed_value, rtol=2e-3)


def test_prompts_are_not_pooled():
    batch = world.batch()
    divergence = compiled("outcome_kl", 6)
    found = divergence(outputs(OLD, batch), outputs(NEW, batch), batch)
    old, new = laws(OLD, CELLS, 6), laws(NEW, CELLS, 6)
    pooled = exact("outcome_kl", old.mean(0)[None], new.mean(0)[None])
    assert float(found) > pooled + 1e-3
    in_one = lambda x: np.asarray(x).reshape(1, world.N * world.G, *x.shape[2:])  # noqa: E731
    one = jax.tree.map(in_one, batch)
    flat = lambda logits: jax.tree.map(in_one, outputs(logits, batch))  # noqa: E731
    np.testing.assert_allclose(divergence(flat(OLD), flat(NEW), one), pooled, rtol=2e-5)
    row = jax.tree.map(lambda x: x[0], one)
    squeezed = lambda logits: jax.tree.map(lambda x: x[0], flat(logits))  # noqa: E731
    np.testing.assert_allclose(divergence(squeezed(OLD), squeezed(NEW), row), pooled, rtol=2e-5)


def rows_of(batch, drawn):
    """The rows of these numbers `[N, M]`."""
    index = lambda x: drawn[..., None] if x.ndim == 3 else drawn  # noqa: E731
    return jax.tree.map(lambda x: np.take_along_axis(np.asarray(x), index(x), axis=1), batch)


def test_the_sampler_decides_the_weights_and_not_which_policy_is_called_old():
    """Rows drawn by a third policy, of which both laws are estimated; nothing else would converge to the truth."""
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.choice(world.G, 200_000, p=p) for p in world.law(OTHER)])
    batch = rows_of(world.batch(OTHER), drawn)
    divergence = compiled("outcome_kl", 6)
    found = divergence(outputs(OLD, batch), outputs(NEW, batch), batch)
    truth = exact("outcome_kl", laws(OLD, CELLS, 6), laws(NEW, CELLS, 6))
    np.testing.assert_allclose(found, truth, rtol=0.03)  # about two standard errors
    recorded = replace(batch, log_prob=np.zeros_like(batch.log_prob), sampler_log_prob=batch.log_prob)
    assert float(divergence(outputs(OLD, batch), outputs(NEW, batch), recorded)) == float(found)
    naive = replace(batch, log_prob=np.full_like(batch.log_prob, -np.log(world.V)))
    assert abs(float(divergence(outputs(OLD, batch), outputs(NEW, batch), naive)) - truth) > 0.15 * truth


def test_chain_rule_and_conditional():
    batch = world.batch()
    both = outputs(OLD, batch), outputs(NEW, batch), batch
    d_out, d_s = compiled("outcome_kl", 6)(*both), compiled("outcome_kl", 2, lambda o: o["success"])(*both)
    conditional = jax.jit(
        outcomes.conditional_outcome_kl(3, 2, of=lambda o: o["side_effect"], given=lambda o: o["success"])
    )(*both)
    np.testing.assert_allclose(d_out, d_s + conditional, rtol=1e-5)
    p, q = (laws(x, CELLS, 6).reshape(world.N, 2, 3) for x in (OLD, NEW))
    given = p.sum(-1, keepdims=True)
    ratio = (p / given) / (q / q.sum(-1, keepdims=True))
    np.testing.assert_allclose(conditional, (p * np.log(ratio)).sum((-2, -1)).mean(), rtol=2e-5)


def itself(outcome):
    return outcome


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_outcomes_move_at_most_as_far_as_rows(name, seed):
    """Data processing, on the same weights, whatever the sample and whatever the features."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.choice(world.G, 12, p=p) for p in world.law(OLD)])
    batch = rows_of(world.batch(OLD), drawn)
    policies = outputs(OLD, batch), outputs(world.table(seed + 10), batch)
    own = replace(batch, outcome=np.broadcast_to(np.arange(12), (world.N, 12)))
    random = replace(batch, outcome=rng.integers(0, 3, (world.N, 12)))
    divergence = lambda num, batch: float(compiled(name, num, itself)(*policies, batch))  # noqa: E731
    assert 0 <= divergence(3, random) <= divergence(12, own) + 1e-6
    assert divergence(12, own) >= 1e-3  # there is something to bound


def test_equal_policies_are_at_distance_zero_and_small_steps_keep_their_digits():
    batch = world.batch()
    old = outputs(OLD, batch)
    for name in NAMES:
        assert float(compiled(name, 6)(old, old, batch)) == 0
    step = 1e-3 * world.table(3)
    found = compiled("outcome_kl", 6)(old, outputs(OLD + step, batch), batch)
    truth = exact("outcome_kl", laws(OLD, CELLS, 6), laws(OLD + step, CELLS, 6))
    assert truth < 1e-6
    np.testing.assert_allclose(found, truth, rtol=1e-2)


def test_weights_far_beyond_float32_are_no_infinities():
    batch = world.batch()
    extreme = outputs(200 * NEW, batch)
    found = compiled("outcome_kl", 6)(outputs(OLD, batch), extreme, batch)
    truth = exact("outcome_kl", laws(OLD, CELLS, 6), laws(200 * NEW, CELLS, 6))
    assert truth > 88  # e^88 is the largest float32
    np.testing.assert_allclose(found, truth, rtol=1e-4)


def test_masked_rows_and_prompts_count_for_nothing():
    batch = world.batch()
    keep = np.ones((world.N, world.G), bool)
    keep[0, ::2] = False
    masked = replace(batch, mask=np.broadcast_to(keep[..., None], batch.mask.shape))
    divergence = compiled("outcome_kl", 6)
    found = divergence(outputs(OLD, batch), outputs(NEW, batch), masked)
    old, new = (world.law(x) * keep for x in (OLD, NEW))
    renormalised = [world.cells_law(x / x.sum(-1, keepdims=True), CELLS, 6) for x in (old, new)]
    np.testing.assert_allclose(found, exact("outcome_kl", *renormalised), rtol=2e-5)
    nobody = replace(batch, mask=batch.mask.at[0].set(False))
    alone = jax.tree.map(lambda x: x[1:], (outputs(OLD, batch), outputs(NEW, batch), batch))
    np.testing.assert_allclose(
        divergence(outputs(OLD, batch), outputs(NEW, batch), nobody),
        divergence(*alone),
        rtol=1e-6,
    )


def test_a_row_in_no_cell_is_not_dropped_in_silence():
    batch = world.batch()
    five = lambda o: BOTH(o) - (BOTH(o) == 5)  # noqa: E731
    both = outputs(OLD, batch), outputs(NEW, batch)
    assert np.isfinite(compiled("outcome_kl", 5, five)(*both, batch))
    assert np.isnan(compiled("outcome_kl", 5)(*both, batch))
    assert np.isnan(compiled("outcome_kl", 6, lambda o: BOTH(o) - 1)(*both, batch))
    assert np.isnan(compiled("outcome_kl", 6, outcomes.joint(success=2, side_effect=2))(*both, batch))


def test_mmd_is_the_double_sum():
    batch = world.batch()
    z = np.broadcast_to(world.SENTENCES.sum(-1).astype(np.float32) / 3, (world.N, world.G))
    batch = replace(batch, outcome=z)
    both = outputs(OLD, batch), outputs(NEW, batch)
    mmd = lambda batch, **width: jax.jit(outcomes.outcome_mmd(itself, **width))(*both, batch)  # noqa: E731
    found = mmd(batch, bandwidth=0.5)
    kernel = np.exp(-0.5 * (z[:, :, None] - z[:, None, :]) ** 2 / 0.25)
    difference = world.law(NEW) - world.law(OLD)
    np.testing.assert_allclose(found, np.einsum("ng,ngh,nh->n", difference, kernel, difference).mean(), rtol=1e-4)
    apart = z[0][:, None] - z[0][None, :]
    width = np.sqrt(np.median(apart[apart != 0] ** 2))
    np.testing.assert_allclose(mmd(batch), mmd(batch, bandwidth=width), rtol=1e-5, err_msg="the median")
    twice = mmd(replace(batch, outcome=np.stack([z, z], axis=-1)), bandwidth=0.5 * np.sqrt(2))
    np.testing.assert_allclose(twice, found, rtol=1e-4)


@pytest.mark.parametrize(
    ("outcome", "error", "words"),
    [
        (None, ValueError, r"needs batch\.outcome, which is None"),
        ({"z": jnp.zeros((world.N, world.G), int)}, TypeError, r"one array; it is a dict: use of="),
        (jnp.zeros((world.N, world.G)), TypeError, "integer cells"),
        (jnp.zeros((world.N,), int), ValueError, r"must have the rows of batch\.mask"),
    ],
)
def test_what_is_wrong_with_the_outcome_is_said(outcome, error, words):
    batch = world.batch()
    with pytest.raises(error, match=f"outcome_kl.*{words}"):
        outcomes.outcome_kl(2)(outputs(OLD, batch), outputs(NEW, batch), replace(batch, outcome=outcome))


def test_other_errors():
    batch = world.batch()
    with pytest.raises(ValueError, match=r"features \['vase'\]; it has \['side_effect', 'success'\]"):
        outcomes.outcome_kl(2, of=outcomes.joint(vase=2))(outputs(OLD, batch), outputs(NEW, batch), batch)
    with pytest.raises(ValueError, match="num_outcomes must be at least 1"):
        outcomes.log_law(jnp.zeros(3, int), 0)
    with pytest.raises(ValueError, match="joint needs features"):
        outcomes.joint()
    with pytest.raises(ValueError, match="joint has more cells than int32 can number: 100000 · 100000"):
        outcomes.joint(a=100_000, b=100_000)
    one = po.Outputs(policy=po.Categorical(logits=jnp.zeros((3, 2))))
    row = po.Batch(
        obs=None, action=jnp.zeros(3, int), mask=jnp.ones(3, bool), log_prob=jnp.zeros(3), outcome=jnp.int32(0)
    )
    with pytest.raises(ValueError, match=r"needs rows, a mask \[\.\.\., G, T\]"):
        outcomes.outcome_kl(2)(one, one, row)


# --- the machinery that the other divergences have -----------------------------------------------------------------


def scores(logits, batch):
    """S: the gradient of log P(row), `[N·G, P]`, in float64 by JAX itself, unweighted."""

    def log_prob(logits):
        return world.model(logits, batch.obs).policy.log_prob(batch.action).sum(-1).reshape(-1)

    return np.asarray(jax.jit(jax.jacrev(log_prob))(jnp.asarray(logits, jnp.float64))).reshape(world.N * world.G, -1)


def fisher_of(logits, cells, batch):
    """mean over prompts of Σ_o P(o) s_o s_oᵀ with s_o = E[S | o]: the exact outcome Fisher, `[P, P]`."""
    s = scores(logits, batch).reshape(world.N, world.G, -1)
    total = 0
    for p, s_n, c in zip(world.law(logits), s, np.broadcast_to(cells, (world.N, world.G)), strict=True):
        for k in np.unique(c):
            mass = p[c == k].sum()
            mean = (p[c == k, None] * s_n[c == k]).sum(0) / mass
            total = total + mass * np.outer(mean, mean) / world.N
    return total


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def dense(divergence, batch):
    params = jnp.asarray(OLD, jnp.float64)
    operator = lambda v: po.fisher_operator(world.model, divergence, params, batch)(v)  # noqa: E731
    flat = lambda v: operator(v.reshape(OLD.shape)).reshape(-1)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(flat))(np.eye(OLD.size)))


def test_the_outcome_fisher_is_exact_and_below_that_of_the_trajectories(double):
    batch = world.batch(dtype=jnp.float64)
    z = world.OUTCOME["side_effect"]
    found = {
        "z": dense(outcomes.outcome_kl(3, of=lambda o: o["side_effect"]), batch),
        "sz": dense(outcomes.outcome_kl(6, of=BOTH), batch),
    }
    np.testing.assert_allclose(found["z"], fisher_of(OLD, z, batch), atol=1e-12)
    np.testing.assert_allclose(found["sz"], fisher_of(OLD, CELLS, batch), atol=1e-12)
    trajectory = fisher_of(OLD, np.arange(world.G), batch)  # a cell for each row
    smallest = lambda x: np.linalg.eigvalsh(x).min()  # noqa: E731
    for matrix in found.values():
        assert smallest(matrix) > -1e-12
        assert smallest(trajectory - matrix) > -1e-12
    assert smallest(found["sz"] - found["z"]) > -1e-12
    assert np.linalg.matrix_rank(found["z"], tol=1e-9) == world.N * (3 - 1)
    # chi2, JS and MMD: twice, a quarter, positive.
    of = lambda o: o["side_effect"]  # noqa: E731
    np.testing.assert_allclose(dense(outcomes.outcome_chi2(3, of=of), batch), 2 * found["z"], atol=1e-12)
    np.testing.assert_allclose(dense(outcomes.outcome_js(3, of=of), batch), found["z"] / 4, atol=1e-12)
    mmd = dense(outcomes.outcome_mmd(lambda o: o["side_effect"].astype(jnp.float64), bandwidth=1.0), batch)
    assert smallest(mmd) > -1e-12
    assert np.linalg.eigvalsh(mmd).max() > 1e-4


def centred_within_cells(scores, cells, num):
    """P (S - mean): the scores, centred on the sample and averaged within cells, `[G, P]`."""
    s = scores - scores.mean(0)
    return np.stack([s[cells == k].mean(0) for k in cells]) if len(cells) else s[:0]


@pytest.mark.parametrize("policy", ["categorical", "gaussian"])
def test_from_samples_it_is_the_average_of_centred_scores(double, policy):
    """SᵀP S/N through a small network, with both kinds of distribution; new = old = the sampler."""
    rng = np.random.default_rng(0)
    rows, steps, num = 40, 3, 3
    obs = jnp.asarray(rng.normal(size=(rows, steps, 4)))
    params = {"w": jnp.asarray(rng.normal(size=(4, 5))), "v": jnp.asarray(rng.normal(size=(5, 2)))}

    def model(params, obs):
        out = jnp.tanh(obs @ params["w"]) @ params["v"]
        kind = {
            "categorical": lambda: po.Categorical(logits=out),
            "gaussian": lambda: po.DiagGaussian(mean=out, log_std=jnp.full(out.shape, -0.5)),
        }
        return po.Outputs(policy=kind[policy]())

    action = jax.jit(lambda params: model(params, obs).policy.sample(seed=jax.random.key(1)))(params)
    log_prob = jax.jit(lambda params: model(params, obs).policy.log_prob(action))(params)
    cells = rng.integers(0, num, rows)
    batch = po.Batch(
        obs=obs, action=action, mask=jnp.ones((rows, steps), bool), log_prob=log_prob, outcome=jnp.asarray(cells)
    )
    row_log_prob = lambda params: model(params, obs).policy.log_prob(action).sum(-1)  # noqa: E731
    jacobian = jax.jit(jax.jacrev(row_log_prob))(params)
    flat = np.concatenate([np.asarray(jacobian[k]).reshape(rows, -1) for k in ("v", "w")], axis=1)
    averaged = centred_within_cells(flat, cells, num)
    expected = averaged.T @ averaged / rows
    vector, unravel = jax.flatten_util.ravel_pytree(params)
    operator = lambda v: po.fisher_operator(model, outcomes.outcome_kl(num), params, batch)(v)  # noqa: E731
    product = lambda v: jax.flatten_util.ravel_pytree(operator(unravel(v)))[0]  # noqa: E731
    matrix = jax.jit(jax.vmap(product))(np.eye(vector.size))
    np.testing.assert_allclose(matrix, expected, atol=1e-12 * max(1, np.abs(expected).max()))


@pytest.mark.slow
def test_through_a_transformer(double):
    """SᵀP S/N per prompt, for groups [N, G, T] of tokens."""
    rng = np.random.default_rng(0)
    prompts, group, length, vocabulary = 2, 12, 3, 4
    network = transformer(vocab_size=vocabulary, num_outputs=vocabulary, max_length=length, width=4, depth=1, heads=2)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), network.init(jax.random.key(0)))
    tokens = jnp.asarray(rng.integers(0, vocabulary, (prompts, group, length)))
    obs = jnp.concatenate([jnp.zeros((prompts, group, 1), tokens.dtype), tokens[..., :-1]], axis=-1)
    log_prob = network.apply(params, obs).policy.log_prob(tokens)
    cells = rng.integers(0, 2, (prompts, group))
    batch = po.Batch(
        obs=obs, action=tokens, mask=jnp.ones(tokens.shape, bool), log_prob=log_prob, outcome=jnp.asarray(cells)
    )
    vector, unravel = jax.flatten_util.ravel_pytree(params)
    direction = jnp.asarray(rng.normal(size=vector.size))
    row_log_prob = lambda v: network.apply(unravel(v), obs).policy.log_prob(tokens).sum(-1)  # noqa: E731
    slopes = np.asarray(jax.jvp(row_log_prob, (vector,), (direction,))[1])
    expected = np.mean(
        [np.mean(centred_within_cells(s[:, None], c, 2) ** 2) for s, c in zip(slopes, cells, strict=True)]
    )
    found = po.quadratic_form(network.apply, outcomes.outcome_kl(2), params, batch, unravel(direction))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    operator = po.fisher_operator(network.apply, outcomes.outcome_kl(2), params, batch)
    product = jax.flatten_util.ravel_pytree(operator(unravel(direction)))[0]
    np.testing.assert_allclose(direction @ product, expected, rtol=1e-5)


def test_it_steps_bounds_penalises_and_is_monitored():
    """TRPO on trajectory + λ outcome, a bound on the outcome, a penalty to a reference, a monitor: all unchanged."""
    batch = replace(world.batch(OLD), advantage=jnp.asarray(np.random.default_rng(0).normal(size=(2, world.G, 3))))
    held = outcomes.outcome_kl(3, of=lambda o: o["side_effect"])
    region = po.weighted_divergence(trajectory=(1.0, po.trajectory_kl), side_effect=(100.0, held))
    loss = po.objective(world.model, po.surrogate())
    reference = po.kl_to_reference(world.model, jnp.asarray(OTHER, jnp.float32), divergence=po.reverse(held))
    params = jnp.asarray(OLD, jnp.float32)

    def moved(optimizer):
        step = po.monitored(po.make_step((loss, optimizer)), world.model, held=held, actions=po.trajectory_kl)
        after, _, metrics = jax.jit(step.update)(params, step.init(params), batch, jax.random.key(0))
        return after, metrics

    free, free_metrics = moved(po.trpo(world.model, divergence=po.trajectory_kl, radius=0.02))
    _, with_region = moved(po.trpo(world.model, divergence=region, radius=0.02))
    _, bounded = moved(
        po.trpo(world.model, divergence=po.trajectory_kl, radius=0.02, constraints=[(held, 1e-4)], max_trials=40)
    )
    assert 0.005 < float(free_metrics["actions"]) <= 0.02
    assert float(free_metrics["held"]) > 3e-4
    assert float(with_region["held"]) < 0.1 * float(free_metrics["held"])
    assert 0 < float(bounded["held"]) <= 1e-4
    assert with_region["line_search_accepted"]
    assert bounded["line_search_accepted"]
    distance = jax.jit(held)
    np.testing.assert_allclose(
        free_metrics["held"], distance(outputs(OLD, batch), outputs(free, batch), batch), rtol=1e-5
    )
    slope = jax.jit(jax.value_and_grad(lambda p: po.objective(world.model, reference)(p, batch)[0]))
    penalty, gradient = slope(params)
    np.testing.assert_allclose(
        penalty,
        distance(outputs(OLD, batch), outputs(OTHER, batch), batch),  # KL(π ‖ ref)
        rtol=1e-5,
    )
    assert float(slope(np.asarray(params) - 0.5 * np.asarray(gradient))[0]) < float(penalty)


def test_coupled_divergences_refuse_shares_of_a_batch():
    batch = replace(world.batch(OLD), advantage=jnp.ones((2, world.G, 3)))
    penalty = outcomes.outcome_penalty(jnp.full(3, 1 / 3), of=lambda o: o["side_effect"])
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape, world.V))))  # noqa: E731
    loss = po.objective(model, po.weighted_sum(policy=(1.0, po.surrogate()), held=(1.0, penalty)))
    with pytest.raises(ValueError, match="outcome_penalty couples rows"):
        po.accumulate_gradients(loss, 2)(jnp.asarray(OLD), batch)
