"""Rows of the table: terms over pairs and over labelled rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from benchmarks.peers_language.agreement import Loss, lazily, options_told
from benchmarks.peers_language.examples import PAIRS, labelled, pairs, pairs_with_an_empty_one
from polopt_jax import objectives, surrogates
from polopt_jax.masking import masked_sum

B = 0.3  # beta, of both


def loss_of(term: po.Term) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda example, logits: term(example.outputs(logits), example.batch)[0]


def row(called: str, term: po.Term, differs: str = "nothing", *, of: str = "DPOTrainer", **options: Any) -> Loss:
    """A term over pairs that is theirs as it is. The options are told, beta apart."""
    theirs = lazily("trl_trainers", of.removesuffix("Trainer").lower(), beta=B, **options)
    return Loss(called, options_told(of, options), loss_of(term), theirs, pairs, differs)


def desirable_first(example: Any, logits: jax.Array) -> jax.Array:
    """`bco` of the pairs' rows one by one, measured from 0."""
    label = jnp.arange(2 * PAIRS) < PAIRS
    batch = example.texts.batch(2 * PAIRS, label=label, reference_point=jnp.zeros(2 * PAIRS))
    return 2 * po.bco(beta=B)(example.texts.policy(logits, 2 * PAIRS), batch)[0]


def shared_length(alpha: float) -> objectives.Score:
    """LD-DPO's score: what a row has beyond the length of its rival counts α."""

    def score(caller: str, log_prob: jax.Array, batch: po.Batch) -> jax.Array:
        place = jnp.cumsum(batch.mask, axis=-1)
        weight = jnp.where(place <= batch.mask.sum(-1).min(0)[:, None], 1.0, alpha)
        return masked_sum(weight * (log_prob - batch.ref_log_prob), batch.mask, axis=-1)

    return score


def without_the_empty_pair(example: Any, logits: jax.Array) -> jax.Array:
    """Theirs counts a pair without a token, at the link of two scores of 0: log 2, without a gradient."""
    return (loss_of(po.dpo(beta=B))(example, logits) * (PAIRS - 1) + jnp.log(2.0)) / PAIRS


def orpo_with_prompts(example: Any, logits: jax.Array) -> jax.Array:
    """Theirs learns the likelihood of the prompt as well."""
    outputs, likelihood = example.outputs(logits), po.on_chosen(po.negative_log_likelihood())
    whole = replace(example.batch, mask=example.texts.batch(2, PAIRS, learnt=example.texts.attended).mask)
    of_completions = po.orpo(odds_weight=B)(outputs, example.batch)[0] - likelihood(outputs, example.batch)[0]
    return of_completions + likelihood(outputs, whole)[0]


def kto_from_zero(example: Any, logits: jax.Array) -> jax.Array:
    batch = replace(example.batch, reference_point=jnp.zeros(len(example.label)))
    return po.kto(beta=B)(example.outputs(logits), batch)[0]


both = po.weighted_sum(preference=(0.8, po.dpo(beta=B)), likelihood=(0.3, po.on_chosen(po.negative_log_likelihood())))
cpo_simpo = po.weighted_sum(
    preference=(1.0, po.simpo(beta=B, gamma=0.4)), likelihood=(0.7, po.on_chosen(po.negative_log_likelihood()))
)
alone = objectives.summed_log_prob
mean = objectives.mean_log_ratio
alpha = partial(surrogates.alpha_slope, alpha=0.4)
f = dict(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.6)

