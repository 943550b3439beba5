"""The one training loop, pure and jit-able: collect a batch, take a step, again.

    collect(params, collect_state, key) -> (collect_state, batch, metrics)
    step.update(params, opt_state, batch, key) -> (params, opt_state, metrics)

An algorithm is such a pair and a way to begin (`polopt_jax.algorithms`); steps are made in `polopt_jax.steps`. The
host's part - progress, logs, checkpoints between compiled chunks - is `polopt_jax.driver`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from polopt_jax.boundaries import check_takes, described
from polopt_jax.fields import with_fields
from polopt_jax.ranges import check_sizes
from polopt_jax.steps import Step, check_step
from polopt_jax.types import Array, Batch, Metrics, Params, record

Collect: TypeAlias = Callable[[Params, Any, Array], tuple[Any, Batch, Metrics]]


@with_fields
@record
class TrainState:
    """Everything a run consists of; saving it is saving the run."""

    params: Params
    opt_state: Any
    collect_state: Any
    """Environments, normaliser, baseline: what `collect` carries from update to update. In a recipe it is a pair, the
    task's and the estimate's; of a control task the normaliser is `collect_state[0].normalizer`."""
    key: Array
    update: Array
    """int32 `[]`: updates done."""


def init_state(step: Step, params: Params, key: Array, *, collect_state: Any = ()) -> TrainState:
    """The state of a run that has not begun: fresh optimizer state, no update done.

    >>> import optax
    >>> import polopt_jax as po
    >>> step = po.make_step((lambda params, batch: (params**2, {}), optax.sgd(0.1)))
    >>> int(init_state(step, jnp.ones(()), jax.random.key(0)).update)
    0
    """
    return TrainState(
        params=params,
        opt_state=step.init(params),
        collect_state=collect_state,
        key=key,
        update=jnp.zeros((), jnp.int32),
    )


def train(collect: Collect, step: Step, state: TrainState, *, updates: int) -> tuple[TrainState, Metrics]:
    """The training loop: `updates` times collect a batch and take a step. Pure; jit it, vmap it over seeds.

    Returns `(state, metrics)`, every metric `[updates]`: those of `collect` and those of the step. Going on from the
    returned state continues exactly what a longer call would have done. Raises ValueError if `updates` is below 1, or
    both have a metric of one name, TypeError if `collect`, `step` or `state` is none.

    On jax 0.10 (Python 3.11) `jit(vmap(train))` hangs on a CPU under XLA's default scheduler; compile it with
    `jax.jit(..., compiler_options=polopt_jax.driver.compiler_options())`, as `polopt_jax.driver` does.

    >>> import optax
    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=params[None, None]))
    >>> step = po.make_step((po.objective(model, po.reinforce()), optax.sgd(1.0)))
    >>> def collect(params, state, key):           # one-armed bandit: action 1 pays
    ...     action = jax.random.categorical(key, params, shape=(1, 1))
    ...     batch = po.Batch(obs=jnp.zeros((1, 1)), action=action, mask=jnp.ones((1, 1), bool),
    ...                      advantage=action.astype(float))
    ...     return state, batch, {"reward": action.mean()}
    >>> state = po.init_state(step, jnp.zeros(2), jax.random.key(0))
    >>> state, metrics = jax.jit(lambda s: train(collect, step, s, updates=50))(state)
    >>> metrics["reward"].shape, bool(state.params[1] > state.params[0])
    ((50,), True)
    """
    if not isinstance(state, TrainState):
        raise TypeError(f"train: state must be a po.TrainState, as po.init_state makes it; it is {described(state)}")
    check_takes("train", "collect", collect, "params", "state", "key")
    check_step("train", step)
    check_sizes("train", updates=updates)

    def one(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        key, collect_key, step_key = jax.random.split(state.key, 3)
        collect_state, batch, collected = collect(state.params, state.collect_state, collect_key)
        params, opt_state, metrics = step.update(state.params, state.opt_state, batch, step_key)
        if taken := collected.keys() & metrics.keys():
            raise ValueError(f"train: collect and step both have a metric {min(taken)!r}")
        state = TrainState(
            params=params, opt_state=opt_state, collect_state=collect_state, key=key, update=state.update + 1
        )
        return state, {**collected, **metrics}

    return jax.lax.scan(one, state, None, length=updates)
