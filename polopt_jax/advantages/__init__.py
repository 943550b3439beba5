"""What the objectives are told that a decision was worth: over time, over a group, and REINFORCE's baselines.

None has a gradient: estimates are data, and everything returned is constant with respect to the inputs.
"""

from polopt_jax.advantages._baselines import (
    Baseline,
    batch_mean_baseline,
    learned_baseline,
    running_mean_baseline,
    static_baseline,
)
from polopt_jax.advantages._episodes import discounted_returns, gae, lambda_returns, n_step_returns
from polopt_jax.advantages._explained_variance import explained_variance
from polopt_jax.advantages._groups import (
    batch_relative,
    decoupled_relative,
    greedy_centred,
    group_centred,
    group_relative,
    leave_one_out,
)
from polopt_jax.advantages._reference_points import kl_reference_point, mean_reference_point
from polopt_jax.advantages._rewards import modelled_reward, overlong_penalty, reward_minus_kl
from polopt_jax.advantages._v_trace import v_trace

__all__ = [
    "Baseline",
    "batch_mean_baseline",
    "batch_relative",
    "decoupled_relative",
    "discounted_returns",
    "explained_variance",
    "gae",
    "greedy_centred",
    "group_centred",
    "group_relative",
    "kl_reference_point",
    "lambda_returns",
    "learned_baseline",
    "leave_one_out",
    "mean_reference_point",
    "modelled_reward",
    "n_step_returns",
    "overlong_penalty",
    "reward_minus_kl",
    "running_mean_baseline",
    "static_baseline",
    "v_trace",
]
