"""Policies' distributions over one decision: `Categorical`, `DiagGaussian`, `TanhGaussian`.

Three rules hold for all of them. The direction of `kl_divergence(other)` is KL(self ‖ other), and it is exactly
0 where the two are equal. Whatever the dtype of the leaves, arithmetic is done in at least float32. And every
leaf is a float array: illegal actions are folded into the logits as -inf, never kept as a boolean leaf, because
`jax.linear_transpose` (the Fisher operator) needs float outputs.

The names are distrax's and TFP's, so one of theirs can take the place of one of these, except in `where`
and `squash`, which they lack.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.masking import accumulate, check_shape
from polopt_jax.types import Array, record

MAX_LOG_STD = 20.0
"""`log_std` is clamped to [-20, 20]: beyond it exp overflows once squared in float32. The gradient there is zero."""


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

        Gathers one logit and subtracts the log-sum-exp, so nothing of the size of the logits is stored. Raises
        `ValueError` if `action` is not of the batch shape, `TypeError` if it is not an integer array.
        """
        if action.shape != self.batch_shape:
            raise ValueError(f"action must have the policy's batch shape {self.batch_shape}; it has {action.shape}")
        if not jnp.issubdtype(action.dtype, jnp.integer):
            raise TypeError(f"action must be integer ids for a Categorical policy; its dtype is {action.dtype}")
        num_actions = self.logits.shape[-1]
        in_range = (action >= 0) & (action < num_actions)
        index = jnp.where(in_range, action, 0)[..., None]
        shifted, some = self._shifted()
        chosen = jnp.take_along_axis(shifted, index, axis=-1)
        log_prob = jnp.where(some, chosen - jax.nn.logsumexp(shifted, axis=-1, keepdims=True), -jnp.inf)
        return jnp.where(in_range, log_prob[..., 0], jnp.nan)

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

    def kl_divergence(self, other: "Categorical") -> Array:
        """KL(self ‖ other) = Σ_a p log(p/q) `[...]`; +inf where self has an action that other has not.

        Summed as Σ p d + q - p with d = log(p/q): the added terms sum to 0 and make every summand >= 0. For small d
        a summand is p (e^{-d} - 1 + d), which keeps its digits where p and q are nearly equal.
        """
        _check_same_shape("other.logits", other.logits, "self.logits", self.logits)
        log_p, log_q = self._normalised(), other._normalised()
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        d = jnp.where(p > 0, log_p, 0) - jnp.where(p > 0, log_q, 0)
        near = (p > 0) & (jnp.abs(d) < 1)
        small, large = jnp.where(near, d, 0), jnp.where(near, 0, d)
        total = jnp.sum(jnp.where(near, p * (jnp.expm1(-small) + small), p * large + (q - p)), axis=-1)
        return jnp.where((log_p != -jnp.inf).any(-1), total, 0)

    def where(self, mask: Array) -> "Categorical":
        """Logits of 0 (uniform) where `mask` `[...]` is False, whatever they held there."""
        check_shape("where", "mask", mask, self.batch_shape, of="the policy")
        return Categorical(logits=jnp.where(mask[..., None], self.logits, jnp.zeros_like(self.logits)))

    def only(self, legal: Array) -> "Categorical":
        """The same policy restricted to the legal actions (`legal` `[..., A]` bool): the others get probability 0.

        >>> policy = Categorical(logits=jnp.zeros(3)).only(jnp.array([True, False, True]))
        >>> [round(float(p), 2) for p in jnp.exp(policy.log_prob(jnp.array(0))[None])], float(policy.entropy()) < 0.6932
        ([0.5], True)
        """
        _check_same_shape("legal", legal, "logits", self.logits)
        return Categorical(logits=jnp.where(legal, self.logits, -jnp.inf))


