"""The preference family: every member against its formula in plain Python, its optimum, and limits between members."""

import math
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import PAIRS, A, ragged_mask

import polopt_jax as po
from polopt_jax import surrogates
from polopt_jax.objectives import mean_log_ratio, summed_log_prob, summed_log_ratio

N, T = PAIRS[1:]


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def example(leading, seed=0, scale=1.0):
    """A model whose parameters are its logits, a batch, and the log-probabilities of its actions."""
    rng = np.random.default_rng(seed)
    logits, action = scale * rng.normal(size=(*leading, A)), rng.integers(A, size=leading)
    log_prob = np.take_along_axis(log_softmax(logits), action[..., None], -1)[..., 0]
    batch = po.Batch(
        obs=jnp.arange(math.prod(leading)).reshape(leading),
        action=jnp.asarray(action),
        mask=jnp.asarray(ragged_mask(leading, rng)),
        ref_log_prob=jnp.asarray(log_prob - scale * rng.normal(size=leading)),
        label=jnp.asarray(rng.random(leading[:-1]) < 0.5),
        reference_point=jnp.asarray(0.3 * rng.normal(size=leading[:-1])),
    )
    return po.Outputs(policy=po.Categorical(logits=jnp.asarray(logits))), batch, log_prob


# --- formulas, one pair or one row at a time, in plain floats ---------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_sigmoid(x):
    return math.log(sigmoid(x))


def odds(p):
    return p / (1 - p)


def modulated(x, tau):
    m = sigmoid(x / tau)
    return -(1 - m) * log_sigmoid(x) + m * math.exp(-x)


def label_kl(x, eps):
    p, q = (sigmoid(x), sigmoid(-x)), (1 - eps, eps)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


B = 0.7
SUM, MEAN = "sum", "mean"
PAIRED = {
    "dpo": (po.dpo(beta=B), SUM, lambda c, r: -log_sigmoid(B * (c - r))),
    "dpo, length-normalised": (po.dpo(beta=B, score=mean_log_ratio), MEAN, lambda c, r: -log_sigmoid(B * (c - r))),
    "conservative_dpo": (
        po.conservative_dpo(beta=B, label_smoothing=0.2),
        SUM,
        lambda c, r: -0.8 * log_sigmoid(B * (c - r)) - 0.2 * log_sigmoid(B * (r - c)),
    ),
    "robust_dpo": (
        po.robust_dpo(beta=B, label_smoothing=0.2),
        SUM,
        lambda c, r: (-0.8 * log_sigmoid(B * (c - r)) + 0.2 * log_sigmoid(B * (r - c))) / 0.6,
    ),
    "ipo": (po.ipo(beta=B), MEAN, lambda c, r: (c - r - 1 / (2 * B)) ** 2),
    "ipo, as printed": (po.ipo(beta=B, score=summed_log_ratio), SUM, lambda c, r: (c - r - 1 / (2 * B)) ** 2),
    "slic": (po.slic(beta=B), SUM, lambda c, r: max(0, 1 - B * (c - r))),
    "nca": (
        po.nca(beta=B),
        SUM,
        lambda c, r: -log_sigmoid(B * c) - 0.5 * log_sigmoid(-B * c) - 0.5 * log_sigmoid(-B * r),
    ),
    "exo": (po.exo(beta=B, label_smoothing=0.05), SUM, lambda c, r: label_kl(B * (c - r), 0.05)),
    "sppo": (po.sppo(beta=B), SUM, lambda c, r: (c - 0.5 / B) ** 2 + (r + 0.5 / B) ** 2),
    "apo_zero": (po.apo_zero(beta=B), SUM, lambda c, r: 1 - sigmoid(B * c) + sigmoid(B * r)),
    "apo_down": (po.apo_down(beta=B), SUM, lambda c, r: sigmoid(B * c) + 1 - sigmoid(B * (c - r))),
    "discopop": (po.discopop(beta=B, temperature=0.3), SUM, lambda c, r: modulated(B * (c - r), 0.3)),
    "f_dpo, reverse KL": (
        po.f_dpo(surrogates.reverse_kl_slope, beta=B),
        SUM,
        lambda c, r: -log_sigmoid(B * (c - r)),
    ),
    "f_dpo, forward KL": (
        po.f_dpo(surrogates.alpha_slope, beta=B),
        SUM,
        lambda c, r: -log_sigmoid(B * (math.exp(-r) - math.exp(-c))),
    ),
    "f_dpo, α-divergence": (
        po.f_dpo(partial(surrogates.alpha_slope, alpha=0.3), beta=B),
        SUM,
        lambda c, r: -log_sigmoid(B * (math.exp(-0.3 * r) - math.exp(-0.3 * c)) / 0.3),
    ),
    "f_dpo, Jensen-Shannon": (
        po.f_dpo(surrogates.jensen_shannon_slope, beta=B),
        SUM,
        lambda c, r: -log_sigmoid(B * (math.log(2 / (1 + math.exp(-c))) - math.log(2 / (1 + math.exp(-r))))),
    ),
}


