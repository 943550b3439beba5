"""The seam of every objective over pairs: a score of a row, and a link that says what a pair of scores costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from polopt_jax.masking import masked_sum, zero_where_masked
from polopt_jax.reading import check_mask, read, read_log_prob
from polopt_jax.reductions import counts
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Term

Score: TypeAlias = Callable[[str, Array, Batch], Array]
"""`(caller, log_prob [2, N, T], batch) -> [2, N]`: what a row is worth; `caller` is for errors."""
Link: TypeAlias = Callable[[Array, Array], Array]
"""`(chosen [N], rejected [N]) -> loss [N]`, elementwise."""


def summed_log_ratio(caller: str, log_prob: Array, batch: Batch) -> Array:
    """Σ_t log π_θ/ref over a row's real decisions: DPO's score, up to β. Reads `ref_log_prob`."""
    return masked_sum(log_prob - read(caller, batch, "ref_log_prob"), batch.mask, axis=-1)


def preference(
    link: Link, score: Score = summed_log_ratio, *, beta: ArrayLike = 1.0, caller: str | None = None
) -> Term:
    """An objective over pairs of rows, of which `dpo` is a member.

        L(θ) = E[ link(β s(chosen), β s(rejected)) ]

    Averages over pairs whose two rows both have a real decision; the others are left out, value and gradient.

    Args:
      link: elementwise loss of the two scaled scores, e.g. `surrogates.bradley_terry`.
      score: what a row is worth, given the log-probabilities of its decisions (0 under the mask).
      beta: scale of the scores. May be traced.
      caller: the name that errors give; that of this function if None.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `action, mask` and what the score reads.
      Metrics: `accuracy` (share of pairs with the chosen score above the rejected one, ties count ½), `margin` (mean
      β times their difference), `chosen_log_ratio`, `rejected_log_ratio` (mean scores, without β: log-ratios to the
      reference, or log-probabilities where the score has none), `num_valid`.

    Raises (at trace time): ValueError if the mask is not [2, N, T], or a field is missing or has another shape.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 3, 1)), action=jnp.zeros((2, 3, 1), int), mask=jnp.ones((2, 3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((2, 3, 1), 0.25)))
    >>> hinge = preference(lambda chosen, rejected: jnp.maximum(1 - (chosen - rejected), 0), beta=0.1)
    >>> float(hinge(po.Outputs(policy=po.Categorical(logits=jnp.zeros((2, 3, 1, 4)))), batch)[0])
    1.0
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        name = caller or "preference"
        check_mask(name, batch)
        if batch.mask.ndim < 3 or batch.mask.shape[0] != 2:
            raise ValueError(
                f"{name} needs a preference batch [2, N, T] (chosen, rejected); mask has {batch.mask.shape}. "
                "What splits such a batch, epochs and accumulate_gradients, splits its pairs with axis=1"
            )
        valid = batch.mask.any(-1).all(0)
        scores = score(name, read_log_prob(name, outputs, batch), batch)
        chosen, rejected = (zero_where_masked(row, valid) for row in scores)
        number = jnp.maximum(counts(batch).pairs, 1).astype(chosen.dtype)

        def mean(x: Array) -> Array:
            return masked_sum(x, valid) / number

        margin = beta * (chosen - rejected)
        return mean(link(beta * chosen, beta * rejected)), {
            "accuracy": mean(0.5 * (jnp.sign(margin) + 1)),
            "margin": mean(margin),
            "chosen_log_ratio": mean(chosen),
            "rejected_log_ratio": mean(rejected),
            "num_valid": batch.mask.sum().astype(chosen.dtype),
        }

    return term
