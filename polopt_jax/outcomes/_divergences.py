"""Divergences between the laws of outcomes, before and after: `divergence(old, new, batch)` as every other.

    D_out = D( P_old(o) ‖ P_new(o) ),    P(o) = Σ_g w_g 1[o_g = o],    w_g ∝ π(row g) / behaviour(row g)

What they measure is a choice of `of`: with the success, D_s; with the side effects, the marginal D_z, which is the one
to hold; with both (`joint`), D_out. Direction is the order of the arguments, `reverse` swaps. Per trajectory, in nats.
Every estimate here is the plug-in one: never negative, exactly 0 at new = old, with a positive semi-definite Hessian
there, so that it can be stepped on. Both laws are of the same rows, so that what differs between rows of one outcome
biases it upwards, by up to about K/G times that, and a ratio that the outcome alone decides downwards, by about its
variance over 2G: a rate that goes from .03 to .2, 0.130 nats, comes out 0.0075 too low from 64 rows (from .3 to .5,
0.0015). To report, use `outcome_estimate`.

Hold the law of what is rewarded only with advantages that are a function of the whole row (GAE with λ = 1, a group's).
With λ < 1 the gradient has a part that is no outcome's score; it passes the region, and success was seen to fall.
"""

from __future__ import annotations

import jax.numpy as jnp

from polopt_jax.combinators import couples_rows
from polopt_jax.divergences import weighted_divergence
from polopt_jax.outcomes._laws import Between, chi_square, jensen_shannon, kl, log_law, total_variation
from polopt_jax.outcomes._rows import (
    CellsOf,
    Rows,
    as_cells,
    check_number,
    has_law,
    identity,
    joint_cells,
    law_mean,
    read_cells,
    read_rows,
)
from polopt_jax.types import Array, Batch, Divergence, Outputs


def between_laws(caller: str, rows: Rows, num_outcomes: int, between: Between) -> Array:
    """D(P_old ‖ P_new), mean over prompts with two rows or more, `[]`."""
    old, new = (log_law(rows.outcome, num_outcomes, log_weights=w, real=rows.real) for w in (rows.old, rows.new))
    return law_mean(jnp.where(has_law(rows.real), between(old, new), 0), rows.real)


def outcome_divergence(
    num_outcomes: int, *, between: Between, of: CellsOf = identity, caller: str = "outcome_divergence"
) -> Divergence:
    """Any divergence between the laws of outcomes; `outcome_kl` and its siblings are members.

    Args:
      num_outcomes: K, the number of cells.
      of: which cell a row is in, given `batch.outcome`; the outcome itself by default. See `joint`.
      between: a function of two log-laws, `kl` for instance.
      caller: the name that errors give.

    Returns:
      A divergence, to be called with whole rows `[..., G, T]`: G attempts at each of the prompts before, whose laws are
      compared prompt by prompt and then averaged, over the prompts that have two real rows: of one alone no law moves.
      Reads `action, log_prob, mask, outcome`, and `sampler_log_prob` instead of `log_prob` where that is present. NaN
      if a row is in no cell. Couples rows.

    Raises (at trace time): ValueError if a field is missing or has another shape, each prompt has one row alone, or
    `num_outcomes` is no whole number; TypeError if cells are no integers, or `of` no function.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> hellinger = lambda log_p, log_q: jnp.sum((jnp.exp(log_p / 2) - jnp.exp(log_q / 2)) ** 2, axis=-1)
    >>> divergence = outcomes.outcome_divergence(2, between=hellinger)
    """

    check_number(caller, num_outcomes)

    def divergence(old: Outputs, new: Outputs, batch: Batch) -> Array:
        return between_laws(
            caller, read_rows(caller, old, new, batch, read_cells(caller, batch, of)), num_outcomes, between
        )

    divergence.__name__ = caller
    return couples_rows(divergence)


