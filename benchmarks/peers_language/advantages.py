"""Rows of the table: advantages of rewards, what TRL makes of a generation before it has a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from benchmarks.peers_language.agreement import Advantage, lazily, options_told
from benchmarks.peers_language.examples import ATTEMPTS, PROMPTS, ROWS, Groups, groups_without_tools

EPS = 1e-4  # theirs, of every division
UNSCORED = "an attempt that nobody could score is 0 there and NaN here, which `to_batch` masks out"


@dataclass(frozen=True)
class Rewards:
    """K rewards of every attempt. One prompt's are all equal; one attempt misses one reward and one misses all."""

    groups: Groups
    reward: np.ndarray
    """`[ROWS, K]`."""

    @property
    def grouped(self) -> Any:
        """`[K, PROMPTS, ATTEMPTS]`, as ours are."""
        return jnp.asarray(self.reward.T.reshape(-1, PROMPTS, ATTEMPTS))

    @property
    def total(self) -> Any:
        """What both add up first; NaN where nothing was scored."""
        scored = jnp.isfinite(self.grouped)
        return jnp.where(scored.any(0), jnp.where(scored, self.grouped, 0).sum(0), jnp.nan)


def rewards(seed: int) -> Rewards:
    rng = np.random.default_rng(seed)
    reward = np.round(rng.normal(size=(ROWS, 2)), 1)
    reward[:ATTEMPTS] = reward[0]
    reward[ATTEMPTS, 0] = np.nan
    reward[-1] = np.nan
    return Rewards(groups_without_tools(seed), reward)


def row(called: str, ours: Any, differs: str = UNSCORED, *, of: str = "advantages", **options: Any) -> Advantage:
    trainer = "RLOOTrainer" if of == "rloo_advantages" else "GRPOTrainer"
    call = lazily("trl_groups", of, **options)
    return Advantage(
        called,
        options_told(trainer, {name: x for name, x in options.items() if name != "weight"}),
        lambda example: jnp.nan_to_num(ours(example)).reshape(ROWS),
        lambda example: call(example.groups, example.reward),
        rewards,
        differs,
    )


def over_the_batch(example: Rewards) -> Any:
    """Theirs centres by groups, and divides by the spread of the rewards as they came."""
    return po.group_centred(example.total) / (jnp.nanstd(example.total, ddof=1) + EPS)


def penalised(example: Rewards) -> Any:
    """Rewards less the KL of their rows, estimated by k1 on the policy before the update."""
    batch = example.groups.batch
    at_the_end = jnp.zeros(batch.mask.shape).at[..., 0].set(example.total)
    less = po.reward_minus_kl(
        reward=at_the_end, log_prob=batch.log_prob, ref_log_prob=batch.ref_log_prob, mask=batch.mask, beta=0.05
    )
    return po.leave_one_out(less.sum(-1))


weight = np.array([0.7, 1.6])

ADVANTAGE_ROWS = [
    row("group_relative(eps=1e-4)", lambda example: po.group_relative(example.total, eps=EPS), scale_rewards="group"),
    row("group_centred()", lambda example: po.group_centred(example.total), scale_rewards="none"),
    row(
        *("group_centred() / (std + 1e-4)", over_the_batch),
        "`batch_relative(group_centred())` divides by the spread of what is left when the groups' means are taken off; "
        "theirs by that of all rewards",
        scale_rewards="batch",
    ),
    row(
        "decoupled_relative(eps=1e-4)",
        lambda example: po.decoupled_relative(example.grouped, jnp.asarray(weight), eps=EPS),
        multi_objective_aggregation="normalize_then_sum",
        weight=weight,
    ),
    row("leave_one_out()", lambda example: po.leave_one_out(example.total), of="rloo_advantages", beta=0.0),
    row(
        "batch_relative(leave_one_out(), eps=1e-4)",
        lambda example: po.batch_relative(po.leave_one_out(example.total), eps=EPS),
        of="rloo_advantages",
        beta=0.0,
        normalize_advantages=True,
    ),
    row("leave_one_out(reward_minus_kl(beta=0.05))", penalised, of="rloo_advantages", beta=0.05),
]
