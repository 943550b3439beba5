"""The history of policy optimization, one private module per chapter; open them in this order.

1. `reinforce`  2. `actor_critic`  3.-4. `surrogate` (with `polopt_jax.solvers`: NPG, TRPO)  5. `ppo`  6. `dpo`
7. `grpo`, and the terms that accompany them: `value_loss`, `clipped_value_loss`, `entropy`.

Every name is a function of hyperparameters that returns a *term*, `(outputs, batch) -> (loss, metrics)`.
"""

from polopt_jax.objectives._actor_critic import actor_critic
from polopt_jax.objectives._auxiliary import clipped_value_loss, entropy, value_loss
from polopt_jax.objectives._dpo import dpo
from polopt_jax.objectives._grpo import grpo
from polopt_jax.objectives._ppo import ppo
from polopt_jax.objectives._reinforce import reinforce
from polopt_jax.objectives._surrogate import surrogate

__all__ = [
    "actor_critic",
    "clipped_value_loss",
    "dpo",
    "entropy",
    "grpo",
    "ppo",
    "reinforce",
    "surrogate",
    "value_loss",
]
