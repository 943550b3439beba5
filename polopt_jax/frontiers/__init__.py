"""What each objective does to outcomes at matched success: by exact updates, or learnt from attempts.

    from polopt_jax import frontiers, worlds

    world = worlds.tabulate(worlds.burning_building())
    problem = frontiers.exact_problem(world, side_effects=("exploded", "vase"), group=world.obs.argmax(-1))
    trpo = frontiers.trust_region(problem, frontiers.reward(problem), radius=0.02)
    points = frontiers.path(problem, worlds.burning_building_logits(), trpo, updates=400)
    print(frontiers.at_success(points, 0.9).point.side_effect)

A `Method` is an exact update of a tabular policy; `path` is what it goes through; `at_success` reads that where it
reaches a given success, beside the rows `outcomes.pump` and `outcomes.ipf` of its reference. Exact updates want float64
(`jax.enable_x64(True)`). `sampled_path` is the way of a recipe of `algorithms`, which learns from attempts; what it
comes to is judged by exact laws all the same.
"""

from polopt_jax.frontiers._fisher import (
    Held,
    conditional,
    held_kl,
    joint,
    marginal,
    outcome_factor,
    precondition,
    trajectory_fisher,
)
from polopt_jax.frontiers._flow import gradient_flow
from polopt_jax.frontiers._methods import (
    Method,
    bounded,
    clipped_ascent,
    gradient_ascent,
    natural_ascent,
    priced,
    standardised_ascent,
    trust_region,
)
from polopt_jax.frontiers._objectives import Objective, near_outcomes, near_policy, reward, soft_optimum
from polopt_jax.frontiers._paths import Matched, Point, at_success, path, standing
from polopt_jax.frontiers._problem import (
    ExactProblem,
    advantages,
    bits,
    cell_law,
    decisions,
    exact_problem,
    log_policy,
    mean_hidden,
    mean_reward,
    rates,
    trajectory_kl,
)
from polopt_jax.frontiers._sampled import SampledProblem, network_problem, sampled_path, table_problem, token_problem

__all__ = [
    "ExactProblem",
    "Held",
    "Matched",
    "Method",
    "Objective",
    "Point",
    "SampledProblem",
    "advantages",
    "at_success",
    "bits",
    "bounded",
    "cell_law",
    "clipped_ascent",
    "conditional",
    "decisions",
    "exact_problem",
    "gradient_ascent",
    "gradient_flow",
    "held_kl",
    "joint",
    "log_policy",
    "marginal",
    "mean_hidden",
    "mean_reward",
    "natural_ascent",
    "near_outcomes",
    "near_policy",
    "network_problem",
    "outcome_factor",
    "path",
    "precondition",
    "priced",
    "rates",
    "reward",
    "sampled_path",
    "soft_optimum",
    "standardised_ascent",
    "standing",
    "table_problem",
    "token_problem",
    "trajectory_fisher",
    "trajectory_kl",
    "trust_region",
]