def row_scores(values, mask, how):
    """A list over rows `[...]` of the sum or mean over the real decisions; None where there is none."""
    flat, real = values.reshape(-1, values.shape[-1]), np.asarray(mask).reshape(-1, values.shape[-1])
    found = []
    for row, keep in zip(flat, real, strict=True):
        kept = [float(x) for x, k in zip(row, keep, strict=True) if k]
        found.append(None if not kept else sum(kept) / (len(kept) if how == MEAN else 1))
    return found


def complete(scores):
    chosen, rejected = scores[: len(scores) // 2], scores[len(scores) // 2 :]
    return [(c, r) for c, r in zip(chosen, rejected, strict=True) if c is not None and r is not None]


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.usefixtures("x64")
def test_every_member_is_its_formula(name):
    term, how, formula = PAIRED[name]
    outputs, batch, log_prob = example(PAIRS, seed=4)
    pairs = complete(row_scores(log_prob - np.asarray(batch.ref_log_prob), batch.mask, how))
    assert 0 < len(pairs) < N
    loss, metrics = term(outputs, batch)
    np.testing.assert_allclose(loss, np.mean([formula(c, r) for c, r in pairs]), rtol=1e-12)
    if "KL" not in name and "f_dpo" not in name:
        np.testing.assert_allclose(metrics["chosen_log_ratio"], np.mean([c for c, _ in pairs]), rtol=1e-12)
        np.testing.assert_allclose(metrics["accuracy"], np.mean([c > r for c, r in pairs]), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_members_without_a_reference_are_their_formulas():
    outputs, batch, log_prob = example(PAIRS, seed=5)
    batch = replace(batch, ref_log_prob=None)
    means, sums = (complete(row_scores(log_prob, batch.mask, how)) for how in (MEAN, SUM))
    likelihood = [x for pair in pairs_of_rows(log_prob, batch.mask) for x in pair[0]]
    nll = -np.mean(likelihood)
    simpo = np.mean([-log_sigmoid(1.5 * (c - r) - 0.4) for c, r in means])
    np.testing.assert_allclose(po.simpo(beta=1.5, gamma=0.4)(outputs, batch)[0], simpo, rtol=1e-12)
    contrast = np.mean([-log_sigmoid(0.3 * (c - r)) for c, r in sums])
    loss, metrics = po.cpo(beta=0.3, likelihood_weight=0.6)(outputs, batch)
    np.testing.assert_allclose(loss, contrast + 0.6 * nll, rtol=1e-12)
    np.testing.assert_allclose(metrics["likelihood/loss"], nll, rtol=1e-12)
    np.testing.assert_allclose(
        po.dpo(beta=0.3, score=summed_log_prob)(outputs, batch)[0], contrast, rtol=1e-12, err_msg="reference-free"
    )
    ratio = np.mean([-math.log(sigmoid(math.log(odds(math.exp(c)) / odds(math.exp(r))))) for c, r in means])
    np.testing.assert_allclose(po.orpo(odds_weight=0.4)(outputs, batch)[0], nll + 0.4 * ratio, rtol=1e-12)
    by_row = -np.mean([np.sum(chosen) for chosen, _ in pairs_of_rows(log_prob, batch.mask)])
    loss, _ = po.cpo(beta=0.3, likelihood_weight=0.6, reduce=po.sequence_sum)(outputs, batch)
    np.testing.assert_allclose(loss, contrast + 0.6 * by_row, rtol=1e-12)


def pairs_of_rows(values, mask):
    """The real decisions of both rows of every complete pair."""
    chosen, rejected = ([row[keep] for row, keep in zip(values[i], np.asarray(mask)[i], strict=True)] for i in range(2))
    return [(c, r) for c, r in zip(chosen, rejected, strict=True) if len(c) and len(r)]


@pytest.mark.usefixtures("x64")
def test_the_members_over_labelled_rows_are_their_formulas():
    outputs, batch, log_prob = example((7, T), seed=6)
    scores = row_scores(log_prob - np.asarray(batch.ref_log_prob), batch.mask, SUM)
    kto, bco, accuracy, margin = [], [], [], []
    for score, desirable, point in zip(scores, np.asarray(batch.label), np.asarray(batch.reference_point), strict=True):
        if score is None:
            continue
        x = 0.6 * (score - point)
        kto.append(1.3 * (1 - sigmoid(x)) if desirable else 0.8 * (1 - sigmoid(-x)))
        bco.append(-log_sigmoid(x if desirable else -x))
        accuracy.append((x > 0) == desirable)
        margin.append(x if desirable else -x)
    assert 0 < len(kto) < 7
    assert len({*np.asarray(batch.label).tolist()}) == 2
    loss, metrics = po.kto(beta=0.6, desirable_weight=1.3, undesirable_weight=0.8)(outputs, batch)
    np.testing.assert_allclose(loss, np.mean(kto), rtol=1e-12)
    np.testing.assert_allclose(po.bco(beta=0.6)(outputs, batch)[0], np.mean(bco), rtol=1e-12)
    kept = [i for i, score in enumerate(scores) if score is not None]
    expected = {
        "accuracy": np.mean(accuracy),
        "margin": np.mean(margin),
        "log_ratio": np.mean([scores[i] for i in kept]),
        "desirable_fraction": np.mean(np.asarray(batch.label)[kept]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-12, err_msg=name)


def test_without_a_reference_point_kto_is_apo_zero_on_rows():
    """The two rows of a pair as labelled rows of their own, each measured from the reference: half of APO-zero."""
    outputs, batch, _ = example(PAIRS, seed=7)
    batch = replace(batch, mask=np.ones_like(batch.mask))
    rows = jax.tree.map(lambda x: np.asarray(x).reshape(2 * N, *x.shape[2:]), (outputs, batch))
    labelled = replace(rows[1], label=np.arange(2 * N) < N, reference_point=np.zeros(2 * N))
    np.testing.assert_allclose(
        2 * jax.jit(po.kto(beta=0.5))(rows[0], labelled)[0],
        jax.jit(po.apo_zero(beta=0.5))(outputs, batch)[0],
        rtol=1e-6,
    )


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_aot_compares_sorted_margins():
    outputs, batch, log_prob = example(PAIRS, seed=8)
    ref = np.asarray(batch.ref_log_prob)
    margins = sorted(c - r for c, r in complete(row_scores(log_prob, batch.mask, SUM)))
    ref_margins = sorted(c - r for c, r in complete(row_scores(ref, batch.mask, SUM)))
    loss, metrics = po.aot(beta=0.4)(outputs, batch)
    expected = np.mean([-log_sigmoid(0.4 * (m - r)) for m, r in zip(margins, ref_margins, strict=True)])
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    pairs = complete(row_scores(log_prob - ref, batch.mask, SUM))
    chosen, rejected = (sorted(x) for x in zip(*pairs, strict=True))
    expected = np.mean([-log_sigmoid(0.4 * (c - r)) for c, r in zip(chosen, rejected, strict=True)])
    np.testing.assert_allclose(po.aot_unpaired(beta=0.4)(outputs, batch)[0], expected, rtol=1e-12)
    for term in (po.aot(beta=0.4), po.aot_unpaired(beta=0.4)):
        for name, value in term(outputs, batch)[1].items():
            np.testing.assert_allclose(value, metrics[name], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(metrics["margin"], np.mean([0.4 * (c - r) for c, r in pairs]), rtol=1e-12)


def test_unpaired_aot_does_not_know_who_was_paired_with_whom():
    outputs, batch, _ = example(PAIRS, seed=9)
    batch = replace(batch, mask=jnp.ones_like(batch.mask))
    order = np.array([3, 0, 4, 1, 2])
    shuffle = lambda tree: jax.tree.map(lambda x: x.at[1].set(x[1][order]), tree)  # noqa: E731
    term = po.aot_unpaired()
    before, after = term(outputs, batch)[0], term(shuffle(outputs), shuffle(batch))[0]
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert abs(float(po.dpo()(shuffle(outputs), shuffle(batch))[0] - po.dpo()(outputs, batch)[0])) > 1e-4


# --- optima and limits ------------------------------------------------------------------------------------------------

REWARD = np.array([1.0, 0.2, -0.5, 0.4])
REFERENCE = log_softmax(np.array([0.3, -0.4, 0.9, 0.0]))


def every_pair(win):
    """All pairs of the bandit's actions, each as often as `win(a, b)` says: `(batch, weight [pairs])`."""
    first, second = np.array([(a, b) for a in range(A) for b in range(A) if a != b]).T
    action = jnp.stack([jnp.asarray(first), jnp.asarray(second)])[..., None]
    batch = po.Batch(
        obs=action, action=action, mask=jnp.ones_like(action, bool), ref_log_prob=jnp.asarray(REFERENCE[action])
    )
    return batch, win(first, second)


def expected_loss(make, win):
    """The loss of a bandit over all pairs, weighted one by one through a link of the same scores."""
    batch, weight = every_pair(win)

    def loss(logits):
        outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits, (*batch.mask.shape, A))))
        single = lambda i: make(*jax.tree.map(lambda x: x[:, i : i + 1], (outputs, batch)))[0]  # noqa: E731
        return sum(w * single(i) for i, w in enumerate(weight)) / sum(weight)

    return loss


def bradley_terry_wins(first, second):
    return 1 / (1 + np.exp(REWARD[second] - REWARD[first]))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("make", "flips", "name"),
    [
        (po.dpo(beta=0.5), 0.0, "dpo"),
        (po.robust_dpo(beta=0.5, label_smoothing=0.2), 0.2, "robust_dpo, with labels that flip"),
        (po.f_dpo(surrogates.reverse_kl_slope, beta=0.5), 0.0, "f_dpo"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_trained_on_bradley_terry_labels_a_bandit_reaches_the_optimum_of_the_penalised_reward(make, flips, name):
    """π ∝ ref exp(r/β), to a total variation below 1e-3; and the gradient vanishes there."""
    noisy = lambda a, b: (1 - flips) * bradley_terry_wins(a, b) + flips * bradley_terry_wins(b, a)  # noqa: E731
    loss = jax.jit(jax.grad(expected_loss(make, noisy)))
    optimum = REFERENCE + REWARD / 0.5
    np.testing.assert_allclose(loss(optimum), 0, atol=1e-7, err_msg=name)
    logits = REFERENCE
    for _ in range(400):
        logits = logits - 20.0 * loss(logits)
    assert 0.5 * jnp.abs(jax.nn.softmax(logits) - jax.nn.softmax(optimum)).sum() < 1e-3


@pytest.mark.usefixtures("x64")
def test_flipped_labels_bias_dpo_and_not_its_robust_form():
    clean = jax.jit(expected_loss(po.dpo(beta=0.5), bradley_terry_wins))
    noisy = lambda a, b: 0.8 * bradley_terry_wins(a, b) + 0.2 * bradley_terry_wins(b, a)  # noqa: E731
    logits = jnp.array([0.5, -1.0, 0.2, 0.1])
    robust = jax.jit(expected_loss(po.robust_dpo(beta=0.5, label_smoothing=0.2), noisy))
    np.testing.assert_allclose(robust(logits), clean(logits), rtol=1e-9)
    assert abs(jax.jit(expected_loss(po.dpo(beta=0.5), noisy))(logits) - clean(logits)) > 1e-3


@pytest.mark.usefixtures("x64")
def test_smoothing_takes_the_seen_labels_to_flip_once_more():
    """A pair labelled so in a share q of all cases: `dpo`'s optimum is q, the conservative one's (1-ε) q + ε (1-q)."""
    share, smoothing = 0.8, 0.2
    wins = lambda a, b: np.where(a < b, share, 1 - share)  # noqa: E731
    batch, weight = every_pair(wins)
    first = [i for i in range(batch.action.shape[1]) if set(batch.action[:, i, 0].tolist()) == {0, 1}]

    def slope(term, chance):
        """The derivative of the pair's expected loss in the margin, where σ(βΔ) is `chance`."""
        margin = math.log(chance / (1 - chance)) / 0.5
        start = jnp.asarray(REFERENCE) + jnp.array([margin, 0.0, 0.0, 0.0])

        def loss(logits):
            outputs = po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits, (*batch.mask.shape, A))))
            one = lambda i: term(*jax.tree.map(lambda x: x[:, i : i + 1], (outputs, batch)))[0]  # noqa: E731
            return sum(weight[i] * one(i) for i in first)

        return float(jax.jit(jax.grad(loss))(start)[0])

    twice = (1 - smoothing) * share + smoothing * (1 - share)
    assert abs(slope(po.dpo(beta=0.5), share)) < 1e-12
    assert abs(slope(po.conservative_dpo(beta=0.5, label_smoothing=smoothing), twice)) < 1e-12
    assert abs(slope(po.conservative_dpo(beta=0.5, label_smoothing=smoothing), share)) > 1e-2