@record
class DiagGaussian:
    """Gaussian with independent coordinates: log π(a) = Σ_i -½((a_i-μ_i)/σ_i)² - log σ_i - ½ log 2π.

    `log_std` comes already broadcast to `mean` (a state-independent one is broadcast by the network), and is
    clamped to ±`MAX_LOG_STD`.

    >>> policy = DiagGaussian(mean=jnp.zeros((5, 2)), log_std=jnp.zeros((5, 2)))
    >>> policy.log_prob(jnp.zeros((5, 2))).shape, float(policy.kl_divergence(policy)[0])
    ((5,), 0.0)
    """

    mean: Array
    """Means, `[..., A]`."""
    log_std: Array
    """log of the standard deviations, `[..., A]`, the same shape as `mean`."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.mean.shape[:-1]

    def _moments(self) -> tuple[Array, Array]:
        _check_same_shape("log_std", self.log_std, "mean", self.mean)
        return accumulate(self.mean), jnp.clip(accumulate(self.log_std), -MAX_LOG_STD, MAX_LOG_STD)

    def log_prob(self, action: Array) -> Array:
        """log-density `[...]` of real actions `[..., A]`. Raises `ValueError` on another shape."""
        _check_same_shape("action", action, "the policy's mean", self.mean)
        mean, log_std = self._moments()
        standardised = (accumulate(action) - mean) * jnp.exp(-log_std)
        return jnp.sum(-0.5 * standardised**2 - log_std - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Array:
        """Σ_i log σ_i + ½ log 2πe `[...]`, in nats (a differential entropy: it may be negative)."""
        return jnp.sum(self._moments()[1] + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def sample(self, *, seed: Array) -> Array:
        """One action per decision, `[..., A]`."""
        mean, log_std = self._moments()
        return mean + jnp.exp(log_std) * jax.random.normal(seed, mean.shape, mean.dtype)

    def mode(self) -> Array:
        """The mean, `[..., A]`."""
        return self._moments()[0]

    def squash(self, action: Array) -> Array:
        """The identity; an environment clips what it cannot take, and log_prob is that of the unclipped action."""
        return action

    def kl_divergence(self, other: "DiagGaussian") -> Array:
        """KL(self ‖ other) `[...]` = Σ ½(e^{2d} - 1 - 2d) + ½((μ-μ')/σ')², d = log σ - log σ'."""
        _check_same_shape("other.mean", other.mean, "self.mean", self.mean)
        (mean, log_std), (other_mean, other_log_std) = self._moments(), other._moments()
        d = log_std - other_log_std
        shift = (mean - other_mean) * jnp.exp(-other_log_std)
        return jnp.sum(0.5 * (jnp.expm1(2 * d) - 2 * d) + 0.5 * shift**2, axis=-1)

    def where(self, mask: Array) -> "DiagGaussian":
        """A standard Gaussian where `mask` `[...]` is False, whatever the leaves held there."""
        check_shape("where", "mask", mask, self.batch_shape, of="the policy")
        _check_same_shape("log_std", self.log_std, "mean", self.mean)
        return DiagGaussian(
            mean=jnp.where(mask[..., None], self.mean, jnp.zeros_like(self.mean)),
            log_std=jnp.where(mask[..., None], self.log_std, jnp.zeros_like(self.log_std)),
        )


# 32 nodes of the Gauss-Hermite rule for a standard normal; see TanhGaussian.entropy.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _log_det_tanh(u: Array) -> Array:
    """log(1 - tanh(u)²), exact for every finite u."""
    return 2 * (math.log(2.0) - u - jax.nn.softplus(-2 * u))


@record
class TanhGaussian:
    """tanh of a Gaussian. Actions are the *pre-squash* u: `sample`, `mode` and `log_prob` all speak u, and
    `squash(u)` = tanh(u) is what an environment is sent, so nothing ever inverts tanh.

    log π = log N(u; μ, σ) - Σ_i log(1 - tanh(u_i)²), the density of tanh(u) written in u. Since both policies
    share the bijection, KL is that of the Gaussians, and so is the Fisher information.

    >>> policy = TanhGaussian(mean=jnp.zeros((1, 2)), log_std=jnp.zeros((1, 2)))
    >>> bool(jnp.isfinite(policy.log_prob(jnp.full((1, 2), 1e4)))[0])
    True
    """

    mean: Array
    """Means of u, `[..., A]`."""
    log_std: Array
    """log of the standard deviations of u, `[..., A]`, the same shape as `mean`."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.mean.shape[:-1]

    @property
    def gaussian(self) -> DiagGaussian:
        """The distribution of u."""
        return DiagGaussian(mean=self.mean, log_std=self.log_std)

    def log_prob(self, action: Array) -> Array:
        """log-density of tanh(action) `[...]`, for pre-squash actions `[..., A]`."""
        return self.gaussian.log_prob(action) - jnp.sum(_log_det_tanh(accumulate(action)), axis=-1)

    def entropy(self) -> Array:
        """Gaussian entropy + Σ_i E[log(1 - tanh(u_i)²)] `[...]`, in nats; no closed form is known.

        The expectation is taken by 32-point Gauss-Hermite quadrature in each coordinate. Error against adaptive
        quadrature, worst over |μ| <= 3: 1e-7 nats per coordinate at σ <= 1, 2e-3 at σ = 2.7, 8e-2 at σ = 7.4.
        """
        mean, log_std = self.gaussian._moments()
        last = (1,) * mean.ndim + (-1,)
        nodes, weights = (jnp.asarray(x, mean.dtype).reshape(last) for x in (_NODES, _WEIGHTS))
        u = mean[..., None] + jnp.exp(log_std)[..., None] * nodes
        return self.gaussian.entropy() + jnp.sum(_log_det_tanh(u) * weights, axis=(-2, -1))

    def sample(self, *, seed: Array) -> Array:
        """One pre-squash action per decision, `[..., A]`."""
        return self.gaussian.sample(seed=seed)

    def mode(self) -> Array:
        """The mean of u: tanh of it is the *median* action, and the mode of u."""
        return self.gaussian.mode()

    def squash(self, action: Array) -> Array:
        """tanh(action), in (-1, 1)."""
        return jnp.tanh(action)

    def kl_divergence(self, other: "TanhGaussian") -> Array:
        """KL(self ‖ other) `[...]`, that of the two Gaussians."""
        return self.gaussian.kl_divergence(other.gaussian)

    def where(self, mask: Array) -> "TanhGaussian":
        """A squashed standard Gaussian where `mask` `[...]` is False, whatever the leaves held there."""
        gaussian = self.gaussian.where(mask)
        return TanhGaussian(mean=gaussian.mean, log_std=gaussian.log_std)
