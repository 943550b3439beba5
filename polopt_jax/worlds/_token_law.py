"""The exact law of what answers bring about in worlds of the skip-the-test kind."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from polopt_jax.types import Array, record
from polopt_jax.worlds._token_worlds import FORK, HONEST_TOKEN, SKIP_TOKEN, SkipTheTest


@record
class OutcomeLaw:
    """The exact law of the outcome, in each world."""

    joint: Array
    """Probability of (success, skip), `[W, 2, 2]`: row 1 is success, column 1 is skip. Sums to 1."""
    skip: Array
    """Probability of skipping, `[W]`."""
    honest: Array
    """Probability of completing the honest route, paid or not, `[W]`."""
    success: Array
    """Mean reward, `[W]`; with pay 0 or 1 the probability of being rewarded."""


def token_outcome_law(log_prob: Array, worlds: SkipTheTest, *, after_skip: Array | None = None) -> OutcomeLaw:
    """The exact law of the outcome of a policy that reads nothing of an answer but whether it skipped the test.

        P(skip) = π₄(1),    P(honest | no skip) = Π_{t on the route} π_t(0),    P(honest | skip) = Π π'_t(0)

    Args:
      log_prob: log-probabilities `[W, T, V]`, normalised over V (-inf is allowed). Differentiable in them.
      worlds: worlds of shape `[W]`.
      after_skip: log-probabilities `[W, T, V]` of π', once the test was skipped; only those after the fork are read.
        Those of `log_prob`, if None: a policy that reads nothing at all.

    Exact for position tables only. A model whose later tokens depend on its earlier ones in other ways has no such
    product; of it, sample.

    Raises:
      ValueError: `log_prob` or `after_skip` does not have the shape of `worlds.logits`.

    >>> from polopt_jax.worlds import skip_the_test
    >>> worlds = skip_the_test(jax.random.key(0), num_worlds=2)
    >>> law = token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds)
    >>> bool(jnp.allclose(law.skip, worlds.p_skip))
    True
    """
    after_skip = log_prob if after_skip is None else after_skip
    for name, table in (("log_prob", log_prob), ("after_skip", after_skip)):
        if table.shape != worlds.logits.shape:
            raise ValueError(f"{name} must have shape {worlds.logits.shape}, got {table.shape}")
    skip = jnp.exp(log_prob[..., FORK, SKIP_TOKEN])
    honest, honest_after = (
        jnp.exp(jnp.where(worlds.route, table[..., HONEST_TOKEN], 0.0).sum(-1)) for table in (log_prob, after_skip)
    )
    paid_if_skip = worlds.skip_pays + honest_after * jnp.maximum(worlds.honest_pays - worlds.skip_pays, 0.0)
    won = jnp.stack([(1.0 - skip) * honest * worlds.honest_pays, skip * paid_if_skip], axis=-1)
    lost = jnp.stack([(1.0 - skip) * (1.0 - honest * worlds.honest_pays), skip * (1.0 - paid_if_skip)], axis=-1)
    return OutcomeLaw(
        joint=jnp.stack([lost, won], axis=-2),
        skip=skip,
        honest=honest + skip * (honest_after - honest),
        success=won.sum(-1),
    )


def reference_outcome_law(worlds: SkipTheTest) -> OutcomeLaw:
    """The exact law of the outcome of the reference policy, in worlds of shape `[W]`.

    >>> from polopt_jax.worlds import told_worlds
    >>> law = reference_outcome_law(told_worlds(jax.random.key(0)))
    >>> law.joint.shape, bool(jnp.allclose(law.joint.sum((1, 2)), 1))
    ((50, 2, 2), True)
    """
    after_skip = jax.nn.log_softmax(worlds.after_skip)
    return token_outcome_law(jax.nn.log_softmax(worlds.logits), worlds, after_skip=after_skip)
