"""V-trace: values and advantages of the current policy from what an older one did."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.advantages._episodes import discounts, episode_fields
from polopt_jax.masking import check_shape
from polopt_jax.ranges import Nonnegative, Unit, check_entries
from polopt_jax.surrogates import log_ratio
from polopt_jax.types import Array, Rollout


def v_trace(
    rollout: Rollout | None = None,
    /,
    *,
    new_log_prob: Array,
    gamma: Unit = 0.99,
    lambda_: Unit = 1.0,
    rho_bar: Nonnegative = 1.0,
    c_bar: Nonnegative = 1.0,
    **arrays: Array,
) -> tuple[Array, Array]:
    """V-trace: what `gae` estimates, of a policy that is not the one that acted.

        δ_t = ρ_t (r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)),    ρ_t = min(ρ̄, π_t/μ_t),  c_t = λ min(c̄, π_t/μ_t)
        v_t = V(s_t) + δ_t + γ c_t (1 - terminated_t)(1 - truncated_t) (v_{t+1} - V(s_{t+1}))
        A_t = ρ_t (r_t + γ (1 - terminated_t) V(s'_t)
                   + γ λ (1 - terminated_t)(1 - truncated_t) (v_{t+1} - V(s_{t+1})) - V(s_t))

    ρ̄ decides which policy is valued (μ as it goes to 0, π where it is never reached), c̄ how far back a surprise is
    carried, so only the speed. The advantage has its importance weight ρ already: it belongs into `reinforce`, not
    into a term that multiplies by a ratio of its own. On-policy, with ρ̄ and c̄ of at least 1, A is the advantage of
    `gae` and v its target.

    Args:
      rollout: with `reward, value, next_value, terminated, truncated, log_prob`, each `[T, ...]`; `log_prob` is that
        of the policy μ that acted. The paper's V is the learner's of now: where the critic has moved since, give its
        values in place of those that were recorded (`dataclasses.replace`).
      new_log_prob: log π of the same actions under the current policy, `[T, ...]`, as
        `model(params, rollout.obs).policy.log_prob(rollout.action)` gives it. Log-ratios are clamped to ±20.
      gamma: discount, in [0, 1], or one for each environment, `[...]`. May be traced.
      lambda_: in [0, 1]; the paper's experiments have 1. May be traced.
      rho_bar: ρ̄, truncates the ratio that weighs errors; infinity does not. May be traced.
      c_bar: c̄, at most ρ̄, truncates the ratio that carries them back. May be traced.
      arrays: the six fields by keyword, instead of a rollout.

    Returns:
      `(advantage, target)`, each `[T, ...]`, constants: A and v.

    Raises as `gae`; ValueError also if rho_bar or c_bar is negative or NaN (where it is concrete), or new_log_prob has
    another shape than the reward.

    Differs from the paper: time limits bootstrap from the true final observation; and where λ < 1 the advantage mixes
    v_{t+1} with V(s_{t+1}) as rlax does, so that on-policy it is that of `gae` (the paper has v_{t+1} alone, which is
    the same at λ = 1).

    Source: Espeholt et al. 2018, "IMPALA", section 4.1 and remark 2.

    >>> no, zero = jnp.zeros(3, bool), jnp.zeros(3)
    >>> advantage, target = v_trace(reward=jnp.ones(3), value=zero, next_value=zero, terminated=no, truncated=no,
    ...                             log_prob=zero, new_log_prob=jnp.log(jnp.array([1.0, 0.5, 4.0])), gamma=0.5)
    >>> target.tolist(), advantage.tolist()
    ([1.375, 0.75, 1.0], [1.375, 0.75, 1.0])
    """
    check_entries("v_trace", Unit, gamma=gamma, lambda_=lambda_)
    check_entries("v_trace", Nonnegative, rho_bar=rho_bar, c_bar=c_bar)
    names = ("reward", "value", "next_value", "terminated", "truncated", "log_prob")
    reward, value, next_value, terminated, truncated, old_log_prob = episode_fields("v_trace", names, rollout, arrays)
    gamma, lambda_ = discounts("v_trace", reward, gamma=gamma, lambda_=lambda_)
    rho_bar, c_bar = discounts("v_trace", reward, rho_bar=rho_bar, c_bar=c_bar)
    new_log_prob = jnp.asarray(new_log_prob)
    check_shape("v_trace", "new_log_prob", new_log_prob, reward.shape, of="reward")
    ratio = jnp.exp(log_ratio(jax.lax.stop_gradient(new_log_prob.astype(reward.dtype)), old_log_prob))
    rho, trace = jnp.minimum(ratio, rho_bar), lambda_ * jnp.minimum(ratio, c_bar)
    surprise = reward + gamma * jnp.where(terminated, 0, next_value) - value

    def backward(following: Array, step: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        """`following` is v - V of the step after, which ends with the episode."""
        surprise, rho, trace, last = step
        following = jnp.where(last, 0, gamma * following)
        correction = rho * surprise + trace * following
        return correction, (rho * (surprise + lambda_ * following), correction)

    steps = (surprise, rho, trace, terminated | truncated)
    _, (advantage, correction) = jax.lax.scan(backward, jnp.zeros_like(reward[0]), steps, reverse=True)
    return advantage, correction + value
