"""Chapter 2: Actor-Critic. A learned value takes the place of the sampled return."""

from __future__ import annotations

from polopt_jax.combinators import weighted_sum
from polopt_jax.objectives._entropy import entropy_bonus
from polopt_jax.objectives._reinforce import reinforce
from polopt_jax.objectives._value import value_loss
from polopt_jax.reductions import token_mean
from polopt_jax.types import ArrayLike, Reduction, Term


def actor_critic(
    *, value_weight: ArrayLike = 0.5, entropy_weight: ArrayLike = 0.01, reduce: Reduction = token_mean
) -> Term:
    """Advantage actor-critic (A2C): policy gradient, critic regression and entropy bonus in one loss.

        L(θ) = -E[ log π_θ(a|s) A ] + c_v E[ ½ (V_θ(s) - target)² ] - c_e E[ H(π_θ(·|s)) ]

    It *is* `weighted_sum(policy=(1, reinforce()), value=(c_v, value_loss()), entropy=(c_e, entropy_bonus()))`: what
    makes it actor-critic is that the advantage was estimated with the critic (`gae`, which also gives the target).

    Returns a term. Reads `action, advantage, target, mask`, each [...], and `outputs.value`. Metrics: those of the
    three terms, under `policy/`, `value/` and `entropy/`. Raises as they do.

    Differs from the paper: A3C's asynchrony is gone; advantages are usually GAE rather than n-step.
    Source: Mnih et al. 2016 (A3C; its entropy weight is the default here); Konda & Tsitsiklis 2000.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool),
    ...                  advantage=jnp.zeros(2), target=jnp.ones(2))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))), value=jnp.zeros(2))
    >>> float(actor_critic(value_weight=1.0, entropy_weight=0.0)(outputs, batch)[0])
    0.5
    """
    return weighted_sum(
        policy=(1.0, reinforce(reduce=reduce)),
        value=(value_weight, value_loss(reduce=reduce)),
        entropy=(entropy_weight, entropy_bonus(reduce=reduce)),
    )
