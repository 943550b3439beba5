"""Chapter 4, with costs: constrained policy optimization. What a step may cost is held as the surrogate is raised."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from polopt_jax.boundaries import check_bounded, check_outputs, check_scalar
from polopt_jax.divergences import action_kl
from polopt_jax.masking import accumulate
from polopt_jax.ranges import Count, Nonnegative, OpenUnit, check_range
from polopt_jax.solvers._natural_gradient import (
    DAMPING,
    NaturalGradientState,
    Subsample,
    natural_gradient,
    require,
    whole,
)
from polopt_jax.solvers._trust_region import BacktrackState, Constraint, backtrack
from polopt_jax.types import Array, ArrayLike, Batch, Divergence, Metrics, Model, Outputs, Params, Term

Cost = tuple[Term, ArrayLike]
"""What must not become large, as a term, and how large it may be at most."""

MOST_COSTS = 6
"""Every subset of the costs is tried as the ones that a step stops at."""

_ROUNDING = 1e-5
"""What single precision leaves of a length of 1."""


class ConstrainedState(NamedTuple):
    """How the last step came about; with m costs."""

    excess: Array
    """Each cost above its limit before the step, float32 `[m]`; below 0 it is kept."""
    reachable: Array
    """Bool: some step within the radius keeps every linearised limit. If not, the step only lowers costs."""
    solves: NaturalGradientState
    """Of the m + 1 solves, leading axis `[m + 1]`: the gradient's, then each cost's."""
    search: BacktrackState
    """Its improvement is that of the surrogate, or of what the costs are above their limits if any was."""

    def metrics(self) -> Metrics:
        """Those of `BacktrackState`, `costs_above` (how many were), `costs_reachable`, and the worst of the solves."""
        return {
            **{name: x.max() for name, x in self.solves.metrics().items()},
            **self.search.metrics(),
            "costs_above": (self.excess > 0).sum(),
            "costs_reachable": self.reachable,
        }


def mixture_within(gram: Array, excess: Array, radius: ArrayLike) -> tuple[Array, Array]:
    """The best step in the span of a gradient and of m costs' gradients, and whether it keeps the costs' limits.

        min_x gᵀx   subject to   c + Bᵀx <= 0,   ½ xᵀFx <= radius

    Its solution is x = -Σ_i a_i F⁻¹v_i with v = (g, b_1 .. b_m). For each subset of the costs that it may stop at there
    is a closed form; of those that keep the other limits too the one that goes furthest is the solution. If none does,
    a_0 = 0 and a_j = max(c_j, 0), each in units of its own gradient's length, up to the radius: the step lowers the
    costs that are above their limits, and nothing else. A cost whose gradient is 0 is out of reach, and is left out.
    What is not finite makes every a NaN.

    Args:
      gram: v_iᵀ F⁻¹ v_j, `[m + 1, m + 1]`. excess: c, cost minus limit, `[m]`.
      radius: in units of ½ xᵀFx.

    Returns:
      `(a [m + 1], reachable [])`.

    Source: Achiam et al. 2017, theorem 2, for one cost; its equation 14 is the case of no solution.

    >>> gram = jnp.array([[1.0, -0.6], [-0.6, 1.0]])    # down the gradient the cost rises
    >>> for excess in (-9.0, 0.0, 9.0):                 # far below its limit, at it, too far above it to come back
    ...     a, reachable = jax.jit(mixture_within)(gram, jnp.array([excess]), 0.5)
    ...     print(a.round(2).tolist(), bool(reachable))
    [1.0, 0.0] True
    [1.25, 0.75] True
    [0.0, 1.0] False
    """
    length = jnp.sqrt(jnp.maximum(jnp.diag(gram), 0))
    has_length = length > 0
    unit = jnp.where(has_length, length, 1)
    cosines = gram / unit / unit[:, None]
    along, among = cosines[0, 1:], cosines[1:, 1:]
    above = jnp.where(has_length[1:], excess / unit[1:], -jnp.inf)
    room = 2 * jnp.asarray(radius)

    def stopping(at: Array) -> tuple[Array, Array]:
        """The solution with equality at the costs of a subset `[m]`, and how far down it goes; -inf if it is none."""
        system = jnp.where(at[:, None] & at, among, jnp.eye(at.size))
        there = jnp.where(at, above, 0)
        back, aside = jnp.linalg.solve(system, jnp.stack([there, jnp.where(at, along, 0)], 1)).T
        left, free = room - back @ there, 1 - aside @ along
        forward = jnp.where(free > _ROUNDING, jnp.sqrt(jnp.maximum(left, 0) / jnp.maximum(free, _ROUNDING)), 0)
        shares = back - forward * aside
        end = above - among @ shares - forward * along
        keeps = (left >= 0) & jnp.where(at, has_length[1:], end <= _ROUNDING * jnp.sqrt(room)).all()
        down = forward + along @ shares
        return jnp.append(forward, shares), jnp.where(keeps & jnp.isfinite(down), down, -jnp.inf)

    subsets = jnp.asarray(np.array(list(itertools.product((False, True), repeat=excess.size))))
    solutions, down = jax.vmap(stopping)(subsets)
    reachable = (down > -jnp.inf).any()
    worst = jnp.maximum(above, 0)
    norm = jnp.sqrt(jnp.maximum(worst @ among @ worst, 0))
    back = worst * jnp.sqrt(room) / jnp.where(norm > 0, norm, 1)
    mixture = jnp.where(reachable, solutions[down.argmax()], jnp.insert(back, 0, 0)) / unit
    is_finite = jnp.isfinite(gram).all() & jnp.isfinite(excess).all()
    return jnp.where(is_finite, mixture, jnp.nan), reachable & is_finite


def constrained_trpo(
    model: Model,
    *,
    costs: Sequence[Cost],
    divergence: Divergence = action_kl,
    radius: Nonnegative = 0.01,
    damping: Nonnegative = DAMPING,
    cg_iters: ArrayLike = 10,
    constraints: Sequence[Constraint] = (),
    shrink: OpenUnit = 0.8,
    max_trials: Count = 10,
    fisher_batch: Subsample = whole,
    num_microbatches: Count = 1,
) -> optax.GradientTransformationExtraArgs:
    """Constrained policy optimization (CPO): TRPO that holds what it costs below limits.

        max_θ E[ρ A]   subject to   D(π_old ‖ π_θ) <= radius   and   C_j(θ) <= limit_j,  j = 1 .. m

    Surrogate and costs are linearised, the divergence is taken to second order; `mixture_within` has the step. Where
    costs are above their limits it comes back to them, as far as the radius allows; the surrogate rises by what is left
    of it. Then a line search shortens the step until the divergence is within the radius and each cost is no higher
    than its limit (to 1e-5 of it), or than before where it was above; if all were within, the surrogate must rise, else
    what they are above must fall. If no candidate does, the parameters stay bit-identical.

    One-sided: a cost may fall as far as it likes. To hold an outcome on both sides, use a divergence of outcomes.

    Args:
      costs: pairs `(term, limit)`, at most six; the term's loss is what must stay low, `outcomes.outcome_mean(of=...)`
        for the expected cost of an episode or the rate of a side effect. Limits may be traced.
      constraints, divergence, radius, damping, cg_iters, shrink, max_trials, fisher_batch, num_microbatches: as `trpo`.

    Use it as `trpo`. State: `ConstrainedState`. Costs m + 1 solves side by side, and in the line search nothing but the
    terms. Raises ValueError if there is no cost or more than six.

    Differs from the paper: several costs, each of which is estimated as its term does it rather than from a critic of
    costs; the step's length is taken in the damped metric, in which it is solved, so that it is a little shorter than
    `trpo`'s where no cost is near its limit. Source: Achiam et al. 2017, "Constrained policy optimization".

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.stack([params] * 4)[:, None]))
    >>> batch = po.Batch(obs=None, action=jnp.array([[0], [1], [2], [2]]), mask=jnp.ones((4, 1), bool),
    ...                  advantage=jnp.array([[-1.0], [0.0], [1.0], [1.0]]), log_prob=jnp.log(jnp.full((4, 1), 1 / 3)),
    ...                  outcome=jnp.array([0, 0, 1, 1]))
    >>> loss, params = po.objective(model, po.surrogate()), jnp.zeros(3)
    >>> optimizer = constrained_trpo(model, costs=[(outcomes.outcome_mean(), 0.5)])     # it is 0.5 already
    >>> def step(params, state):
    ...     grads = jax.grad(lambda p: loss(p, batch)[0])(params)
    ...     return optimizer.update(grads, state, params, batch=batch, objective=loss)
    >>> updates, state = jax.jit(step)(params, optimizer.init(params))
    >>> (updates[1] > updates[0]).item(), abs(updates[2] - updates[:2].mean()).item() < 0.02
    (True, True)
    """
    check_range("constrained_trpo", Nonnegative, radius=radius)
    constraints = check_bounded("constrained_trpo", "constraints", constraints, "(divergence, radius)")
    costs = check_bounded("constrained_trpo", "costs", costs, "(term, limit)")
    if not 1 <= len(costs) <= MOST_COSTS:
        raise ValueError(f"costs must hold 1 to {MOST_COSTS} pairs (term, limit); it has {len(costs)}")
    solve: Any = natural_gradient(
        model,
        divergence,
        damping=damping,
        cg_iters=cg_iters,
        fisher_batch=fisher_batch,
        num_microbatches=num_microbatches,
    )
    held = [(divergence, radius), *constraints, *((_rise(term, limit), 0.0) for term, limit in costs)]
    search: Any = backtrack(model, held, shrink=shrink, max_trials=max_trials)

    def init(params: Any) -> ConstrainedState:
        solves = jax.tree.map(lambda x: jnp.stack([x] * (len(costs) + 1)), solve.init(params))
        return ConstrainedState(jnp.zeros(len(costs), jnp.float32), jnp.zeros((), bool), solves, search.init(params))

    def update(
        updates: Any, state: Any, params: Any = None, *, batch: Any = None, objective: Any = None, **extra_args: Any
    ) -> tuple[Any, ConstrainedState]:
        del extra_args
        require("constrained_trpo", params=params, batch=batch, objective=objective)

        limits = jnp.stack([jnp.asarray(limit, jnp.float32) for _, limit in costs])

        def spent(params: Params) -> Array:
            outputs = check_outputs("constrained_trpo", model(params, batch.obs))
            return jnp.stack([_cost(term, outputs, batch) for term, _ in costs])

        before, pull = jax.vjp(spent, params)
        excess = before - limits
        (of_costs,) = jax.vmap(pull)(jnp.eye(len(costs), dtype=before.dtype))
        gradients = jax.tree.map(lambda g, b: accumulate(jnp.concatenate([g[None], b])), updates, of_costs)
        solved, solves = jax.vmap(lambda v: solve.update(v, state.solves, params, batch=batch))(gradients)
        products = jax.tree.map(lambda v, x: jnp.einsum("i...,j...->ij", v, accumulate(x)), gradients, solved)
        gram = jax.tree.reduce(jnp.add, products)
        # what every row costs alike has a gradient of rounding errors; a NaN is felt, and refused by the search
        is_felt = ~(jnp.diag(gram)[1:] <= jnp.square(_ROUNDING * before))
        felt = jnp.insert(is_felt, 0, values=True)
        mixture, reachable = mixture_within(jnp.where(felt & felt[:, None], gram + gram.T, 0) / 2, excess, radius)
        step = jax.tree.map(lambda x, u: -jnp.tensordot(mixture, x, 1).astype(u.dtype), solved, updates)
        is_above = (excess > 0) & is_felt

        def improved(params: Params, batch: Batch) -> tuple[Array, Any]:
            loss, aux = objective(params, batch)
            above = jnp.where(is_above, jnp.maximum(spent(params) - limits, 0), 0).sum()
            return jnp.where(is_above.any(), above, loss), aux

        step, searched = search.update(step, state.search, params, batch=batch, objective=improved)
        return step, ConstrainedState(excess.astype(jnp.float32), reachable, solves, searched)

    return optax.GradientTransformationExtraArgs(init, update)


def _cost(term: Term, outputs: Outputs, batch: Batch) -> Array:
    return check_scalar("a cost", term(outputs, batch)[0])


def _rise(term: Term, limit: ArrayLike) -> Divergence:
    """How far a cost is above its limit, or above where it was if that is higher, to rounding."""

    def rise(old: Outputs, new: Outputs, batch: Batch) -> Array:
        most = jnp.maximum(limit, _cost(term, old, batch))
        return _cost(term, new, batch) - most - _ROUNDING * jnp.abs(most)

    return rise
