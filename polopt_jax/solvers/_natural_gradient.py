"""Chapter 3: the natural policy gradient, as an optimizer rather than a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from polopt_jax.divergences import action_kl
from polopt_jax.guards import tree_norm
from polopt_jax.ranges import AtLeastOne, Count, Nonnegative, check_range
from polopt_jax.raveling import Raveled
from polopt_jax.solvers._conjugate_gradient import CGInfo, CGStatus, conjugate_gradient
from polopt_jax.solvers._fisher import fisher_operator, policy_parameters
from polopt_jax.types import ArrayLike, Batch, Divergence, Metrics, Model

Subsample = Callable[[Batch], Batch]


DAMPING = 1e-2
"""Tikhonov term of the Fisher solve, in units of F. That of OpenAI baselines (`trpo_mpi`)."""


class NaturalGradientState(NamedTuple):
    """How the last solve went; nothing of it is used by the next."""

    solve: CGInfo

    def metrics(self) -> Metrics:
        """`cg_iterations`, `cg_residual`, and `cg_failed`: the solve met a curvature that is not positive, or a NaN."""
        failures = (CGStatus.NONPOSITIVE_CURVATURE, CGStatus.NONFINITE)
        return {
            "cg_iterations": self.solve.iterations,
            "cg_residual": self.solve.residual,
            "cg_failed": (self.solve.status == failures[0]) | (self.solve.status == failures[1]),
        }


def whole(batch: Batch) -> Batch:
    """The batch itself: the Fisher information is estimated on every row."""
    return batch


def every(k: int) -> Subsample:
    """Every k-th row of a batch, to estimate the Fisher information on fewer.

    Rows are counted along the last axis before T, whose entries are exchangeable in every kind of batch: environments
    of `[B, T]`, attempts at each prompt of `[N, G, T]`, pairs of `[2, N, T]`. Raises ValueError if k is not positive
    or the batch has no row axis or fewer than k rows along it.

    >>> import polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((10, 1)), action=jnp.zeros((10, 1), int), mask=jnp.ones((10, 1), bool))
    >>> every(5)(batch).mask.shape
    (2, 1)
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; it is {k}")

    def subsample(batch: Batch) -> Batch:
        shape = batch.mask.shape
        if len(shape) < 2 or shape[-2] < k:
            raise ValueError(f"every({k}) needs at least {k} rows along the axis before T; mask has {shape}")
        axis = len(shape) - 2
        take = lambda x: jax.lax.slice_in_dim(x, 0, None, stride=k, axis=axis)  # noqa: E731
        return jax.tree.map(take, replace(batch, counts=None))

    return subsample


