"""The one training loop, pure and jit-able: steps, epochs over minibatches, and the scan over updates.

    collect(params, collect_state, key) -> (collect_state, batch, metrics)
    step.update(params, opt_state, batch, key) -> (params, opt_state, metrics)

An algorithm is such a pair and a way to begin (`polopt_jax.algorithms`). The host's part - progress, logs, checkpoints
between compiled chunks - is `polopt_jax.driver`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from polopt_jax.boundaries import check_loss, check_pair, check_takes, described
from polopt_jax.fields import with_fields
from polopt_jax.guards import all_finite, no_nan, select, tree_norm
from polopt_jax.reading import read_policy
from polopt_jax.reductions import token_mean
from polopt_jax.rows import GROUPS, Shuffle, sample_rows, shuffled_parts
from polopt_jax.types import Array, Batch, Divergence, Metrics, Model, Objective, Params, Reporting, record

Collect: TypeAlias = Callable[[Params, Any, Array], tuple[Any, Batch, Metrics]]


@with_fields
class Step(NamedTuple):
    """What an update does to the parameters, given a batch: a pair of pure functions, as in optax."""

    init: Callable[[Params], Any]
    """`params -> opt_state`"""
    update: Callable[[Params, Any, Batch, Any], tuple[Params, Any, Metrics]]
    """`(params, opt_state, batch, key) -> (params, opt_state, metrics)`; the key is for shuffling alone, and may be
    None where nothing is shuffled."""


@with_fields
@record
class TrainState:
    """Everything a run consists of; saving it is saving the run."""

    params: Params
    opt_state: Any
    collect_state: Any
    """Environments, normaliser, baseline: what `collect` carries from update to update."""
    key: Array
    update: Array
    """int32 `[]`: updates done."""


def init_state(step: Step, params: Params, key: Array, *, collect_state: Any = ()) -> TrainState:
    """The state of a run that has not begun: fresh optimizer state, no update done.

    >>> step = make_step((lambda params, batch: (params**2, {}), optax.sgd(0.1)))
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


def reported(opt_state: Any) -> Metrics:
    """What the states in an optimizer's state report of their last update (`types.Reporting`), as float32 scalars."""
    metrics: Metrics = {}
    for state in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, Reporting)):
        if isinstance(state, Reporting):
            metrics |= state.metrics()
    return {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


Phase: TypeAlias = tuple[Objective, optax.GradientTransformation]
"""What is minimised, and by which optimizer."""


def make_step(phase: Phase | None = None, /, *unpaired: Any, **phases: Phase) -> Step:
    """An update of one phase `(objective, optimizer)`, or of several in order, each with a name.

    Every phase sees the full parameters as the phase before left them, takes one gradient of its objective on the
    batch and one step of its optimizer. The optimizer is passed `batch=` and `objective=`, which NPG and TRPO use, and
    `value=`, `grad=` and `value_fn=`, which optax's line searches and Polyak steps use; others ignore them. PPO has one
    phase; TRPO with a critic is `make_step(policy=(surrogate, trpo(...)), critic=(value_loss, adam))`.

    A phase is skipped if its loss, gradient, updates or updated parameters would not be finite, or its optimizer's
    state hold a NaN (an infinity there may be legitimate): parameters and optimizer state stay bit-identical, and the
    metric `skipped` is 1.

    Metrics of a phase are the objective's own, `loss`, `grad_norm`, `skipped` and what the optimizer's states report.
    A phase that has a name has it before each of them, `policy/loss`.

    Raises ValueError if there is no phase, or both one without and some with a name; TypeError if a phase is no pair
    of an objective and an optimizer, or the objective does not return a scalar loss and a dict of metrics.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = make_step((po.objective(model, po.reinforce()), optax.sgd(1.0)))
    >>> batch = po.Batch(obs=jnp.ones((2, 1, 1)), action=jnp.zeros((2, 1), int), mask=jnp.ones((2, 1), bool),
    ...                  advantage=jnp.ones((2, 1)))
    >>> params, opt_state, metrics = step.update(jnp.zeros((1, 2)), step.init(jnp.zeros((1, 2))), batch, None)
    >>> params.tolist()
    [[0.5, -0.5]]
    """
    if unpaired:
        raise TypeError("make_step needs pairs: make_step((objective, optimizer)), with parentheses of their own")
    if (phase is None) == (not phases):
        raise ValueError("make_step needs one phase (objective, optimizer), or phases by name: policy=(...), ...")
    if phase is not None:
        return _one_phase(*_checked("the phase", phase))
    return sequential(**{name: _one_phase(*_checked(name, named)) for name, named in phases.items()})


def _checked(name: str, phase: Any) -> Phase:
    """The phase, a pair of an objective and an optimizer; else TypeError."""
    needs = "a pair (objective, optimizer)"
    objective, optimizer = check_pair("make_step", name, phase, needs)
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"make_step: {name} must be {needs}; its optimizer is {described(optimizer)}")
    check_takes("make_step", f"the objective of {name}", objective, "params", "batch")
    return objective, optimizer


