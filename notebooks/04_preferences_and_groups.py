# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
# To run this yourself: `make notebooks` in a clone of the repository, or `pip install '.[notebooks]'` and open it.
# POLOPT_FAST=1 in the environment shrinks the sampled parts: the same code and the same checks, rougher pictures.
import os
from functools import partial
from itertools import combinations, product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import brentq
from scipy.stats import binom

jax.config.update("jax_enable_x64", True)  # most of this notebook is exact, and compares small numbers

import polopt_jax as po
from polopt_jax import language, objectives, surrogates

FAST = os.environ.get("POLOPT_FAST") == "1"
plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 72, "font.size": 10})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREY, LIGHT_GREY, MID_BLUE, DARK_ORANGE = (
    plt.rcParams["axes.prop_cycle"].by_key()["color"][i] for i in (0, 1, 3, 2, 4, 5)
)
COLORS = [BLUE, ORANGE, GREY, MID_BLUE]

# %% [markdown]
# # Preferences and groups, in pictures
#
# The losses of today's language models are many, and most of them differ in one small piece: a link between two scores,
# a score, a normalisation, a clip, the place of a KL. Each piece can be drawn. Every curve here is a term of the
# library, called as in a training loop; what is written out by hand are the closed forms that it is held against.
#
# ## The world
#
# All words of at most three letters, `a` or `b`, the empty one among them: fifteen. A writer says a letter or *stop*;
# after three letters the word is over by itself. What has been said so far is all that it sees, so a policy is a table
# of seven beginnings by three tokens. Rows have 1 to 3 decisions: `mask` says which are real.
#
# Labellers like change: **each change of letter doubles a word's odds** ($r = \ln 2$ times the number of changes).

# %%
A, B, STOP = 0, 1, 2
WORDS = ["".join(letters) for length in range(4) for letters in product("ab", repeat=length)]
BEGINNINGS = [word for word in WORDS if len(word) < 3]


def decisions(word):
    """What the writer sees, what it says and whether that is a decision, at each of the three positions."""
    tokens = ["ab".index(letter) for letter in word] + [STOP] * (len(word) < 3)
    seen = [BEGINNINGS.index(word[:t]) for t in range(len(tokens))]
    pad = [0] * (3 - len(tokens))
    return seen + pad, tokens + pad, [True] * len(tokens) + [False] * len(pad)


SEEN, SAID, REAL = (jnp.asarray(x) for x in zip(*map(decisions, WORDS), strict=True))  # [15, 3] each
CHANGES = np.array([sum(x != y for x, y in zip(word, word[1:])) for word in WORDS])  # noqa: B905, RUF007
ODDS = 2**CHANGES
REWARD = jnp.log(ODDS.astype(float))


def writer(params, seen):
    return po.Outputs(policy=po.Categorical(logits=params[seen]))


def word_law(params):
    """The probability of each of the words."""
    log_prob = writer(params, SEEN).policy.log_prob(SAID)
    return jnp.exp(jnp.where(REAL, log_prob, 0).sum(-1))


REFERENCE = 0.7 * jax.random.normal(jax.random.key(2), (len(BEGINNINGS), 3)) - jnp.array([0.0, 0.0, 1.0])
BETA = 0.5
REFERENCE_LAW = word_law(REFERENCE)
BEST_LAW = jax.nn.softmax(jnp.log(REFERENCE_LAW) + REWARD / BETA)  # π* ∝ ref exp(r/β)


def tv(p, q):
    return float(0.5 * jnp.abs(p - q).sum())


print(f"{len(WORDS)} words; total variation between the reference and π*: {tv(REFERENCE_LAW, BEST_LAW):.3f}")
assert np.isclose(REFERENCE_LAW.sum(), 1)

# %% [markdown]
# ## 1. Where DPO ends, and where IPO does
#
# With Bradley-Terry labels, $P(y \succ y') = \sigma(r(y) - r(y'))$, the optimum of DPO is
# $\pi^* \propto \mathrm{ref}\,e^{r/\beta}$. Rewards that are logarithms of small whole numbers make these probabilities
# fractions, so a *finite* set of comparisons can have exactly these frequencies: each of the 105 pairs is judged 60
# times, and no sampling error is left. IPO has a closed form on any labels,
# $\pi \propto \mathrm{ref}\,e^{w/\tau}$, where $w(y)$ is how often $y$ wins against a word at random.
#
# Then the same with a quarter of the labels turned around.

# %%
JUDGED = 60
PAIRS = np.array(list(combinations(range(len(WORDS)), 2)))


def comparisons(flips):
    """A preference batch [2, N, T] in which the better word of a pair is chosen exactly as often as the law says."""
    first, second = PAIRS.T
    wins = ODDS[first] / (ODDS[first] + ODDS[second])
    count = JUDGED * ((1 - flips) * wins + flips * (1 - wins))
    assert np.allclose(count, count.round())
    chosen_first = np.arange(JUDGED) < count.round()[:, None]  # [pairs, JUDGED]
    chosen = np.where(chosen_first, first[:, None], second[:, None]).ravel()
    rejected = np.where(chosen_first, second[:, None], first[:, None]).ravel()
    rows = np.stack([chosen, rejected])
    said = writer(REFERENCE, SEEN[rows]).policy.log_prob(SAID[rows])
    return po.Batch(obs=SEEN[rows], action=SAID[rows], mask=REAL[rows], ref_log_prob=said)


def learn(term, batch, updates, params=REFERENCE, model=writer, optimizer=None):
    """Parameters before each update, and the metrics of each, on one batch that stays."""
    step = po.make_step((po.objective(model, term), optimizer or optax.adam(optax.cosine_decay_schedule(0.1, updates))))

    def update(state, _):
        new, opt_state, metrics = step.update(*state, batch, None)
        return (new, opt_state), (state[0], metrics)

    scan = lambda state: jax.lax.scan(update, state, length=updates)  # noqa: E731
    return jax.jit(scan)((params, step.init(params)))[1]


EPS, UPDATES = 0.25, 250
clean, noisy = comparisons(0.0), comparisons(EPS)
TAU = BETA  # IPO's name for it
RUNS = {
    "dpo": (po.dpo(beta=BETA), clean),
    "ipo": (po.ipo(beta=TAU, score=objectives.summed_log_ratio), clean),
    "dpo, labels flip": (po.dpo(beta=BETA), noisy),
    "conservative_dpo, labels flip": (po.conservative_dpo(beta=BETA, label_smoothing=EPS), noisy),
    "robust_dpo, labels flip": (po.robust_dpo(beta=BETA, label_smoothing=EPS), noisy),
}
laws = {
    name: jax.vmap(word_law)(learn(term, batch, UPDATES)[0]) for name, (term, batch) in RUNS.items()
}  # [updates, 15]
often = ODDS[:, None] / (ODDS[:, None] + ODDS)
IPO_LAW = jax.nn.softmax(jnp.log(REFERENCE_LAW) + often.mean(1) / TAU)
for name, law in laws.items():
    print(f"{name:31s} total variation to π* {tv(law[-1], BEST_LAW):.1e}")
print(f"{'ipo':31s} and to its own closed form {tv(laws['ipo'][-1], IPO_LAW):.1e}")
for name in ("dpo", "robust_dpo, labels flip"):
    assert tv(laws[name][-1], BEST_LAW) < 1e-3
assert tv(laws["ipo"][-1], IPO_LAW) < 1e-3
assert tv(IPO_LAW, BEST_LAW) > 0.05
for name in ("dpo, labels flip", "conservative_dpo, labels flip"):
    assert tv(laws[name][-1], BEST_LAW) > 0.05

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 3.9), width_ratios=[1.5, 1])
order = np.argsort(-np.asarray(BEST_LAW))
place = np.arange(len(WORDS))
NAMES = [WORDS[i] or "∅" for i in order]
left.bar(place - 0.2, BEST_LAW[order], 0.4, color="0.82", label="π* ∝ ref exp(r/β)")
left.bar(place + 0.2, IPO_LAW[order], 0.4, color="#FFD8B0", label="∝ ref exp(w/τ), IPO's")
left.plot(place, REFERENCE_LAW[order], "_", ms=16, mew=1.5, color="black", label="ref")
left.plot(place - 0.2, laws["dpo"][-1][order], "o", ms=5, color=BLUE, label="dpo, trained")
left.plot(place + 0.2, laws["ipo"][-1][order], "o", ms=5, color=DARK_ORANGE, label="ipo, trained")
left.set_xticks(place, NAMES, family="monospace")
left.set(ylabel="probability of the word")
left.legend()
STYLES = dict(zip(laws, [(BLUE, "-"), None, (GREY, "-"), (ORANGE, "-"), (MID_BLUE, "--")], strict=True))
for name, style in STYLES.items():
    if style:
        distance = 0.5 * jnp.abs(laws[name] - BEST_LAW).sum(-1)
        right.semilogy(distance, color=style[0], ls=style[1], lw=2)
