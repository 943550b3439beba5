"""What a reward is reduced by before an estimator sees it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.masking import accumulate, check_shape, zero_where_masked
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import k1
from polopt_jax.types import Array


def reward_minus_kl(*, reward: Array, log_prob: Array, ref_log_prob: Array, mask: Array, beta: Nonnegative) -> Array:
    """Rewards per decision with the KL to the reference taken off: the penalty where it belongs to the return.

        r'_t = r_t - β (log π(a_t|s_t) - log ref(a_t|s_t))

    Its gradient: with actions of π itself, the policy gradient of the undiscounted return of r' is, in expectation,
    that of E[Σ r] - β KL(π ‖ ref) over *whole trajectories*. A decision is then also charged for the states that it
    leads to, which no penalty in the loss does. It has that gradient with k1 alone: k2 or k3 in its place do not. In
    the loss k1 has none (`sampled_kl_to_reference`).

    Args:
      reward: of each decision, `[...]`; a sequence's reward stands at its last decision.
      log_prob: of the actions, under the policy that took them, `[...]`.
      ref_log_prob: of the same actions under the reference, `[...]`.
      mask: which decisions are real, `[...]` bool; the others (a prompt's tokens) keep their reward.
      beta: weight of the KL. May be traced.

    Returns:
      `[...]`, a constant: for `gae`, `discounted_returns` or a sum over time, with `replace(rollout, reward=...)`.

    Raises:
      ValueError: shapes differ, or beta is negative or NaN (where it is concrete). TypeError: the mask is not boolean.

    Differs from the paper: nothing. Source: Ziegler et al. 2019, "Fine-tuning language models from human preferences",
    equation 2; that k1 is the one for the reward: Tang & Munos 2025.

    >>> found = reward_minus_kl(reward=jnp.array([0.0, 1.0]), log_prob=jnp.log(jnp.array([0.5, 0.5])), beta=0.5,
    ...                         ref_log_prob=jnp.log(jnp.array([0.25, 0.5])), mask=jnp.array([True, True]))
    >>> [round(float(x), 3) for x in found]
    [-0.347, 1.0]
    """
    check_range("reward_minus_kl", Nonnegative, beta=beta)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"reward_minus_kl: mask must be boolean; its dtype is {mask.dtype}")
    for name, x in {"log_prob": log_prob, "ref_log_prob": ref_log_prob, "mask": mask}.items():
        check_shape("reward_minus_kl", name, x, jnp.shape(reward), of="reward")
    spent = k1(accumulate(log_prob) - accumulate(ref_log_prob))
    return jax.lax.stop_gradient(accumulate(reward) - beta * zero_where_masked(spent, mask))
