"""What an update does to the parameters: a phase of gradient and optimizer, or several in order.

    step.update(params, opt_state, batch, key) -> (params, opt_state, metrics)

Steps compose: each function here makes one, or makes another of those that it is given; `minibatches.epochs` repeats
one. Which loop takes them is of no concern to them (`polopt_jax.training` is one).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from polopt_jax.boundaries import check_learnable, check_loss, check_pair, check_takes, described
from polopt_jax.guards import all_finite, no_nan, select, tree_norm
from polopt_jax.raveling import all_unraveled, ravel, raveled_like, unraveled
from polopt_jax.reading import read_policy
from polopt_jax.reductions import token_mean
from polopt_jax.rows import sample_rows
from polopt_jax.types import Array, Batch, Divergence, Metrics, Model, Objective, Params, Reporting, Step, Update


def reported(opt_state: Any) -> Metrics:
    """What the states in an optimizer's state report of their last update (`types.Reporting`), as float32 scalars."""
    metrics: Metrics = {}
    reports = lambda x: isinstance(x, Reporting) and callable(x.metrics)  # noqa: E731  (a field may be called so)
    for state in jax.tree.leaves(opt_state, is_leaf=reports):
        if reports(state):
            metrics |= state.metrics()
    return {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


_OWN = ("loss", "grad_norm", "skipped")
"""Metrics that every phase has."""
Phase: TypeAlias = tuple[Objective, optax.GradientTransformation]
"""What is minimised, and by which optimizer."""


def make_step(phase: Phase | None = None, /, *unpaired: Any, **phases: Phase) -> Step:
    """An update of one phase `(objective, optimizer)`, or of several in order, each with a name.

    Every phase sees the full parameters as the phase before left them, takes one gradient of its objective on the
    batch and one step of its optimizer. The optimizer is passed `batch=` and `objective=`, which NPG and TRPO use, and
    `value=`, `grad=` and `value_fn=`, which optax's line searches and Polyak steps use; others ignore them. PPO has one
    phase; TRPO with a critic is `make_step(policy=(surrogate, trpo(...)), critic=(value_loss, adam))`.

    A phase is skipped if its loss, gradient, updates or updated parameters would not be finite, its optimizer's state
    hold a NaN (an infinity there may be legitimate), or the batch has a mask and nothing under it: parameters and
    optimizer state stay bit-identical, and the metric `skipped` is 1. `epochs` looks at loss and gradient of each
    minibatch, and at the rest when all are done.

    Metrics of a phase are the objective's own, `loss`, `grad_norm`, `skipped` and what the optimizer's states report.
    A phase that has a name has it before each of them, `policy/loss`.

    Raises ValueError if there is no phase, or both one without and some with a name; TypeError if a phase is no pair
    of an objective and an optimizer, or the objective does not return a scalar loss and a dict of metrics; when it is
    traced ValueError if no array is among the parameters, or a metric of the objective has the name of one of those
    three, and TypeError if a parameter is no array of floats, or the batch comes before the optimizer's state.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = make_step((po.objective(model, po.reinforce()), optax.sgd(1.0)))
    >>> batch = po.Batch(obs=jnp.ones((2, 1, 1)), action=jnp.zeros((2, 1), int), mask=jnp.ones((2, 1), bool),
    ...                  advantage=jnp.ones((2, 1)))
    >>> params = jnp.zeros((1, 2))
    >>> params, opt_state, metrics = jax.jit(step.update)(params, step.init(params), batch, None)
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

    def checked(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        return check_loss("make_step: an objective", objective(unraveled(params), batch))

    def attempt(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        del key
        if isinstance(params, Batch) or isinstance(opt_state, Batch):
            raise TypeError("make_step: update takes (params, opt_state, batch, key), in this order")
        check_learnable("make_step", unraveled(params))
        (loss, metrics), grads = jax.value_and_grad(checked, has_aux=True)(params, batch)
        if taken := metrics.keys() & _OWN:
            raise ValueError(f"make_step has metrics {', '.join(_OWN)}; an objective has {min(taken)!r} as well")

        def value_fn(params: Params, batch: Batch = batch, objective: Objective = checked) -> Array:
            return objective(params, batch)[0]  # optax hands a value_fn those extra arguments that it names

        extra = dict(batch=batch, objective=checked, value=loss, grad=grads, value_fn=value_fn)
        updates, new_state = optimizer.update(grads, opt_state, params, **extra)
        new_params = optax.apply_updates(params, updates)
        norm = tree_norm(grads)  # finite where every gradient is
        sound = jnp.isfinite(loss) & jnp.isfinite(norm)  # all that is known before the optimizer: so XLA fuses the two
        metrics = {
            **metrics,
            **dict(zip(_OWN, (loss, norm, 1.0 - sound.astype(jnp.float32)), strict=True)),
            **reported(new_state),
        }
        return select(sound, new_params, params), select(sound, new_state, opt_state), metrics

    return Step(optimizer.init, looked_at(attempt), attempt)


def looked_at(attempt: Callable[..., tuple[Params, Any, Metrics]]) -> Callable[..., tuple[Params, Any, Metrics]]:
    """The same, undone and `skipped` where parameters are not finite after it or the optimizer's state holds a NaN, and
    where the batch has no decision: on a gradient of 0 momentum would still move."""

    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        new_params, new_state, metrics = attempt(params, opt_state, batch, key)
        some = True if getattr(batch, "mask", None) is None else jnp.any(batch.mask)
        sound = some & all_finite(new_params) & no_nan(new_state)
        metrics = {**metrics, "skipped": jnp.where(sound, metrics["skipped"], 1.0)}
        return select(sound, new_params, params), select(sound, new_state, opt_state), metrics

    return update


def check_step(caller: str, step: Any, name: str = "step") -> None:
    """Raises TypeError, in the name of the caller, unless it is a `Step`."""
    if not isinstance(step, Step):
        raise TypeError(f"{caller}: {name} must be a Step, as make_step makes it; it is {described(step)}")


def sequential(**steps: Step) -> Step:
    """Named steps one after the other on the same batch, each on the parameters that the one before left.

    Metrics are prefixed by the step's name, `policy/loss`; so TRPO with ten passes of its critic is
    `sequential(policy=make_step((surrogate, trpo)), critic=epochs(make_step((value, adam)), 10, 1))`. The optimizer
    state is a dict by the same names. A key of None is passed on as None. Raises ValueError if there is no step.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> policy = po.make_step((po.objective(model, po.surrogate()), po.trpo(model)))
    >>> ppo = po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4)))
    >>> step = sequential(policy=policy, polish=po.epochs(ppo, 10, 1))
    """
    if not steps:
        raise ValueError("sequential needs at least one step, name=step")
    for name, step in steps.items():
        check_step("sequential", step, name)

    def in_order(steps: dict[str, Step]) -> Update:
        def update(params: Params, opt_states: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
            metrics: Metrics = {}
            new_states = {}
            for i, (name, step) in enumerate(steps.items()):
                its_key = None if key is None else jax.random.fold_in(key, i)
                params, new_states[name], its = step.update(params, opt_states[name], batch, its_key)
                metrics |= {f"{name}/{metric}": value for metric, value in its.items()}
            return params, new_states, metrics

        return update

    def init(params: Params) -> Any:
        return {name: step.init(params) for name, step in steps.items()}

    return Step(init, in_order(steps), beside=in_order({name: side_by_side(step) for name, step in steps.items()}))


def raveled(step: Step) -> Step:
    """The same step, within which all parameters are one vector: fewer and longer operations, where leaves are small.

    For optimizers that treat every number alike, as Adam, SGD and a clip by the global norm do. One that sees leaves
    (LAMB, Muon, a mask or a label by name) would see one, and one that asks the model itself (`npg`, `trpo`) cannot.
    It belongs around `epochs`: parameters are laid out once for all its minibatches. An epoch of PPO on two layers of
    64 took .91 of the time with 64 environments of inverted_pendulum, .93 with 1,024, .97 with 256 of ant, and its
    compilation .6. The recipes do it where the optimizer is theirs.

    Parameters and the optimizer's state go in and come out as they are. Under a `vmap` over agents the vectors are the
    rows of a matrix, and a leaf is a strided part of it, which has to be copied: there `side_by_side` has the step as
    it was.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params["kernel"] + params["bias"]))
    >>> step = po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4)))
    >>> step = raveled(po.epochs(step, 4, 8))
    """
    check_step("raveled", step)

    def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
        vector = ravel(params)
        laid_out = raveled_like(jax.eval_shape(step.init, vector), opt_state)
        vector, laid_out, metrics = step.update(vector, laid_out, batch, key)
        return vector.tree(), all_unraveled(laid_out), metrics

    return Step(step.init, update, beside=step.update)


def side_by_side(step: Step) -> Step:
    """The same step as many agents should take it under one `vmap`: leaf by leaf, where `raveled` has a vector.

    Eight agents of PPO with 64 environments each took .89 of the time so. `driver.prepare` does it for several seeds;
    in a `vmap` of your own say it yourself. Numbers are the same to rounding, and so is the optimizer's state.

    >>> import polopt_jax as po
    >>> model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))
    >>> step = raveled(po.epochs(po.make_step((po.objective(model, po.ppo()), optax.adam(3e-4))), 4, 8))
    >>> over_agents = jax.vmap(side_by_side(step).update, in_axes=(0, 0, None, 0))
    """
    check_step("side_by_side", step)
    return Step(step.init, step.beside) if step.beside else step


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

    check_step("monitored", step)
    for name, divergence in divergences.items():
        check_takes("monitored", name, divergence, "old", "new", "batch")

    def watched(its_update: Update) -> Update:
        def update(params: Params, opt_state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
            sample = batch if rows is None else sample_rows(batch, rows, axis=axis)
            old = model(params, sample.obs)
            params, opt_state, metrics = its_update(params, opt_state, batch, key)
            new = model(params, sample.obs)
            moved = {name: divergence(old, new, sample) for name, divergence in divergences.items()}
            entropy = token_mean(read_policy("monitored", new, sample).entropy(), sample)
            return params, opt_state, {**metrics, **moved, "entropy": entropy}

        return update

    return Step(step.init, watched(step.update), beside=watched(side_by_side(step).update))