for name, height, color in (
    ("conservative_dpo, labels flip", 0.55, ORANGE),
    ("dpo, labels flip", 0.12, GREY),
    ("dpo; dashed robust_dpo, labels flip", 4e-3, BLUE),
):
    right.text(0.98 * UPDATES, height, name, color=color, va="center", ha="right", fontsize=9)
right.set(xlabel="update", ylabel="total variation distance to π*", xlim=(0, UPDATES), ylim=(1e-5, 2))
fig.suptitle("Exact Bradley-Terry labels: DPO and IPO end where their closed forms say")
plt.show()

# %% [markdown]
# `robust_dpo`, told the rate of the flips, has in expectation the loss of clean labels: its path *is* that of `dpo` on
# clean ones. `conservative_dpo` ends further from π* than `dpo` does on the same flipped labels. It supposes that what
# it sees will flip once more: a way to be cautious, and no correction.
#
# ### When one side always wins
#
# Two answers, a uniform reference, and labels without an exception. The Bradley-Terry law then wants an infinite
# reward, and the losses differ in whether they follow. Gradient descent on the two logits, from a tie.

# %%
TWO = po.Batch(
    obs=jnp.zeros((2, 1, 1), int),
    action=jnp.array([[[0]], [[1]]]),
    mask=jnp.ones((2, 1, 1), bool),
    ref_log_prob=jnp.log(jnp.full((2, 1, 1), 0.5)),
)
WRONG = 0.1
RUNAWAY = {
    "robust_dpo": po.robust_dpo(beta=1.0, label_smoothing=WRONG),
    "dpo": po.dpo(beta=1.0),
    "nca": po.nca(beta=1.0),
    "apo_zero": po.apo_zero(beta=1.0),
}
FINITE = {  # and where Δ = log π(winner) - log π(loser) ends
    "exo, ε = .01": (po.exo(beta=1.0, label_smoothing=0.01), np.log(99)),
    "conservative_dpo, ε = .1": (po.conservative_dpo(beta=1.0, label_smoothing=WRONG), np.log(9)),
    "slic": (po.slic(beta=1.0), 1.0),
    "ipo": (po.ipo(beta=1.0), 0.5),
}
STEPS = 20_000
margins = {}
for name, term in RUNAWAY.items() | {name: term for name, (term, _) in FINITE.items()}.items():
    params, _ = learn(term, TWO, STEPS, jnp.zeros((1, 2)), optimizer=optax.sgd(0.1))
    margins[name] = np.asarray(params[:, 0, 0] - params[:, 0, 1])
for name, (_, end) in FINITE.items():
    print(f"{name:25s} Δ = {margins[name][-1]:.4f}, closed form {end:.4f}; P(winner) {1 / (1 + np.exp(-end)):.4f}")
    assert np.isclose(margins[name][-1], end, atol=0.11 if name == "slic" else 1e-3)  # a hinge stops within one step
assert round(1 / (1 + np.exp(-margins["ipo"][-1])), 4) == 0.6225  # σ(1/(2τ)), τ = 1
for name in RUNAWAY:
    assert margins[name][-1] > margins[name][STEPS // 10] + 2  # a factor of ten in time is worth ln 10, or more
print({name: f"after {STEPS:,} updates {margins[name][-1]:.1f}" for name in RUNAWAY})

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
for ax, names, title in zip(axes, (RUNAWAY, FINITE), ("follow to infinity", "stop"), strict=True):
    for name, color in zip(names, COLORS, strict=True):
        ax.semilogx(np.arange(1, STEPS + 1), margins[name], color=color, lw=2, label=name)
        if names is FINITE:
            ax.axhline(FINITE[name][1], color=color, lw=1, ls=":")
    ax.set(title=title, xlabel="update", xlim=(1, STEPS), ylim=(0, 12))
    ax.legend(loc="upper left")
axes[0].set_ylabel("Δ = log π(winner) - log π(loser)")
fig.suptitle("Labels without an exception; dotted: closed forms")
plt.show()

# %% [markdown]
# On the left the margin grows forever: like the logarithm of time, and with `robust_dpo`, which goes on paying
# $\varepsilon/(1-2\varepsilon)$ a nat, in proportion to it. On the right each loss has an end, at $1/(2\beta)$, at
# $1/\beta$ or where $\sigma(\beta\Delta) = 1-\varepsilon$. (`slic` has no gradient beyond 1, and steps over it once.)
# That is a property of the loss and no merit: where labels are right and clear, the ones on the right stop too soon.
#
# ## 2. The family: a link and a score
#
# A loss over pairs is `po.preference(link, score)`: a *score* of each row, and a *link*, which says what two scores
# cost. Here are all links, as loss and as weight: how hard a row is pushed, $-\partial L/\partial s$ for the chosen
# one (solid) and $+\partial L/\partial s$ for the rejected one (dotted, where it is another). `language.recorded` is a
# model whose parameters are log-probabilities, so that a curve is the term itself at log-probabilities that we choose.
#
# Where a link is no function of the difference, the picture is the cut on which the chosen row gains what the rejected
# one loses. `aot` and `aot_unpaired` have `dpo`'s link, of scores that are sorted over the batch first.

# %%
MARGIN = np.linspace(-5, 5, 201)
LEVEL = -3.0  # log-probability of a row of the reference; rows have one decision here


@partial(jax.vmap, in_axes=(None, 0, None))
def cost_and_weights(term, margin, beta):
    """Loss of a pair with β(s_c - s_r) = margin, half of it on either side; the push on the chosen and rejected row."""
    log_prob = LEVEL + jnp.array([0.5, -0.5]).reshape(2, 1, 1) * margin / beta
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((2, 1, 1), int),
        mask=jnp.ones((2, 1, 1), bool),
        ref_log_prob=jnp.full((2, 1, 1), LEVEL),
    )
    loss = po.objective(language.recorded, term)
    value, gradient = jax.value_and_grad(lambda x: loss(x, batch)[0])(log_prob)
    return value, -gradient[0, 0, 0] / beta, gradient[1, 0, 0] / beta


@partial(jax.vmap, in_axes=(None, 0))
def cost_and_weight_of_a_row(term, score):
    level = 2 * LEVEL  # even at the largest score a probability
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((1, 1), int),
        mask=jnp.ones((1, 1), bool),
        ref_log_prob=jnp.full((1, 1), level),
        label=jnp.ones(1, bool),
        reference_point=jnp.zeros(1),
    )
    loss = po.objective(language.recorded, term)
    value, gradient = jax.value_and_grad(lambda x: loss(x, batch)[0])(jnp.full((1, 1), level + score))
    return value, -gradient[0, 0]


