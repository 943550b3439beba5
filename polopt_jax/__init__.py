"""polopt_jax: the history of policy optimization as pure functions of `(params, batch)` that compose.

    import polopt_jax as po

    term = po.weighted_sum(policy=(1.0, po.ppo(clip_eps=0.2)), value=(0.5, po.value_loss()))
    loss = po.objective(model, term)                       # (params, batch) -> (loss, metrics)
    step = po.make_step((loss, optax.adam(3e-4)))

Importing this module imports jax and optax. Networks (flax), Brax environments, checkpoints (orbax), plots and the
command live in modules of their own: `polopt_jax.networks`, `.envs`, `.algorithms`, `.checkpoint`, `.cli`.
"""

from polopt_jax.advantages import (
    discounted_returns,
    gae,
    group_centred,
    group_relative,
    lambda_returns,
    leave_one_out,
    n_step_returns,
    reward_minus_kl,
    v_trace,
)
from polopt_jax.combinators import (
    accumulate_gradients,
    couples_rows,
    lagrangian,
    objective,
    standardize_advantage,
    weighted_sum,
)
from polopt_jax.distributions import Categorical, DiagGaussian, TanhGaussian
from polopt_jax.divergences import (
    KLPenalty,
    action_kl,
    init_kl_penalty,
    kl_to_reference,
    reverse,
    trajectory_kl,
    update_kl_penalty,
    weighted_divergence,
)
from polopt_jax.episodes import episodes, final_step, first_episodes, per_episode, to_batch
from polopt_jax.evaluation import Episode, Evaluation, evaluate_policy, play_episode
from polopt_jax.guards import clip_by_global_norm
from polopt_jax.loading import load
from polopt_jax.masking import standardize
from polopt_jax.objectives import (
    actor_critic,
    awr,
    categorical_value_loss,
    clipped_value_loss,
    corrected_kl_to_reference,
    discovered_policy_optimization,
    dpo,
    entropy_bonus,
    grpo,
    huber_value_loss,
    mpo,
    ppo,
    preference,
    ratio_term,
    reinforce,
    sampled_kl_to_reference,
    simple_policy_optimization,
    surrogate,
    v_mpo,
    value_loss,
)
from polopt_jax.policies import Policy, greedy
from polopt_jax.reductions import constant_length, sequence_mean, sequence_sum, token_mean
from polopt_jax.rollout import start, start_from, unroll
from polopt_jax.solvers import (
    backtrack,
    conjugate_gradient,
    every,
    fisher_operator,
    natural_gradient,
    npg,
    quadratic_form,
    scale_to_radius,
    trpo,
)
from polopt_jax.surrogates import (
    expected_value,
    improved_weights,
    k1,
    k2,
    k3,
    temperature_loss,
    two_hot,
    weighted_k2,
    weighted_k3,
)
from polopt_jax.training import Step, TrainState, epochs, init_state, make_step, monitored, sequential, train
from polopt_jax.types import Batch, Distribution, Divergence, Model, Objective, Outputs, Rollout, Term

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Categorical",
    "DiagGaussian",
    "Distribution",
    "Divergence",
    "Episode",
    "Evaluation",
    "KLPenalty",
    "Model",
    "Objective",
    "Outputs",
    "Policy",
    "Rollout",
    "Step",
    "TanhGaussian",
    "Term",
    "TrainState",
    "accumulate_gradients",
    "action_kl",
    "actor_critic",
    "awr",
    "backtrack",
    "categorical_value_loss",
    "clip_by_global_norm",
    "clipped_value_loss",
    "conjugate_gradient",
    "constant_length",
    "corrected_kl_to_reference",
    "couples_rows",
    "discounted_returns",
    "discovered_policy_optimization",
    "dpo",
    "entropy_bonus",
    "episodes",
    "epochs",
    "evaluate_policy",
    "every",
    "expected_value",
    "final_step",
    "first_episodes",
    "fisher_operator",
    "gae",
    "greedy",
    "group_centred",
    "group_relative",
    "grpo",
    "huber_value_loss",
    "improved_weights",
    "init_kl_penalty",
    "init_state",
    "k1",
    "k2",
    "k3",
    "kl_to_reference",
    "lagrangian",
    "lambda_returns",
    "leave_one_out",
    "load",
    "make_step",
    "monitored",
    "mpo",
    "n_step_returns",
    "natural_gradient",
    "npg",
    "objective",
    "per_episode",
    "play_episode",
    "ppo",
    "preference",
    "quadratic_form",
    "ratio_term",
    "reinforce",
    "reverse",
    "reward_minus_kl",
    "sampled_kl_to_reference",
    "scale_to_radius",
    "sequence_mean",
    "sequence_sum",
    "sequential",
    "simple_policy_optimization",
    "standardize",
    "standardize_advantage",
    "start",
    "start_from",
    "surrogate",
    "temperature_loss",
    "to_batch",
    "token_mean",
    "train",
    "trajectory_kl",
    "trpo",
    "two_hot",
    "unroll",
    "update_kl_penalty",
    "v_mpo",
    "v_trace",
    "value_loss",
    "weighted_divergence",
    "weighted_k2",
    "weighted_k3",
    "weighted_sum",
]
