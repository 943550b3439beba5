"""Natural-gradient machinery: the Fisher operator, conjugate gradients, and the optimizers that stand on them."""

from polopt_jax.solvers._conjugate_gradient import CGInfo, CGStatus, conjugate_gradient
from polopt_jax.solvers._constrained import ConstrainedState, Cost, constrained_trpo, mixture_within
from polopt_jax.solvers._fisher import fisher_operator, policy_parameters, quadratic_form
from polopt_jax.solvers._natural_gradient import (
    DAMPING,
    NaturalGradientState,
    Subsample,
    every,
    natural_gradient,
    npg,
    whole,
)
from polopt_jax.solvers._trust_region import (
    BacktrackState,
    Constraint,
    ScaleToRadiusState,
    backtrack,
    scale_to_radius,
    trpo,
)

__all__ = [
    "DAMPING",
    "BacktrackState",
    "CGInfo",
    "CGStatus",
    "ConstrainedState",
    "Constraint",
    "Cost",
    "NaturalGradientState",
    "ScaleToRadiusState",
    "Subsample",
    "backtrack",
    "conjugate_gradient",
    "constrained_trpo",
    "every",
    "fisher_operator",
    "mixture_within",
    "natural_gradient",
    "npg",
    "policy_parameters",
    "quadratic_form",
    "scale_to_radius",
    "trpo",
    "whole",
]
