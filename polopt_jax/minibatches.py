"""A step repeated over shuffled shares of a batch, to the end or until its metrics say that it has gone far enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_takes, described
from polopt_jax.guards import mean_of_taken, select
from polopt_jax.ranges import check_sizes
from polopt_jax.rows import GROUPS, Shuffle, shuffled_parts
from polopt_jax.steps import Step, check_step, looked_at
from polopt_jax.types import Array, Batch, Metrics, Params

Stop: TypeAlias = Callable[[Metrics], Array]
"""`metrics of a minibatch -> []` bool: whether an update ends before the step on it is taken."""


def epochs(
    step: Step,
    num_epochs: int,
    num_minibatches: int,
    *,
    axis: int = 0,
    groups: int = GROUPS,
    shuffle: Shuffle = shuffled_parts,
    stop: Stop | None = None,
) -> Step:
    """Repeats a step over `num_minibatches` shuffled shares of the batch, `num_epochs` times.

    What is shuffled is *rows* - environments, prompts, pairs: the batch's axis `axis` (1 for preference batches
    `[2, N, T]`) - never decisions within a row, so that every model and every term stays valid. Where both see a
    decision by itself, as a network on states and the terms of PPO do, `shuffle=rows.shuffled_decisions` takes 2 to 5%
    more time and learns more from as many steps (`algorithms.ppo` has figures). Metrics are means over all the steps.

    The shuffle stays within contiguous groups of rows, of which every minibatch has equally many
    (`rows.shuffled_parts`): gcd(groups, rows of a minibatch) groups. Rows that are split over devices, as many as
    divide that number, so stay on them, and the shuffle is the same whatever the number of devices. One minibatch is
    the batch as it is; then nothing is shuffled and the key may be None.

    With `stop`, an update ends early: at the first minibatch whose metrics it says True of, on which no step is taken
    any more, and no gradient after it (under a `vmap` over agents they are taken and thrown away). An update that ends
    once the policy is seen to have moved by more than 0.02 nats per decision:

        epochs(step, 10, 4, stop=lambda metrics: metrics["approx_kl"] > 0.02)

    That is an alarm and no bound, here as in the common code: metrics are of the parameters that a step would begin
    with, so what is kept is the policy that was seen to be too far, by as much as its last step was long, and on the
    sample of one minibatch. (`trpo` and `backtrack` bound.) All phases of the step end, a critic's too. Names are those
    that the step reports: `policy/approx_kl` of a `weighted_sum(policy=...)`. Metrics are then means over the
    minibatches that were looked at, the last of them too, and `stopped` is the share of all steps that were not taken.

    A minibatch whose loss or gradient is not finite is skipped and left out of the means; on one without a decision
    momentum moves. Whether all is sound is asked once, at the end, else all is undone: each time took a tenth more.

    Raises ValueError if `num_minibatches` does not divide the axis, several of them come without a key, or `stop` asks
    for a metric that is none or returns no truth value (at trace time), or if a number is not positive.

    >>> import optax
    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = epochs(po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4))), 4, 8)
    """
    check_step("epochs", step)
    check_sizes("epochs", num_epochs=num_epochs, num_minibatches=num_minibatches, groups=groups)
    if stop is not None:
        check_takes("epochs", "stop", stop, "metrics")

    one_step = step.attempt or step.update

    def minibatch(carry: tuple[Params, Any], part: tuple[Batch, Array]) -> tuple[tuple[Params, Any], Metrics]:
        params, opt_state, metrics = one_step(*carry, *part)
        return (params, opt_state), metrics

    body = minibatch if stop is None else _until(minibatch, stop)

    def attempt(params: Params, opt_state: Any, batch: Batch, key: Array | None) -> tuple[Params, Any, Metrics]:
        if key is None and num_minibatches > 1:
            raise ValueError(f"epochs needs a key to shuffle {num_minibatches} minibatches")

        def epoch(carry: Any, key: Array) -> tuple[Any, Any]:
            shuffle_key, step_key = jax.random.split(key)
            parts = shuffle(batch, shuffle_key, num_minibatches, axis=axis, groups=groups)
            return jax.lax.scan(body, carry, (parts, jax.random.split(step_key, num_minibatches)))

        def whole(carry: Any, key: Array) -> tuple[Any, Any]:
            return body(carry, (batch, key))

        one = whole if num_minibatches == 1 else epoch
        keys = None if key is None else jax.random.split(key, num_epochs)
        carry = (params, opt_state)
        if stop is None:
            carry, metrics = jax.lax.scan(one, carry, keys, length=num_epochs)
            return *carry, mean_of_taken(metrics)
        (carry, _), seen = jax.lax.scan(one, (carry, jnp.bool_(True)), keys, length=num_epochs)
        metrics = mean_of_taken(seen.metrics, among=seen.looked_at)
        return *carry, {**metrics, "stopped": jnp.mean(seen.stopped, dtype=jnp.float32)}

    return Step(step.init, looked_at(attempt) if step.attempt else attempt, step.attempt and attempt)


class _Seen(NamedTuple):
    """What is known of a minibatch where an update may have ended."""

    metrics: Metrics
    """Zeros if it was not looked at."""
    looked_at: Array
    """`[]` bool: whether the update had not ended before it."""
    stopped: Array
    """`[]` bool: whether the step on it was not taken because the update had ended, or ended there."""


def _until(minibatch: Callable[..., tuple[Any, Metrics]], stop: Stop) -> Callable[..., tuple[Any, _Seen]]:
    """The same body of a scan, of a carry `(carry, going)`, which does nothing more once `stop` said True."""

    def body(carry: tuple[Any, Array], part: tuple[Batch, Array]) -> tuple[tuple[Any, Array], _Seen]:
        before, going = carry

        def look(before: Any) -> tuple[Any, Metrics, Array]:
            after, metrics = minibatch(before, part)
            if "stopped" in metrics:
                raise ValueError("epochs with stop has a metric 'stopped'; its step has one of that name as well")
            ends = _asked(stop, metrics)
            return select(ends, before, after), metrics, ends

        _, like, _ = jax.eval_shape(look, before)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        after, metrics, ends = jax.lax.cond(going, look, lambda before: (before, nothing, jnp.bool_(True)), before)
        return (after, ~ends), _Seen(metrics, going, ends)

    return body


def _asked(stop: Stop, metrics: Metrics) -> Array:
    """What `stop` says of a minibatch. Raises ValueError if it asks for no metric that there is, or says no truth."""
    try:
        said = jnp.asarray(stop(dict(metrics)))
    except KeyError as error:
        raise ValueError(f"epochs: stop asks for the metric {error}; there are {', '.join(sorted(metrics))}") from None
    if said.shape or said.dtype != jnp.bool_:
        raise ValueError(f"epochs: stop must return one truth value, []; it returned {described(said)}")
    return said
