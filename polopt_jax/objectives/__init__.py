"""The history of policy optimization, one private module per chapter; open them in this order.

1. `reinforce`  2. `actor_critic`  3.-4. `surrogate` (with `polopt_jax.solvers`: NPG, TRPO)  5. `ppo`  6. `dpo`
7. `grpo`, and the terms that accompany them: `value_loss`, `clipped_value_loss`, `huber_value_loss`,
`categorical_value_loss`, `entropy_bonus`. Beside the chapters stand `awr`, `mpo` and `v_mpo`, which imitate weighted
actions, `discovered_policy_optimization` and `simple_policy_optimization`, and penalties on a sampled KL.

Two seams carry the families: `ratio_term` (of which `surrogate`, `ppo` and `grpo` are members) and `preference` (of
which `dpo` is one). Every name is a function of hyperparameters that returns a *term*,
`(outputs, batch) -> (loss, metrics)`: always a loss, so that a positive weight asks for what the name says.
"""

from polopt_jax.objectives._actor_critic import actor_critic
from polopt_jax.objectives._awr import awr
from polopt_jax.objectives._beyond_the_clip import discovered_policy_optimization, simple_policy_optimization
from polopt_jax.objectives._dpo import dpo
from polopt_jax.objectives._entropy import entropy_bonus
from polopt_jax.objectives._grpo import grpo
from polopt_jax.objectives._mpo import mpo, v_mpo
from polopt_jax.objectives._ppo import ppo
from polopt_jax.objectives._preference import preference, summed_log_ratio
from polopt_jax.objectives._ratio_term import ratio_term, token_ratio
from polopt_jax.objectives._reinforce import reinforce
from polopt_jax.objectives._sampled_kl import corrected_kl_to_reference, sampled_kl_to_reference
from polopt_jax.objectives._surrogate import surrogate
from polopt_jax.objectives._value import categorical_value_loss, clipped_value_loss, huber_value_loss, value_loss

__all__ = [
    "actor_critic",
    "awr",
    "categorical_value_loss",
    "clipped_value_loss",
    "corrected_kl_to_reference",
    "discovered_policy_optimization",
    "dpo",
    "entropy_bonus",
    "grpo",
    "huber_value_loss",
    "mpo",
    "ppo",
    "preference",
    "ratio_term",
    "reinforce",
    "sampled_kl_to_reference",
    "simple_policy_optimization",
    "summed_log_ratio",
    "surrogate",
    "token_ratio",
    "v_mpo",
    "value_loss",
]