@pytest.mark.usefixtures("x64")
def test_nca_wants_a_chosen_score_of_log_two_and_discopop_rises_at_a_tie():
    """Slopes of one pair in its chosen score, by central differences of the term itself."""

    def cost(term, score):
        """Both rows have the log-probability -50, so that their scores are the reference's doing."""
        log_ref = jnp.array([-score, 0.0]).reshape(2, 1, 1) - 50.0
        batch = po.Batch(
            obs=None, action=jnp.zeros((2, 1, 1), int), mask=jnp.ones((2, 1, 1), bool), ref_log_prob=log_ref
        )
        policy = po.Categorical(logits=jnp.broadcast_to(jnp.array([-50.0, 0.0]), (2, 1, 1, 2)))
        return float(term(po.Outputs(policy=policy), batch)[0])

    def slope(term, score, h=1e-5):
        return (cost(term, score + h) - cost(term, score - h)) / (2 * h)

    assert abs(slope(po.nca(beta=0.5), math.log(2) / 0.5)) < 1e-8
    assert slope(po.nca(beta=0.5), math.log(2) / 0.5 - 0.1) < -1e-3
    assert slope(po.nca(beta=0.5), math.log(2) / 0.5 + 0.1) > 1e-3
    edge = (1 - math.log(2)) / 3
    assert abs(slope(po.discopop(beta=0.5, temperature=edge), 0.0)) < 1e-7
    assert slope(po.discopop(beta=0.5, temperature=0.9 * edge), 0.0) > 1e-2
    assert slope(po.discopop(beta=0.5, temperature=1.1 * edge), 0.0) < -1e-2
    assert slope(po.discopop(), 0.0) > 1e-2  # as by default


