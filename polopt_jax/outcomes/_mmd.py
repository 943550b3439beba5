"""Continuous outcomes: the maximum mean discrepancy between the laws of a feature, to step on and to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from polopt_jax.combinators import couples_rows
from polopt_jax.masking import accumulate
from polopt_jax.outcomes._intervals import Estimate, Estimator, Moments, OfPrompt, estimate_rows, two_samples
from polopt_jax.outcomes._rows import Rows, effective_sample_size, law_mean, read_outcome, read_rows, weights
from polopt_jax.ranges import Positive, check_range
from polopt_jax.types import Array, ArrayLike, Batch, Divergence, Outputs

NEAR = 3.0
"""Bandwidths within which a row counts as a neighbour."""


def outcome_mmd(of: Callable[..., Array], *, bandwidth: ArrayLike | None = None) -> Divergence:
    """Squared maximum mean discrepancy between the laws of a *continuous* feature, by a Gaussian kernel.

        MMD² = Σ_gh (w_g - v_g)(w_h - v_h) exp(-‖z_g - z_h‖² / 2 bandwidth²),    w, v: weights of new and old

    The V-statistic: never negative, 0 at new = old. Its Hessian is positive semi-definite, so it can precondition.

    Args:
      of: `batch.outcome -> [..., G]` or `[..., G, F]` floats.
      bandwidth: in units of the feature; the median distance between different rows of a prompt, if None.

    Errors as `outcome_divergence`. Reads `action, log_prob, mask, outcome, sampler_log_prob`. Costs G² per prompt.
    Source: Gretton et al. 2012, "A kernel two-sample test".

    >>> from polopt_jax import outcomes
    >>> divergence = outcomes.outcome_mmd(lambda outcome: outcome["share_upside_down"], bandwidth=0.1)
    """

    _check_bandwidth("outcome_mmd", bandwidth)

    def outcome_mmd(old: Outputs, new: Outputs, batch: Batch) -> Array:
        rows = read_rows("outcome_mmd", old, new, batch, read_outcome("outcome_mmd", batch, of))
        kernel = gaussian_kernel(_features(rows), rows.real, bandwidth)
        difference = weights(rows.new, rows.real) - weights(rows.old, rows.real)
        return law_mean(jnp.einsum("...g,...gh,...h->...", difference, kernel, difference), rows.real)

    return couples_rows(outcome_mmd)


def mmd_estimate(of: Callable[..., Array], *, bandwidth: ArrayLike | None = None) -> Estimator:
    """The squared MMD between the laws of a continuous feature, to be reported: see `outcome_estimate`.

    A function `(old, new, batch) -> Estimate`, bias taken off to second order (which for two plain samples is the
    U-statistic, up to terms in 1/G²), so it may be a little negative. `novel_mass` is what the first law has in rows
    within 3 bandwidths of which the second has less than one effective row.

    Arguments, what it reads and raises: as `outcome_mmd`.

    >>> from polopt_jax import outcomes
    >>> estimator = outcomes.mmd_estimate(lambda outcome: outcome["share_upside_down"], bandwidth=0.1)
    """

    _check_bandwidth("mmd_estimate", bandwidth)

    def estimate(old: Outputs, new: Outputs, batch: Batch) -> Estimate:
        rows = read_rows("mmd_estimate", old, new, batch, read_outcome("mmd_estimate", batch, of))
        return _estimate(rows, bandwidth)

    return estimate


def sample_mmd(first: Array, second: Array, *, bandwidth: ArrayLike | None = None) -> Estimate:
    """The same from two samples of a feature, one of each law: `[M]` and `[G]`, or `[..., M, F]` and `[..., G, F]`.

    Raises ValueError if they differ in an axis other than that of the rows.

    >>> from polopt_jax import outcomes
    >>> found = outcomes.sample_mmd(jnp.linspace(0.0, 1.0, 50), jnp.linspace(2.0, 3.0, 50), bandwidth=0.5)
    >>> bool(found.low > 0.5), float(found.novel_mass)      # half of them have a neighbour
    (True, 0.5)
    """
    _check_bandwidth("sample_mmd", bandwidth)
    first, second = jnp.asarray(first), jnp.asarray(second)
    axis = max(first.ndim - 2, 0)
    but_rows = [(*x.shape[:axis], *x.shape[axis + 1 :]) for x in (first, second)]
    if first.ndim != second.ndim or first.ndim < 1 or but_rows[0] != but_rows[1]:
        raise ValueError(
            f"sample_mmd: second must have the axes of first but for its rows, {first.shape}; it has {second.shape}"
        )
    return _estimate(two_samples(first, second, axis), bandwidth)


@jax.jit  # or in eager mode hundreds of small programs are compiled
def _estimate(rows: Rows, bandwidth: ArrayLike | None) -> Estimate:
    return estimate_rows(replace(rows, outcome=_features(rows)), _of_features(bandwidth))


def _features(rows: Rows) -> Array:
    """The feature `[..., G, F]` float, 0 in rows that are not real."""
    z = rows.outcome
    z = accumulate(z) if z.ndim > rows.real.ndim else accumulate(z)[..., None]
    return jnp.where(rows.real.reshape(rows.real.shape + (1,) * (z.ndim - rows.real.ndim)), z, 0)


def _check_bandwidth(caller: str, bandwidth: ArrayLike | None) -> None:
    if bandwidth is not None:
        check_range(caller, Positive, bandwidth=bandwidth)


def gaussian_kernel(features: Array, real: Array, bandwidth: ArrayLike | None) -> Array:
    """exp(-‖z_g - z_h‖² / 2 bandwidth²) of features `[..., G, F]`, `[..., G, G]`; the median distance if None."""
    squares = jnp.sum(jnp.square(features[..., :, None, :] - features[..., None, :, :]), axis=-1)
    if bandwidth is None:
        pair = real[..., :, None] & real[..., None, :] & (squares > 0)
        median = jnp.nanmedian(jnp.where(pair, squares, jnp.nan), axis=(-2, -1), keepdims=True)
        width = jax.lax.stop_gradient(jnp.where(jnp.isnan(median), 1, median))
    else:
        width = jnp.square(bandwidth)
    return jnp.exp(-0.5 * squares / width)


def _of_features(bandwidth: ArrayLike | None) -> OfPrompt:
    """The moments of the squared MMD, Σ d_g d_h k_gh with d = w - v, over noise in the weights of the rows.

    With d' = diag(d) - w wᵀ + v vᵀ the derivative of d: g = 2 d'ᵀ K d, and H = 2 d'ᵀ K d' plus what the curvature of
    the normalised weights adds, in G² operations.
    """

    def curvature(weight: Array, pull: Array) -> Array:
        """Σ_g pull_g ∂²weight_g/∂u², of self-normalised weights."""
        outer = weight[:, None] * weight[None, :]
        return outer * (2 * jnp.vdot(pull, weight) - pull[:, None] - pull[None, :])

    def of_prompt(features: Array, real: Array, old: Array, new: Array) -> Moments:
        kernel = gaussian_kernel(features, real, bandwidth)
        w, v = weights(old, real), weights(new, real)
        d = w - v
        pull = 2 * kernel @ d
        moved = kernel * d[None, :] - jnp.outer(kernel @ w, w) + jnp.outer(kernel @ v, v)
        hessian = 2 * (d[:, None] * moved - jnp.outer(w, w @ moved) + jnp.outer(v, v @ moved))
        hessian = hessian + curvature(w, pull) - curvature(v, pull)
        gradient = d * pull - w * jnp.vdot(w, pull) + v * jnp.vdot(v, pull)
        ess_p, ess_q = effective_sample_size(old, real), effective_sample_size(new, real)
        near = (kernel >= jnp.exp(-0.5 * NEAR**2)) & real[None, :]
        alone = jnp.where(near, v[None, :], 0).sum(-1) * ess_q < 1 - 1e-4
        return Moments(
            plug_in=jnp.vdot(d, pull) / 2,
            bias=jnp.trace(hessian) / 2,
            slope_variance=jnp.vdot(gradient, gradient),
            floor_variance=jnp.sum(hessian * hessian.T) / 2,
            ess_p=ess_p,
            ess_q=ess_q,
            unbounded=jnp.bool_(False),
            novel_mass=jnp.sum(jnp.where(alone & real, w, 0)),
        )

    return of_prompt
