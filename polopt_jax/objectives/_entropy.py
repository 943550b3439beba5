"""The entropy bonus, which accompanies a policy loss."""

from __future__ import annotations

from polopt_jax.reading import read_policy
from polopt_jax.reductions import token_mean
from polopt_jax.types import Array, Batch, Metrics, Outputs, Reduction, Term


def entropy_bonus(*, reduce: Reduction = token_mean) -> Term:
    """Minus the entropy of the policy: a loss like every other term, so that a *positive* weight encourages entropy.

        L(θ) = -E[ H(π_θ(·|s)) ],    H = -Σ_a π_θ(a|s) log π_θ(a|s)

    Args:
      reduce: how decisions become one number.

    Returns:
      A term. Reads `mask`, [...]. Metrics: `entropy`, the mean H in nats per decision. The entropy of a Gaussian is
      differential and may be negative.

    Raises (at trace time): ValueError if the policy does not fit the batch.

    Source: Williams & Peng 1991.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> round(float(entropy_bonus()(outputs, batch)[0]), 4)
    -1.3863
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        entropy = read_policy("entropy_bonus", outputs, batch).entropy()
        return -reduce(entropy, batch), {"entropy": token_mean(entropy, batch)}

    return term