@pytest.mark.usefixtures("x64")
def test_deterministic_preferences_leave_ipo_finite():
    """Two actions of which one always wins, a uniform reference: π(winner) = σ(1/(2τ)), .6225 at τ = 1."""
    batch = po.Batch(
        obs=None,
        action=jnp.array([[[0]], [[1]]]),
        mask=jnp.ones((2, 1, 1), bool),
        ref_log_prob=jnp.log(jnp.full((2, 1, 1), 0.5)),
    )

    def slope(term, logit):
        logits = lambda x: jnp.broadcast_to(jnp.stack([x, jnp.zeros(())]), (2, 1, 1, 2))  # noqa: E731
        return float(jax.grad(lambda x: term(po.Outputs(policy=po.Categorical(logits=logits(x))), batch)[0])(logit))

    assert abs(slope(po.ipo(beta=1.0), 0.5)) < 1e-12
    assert round(float(jax.nn.sigmoid(0.5)), 4) == 0.6225
    assert slope(po.dpo(beta=1.0), 0.5) < -0.1  # DPO goes on
    confident = math.log(0.9 / 0.1) / 0.5  # σ(βΔ) = 1-ε
    assert abs(slope(po.conservative_dpo(beta=0.5, label_smoothing=0.1), confident)) < 1e-12
    assert abs(slope(po.exo(beta=0.5, label_smoothing=0.1), confident)) < 1e-12
    assert slope(po.slic(beta=0.5), 2.01) == 0
    assert slope(po.slic(beta=0.5), 1.99) < 0