def _one_phase(objective: Objective, optimizer: optax.GradientTransformation) -> Step:
    optimizer = optax.with_extra_args_support(optimizer)

    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        del key
        checked = lambda params, batch: check_loss("make_step: an objective", objective(params, batch))  # noqa: E731
        (loss, metrics), grads = jax.value_and_grad(checked, has_aux=True)(params, batch)

        def value_fn(params: Params, batch: Batch = batch, objective: Objective = objective) -> Array:
            return objective(params, batch)[0]  # optax hands a value_fn those extra arguments that it names

        extra = dict(batch=batch, objective=objective, value=loss, grad=grads, value_fn=value_fn)
        updates, new_state = optimizer.update(grads, opt_state, params, **extra)
        new_params = optax.apply_updates(params, updates)
        norm = tree_norm(grads)  # finite where every gradient is; and parameters are no longer where an update is not
        sound = jnp.isfinite(loss) & jnp.isfinite(norm) & all_finite(new_params) & no_nan(new_state)
        metrics = {
            **metrics,
            "loss": loss,
            "grad_norm": norm,
            "skipped": 1.0 - sound.astype(jnp.float32),
            **reported(new_state),
        }
        return select(sound, new_params, params), select(sound, new_state, opt_state), metrics

    return Step(optimizer.init, update)


