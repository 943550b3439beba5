"""After chapter 5: two gains that go on where PPO's clip stops, spelled out, as their initials are taken."""

from __future__ import annotations

from functools import partial

from polopt_jax.objectives._ratio_term import ratio_term
from polopt_jax.ranges import Positive, check_range
from polopt_jax.reductions import token_mean
from polopt_jax.surrogates import discovered_surrogate, quadratic_surrogate
from polopt_jax.types import Reduction, Term


def discovered_policy_optimization(
    *, alpha: Positive = 2.0, beta: Positive = 0.6, reduce: Reduction = token_mean
) -> Term:
    """Discovered Policy Optimisation: the gain that meta-learning found, in closed form. Not `dpo`, of preferences.

        L(θ) = -E[ ρA - f ],    f = ((ρ-1)A - α tanh((ρ-1)A/α))₊    where A >= 0
                                f = (A log ρ - β tanh(A log ρ/β))₊  where A < 0

    The drift f is 0 to second order at ρ = 1, so that there the gradient is that of `surrogate`. For A > 0 the slope
    falls off smoothly and never to 0; for A < 0 it turns around: a bad action that has become much less likely is let
    back. Bad actions that become more likely are pulled as without a drift.

    Args:
      alpha: α, scale of (ρ-1)A for good actions. May be traced.
      beta: β, scale of A log ρ for bad ones. Both are in units of the advantage. May be traced.
      reduce: how decisions become one number.

    Returns:
      A term: `ratio_term` with that gain. Reads `action, log_prob, advantage, mask`, each of leading shape [...].
      Metrics: `approx_kl`, `clip_fraction` (0 but by chance: the slope vanishes at single points),
      `clamped_fraction`, `num_valid`, as `ppo`.

    Raises: ValueError if alpha or beta is not above 0 (where it is concrete), and at trace time if a field is missing
    or has another shape.

    Differs from the paper: nothing; its advantages are standardised minibatch by minibatch (`standardize_advantage`).

    Source: Lu et al. 2022, "Discovered policy optimisation", and the authors' code; the defaults are theirs.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> round(float(discovered_policy_optimization()(outputs, batch)[0]), 4)         # -(2 - (1 - 2 tanh(1/2)))
    -1.9242
    """
    check_range("discovered_policy_optimization", Positive, alpha=alpha, beta=beta)
    gain = partial(discovered_surrogate, alpha=alpha, beta=beta)
    return ratio_term(gain, reduce=reduce, caller="discovered_policy_optimization")


def simple_policy_optimization(*, clip_eps: Positive = 0.2, reduce: Reduction = token_mean) -> Term:
    """Simple Policy Optimization: a parabola in the ratio in place of PPO's clip.

        L(θ) = -E[ ρA - |A|/(2ε) (ρ-1)² ]

    Each decision's gain is greatest at ρ = 1 + ε sign A, the edge of PPO's range, and beyond it the gradient pulls
    back, where that of `ppo` is 0.

    Args:
      clip_eps: ε, how far a ratio is to go. May be traced.
      reduce: how decisions become one number.

    Returns:
      A term: `ratio_term` with that gain. Reads `action, log_prob, advantage, mask`, each of leading shape [...].
      Metrics: `approx_kl`, `clip_fraction` (0 but by chance: the slope vanishes at the edge alone), `clamped_fraction`,
      `num_valid`, as `ppo`.

    Raises: ValueError if clip_eps is not above 0 (where it is concrete), and at trace time if a field is missing or has
    another shape.

    Source: Xie et al. 2025, "Simple policy optimization" (arXiv 2401.16025), and the authors' code; other methods have
    the same initials.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(2), action=jnp.zeros(2, int), mask=jnp.ones(2, bool), advantage=jnp.ones(2),
    ...                  log_prob=jnp.log(jnp.full(2, 0.125)))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 4))))
    >>> float(simple_policy_optimization(clip_eps=0.5)(outputs, batch)[0])           # -(2 - 1/(2 · 0.5) · 1²)
    -1.0
    """
    check_range("simple_policy_optimization", Positive, clip_eps=clip_eps)
    gain = partial(quadratic_surrogate, clip_eps=clip_eps)
    return ratio_term(gain, reduce=reduce, caller="simple_policy_optimization")