@pytest.mark.usefixtures("x64")
def test_alpha_divergences_run_from_the_reverse_to_the_forward_kl():
    outputs, batch, _ = example(PAIRS, seed=10)
    value = lambda slope: po.f_dpo(slope)(outputs, batch)[0]  # noqa: E731
    np.testing.assert_allclose(value(partial(surrogates.alpha_slope, alpha=1e-6)), po.dpo()(outputs, batch)[0], 1e-6)
    forward = lambda log_ratio: -jnp.exp(-log_ratio)  # noqa: E731
    np.testing.assert_allclose(value(surrogates.alpha_slope), value(forward), rtol=1e-12)


@cache
def slopes():
    """Value and gradient of every member, as functions of outputs and a batch; each is compiled once."""
    free = {"simpo": po.simpo(), "cpo": po.cpo(), "orpo": po.orpo(), "aot": po.aot(), "unpaired": po.aot_unpaired()}
    terms = {**{name: row[0] for name, row in PAIRED.items()}, **free}
    return {name: jax.jit(jax.value_and_grad(lambda *x, f=f: f(*x)[0])) for name, f in terms.items()}


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("far", [-1.0, 1.0])
def test_rows_that_have_become_impossible_give_finite_losses_and_gradients(scale, far):
    outputs, batch, _ = example(PAIRS, seed=11)
    batch = replace(batch, ref_log_prob=jnp.asarray(batch.ref_log_prob).at[0].add(scale * far))
    for name, both in slopes().items():
        grown = replace(outputs, policy=po.Categorical(logits=scale * outputs.policy.logits))
        for these in (outputs, grown):
            value, grads = both(these, batch)
            assert np.isfinite(value), name
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads)), name


