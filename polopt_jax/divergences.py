"""Divergences between what a model said before and after: `divergence(old, new, batch)` measures D(old ‖ new).

Argument order *is* the direction. `action_kl` is what TRPO bounds, KL(old ‖ new) over decisions; `reverse` swaps.
The Fisher operator, the line search, penalties and monitors take any divergence.

Units: `action_kl` is per decision, `trajectory_kl` per trajectory (under `token_mean`'s weights the second is E[T]
times the first).
"""

from __future__ import annotations

import jax

from polopt_jax.masking import check_shape
from polopt_jax.reading import check_policy, read_policy
from polopt_jax.reductions import sequence_sum, token_mean
from polopt_jax.types import Array, ArrayLike, Batch, Divergence, Metrics, Model, Outputs, Params, Term


def _per_decision(caller: str, old: Outputs, new: Outputs, batch: Batch) -> Array:
    old_policy = read_policy(caller, old, batch, name="old")
    kl = old_policy.kl_divergence(read_policy(caller, new, batch, name="new"))
    check_shape(caller, "the policy's kl_divergence", kl, batch.mask.shape, of="batch.mask")
    return kl


def action_kl(old: Outputs, new: Outputs, batch: Batch) -> Array:
    """Mean over real decisions of KL(π_old(·|s) ‖ π_new(·|s)), exact in the actions, in nats per decision.

    The states are those of the batch. Returns `[]`, exactly 0 where the policies are equal. Reads `mask` only.
    Raises ValueError if a policy does not fit the batch. Source: Schulman et al. 2015 (TRPO), equation 12.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool))
    >>> old = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[0.5, 0.5]] * 2))))
    >>> new = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[0.25, 0.75]] * 2))))
    >>> round(float(action_kl(old, new, batch)), 4), float(action_kl(old, old, batch))
    (0.1438, 0.0)
    """
    return token_mean(_per_decision("action_kl", old, new, batch), batch)


def trajectory_kl(old: Outputs, new: Outputs, batch: Batch) -> Array:
    """Mean over rows of Σ_t KL(π_old(·|h_t) ‖ π_new(·|h_t)), in nats per trajectory.

    When every row is a whole episode sampled from the *old* policy, this is an unbiased estimate of the KL between
    the two laws over trajectories, because the dynamics cancel. Returns `[]`. Reads `mask` only. Raises ValueError if
    a policy does not fit the batch.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2)), action=jnp.zeros((1, 2), int), mask=jnp.ones((1, 2), bool))
    >>> old = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[[0.5, 0.5]] * 2]))))
    >>> new = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[[0.25, 0.75]] * 2]))))
    >>> round(float(trajectory_kl(old, new, batch)), 4)
    0.2877
    """
    return sequence_sum(_per_decision("trajectory_kl", old, new, batch), batch)


def reverse(divergence: Divergence) -> Divergence:
    """The same divergence with its arguments swapped: D(new ‖ old).

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(1), action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> old = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[0.5, 0.5]]))))
    >>> new = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[0.25, 0.75]]))))
    >>> round(float(reverse(action_kl)(old, new, batch)), 4)
    0.1308
    """

    def reversed_divergence(old: Outputs, new: Outputs, batch: Batch) -> Array:
        return divergence(new, old, batch)

    return reversed_divergence


def weighted_divergence(**parts: tuple[ArrayLike, Divergence]) -> Divergence:
    """Σ_i w_i D_i(old ‖ new) of named pairs `name=(weight, divergence)`; itself a divergence.

    Weights may be traced. Mind the units: a fixed weight on a per-decision divergence means another thing at every
    horizon, so state sums with per-trajectory parts. Raises ValueError if there is no part.

    >>> both = weighted_divergence(trajectory=(1.0, trajectory_kl), action=(0.5, reverse(action_kl)))
    """
    if not parts:
        raise ValueError("weighted_divergence needs at least one part, name=(weight, divergence)")

    def divergence(old: Outputs, new: Outputs, batch: Batch) -> Array:
        return sum(weight * part(old, new, batch) for weight, part in parts.values())  # type: ignore[return-value]

    return divergence


def kl_to_reference(ref: Model, ref_params: Params = None, *, divergence: Divergence = reverse(action_kl)) -> Term:
    """Penalty term: the divergence of the policy from a frozen reference.

        L(θ) = E_s[ KL(π_θ(·|s) ‖ ref(·|s)) ]          (the default divergence, exact in the actions)

    `ref` is a model, evaluated on `batch.obs` as `ref(ref_params, obs)`; it gets no gradient. The default is the
    penalty of the RLHF literature; `divergence=action_kl` is the other direction, KL(ref ‖ π_θ). The states are those
    of the batch: the dependence of the state distribution on θ is not differentiated.

    Returns a term, to be added with a positive weight. Reads `obs, mask`. No metrics. Raises ValueError if a policy
    does not fit the batch.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> ref = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs))
    >>> batch = po.Batch(obs=jnp.zeros((1, 4)), action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> float(kl_to_reference(ref)(po.Outputs(policy=po.Categorical(logits=jnp.ones((1, 4)))), batch)[0])
    0.0
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        reference = jax.lax.stop_gradient(ref(ref_params, batch.obs))
        check_policy("kl_to_reference", outputs, batch)
        check_policy("kl_to_reference", reference, batch, name="ref")
        return divergence(reference, outputs, batch), {}

    return term