slope = surrogates.alpha_slope
FAMILY = {  # name -> (term, β): pictures are in units of β, as far as a term has one
    "How sure is a label?": {
        "dpo": (po.dpo(beta=1.0), 1.0),
        "conservative_dpo, ε = .1": (po.conservative_dpo(beta=1.0, label_smoothing=0.1), 1.0),
        "robust_dpo, ε = .1": (po.robust_dpo(beta=1.0, label_smoothing=0.1), 1.0),
        "exo, ε = .1": (po.exo(beta=1.0, label_smoothing=0.1), 1.0),
    },
    "A margin to reach": {
        "ipo, 1/(2β) = 1": (po.ipo(beta=0.5), 1.0),
        "slic": (po.slic(beta=1.0), 1.0),
        "simpo, γ = 1": (po.simpo(beta=2.0, gamma=1.0), 2.0),
        "discopop": (po.discopop(beta=1.0), 1.0),
    },
    "Each row by itself": {
        "nca": (po.nca(beta=1.0), 1.0),
        "sppo, 1/(2β) = 1": (po.sppo(beta=0.5), 1.0),
        "apo_zero": (po.apo_zero(beta=1.0), 1.0),
        "apo_down": (po.apo_down(beta=1.0), 1.0),
    },
    "Another divergence: f_dpo": {
        "reverse KL (dpo)": (po.f_dpo(surrogates.reverse_kl_slope, beta=1.0), 1.0),
        "α = ½": (po.f_dpo(partial(slope, alpha=0.5), beta=1.0), 1.0),
        "forward KL": (po.f_dpo(slope, beta=1.0), 1.0),
        "Jensen-Shannon": (po.f_dpo(surrogates.jensen_shannon_slope, beta=1.0), 1.0),
    },
    "With the likelihood of the chosen row": {
        "cpo": (po.cpo(beta=1.0), 1.0),
        "orpo, λ = .1": (po.orpo(odds_weight=0.1), 1.0),
    },
}
ROWS = {"kto": po.kto(beta=1.0), "bco": po.bco(beta=1.0)}
curves = {
    group: {
        name: [np.asarray(x) for x in cost_and_weights(term, MARGIN, beta)] for name, (term, beta) in members.items()
    }
    for group, members in FAMILY.items()
}
rows = {name: [np.asarray(x) for x in cost_and_weight_of_a_row(term, MARGIN)] for name, term in ROWS.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


sure, reach, alone, divergence, likelihood = (curves[group] for group in FAMILY)
x = MARGIN
for pushes in (sure["dpo"][1:], divergence["reverse KL (dpo)"][1:]):
    assert np.allclose(pushes, sigmoid(-x))
assert np.allclose(sure["conservative_dpo, ε = .1"][1], 0.9 - sigmoid(x))
assert np.allclose(sure["robust_dpo, ε = .1"][1], (0.9 * sigmoid(-x) + 0.1 * sigmoid(x)) / 0.8)
assert np.allclose(sure["exo, ε = .1"][1], sigmoid(x) * sigmoid(-x) * (np.log(9) - x))
assert np.allclose(reach["ipo, 1/(2β) = 1"][1], 2 * (1 - x))
assert np.allclose(reach["simpo, γ = 1"][1], sigmoid(1 - x))
assert np.allclose(alone["nca"][1], sigmoid(-x / 2) - sigmoid(x / 2) / 2)
assert np.allclose(alone["apo_zero"][1:], sigmoid(x / 2) * sigmoid(-x / 2))
assert (alone["apo_down"][1] <= 1e-12).all()
assert np.allclose(divergence["forward KL"][1] / divergence["forward KL"][2], np.exp(-x))  # 1/u of either row
assert np.allclose(likelihood["cpo"][1], 1 + sigmoid(-x))
assert np.allclose(rows["kto"][1], sigmoid(x) * sigmoid(-x))
assert np.allclose(rows["bco"][1], sigmoid(-x))
for name in ("aot", "aot_unpaired"):
    assert np.allclose(cost_and_weights(getattr(po, name)(beta=1.0), MARGIN, 1.0)[0], sure["dpo"][0])
tie = len(MARGIN) // 2
print(f"weight of discopop at a tie: {reach['discopop'][1][tie]:.2f}")
assert reach["discopop"][1][tie] < 0 < min(reach["discopop"][1][tie - 4], reach["discopop"][1][tie + 4])
params, _ = learn(po.discopop(beta=1.0), TWO, STEPS, jnp.zeros((1, 2)), optimizer=optax.sgd(0.1))
stuck = float(params[-1, 0, 0] - params[-1, 0, 1])
print(f"two answers of which one always wins, from a tie: discopop ends at a margin of {stuck:.2f}")
assert -0.2 < stuck < 0

# %%
fig, axes = plt.subplots(4, 3, figsize=(11, 10), sharex=True, sharey="row")
panels = [*curves.items(), ("One row at a time", rows)]
for i, (group, members) in enumerate(panels):
    cost, weight = axes[2 * (i // 3), i % 3], axes[2 * (i // 3) + 1, i % 3]
    for (name, (value, *pushes)), color in zip(members.items(), COLORS, strict=False):
        cost.plot(MARGIN, value, color=color, lw=2, label=name)
        weight.plot(MARGIN, pushes[0], color=color, lw=2)
        if not np.allclose(pushes[0], pushes[-1]):
            weight.plot(MARGIN, pushes[1], color=color, lw=1.8, ls=":")
    cost.axvline(0, color="0.85", lw=0.8, zorder=0)
    weight.axvline(0, color="0.85", lw=0.8, zorder=0)
    weight.axhline(0, color="0.85", lw=0.8, zorder=0)
    cost.set_title(group, pad=34)
    cost.set(ylim=(-1.2, 6))
    weight.set(ylim=(-1, 2.4), xlim=(-5, 5))
    cost.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, borderpad=0)
for i in (0, 2):
    axes[i, 0].set_ylabel("loss")
    axes[i + 1, 0].set_ylabel("weight")
for ax in axes[3, :2]:
    ax.set_xlabel("margin β(s_c - s_r)")
axes[3, 2].set_xlabel("β(s - z) of a desirable row")
plt.show()

# %% [markdown]
# What a person may take from it:
#
# * `dpo` never stops pushing a pair that is in the wrong order, `exo`, `kto` and the two `apo` give such pairs up: good
#   for labels that are wrong, bad for what is hard.
# * The weights of `conservative_dpo`, `exo` and `ipo` change their sign: beyond their margin they pull back.
# * `nca` pulls a chosen row back, too: its own score ends at $\ln 2/\beta$ and no higher. `apo_down` pushes no
#   chosen row up, on this cut.
# * Under the forward KL rows are weighed by $1/u$, so that improbable ones dominate. Under Jensen-Shannon nothing is
#   big.
# * **`discopop` begins in its dent.** At a tie, where training starts, its weight has the wrong sign, and descent from
#   there with small exact steps ends at a *negative* margin (the last line printed above the picture). What carries a
#   run out is noise, and what other pairs do to the same parameters.
#
# ### Scores: sum or mean, with a reference or without

# %%
LENGTHS = np.arange(1, 41)
REJECTED_LENGTH = 10
NATS = 0.05  # what every token of both rows has gained over the reference
TOKEN = -1.0  # log-probability of each token


@partial(jax.vmap, in_axes=(None, 0))
def margin_and_push(score, length):
    """Two rows of tokens that are all alike, of different lengths: the margin, and the push on a chosen token."""
    real = jnp.arange(LENGTHS[-1]) < jnp.array([length, REJECTED_LENGTH])[:, None, None]
    batch = po.Batch(
        obs=None, action=jnp.zeros(real.shape, int), mask=real, ref_log_prob=jnp.full(real.shape, TOKEN - NATS)
    )
    term = po.objective(language.recorded, po.dpo(beta=1.0, score=score))
    (_, metrics), gradient = jax.value_and_grad(term, has_aux=True)(jnp.full(real.shape, TOKEN), batch)
    return metrics["margin"], -gradient[0, 0, 0]


SCORES = {
    "summed_log_ratio (dpo)": (objectives.summed_log_ratio, NATS * (LENGTHS - REJECTED_LENGTH)),
    "mean_log_ratio (ipo)": (objectives.mean_log_ratio, 0 * LENGTHS),
    "summed_log_prob (cpo)": (objectives.summed_log_prob, TOKEN * (LENGTHS - REJECTED_LENGTH)),
    "mean_log_prob (simpo, orpo)": (objectives.mean_log_prob, 0 * LENGTHS),
}
by_length = {name: [np.asarray(x) for x in margin_and_push(score, LENGTHS)] for name, (score, _) in SCORES.items()}
for name, (_, expected) in SCORES.items():
    assert np.allclose(by_length[name][0], expected)
    assert np.allclose(by_length[name][1], sigmoid(-expected) / (LENGTHS if "mean" in name else 1))

fig, axes = plt.subplots(1, 3, figsize=(12, 3.5))
for ax, which, title in ((axes[0], "ratio", "with a reference"), (axes[1], "prob", "without")):
    for (name, (margin, _)), color in zip(by_length.items(), COLORS, strict=True):
        if f"log_{which}" in name:
            ax.plot(LENGTHS, margin, color=color, lw=2, label=name)
    ax.axvline(REJECTED_LENGTH, color="0.8", lw=0.8, zorder=0)
    ax.set(title=title, xlabel="tokens of the chosen row", ylabel="margin s_c - s_r")
    ax.legend(loc="upper left" if which == "ratio" else "lower left")
axes[0].set_ylim(-1, 2.6)
axes[1].set_ylim(-42, 15)
for (_, push), color, style in zip(by_length.values(), COLORS, ("-", "-", "-", "--"), strict=True):
    axes[2].semilogy(LENGTHS, push, color=color, lw=2, ls=style)
axes[2].set(title="push on one chosen token", xlabel="tokens of the chosen row", ylim=(1e-3, 2))
fig.suptitle(f"Rows whose tokens are all alike; the rejected one has {REJECTED_LENGTH}")
plt.show()

# %% [markdown]
# With a sum, a longer row has a larger margin for nothing that is better in it: 40 tokens that each gained a twentieth
# of a nat look like a good answer. Without a reference it is the reverse: every token costs probability, and a long row
# looks bad. A mean is blind to both, and its tokens are pushed the less the longer their row is.
#
# ### The chosen row, going down
#
# A loss of the difference is content if the chosen row becomes *less* probable, as long as the rejected one falls
# further. In our table, where every beginning has parameters of its own, one pair cannot do that. Where parameters are
# shared it can. A small case: a **bigram** writer, whose next letter depends on the last one alone, and one pair, `ab`
# preferred to `abab`. Both words use "b after a", the rejected one twice.

# %%
START = 2  # what is seen before the first letter


def spelled(word, length=5):
    tokens = [*("ab".index(letter) for letter in word), STOP]
    pad = [0] * (length - len(tokens))
    return [START, *tokens[:-1], *pad], tokens + pad, [True] * len(tokens) + pad


SPELLED = [jnp.asarray(x)[:, None] for x in zip(spelled("ab"), spelled("abab"), strict=True)]  # [2, 1, 5] each
BIGRAM = jnp.zeros((3, 3))  # the reference: after anything, a, b or stop, a third each
ONE_PAIR = po.Batch(
    obs=SPELLED[0],
    action=SPELLED[1],
    mask=SPELLED[2].astype(bool),
    ref_log_prob=writer(BIGRAM, SPELLED[0]).policy.log_prob(SPELLED[1]),
)
DIFFERENCE = {
    "dpo": po.dpo(beta=0.5),
    "ipo of sums": po.ipo(beta=0.125, score=objectives.summed_log_ratio),
    "slic": po.slic(beta=0.5),
    "simpo": po.simpo(),
    "ipo": po.ipo(beta=0.5),
}
HELD = {
    "nca": po.nca(beta=0.5),
    "apo_zero": po.apo_zero(beta=0.5),
    "sppo": po.sppo(beta=0.2),
    "cpo": po.cpo(beta=0.5),
    "orpo": po.orpo(odds_weight=1.0),
    "dpo + likelihood": po.weighted_sum(
        preference=(1.0, po.dpo(beta=0.5)), likelihood=(0.5, po.on_chosen(po.negative_log_likelihood()))
    ),
}
gained = {}
for name, term in (DIFFERENCE | HELD).items():
    params, _ = learn(term, ONE_PAIR, 10_000, BIGRAM, optimizer=optax.sgd(0.03))
    said = jax.vmap(lambda p: writer(p, SPELLED[0]).policy.log_prob(SPELLED[1]))(params)
    ratio = jnp.where(ONE_PAIR.mask, said - ONE_PAIR.ref_log_prob, 0).sum(-1)[..., 0]
    chosen, rejected = gained[name] = np.asarray(ratio).T
    ends = f"chosen {chosen[-1]:5.2f} (lowest {chosen.min():5.2f}), rejected {rejected[-1]:6.2f}"
    print(f"{name:17s} log π/ref at the end: {ends}")
lowest = {name: chosen.min() for name, (chosen, _) in gained.items()}
assert max(lowest[name] for name in ("dpo", "ipo of sums", "slic")) < -0.5
assert gained["dpo"][0][-1] == lowest["dpo"] < -4  # it goes on
assert all(gained[name][0][-1] > 0.9 for name in HELD)
assert all(-0.6 < lowest[name] < -0.05 for name in ("nca", "apo_zero", "sppo"))
assert all(lowest[name] > -1e-9 for name in ("cpo", "orpo", "dpo + likelihood"))

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.9), sharey=True)
PLACES = {  # of the labels, beside the end of each path
    "dpo": (0, -14), "ipo of sums": (8, -12), "slic": (8, -12), "simpo": (-4, -14), "ipo": (-10, 10),
    "nca": (0, -15), "apo_zero": (-14, 9), "sppo": (-38, -2), "cpo": (-12, -14), "orpo": (-12, 9),
    "dpo + likelihood": (-36, 9),
}  # fmt: skip
for ax, names in zip(axes, (DIFFERENCE, HELD), strict=True):
    for name, color in zip(names, [*COLORS, DARK_ORANGE, "black"], strict=False):
        chosen, rejected = gained[name]
        behind = name in ("dpo", "simpo")  # another goes the same way, less far
        ax.plot(rejected, chosen, color=color, lw=5 if behind else 2, alpha=0.5 if behind else 1)
        ax.plot(rejected[-1], chosen[-1], "o", color=color)
        ax.annotate(
            name, (rejected[-1], chosen[-1]), PLACES[name], textcoords="offset points", color=color, va="center"
        )
    ax.plot(0, 0, "*", ms=13, color="black", zorder=4)
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="rejected row: log π/ref", ylim=(-6, 4.2))
axes[0].set(ylabel="chosen row: log π/ref", title="differences alone")
axes[1].set(title="the chosen row has a place of its own")
plt.show()