def test_certain_rows_have_finite_odds():
    """A row of probability one, as a model of a single legal token has."""
    batch = po.Batch(obs=None, action=jnp.zeros((2, 1, 1), int), mask=jnp.ones((2, 1, 1), bool))
    logits = jnp.array([0.0, -jnp.inf])
    loss = lambda x: po.orpo()(po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(x, (2, 1, 1, 2)))), batch)[0]  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(loss))(logits)
    assert np.isfinite(value)
    assert np.isfinite(grads).all()


# --- shares of a batch ------------------------------------------------------------------------------------------------

SEPARABLE = {**{name: row[0] for name, row in PAIRED.items()}, "simpo": po.simpo(), "cpo": po.cpo(), "orpo": po.orpo()}
SEPARABLE["cpo, by rows"] = po.cpo(reduce=po.sequence_mean)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [
        x if x in ("dpo", "simpo", "cpo", "kto") else pytest.param(x, marks=pytest.mark.slow)
        for x in [*SEPARABLE, "kto", "bco"]
    ],
)
def test_shares_of_a_batch_add_up_to_the_whole(name):
    rows = {"kto": po.kto(), "bco": po.bco()}
    term, leading = (rows[name], (6, T)) if name in rows else (SEPARABLE[name], (2, 6, T))
    outputs, batch, _ = example(leading, seed=12)
    if len(leading) == 3:  # a chosen row without its rejected one, beside those that `ragged_mask` leaves empty
        batch = replace(batch, mask=batch.mask.at[:, 3].set(jnp.array([[True], [False]])))
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[obs]))  # noqa: E731
    params = outputs.policy.logits.reshape(-1, A)
    whole = po.objective(model, term)
    parts = po.accumulate_gradients(whole, 3, axis=leading.index(6))

    @jax.jit
    def both(params):
        return [jax.value_and_grad(f, has_aux=True)(params, batch) for f in (parts, whole)]

    ((loss, metrics), grads), ((expected, expected_metrics), expected_grads) = both(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grads, expected_grads, atol=1e-9)
    for metric, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[metric], value, rtol=1e-6, atol=1e-12, err_msg=metric)