def natural_gradient(
    model: Model,
    divergence: Divergence = action_kl,
    *,
    damping: Nonnegative = DAMPING,
    cg_iters: ArrayLike = 10,
    cg_tol: ArrayLike = 1e-10,
    fisher_batch: Subsample = whole,
    num_microbatches: Count = 1,
) -> optax.GradientTransformationExtraArgs:
    """Optax transform g -> x with (F + damping·I) x = g, by conjugate gradients on Fisher-vector products.

    F is the Fisher information of `divergence` at the parameters passed to `update`, over `batch`. Parameters that
    the policy does not depend on (a critic's) get an update of exactly 0, whatever their gradient: F says nothing of
    them, and dividing their gradient by the damping would be no step of anything.

    Use `update(grads, state, params, batch=batch)`; other extra arguments are ignored. State: `NaturalGradientState`
    with the solver's diagnostics. A solve that meets a NaN returns its last finite iterate, 0 if there is none.

    Args:
      model, divergence: as `fisher_operator`.
      damping: Tikhonov term, in units of F (per decision with `action_kl`).
      cg_iters, cg_tol: limit and relative tolerance of the solve.
      fisher_batch: the rows that F is estimated on, `every(5)` for a fifth; the gradient stays on the full batch.
      num_microbatches: shares of those rows (of the first axis) that products with F are summed over, for the memory of
        one; `fisher_operator` says when.

    Raises ValueError if `params` or `batch` is missing, damping is negative or cg_iters below 1.

    Source: Amari 1998; Kakade 2001.

    >>> import optax, polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> transform, params = natural_gradient(model, damping=0.0), jnp.zeros(2)
    >>> update = jax.jit(lambda g, state: transform.update(g, state, params, batch=batch))
    >>> x, state = update(jnp.array([0.25, -0.25]), transform.init(params))
    >>> x.round(4).tolist()
    [0.5, -0.5]
    """

    check_range("natural_gradient", Nonnegative, damping=damping)
    check_range("natural_gradient", AtLeastOne, cg_iters=cg_iters)

    def init(params: Any) -> NaturalGradientState:
        none, dtype = jnp.zeros((), jnp.int32), jax.eval_shape(tree_norm, params).dtype  # that of the solve's sums
        solve = CGInfo(none, jnp.zeros((), dtype), jnp.zeros((), dtype), jnp.full((), CGStatus.CONVERGED, jnp.int32))
        return NaturalGradientState(solve)

    def update(
        updates: Any, state: Any, params: Any = None, *, batch: Any = None, **extra_args: Any
    ) -> tuple[Any, NaturalGradientState]:
        del state, extra_args
        require("natural_gradient", params=params, batch=batch)
        of_policy = policy_parameters(model, params, batch)
        grads = jax.tree.map(lambda g, own: g if own else jnp.zeros_like(g), updates, of_policy)
        fisher = fisher_operator(
            model, divergence, params, fisher_batch(batch), damping=damping, num_microbatches=num_microbatches
        )
        x, solve = conjugate_gradient(fisher, grads, iters=cg_iters, tol=cg_tol)
        return x, NaturalGradientState(solve)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_left_out(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def require(caller: str, **arguments: Any) -> None:
    """Raises ValueError naming the first argument that is None, TypeError if parameters are one vector, or not all."""
    for name, value in arguments.items():
        if isinstance(value, Raveled):
            raise TypeError(f"{caller} asks the model, which takes {name} as a tree: it cannot stand within raveled")
        if any(map(_is_left_out, jax.tree.leaves(value, is_leaf=_is_left_out))):
            raise TypeError(
                f"{caller} asks the model, which takes all of {name}: it cannot stand within optax.masked or "
                "multi_transform. What has optimizers of its own is a phase: make_step(policy=(...), critic=(...))"
            )
        if value is None:
            raise ValueError(
                f"{caller} needs {name}: call update(grads, state, params, batch=batch, objective=objective)"
            )


def npg(
    model: Model,
    *,
    divergence: Divergence = action_kl,
    learning_rate: ArrayLike | optax.Schedule = 0.1,
    damping: Nonnegative = DAMPING,
    cg_iters: ArrayLike = 10,
    fisher_batch: Subsample = whole,
    num_microbatches: Count = 1,
) -> optax.GradientTransformationExtraArgs:
    """Natural policy gradient: θ ← θ - learning_rate · (F + damping·I)⁻¹ ∇L.

    An optax chain of `natural_gradient` and a scale; drive it with the gradient of `surrogate()` or `reinforce()`
    and `update(grads, state, params, batch=batch)`. A fixed learning rate has no unit of KL: `trpo` without its line
    search is the step normalised to a radius.

    Arguments as `natural_gradient`. Differs from the paper: F is damped, and the solve truncated.
    Source: Kakade 2001, "A natural policy gradient".

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> optimizer, params = npg(model, learning_rate=1.0, damping=0.0), jnp.zeros(2)
    >>> optimizer.update(jnp.array([0.25, -0.25]), optimizer.init(params), params, batch=batch)[0].round(4).tolist()
    [-0.5, 0.5]
    """
    return optax.chain(
        natural_gradient(
            model,
            divergence,
            damping=damping,
            cg_iters=cg_iters,
            fisher_batch=fisher_batch,
            num_microbatches=num_microbatches,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