# %% [markdown]
# `dpo`, `slic` and IPO with sums go the same way, some further than others: both rows down. `dpo` has the preferred
# word at less than a hundredth of what it was, and goes on. A mean counts a token of the shorter row for more, which
# here lets the chosen row rise at first. On the right the chosen row ends higher than it began with all of them, though
# not by the same road: `nca`, `apo_zero` and `sppo` let it fall a little before it rises, and `cpo` and `orpo`, led by
# the likelihood, at first raise the rejected row along with it. (One pair, made for this. On another it may not happen,
# or the anchors may not be strong enough: `chosen_log_ratio` is among the metrics to be looked at.)
#
# ## 3. Groups: what is divided by what
#
# G answers to each prompt are right or wrong, with probability $p$ of the right one, of which the parameter is the
# logit. How hard does each prompt pull, as a function of $p$? The gradient of the expected reward is $p(1-p)$.
# `leave_one_out` is that, `group_centred` (Dr. GRPO) is $\frac{G-1}{G}$ of it, and `group_relative` (GRPO), which
# divides by the group's standard deviation, is about $\sqrt{p(1-p)}$: exactly,
# $\sqrt{\frac{G-1}{G}}\,\mathbb{E}\sqrt{\hat p(1-\hat p)}$ over the groups' success rates. All groups are enumerated.
# `batch_relative` (REINFORCE++) depends on the other prompts; it is sampled, over prompts of every $p$.

# %%
G = 8
RATES = np.linspace(0.02, 0.98, 49)


def answerer(params, prompt):
    """One decision: wrong (0) or right (1)."""
    logit = params[prompt]
    return po.Outputs(policy=po.Categorical(logits=jnp.stack([jnp.zeros_like(logit), logit], axis=-1)))


reinforce = po.objective(answerer, po.reinforce(reduce=po.sequence_mean))


def pull(rate, right, advantage):
    """The ascent on the logit that answers [..., G] with these advantages give."""
    batch = po.Batch(
        obs=jnp.zeros((*right.shape, 1), int),
        action=right[..., None].astype(int),
        mask=jnp.ones((*right.shape, 1), bool),
        advantage=advantage[..., None],
    )
    logit = jnp.log(rate / (1 - rate))[None]
    return -jax.grad(reinforce, has_aux=True)(logit, batch)[0][0]


