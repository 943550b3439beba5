"""Rows of the table: terms over groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.peers_language.agreement import Loss, lazily, options_told
from benchmarks.peers_language.examples import ROWS, groups, groups_with_an_empty_row, groups_without_tools
from benchmarks.peers_language.pairs import loss_of
from polopt_jax import objectives, surrogates

EPS = (0.2, 0.3)  # the clip, of both
CLIP = dict(epsilon=0.2, epsilon_high=0.3)
clipped = partial(surrogates.clipped_surrogate, clip_eps=EPS)
by_row = dict(reduce=po.sequence_mean)


def row(called: str, ours: Callable[..., Any], differs: str = "nothing", *, of: str = "grpo", **options: Any) -> Loss:
    """A loss of (example, logits). `of` is a function of `trl_groups`; the clip of all rows is not told."""
    trainer = {"rloo": "RLOOTrainer", "gmpo": "GMPOTrainer"}.get(of, "GRPOTrainer")
    theirs = lazily("trl_groups", of, **CLIP | options)
    return Loss(called, options_told(trainer, options), ours, theirs, groups, differs)


def of_term(called: str, term: po.Term, differs: str = "nothing", **options: Any) -> Loss:
    return row(called, loss_of(term), differs, **options)


def of_sampled(term: po.Term) -> Callable[..., Any]:
    return lambda example, logits: term(example.outputs(logits), example.sampled)[0]


def cispo_with_a_constant(example: Any, logits: jax.Array) -> jax.Array:
    """Theirs multiplies log π where ours has log π/π_old, so that the values differ by what has no gradient."""
    batch, outputs = example.batch, example.outputs(logits)
    ratio = jnp.exp(outputs.policy.log_prob(batch.action) - batch.log_prob)
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, 1.2))
    return po.cispo(cap=1.2)(outputs, batch)[0] - po.token_mean(weight * batch.advantage * batch.log_prob, batch)


def halves(reduce: po.Reduction) -> Callable[..., Any]:
    """The mean over two halves of the batch, each of which divides by its own tokens."""

    def loss(example: Any, logits: jax.Array) -> jax.Array:
        term, batch, policy = po.ppo(clip_eps=EPS, reduce=reduce), example.batch, example.outputs(logits).policy
        rows = lambda x: x.reshape(ROWS, *x.shape[2:])  # noqa: E731
        flat, outputs = jax.tree.map(rows, batch), po.Outputs(policy=jax.tree.map(rows, policy))
        parts = (slice(None, ROWS // 2), slice(ROWS // 2, None))
        taken = [jax.tree.map(lambda x, part=part: x[part], (outputs, flat)) for part in parts]
        return sum(term(*one)[0] for one in taken) / 2

    return loss


def over_all_rows(example: Any, logits: jax.Array) -> jax.Array:
    """Theirs divides by all rows."""
    return loss_of(po.grpo(clip_eps=EPS, beta=0.1))(example, logits) * (ROWS - 1) / ROWS


gmpo_with_penalty = po.weighted_sum(
    policy=(1.0, po.gmpo(log_clip=EPS)),
    kl=(0.1, po.sampled_kl_to_reference(estimator=po.k3, reduce=po.sequence_mean)),
)
corrected = po.weighted_sum(
    policy=(1.0, po.ppo(clip_eps=EPS, reduce=po.sequence_mean)),
    kl=(0.1, po.corrected_kl_to_reference(reduce=po.sequence_mean)),
)
with_entropy = po.weighted_sum(policy=(1.0, po.dapo(clip_eps=EPS)), entropy=(0.05, po.entropy_bonus()))
gspo_by_tokens = objectives.ratio_term(clipped, ratio=objectives.sequence_ratio)
rloo = objectives.ratio_term(clipped, ratio=objectives.trajectory_ratio, **by_row)
whole = "rows are whole and have one advantage, where the two GSPOs are one; TRL has no token form"
penalised = dict(loss_type="grpo", beta=0.1, use_bias_correction_kl=False)
engine = dict(of="grpo_of_engine", loss_type="dapo", vllm_importance_sampling_clip_max=1.1)

GROUP_ROWS = [
    of_term("ppo(reduce=sequence_mean)", po.ppo(clip_eps=EPS, **by_row), loss_type="grpo"),
    of_term(
        *("grpo(beta=0.1)", po.grpo(clip_eps=EPS, beta=0.1)),
        "GRPO's own penalty is no longer TRL's default, which is `corrected_kl_to_reference`, below",
        **penalised,
    ),
    replace(
        of_term("grpo(beta=0.1), of a batch with an empty row", po.grpo(), **penalised),
        example=groups_with_an_empty_row,
        ours=over_all_rows,
        differs="a row without a token is not counted here; theirs divides by all rows",
    ),
    of_term("dapo()", po.dapo(clip_eps=EPS), loss_type="dapo"),
    of_term("dapo(), whole", po.dapo(clip_eps=EPS), "theirs in two micro-batches", of="grpo_in_two", loss_type="dapo"),
    of_term("ppo()", po.ppo(clip_eps=EPS), loss_type="bnpo"),
    row(
        *("ppo(), the mean of two halves", halves(po.token_mean)),
        "theirs in two micro-batches, each over its own tokens; `accumulate_gradients` divides by those of the batch",
        of="grpo_in_two",
        loss_type="bnpo",
    ),
    of_term("dr_grpo(length=20)", po.dr_grpo(length=20, clip_eps=EPS), loss_type="dr_grpo", max_completion_length=20),
    of_term("gspo()", po.gspo(clip_eps=EPS), loss_type="grpo", importance_sampling_level="sequence"),
    of_term("gspo_token()", po.gspo_token(clip_eps=EPS), whole, loss_type="grpo", importance_sampling_level="sequence"),
    of_term(
        *("ratio_term(ratio=sequence_ratio)", gspo_by_tokens),
        loss_type="dapo",
        importance_sampling_level="sequence",
    ),
    of_term("luspo()", po.luspo(clip_eps=EPS), loss_type="luspo", importance_sampling_level="sequence"),
    of_term("ppo(reduce=sequence_sum)", po.ppo(clip_eps=EPS, reduce=po.sequence_sum), loss_type="luspo"),
    of_term("gmpo(log_clip=(0.2, 0.3))", po.gmpo(log_clip=EPS), of="gmpo"),
    of_term("weighted_sum of gmpo and sampled_kl_to_reference(k3)", gmpo_with_penalty, of="gmpo", beta=0.1),
    row(
        *("cispo(cap=1.2), less a constant", cispo_with_a_constant),
        "theirs multiplies log π, ours log π/π_old: values differ by what has no gradient",
        loss_type="cispo",
        epsilon_high=1.2,
    ),
    of_term("sapo()", po.sapo(), loss_type="sapo"),
    of_term(
        *("dual_clip(cap=1.4, reduce=sequence_mean)", po.dual_clip(clip_eps=EPS, cap=1.4, **by_row)),
        loss_type="grpo",
        delta=1.4,
    ),
    of_term(
        *("weighted_sum of ppo and corrected_kl_to_reference()", corrected),
        loss_type="grpo",
        beta=0.1,
        use_bias_correction_kl=True,
    ),
    of_term(
        *("mask_off_policy(grpo(beta=0.1))", po.mask_off_policy(po.grpo(clip_eps=EPS, beta=0.1), threshold=0.1)),
        off_policy_mask_threshold=0.1,
        **penalised,
    ),
    row(
        "mask_off_policy(grpo(beta=0.1)), with sampler_log_prob",
        of_sampled(po.mask_off_policy(po.grpo(clip_eps=EPS, beta=0.1), threshold=0.1)),
        of="grpo_of_sampler",
        off_policy_mask_threshold=0.1,
        **penalised,
    ),
    of_term(
        *("mask_low_entropy(dapo(), quantile=0.7)", po.mask_low_entropy(po.dapo(clip_eps=EPS), quantile=0.7)),
        "theirs interpolates the quantile, ours takes the next decision above: the same decisions",
        loss_type="dapo",
        top_entropy_quantile=0.3,
    ),
    of_term(
        "weighted_sum of dapo and entropy_bonus()",
        with_entropy,
        loss_type="dapo",
        entropy_coef=0.05,
    ),
    row(
        "truncated_importance_sampling(dapo(), cap=1.1)",
        of_sampled(po.truncated_importance_sampling(po.dapo(clip_eps=EPS), cap=1.1)),
        **engine,
        vllm_importance_sampling_mode="token_truncate",
    ),
    row(
        "truncated_importance_sampling(ratio=trajectory_ratio)",
        of_sampled(po.truncated_importance_sampling(po.dapo(clip_eps=EPS), cap=1.1, ratio=objectives.trajectory_ratio)),
        **engine,
        vllm_importance_sampling_mode="sequence_truncate",
    ),
    replace(
        of_term("ratio_term(ratio=trajectory_ratio, reduce=sequence_mean)", rloo, of="rloo"),
        example=groups_without_tools,
    ),
]
