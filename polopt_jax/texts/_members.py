"""The losses that texts are learnt with, by name: of pairs, of labelled rows, of groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from polopt_jax import advantages, objectives
from polopt_jax.fields import with_fields
from polopt_jax.ranges import check_clip_range
from polopt_jax.reading import read, read_label
from polopt_jax.reductions import sequence_mean
from polopt_jax.surrogates import ClipRange, clipped_surrogate
from polopt_jax.types import Array, Batch, Model, Params, Term, record


@with_fields
@record
class Labels:
    """What is given of labelled rows: they themselves, and the same prompts with each other's completions."""

    rows: Batch
    """`[N, T]`, with `label` and `ref_log_prob`."""
    mismatched: Batch
    """`[N, T']`, with `ref_log_prob`."""


ReferencePoint: TypeAlias = Callable[[Model, Params, Labels], Array]
"""`(model, params, labels) -> batch.reference_point` `[N]`."""


@with_fields
class Unpaired(NamedTuple):
    """A loss of labelled rows, and what their scores are measured from."""

    term: Callable[..., Term]
    reference_point: ReferencePoint


@with_fields
class Grouped(NamedTuple):
    """A loss of groups, and what makes an advantage `[N, G]` of rewards `[N, G]`."""

    term: Callable[..., Term]
    advantage: Callable[[Array], Array]


def kl_point(model: Model, params: Params, labels: Labels) -> Array:
    """KTO's reference point: the KL to the reference, of the completions at the other prompts."""
    rows = labels.mismatched
    return advantages.kl_reference_point(
        log_prob=model(params, rows.obs).policy.log_prob(rows.action),
        ref_log_prob=read("kl_point", rows, "ref_log_prob"),
        mask=rows.mask,
    )


def mean_point(model: Model, params: Params, labels: Labels) -> Array:
    """BCO's: halfway between the mean scores of the two labels."""
    rows = labels.rows
    return advantages.mean_reference_point(
        log_prob=model(params, rows.obs).policy.log_prob(rows.action),
        ref_log_prob=read("mean_point", rows, "ref_log_prob"),
        mask=rows.mask,
        label=read_label("mean_point", rows),
    )


def rloo(*, clip_eps: ClipRange = 0.2) -> Term:
    """REINFORCE Leave-One-Out: whole answers, each against the mean of the others, with the ratio of the whole clipped.

        L(θ) = -E_y[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ],    ρ = π_θ(y|x) / π_old(y|x)

    The first step on answers is the paper's, ∇ = -E[A Σ_t ∇log π]; it takes no other. Further steps on the same answers
    need the ratio, and are clipped as TRL's trainer does.

    Args:
      clip_eps: the ratio is clipped to 1 ± this; in Python also a pair (ε_low, ε_high).

    Raises ValueError if clip_eps is negative or NaN (where it is concrete), and as any term of a ratio.

    Source: Ahmadian et al. 2024, "Back to basics: revisiting REINFORCE style optimization".
    """
    check_clip_range("rloo", clip_eps=clip_eps)
    gain = partial(clipped_surrogate, clip_eps=clip_eps)
    return objectives.ratio_term(gain, ratio=objectives.trajectory_ratio, reduce=sequence_mean, caller="rloo")


PAIRED: dict[str, Callable[..., Term]] = {
    term.__name__: term
    for term in (
        objectives.dpo,
        objectives.conservative_dpo,
        objectives.robust_dpo,
        objectives.ipo,
        objectives.slic,
        objectives.nca,
        objectives.exo,
        objectives.sppo,
        objectives.apo_zero,
        objectives.apo_down,
        objectives.discopop,
        objectives.aot,
        objectives.aot_unpaired,
        objectives.simpo,
        objectives.cpo,
        objectives.orpo,
    )
}
UNPAIRED: dict[str, Unpaired] = {
    "kto": Unpaired(objectives.kto, kl_point),
    "bco": Unpaired(objectives.bco, mean_point),
}
GROUPED: dict[str, Grouped] = {
    "grpo": Grouped(objectives.grpo, advantages.group_relative),
    "dr_grpo": Grouped(objectives.dr_grpo, advantages.group_centred),
    "dapo": Grouped(objectives.dapo, advantages.group_relative),
    "gspo": Grouped(objectives.gspo, advantages.group_relative),
    "gspo_token": Grouped(objectives.gspo_token, advantages.group_relative),
    "luspo": Grouped(objectives.luspo, advantages.group_relative),
    "gmpo": Grouped(objectives.gmpo, advantages.group_relative),
    "cispo": Grouped(objectives.cispo, advantages.group_relative),
    "sapo": Grouped(objectives.sapo, advantages.group_relative),
    "dual_clip": Grouped(objectives.dual_clip, advantages.group_relative),
    "rloo": Grouped(rloo, advantages.leave_one_out),
}
