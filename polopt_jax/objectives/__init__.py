"""The history of policy optimization, one private module per chapter; open them in this order.

1. `reinforce`  2. `actor_critic`  3.-4. `surrogate` (with `polopt_jax.solvers`: NPG, TRPO)  5. `ppo`  6. `dpo`
7. `grpo`, and the terms that accompany them: `value_loss`, `clipped_value_loss`, `entropy_bonus`.

Two seams carry the families: `ratio_term` (of which `surrogate`, `ppo` and `grpo` are members) and `preference` (of
which `dpo` is one). The family of the seventh chapter, where a name is an advantage, a ratio, a gain and a reduction:

| name | term | advantage |
|---|---|---|
| GRPO | `grpo`; without a reference `ppo(reduce=sequence_mean)` | `group_relative` |
| Dr. GRPO | `dr_grpo(length=L)` | `group_centred` |
| DAPO | `dapo` | `group_relative` |
| GSPO, GSPO-token, LUSPO | `gspo`, `gspo_token`, `luspo` | `group_relative` |
| GMPO | `gmpo` | `group_relative` |
| CISPO | `cispo` | `group_relative` |
| SAPO | `sapo` | `group_relative` |
| dual clip, two-sided clip | `dual_clip` | any |
| RLOO | `reinforce(reduce=sequence_sum)` | `leave_one_out` |
| ReMax | `reinforce(reduce=sequence_sum)` | `greedy_centred` |
| REINFORCE++ | `ppo` | `batch_relative` |
| REINFORCE++ with baseline | `ppo` | `batch_relative` of `group_centred` |
| GDPO | `grpo` | `decoupled_relative` |
| what TRL calls BNPO | `ppo` (over the whole batch, not a local part) | `group_relative` |

 Every name of a term is a function of hyperparameters that returns a *term*,
`(outputs, batch) -> (loss, metrics)`: always a loss, so that a positive weight asks for what the name says.
"""

from polopt_jax.objectives._actor_critic import actor_critic
from polopt_jax.objectives._cispo import cispo
from polopt_jax.objectives._dapo import dapo
from polopt_jax.objectives._dpo import dpo
from polopt_jax.objectives._dr_grpo import dr_grpo
from polopt_jax.objectives._dual_clip import dual_clip
from polopt_jax.objectives._entropy import entropy_bonus
from polopt_jax.objectives._gmpo import gmpo
from polopt_jax.objectives._grpo import grpo
from polopt_jax.objectives._gspo import gspo, gspo_token, luspo
from polopt_jax.objectives._ppo import ppo
from polopt_jax.objectives._preference import preference, summed_log_ratio
from polopt_jax.objectives._ratio_term import (
    ratio_term,
    sequence_ratio,
    sequence_token_ratio,
    token_ratio,
    trajectory_ratio,
)
from polopt_jax.objectives._reinforce import reinforce
from polopt_jax.objectives._sapo import sapo
from polopt_jax.objectives._surrogate import surrogate
from polopt_jax.objectives._value import clipped_value_loss, value_loss

__all__ = [
    "actor_critic",
    "cispo",
    "clipped_value_loss",
    "dapo",
    "dpo",
    "dr_grpo",
    "dual_clip",
    "entropy_bonus",
    "gmpo",
    "grpo",
    "gspo",
    "gspo_token",
    "luspo",
    "ppo",
    "preference",
    "ratio_term",
    "reinforce",
    "sapo",
    "sequence_ratio",
    "sequence_token_ratio",
    "summed_log_ratio",
    "surrogate",
    "token_ratio",
    "trajectory_ratio",
    "value_loss",
]
