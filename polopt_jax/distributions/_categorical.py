"""`Categorical`: one of A actions, with illegal ones."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp

from polopt_jax.distributions._kinds import check_kind
from polopt_jax.masking import accumulate, check_shape
from polopt_jax.types import Array, record


def _check_same_shape(name: str, x: Array, other_name: str, other: Array) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{name} must have the shape of {other_name}, {other.shape}; it has {x.shape}")


@record
class Categorical:
    """Distribution over `A` actions: π(a) = exp(l_a) / Σ_b exp(l_b), with action ids `[...]` in 0 .. A-1.

    A logit of -inf is an action of probability exactly 0 (see `only`); it adds nothing to entropy or KL, and no
    gradient reaches it. Where *all* actions are illegal, every log-probability is -inf and entropy and KL are 0.
    An id outside 0 .. A-1 has log-probability NaN (JAX's own indexing would silently read another action).
    A logit of NaN makes log-probability, entropy and KL of its decision NaN.

    >>> policy = Categorical(logits=jnp.zeros((3, 4)))
    >>> policy.batch_shape, float(policy.log_prob(jnp.array([0, 1, 3]))[0])
    ((3,), -1.3862943649291992)
    """

    logits: Array
    """Unnormalised log-probabilities, `[..., A]`."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    def _shifted(self) -> tuple[Array, Array]:
        """Logits `[..., A]` minus their maximum (0 where all are illegal), and whether any action is legal `[..., 1]`.

        Shifted *before* the log-sum-exp, so that a constant added to the logits costs no precision.
        """
        logits = accumulate(self.logits)
        largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        some = largest != -jnp.inf
        return jnp.where(some, logits - jnp.where(some, largest, 0), 0), some

    def _normalised(self) -> Array:
        """Log-probabilities `[..., A]`; -inf at illegal actions, without a NaN in value or gradient."""
        shifted, some = self._shifted()
        legal = some & (shifted != -jnp.inf)
        return jnp.where(legal, shifted - jax.nn.logsumexp(shifted, axis=-1, keepdims=True), -jnp.inf)

    def log_prob(self, action: Array) -> Array:
        """log π(action) `[...]` for integer ids `[...]`.

        Raises `ValueError` if `action` is not of the batch shape, `TypeError` if it is not an integer array.
        """
        return self.masked_log_prob(action, jnp.ones(self.batch_shape, bool))

    def masked_log_prob(self, action: Array, mask: Array) -> Array:
        """`log_prob` where `mask` `[...]` is True and 0 elsewhere, whatever logits and action are there.

        The value and the gradient of `where(mask).log_prob(action)` under that mask, with less to store and to write:
        one logit is gathered from those that came, and the maximum taken off it afterwards, so that neither masked nor
        shifted logits are kept for the gradient. Raises as `log_prob`.
        """
        if action.shape != self.batch_shape:
            raise ValueError(f"action must have the policy's batch shape {self.batch_shape}; it has {action.shape}")
        if not jnp.issubdtype(action.dtype, jnp.integer):
            raise TypeError(f"action must be integer ids for a Categorical policy; its dtype is {action.dtype}")
        check_shape("masked_log_prob", "mask", mask, self.batch_shape, of="the policy")
        in_range = (action >= 0) & (action < self.logits.shape[-1])
        index = jnp.where(in_range, action, 0)[..., None]
        logits = accumulate(self.logits)
        largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        keep = mask[..., None] & (largest != -jnp.inf)
        total = jnp.sum(jnp.exp(jnp.where(keep, logits - largest, 0)), axis=-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, index, axis=-1) - largest
        log_prob = jnp.where(keep, chosen - jnp.log(total), -jnp.inf)[..., 0]
        return jnp.where(mask, jnp.where(in_range, log_prob, jnp.nan), 0)

    def entropy(self) -> Array:
        """-Σ_a π(a) log π(a) `[...]`, in nats."""
        log_p = self._normalised()
        safe = jnp.where(log_p != -jnp.inf, log_p, 0)
        return -jnp.sum(jnp.exp(log_p) * safe, axis=-1)

    def sample(self, *, seed: Array) -> Array:
        """One int32 id per decision, `[...]`."""
        return jax.random.categorical(seed, accumulate(self.logits), axis=-1).astype(jnp.int32)

    def mode(self) -> Array:
        """The most probable id (the lowest of equals), `[...]` int32."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def squash(self, action: Array) -> Array:
        """The identity."""
        return action

    def kl_divergence(self, other: Categorical) -> Array:
        """KL(self ‖ other) = Σ_a p log(p/q) `[...]`; +inf where self has an action that other has not.

        Summed as Σ p d + q - p with d = log(p/q): the added terms sum to 0 and make every summand >= 0. For small d
        a summand is p (e^{-d} - 1 + d), which keeps its digits where p and q are nearly equal.
        """
        if inspect.getattr_static(other, "logits", None) is None:  # they may be computed, and then only once
            check_kind(other, Categorical)
        others = other.logits
        _check_same_shape("other.logits", others, "self.logits", self.logits)
        log_p, log_q = self._normalised(), Categorical(logits=others)._normalised()
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        d = jnp.where(p > 0, log_p, 0) - jnp.where(p > 0, log_q, 0)
        near = (p > 0) & (jnp.abs(d) < 1)
        small, large = jnp.where(near, d, 0), jnp.where(near, 0, d)
        total = jnp.sum(jnp.where(near, p * (jnp.expm1(-small) + small), p * large + (q - p)), axis=-1)
        return jnp.where((log_p != -jnp.inf).any(-1), total, 0)

    def where(self, mask: Array) -> Categorical:
        """Logits of 0 (uniform) where `mask` `[...]` is False, whatever they held there."""
        check_shape("where", "mask", mask, self.batch_shape, of="the policy")
        return Categorical(logits=jnp.where(mask[..., None], self.logits, jnp.zeros_like(self.logits)))

    def only(self, legal: Array) -> Categorical:
        """The same policy restricted to the legal actions (`legal` `[..., A]` bool): the others get probability 0.

        Raises ValueError if the shape is another, TypeError if `legal` is not boolean: what is added to logits has its
        zeros where actions are legal.

        >>> policy = Categorical(logits=jnp.zeros(3)).only(jnp.array([True, False, True]))
        >>> [round(float(p), 2) for p in jnp.exp(policy.log_prob(jnp.array(0))[None])], float(policy.entropy()) < 0.6932
        ([0.5], True)
        """
        _check_same_shape("legal", legal, "logits", self.logits)
        if legal.dtype != jnp.bool_:
            raise TypeError(f"only: legal must be boolean; its dtype is {legal.dtype}")
        return Categorical(logits=jnp.where(legal, self.logits, -jnp.inf))
