"""A variant of chapter 6: f-DPO, for penalties other than the reverse KL to the reference."""

from __future__ import annotations

from collections.abc import Callable

from polopt_jax.objectives._preference import preference
from polopt_jax.objectives._scores import summed_log_ratio
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.surrogates import bradley_terry
from polopt_jax.types import Array, Batch, Term


def f_dpo(slope: Callable[[Array], Array], *, beta: Nonnegative = 0.1) -> Term:
    """Direct Preference Optimization under another divergence from the reference.

        L(θ) = -E[ log σ(β f'(u_c) - β f'(u_r)) ],    log u = Σ_t log π_θ/ref

    u_c and u_r are those of the chosen and of the rejected row. The reward that a policy is optimal for is β f'(u) up
    to a constant, where the penalty is β times the f-divergence E_ref[f(u)]. With f = u log u it is `dpo`.

    Args:
      slope: f' as a function of the log-ratio log u, elementwise, up to a constant: `surrogates.reverse_kl_slope`
        (DPO), `jensen_shannon_slope`, `alpha_slope` (the forward KL at its default α = 1) or one of your own.
      beta: strength of the penalty. May be traced.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected): `preference` with the Bradley-Terry link and the
      slope as score. Reads `action, ref_log_prob, mask`. Metrics: `accuracy`, `margin`, `chosen_log_ratio`,
      `rejected_log_ratio` (mean *slopes*: log-ratios only for the reverse KL), `num_valid`, as `preference`.

    Raises: ValueError if beta is negative or NaN (where it is concrete), and at trace time if the mask is not [2, N,
    T], or a field is missing or has another shape.

    Differs from the paper: α-divergences go on along a tangent for rows that have become e^20 times less probable.
    TRL's coefficient of an α-divergence is 1 - α here.

    Source: Wang et al. 2023, "Beyond reverse KL: Generalizing direct preference optimization with diverse divergence
    constraints".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4))))
    >>> round(float(f_dpo(po.surrogates.jensen_shannon_slope)(outputs, batch)[0]), 6)
    0.693147
    """
    check_range("f_dpo", Nonnegative, beta=beta)

    def score(caller: str, log_prob: Array, batch: Batch) -> Array:
        return slope(summed_log_ratio(caller, log_prob, batch))

    return preference(bradley_terry, score, beta=beta, caller="f_dpo")
