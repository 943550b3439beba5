"""Divergences between the laws of outcomes in cells, to be reported: bias taken off, an interval, and novel mass."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.masking import check_shape
from polopt_jax.outcomes._intervals import Estimate, Estimator, Moments, OfPrompt, estimate_rows, two_samples
from polopt_jax.outcomes._laws import Between, kl, safe_log
from polopt_jax.outcomes._rows import (
    CellsOf,
    as_cells,
    effective_sample_size,
    identity,
    in_cell,
    in_none,
    read_cells,
    read_rows,
    weights,
)
from polopt_jax.types import Array, Batch, Outputs


def outcome_estimate(num_outcomes: int, *, of: CellsOf = identity, between: Between = kl) -> Estimator:
    """D(P_old(o) ‖ P_new(o)) to be reported: bias-corrected, with a 95% interval, ESS and novel mass.

    A function `(old, new, batch) -> Estimate`, where `outcome_kl` gives one number to step on. The interval is of these
    prompts, widened by how much prompts differ where there are several. Both are to second order: with fewer than about
    five effective rows in a cell that matters, they promise too much.

    Args:
      num_outcomes, of: as `outcome_divergence`.
      between: `kl`, `jensen_shannon` or `chi_square`, or any other smooth function of two log-laws. (The variation
        distance is none: its absolute values have a kink where the laws are equal.)

    Reads and raises what `outcome_divergence` does.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 2))))
    >>> batch = po.Batch(obs=jnp.zeros((4, 1)), action=jnp.array([[0], [0], [1], [1]]), mask=jnp.ones((4, 1), bool),
    ...                  log_prob=jnp.log(jnp.full((4, 1), 0.5)), outcome=jnp.array([0, 0, 1, 1]))
    >>> old, new = (model(jnp.log(jnp.array(p)), batch.obs) for p in ([0.5, 0.5], [0.25, 0.75]))
    >>> estimate = outcomes.outcome_estimate(2)(old, new, batch)
    >>> bool(estimate.low <= 0.1438 <= estimate.high)
    True
    """

    def estimate(old: Outputs, new: Outputs, batch: Batch) -> Estimate:
        rows = read_rows("outcome_estimate", old, new, batch, read_cells("outcome_estimate", batch, of))
        return estimate_rows(rows, of_cells(num_outcomes, between))

    return estimate


def sample_estimate(first: Array, second: Array, num_outcomes: int, *, between: Between = kl) -> Estimate:
    """D(P ‖ Q) from two samples of outcomes, one of each law: nothing is weighted, no probability is needed.

    `sample_estimate(new, reference, K)` is KL(new ‖ reference), and `novel_mass` then the share of new rows in cells
    that the reference never visited.

    Args:
      first: cells `[..., M]` of M rows of P. second: `[..., G]` of G rows of Q.
      num_outcomes, between: as `outcome_estimate`.

    Raises ValueError if the leading axes differ, TypeError if cells are no integers.

    >>> from polopt_jax import outcomes
    >>> str(outcomes.sample_estimate(jnp.array([0, 1] * 200), jnp.array([0, 1, 1, 1] * 100), 2))
    '0.1405 [0.08109, 0.2423], ESS 400 and 400, novel 0'
    """
    first, second = (as_cells("sample_estimate", n, x) for n, x in (("first", first), ("second", second)))
    check_shape("sample_estimate", "second", second[..., 0], first.shape[:-1], of="first without its last axis")
    return estimate_rows(two_samples(first, second, first.ndim - 1), of_cells(num_outcomes, between))


def of_cells(num_outcomes: int, between: Between) -> OfPrompt:
    """The moments of a divergence between the laws of cells. `between` may return several, `[..., M]`."""

    def of_prompt(cells: Array, real: Array, old: Array, new: Array) -> Moments:
        return _moments(cells, real, old, new, num_outcomes, between)

    return of_prompt


def _moments(cells: Array, real: Array, old: Array, new: Array, num_outcomes: int, between: Between) -> Moments:
    """The plug-in estimate, its bias and its two variances, in the space of the 2K masses of the cells.

    Row g adds w_g to the first mass of its cell and v_g to the second, so that independent noise in the weights of the
    rows is a covariance of one 2x2 block per cell.
    """
    w, v = weights(old, real), weights(new, real)
    hit = in_cell(cells, num_outcomes, real)
    total = lambda x: jnp.sum(jnp.where(hit, x[:, None], 0), axis=0)  # noqa: E731
    masses = jnp.stack([total(w), total(v)])
    unbounded = ~jnp.isfinite(between(*safe_log(masses / masses.sum(1, keepdims=True))))
    finite = (masses > 0) & ((masses[1:] > 0) | ~unbounded.any())

    def plug_in(masses: Array) -> Array:
        return between(*safe_log(jnp.where(finite, masses / masses.sum(1, keepdims=True), 0)))

    value = plug_in(masses)
    gradient = jax.jacrev(plug_in)(masses).reshape(*value.shape, -1)
    hessian = jax.jacfwd(jax.jacrev(plug_in))(masses).reshape(*gradient.shape, -1)
    blocks = jnp.stack([jnp.stack([total(w * w), total(w * v)]), jnp.stack([total(w * v), total(v * v)])])
    covariance = jnp.einsum("ijk,kl->ikjl", blocks, jnp.eye(num_outcomes)).reshape(2 * num_outcomes, -1)
    noise = jnp.einsum("...ij,jk->...ik", hessian, covariance)
    ess_p, ess_q = effective_sample_size(old, real), effective_sample_size(new, real)
    rare = masses[1] * ess_q < 1 - 1e-4
    lost = in_none(cells, num_outcomes, real)
    return Moments(
        plug_in=jnp.where(lost, jnp.nan, value),
        bias=0.5 * jnp.trace(noise, axis1=-2, axis2=-1),
        slope_variance=jnp.einsum("...i,ij,...j->...", gradient, covariance, gradient),
        floor_variance=jnp.maximum(0.5 * jnp.einsum("...ij,...ji->...", noise, noise), 0),
        ess_p=ess_p,
        ess_q=ess_q,
        unbounded=unbounded,
        novel_mass=jnp.sum(jnp.where(rare, masses[0], 0)),
    )
