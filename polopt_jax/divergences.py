"""Divergences between what a model said before and after: `divergence(old, new, batch)` measures D(old ‖ new).

Argument order *is* the direction. `action_kl` is what TRPO bounds, KL(old ‖ new) over decisions; `reverse` swaps.
The Fisher operator, the line search, penalties and monitors take any divergence.

Units: `action_kl` is per decision, `trajectory_kl` per trajectory (under `token_mean`'s weights the second is E[T]
times the first).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_outputs, check_scalar, check_takes, described
from polopt_jax.fields import with_fields
from polopt_jax.masking import check_shape
from polopt_jax.ranges import AtLeastOne, Positive, check_range
from polopt_jax.reading import check_policy, read_policy
from polopt_jax.reductions import sequence_sum, token_mean
from polopt_jax.types import Array, ArrayLike, Batch, Divergence, Metrics, Model, Outputs, Params, Term, record


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

    check_takes("kl_to_reference", "ref", ref, "params", "obs")
    check_takes("kl_to_reference", "divergence", divergence, "old", "new", "batch")

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        reference = check_outputs("kl_to_reference", jax.lax.stop_gradient(ref(ref_params, batch.obs)))
        check_policy("kl_to_reference", outputs, batch)
        check_policy("kl_to_reference", reference, batch, name="ref")
        return divergence(reference, outputs, batch), {}

    return term


BETA_RANGE = (1e-10, 1e10)
"""Between which an adaptive β stays, so that it always finds its way back."""


@with_fields
@record
class KLPenalty:
    """What is remembered from update to update of a penalty that holds a divergence near a target."""

    beta: Array
    """The weight of the penalty in the next update, `[]`."""


def init_kl_penalty(*, beta: Positive = 1.0) -> KLPenalty:
    """A penalty to begin with; it finds its weight within a few updates. The default is the paper's.

    Raises ValueError if beta is not above 0 (where it is concrete).

    >>> float(init_kl_penalty().beta)
    1.0
    """
    check_range("init_kl_penalty", Positive, beta=beta)
    return KLPenalty(beta=jnp.asarray(beta, float))


def update_kl_penalty(
    penalty: KLPenalty, kl: Array, *, target: Positive, band: AtLeastOne = 1.5, factor: AtLeastOne = 2.0
) -> KLPenalty:
    """The penalty after an update that moved the policy by `kl`: PPO's adaptive coefficient.

        β ← β · factor where kl > band · target,   β / factor where kl < target / band,   β otherwise

    PPO with a KL penalty is three things: `surrogate` in a sum with the penalty KL(old ‖ new), weighed by β; the KL
    that the update made, all epochs together; and this, which moves β before the next.

        term = po.weighted_sum(
            policy=(1.0, po.surrogate()),
            kl=(penalty.beta, po.kl_to_reference(model, old_params, divergence=po.action_kl)),
        )
        new_params = ...                                     # some epochs of gradient steps on term
        kl = po.action_kl(model(old_params, batch.obs), model(new_params, batch.obs), batch)
        penalty = po.update_kl_penalty(penalty, kl, target=0.01)

    While steps are small the KL goes as 1/β², so a factor of 2 can step over a band of 1.5 on either side of the
    target: β then alternates between two values, and the KL between less than 3 times and more than a third of the
    target. A factor of at most the band settles.

    Args:
      penalty: from `init_kl_penalty`, or the last update.
      kl: the divergence that the penalty weighed, as it is after the update, `[]`.
      target: where it is to be, in the divergence's units. The paper tries 0.003, 0.01 and 0.03. May be traced.
      band: how many times more, or less, is near enough; at least 1. May be traced.
      factor: what β is multiplied or divided by, at least 1. May be traced.

    Returns:
      The penalty for the next update. Where kl is NaN it stays as it was.

    Raises:
      ValueError: target is not above 0, or band or factor below 1 (where it is concrete); kl is no scalar. TypeError:
        penalty is no `KLPenalty`.

    Differs from the paper: β stays between 1e-10 and 1e10. Source: Schulman et al. 2017, "Proximal policy optimization
    algorithms", section 4.

    >>> float(update_kl_penalty(init_kl_penalty(beta=1.0), jnp.array(0.05), target=0.01).beta)
    2.0
    """
    check_range("update_kl_penalty", Positive, target=target)
    check_range("update_kl_penalty", AtLeastOne, band=band, factor=factor)
    if not isinstance(penalty, KLPenalty):
        raise TypeError(f"update_kl_penalty: penalty must be what init_kl_penalty gives; it is {described(penalty)}")
    kl = check_scalar("update_kl_penalty: kl", jnp.asarray(kl))
    up, down = jnp.where(kl > band * target, factor, 1.0), jnp.where(kl < target / band, factor, 1.0)
    beta = jnp.clip(penalty.beta * (up / down).astype(penalty.beta.dtype), *BETA_RANGE)
    return KLPenalty(beta=jax.lax.stop_gradient(beta))