@pytest.mark.parametrize("make", [po.aot, po.aot_unpaired])
def test_what_compares_laws_refuses_shares_by_name(make):
    outputs, batch, _ = example((2, 6, T), seed=13)
    model = lambda params, obs: replace(outputs, policy=po.Categorical(logits=params[obs]))  # noqa: E731
    shares = po.accumulate_gradients(po.objective(model, make()), 2, axis=1)
    with pytest.raises(ValueError, match=rf"^{make.__name__} couples rows"):
        shares(outputs.policy.logits.reshape(-1, A), batch)


# --- supervised -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_the_likelihood_is_reinforce_with_an_advantage_of_one():
    outputs, batch, log_prob = example((4, T), seed=14)
    ones = replace(batch, advantage=jnp.ones((4, T)))
    for reduce in (po.token_mean, po.sequence_mean, po.sequence_sum):
        slope = lambda term, batch: jax.jit(jax.value_and_grad(lambda o: term(o, batch)[0]))(outputs)  # noqa: E731
        found, expected = (
            slope(po.negative_log_likelihood(reduce=reduce), batch),
            slope(po.reinforce(reduce=reduce), ones),
        )
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[1].policy.logits, expected[1].policy.logits, rtol=1e-12)
    np.testing.assert_allclose(
        po.negative_log_likelihood()(outputs, batch)[0], -log_prob[np.asarray(batch.mask)].mean(), rtol=1e-12
    )


def test_on_chosen_shows_a_term_the_chosen_rows_of_complete_pairs():
    outputs, batch, _ = example(PAIRS, seed=15)
    seen = {}

    def looks(outputs, batch):
        seen["mask"] = batch.mask
        return po.token_mean(jnp.ones(batch.mask.shape), batch), {}

    assert float(po.on_chosen(looks)(outputs, batch)[0]) == 1
    pairs = np.asarray(batch.mask).any(-1).all(0)
    assert not pairs.all()
    expected = np.asarray(batch.mask) & pairs[None, :, None]
    expected[1] = False
    np.testing.assert_array_equal(seen["mask"], expected)
    with pytest.raises(TypeError, match="on_chosen: term"):
        po.on_chosen(po.negative_log_likelihood)
    with pytest.raises(ValueError, match="on_chosen needs a preference batch"):
        po.on_chosen(looks)(outputs, replace(batch, mask=batch.mask[0]))


