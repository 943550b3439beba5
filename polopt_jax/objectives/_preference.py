"""The seam of every objective over pairs: a score of a row, and a link that says what a pair of scores costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from polopt_jax.masking import masked_sum, zero_where_masked
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.reading import check_pairs, complete_pairs, read_log_prob
from polopt_jax.reductions import counts
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Term

Link: TypeAlias = Callable[[Array, Array], Array]
"""`(chosen [N], rejected [N]) -> loss [N]`, elementwise."""


def preference(
    link: Link, score: Score = summed_log_ratio, *, beta: ArrayLike = 1.0, caller: str | None = None
) -> Term:
    """An objective over pairs of rows, of which `dpo` is a member.

        L(θ) = E[ link(β s(chosen), β s(rejected)) ]

    Averages over pairs whose two rows both have a real decision; the others are left out, value and gradient.

    Args:
      link: elementwise loss of the two scaled scores, e.g. `surrogates.bradley_terry`.
      score: what a row is worth, given the log-probabilities of its decisions (0 under the mask):
        `objectives.summed_log_ratio`, `mean_log_ratio`, `summed_log_prob`, `mean_log_prob` or one of your own.
      beta: scale of the scores. May be traced.
      caller: the name that errors give; that of this function if None.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `action, mask` and what the score reads.
      Metrics: `accuracy` (share of pairs with the chosen score above the rejected one, ties count ½), `margin` (mean
      β times their difference), `chosen_log_ratio`, `rejected_log_ratio` (mean scores, without β: log-ratios to the
      reference, or log-probabilities where the score has none), `num_valid` (decisions under the mask).

    Raises (at trace time): ValueError if the mask is not [2, N, T], or a field is missing or has another shape.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> cautious = preference(lambda chosen, rejected: jnp.maximum(1 - (chosen - rejected), 0), beta=0.1)
    >>> float(cautious(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    1.0
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        name = caller or "preference"
        check_pairs(name, batch)
        scores = score(name, read_log_prob(name, outputs, batch), batch)
        chosen, rejected = (zero_where_masked(row, complete_pairs(batch)) for row in scores)
        mean = over_pairs(batch)
        return mean(link(beta * chosen, beta * rejected)), pair_metrics(chosen, rejected, beta, batch, mean)

    return term


def over_pairs(batch: Batch) -> Callable[[Array], Array]:
    """The mean of an `x` `[N]` over the pairs whose two rows both have a real decision; they are counted once."""
    valid, number = complete_pairs(batch), jnp.maximum(counts(batch).pairs, 1)

    def mean(x: Array) -> Array:
        total = masked_sum(x, valid)
        return total / number.astype(total.dtype)

    return mean


def pair_metrics(
    chosen: Array,
    rejected: Array,
    beta: ArrayLike,
    batch: Batch,
    mean: Callable[[Array], Array],
    score: str = "log_ratio",
) -> Metrics:
    """What every objective over pairs reports of its scores `[N]`, with the mean that `over_pairs` gives.

    `score` is what the scores are called.
    """
    margin = beta * (chosen - rejected)
    return {
        "accuracy": mean(0.5 * (jnp.sign(margin) + 1)),
        "margin": mean(margin),
        f"chosen_{score}": mean(chosen),
        f"rejected_{score}": mean(rejected),
        "num_valid": batch.mask.sum().astype(chosen.dtype),
    }
