"""The history of policy optimization, one private module per chapter; open them in this order.

1. `reinforce`  2. `actor_critic`  3.-4. `surrogate` (with `polopt_jax.solvers`: NPG, TRPO)  5. `ppo`  6. `dpo`
7. `grpo`, and the terms that accompany them: `value_loss`, `clipped_value_loss`, `huber_value_loss`,
`categorical_value_loss`, `entropy_bonus`, `negative_log_likelihood`, `sampled_kl_to_reference`,
`corrected_kl_to_reference`. Beside the chapters stand `awr`, `mpo` and `v_mpo`, which imitate weighted actions, and
`discovered_policy_optimization` and `simple_policy_optimization`, which go on where PPO clips.

Three seams carry the families, and the members have a module each, by the name of the paper:

* `ratio_term`, a gain of a log-ratio and an advantage: `surrogate`, `ppo`, `grpo` and theirs.
* `preference`, a score of a row and a link of a pair of scores: `dpo`, `conservative_dpo`, `robust_dpo`, `ipo`, `slic`,
  `f_dpo`, `nca`, `exo`, `sppo`, `apo_zero`, `apo_down`, `discopop`; without a reference `simpo`, `cpo`, `orpo`; of
  sorted scores `aot`, `aot_unpaired`. `reward_model_loss` has its pairs and its link, and a score that a model gives.
* `unpaired_preference`, the same of single rows that have a label: `kto`, `bco`.

The family of the seventh chapter, where a name is an advantage, a ratio, a gain and a reduction:

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

Every name of a term is a function of hyperparameters that returns a *term*, `(outputs, batch) -> (loss, metrics)`:
always a loss, so that a positive weight asks for what the name says.
"""

from polopt_jax.objectives._actor_critic import actor_critic
from polopt_jax.objectives._aot import aot, aot_unpaired
from polopt_jax.objectives._apo import apo_down, apo_zero
from polopt_jax.objectives._awr import awr
from polopt_jax.objectives._bco import bco
from polopt_jax.objectives._beyond_the_clip import discovered_policy_optimization, simple_policy_optimization
from polopt_jax.objectives._cispo import cispo
from polopt_jax.objectives._cpo import cpo
from polopt_jax.objectives._dapo import dapo
from polopt_jax.objectives._discopop import discopop
from polopt_jax.objectives._dpo import conservative_dpo, dpo, robust_dpo
from polopt_jax.objectives._dr_grpo import dr_grpo
from polopt_jax.objectives._dual_clip import dual_clip
from polopt_jax.objectives._entropy import entropy_bonus
from polopt_jax.objectives._exo import exo
from polopt_jax.objectives._f_dpo import f_dpo
from polopt_jax.objectives._gmpo import gmpo
from polopt_jax.objectives._grpo import grpo
from polopt_jax.objectives._gspo import gspo, gspo_token, luspo
from polopt_jax.objectives._ipo import ipo
from polopt_jax.objectives._kto import kto
from polopt_jax.objectives._likelihood import negative_log_likelihood
from polopt_jax.objectives._mpo import mpo, v_mpo
from polopt_jax.objectives._nca import nca
from polopt_jax.objectives._orpo import orpo
from polopt_jax.objectives._ppo import ppo
from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._ratio_term import (
    ratio_term,
    sequence_ratio,
    sequence_token_ratio,
    token_ratio,
    trajectory_ratio,
)
from polopt_jax.objectives._reinforce import reinforce
from polopt_jax.objectives._reward_model import reward_model_loss
from polopt_jax.objectives._sampled_kl import corrected_kl_to_reference, sampled_kl_to_reference
from polopt_jax.objectives._sapo import sapo
from polopt_jax.objectives._scores import mean_log_prob, mean_log_ratio, summed_log_prob, summed_log_ratio
from polopt_jax.objectives._simpo import simpo
from polopt_jax.objectives._slic import slic
from polopt_jax.objectives._sppo import sppo
from polopt_jax.objectives._surrogate import surrogate
from polopt_jax.objectives._unpaired import unpaired_preference
from polopt_jax.objectives._value import categorical_value_loss, clipped_value_loss, huber_value_loss, value_loss

__all__ = [
    "actor_critic",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "awr",
    "bco",
    "categorical_value_loss",
    "cispo",
    "clipped_value_loss",
    "conservative_dpo",
    "corrected_kl_to_reference",
    "cpo",
    "dapo",
    "discopop",
    "discovered_policy_optimization",
    "dpo",
    "dr_grpo",
    "dual_clip",
    "entropy_bonus",
    "exo",
    "f_dpo",
    "gmpo",
    "grpo",
    "gspo",
    "gspo_token",
    "huber_value_loss",
    "ipo",
    "kto",
    "luspo",
    "mean_log_prob",
    "mean_log_ratio",
    "mpo",
    "nca",
    "negative_log_likelihood",
    "orpo",
    "ppo",
    "preference",
    "ratio_term",
    "reinforce",
    "reward_model_loss",
    "robust_dpo",
    "sampled_kl_to_reference",
    "sapo",
    "sequence_ratio",
    "sequence_token_ratio",
    "simple_policy_optimization",
    "simpo",
    "slic",
    "sppo",
    "summed_log_prob",
    "summed_log_ratio",
    "surrogate",
    "token_ratio",
    "trajectory_ratio",
    "unpaired_preference",
    "v_mpo",
    "value_loss",
]
