"""Rewards, before an estimator sees them: what a reward model gives, and what is taken off."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.masking import accumulate, check_shape, masked_last, zero_where_masked
from polopt_jax.ranges import Count, Nonnegative, check_range
from polopt_jax.surrogates import k1
from polopt_jax.types import Array, Outputs


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
        check_shape("reward_minus_kl", name, x, np.shape(reward), of="reward")
    spent = k1(accumulate(log_prob) - accumulate(ref_log_prob))
    return jax.lax.stop_gradient(accumulate(reward) - beta * zero_where_masked(spent, mask))


def overlong_penalty(mask: Array, *, max_length: int, margin: int) -> Array:
    """What is taken off the reward of an answer that comes near the longest allowed, or reaches it.

        0                                      |y| <= L - m
        -(|y| - (L - m)) / m                   beyond, down to -1 at |y| = L, and below it no further

    To be added to the reward before an estimator sees it: the answer that is cut off is told so by degrees, where a
    bare 0 for it would punish a sound chain of thought for its length alone.

        advantage = po.group_relative(reward + po.overlong_penalty(mask, max_length=1024, margin=256))

    Args:
      mask: which tokens are the answer's own, `[..., T]` bool; |y| is their number.
      max_length: L, the longest answer that is sampled.
      margin: m, over how many tokens before that the penalty grows; up to `max_length`.

    Returns:
      `[...]`, from -1 to 0, a constant: a group batch `[N, G, T]` gives `[N, G]`.

    Raises:
      ValueError: a length is not a whole number above 0, the margin is above `max_length`, or there is no axis of time.
      TypeError: the mask is not boolean.

    Differs from the paper: nothing (there L is 20,480 and m 4,096). Source: Yu et al. 2025, "DAPO", equation 13.

    >>> overlong_penalty(jnp.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool), max_length=4, margin=2).tolist()
    [0.0, -0.5, -1.0]
    """
    check_range("overlong_penalty", Count, max_length=max_length, margin=margin)
    if margin > max_length:
        raise ValueError(f"overlong_penalty: margin must be at most max_length={max_length}; it is {margin}")
    _check_mask("overlong_penalty", mask)
    room = (max_length - mask.sum(-1)) / margin
    return jnp.clip(room - 1, -1, 0).astype(jnp.float32)


def _check_mask(caller: str, mask: Array) -> None:
    """Raises TypeError or ValueError unless a mask is `[..., T]` bool."""
    if mask.dtype != jnp.bool_:
        raise TypeError(f"{caller}: mask must be boolean; its dtype is {mask.dtype}")
    if mask.ndim < 1:
        raise ValueError(f"{caller}: mask must have at least a time axis [T]; it is a scalar")


def modelled_reward(outputs: Outputs, mask: Array) -> Array:
    """What a reward model, learnt by `reward_model_loss`, gives each row: its value at the last real decision.

    For every estimator over groups: `po.group_relative(po.modelled_reward(reward_model(params, obs), mask))`.

    Args:
      outputs: what the reward model says of the rows; its `value` `[..., T]` is read, its policy is not.
      mask: which decisions are real, `[..., T]` bool.

    Returns:
      `[...]`, a constant: a group batch `[N, G, T]` gives `[N, G]`. NaN for a row without a real decision, which nobody
      can score: the estimators leave it out of its group.

    Raises:
      ValueError: the model has no value, or one of another shape than the mask, or there is no axis of time. TypeError:
      the mask is not boolean.

    Read at the same decision as `reward_model_loss` reads it, which says of what a row that was cut short is judged.

    >>> import polopt_jax as po
    >>> outputs = po.Outputs(policy=None, value=jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    >>> modelled_reward(outputs, jnp.array([[1, 1], [1, 0], [0, 0]], bool)).tolist()
    [2.0, 3.0, nan]
    """
    _check_mask("modelled_reward", mask)
    if outputs.value is None:
        raise ValueError("modelled_reward needs outputs.value, which is None: the model has no critic")
    check_shape("modelled_reward", "outputs.value", outputs.value, mask.shape, of="mask")
    reward = jnp.where(mask.any(-1), masked_last(outputs.value, mask), jnp.nan)
    return jax.lax.stop_gradient(reward)
