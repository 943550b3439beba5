"""Divergences between the laws of outcomes in cells, to be reported: bias taken off, an interval, and novel mass."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from polopt_jax.outcomes._intervals import Estimate, Estimator, Moments, OfPrompt, estimate_rows, two_samples
from polopt_jax.outcomes._laws import Between, kl, log_law, log_sum, total_variation
from polopt_jax.outcomes._rows import (
    CellsOf,
    Rows,
    as_cells,
    check_number,
    effective_sample_size,
    identity,
    in_cell,
    in_none,
    read_cells,
    read_rows,
)
from polopt_jax.types import Array, Batch, Outputs

_NEXT_TO_NONE = -40.0
"""log of a share that a sum of float64 numbers does not feel."""
UNSEEN = 0.5
"""Rows that a cell without any is taken to have, for the noise alone: none among n is no certainty that there are none,
and half a row's is what a cell with a few rows would add."""


def outcome_estimate(num_outcomes: int, *, of: CellsOf = identity, between: Between = kl) -> Estimator:
    """D(P_old(o) ‖ P_new(o)) to be reported: bias-corrected, with a 95% interval, ESS and novel mass.

    A function `(old, new, batch) -> Estimate`, where `outcome_kl` gives one number to step on. Where there are several
    prompts, the interval is that of all prompts which these are a sample of: what prompts differ by is in it, however
    many rows each has, and with a handful of which one moved it reaches 0. `jax.vmap` over the prompts gives each its
    own. Both are to second order: with few effective rows in a cell that matters, they promise too much. Of 512
    episodes that weigh unevenly (the vase of the burning building, a step of .5) the interval held the truth in 85% of
    cases, and the estimate was 31% too high.

    Args:
      num_outcomes, of: as `outcome_divergence`.
      between: `kl`, `jensen_shannon` or `chi_square`, or any other smooth function of two log-laws. (The variation
        distance is none: its absolute values have a kink where the laws are equal.)

    Reads and raises what `outcome_divergence` does, and ValueError for `between=total_variation`.

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

    check_number("outcome_estimate", num_outcomes)
    _check_smooth("outcome_estimate", between)

    def estimate(old: Outputs, new: Outputs, batch: Batch) -> Estimate:
        rows = read_rows("outcome_estimate", old, new, batch, read_cells("outcome_estimate", batch, of))
        return _estimate(rows, num_outcomes, between)

    return estimate


def sample_estimate(first: Array, second: Array, num_outcomes: int, *, between: Between = kl) -> Estimate:
    """D(P ‖ Q) from two samples of outcomes, one of each law: nothing is weighted, no probability is needed.

    `sample_estimate(new, reference, K)` is KL(new ‖ reference), and `novel_mass` then the share of new rows in cells
    that the reference never visited. Leading axes are prompts, of a population of which the interval is, as that of
    `outcome_estimate`; rows of which any may be compared with any are one prompt, `[M]`.

    Args:
      first: cells `[..., M]` of M rows of P. second: `[..., G]` of G rows of Q.
      num_outcomes, between: as `outcome_estimate`.

    Raises ValueError if the leading axes differ or `between` is `total_variation`, TypeError if cells are no integers.

    >>> from polopt_jax import outcomes
    >>> str(outcomes.sample_estimate(jnp.array([0, 1] * 200), jnp.array([0, 1, 1, 1] * 100), 2))
    '0.1405 [0.08109, 0.2423], ESS 400 and 400, novel 0'
    """
    check_number("sample_estimate", num_outcomes)
    _check_smooth("sample_estimate", between)
    first, second = (as_cells("sample_estimate", n, x) for n, x in (("first", first), ("second", second)))
    if not first.ndim or first.shape[:-1] != second.shape[:-1] or second.ndim != first.ndim:
        raise ValueError(
            f"sample_estimate: second must have shape {(*first.shape[:-1], 'G')}, that of first but for its rows, and "
            f"both must have rows; first has shape {first.shape}, second {second.shape}"
        )
    return _estimate(two_samples(first, second, first.ndim - 1), num_outcomes, between)


def _check_smooth(caller: str, between: Between) -> None:
    if between is total_variation:
        raise ValueError(f"{caller}: between must be smooth, and total_variation has a kink at equal laws: outcome_tv")


@partial(jax.jit, static_argnums=(1, 2))  # or in eager mode hundreds of small programs are compiled
def _estimate(rows: Rows, num_outcomes: int, between: Between) -> Estimate:
    return estimate_rows(rows, of_cells(num_outcomes, between))


def of_cells(num_outcomes: int, between: Between) -> OfPrompt:
    """The moments of a divergence between the laws of cells. `between` may return several, `[..., M]`."""

    def of_prompt(cells: Array, real: Array, old: Array, new: Array) -> Moments:
        return _moments(cells, real, old, new, num_outcomes, between)

    return of_prompt


def _moments(cells: Array, real: Array, old: Array, new: Array, num_outcomes: int, between: Between) -> Moments:
    """The plug-in estimate, its bias and its two variances, in the space of the logarithms of the cells' 2K masses.

    Row g has the share u_g of the first mass of its cell and v_g of the second, so that independent noise in the rows
    is a relative covariance of one 2x2 block per cell. With f of the masses m, m_i m_j f_ij is f's second derivative by
    log m_i and log m_j, less its first where i = j: nothing is divided by a mass, however small. A cell that a law was
    not seen in has the noise of half a row of it, though neither value nor bias.
    """
    hit = in_cell(cells, num_outcomes, real)
    inside = hit.any(-1)
    laws = jnp.stack([log_law(cells, num_outcomes, log_weights=x, real=inside) for x in (old, new)])
    there = laws > -jnp.inf
    ess = jnp.stack([effective_sample_size(x, real) for x in (old, new)])
    unbounded = ~jnp.isfinite(between(*laws))
    filled = jnp.where(there, laws, jnp.log(UNSEEN / jnp.maximum(ess, 1))[:, None])
    # where parts are infinite and others are not: a mass that the latter do not see, for derivatives that are numbers
    next_to_none = jnp.min(laws, where=there, initial=0) + _NEXT_TO_NONE
    seen = jnp.where(there, laws, jnp.where(unbounded.any() & there.any(0), next_to_none, -jnp.inf))

    def plug_in(log_mass: Array) -> Array:
        """A part that is infinite, over the cells that both laws have."""
        both = jnp.where(there.all(0), log_mass, -jnp.inf)
        parts = jnp.stack([both, jnp.where(unbounded.all(), both, log_mass)])
        total = log_sum(parts, -1)[..., None]
        parts = parts - jnp.where(total == -jnp.inf, 0, total)  # of no cell in common there is nothing to be normalised
        return jnp.where(unbounded, *between(*jnp.moveaxis(parts, 0, 1)))

    def derivatives(log_mass: Array) -> tuple[Array, Array]:
        gradient = jax.jacrev(plug_in)(log_mass).reshape(*unbounded.shape, -1)
        hessian = jax.jacfwd(jax.jacrev(plug_in))(log_mass).reshape(*gradient.shape, -1)
        return gradient, hessian - gradient[..., None] * jnp.eye(2 * num_outcomes)

    value = plug_in(seen)
    (_, gradient), (hessian_seen, hessian) = jax.vmap(derivatives)(jnp.stack([seen, filled]))
    rows = [jnp.where(inside, x, -jnp.inf) for x in (old, new)]
    share = [_share((x - log_sum(x, 0))[:, None], law) for x, law in zip(rows, laws, strict=True)]
    total = lambda x: jnp.sum(jnp.where(hit, x, 0), axis=0)  # noqa: E731
    blocks = jnp.stack([jnp.stack([total(x * y) for y in share]) for x in share])
    covariance = jnp.einsum("ijk,kl->ikjl", blocks, jnp.eye(num_outcomes)).reshape(2 * num_outcomes, -1)
    bias = 0.5 * jnp.einsum("...ij,ji->...", hessian_seen, covariance)
    covariance = covariance + jnp.diag(jnp.where(there, 0, 1 / UNSEEN).reshape(-1))
    noise = jnp.einsum("...ij,jk->...ik", hessian, covariance)
    masses = jnp.exp(laws)
    rare = masses[1] * ess[1] < 1 - 1e-4
    lost = in_none(cells, num_outcomes, real)
    return Moments(
        plug_in=jnp.where(lost, jnp.nan, value),
        bias=bias,
        slope_variance=jnp.einsum("...i,ij,...j->...", gradient, covariance, gradient),
        floor_variance=jnp.maximum(0.5 * jnp.einsum("...ij,...ji->...", noise, noise), 0),
        ess_p=ess[0],
        ess_q=ess[1],
        unbounded=unbounded,
        novel_mass=jnp.sum(jnp.where(rare, masses[0], 0)),
    )


def _share(log_weight: Array, log_mass: Array) -> Array:
    """Of a mass, the share that a row is; 0 of nothing."""
    return jnp.where(log_mass == -jnp.inf, 0, jnp.exp(log_weight - jnp.where(log_mass == -jnp.inf, 0, log_mass)))