def outcome_kl(num_outcomes: int, *, of: CellsOf = identity) -> Divergence:
    """KL(P_old(o) ‖ P_new(o)) between the laws of outcomes, in nats per trajectory.

    Its Fisher operator is the outcome Fisher SᵀP S/G (S: scores of the rows, centred; P: averaging within a cell): rank
    at most K - 1 a prompt, so add it to that of `trajectory_kl` (`weighted_divergence`) or bound it, and do not invert
    it alone. At most the KL of the rows' own laws, on the same weights, whatever the features.

    Arguments and errors: as `outcome_divergence`. Reads `action, log_prob, mask, outcome, sampler_log_prob`.
    Source: the outcome score E[S | o] is Fisher's identity;
    natural gradients in a space of behaviours: Moskovitz et al. 2020.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 2))))
    >>> batch = po.Batch(obs=jnp.zeros((4, 1)), action=jnp.array([[0], [0], [1], [1]]), mask=jnp.ones((4, 1), bool),
    ...                  log_prob=jnp.log(jnp.full((4, 1), 0.5)), outcome=jnp.array([0, 0, 1, 1]))
    >>> old, new = (model(jnp.log(jnp.array(p)), batch.obs) for p in ([0.5, 0.5], [0.25, 0.75]))
    >>> round(float(outcomes.outcome_kl(2)(old, new, batch)), 4)
    0.1438
    """
    return outcome_divergence(num_outcomes, of=of, between=kl, caller="outcome_kl")


def outcome_tv(num_outcomes: int, *, of: CellsOf = identity) -> Divergence:
    """Total variation between the laws of outcomes, in [0, 1]: the largest change of the probability of any event.

    Its second derivative at new = old does not exist: bound it and report it, do not precondition with it.
    Arguments and errors: as `outcome_divergence`. Reads `action, log_prob, mask, outcome, sampler_log_prob`.

    >>> from polopt_jax import outcomes
    >>> constraint = (outcomes.outcome_tv(4, of=outcomes.joint(success=2, vase=2)), 0.01)
    """
    return outcome_divergence(num_outcomes, of=of, between=total_variation, caller="outcome_tv")


def outcome_js(num_outcomes: int, *, of: CellsOf = identity) -> Divergence:
    """Jensen-Shannon divergence between the laws of outcomes, in nats, at most log 2; symmetric.

    To second order a quarter of the KL.
    Arguments and errors: as `outcome_divergence`. Reads `action, log_prob, mask, outcome, sampler_log_prob`.
    Source: Lin 1991.

    >>> from polopt_jax import outcomes
    >>> divergence = outcomes.outcome_js(2, of=lambda outcome: outcome["vase"])
    """
    return outcome_divergence(num_outcomes, of=of, between=jensen_shannon, caller="outcome_js")


def outcome_chi2(num_outcomes: int, *, of: CellsOf = identity) -> Divergence:
    """χ²(P_old(o) ‖ P_new(o)) between the laws of outcomes; to second order twice the KL.

    Arguments and errors: as `outcome_divergence`. Reads `action, log_prob, mask, outcome, sampler_log_prob`.

    >>> from polopt_jax import outcomes
    >>> divergence = outcomes.outcome_chi2(2, of=lambda outcome: outcome["vase"])
    """
    return outcome_divergence(num_outcomes, of=of, between=chi_square, caller="outcome_chi2")


def conditional_outcome_kl(num_outcomes: int, num_given: int, *, of: CellsOf, given: CellsOf) -> Divergence:
    """KL between the laws of `of` given `given`, averaged over P_old(given): D_{z|s} = D_{(s,z)} - D_s.

    Zero for the Outcome Pump, whose side effects given success stay what they were, and largest for a method that
    protects them: use it for side effects that success entails, and the marginal, `outcome_kl(of=side effect)`, to
    hold them. Arguments: K cells of `of`, S cells of `given`; errors as `outcome_divergence`.
    Reads `action, log_prob, mask, outcome, sampler_log_prob`.

    >>> from polopt_jax import outcomes
    >>> divergence = outcomes.conditional_outcome_kl(2, 2, of=lambda o: o["vase"], given=lambda o: o["success"])
    """

    def both(outcome: dict[str, Array]) -> Array:
        named = {"given": given(outcome), "of": of(outcome)}
        both = [as_cells("conditional_outcome_kl", f"{name}(batch.outcome)", x) for name, x in named.items()]
        return joint_cells(both[0], num_given, both[1], num_outcomes)

    both_kl = outcome_divergence(num_given * num_outcomes, of=both, between=kl, caller="conditional_outcome_kl")
    given_kl = outcome_divergence(num_given, of=given, between=kl, caller="conditional_outcome_kl")
    return weighted_divergence(both=(1.0, both_kl), given=(-1.0, given_kl))