def sequential(**steps: Step) -> Step:
    """Named steps one after the other on the same batch, each on the parameters that the one before left.

    Metrics are prefixed by the step's name, `policy/loss`; so TRPO with ten passes of its critic is
    `sequential(policy=make_step((surrogate, trpo)), critic=epochs(make_step((value, adam)), 10, 1))`. The optimizer
    state is a dict by the same names. A key of None is passed on as None. Raises ValueError if there is no step.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> policy = po.make_step((po.objective(model, po.surrogate()), po.trpo(model)))
    >>> ppo = po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4)))
    >>> step = sequential(policy=policy, polish=epochs(ppo, 10, 1))
    """
    if not steps:
        raise ValueError("sequential needs at least one step, name=step")

    def update(params: Params, opt_states: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        metrics: Metrics = {}
        new_states = {}
        for i, (name, step) in enumerate(steps.items()):
            its_key = None if key is None else jax.random.fold_in(key, i)
            params, new_states[name], its = step.update(params, opt_states[name], batch, its_key)
            metrics |= {f"{name}/{metric}": value for metric, value in its.items()}
        return params, new_states, metrics

    return Step(lambda params: {name: step.init(params) for name, step in steps.items()}, update)


def epochs(
    step: Step,
    num_epochs: int,
    num_minibatches: int,
    *,
    axis: int = 0,
    groups: int = GROUPS,
    shuffle: Shuffle = shuffled_parts,
) -> Step:
    """Repeats a step over `num_minibatches` shuffled shares of the batch, `num_epochs` times.

    What is shuffled is *rows* - environments, prompts, pairs: the batch's axis `axis` (1 for preference batches
    `[2, N, T]`) - never decisions within a row, so that every model and every term stays valid. Where both see a
    decision by itself, as a network on states and the terms of PPO do, `shuffle=rows.shuffled_decisions` learns more
    from as many: on ant 168 where rows reach 138 after 1.5M steps, and 2 to 5% more time for the step. Metrics are
    means over all the steps taken.

    The shuffle stays within contiguous groups of rows, of which every minibatch has equally many
    (`rows.shuffled_parts`): gcd(groups, rows of a minibatch) groups. Rows that are split over devices, as many as
    divide that number, so stay on them, and the shuffle is the same whatever the number of devices. One minibatch is
    the batch as it is; then nothing is shuffled and the key may be None.

    Raises ValueError if `num_minibatches` does not divide the axis or several of them come without a key (at trace
    time), or if a number is not positive.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = epochs(po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4))), 4, 8)
    """
    numbers = {"num_epochs": num_epochs, "num_minibatches": num_minibatches, "groups": groups}
    if min(numbers.values()) < 1:
        raise ValueError(f"{', '.join(numbers)} must be positive; they are {', '.join(map(str, numbers.values()))}")

    def update(params: Params, opt_state: Any, batch: Batch, key: Array | None) -> tuple[Params, Any, Metrics]:
        if key is None and num_minibatches > 1:
            raise ValueError(f"epochs needs a key to shuffle {num_minibatches} minibatches")

        def minibatch(carry: tuple[Params, Any], part: tuple[Batch, Array]) -> tuple[tuple[Params, Any], Metrics]:
            params, opt_state, metrics = step.update(*carry, *part)
            return (params, opt_state), metrics

        def epoch(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Metrics]:
            shuffle_key, step_key = jax.random.split(key)
            parts = shuffle(batch, shuffle_key, num_minibatches, axis=axis, groups=groups)
            return jax.lax.scan(minibatch, carry, (parts, jax.random.split(step_key, num_minibatches)))

        def whole(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Metrics]:
            return minibatch(carry, (batch, key))

        one = whole if num_minibatches == 1 else epoch
        keys = None if key is None else jax.random.split(key, num_epochs)
        carry, metrics = jax.lax.scan(one, (params, opt_state), keys, length=num_epochs)
        return *carry, jax.tree.map(jnp.mean, metrics)

    return Step(step.init, update)


def monitored(step: Step, model: Model, *, rows: int | None = None, axis: int = 0, **divergences: Divergence) -> Step:
    """The same step, which also reports how far it moved the policy, after *all* of its phases, and its entropy.

    `monitored(step, model, kl_old_new=action_kl)` adds the metric `kl_old_new`, D(before ‖ after) measured on the
    batch's states, and `entropy`, the mean entropy afterwards in nats per decision. On a sample of about `rows` rows
    only, if given, at equal distances along the batch's axis `axis` (`rows.sample_rows`, which says how many): rows are
    exchangeable, so that is unbiased at a fraction of the price. Costs two evaluations of the policy.

    Raises ValueError if `rows` is not positive (at trace time).

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4)))
    >>> step = monitored(step, model, kl_old_new=po.action_kl, kl_new_old=po.reverse(po.action_kl))
    """

    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        sample = batch if rows is None else sample_rows(batch, rows, axis=axis)
        old = model(params, sample.obs)
        params, opt_state, metrics = step.update(params, opt_state, batch, key)
        new = model(params, sample.obs)
        moved = {name: divergence(old, new, sample) for name, divergence in divergences.items()}
        entropy = token_mean(read_policy("monitored", new, sample).entropy(), sample)
        return params, opt_state, {**metrics, **moved, "entropy": entropy}

    return Step(step.init, update)


def train(collect: Collect, step: Step, state: TrainState, *, updates: int) -> tuple[TrainState, Metrics]:
    """The training loop: `updates` times collect a batch and take a step. Pure; jit it, vmap it over seeds.

    Returns `(state, metrics)`, every metric `[updates]`: those of `collect` and those of the step. Going on from the
    returned state continues exactly what a longer call would have done.

    On jax 0.10 (Python 3.11) `jit(vmap(train))` hangs on a CPU under XLA's default scheduler; compile it with
    `jax.jit(..., compiler_options=polopt_jax.driver.compiler_options())`, as `polopt_jax.driver` does.

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
    if updates < 1:
        raise ValueError(f"updates must be at least 1; it is {updates}")

    def one(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        key, collect_key, step_key = jax.random.split(state.key, 3)
        collect_state, batch, collected = collect(state.params, state.collect_state, collect_key)
        params, opt_state, metrics = step.update(state.params, state.opt_state, batch, step_key)
        state = TrainState(
            params=params, opt_state=opt_state, collect_state=collect_state, key=key, update=state.update + 1
        )
        return state, {**collected, **metrics}

    return jax.lax.scan(one, state, None, length=updates)
