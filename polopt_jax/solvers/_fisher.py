"""The Fisher operator of any divergence, without a matrix: v -> F v."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_outputs, check_scalar, check_takes, described
from polopt_jax.dataflow import dependence
from polopt_jax.masking import accumulate
from polopt_jax.reductions import counted_parts
from polopt_jax.types import Array, ArrayLike, Batch, Divergence, Model, Outputs, Params

Operator = Callable[[Params], Params]


def _policy_map(model: Model, batch: Batch) -> Callable[[Params], Outputs]:
    """params -> the model's policy alone; what a critic says is no part of a divergence between policies."""

    def policy(params: Params) -> Outputs:
        outputs = check_outputs("a solver", model(params, batch.obs))
        if any(leaf is outputs.policy for leaf in jax.tree.leaves(outputs.policy)):
            raise TypeError(
                f"a solver differentiates the policy, which must be a pytree; it is {described(outputs.policy)}, which "
                "is none: a flax.struct.dataclass, a NamedTuple and what jax.tree_util registers are"
            )
        return Outputs(policy=outputs.policy)

    return policy


def _output_hessian(divergence: Divergence, outputs: Outputs, batch: Batch, tangent: Outputs) -> Outputs:
    """H t, with H the Hessian of `new -> divergence(outputs, new, batch)` at `new = outputs`."""
    gradient = jax.grad(lambda new: check_scalar("a divergence", divergence(outputs, new, batch)))
    return jax.jvp(gradient, (outputs,), (tangent,))[1]


def _cast_like(tree: Params, like: Params) -> Params:
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def fisher_operator(
    model: Model,
    divergence: Divergence,
    params: Params,
    batch: Batch,
    *,
    damping: ArrayLike = 0.0,
    num_microbatches: int = 1,
    axis: int = 0,
) -> Operator:
    """The matrix-vector product v -> (F + damping·I) v with the Fisher information of a divergence.

        F = Jᵀ H J,    J = ∂ policy / ∂ θ,    H = ∂² D(old ‖ new) / ∂ new² at new = old

    a generalized Gauss-Newton product: one `jax.jvp` of the model (linearised once, here), a product with H in the
    small space of the policy's parameters, one transpose. With `action_kl` it is the Fisher information per decision,
    with `trajectory_kl` per trajectory. It is symmetric, and positive semi-definite wherever H is.

    Args:
      model: `(params, obs) -> Outputs`; only `policy` is used, so a critic's own parameters have F = 0.
      divergence: any `(old, new, batch) -> scalar`; at new = old both directions of a KL give the same F.
      params: where F is taken, which is both the old and the new policy.
      batch: the states, and the mask. No action is read by the KL divergences: this is the true Fisher information,
        not the empirical one.
      damping: added to the diagonal.
      num_microbatches: shares of the rows over which a product is summed, one after the other, for the memory of one.
        The model is then evaluated again in every product. CG(10) on two layers of 256, in gradients of the whole batch
        and MB: of 65,536 decisions 9.7 and 487 at once, 9.2 and 46 in shares of 1,024; of 4,096 decisions 13.6 and 32,
        16.3 and 12 (`polopt bench solvers`). So: 1 up to some ten thousand decisions, and beyond that shares of a
        thousand or a few.
      axis: the rows' axis that they divide, 1 for preference batches `[2, N, T]`.

    Returns:
      A linear function of trees like `params`, in float32 at least whatever the dtype of the parameters.

    Raises: what the divergence raises; ValueError if the microbatches do not divide the rows, or by name if the
    divergence couples them. Source: Schraudolph 2002 (Gauss-Newton products); Martens 2014 (equality with
    the Fisher information); Schulman et al. 2015, appendix C.1.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> f = fisher_operator(model, po.action_kl, jnp.zeros(2), batch)
    >>> jax.jit(f)(jnp.array([1.0, 0.0])).tolist()      # diag(p) - p pᵀ
    [0.25, -0.25]
    """
    check_takes("a solver", "divergence", divergence, "old", "new", "batch")
    if num_microbatches > 1:
        return _summed_operator(model, divergence, params, counted_parts(batch, num_microbatches, axis=axis), damping)
    outputs, push = jax.linearize(_policy_map(model, batch), params)
    pull = jax.linear_transpose(push, params)

    def operator(v: Params) -> Params:
        curved = _output_hessian(divergence, outputs, batch, push(_cast_like(v, params)))
        (product,) = pull(curved)
        return jax.tree.map(lambda f, x: accumulate(f) + damping * accumulate(x), product, v)

    return operator


def _summed_operator(
    model: Model, divergence: Divergence, params: Params, shares: Batch, damping: ArrayLike
) -> Operator:
    """The operator of a batch that is given in shares, each divided by the counts of all."""

    def operator(v: Params) -> Params:
        def add(total: Params, share: Batch) -> tuple[Params, None]:
            return jax.tree.map(jnp.add, total, fisher_operator(model, divergence, params, share)(v)), None

        damped = jax.tree.map(lambda x: damping * accumulate(x), v)
        return jax.lax.scan(add, damped, shares)[0]

    return operator


def quadratic_form(model: Model, divergence: Divergence, params: Params, batch: Batch, v: Params) -> Array:
    """vᵀ F v, `[]`: twice the second-order estimate of the divergence that a step v makes. One `jax.jvp`, no transpose.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None]))
    >>> batch = po.Batch(obs=None, action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> form = jax.jit(lambda v: quadratic_form(model, po.action_kl, jnp.zeros(2), batch, v))
    >>> float(form(jnp.array([1.0, 0.0])))
    0.25
    """
    outputs, tangent = jax.jvp(_policy_map(model, batch), (params,), (_cast_like(v, params),))
    curved = _output_hessian(divergence, outputs, batch, tangent)
    products = jax.tree.map(lambda t, c: jnp.sum(accumulate(t) * accumulate(c)), tangent, curved)
    return jax.tree.reduce(jnp.add, products)


def policy_parameters(model: Model, params: Params, batch: Batch) -> Params:
    """A tree like `params` of Python bools: does the policy depend on this leaf? (A critic's own leaves: False.)

    Read off the program that JAX traces (`dataflow.dependence`), not off numbers, so it costs nothing at run time.

    >>> import polopt_jax as po
    >>> def model(params, obs):
    ...     return po.Outputs(policy=po.Categorical(logits=obs * params["actor"]), value=obs @ params["critic"])
    >>> batch = po.Batch(obs=jnp.ones((1, 2)), action=jnp.zeros(1, int), mask=jnp.ones(1, bool))
    >>> policy_parameters(model, {"actor": jnp.ones(2), "critic": jnp.ones(2)}, batch)
    {'actor': True, 'critic': False}
    """
    policy = _policy_map(model, batch)
    results = [True] * len(jax.tree.leaves(jax.eval_shape(policy, params)))
    return jax.tree.unflatten(jax.tree.structure(params), dependence(policy, params)(results))
