"""The seam of every objective over labelled rows: a score of a row, and a link that says what a desirable row costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from polopt_jax.masking import masked_sum
from polopt_jax.objectives._scores import Score, summed_log_ratio
from polopt_jax.reading import read_label, read_log_prob, read_row
from polopt_jax.reductions import counts
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Outputs, Term

RowLink: TypeAlias = Callable[[Array], Array]
"""`score [N] -> loss [N]` of a desirable row, elementwise."""


def unpaired_preference(
    link: RowLink,
    score: Score = summed_log_ratio,
    *,
    beta: ArrayLike = 1.0,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
    caller: str | None = None,
) -> Term:
    """An objective over labelled rows, of which `kto` and `bco` are members.

        L(θ) = E[ w_y link(y β (s - z)) ],    y = 1 of a desirable row, -1 of an undesirable one

    z is the row's reference point, what its score is measured from. It is the estimator's affair, as the advantage
    is REINFORCE's: put `kl_reference_point`, `mean_reference_point` or zeros into `batch.reference_point`. So the term
    is a sum over rows, and exact under `accumulate_gradients`.

    Args:
      link: elementwise loss of a desirable row, e.g. `surrogates.saturating`.
      score: what a row is worth, as in `preference`.
      beta: scale of the scores. May be traced.
      desirable_weight, undesirable_weight: w of either label. May be traced.
      caller: the name that errors give; that of this function if None.

    Returns:
      A term over `[N, T]` with a label per row. Reads `action, label, reference_point, mask` and what the score reads.
      Averages over rows with a real decision. Metrics: `accuracy` (share of rows on their label's side of the reference
      point, ties count ½), `margin` (mean y β (s - z)), `log_ratio` (mean score, without β), `desirable_fraction`,
      `num_valid`.

    Raises (at trace time): ValueError if a field is missing or has another shape, TypeError if the label is not
    boolean.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((3, 1)), action=jnp.zeros((3, 1), int), mask=jnp.ones((3, 1), bool),
    ...                  ref_log_prob=jnp.log(jnp.full((3, 1), 0.25)), label=jnp.array([True, False, True]),
    ...                  reference_point=jnp.zeros(3))
    >>> squared = unpaired_preference(lambda score: jnp.square(score - 1))
    >>> float(squared(po.Outputs(policy=po.Categorical(logits=jnp.zeros((3, 1, 4)))), batch)[0])
    1.0
    """

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        name = caller or "unpaired_preference"
        scores = score(name, read_log_prob(name, outputs, batch), batch)
        desirable = read_label(name, batch)
        signed = jnp.where(desirable, 1.0, -1.0).astype(scores.dtype)
        signed = signed * beta * (scores - read_row(name, batch, "reference_point").astype(scores.dtype))
        weight = jnp.where(desirable, desirable_weight, undesirable_weight).astype(scores.dtype)
        valid, number = batch.mask.any(-1), jnp.maximum(counts(batch).rows, 1).astype(scores.dtype)

        def mean(x: Array) -> Array:
            return masked_sum(x, valid) / number

        return mean(weight * link(signed)), {
            "accuracy": mean(0.5 * (jnp.sign(signed) + 1)),
            "margin": mean(signed),
            "log_ratio": mean(scores),
            "desirable_fraction": mean(desirable.astype(scores.dtype)),
            "num_valid": batch.mask.sum().astype(scores.dtype),
        }

    return term
