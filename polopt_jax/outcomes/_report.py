"""One table of how far an update moved the policy: over actions, over trajectories, over outcomes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.fields import with_fields
from polopt_jax.masking import masked_sum
from polopt_jax.outcomes._estimates import of_cells
from polopt_jax.outcomes._intervals import Estimate, estimate_rows
from polopt_jax.outcomes._laws import Between, kl, kl_of_logits, log_law, log_sum
from polopt_jax.outcomes._rows import (
    CellsOf,
    Rows,
    as_cells,
    joint_cells,
    law_mean,
    prompt_mean,
    read_cells,
    read_rows,
    weights,
)
from polopt_jax.reading import read_policy
from polopt_jax.types import Array, Batch, Metrics, Model, Params, record


@with_fields
@record
class Shift:
    """How far one policy is from another, D(first ‖ second), the rows weighted as the first policy's. Scalars `[]`."""

    action_kl: Array
    """D_action, exact in the actions, nats per decision."""
    trajectory_kl: Array
    """D_traj = Σ_t KL(·|h_t), exact in the actions, nats per trajectory: the sum of what moved at every decision."""
    rows_kl: Array
    """D_traj once more, as the plug-in KL between the weights of the rows; on the same weights D_out cannot exceed it.
    """
    outcome: Estimate
    """D_out, of success and side effects together."""
    success: Estimate
    """D_s."""
    side_effect: Estimate
    """D_z, the marginal: the one to hold."""
    side_effect_given_success: Estimate
    """D_{z|s} = D_out - D_s."""

    @property
    def leverage(self) -> Array:
        """D_out/D_traj on the same weights, in [0, 1]. A diagnostic and no alarm: the exact Outcome Pump has 1."""
        return self.outcome.plug_in / jnp.where(self.rows_kl > 0, self.rows_kl, 1)

    @property
    def chain_gap(self) -> Array:
        """D_traj - D_out >= 0 on the same weights: what moved in the rows without moving an outcome."""
        return self.rows_kl - self.outcome.plug_in


@with_fields
@record
class OutcomeReport:
    """What `outcome_report` found."""

    old_new: Shift
    """D(old ‖ new): what a trust region bounds."""
    new_old: Shift
    """D(new ‖ old): what is compared with the projections of a reference (`pump`, `ipf`)."""
    success_rate_old: Array
    success_rate_new: Array
    side_effect_law_old: Array
    """`[Z]`"""
    side_effect_law_new: Array
    """`[Z]`"""

    def metrics(self) -> Metrics:
        """Every number by name: `old_new/action_kl`, `new_old/side_effect`, `new_old/side_effect_low`, ..."""
        flat = {"success_rate_old": self.success_rate_old, "success_rate_new": self.success_rate_new}
        for when in ("old", "new"):
            of = getattr(self, f"side_effect_law_{when}")
            flat |= {f"side_effect_{z}_{when}": of[z] for z in range(of.shape[0])}
        for direction in ("old_new", "new_old"):
            flat |= {f"{direction}/{name}": x for name, x in _flat(getattr(self, direction)).items()}
        return flat

    def __str__(self) -> str:
        lines = [
            f"success {float(self.success_rate_old):.3g} -> {float(self.success_rate_new):.3g}; side effects "
            f"{_law_text(self.side_effect_law_old)} -> {_law_text(self.side_effect_law_new)}"
        ]
        for direction, name in (("old_new", "D(old ‖ new)"), ("new_old", "D(new ‖ old)")):
            shift = getattr(self, direction)
            lines.append(f"{name}, nats; leverage {float(shift.leverage):.2g}")
            for field in dataclasses.fields(shift):
                value = getattr(shift, field.name)
                text = str(value) if isinstance(value, Estimate) else f"{float(value):.4g}"
                lines.append(f"  {field.name:<26}{text}")
        return "\n".join(lines)


def _law_text(law: Array) -> str:
    return "(" + ", ".join(f"{float(p):.3g}" for p in law) + ")"


def _flat(shift: Shift) -> Metrics:
    flat = {"leverage": shift.leverage, "chain_gap": shift.chain_gap}
    for field in dataclasses.fields(shift):
        value = getattr(shift, field.name)
        if isinstance(value, Estimate):
            parts = {f"{field.name}_{part.name}": getattr(value, part.name) for part in dataclasses.fields(value)}
            flat |= {name.removesuffix("_value"): x for name, x in parts.items()}
        else:
            flat[field.name] = value
    return flat