GROUPS = jnp.arange(G) < jnp.arange(G + 1)[:, None]  # [G + 1, G]: k right ones, every k
WITHIN = {
    "group_relative": po.group_relative,
    "group_centred": po.group_centred,
    "leave_one_out": po.leave_one_out,
}
chance = binom.pmf(np.arange(G + 1), G, RATES[:, None])  # [rates, G + 1]
pulls, sizes = {}, {}
for name, estimate in WITHIN.items():
    advantage = estimate(GROUPS.astype(float)[:, None])[:, 0]
    each = jax.jit(jax.vmap(jax.vmap(pull, (None, 0, 0)), (0, None, None)))(RATES, GROUPS, advantage)
    pulls[name] = (chance * each).sum(-1)
    sizes[name] = chance @ np.abs(advantage).mean(-1)

share = np.arange(G + 1) / G
spread = RATES * (1 - RATES)
assert np.allclose(pulls["leave_one_out"], spread)
assert np.allclose(pulls["group_centred"], (G - 1) / G * spread)
root = chance @ np.sqrt(share * (1 - share)) * np.sqrt((G - 1) / G)
assert np.allclose(pulls["group_relative"], root, atol=1e-5)  # the estimator adds 1e-6 to the deviation

SAMPLES = 1_000 if FAST else 10_000
right = jax.random.uniform(jax.random.key(3), (len(RATES), SAMPLES, G)) < RATES[:, None, None]
whole = po.batch_relative(right.astype(float))
pulls["batch_relative"] = np.asarray(jax.jit(jax.vmap(pull))(RATES, right, whole))
sizes["batch_relative"] = np.abs(whole).mean((1, 2))
deviation = float(right.std())
assert np.allclose(pulls["batch_relative"], spread / deviation, atol=5 / np.sqrt(SAMPLES * G))
assert np.allclose(sizes["batch_relative"], 1, atol=0.02)  # as far from the mean of all prompts as the deviation is
rare, half = (np.argmin(np.abs(RATES - p)) for p in (0.02, 0.5))
for name, pulled in pulls.items():
    print(f"{name:15s} pull at p = .02 over that at p = ½: {pulled[rare] / pulled[half]:.3f}")
print(f"√(p(1-p)), that of infinite groups:           {np.sqrt(spread[rare] / spread[half]):.3f}")

# %% [markdown]
# Several rewards: `decoupled_relative` (GDPO) normalises each before adding, where `group_relative` of the sum lets the
# one with the larger unit win. Sixteen attempts, correct or not, brief or not; brevity is paid in a unit of our choice.

# %%
KINDS = {"correct, brief": 2, "correct, long": 2, "wrong, brief": 8, "wrong, long": 4}  # how many attempts of each
correct = jnp.array([k.startswith("correct") for k, n in KINDS.items() for _ in range(n)], float)
brief = jnp.array([k.endswith("brief") for k, n in KINDS.items() for _ in range(n)], float)
UNITS = np.logspace(-2, 2, 81)
summed = jax.vmap(lambda unit: po.group_relative(correct + unit * brief))(UNITS)
apart = jax.vmap(lambda unit: po.decoupled_relative(jnp.stack([correct, unit * brief])[:, None], jnp.ones(2))[0])(UNITS)
first = np.cumsum([0, *KINDS.values()])[:-1]
assert np.allclose(apart, apart[40], atol=5e-3)  # no unit matters, but for the 1e-6 that is added to a deviation
assert np.allclose(summed[40, first[1]], summed[40, first[2]])  # at the same unit the sum cannot tell these two apart

fig, axes = plt.subplots(1, 3, figsize=(12, 3.6))
for (name, pulled), color in zip(pulls.items(), COLORS, strict=True):
    axes[0].plot(RATES, pulled, color=color, lw=2, label=name)
    axes[1].plot(RATES, sizes[name], color=color, lw=2)
axes[0].plot(RATES, np.sqrt(spread), ":", color="black", lw=1, label="√(p(1-p))")
axes[0].set(xlabel="success rate p of the prompt", ylabel="expected pull on its logit", ylim=(0, 0.83))
axes[0].legend(ncols=2, loc="upper center", fontsize=9)
axes[1].set(xlabel="success rate p of the prompt", ylabel="mean |advantage| of its answers", ylim=(0, 1.25))
axes[1].text(0.5, 1.04, "batch_relative", color=COLORS[3], ha="center")
for i, kind, color in zip(first, KINDS, COLORS, strict=True):
    axes[2].semilogx(UNITS, summed[:, i], color=color, lw=1.8, ls="--")
    axes[2].semilogx(UNITS, apart[:, i], color=color, lw=2.4, label=kind)
axes[2].set(xlabel="what brevity is paid, in units of correctness", ylabel="advantage", ylim=(-2.2, 3.6))
axes[2].legend(fontsize=9, ncols=2, loc="upper center")
axes[2].set_title("solid: decoupled_relative, dashed: of the sum", fontsize=10)
plt.show()

# %% [markdown]
# * The division by the spread favours prompts that are nearly always or nearly never solved: one that is solved once in
#   fifty pulls 1.4 times as hard, next to one that is solved half the time, as the gradient of the reward has it. Large
#   groups would make that 3.6; in most groups of eight nobody solves it, and such a group says nothing.
# * `batch_relative` pulls like $p(1-p)$ *in expectation*, and yet is loud where there is nothing to learn: the answers
#   to a prompt that all are right still have an advantage. What cancels on average is noise in each batch, and every
#   token of them is pushed.
# * The dashed lines cross where a unit changes its value; the solid ones do not move.
#
# ### Long rows and short ones
#
# The reduction says how much one decision weighs: below on the left, in a batch of rows of 1 to 64 tokens.

# %%
LONGEST = 64
ladder = jnp.arange(LONGEST) < jnp.arange(1, LONGEST + 1)[:, None]  # [rows, T]
ladder = po.Batch(obs=None, action=None, mask=ladder)
REDUCTIONS = {
    "sequence_mean (GRPO)": po.sequence_mean,
    "token_mean (DAPO)": po.token_mean,
    "constant_length (Dr. GRPO)": po.constant_length(LONGEST),
}
length = np.arange(1, LONGEST + 1)
nothing = jnp.zeros(ladder.mask.shape)
weights = {name: np.asarray(jax.grad(reduce)(nothing, ladder))[:, 0] for name, reduce in REDUCTIONS.items()}
for weight, expected in zip(weights.values(), (1 / length, LONGEST / length.sum(), 1 / LONGEST), strict=True):
    assert np.allclose(weight, expected / LONGEST)  # as many rows as the longest has tokens

# %% [markdown]
# What comes of it: a coin decides whether an answer will be right, and **length has nothing to do with the reward**.
# The writer knows how it is going: it has one logit of stopping in answers that will be right and one in those that
# will not. Answers of ten tokens at first, on average. Does anything change?

# %%
LIMIT, ROWS, TRAINING, SEEDS = 128, (32, 8), (60 if FAST else 150), (2 if FAST else 3)


def stopper(params, will_be_right):
    stop = params[will_be_right.astype(int)]
    return po.Outputs(policy=po.Categorical(logits=jnp.stack([jnp.zeros_like(stop), stop], axis=-1)))


def answers(params, memory, key):
    """Rows [N, G, T] of "go on" (0) until "stop" (1), or the limit; rewarded for the coin alone."""
    coin_key, stop_key = jax.random.split(key)
    right = jnp.broadcast_to(jax.random.bernoulli(coin_key, shape=ROWS)[..., None], (*ROWS, LIMIT))
    policy = stopper(params, right).policy
    action = policy.sample(seed=stop_key)
    mask = jnp.cumsum(action, axis=-1) - action == 0  # up to the first stop
    advantage = po.group_relative(right[..., 0].astype(float))[..., None]
    batch = po.Batch(
        obs=right,
        action=action,
        mask=mask,
        log_prob=policy.log_prob(action),
        advantage=jnp.broadcast_to(advantage, mask.shape),
    )
    return memory, batch, {"length": 1 + jnp.exp(-params)}  # of wrong and right answers, were there no limit


