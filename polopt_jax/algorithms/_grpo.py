"""Group relative policy optimization."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import optax

from polopt_jax import objectives
from polopt_jax.advantages import group_relative
from polopt_jax.algorithms._algorithm import Algorithm, Estimate, Terms, adam, assemble, estimated, with_terms
from polopt_jax.combinators import objective
from polopt_jax.episodes import to_batch
from polopt_jax.minibatches import epochs
from polopt_jax.ranges import Count, Nonnegative, Positive, Rate, check_annotated
from polopt_jax.steps import make_step
from polopt_jax.tasks import GroupTask
from polopt_jax.tasks._groups import check_group
from polopt_jax.types import Batch, Rollout


def grpo(
    group: GroupTask,
    *,
    learning_rate: Rate = 1e-3,
    clip_eps: Positive = 0.2,
    beta: Nonnegative = 0.04,
    num_epochs: Count = 2,
    num_minibatches: Count = 4,
    max_grad_norm: Positive = 1.0,
    terms: Terms | None = None,
    optimizer: optax.GradientTransformation | None = None,
    estimate: Estimate | None = None,
) -> Algorithm:
    """Group relative policy optimization: no critic; the advantage is the standardised reward within the group.

    The penalty's reference is the task's. Groups stay whole in a minibatch. An attempt that nobody could score is left
    out of its group and masked out.

    The penalty is k3 as a loss, whose gradient is that of KL(reference ‖ policy): it does not fade as a token becomes
    certain, and was seen to take back answers that need several rare tokens (`docs/findings-sampled.md`). The other
    direction: `beta=0.0, terms={"kl": (0.04, po.kl_to_reference(group.task.model, group.reference))}`.

    Args:
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      clip_eps: the ratio is clipped to 1 ± this; in Python also a pair (ε_low, ε_high).
      beta: weight of the KL to the reference.
      num_epochs: passes over each batch.
      num_minibatches: minibatches of each pass, each of whole groups.
      max_grad_norm: norm to which the gradient is clipped.
      terms: further terms of the loss, by name with their weights, as `weighted_sum` takes them.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.
      estimate: `rollout -> batch`, in place of the reward standardised within its group; the reference's
        log-probabilities are put into what it returns.

    Raises ValueError if a group is a single attempt.

    Differs from the paper: nothing but the sizes. Source: Shao et al. 2024.
    """
    check_annotated(grpo, locals())
    check_group("grpo", group)
    task = group.task
    if task.row_shape[-1] < 2:
        raise ValueError(
            f"grpo: the attempts of a group are compared, so group_size must be at least 2; it is {task.row_shape[-1]}"
        )
    term = with_terms(objectives.grpo(clip_eps=clip_eps, beta=beta), terms)
    optimizer = optimizer or adam(learning_rate, max_grad_norm, steps_per_update=num_epochs * num_minibatches)
    step = make_step((objective(task.model, term), optimizer))

    def beside_reference(rollout: Rollout) -> Batch:
        batch = estimated(estimate or _group_relative, rollout)
        return replace(batch, ref_log_prob=task.model(group.reference, batch.obs).policy.log_prob(batch.action))

    return assemble(task, epochs(step, num_epochs, num_minibatches), beside_reference, gamma=1.0)


def _group_relative(rollout: Rollout) -> Batch:
    advantage = jnp.broadcast_to(group_relative(rollout.reward.sum(0)), rollout.reward.shape)
    return to_batch(rollout, advantage=advantage)
