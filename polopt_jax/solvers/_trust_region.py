"""Chapter 4: TRPO. The natural gradient, scaled to a radius and checked by a line search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from polopt_jax.boundaries import check_bounded
from polopt_jax.divergences import action_kl
from polopt_jax.guards import tree_norm
from polopt_jax.ranges import Count, Nonnegative, OpenUnit, check_range
from polopt_jax.solvers._fisher import quadratic_form
from polopt_jax.solvers._natural_gradient import DAMPING, Subsample, natural_gradient, require, whole
from polopt_jax.types import Array, ArrayLike, Batch, Divergence, Metrics, Model, Objective, Outputs, Params

Constraint = tuple[Divergence, ArrayLike]


class ScaleToRadiusState(NamedTuple):
    """The factor that the last direction was multiplied by, `[]`; the largest float32 where it would overflow."""

    factor: Array

    def metrics(self) -> Metrics:
        """`natural_step_factor`."""
        return {"natural_step_factor": self.factor}


class BacktrackState(NamedTuple):
    """How the last line search ended; scalars `[]`."""

    step_size: Array
    """The share of the proposed step that was taken; 0 if none was."""
    trials: Array
    """int32: candidates evaluated."""
    accepted: Array
    """bool."""
    improvement: Array
    """Old minus new loss at the accepted point; 0 if none was."""
    divergence: Array
    """The first constraint's divergence at the accepted point; 0 if none was."""

    def metrics(self) -> Metrics:
        """`step_size`, `line_search_trials`, `line_search_accepted`, `surrogate_improvement`."""
        return {
            "step_size": self.step_size,
            "line_search_trials": self.trials,
            "line_search_accepted": self.accepted,
            "surrogate_improvement": self.improvement,
        }


def scale_to_radius(
    model: Model, divergence: Divergence = action_kl, *, radius: Nonnegative = 0.01, fisher_batch: Subsample = whole
) -> optax.GradientTransformationExtraArgs:
    """Optax transform x -> x √(2 radius / xᵀ F x): to second order, the step makes a divergence of `radius`.

    F is undamped, as in the paper (SB3-contrib and Spinning Up put the damped form here, and fall short of the
    radius). Where xᵀFx is not positive and finite the result is exactly 0. Use `update(x, state, params,
    batch=batch)`. State: `ScaleToRadiusState`. Source: Schulman et al. 2015, appendix C.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> transform, params = scale_to_radius(model, radius=0.02), jnp.zeros(2)
    >>> x, _ = transform.update(jnp.array([5.0, -5.0]), transform.init(params), params, batch=batch)
    >>> [round(u, 4) for u in x.tolist()]
    [0.2, -0.2]
    """

    check_range("scale_to_radius", Nonnegative, radius=radius)

    def update(
        updates: Any, state: Any, params: Any = None, *, batch: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleToRadiusState]:
        del state, extra_args
        require("scale_to_radius", params=params, batch=batch)
        norm = tree_norm(updates)  # measured at unit length, so that no square over- or underflows
        unit = jax.tree.map(lambda u: u / jnp.where(norm > 0, norm, 1).astype(u.dtype), updates)
        curvature = quadratic_form(model, divergence, params, fisher_batch(batch), unit)
        usable = (curvature > 0) & jnp.isfinite(curvature) & jnp.isfinite(norm)
        length = jnp.where(usable, jnp.sqrt(2 * radius / jnp.where(usable, curvature, 1)), 0)
        scaled = jax.tree.map(lambda u: jnp.where(usable, length * u, 0).astype(u.dtype), unit)
        factor = jnp.where(usable, length / jnp.where(usable, norm, 1), 0).astype(jnp.float32)
        return scaled, ScaleToRadiusState(jnp.minimum(factor, jnp.finfo(jnp.float32).max))

    return optax.GradientTransformationExtraArgs(lambda params: ScaleToRadiusState(jnp.zeros((), jnp.float32)), update)