# --- reference points -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shift", [0.8, -0.8])
def test_reference_points_are_means_of_the_scores(shift):
    outputs, batch, log_prob = example((6, T), seed=16)
    ref = log_prob - shift + 0.1 * np.asarray(batch.ref_log_prob)
    arrays = dict(log_prob=jnp.asarray(log_prob), ref_log_prob=jnp.asarray(ref), mask=batch.mask)
    scores = row_scores(log_prob - ref, batch.mask, SUM)
    found = po.kl_reference_point(**arrays)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, max(0, np.mean([s for s in scores if s is not None])), rtol=1e-12)
    assert (float(found[0]) == 0) == (shift < 0)
    label = np.asarray(batch.label)
    good, bad = (
        [s for s, y in zip(scores, label, strict=True) if s is not None and y == kind] for kind in (True, False)
    )
    assert len(good) != len(bad)
    halfway = po.mean_reference_point(**arrays, label=batch.label)
    np.testing.assert_allclose(halfway, 0.5 * (np.mean(good) + np.mean(bad)), rtol=1e-12)
    for kind in (True, False):
        only = po.mean_reference_point(**arrays, label=jnp.full(6, kind))
        np.testing.assert_allclose(only, np.mean(good + bad), rtol=1e-12)


def test_labels_must_be_boolean():
    outputs, batch, _ = example((4, T))
    for term, name in ((po.kto(), "kto"), (po.bco(), "bco")):
        with pytest.raises(TypeError, match=f"{name}: batch.label must be boolean"):
            term(outputs, replace(batch, label=batch.label.astype(jnp.int32)))
    arrays = dict(log_prob=jnp.zeros((4, T)), ref_log_prob=jnp.zeros((4, T)))
    with pytest.raises(TypeError, match="mean_reference_point: label must be boolean"):
        po.mean_reference_point(**arrays, mask=batch.mask, label=jnp.zeros(4))
    with pytest.raises(TypeError, match="kl_reference_point: mask must be boolean"):
        po.kl_reference_point(**arrays, mask=jnp.ones((4, T)))


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (po.ipo, dict(beta=0.0), "ipo: beta must be above 0"),
        (po.sppo, dict(beta=0.0), "sppo: beta must be above 0"),
        (po.discopop, dict(temperature=0.0), "discopop: temperature must be above 0"),
        (po.robust_dpo, dict(label_smoothing=0.5), "robust_dpo: label_smoothing must be at least 0 and below 0.5"),
        (po.conservative_dpo, dict(label_smoothing=-0.1), "conservative_dpo: label_smoothing must be at least 0"),
        (po.exo, dict(label_smoothing=0.0), "exo: label_smoothing must be above 0 and below 0.5"),
        (po.simpo, dict(gamma=-1.0), "simpo: gamma must be at least 0"),
        (po.cpo, dict(likelihood_weight=float("nan")), "cpo: likelihood_weight must be at least 0"),
        (po.orpo, dict(odds_weight=-1.0), "orpo: odds_weight"),
        (po.kto, dict(undesirable_weight=-1.0), "kto: undesirable_weight"),
        *((make, dict(beta=-1.0), f"{make.__name__}: beta must be at least 0") for make in (po.dpo, po.slic, po.nca)),
        *((make, dict(beta=-1.0), f"{make.__name__}: beta must be") for make in (po.apo_zero, po.apo_down, po.aot)),
        *((make, dict(beta=-1.0), f"{make.__name__}: beta must be") for make in (po.aot_unpaired, po.bco, po.cpo)),
    ],
)
def test_hyperparameters_outside_their_range_are_refused_by_name(make, wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)
