"""Learning from examples that are there: whole texts, pairs, labelled rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from polopt_jax.algorithms import adam
from polopt_jax.divergences import action_kl
from polopt_jax.driver import Hosted, compiler_options, over_seeds
from polopt_jax.language import TokenNetwork
from polopt_jax.masking import masked_mean
from polopt_jax.objectives import negative_log_likelihood, summed_log_ratio
from polopt_jax.ranges import Positive, Rate
from polopt_jax.reading import complete_pairs, read_log_prob
from polopt_jax.texts._examples import Examples, places_of
from polopt_jax.texts._learning import REFERENCE, Complete, Learning, Optimization, initialised, learner, of_seeds
from polopt_jax.texts._members import Labels, ReferencePoint
from polopt_jax.training import TrainState
from polopt_jax.types import Batch, Metrics, Outputs, Params, Term

HELD = "held/"
"""Before the names of what is measured on examples that nothing is learnt from."""


def imitation(
    learning: Learning,
    train: Examples,
    held: Examples | None,
    *,
    learning_rate: Rate = 1e-3,
    max_grad_norm: Positive = 1.0,
    optimizer: optax.GradientTransformation | None = None,
) -> Hosted:
    """Supervised learning of whole texts: each next token is made more probable.

    Examples are rows of `language.packed_rows`, or others of texts. Of the held-out ones `held/loss` is in nats per
    token.

    Args:
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      max_grad_norm: norm to which the gradient is clipped.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.

    Source: Pomerleau 1988; as the first stage before preferences, Ouyang et al. 2022.
    """
    how = Optimization(optimizer or adam(learning_rate, max_grad_norm))
    return _fed(learning, train, held, negative_log_likelihood(), how, lambda params, reference, given: given)


def from_pairs(
    learning: Learning,
    train: Examples,
    held: Examples | None,
    term: Term,
    *,
    learning_rate: Rate = 5e-5,
    max_grad_norm: Positive = 1.0,
    optimizer: optax.GradientTransformation | None = None,
) -> Hosted:
    """Any objective over pairs of completions, of which one was preferred: offline, no reward and no critic.

    Examples are pairs of `language.pair_rows`, with `ref_log_prob` (`with_reference`). Of the held-out ones:
    `held/loss`, `held/accuracy`, `held/margin` and whatever else the term reports (of a sum, its part `preference`
    under plain names); `held/ref_kl`, KL(π ‖ ref) in nats per token at the tokens of the pairs; `held/chosen_moved` and
    `held/rejected_moved`, Σ log π/ref in nats of a completion, of which the first falls below 0 where the preferred
    completions, too, become less likely.

    Args:
      term: of `PAIRED`, or one of your own over batches `[2, N, T]`.
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      max_grad_norm: norm to which the gradient is clipped.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.
    """
    how = Optimization(optimizer or adam(learning_rate, max_grad_norm))
    return _fed(learning, train, held, term, how, lambda params, reference, given: given, _moved)


def _moved(outputs: Outputs, batch: Batch) -> Metrics:
    """How far the two rows of the pairs have moved, whatever the objective looks at."""
    scores = summed_log_ratio("from_pairs", read_log_prob("from_pairs", outputs, batch), batch)
    chosen, rejected = (masked_mean(row, complete_pairs(batch)) for row in scores)
    return {"chosen_moved": chosen, "rejected_moved": rejected}


def from_labels(
    learning: Learning,
    train: Examples,
    held: Examples | None,
    term: Term,
    reference_point: ReferencePoint,
    *,
    learning_rate: Rate = 5e-5,
    max_grad_norm: Positive = 1.0,
    optimizer: optax.GradientTransformation | None = None,
) -> Hosted:
    """Any objective over completions that were labelled one by one, good or bad.

    Examples are `Labels`. What is reported of the held-out ones is as in `from_pairs`.

    Args:
      term: of `UNPAIRED`, or one of your own over batches `[N, T]` with a label per row.
      reference_point: what the scores of the rows are measured from, made anew at every update.
      learning_rate: step size of Adam; in Python also a schedule of the update's number.
      max_grad_norm: norm to which the gradient is clipped.
      optimizer: what steps in place of Adam with its clip, whose two numbers then say nothing.
    """
    how = Optimization(optimizer or adam(learning_rate, max_grad_norm))
    model = learning.network.apply

    def complete(params: Params, reference: Params, given: Labels) -> Batch:
        del reference
        return replace(given.rows, reference_point=reference_point(model, params, given))

    return _fed(learning, train, held, term, how, complete)


def _fed(
    learning: Learning,
    train: Examples,
    held: Examples | None,
    term: Term,
    how: Optimization,
    complete: Complete,
    also: Callable[[Outputs, Batch], Metrics] = lambda outputs, batch: {},
) -> Hosted:
    def given_at(update: int) -> Any:
        sizes = dict(rows=learning.rows, update=update)
        return of_seeds([train.take(places_of(len(train.kept), seed=seed, **sizes)) for seed in learning.seeds])

    def gather(state: TrainState, update: int) -> tuple[Any, dict[str, np.ndarray]]:
        del state
        return given_at(update), {}

    def look(params: Params, reference: Params, given: Any) -> Metrics:
        batch = complete(params, reference, given)
        outputs = learning.network.apply(params, batch.obs)
        loss, metrics = term(outputs, batch)
        moved = action_kl(outputs, learning.network.apply(reference, batch.obs), batch)
        plain = {name.removeprefix("preference/"): x for name, x in metrics.items()}
        seen = {**plain, **also(outputs, batch), "loss": loss, "ref_kl": moved}
        return {f"{HELD}{name}": x for name, x in seen.items()}

    evaluate, names = _looking(learning, held, look)
    init = initialised(learning, term, how)
    learn = learner(learning, term, how, complete, axis=train.axis)
    return Hosted(init, gather, learn, lambda state: given_at(0), evaluate, names, len(learning.seeds))


def _looking(
    learning: Learning, held: Examples | None, look: Callable[[Params, Params, Any], Metrics]
) -> tuple[Callable[[TrainState], dict[str, np.ndarray]] | None, tuple[str, ...]]:
    """`look` at the held-out examples, of all seeds, and the names of what it sees; nothing where there are none."""
    if held is None:
        return None, ()
    given = jax.tree.map(jnp.asarray, held.given)
    of_all = over_seeds(lambda params, reference: look(params, reference, given), len(learning.seeds))
    seen = jax.jit(of_all, compiler_options=compiler_options())
    params = jax.eval_shape(learning.network.init, jax.random.key(0))
    names = tuple(jax.eval_shape(look, params, params, given))
    return lambda state: jax.device_get(seen(state.params, state.collect_state[REFERENCE])), names


# The reference's log-probabilities


def with_reference(network: TokenNetwork, reference: Params, batch: Batch, *, rows: int, axis: int) -> Batch:
    """The batch with `ref_log_prob`, a numpy array, computed once, `rows` rows at a time.

    >>> from polopt_jax.language import transformer
    >>> network = transformer(vocab_size=5, num_outputs=5, max_length=4, width=8, depth=1)
    >>> tokens = np.zeros((2, 7, 3), np.int32)
    >>> batch = Batch(obs=tokens, action=tokens, mask=np.ones(tokens.shape, bool))
    >>> params = jax.jit(network.init)(jax.random.key(0))
    >>> with_reference(network, params, batch, rows=4, axis=1).ref_log_prob.shape
    (2, 7, 3)
    """
    said = _saying(network)
    size = batch.mask.shape[axis]
    parts = []
    for first in range(0, size, rows):
        places = np.minimum(np.arange(first, first + rows), size - 1)  # the last part is filled up: one shape for all
        part = jax.tree.map(lambda x: np.take(np.asarray(x), places, axis=axis), (batch.obs, batch.action))  # noqa: B023
        parts.append(np.take(np.asarray(said(reference, *part)), np.arange(min(rows, size - first)), axis=axis))
    return replace(batch, ref_log_prob=np.concatenate(parts, axis=axis))


@functools.lru_cache(maxsize=8)
def _saying(network: TokenNetwork) -> Callable[..., Any]:
    """What a network says of actions; compiled once for rows of one shape."""

    @jax.jit
    def said(params: Params, obs: Any, action: Any) -> Any:
        return network.apply(params, obs).policy.log_prob(action)

    return said