PAIR_ROWS = [
    row("dpo()", po.dpo(beta=B), loss_type="sigmoid"),
    row("slic()", po.slic(beta=B), loss_type="hinge"),
    row("ipo()", po.ipo(beta=B), loss_type="ipo"),
    row("exo(label_smoothing=0.1)", po.exo(beta=B, label_smoothing=0.1), loss_type="exo_pair", label_smoothing=0.1),
    row("nca()", po.nca(beta=B), loss_type="nca_pair"),
    row(
        *("robust_dpo(label_smoothing=0.1)", po.robust_dpo(beta=B, label_smoothing=0.1)),
        loss_type="robust",
        label_smoothing=0.1,
    ),
    row("sppo()", po.sppo(beta=B), loss_type="sppo_hard"),
    row("aot()", po.aot(beta=B), loss_type="aot"),
    row("aot_unpaired()", po.aot_unpaired(beta=B), loss_type="aot_unpaired"),
    row("apo_zero()", po.apo_zero(beta=B), loss_type="apo_zero"),
    row("apo_down()", po.apo_down(beta=B), loss_type="apo_down"),
    row("discopop(temperature=0.5)", po.discopop(beta=B, temperature=0.5), loss_type="discopop", discopop_tau=0.5),
    row("dpo(score=mean_log_ratio)", po.dpo(beta=B, score=mean), loss_type="sigmoid_norm"),
    row("f_dpo(alpha_slope)", po.f_dpo(surrogates.alpha_slope, beta=B), f_divergence_type="forward_kl"),
    row(
        *("f_dpo(jensen_shannon_slope)", po.f_dpo(surrogates.jensen_shannon_slope, beta=B)),
        f_divergence_type="js_divergence",
    ),
    replace(
        row("f_dpo(alpha_slope, α=0.4)", po.f_dpo(alpha, beta=B), **f),
        differs="their coefficient is 1 - α; theirs raises KeyError in float64, so both are in float32 here",
        dtype=np.float32,
    ),
    row(
        *("on_chosen(negative_log_likelihood())", po.on_chosen(po.negative_log_likelihood())),
        loss_type="sft",
    ),
    row(
        *("weighted_sum of dpo and on_chosen(negative_log_likelihood())", both),
        loss_type=["sigmoid", "sft"],
        loss_weights=[0.8, 0.3],
    ),
    replace(
        row("2 × bco(), z = 0", po.dpo(), loss_type="bco_pair"),
        ours=desirable_first,
        differs="a pair is two rows, of which theirs takes the sum and `bco` the mean; theirs has no reference point",
    ),
    row(
        *("dpo(score=yours)", po.dpo(beta=B, score=shared_length(0.5))),
        "LD-DPO, which is a score of four lines here and an option there",
        ld_alpha=0.5,
    ),
    replace(
        row("dpo(), of a batch with an empty pair", po.dpo(), loss_type="sigmoid"),
        example=pairs_with_an_empty_one,
        ours=without_the_empty_pair,
        differs="a pair without a token is left out here; theirs counts it, as log 2 without a gradient",
    ),
    row(
        *("cpo(likelihood_weight=0.7)", po.cpo(beta=B, likelihood_weight=0.7)),
        of="CPOTrainer",
        loss_type="sigmoid",
        cpo_alpha=0.7,
    ),
    row(
        *("conservative_dpo(score=summed_log_prob)", po.conservative_dpo(beta=B, label_smoothing=0.1, score=alone)),
        "only the trainers without a reference still have smoothed labels",
        of="CPOTrainer",
        loss_type="sigmoid",
        cpo_alpha=0.0,
        label_smoothing=0.1,
    ),
    row("slic(score=summed_log_prob)", po.slic(beta=B, score=alone), of="CPOTrainer", loss_type="hinge", cpo_alpha=0.0),
    row(
        *("ipo(score=mean_log_prob)", po.ipo(beta=B, score=objectives.mean_log_prob)),
        of="CPOTrainer",
        loss_type="ipo",
        cpo_alpha=0.0,
    ),
    row(
        *("simpo(gamma=0.4)", po.simpo(beta=B, gamma=0.4)),
        of="CPOTrainer",
        loss_type="simpo",
        simpo_gamma=0.4,
        cpo_alpha=0.0,
    ),
    row(
        *("weighted_sum of simpo and on_chosen(negative_log_likelihood())", cpo_simpo),
        "CPO-SimPO",
        of="CPOTrainer",
        loss_type="simpo",
        simpo_gamma=0.4,
        cpo_alpha=0.7,
    ),
    row("dpo(score=summed_log_prob)", po.dpo(beta=B, score=alone), of="TPOTrainer", loss_type="sigmoid"),
    row("simpo(gamma=0.4)", po.simpo(beta=B, gamma=0.4), of="TPOTrainer", loss_type="tpo-l", tpo_l_gamma=0.4),
    replace(
        row("orpo(odds_weight=0.3)", po.orpo(odds_weight=B), of="ORPOTrainer"),
        ours=orpo_with_prompts,
        differs="theirs learns the prompt's likelihood too; the mask of ours decides, so here it is given both",
    ),
]


def labelled_row(called: str, ours: Callable[..., Any], differs: str = "nothing", **options: Any) -> Loss:
    theirs = lazily("trl_trainers", "kto", beta=B, **options)
    return Loss(called, options_told("KTOTrainer", options), ours, theirs, labelled, differs)


LABELLED_ROWS = [
    labelled_row("kto()", loss_of(po.kto(beta=B)), loss_type="kto"),
    labelled_row(
        "kto(desirable_weight=1.5, undesirable_weight=0.5)",
        loss_of(po.kto(beta=B, desirable_weight=1.5, undesirable_weight=0.5)),
        loss_type="kto",
        desirable_weight=1.5,
        undesirable_weight=0.5,
    ),
    labelled_row("kto(), z = 0", kto_from_zero, loss_type="apo_zero_unpaired"),
]
