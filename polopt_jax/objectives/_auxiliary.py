"""The terms that accompany a policy loss: the critic's regression and the entropy bonus."""

import jax.numpy as jnp

from polopt_jax.masking import read, read_policy, read_value, token_mean
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Reduction, Term


def value_loss(*, reduce: Reduction = token_mean) -> Term:
    """Squared error of the critic.

        L(θ) = E[ ½ (V_θ(s) - target)² ]

    Returns a term. Reads `target, mask`, each [...], and `outputs.value`. Metrics: `value_mean`. Raises ValueError
    if the model has no critic or a field is missing or has another shape.

    The ½ is part of the definition here; brax multiplies by another ½, so its coefficient means half as much.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2))
    >>> float(value_loss()(po.Outputs(policy=None, value=jnp.zeros(2)), batch)[0])
    0.5
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("value_loss", outputs, batch)
        target = read("value_loss", batch, "target")
        return reduce(0.5 * (value - target) ** 2, batch), {"value_mean": token_mean(value, batch)}

    return term


def clipped_value_loss(*, clip_eps: ArrayLike = 0.2, reduce: Reduction = token_mean) -> Term:
    """Squared error of the critic, pessimistic about moving far from the value it had.

        L(θ) = E[ ½ max( (V_θ - target)², (V_old + clip(V_θ - V_old, -ε, ε) - target)² ) ]

    `clip_eps` is in units of the return, so its meaning depends on the reward scale (unlike PPO's, a ratio). Returns
    a term. Reads `value, target, mask`, each [...], and `outputs.value`. Metrics: `value_mean, clip_fraction`.
    Raises as `value_loss`. Source: the PPO code of OpenAI baselines; the paper does not have it.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), target=jnp.ones(2),
    ...                  value=jnp.zeros(2))
    >>> round(float(clipped_value_loss(clip_eps=0.2)(po.Outputs(policy=None, value=jnp.ones(2)), batch)[0]), 3)
    0.32
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        value = read_value("clipped_value_loss", outputs, batch)
        target = read("clipped_value_loss", batch, "target")
        old = read("clipped_value_loss", batch, "value")
        clipped = old + jnp.clip(value - old, -clip_eps, clip_eps)
        worse = jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
        beyond = jnp.abs(value - old) > clip_eps
        return reduce(0.5 * worse, batch), {
            "value_mean": token_mean(value, batch),
            "clip_fraction": token_mean(beyond, batch),
        }

    return term


def entropy(*, reduce: Reduction = token_mean) -> Term:
    """Mean entropy of the policy, in nats per decision. The one term that is a quantity, not a loss: a bonus is a
    *negative* weight, `weighted_sum(policy=(1.0, ppo()), entropy=(-0.01, entropy()))`.

        H(θ) = E[ -Σ_a π_θ(a|s) log π_θ(a|s) ]

    Returns a term. Reads `mask`, [...]. No metrics. Raises ValueError if the policy does not fit the batch. The
    entropy of a Gaussian is differential and may be negative. Source: Williams & Peng 1991.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool))
    >>> round(float(entropy()(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4)))), batch)[0]), 4)
    1.3863
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        policy = read_policy("entropy", outputs, batch)
        return reduce(policy.entropy(), batch), {}

    return term