START_LENGTH = 10
lengths = {}
for name, reduce in {**REDUCTIONS, "constant_length (Dr. GRPO)": po.constant_length(START_LENGTH)}.items():
    step = po.make_step((po.objective(stopper, po.ppo(reduce=reduce)), optax.sgd(0.25)))

    def run(key, step=step):
        state = po.init_state(step, -jnp.log(START_LENGTH - 1.0) * jnp.ones(2), key)
        return po.train(answers, step, state, updates=TRAINING)[1]["length"]

    keys = jax.random.split(jax.random.key(4), SEEDS)
    lengths[name] = np.asarray(jax.jit(jax.vmap(run))(keys))  # [seeds, updates, 2]
    wrong, good = (f"{x.min():4.1f} to {x.max():4.1f}" for x in lengths[name][:, -1].T)
    print(f"{name:27s} tokens of wrong answers {wrong}, of right ones {good}")
biased, *unbiased = lengths.values()
assert (biased[:, -1, 0] > 1.5 * START_LENGTH).all()
assert (biased[:, -1, 1] < 0.8 * START_LENGTH).all()
for each in unbiased:
    assert np.abs(np.log(each[:, -1] / START_LENGTH).mean(0)).max() < 0.1

# %%
fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.5))
for (name, weight), color in zip(weights.items(), COLORS, strict=False):
    axes[0].loglog(length, weight, color=color, lw=2, label=name)
    axes[1].loglog(length, weight * length, color=color, lw=2)
    for seed in lengths[name]:
        axes[2].semilogy(seed[:, 0], color=color, lw=1.5)
        axes[2].semilogy(seed[:, 1], color=color, lw=1.5, ls=":")
axes[0].set(xlabel="tokens of the row", title="weight of one token", ylim=(1e-4, 0.2))
axes[0].legend(fontsize=9)
axes[1].set(xlabel="tokens of the row", title="weight of the row")
axes[2].set(xlabel="update", title="mean length: solid wrong, dotted right")
axes[2].set_yticks([2, 5, 10, 20, 40], ["2", "5", "10", "20", "40"])
axes[2].minorticks_off()
plt.show()

# %% [markdown]
# With a mean over each row, wrong answers become four times as long and right ones shrink to almost nothing, for no
# reward at all: among wrong answers the short ones are pushed down harder per token, so that what is left is long;
# among right ones the short ones are pushed up harder. With one weight for all tokens nothing moves. (Right and wrong
# lengths have to be told apart by the policy for that. If it could not, the two would cancel here.)
#
# ### Clips
#
# The gain of one decision against its ratio $\rho = \pi/\pi_\mathrm{old}$, and its slope in $\log\rho$: what multiplies
# $\nabla\log\pi$. At $\rho = 1$ the slope is $A$ with all of them. Values are shifted to 0 there.

# %%
LOG_RATIO = np.linspace(-np.log(8), np.log(8), 401)


@partial(jax.vmap, in_axes=(None, 0, None))
def gain_and_slope(term, log_ratio, advantage):
    log_prob = jnp.full((1, 1), -3.0)
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((1, 1), int),
        mask=jnp.ones((1, 1), bool),
        log_prob=log_prob - log_ratio,
        advantage=jnp.full((1, 1), advantage),
    )
    loss = po.objective(language.recorded, term)
    value, gradient = jax.value_and_grad(lambda x: loss(x, batch)[0])(log_prob)
    return -value, -gradient[0, 0]


SHAPES = {
    "Clipped": {
        "ppo, ε = .2": po.ppo(clip_eps=0.2),
        "dapo": po.dapo(),
        "dual_clip, c = 3": po.dual_clip(clip_eps=0.2, cap=3.0),
    },
    "Never silent": {
        "surrogate": po.surrogate(),
        "cispo, c = 5": po.cispo(cap=5.0),
        "sapo": po.sapo(),
    },
    "Pulled back": {
        "ppo, ε = .2": po.ppo(clip_eps=0.2),
        "simple_policy_optimization": po.simple_policy_optimization(clip_eps=0.2),
        "discovered_policy_optimization": po.discovered_policy_optimization(),
    },
}
shapes = {
    group: {
        name: {sign: [np.asarray(x) for x in gain_and_slope(term, LOG_RATIO, sign)] for sign in (1.0, -1.0)}
        for name, term in members.items()
    }
    for group, members in SHAPES.items()
}
rho, ONE = np.exp(LOG_RATIO), len(LOG_RATIO) // 2
for group in shapes.values():
    for both in group.values():
        assert all(np.isclose(slope[ONE], sign) for sign, (_, slope) in both.items())
clipped, loud, back = shapes.values()
EDGES = {"ppo, ε = .2": (1.2, np.inf), "dapo": (1.28, np.inf), "dual_clip, c = 3": (1.2, 3.0)}
for name, (high, cap) in EDGES.items():
    assert np.allclose(clipped[name][1.0][1], rho * (rho < high))
    assert np.allclose(clipped[name][-1.0][1], -rho * (rho > 0.8) * (rho < cap))
assert np.allclose(loud["cispo, c = 5"][1.0][1], np.minimum(rho, 5))
assert np.allclose(loud["sapo"][1.0][1], 4 * rho * sigmoid(rho - 1) * sigmoid(1 - rho))
assert np.allclose(back["simple_policy_optimization"][1.0][1], rho * (1 - (rho - 1) / 0.2))

fig, axes = plt.subplots(2, 3, figsize=(11.5, 6), sharex=True, sharey="row")
for i, (group, members) in enumerate(shapes.items()):
    for (name, both), color, width in zip(members.items(), COLORS, (4, 2.4, 1.4), strict=False):
        for sign, (gain, slope) in both.items():
            style = dict(color=color, lw=width, ls="-" if sign > 0 else (0, (8 / width, 4 / width)))
            axes[0, i].semilogx(rho, gain - gain[ONE], **style, label=name if sign > 0 else None)
            axes[1, i].semilogx(rho, slope, **style)
    axes[0, i].set_title(group, pad=8)
    axes[0, i].set(ylim=(-4, 4))
    axes[1, i].set(ylim=(-5.5, 5.5), xlabel="ratio ρ", xlim=(1 / 8, 8))
    axes[1, i].set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["⅛", "¼", "½", "1", "2", "4", "8"])
    axes[1, i].minorticks_off()
    axes[0, i].legend(loc="upper left", fontsize=9)
    for ax in axes[:, i]:
        ax.axvline(1, color="0.85", lw=0.8, zorder=0)
        ax.axhline(0, color="0.85", lw=0.8, zorder=0)
axes[0, 0].set_ylabel("gain; solid A = 1, dashed A = -1")
axes[1, 0].set_ylabel("slope in log ρ")
plt.show()

# %% [markdown]
# A clip is silent beyond its edge, on one side for either sign of $A$; for $A < 0$ and a large ratio PPO's slope grows
# without bound, which `dual_clip` ends. `cispo` and `sapo` leave every token a slope. (`cispo` holds its weight
# constant: its slope is not the derivative of the value that is drawn above it, and only the slope means something.)
# The last two come back: `simple_policy_optimization` with a parabola around PPO's edge,
# `discovered_policy_optimization` for $A < 0$ only.
#
# `gspo`, `luspo` and `gmpo` have *one* ratio per row. A row of four tokens, of which one has moved:


# %%
@partial(jax.vmap, in_axes=(None, 0))
def slopes_of_a_row(term, log_ratio):
    """What multiplies ∇log π of the token that moved and of one that did not, times the four tokens of the row."""
    log_prob = jnp.full((1, 4), -3.0)
    batch = po.Batch(
        obs=None,
        action=jnp.zeros((1, 4), int),
        mask=jnp.ones((1, 4), bool),
        log_prob=log_prob - log_ratio * jnp.array([[1.0, 0.0, 0.0, 0.0]]),
        advantage=jnp.ones((1, 4)),
    )
    loss = po.objective(language.recorded, term)
    return -4 * jax.grad(lambda x: loss(x, batch)[0])(log_prob)[0, :2]


