"""What to report of a divergence between outcome laws: bias taken off, an interval, and what no estimate can see.

An estimate D̂ of the plug-in kind is a smooth function of the rows' weights. With every row's weight perturbed
independently (the infinitesimal jackknife), D̂ ≈ D + gᵀε + ½ εᵀHε: its bias is ½ tr H and its variance |g|² + ½ tr H².
The second part is what remains where D itself is 0, and there |g|² vanishes in proportion to D̂. So the interval holds
all values θ that the estimate would not contradict, with the variance taken *at θ* as Wilson's does:

    (D̂ - bias - θ)² <= 1.96² ( θ |g|²/D̂ + ½ tr H² )

Of N prompts, which are a sample of all, the variance at the plug-in estimate is at least that of Student's interval of
their mean, with N - 1 degrees of freedom; of one, where the others have no law, it is that one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from polopt_jax.fields import with_fields
from polopt_jax.outcomes._rows import Rows, has_law
from polopt_jax.types import Array, Batch, Outputs, record

NORMAL_95 = 1.959964
"""The 97.5% quantile of the standard normal distribution: 95% lie within ± as much."""


@with_fields
@record
class Estimate:
    """A divergence between outcome laws, as it should be reported. Scalars `[]`, means over prompts."""

    value: Array
    """The plug-in estimate less its bias to second order; may be a little negative. Where the second law has fewer than
    about five rows in a cell that matters, the plug-in may be nearer."""
    plug_in: Array
    """The plug-in estimate: never negative. The number that a step is taken on. Of two samples of equal laws it is too
    high by about (K - 1)/2 (1/M + 1/G)."""
    low: Array
    """Lower end of the 95% interval, at least 0: of the mean over all prompts, where several are a sample of them."""
    high: Array
    """Upper end of the 95% interval."""
    ess_p: Array
    """Effective sample size of the rows as a sample of the first law, per prompt. Far below G, believe nothing."""
    ess_q: Array
    """The same of the second law."""
    novel_mass: Array
    """What the first law has in cells of which the second has less than one effective row: nothing is known of the
    ratio there. Where the second has none at all, a KL is infinite: `high` is, and the cell is left out of the rest."""

    def __str__(self) -> str:
        if jnp.ndim(self.value):
            return repr(self)
        numbers = f"{float(self.value):.4g} [{float(self.low):.4g}, {float(self.high):.4g}]"
        return f"{numbers}, ESS {float(self.ess_p):.0f} and {float(self.ess_q):.0f}, novel {float(self.novel_mass):.2g}"


Estimator = Callable[[Outputs, Outputs, Batch], Estimate]


@record
class Moments:
    """Of the rows of one prompt: a plug-in estimate, its bias and its variances; `[]`, or `[M]` of M estimates."""

    plug_in: Array
    """D̂."""
    bias: Array
    """½ tr H."""
    slope_variance: Array
    """|g|²"""
    floor_variance: Array
    """½ tr H²"""
    ess_p: Array
    ess_q: Array
    novel_mass: Array
    unbounded: Array
    """bool: the divergence is infinite on the sample, and `plug_in` is of the cells that both laws have."""


OfPrompt: TypeAlias = Callable[[Array, Array, Array, Array], Moments]
"""`(outcome [G, *], real [G], first log-weight [G], second [G]) -> Moments` of one prompt."""


def estimate_rows(rows: Rows, of_prompt: OfPrompt) -> Estimate:
    """The mean over prompts of what `of_prompt` finds of each, with its interval; see the head of this file.

    A prompt with one row alone has no law that could move, and is left out. From one row of a law in every prompt the
    interval is [0, ∞), and from none the estimate is NaN besides.
    """
    leading, num_rows = rows.real.shape[:-1], rows.real.shape[-1]
    flat = lambda x: x.reshape(-1, num_rows, *x.shape[rows.real.ndim :])  # noqa: E731
    found = jax.vmap(of_prompt)(flat(rows.outcome), flat(rows.real), flat(rows.old), flat(rows.new))
    some = has_law(flat(rows.real))
    number = jnp.maximum(some.sum(), 1)
    of_some = lambda x: jnp.where(some.reshape(-1, *[1] * (x.ndim - 1)), x, 0)  # noqa: E731
    mean = lambda x: jnp.sum(of_some(x), axis=0) / number  # noqa: E731
    plug_in, value = mean(found.plug_in), mean(found.plug_in - found.bias)
    slope, floor = mean(found.slope_variance) / number, mean(found.floor_variance) / number
    if int(np.prod(leading)) > 1:  # what prompts differ by, beyond the noise of each
        squares = jnp.square(found.plug_in - found.bias - value[None])
        spread = jnp.sum(of_some(squares), axis=0) / jnp.maximum(number - 1, 1)
        wider = jnp.square(t_quantile(1 / jnp.maximum(number - 1, 1)) / NORMAL_95)
        floor = floor + jnp.maximum(wider * spread / number - slope - floor, 0)
    low, high = interval(value, plug_in, slope, floor)
    high = jnp.where((of_some(found.unbounded)).any(0), jnp.inf, high)
    # the rows of the poorer law, in the best prompt: none say nothing at all, and of one the noise is not known
    enough = jnp.where(some, jnp.minimum(found.ess_p, found.ess_q), 0).max(initial=0)
    value, plug_in = (jnp.where(enough > 0, x, jnp.nan) for x in (value, plug_in))
    low, high = jnp.where(enough > 1, low, 0), jnp.where(enough > 1, high, jnp.inf)
    known = {name: mean(getattr(found, name)) for name in ("ess_p", "ess_q", "novel_mass")}
    return Estimate(value=value, plug_in=plug_in, low=low, high=high, **known)


def two_samples(first: Array, second: Array, row_axis: int) -> Rows:
    """Two samples `[..., M, *]` and `[..., G, *]` as rows of one: each weighs nothing as a row of the other law."""
    shapes = [x.shape[: row_axis + 1] for x in (first, second)]
    zeros, nothing = jnp.zeros, lambda shape: jnp.full(shape, -jnp.inf)
    outcome = jnp.concatenate([first, second], axis=row_axis)
    return Rows(
        outcome=outcome,
        real=jnp.ones(outcome.shape[: row_axis + 1], bool),
        old=jnp.concatenate([zeros(shapes[0]), nothing(shapes[1])], axis=-1),
        new=jnp.concatenate([nothing(shapes[0]), zeros(shapes[1])], axis=-1),
    )


def t_quantile(per_freedom: Array) -> Array:
    """The 97.5% quantile of Student's t, by one over its degrees of freedom, from 0 (the normal's) to 1.

    >>> [round(float(t_quantile(jnp.array(x))), 3) for x in (0.0, 1 / 30, 1.0)]
    [1.96, 2.042, 12.706]
    """
    grid = np.concatenate([[0.0], 1 / np.arange(60, 0, -1.0)])
    known = np.concatenate([[NORMAL_95], scipy.special.stdtrit(np.arange(60, 0, -1.0), 0.975)])
    return jnp.interp(per_freedom, jnp.asarray(grid), jnp.asarray(known))


def interval(value: Array, plug_in: Array, slope: Array, floor: Array) -> tuple[Array, Array]:
    """All θ >= 0 with (value - θ)² <= z² (θ slope/plug_in + floor)."""
    per_unit = jnp.square(NORMAL_95) * jnp.where(plug_in > 0, slope / jnp.where(plug_in > 0, plug_in, 1), 0)
    half = jnp.sqrt(jnp.maximum(per_unit * value + jnp.square(per_unit) / 4 + jnp.square(NORMAL_95) * floor, 0))
    centre = value + per_unit / 2
    return jnp.maximum(centre - half, 0), jnp.maximum(centre + half, 0)