def backtrack(
    model: Model, constraints: Sequence[Constraint], *, shrink: OpenUnit = 0.8, max_trials: Count = 10
) -> optax.GradientTransformationExtraArgs:
    """Optax transform that shortens a proposed update until it is safe, or gives it up.

    A candidate θ + shrinkⁱ·u, i = 0 .. max_trials-1, is accepted if the objective is *strictly* lower than at θ and
    every constraint holds, D(old ‖ new) <= radius, exactly on the whole batch. If none is, or if anything is NaN or
    infinite, the update is -0.0 everywhere, so that the parameters stay bit-identical (adding +0.0 would turn -0.0
    into +0.0; denormal parameters, below 1e-38 in float32, are flushed to 0 by XLA on a CPU whatever is added).

    Use `update(u, state, params, batch=batch, objective=objective)`, last in a chain. The old policy is that of
    `params`. Under `vmap` each lane keeps what it accepted. State: `BacktrackState`.

    Args:
      constraints: pairs `(divergence, radius)`; the first one's value is reported.
      shrink: factor between candidates, in (0, 1); may be traced. max_trials: a Python int.

    Raises ValueError if there is no constraint, shrink is not in (0, 1) or max_trials below 1, or an argument of
    `update` is missing. Source: Schulman et al. 2015,
    appendix C, step 3; the shrink factor and the number of trials are those of Spinning Up and SB3-contrib.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool), advantage=jnp.ones(1),
    ...                  log_prob=jnp.log(jnp.full(1, 0.5)))
    >>> search, params = backtrack(model, [(po.action_kl, 0.01)], shrink=0.5), jnp.zeros(2)
    >>> objective = po.objective(model, po.surrogate())
    >>> update = jax.jit(lambda u, state: search.update(u, state, params, batch=batch, objective=objective))
    >>> u, state = update(jnp.array([0.4, -0.4]), search.init(params))
    >>> [round(x, 3) for x in u.tolist()], float(state.step_size)
    ([0.1, -0.1], 0.25)
    """
    check_range("backtrack", OpenUnit, shrink=shrink)
    check_range("backtrack", Count, max_trials=max_trials)
    constraints = check_bounded("backtrack", "constraints", constraints, "(divergence, radius)")
    check_range("backtrack", Nonnegative, radius=tuple(radius for _, radius in constraints))
    if not constraints:
        raise ValueError("constraints must hold at least one (divergence, radius)")

    def fraction(trials: Array) -> Array:
        """Of the step, after so many trials that failed."""
        return jnp.power(jnp.asarray(shrink, float), trials.astype(float))

    def examine(old: Outputs, candidate: Params, batch: Batch, objective: Objective) -> tuple[Array, Array, Array]:
        """The candidate's loss, its first divergence, and whether every constraint holds."""
        new = model(candidate, batch.obs)
        values = [divergence(old, new, batch) for divergence, _ in constraints]
        within = jnp.all(jnp.stack([v <= radius for v, (_, radius) in zip(values, constraints, strict=True)]))
        finite = jax.tree.map(lambda x: jnp.isfinite(x).all(), candidate)
        return objective(candidate, batch)[0], values[0], within & jax.tree.reduce(jnp.logical_and, finite)

    def update(
        updates: Any, state: Any, params: Any = None, *, batch: Any = None, objective: Any = None, **extra_args: Any
    ) -> tuple[Any, BacktrackState]:
        del state, extra_args
        require("backtrack", params=params, batch=batch, objective=objective)
        old_loss, old = objective(params, batch)[0], model(params, batch.obs)

        def attempt(s: BacktrackState) -> BacktrackState:
            step_size = fraction(s.trials)
            candidate = optax.apply_updates(params, _shorten(updates, step_size))
            loss, divergence, within = examine(old, candidate, batch, objective)
            accepted = within & (loss < old_loss) & jnp.isfinite(loss)
            kept = (step_size, old_loss - loss, divergence)
            kept = [jnp.where(accepted, x, 0).astype(jnp.float32) for x in kept]
            return BacktrackState(kept[0], s.trials + 1, accepted, kept[1], kept[2])

        searching = lambda s: ~s.accepted & (s.trials < max_trials)  # noqa: E731
        end = jax.lax.while_loop(searching, attempt, _unsearched())
        taken = _shorten(updates, fraction(end.trials - 1))  # step_size is float32, also where parameters are not
        return jax.tree.map(lambda t: jnp.where(end.accepted, t, -0.0).astype(t.dtype), taken), end

    return optax.GradientTransformationExtraArgs(lambda params: _unsearched(), update)


def _shorten(updates: Any, step_size: Array) -> Any:
    return jax.tree.map(lambda u: u * step_size.astype(u.dtype), updates)


def _unsearched() -> BacktrackState:
    dtypes = (jnp.float32, jnp.int32, bool, jnp.float32, jnp.float32)
    return BacktrackState(*(jnp.zeros((), dtype) for dtype in dtypes))  # a buffer each: a state may be donated


def trpo(
    model: Model,
    *,
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
    """Trust Region Policy Optimization: NPG's direction, a step length, a line search.

        max_θ E[ρ A]   subject to   D(π_old ‖ π_θ) <= radius

    It *is* `optax.chain(natural_gradient(...), scale_to_radius(...), optax.scale(-1), backtrack(...))`. Drive it with
    the gradient of `objective(model, surrogate())` on a full batch and
    `update(grads, state, params, batch=batch, objective=objective)`; the old policy is that of `params`.

    An accepted step lowers the surrogate loss strictly and keeps every constraint exactly; a rejected one leaves the
    parameters bit-identical. Neither is the monotonic improvement of the *return* that the theory's penalty gives.

    Args:
      divergence, radius: what is bounded, and by how much (nats per decision with `action_kl`,
        the paper's KL(old ‖ new)).
      damping, cg_iters, fisher_batch, num_microbatches: as `natural_gradient`; the step length uses the undamped F on
        the same rows.
      constraints: further `(divergence, radius)` pairs that the line search must keep.
      shrink, max_trials: as `backtrack`.

    Differs from the paper: F is damped in the solve (as in its code).
    Source: Schulman et al. 2015, "Trust region policy optimization", section 6 and appendix C.

    >>> import optax, polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool), advantage=jnp.ones(1),
    ...                  log_prob=jnp.log(jnp.full(1, 0.5)))
    >>> loss, params = po.objective(model, po.surrogate()), jnp.zeros(2)
    >>> optimizer = trpo(model, radius=0.01)
    >>> def step(params, state):
    ...     grads = jax.grad(lambda p: loss(p, batch)[0])(params)
    ...     return optimizer.update(grads, state, params, batch=batch, objective=loss)
    >>> updates, state = jax.jit(step)(params, optimizer.init(params))
    >>> bool(state[-1].accepted), 0.009 < float(state[-1].divergence) <= 0.01
    (True, True)
    """
    constraints = check_bounded("trpo", "constraints", constraints, "(divergence, radius)")
    return optax.chain(
        natural_gradient(
            model,
            divergence,
            damping=damping,
            cg_iters=cg_iters,
            fisher_batch=fisher_batch,
            num_microbatches=num_microbatches,
        ),
        scale_to_radius(model, divergence, radius=radius, fisher_batch=fisher_batch),
        optax.scale(-1.0),
        backtrack(model, [(divergence, radius), *constraints], shrink=shrink, max_trials=max_trials),
    )