ROW_TERMS = {  # gspo and luspo with PPO's ε here: theirs, for a mean of many tokens, is a thousandth of it
    "ppo by rows (GRPO)": po.ppo(clip_eps=0.2, reduce=po.sequence_mean),
    "gspo, ε = .2": po.gspo(clip_eps=0.2),
    "gmpo": po.gmpo(),
}
row_slopes = {name: np.asarray(slopes_of_a_row(term, LOG_RATIO)).T for name, term in ROW_TERMS.items()}
assert np.allclose(row_slopes["ppo by rows (GRPO)"][1], 1)
assert np.allclose(row_slopes["gspo, ε = .2"], rho**0.25 * (rho**0.25 < 1.2))
assert np.allclose(row_slopes["gmpo"][0], rho**0.25 * (LOG_RATIO < 0.4))
assert np.allclose(row_slopes["gmpo"][1], np.exp(np.minimum(LOG_RATIO, 0.4) / 4))
luspo = np.asarray(slopes_of_a_row(po.luspo(clip_eps=0.2), LOG_RATIO)).T
assert np.allclose(luspo, 4 * row_slopes["gspo, ε = .2"])  # by the row's length: the same shape

fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for ax, which, title in zip(axes, (0, 1), ("the token that moved", "another token of the row"), strict=True):
    for (name, slopes), color in zip(row_slopes.items(), COLORS, strict=False):
        ax.semilogx(rho, slopes[which], color=color, lw=2, label=name)
    ax.set(title=title, xlabel="ratio ρ of the token that moved", xlim=(1 / 8, 8), ylim=(-0.05, 1.6))
    ax.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["⅛", "¼", "½", "1", "2", "4", "8"])
    ax.minorticks_off()
axes[0].set_ylabel("slope in its log π, A = 1")
axes[0].legend(loc="upper left", fontsize=9)
plt.show()

# %% [markdown]
# ## 4. The KL: in the loss, or in the reward
#
# Wanted is $\max_\pi \mathbb{E}[r] - \beta\,\mathrm{KL}(\pi\,\|\,\mathrm{ref})$ over whole words. What people write is
# an estimator of the KL from the tokens that were sampled: k1, k2 or k3, as a penalty in the loss or off the reward.
# Whose gradient does each have? In this world the expectation is a sum over fifteen words, so that a *reduction* of our
# own takes it: every word once, weighed by the probability that the batch says it was sampled with.


# %%
class World(NamedTuple):
    """All words, as decisions of a writer, and the reference; `writer` is the model of any."""

    seen: jax.Array
    said: jax.Array
    real: jax.Array
    reference: jax.Array

    def log_prob(self, params):
        return writer(params, self.seen).policy.log_prob(self.said)

    def law(self, params):
        return jnp.exp(jnp.where(self.real, self.log_prob(params), 0).sum(-1))


def every_word(world, sampler, *, reward=REWARD, spent=0.0):
    """Every word once, with the probability that the sampler gives it; its reward less `spent` a nat of k1."""
    arrays = dict(log_prob=world.log_prob(sampler), ref_log_prob=world.log_prob(world.reference))
    last = world.real & ~jnp.pad(world.real[:, 1:], ((0, 0), (0, 1)))
    per_token = jnp.where(last, reward[:, None], 0)
    per_token = po.reward_minus_kl(reward=per_token, **arrays, mask=world.real, beta=spent)
    total = jnp.where(world.real, per_token, 0).sum(-1, keepdims=True)
    advantage = jnp.broadcast_to(total, world.said.shape)
    return po.Batch(obs=world.seen, action=world.said, mask=world.real, advantage=advantage, **arrays)


def expectation(x, batch):
    """E[Σ_t x_t] over words that the policy of `batch.log_prob` samples."""
    log_prob, x = (jnp.where(batch.mask, y, 0).sum(-1) for y in (batch.log_prob, x))
    return (jnp.exp(log_prob) * x).sum()


def exact_kl(old, new, batch):
    """A divergence for `kl_to_reference`: exact in the tokens, at the beginnings that the batch has; KL(new ‖ old)."""
    return expectation(new.policy.kl_divergence(old.policy), batch)


LETTERS = World(SEEN, SAID, REAL, REFERENCE)
POLICY, ELSEWHERE = (jax.random.normal(key, REFERENCE.shape) for key in jax.random.split(jax.random.key(5)))
on, off = every_word(LETTERS, POLICY), every_word(LETTERS, ELSEWHERE)


def sampled(estimator):
    return po.sampled_kl_to_reference(estimator=estimator, reduce=expectation)


def corrected(estimator):
    return po.corrected_kl_to_reference(estimator=estimator, reduce=expectation)


in_the_reward = every_word(LETTERS, POLICY, reward=0 * REWARD, spent=1.0)
MENU = {
    "k1 in the loss": (sampled(po.k1), on),
    "k2 in the loss": (sampled(po.k2), on),
    "k3 in the loss (GRPO)": (sampled(po.k3), on),
    "weighted k3 (corrected_kl_to_reference)": (corrected(po.weighted_k3), on),
    "exact (kl_to_reference)": (po.kl_to_reference(writer, REFERENCE, divergence=exact_kl), on),
    "k1 in the reward (reward_minus_kl)": (po.reinforce(reduce=expectation), in_the_reward),
    "k2, sampled elsewhere": (sampled(po.k2), off),
    "k3, sampled elsewhere": (sampled(po.k3), off),
    "weighted k2, sampled elsewhere": (corrected(po.weighted_k2), off),
    "weighted k3, sampled elsewhere": (corrected(po.weighted_k3), off),
}


# The closed forms: sums over words and over tokens, with nothing of the library in them.
def tables(params):
    return jax.nn.log_softmax(params), jax.nn.log_softmax(REFERENCE)


def at_the_beginnings(sampler, towards):
    """The KL of the next token, summed over the beginnings that come, whose law is held constant."""
    come = jnp.zeros(len(BEGINNINGS)).at[SEEN].add(REAL * word_law(sampler)[:, None])

    def kl(params):
        p, q = tables(params)
        p, q = (p, q) if towards else (q, p)
        return come @ (jnp.exp(p) * (p - q)).sum(-1)

    return kl


def of_words(params):
    p, q = (jnp.where(REAL, x[SEEN, SAID], 0).sum(-1) for x in tables(params))
    return jnp.exp(p) @ (p - q)


def error(found, truth):
    return float(jnp.linalg.norm(found - truth) / jnp.linalg.norm(truth))


errors, values = [], []
for name, (term, batch) in MENU.items():
    value, gradient = jax.value_and_grad(lambda params: po.objective(writer, term)(params, batch)[0])(POLICY)  # noqa: B023
    sampler = ELSEWHERE if "elsewhere" in name else POLICY
    targets = at_the_beginnings(sampler, True), at_the_beginnings(sampler, False), of_words
    errors.append([error(gradient, jax.grad(target)(POLICY)) for target in targets])
    print(f"{name:40s} relative error of the gradient: " + "  ".join(f"{e:7.1e}" for e in errors[-1]))
errors = dict(zip(MENU, errors, strict=True))
TOWARDS, OTHER, TRAJECTORY = range(3)
WHOSE = {name: TOWARDS for name in MENU if "k2 in" in name or "weighted" in name or "exact" in name}
WHOSE |= {"k3 in the loss (GRPO)": OTHER, "k1 in the reward (reward_minus_kl)": TRAJECTORY}
for name, each in errors.items():
    right = [i for i in range(3) if each[i] < 1e-12]
    assert right == ([WHOSE[name]] if name in WHOSE else [])
    assert min(e for i, e in enumerate(each) if i not in right) > 0.1
assert np.allclose(errors["k1 in the loss"], 1)  # the gradient is 0, exactly

