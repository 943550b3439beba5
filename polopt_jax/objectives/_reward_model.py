"""Before chapter 6: the reward model that RLHF learns from preferences, and DPO does without."""

from __future__ import annotations

from polopt_jax.masking import masked_last, zero_where_masked
from polopt_jax.objectives._preference import over_pairs, pair_metrics
from polopt_jax.ranges import Nonnegative, check_range
from polopt_jax.reading import check_pairs, complete_pairs, read_value
from polopt_jax.surrogates import bradley_terry
from polopt_jax.types import Array, Batch, Metrics, Outputs, Term


def reward_model_loss(*, centring_weight: Nonnegative = 0.0) -> Term:
    """The likelihood of preferences under the Bradley-Terry model, whose scores a model gives: a reward model.

        L(φ) = -E[ log σ(r_c - r_r) ] + λ E[ (r_c + r_r)² ],    r = V_φ at the last real decision of a row

    The first part sees differences alone, so that a reward may have any offset, another one after each prompt; the
    second holds the mean of a pair near 0. What was learnt is a reward by `modelled_reward`.

    Args:
      centring_weight: λ. May be traced.

    Returns:
      A term over preference batches `[2, N, T]` (chosen, rejected). Reads `mask` and `outputs.value`, `[2, N, T]`,
      whose head gives a scalar; there need be no policy. Averages over pairs whose two rows both have a real decision.
      Metrics: `accuracy` (share of pairs with the chosen reward above the rejected one, ties count ½), `margin` (mean
      r_c - r_r), `chosen_reward`, `rejected_reward`, `num_valid`.

    Raises: ValueError if centring_weight is negative or NaN (where it is concrete), and at trace time if the mask is
    not [2, N, T], or the model has no value or one of another shape.

    Differs from the papers: the reward is read where the last token is decided on, and not after it. Of a text that
    ends in a token of its own (`language.pair_rows` appends it) everything has been read there; one that was cut short
    is judged without its last token. Pairs count alike, where InstructGPT takes all pairs of a prompt's K answers as
    one; there is no margin by how much better a row was said to be (Llama 2).

    Source: Stiennon et al. 2020, "Learning to summarize from human feedback", section 3.4; Ouyang et al. 2022
    (InstructGPT), equation 1. Centring: Eisenstein et al. 2023, "Helping or herding?".

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((2, 1, 3)), action=None, mask=jnp.array([[[1, 1, 0]], [[1, 1, 1]]], bool))
    >>> value = jnp.array([[[0.0, 2.0, jnp.nan]], [[5.0, 5.0, 1.0]]])
    >>> loss, metrics = reward_model_loss()(po.Outputs(policy=None, value=value), batch)
    >>> round(float(loss), 6), float(metrics["margin"])
    (0.313262, 1.0)
    """
    check_range("reward_model_loss", Nonnegative, centring_weight=centring_weight)

    def term(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        check_pairs("reward_model_loss", batch)
        rewards = masked_last(read_value("reward_model_loss", outputs, batch), batch.mask)
        chosen, rejected = (zero_where_masked(row, complete_pairs(batch)) for row in rewards)
        mean, off_centre = over_pairs(batch), chosen + rejected
        loss = mean(bradley_terry(chosen, rejected) + centring_weight * off_centre * off_centre)
        return loss, pair_metrics(chosen, rejected, 1.0, batch, mean, "reward")

    return term
