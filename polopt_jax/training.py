"""The one training loop, pure and jit-able: steps, epochs over minibatches, and the scan over updates.

    collect(params, collect_state, key) -> (collect_state, batch, metrics)
    step.update(params, opt_state, batch, key) -> (params, opt_state, metrics)

An algorithm is such a pair and a way to begin (`polopt_jax.algorithms`). The host's part - progress, logs, checkpoints
between compiled chunks - is `polopt_jax.driver`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from polopt_jax.combinators import split_rows
from polopt_jax.objectives import entropy
from polopt_jax.solvers._conjugate_gradient import CGStatus, tree_norm
from polopt_jax.solvers._guard import all_finite, select
from polopt_jax.solvers._natural_gradient import NaturalGradientState
from polopt_jax.solvers._trust_region import BacktrackState, ScaleToRadiusState
from polopt_jax.types import Array, Batch, Divergence, Metrics, Model, Objective, Params, record

Collect: TypeAlias = Callable[[Params, Any, Array], tuple[Any, Batch, Metrics]]


class Step(NamedTuple):
    """What an update does to the parameters, given a batch: a pair of pure functions, as in optax."""

    init: Callable[[Params], Any]
    """`params -> opt_state`"""
    update: Callable[[Params, Any, Batch, Array], tuple[Params, Any, Metrics]]
    """`(params, opt_state, batch, key) -> (params, opt_state, metrics)`; the key is for shuffling alone."""


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


def solver_metrics(opt_state: Any) -> Metrics:
    """The diagnostics that natural-gradient and trust-region states in an optimizer state hold, as float32 scalars."""
    kinds = (NaturalGradientState, ScaleToRadiusState, BacktrackState)
    metrics: Metrics = {}
    for state in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds)):
        if isinstance(state, NaturalGradientState):
            metrics["cg_iterations"] = state.solve.iterations
            metrics["cg_residual"] = state.solve.residual
            failed = (state.solve.status == CGStatus.NONPOSITIVE_CURVATURE) | (state.solve.status == CGStatus.NONFINITE)
            metrics["cg_failed"] = failed
        elif isinstance(state, ScaleToRadiusState):
            metrics["natural_step_factor"] = state.factor
        elif isinstance(state, BacktrackState):
            metrics["step_size"] = state.step_size
            metrics["line_search_trials"] = state.trials
            metrics["line_search_accepted"] = state.accepted
            metrics["surrogate_improvement"] = state.improvement
    return {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def make_step(*phases: tuple[Objective, optax.GradientTransformation]) -> Step:
    """An update as a sequence of phases `(objective, optimizer)`, each with its own optimizer state.

    Every phase sees the full parameters as the phase before left them, takes one gradient of its objective on the
    batch and one step of its optimizer, which is passed `batch=` and `objective=` (NPG and TRPO use them; others
    ignore them). PPO has one phase; TRPO with a critic is `(surrogate, trpo(...)), (value_loss, adam)`.

    A phase whose gradient, updated parameters or optimizer state would not be finite is skipped: parameters and
    optimizer state stay bit-identical, and the metric `skipped` is 1.

    Metrics of a single phase are the objective's own, `loss`, `grad_norm`, `skipped` and `solver_metrics`; with
    several phases each name is prefixed by the phase's number, `0/`, `1/`, ...

    Raises ValueError if there is no phase.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = make_step((po.objective(model, po.reinforce()), optax.sgd(1.0)))
    >>> batch = po.Batch(obs=jnp.ones((2, 1, 1)), action=jnp.zeros((2, 1), int), mask=jnp.ones((2, 1), bool),
    ...                  advantage=jnp.ones((2, 1)))
    >>> params, opt_state, metrics = step.update(jnp.zeros((1, 2)), step.init(jnp.zeros((1, 2))), batch, None)
    >>> params.tolist()
    [[0.5, -0.5]]
    """
    if not phases:
        raise ValueError("make_step needs at least one phase, (objective, optimizer)")
    steps = [_phase(objective, optax.with_extra_args_support(optimizer)) for objective, optimizer in phases]
    return steps[0] if len(steps) == 1 else sequential(*steps)


def _phase(objective: Objective, optimizer: optax.GradientTransformationExtraArgs) -> Step:
    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        del key
        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params, batch)
        updates, new_state = optimizer.update(grads, opt_state, params, batch=batch, objective=objective)
        new_params = optax.apply_updates(params, updates)
        sound = all_finite((grads, new_params, new_state))
        metrics = {
            **metrics,
            "loss": loss,
            "grad_norm": tree_norm(grads),
            "skipped": 1.0 - sound.astype(jnp.float32),
            **solver_metrics(new_state),
        }
        return select(sound, new_params, params), select(sound, new_state, opt_state), metrics

    return Step(optimizer.init, update)


def sequential(*steps: Step) -> Step:
    """Steps one after the other on the same batch, each on the parameters that the one before left.

    Metrics are prefixed by the step's number, `0/`, `1/`, ...; so TRPO with ten passes of its critic is
    `sequential(make_step((surrogate, trpo)), epochs(make_step((value, adam)), 10, 1))`.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> policy = po.make_step((po.objective(model, po.surrogate()), po.trpo(model)))
    >>> step = sequential(policy, epochs(po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4))), 10, 1))
    """

    def update(params: Params, opt_states: tuple[Any, ...], batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        metrics: Metrics = {}
        new_states = []
        for i, (step, opt_state) in enumerate(zip(steps, opt_states, strict=True)):
            params, opt_state, its = step.update(params, opt_state, batch, jax.random.fold_in(key, i))
            new_states.append(opt_state)
            metrics |= {f"{i}/{name}": value for name, value in its.items()}
        return params, tuple(new_states), metrics

    return Step(lambda params: tuple(step.init(params) for step in steps), update)


def epochs(step: Step, num_epochs: int, num_minibatches: int, *, axis: int = 0) -> Step:
    """Repeats a step over `num_minibatches` shuffled shares of the batch, `num_epochs` times.

    What is shuffled is *rows* - environments, prompts, pairs: the batch's axis `axis` (1 for preference batches
    `[2, N, T]`) - never decisions within a row. Sequence-level terms stay valid, and a permutation of 1024 rows costs a
    hundredth of one of 16384 decisions on a CPU. Metrics are means over all the steps taken.

    Raises ValueError if `num_minibatches` does not divide the axis (at trace time) or a number is not positive.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = epochs(po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4))), 4, 8)
    """
    if num_epochs < 1 or num_minibatches < 1:
        raise ValueError(f"num_epochs and num_minibatches must be positive; they are {num_epochs}, {num_minibatches}")

    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        def minibatch(carry: tuple[Params, Any], part: tuple[Batch, Array]) -> tuple[tuple[Params, Any], Metrics]:
            params, opt_state, metrics = step.update(*carry, *part)
            return (params, opt_state), metrics

        def epoch(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Metrics]:
            shuffle_key, step_key = jax.random.split(key)
            parts = split_rows(_shuffle_rows(batch, shuffle_key, axis), num_minibatches, axis=axis)
            return jax.lax.scan(minibatch, carry, (parts, jax.random.split(step_key, num_minibatches)))

        def whole(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Metrics]:
            return minibatch(carry, (batch, key))

        one = whole if num_minibatches == 1 else epoch
        carry, metrics = jax.lax.scan(one, (params, opt_state), jax.random.split(key, num_epochs))
        return *carry, jax.tree.map(jnp.mean, metrics)

    return Step(step.init, update)


def _shuffle_rows(batch: Batch, key: Array, axis: int) -> Batch:
    order = jax.random.permutation(key, batch.mask.shape[axis])
    rows = jax.tree.map(lambda x: jnp.take(x, order, axis=axis), replace(batch, counts=None))
    return replace(rows, counts=batch.counts)


def monitored(step: Step, model: Model, *, rows: int | None = None, **divergences: Divergence) -> Step:
    """The same step, which also reports how far it moved the policy, after *all* of its phases, and its entropy.

    `monitored(step, model, kl_old_new=action_kl)` adds the metric `kl_old_new`, D(before ‖ after) measured on the
    batch's states, and `entropy`, the mean entropy afterwards in nats per decision. On the batch's first `rows` rows
    only, if given: environments are exchangeable, so that is an unbiased sample at a fraction of the price. Costs two
    evaluations of the policy.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4)))
    >>> step = monitored(step, model, kl_old_new=po.action_kl, kl_new_old=po.reverse(po.action_kl))
    """

    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        sample = batch if rows is None else jax.tree.map(lambda x: x[:rows], replace(batch, counts=None))
        old = model(params, sample.obs)
        params, opt_state, metrics = step.update(params, opt_state, batch, key)
        new = model(params, sample.obs)
        moved = {name: divergence(old, new, sample) for name, divergence in divergences.items()}
        return params, opt_state, {**metrics, **moved, "entropy": entropy()(new, sample)[0]}

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
