"""What to report of a divergence between outcome laws: bias taken off, an interval, and what no estimate can see.

An estimate D̂ of the plug-in kind is a smooth function of the rows' weights. With every row's weight perturbed
independently (the infinitesimal jackknife), D̂ ≈ D + gᵀε + ½ εᵀHε: its bias is ½ tr H and its variance |g|² + ½ tr H².
The second part is what remains where D itself is 0, and there |g|² vanishes in proportion to D̂. So the interval holds
all values θ that the estimate would not contradict, with the variance taken *at θ* as Wilson's does:

    (D̂ - bias - θ)² <= 1.96² ( θ |g|²/D̂ + ½ tr H² )
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.masking import check_shape
from polopt_jax.outcomes._laws import Between, kl, safe_log
from polopt_jax.outcomes._rows import (
    CellsOf,
    Rows,
    as_cells,
    effective_sample_size,
    identity,
    in_cell,
    in_none,
    read_cells,
    read_rows,
    weights,
)
from polopt_jax.types import Array, Batch, Outputs, record

NORMAL_95 = 1.959964
"""The 97.5% quantile of the standard normal distribution: 95% lie within ± as much."""


@record
class Estimate:
    """A divergence between outcome laws, as it should be reported. Scalars `[]`, means over prompts."""

    value: Array
    """The plug-in estimate less its bias to second order; may be a little negative."""
    plug_in: Array
    """The plug-in estimate: never negative, biased upwards. The number that a step is taken on."""
    low: Array
    """Lower end of the 95% interval, at least 0."""
    high: Array
    """Upper end of the 95% interval."""
    ess_p: Array
    """Effective sample size of the rows as a sample of the first law, per prompt. Far below G, believe nothing."""
    ess_q: Array
    """The same of the second law."""
    novel_mass: Array
    """What the first law has in cells of which the second has less than one effective row: nothing is known of the
    ratio there. Where the second has none at all, a KL is infinite, and the cell is left out of the other numbers."""

    def __str__(self) -> str:
        numbers = f"{float(self.value):.4g} [{float(self.low):.4g}, {float(self.high):.4g}]"
        return f"{numbers}, ESS {float(self.ess_p):.0f} and {float(self.ess_q):.0f}, novel {float(self.novel_mass):.2g}"


Estimator = Callable[[Outputs, Outputs, Batch], Estimate]


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
        return estimate_rows(
            read_rows("outcome_estimate", old, new, batch, read_cells("outcome_estimate", batch, of)),
            num_outcomes,
            between,
        )

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
    zeros, nothing = jnp.zeros_like, lambda x: jnp.full(x.shape, -jnp.inf)
    cells = jnp.concatenate([first, second], axis=-1)
    rows = Rows(
        outcome=cells,
        real=jnp.ones(cells.shape, bool),
        old=jnp.concatenate([zeros(first, jnp.float32), nothing(second)], axis=-1),
        new=jnp.concatenate([nothing(first), zeros(second, jnp.float32)], axis=-1),
    )
    return estimate_rows(rows, num_outcomes, between)


def estimate_rows(rows: Rows, num_outcomes: int, between: Between) -> Estimate:
    """The `Estimate` from rows and their weights; see the head of this file. `between` may return several, `[..., M]`:
    the fields are then `[M]` each."""
    cells = rows.outcome
    leading, num_rows = cells.shape[:-1], cells.shape[-1]
    flat = lambda x: x.reshape(-1, num_rows)  # noqa: E731
    of_prompt = lambda cells, real, old, new: _of_one_prompt(cells, real, old, new, num_outcomes, between)  # noqa: E731
    moments = jax.vmap(of_prompt)(flat(cells), flat(rows.real), flat(rows.old), flat(rows.new))
    some = flat(rows.real).any(-1)
    number = jnp.maximum(some.sum(), 1)
    of_some = lambda x: jnp.where(some.reshape(-1, *[1] * (x.ndim - 1)), x, 0)  # noqa: E731
    mean = lambda x: jnp.sum(of_some(x), axis=0) / number  # noqa: E731
    value, plug_in = mean(moments.value), mean(moments.plug_in)
    slope, floor = mean(moments.slope_variance) / number, mean(moments.floor_variance) / number
    if int(np.prod(leading)) > 1:  # what prompts differ by, beyond the noise of each
        spread = jnp.sum(of_some(jnp.square(moments.value - value[None])), axis=0) / jnp.maximum(number - 1, 1)
        floor = floor + jnp.maximum(spread / number - slope - floor, 0)
    low, high = _interval(value, plug_in, slope, floor)
    known = {name: mean(getattr(moments, name)) for name in ("ess_p", "ess_q", "novel_mass")}
    return Estimate(value=value, plug_in=plug_in, low=low, high=high, **known)


@record
class _Moments:
    """Of one prompt, `[]`."""

    value: Array
    plug_in: Array
    slope_variance: Array
    floor_variance: Array
    ess_p: Array
    ess_q: Array
    novel_mass: Array


def _of_one_prompt(cells: Array, real: Array, old: Array, new: Array, num_outcomes: int, between: Between) -> _Moments:
    """The plug-in estimate, its bias and its two variances, in the space of the 2K masses of the cells.

    Row g adds w_g to the first mass of its cell and v_g to the second, so that independent noise in the weights of the
    rows is a covariance of one 2x2 block per cell.
    """
    w, v = weights(old, real), weights(new, real)
    hit = in_cell(cells, num_outcomes, real)
    total = lambda x: jnp.sum(jnp.where(hit, x[:, None], 0), axis=0)  # noqa: E731
    masses = jnp.stack([total(w), total(v)])
    finite = jnp.stack([masses[1] > 0, masses[1] > 0]) & (masses > 0)

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
    poisoned = lambda x: jnp.where(lost, jnp.nan, x)  # noqa: E731
    return _Moments(
        value=poisoned(value - 0.5 * jnp.trace(noise, axis1=-2, axis2=-1)),
        plug_in=poisoned(value),
        slope_variance=jnp.einsum("...i,ij,...j->...", gradient, covariance, gradient),
        floor_variance=jnp.maximum(0.5 * jnp.einsum("...ij,...ji->...", noise, noise), 0),
        ess_p=ess_p,
        ess_q=ess_q,
        novel_mass=jnp.sum(jnp.where(rare, masses[0], 0)),
    )


def _interval(value: Array, plug_in: Array, slope: Array, floor: Array) -> tuple[Array, Array]:
    """All θ >= 0 with (value - θ)² <= z² (θ slope/plug_in + floor)."""
    per_unit = jnp.square(NORMAL_95) * jnp.where(plug_in > 0, slope / jnp.where(plug_in > 0, plug_in, 1), 0)
    half = jnp.sqrt(jnp.maximum(per_unit * value + jnp.square(per_unit) / 4 + jnp.square(NORMAL_95) * floor, 0))
    centre = value + per_unit / 2
    return jnp.maximum(centre - half, 0), jnp.maximum(centre + half, 0)
