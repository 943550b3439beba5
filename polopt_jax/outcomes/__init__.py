"""How far an update moves the distribution over *outcomes*, beside how far it moves the actions.

    from polopt_jax import outcomes

    batch = po.to_batch(whole_episodes, outcome=feature)            # feature: a function of one episode
    held = outcomes.outcome_kl(2, of=lambda o: o["vase"])           # a divergence like every other
    po.trpo(model, constraints=[(held, 1e-3)])                      # bound it
    print(outcomes.outcome_report(model, old, new, batch, success=..., side_effect=...))

An outcome is the success s and the salient side effects z that a user declares: plain functions of a whole episode or
text, whose values stand in `batch.outcome`, one per row. Everything here reads that field. Laws are per prompt and then
averaged: pooling over prompts hides shift. Divergences step and bound; estimates report.
"""

from polopt_jax.outcomes._divergences import (
    conditional_outcome_kl,
    outcome_chi2,
    outcome_divergence,
    outcome_js,
    outcome_kl,
    outcome_tv,
)
from polopt_jax.outcomes._estimates import outcome_estimate, sample_estimate
from polopt_jax.outcomes._forecast import Forecast, forecast, wilson
from polopt_jax.outcomes._forks import ForkProfile, fork_profile
from polopt_jax.outcomes._intervals import Estimate
from polopt_jax.outcomes._laws import chi_square, jensen_shannon, kl, log_law, total_variation
from polopt_jax.outcomes._mean import outcome_mean
from polopt_jax.outcomes._mmd import mmd_estimate, outcome_mmd, sample_mmd
from polopt_jax.outcomes._monitors import GStatistic, cusum, g_statistic, observed_rate, token_statistics, true_rate
from polopt_jax.outcomes._penalty import outcome_penalty
from polopt_jax.outcomes._prices import Price, init_price, outcome_price, update_price
from polopt_jax.outcomes._projections import Projection, best_of_n, ipf, pump, tax
from polopt_jax.outcomes._report import OutcomeReport, Shift, outcome_report
from polopt_jax.outcomes._rows import CellsOf, effective_sample_size, joint

__all__ = [
    "CellsOf",
    "Estimate",
    "ForkProfile",
    "Forecast",
    "GStatistic",
    "OutcomeReport",
    "Price",
    "Projection",
    "Shift",
    "best_of_n",
    "chi_square",
    "conditional_outcome_kl",
    "cusum",
    "effective_sample_size",
    "forecast",
    "fork_profile",
    "g_statistic",
    "init_price",
    "ipf",
    "jensen_shannon",
    "joint",
    "kl",
    "log_law",
    "mmd_estimate",
    "observed_rate",
    "outcome_chi2",
    "outcome_divergence",
    "outcome_estimate",
    "outcome_js",
    "outcome_kl",
    "outcome_mean",
    "outcome_mmd",
    "outcome_penalty",
    "outcome_price",
    "outcome_report",
    "outcome_tv",
    "pump",
    "sample_estimate",
    "sample_mmd",
    "tax",
    "token_statistics",
    "total_variation",
    "true_rate",
    "update_price",
    "wilson",
]
