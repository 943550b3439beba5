"""The model of a language model that lives elsewhere, of which no more is known than what it said of each token."""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.distributions import Categorical
from polopt_jax.masking import accumulate
from polopt_jax.types import Array, Obs, Outputs

LARGEST = -1e-6
"""The largest log-probability; what is rounded to certainty would make every divergence from it infinite."""


def recorded(log_prob: Array, obs: Obs) -> Outputs:
    """A model whose parameters are recorded log-probabilities: at each decision, this token or any other one.

        π(0) = p,    π(1) = 1 - p,    log p = min(log_prob, -1e-6)

    Action 0 is the token that was said, so that `batch.action` is zeros. Whatever needs only the ratio of what was said
    (outcomes, `rows_kl`) is as with the whole model; divergences over actions are at most what those over the whole
    vocabulary would be.

    Args:
      log_prob: of the tokens that were said, `[..., T]`. One above 0 by more than 1e-3 is none, and its decision NaN.
      obs: not read.

    Returns:
      `Outputs` of leading shape `[..., T]`, without a value.

    >>> said = recorded(jnp.log(jnp.array([0.9, 0.2])), None)
    >>> [round(float(p), 3) for p in jnp.exp(said.policy.log_prob(jnp.array([0, 1])))]
    [0.9, 0.8]
    """
    del obs
    log_prob = accumulate(log_prob)
    is_one = log_prob <= 1e-3
    this = jnp.minimum(jnp.where(is_one, log_prob, -1), LARGEST)
    logits = jnp.stack([this, jnp.log(-jnp.expm1(this))], axis=-1)
    return Outputs(policy=Categorical(logits=jnp.where(is_one[..., None], logits, jnp.nan)))