# %%
fig, ax = plt.subplots(figsize=(8, 4.2))
shown = np.array(list(errors.values()))
ax.imshow(np.where(shown < 1e-12, 1.0, 0.0), cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
for (i, j), x in np.ndenumerate(shown):
    said, color = ("exact", "white") if x < 1e-12 else (f"off by {x:.0%}", "0.35")
    ax.text(j, i, said, ha="center", va="center", color=color)
ax.set_xticks(range(3), ["KL(π ‖ ref)\nof tokens", "KL(ref ‖ π)\nof tokens", "KL(π ‖ ref)\nof whole words"])
ax.set_yticks(range(len(MENU)), MENU)
ax.set_yticks(np.arange(len(MENU) - 1) + 0.5, minor=True)
ax.set_xticks([0.5, 1.5], minor=True)
ax.grid(which="minor", color="0.8")
ax.tick_params(which="both", length=0)
ax.xaxis.tick_top()
ax.spines[:].set_visible(False)
fig.suptitle("In expectation, whose gradient is it?")
plt.show()

# %% [markdown]
# ### And where it leads
#
# Each is added to REINFORCE and trained by exact expected gradients, β = ½, so that what is left in the end is the
# penalty's doing. In two worlds: one in which the word is a single decision (a bandit of fifteen), and the one with a
# decision per letter. Where it ends can be written down, too. In the bandit, whatever has the gradient of KL(π ‖ ref)
# ends at $\pi^* \propto \mathrm{ref}\,e^{r/\beta}$, and KL(ref ‖ π) at
#
# $$\pi(y) = \frac{\beta\,\mathrm{ref}(y)}{\lambda - r(y)}, \qquad \lambda\text{ such that it sums to 1.}$$
#
# With letters, the same holds at each beginning with the expected reward of what follows in place of r: a penalty per
# token does not count the KL that is still to come. Only the one in the reward does, and ends at $\pi^*$.


# %%
def towards(ref, value):
    law = ref * np.exp((value - value.max()) / BETA)
    return law / law.sum()


def other(ref, value):
    lam = brentq(lambda x: (BETA * ref / (x - value)).sum() - 1, value.max() + 1e-12, value.max() + 2 * BETA)
    return BETA * ref / (lam - value)


def by_letters(rule):
    """Every beginning's law, from the longest to the shortest; what a token is worth is the reward that follows it."""
    ref, worth, law = np.exp(tables(REFERENCE)[1]), {}, {}
    reward = dict(zip(WORDS, np.asarray(REWARD), strict=True))
    for beginning in sorted(BEGINNINGS, key=len, reverse=True):
        ahead = [beginning + letter for letter in "ab"]
        value = np.array([*(worth.get(word, reward[word]) for word in ahead), reward[beginning]])
        law[beginning] = rule(ref[BEGINNINGS.index(beginning)], value)
        worth[beginning] = law[beginning] @ value
    return word_law(jnp.log(jnp.array([law[beginning] for beginning in BEGINNINGS])))


index = jnp.arange(len(WORDS))[:, None]
BANDIT = World(0 * index, index, jnp.ones_like(index, bool), jnp.log(REFERENCE_LAW)[None])


def trained(world, penalty, in_reward, updates=1500):
    """The law of words after training on E[r] and a KL, each in its place."""
    kl = penalty or (lambda outputs, batch: (jnp.zeros(()), {}))
    term = po.weighted_sum(policy=(1.0, po.reinforce(reduce=expectation)), kl=(BETA, kl))
    step = po.make_step((po.objective(writer, term), optax.adam(optax.cosine_decay_schedule(0.05, updates))))

    def collect(params, memory, key):
        return memory, every_word(world, params, spent=BETA if in_reward else 0.0), {}

    run = jax.jit(lambda state: po.train(collect, step, state, updates=updates)[0].params)
    return world.law(run(po.init_state(step, world.reference, jax.random.key(0))))


def penalties(world):
    exact = po.kl_to_reference(writer, world.reference, divergence=exact_kl)
    return {
        "k1 in the loss": (sampled(po.k1), False),
        "k2 in the loss": (sampled(po.k2), False),
        "k3 in the loss": (sampled(po.k3), False),
        "weighted k3 in the loss": (corrected(po.weighted_k3), False),
        "exact in the loss": (exact, False),
        "k1 in the reward": (None, True),
    }


ends = {
    world_name: {name: trained(world, *how) for name, how in penalties(world).items()}
    for world_name, world in (("one decision", BANDIT), ("a decision per letter", LETTERS))
}
ref, reward = np.asarray(REFERENCE_LAW), np.asarray(REWARD)
FORMS = {
    "one decision": {"towards": towards(ref, reward), "other": other(ref, reward)},
    "a decision per letter": {"towards": by_letters(towards), "other": by_letters(other)},
}
assert np.allclose(FORMS["one decision"]["towards"], BEST_LAW)
for world_name, laws_of in ends.items():
    form = FORMS[world_name]
    print(world_name)
    for name, law in laws_of.items():
        print(f"  {name:24s} total variation to π* {tv(law, BEST_LAW):.1e}, reward {law @ reward:.3f}")
    assert laws_of["k1 in the loss"] @ reward > 0.99 * reward.max()  # no penalty: the best words, and nothing else
    for name in ("k2 in the loss", "weighted k3 in the loss", "exact in the loss"):
        assert tv(laws_of[name], form["towards"]) < 1e-3
    assert tv(laws_of["k3 in the loss"], form["other"]) < 1e-3
    assert tv(laws_of["k1 in the reward"], BEST_LAW) < 1e-3
    assert tv(form["other"], BEST_LAW) > 0.05
assert tv(FORMS["a decision per letter"]["towards"], BEST_LAW) > 0.04

# %%
fig, axes = plt.subplots(2, 4, figsize=(13, 5.8), sharex=True)
COLUMNS = {
    "k1 in the loss": ["k1 in the loss"],
    "k3 in the loss": ["k3 in the loss"],
    "k2, weighted k3, exact in the loss": ["k2 in the loss", "weighted k3 in the loss", "exact in the loss"],
    "k1 in the reward": ["k1 in the reward"],
}
for row, (world_name, laws_of) in zip(axes, ends.items(), strict=True):
    for ax, (title, names) in zip(row, COLUMNS.items(), strict=True):
        ax.bar(place, BEST_LAW[order], color="0.82", label="π*")
        form = FORMS[world_name].get({"k3 in the loss": "other", "k1 in the loss": None}.get(title, "towards"))
        if title == "k1 in the reward":
            form = BEST_LAW
        if form is not None:
            ax.plot(place, np.asarray(form)[order], "_", ms=12, mew=1.8, color="black", label="closed form")
        for name, size, color in zip(names, (9, 6, 3), (MID_BLUE, ORANGE, BLUE), strict=False):
            color = BLUE if len(names) == 1 else color
            ax.plot(place, laws_of[name][order], "o", ms=6 if len(names) == 1 else size, color=color, label="trained")
        alone = title == "k1 in the loss"
        ax.set(ylim=(0, 1.05 if alone else 0.4), yticks=[0, 0.5, 1] if alone else [0, 0.2, 0.4])
        ax.text(0.97, 0.93, f"{tv(laws_of[names[0]], BEST_LAW):.2f} from π*", transform=ax.transAxes, ha="right")
        ax.set_xticks(place, NAMES, rotation=90, family="monospace")
    row[0].set_ylabel(f"{world_name}\nprobability of the word")
for ax, title in zip(axes[0], COLUMNS, strict=True):
    ax.set_title(title, fontsize=11)
axes[0, 1].legend(loc="center right")
plt.show()

# %% [markdown]
# * **k1 in the loss** is no penalty. The policy does what it would do without one.
# * **k3 in the loss**, GRPO's, ends at another policy than the KL that its value estimates would have: with more reward
#   than π* in the one world, with less in the other.
# * **k2, the weighted k3 and the exact KL** are one and the same in expectation. They end at π* where there is one
#   decision, and near it where there are several.
# * **k1 in the reward** ends at π*, in both. The price is variance, which exact gradients do not show.
#
# ## In short
#
# * With labels that have a Bradley-Terry law DPO reaches π* ∝ ref exp(r/β); with labels that have no exceptions it runs
#   away. IPO, SLiC, EXO and the conservative DPO stop, each at a margin that can be written down.
# * A member of the family is a link and a score. The link says what happens to pairs that are far from in order, the
#   score what length is worth, and both whether the chosen row may fall.
# * What GRPO divides by decides which prompts and which rows count. The mean over each row changes lengths without a
#   reward for it.
# * Where a KL is put, and which sample of it, decides whose gradient it has.
#
# What this does not show: anything about large models. Policies here are small tables, most gradients are exact, and
# what shared parameters do to one another is seen in one example that was made to show it. Which of these differences
# matter at scale is a question for experiments.