def outcome_report(
    model: Model,
    old: Params,
    new: Params,
    batch: Batch,
    *,
    success: CellsOf,
    side_effect: CellsOf,
    num_side_effects: int = 2,
) -> OutcomeReport:
    """How far the policy moved from parameters `old` to `new`, over actions, trajectories and outcomes.

    D_action, D_traj, D_out, D_s, D_z, D_{z|s}, each in both directions, the last four with their bias taken off, a 95%
    interval, effective sample sizes and novel mass of the joint cells (`Estimate`). Between the plug-in values
    D_traj >= D_out = D_s + D_{z|s} holds exactly; not where a cell is novel, which is left out of each. Costs two
    evaluations of the policy; jit it.

    Args:
      model, old, new: the policy, before and after.
      batch: whole rows `[..., G, T]` that any behaviour policy sampled (`log_prob`), usually the old one. Laws are
        taken prompt by prompt, as in `outcome_kl`, and averaged.
      success: `batch.outcome -> [..., G]` bool: was the row rewarded?
      side_effect: `batch.outcome -> [..., G]` integers or bool: what else it brought about.
      num_side_effects: Z, the number of values of that.

    Returns an `OutcomeReport`, a pytree; `str` of it is the table, `.metrics()` its numbers by name.

    Reads `obs, action, log_prob, mask, outcome`, and `sampler_log_prob` instead of `log_prob` where that is present.
    Raises ValueError or TypeError (at trace time) as `outcome_divergence`.

    >>> import polopt_jax as po
    >>> from polopt_jax import outcomes
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 2))))
    >>> batch = po.Batch(obs=jnp.zeros((4, 1)), action=jnp.array([[0], [0], [1], [1]]), mask=jnp.ones((4, 1), bool),
    ...                  log_prob=jnp.log(jnp.full((4, 1), 0.5)),
    ...                  outcome={"won": jnp.array([0, 0, 1, 1]), "broke": jnp.array([0, 1, 0, 1])})
    >>> report = outcomes.outcome_report(model, jnp.zeros(2), jnp.array([0.0, 1.0]), batch,
    ...                                  success=lambda o: o["won"], side_effect=lambda o: o["broke"])
    >>> round(float(report.success_rate_new), 3), round(float(report.old_new.success.plug_in), 4)
    (0.731, 0.1201)
    """
    outputs = {"old": model(old, batch.obs), "new": model(new, batch.obs)}

    def cells(outcome: Any) -> Array:
        named = {"success": success(outcome), "side_effect": side_effect(outcome)}
        both = [as_cells("outcome_report", f"{name}(batch.outcome)", x) for name, x in named.items()]
        return joint_cells(both[0], 2, both[1], num_side_effects)

    rows = read_rows(
        "outcome_report", outputs["old"], outputs["new"], batch, read_cells("outcome_report", batch, cells)
    )
    laws = {name: _mean_law(rows, getattr(rows, name), 2 * num_side_effects) for name in ("old", "new")}
    tables = {name: law.reshape(2, num_side_effects) for name, law in laws.items()}
    old_policy, new_policy = (read_policy("outcome_report", each, batch) for each in outputs.values())
    swapped = dataclasses.replace(rows, old=rows.new, new=rows.old)
    shift = partial(_shift, num_side_effects=num_side_effects)
    return OutcomeReport(
        old_new=shift(rows, old_policy.kl_divergence(new_policy), batch.mask),
        new_old=shift(swapped, new_policy.kl_divergence(old_policy), batch.mask),
        success_rate_old=tables["old"][1].sum(),
        success_rate_new=tables["new"][1].sum(),
        side_effect_law_old=tables["old"].sum(0),
        side_effect_law_new=tables["new"].sum(0),
    )


def _mean_law(rows: Rows, log_weights: Array, num_outcomes: int) -> Array:
    law = jnp.exp(log_law(rows.outcome, num_outcomes, log_weights=log_weights, real=rows.real))
    return jax.vmap(lambda p: prompt_mean(p, rows.real), in_axes=-1)(law)


@partial(jax.jit, static_argnames="num_side_effects")  # or in eager mode hundreds of small programs are compiled
def _shift(rows: Rows, per_decision: Array, mask: Array, *, num_side_effects: int) -> Shift:
    """D(first ‖ second) from its KL at each decision; `rows.old` are the weights of the first policy."""
    w = weights(rows.old, rows.real)
    expected = lambda x: prompt_mean(jnp.sum(w * masked_sum(x, mask, axis=-1), axis=-1), rows.real)  # noqa: E731
    trajectory = expected(per_decision)
    length = expected(jnp.ones_like(per_decision))
    each = lambda log_weights: jnp.where(rows.real, log_weights, -jnp.inf)  # noqa: E731
    estimates = estimate_rows(rows, of_cells(2 * num_side_effects, _parts(num_side_effects)))
    part = lambda i: jax.tree.map(lambda x: x[i] if x.ndim else x, estimates)  # noqa: E731
    return Shift(
        action_kl=trajectory / jnp.where(length > 0, length, 1),
        trajectory_kl=trajectory,
        rows_kl=law_mean(kl_of_logits(each(rows.old), each(rows.new)), rows.real),
        outcome=part(0),
        success=part(1),
        side_effect=part(2),
        side_effect_given_success=part(3),
    )


def _parts(num_side_effects: int) -> Between:
    """D_out, D_s, D_z and D_{z|s} of two joint laws `[..., 2Z]`, stacked, `[..., 4]`: they share one derivative."""

    def parts(log_p: Array, log_q: Array) -> Array:
        table = lambda x: x.reshape(*x.shape[:-1], 2, num_side_effects)  # noqa: E731
        both = kl(log_p, log_q)
        success, side_effect = (kl(log_sum(table(log_p), axis), log_sum(table(log_q), axis)) for axis in (-1, -2))
        return jnp.stack([both, success, side_effect, both - success], axis=-1)

    return parts
