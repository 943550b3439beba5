"""What every recipe is put together from: a task, an estimate of the advantage, a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

from polopt_jax.advantages import explained_variance, gae
from polopt_jax.boundaries import described
from polopt_jax.combinators import objective, weighted_sum
from polopt_jax.dataflow import dependence
from polopt_jax.divergences import action_kl
from polopt_jax.episodes import to_batch
from polopt_jax.fields import with_fields
from polopt_jax.guards import clip_by_global_norm
from polopt_jax.masking import standardize
from polopt_jax.minibatches import epochs
from polopt_jax.objectives import surrogate, value_loss
from polopt_jax.ranges import Nonnegative, Rate, check_range
from polopt_jax.steps import Step, make_step, monitored, raveled, sequential, side_by_side
from polopt_jax.tasks import Task
from polopt_jax.training import Collect, TrainState, init_state
from polopt_jax.types import Array, ArrayLike, Batch, Metrics, Model, Obs, Outputs, Params, Rollout, Term, Update

MONITORED_ROWS = 256
"""Rows of each batch, about, on which KL(old ‖ new) and entropy are reported."""


@with_fields
class Algorithm(NamedTuple):
    """What `training.train` needs, and how to see what a policy is worth."""

    init: Callable[[Array], TrainState]
    """`key -> state`"""
    collect: Collect
    step: Step
    measure: Callable[[Params, Array], Metrics] | None = None
    """`(params, key) -> metrics` of a rollout that no update uses; None where `collect` makes rollouts anyway. The
    driver asks once per chunk, with randomness of its own, so that asking changes nothing."""
    evaluate: Callable[[TrainState], Metrics] | None = None
    """`state -> metrics` of whole episodes that nothing is learnt from; None where nobody asks. The host asks between
    chunks, as often as it was told to."""
    act: Callable[[TrainState], Callable[[Obs], Outputs]] | None = None
    """`state -> act`: the policy that the state of one agent holds, a function of observations as the environment gives
    them (or of a world's tokens): for `po.greedy`, and where there is an environment `po.unroll`, `evaluate_policy`."""


Terms: TypeAlias = Mapping[str, tuple[ArrayLike, Term]]
"""Further terms of a recipe's loss, by name, each with its weight, as `weighted_sum` takes them."""

Estimate: TypeAlias = Callable[[Rollout], Batch]
"""`rollout -> batch`: what an algorithm makes of a rollout. A recipe that is passed one trains on what it returns, with
the task's outcomes beside it where it has none."""


@with_fields
class RememberingEstimate(NamedTuple):
    """An estimate that carries something from rollout to rollout, as a running baseline does."""

    init: Callable[[], Any]
    """`() -> state`"""
    apply: Callable[[Any, Rollout], tuple[Any, Batch]]
    """`(state, rollout) -> (state, batch)`"""


def assemble(task: Task, step: Step, estimate: Estimate | RememberingEstimate, *, gamma: ArrayLike) -> Algorithm:
    """A recipe: what is learnt, what is made of a rollout, and what step is taken.

    Every recipe of this package ends with it, and so does one of your own: a term and an optimizer make the step, and
    the loop, the metrics and the command's way of running stay as they are. The step also reports `kl_old_new` and
    `entropy` on about 256 rows, and where there is a critic `explained_variance`.

    Args:
      task: of `polopt_jax.tasks`.
      step: of `make_step`, `epochs`, `sequential`.
      estimate: `gae_estimate(gamma, lambda_)`, or any function `rollout -> batch`.
      gamma: the discount that the estimate uses; the task scales its rewards by the return discounted with it.

    >>> import polopt_jax as po
    >>> def recipe(task):
    ...     term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))
    ...     step = po.make_step((po.objective(task.model, term), optax.lion(1e-4)))
    ...     return assemble(task, po.epochs(step, 4, 8), gae_estimate(0.99, 0.95), gamma=0.99)
    """
    if not isinstance(estimate, RememberingEstimate):
        forgetful = estimate
        estimate = RememberingEstimate(tuple, lambda state, rollout: (state, estimated(forgetful, rollout)))
    init_estimate, apply_estimate = estimate
    first_axis = task.row_shape[0]
    rows = min(first_axis, max(1, MONITORED_ROWS * first_axis // task.num_rows))
    step = monitored(step, task.model, rows=rows, kl_old_new=action_kl)

    def init(key: Array) -> TrainState:
        params_key, task_key, key = jax.random.split(key, 3)
        params = task.init_params(params_key)
        return init_state(step, params, key, collect_state=(task.init(task_key), init_estimate()))

    def collect(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
        task_state, estimate_state = state
        task_state, rollout, metrics = task.rollout(params, task_state, key, gamma)
        estimate_state, batch = apply_estimate(estimate_state, rollout)
        if task.outcome is not None and batch.outcome is None:
            batch = replace(batch, outcome=task.outcome(rollout))
        if batch.value is not None and batch.target is not None:
            if "explained_variance" in metrics:
                raise ValueError("the task has a metric 'explained_variance', which is that of the recipe's critic")
            metrics = {**metrics, "explained_variance": explained_variance(batch)}
        return (task_state, estimate_state), batch, metrics

    def act(state: TrainState) -> Callable[[Obs], Outputs]:
        task_state, _ = state.collect_state
        read = task.read or (lambda _, obs: obs)
        return lambda obs: task.model(state.params, read(task_state, obs))

    return Algorithm(init, collect, step, act=act)


def estimated(estimate: Estimate, rollout: Rollout) -> Batch:
    """What an estimate makes of a rollout; TypeError if that is no `Batch`."""
    batch = estimate(rollout)
    if not isinstance(batch, Batch):
        raise TypeError(f"an estimate must return a Batch, as to_batch makes it; it returned {described(batch)}")
    return batch


def standardized_batch(rollout: Rollout, advantage: Array, target: Array) -> Batch:
    """The rollout as a batch whose advantages have mean 0 and standard deviation 1, over the whole batch."""
    batch = to_batch(rollout, advantage=advantage, target=target)
    return replace(batch, advantage=standardize(advantage_of(batch), batch.mask))


def advantage_of(batch: Batch) -> Array:
    """`batch.advantage`, which must be there."""
    if batch.advantage is None:
        raise ValueError("the batch has no advantage")
    return batch.advantage


def gae_estimate(gamma: ArrayLike, lambda_: ArrayLike) -> Estimate:
    """Advantages and targets by GAE, the advantages standardised over the batch; needs a critic.

    What the recipes with a critic take for `estimate=None`. Without the standardisation it is

        def estimate(rollout):
            advantage, target = po.gae(rollout, gamma=0.99, lambda_=0.95)
            return po.to_batch(rollout, advantage=advantage, target=target)
    """

    def estimate(rollout: Rollout) -> Batch:
        advantage, target = gae(rollout, gamma=gamma, lambda_=lambda_)
        return standardized_batch(rollout, advantage, target)

    return estimate


def with_terms(term: Term, terms: Terms | None) -> Term:
    """A recipe's own term and further ones beside it, whose metrics come under their names."""
    if not terms:
        return term
    more = weighted_sum(**terms)

    def extended(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        loss, metrics = term(outputs, batch)
        further, their_metrics = more(outputs, batch)
        if taken := metrics.keys() & their_metrics.keys():
            raise ValueError(f"terms: the recipe has {min(taken)!r} itself; give the term another name")
        return loss + further, {**metrics, **their_metrics}

    return extended


def adam(learning_rate: Rate, max_grad_norm: ArrayLike, *, steps_per_update: int = 1) -> optax.GradientTransformation:
    """Global-norm clip, then Adam with ε = 1e-5, as PPO's code has it.

    Args:
      learning_rate: a number, or a schedule of the update's number, from 0 on.
      max_grad_norm: norm to which the gradient is clipped.
      steps_per_update: the optimizer's steps within an update, at all of which the schedule has one value.
    """
    rate = by_update(learning_rate, steps_per_update)
    return optax.chain(clip_by_global_norm(max_grad_norm), optax.adam(rate, eps=1e-5))


def by_update(learning_rate: Rate, steps_per_update: int, *, name: str = "learning_rate") -> Any:
    """A schedule of the update's number as optax wants it, of the optimizer's; a number as it is.

    >>> by_update(0.1, 4), by_update(lambda update: update, 4)(11)
    (0.1, 2)
    """
    if not callable(learning_rate):
        return learning_rate
    schedule = checked_schedule(learning_rate, name)
    return lambda count: schedule(count // steps_per_update)


def checked_schedule(schedule: Callable[[Any], Any], name: str = "learning_rate") -> Callable[[Any], Any]:
    """The same schedule, an argument of that name, whose every value is looked at, that of update 0 at once.

    Raises TypeError or ValueError where it is no number, or, where that can be seen, below 0.

    >>> checked_schedule(lambda update: -0.1)
    Traceback (most recent call last):
    ValueError: learning_rate(update): its value must be at least 0; it is -0.1
    """

    def looked_at(update: Any) -> Any:
        value = schedule(update)
        if value is None:
            raise TypeError(f"{name}(update): its value must be a number; it is None: is a return missing?")
        check_range(f"{name}(update)", Nonnegative, **{"its value": value})
        return value

    looked_at(jax.numpy.int32(0))
    return looked_at


def by_schedule(make: Callable[[Any], Step], rate: Rate) -> Step:
    """The step that `make` makes of a learning rate; where that is a schedule, of its value at the update's number.

    The state counts the updates. An optimizer counts its own steps, of which one update may take fewer than another,
    where it ends early or skips some.

    >>> import polopt_jax as po
    >>> loss = lambda params, batch: (params.sum(), {})
    >>> step = by_schedule(lambda rate: po.make_step((loss, optax.sgd(rate))), lambda update: 0.1 / (1 + update))
    >>> params, state = jax.numpy.zeros(()), step.init(jax.numpy.zeros(()))
    >>> for _ in range(2):
    ...     params, state, _ = step.update(params, state, None, None)
    >>> round(float(params), 4)
    -0.15
    """
    if not callable(rate):
        return make(rate)
    rate = checked_schedule(rate)

    def init(params: Params) -> tuple[Array, Any]:
        return jax.numpy.zeros((), jax.numpy.int32), make(rate(0)).init(params)

    def by(way: Callable[[Step], Step]) -> Update:
        def update(params: Params, state: Any, batch: Batch, key: Array) -> tuple[Params, Any, Metrics]:
            number, opt_state = state
            params, opt_state, metrics = way(make(rate(number))).update(params, opt_state, batch, key)
            return params, (number + 1, opt_state), metrics

        return update

    return Step(init, by(lambda step: step), beside=by(side_by_side))


def policy_then_critic(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    terms: Terms | None,
    value_optimizer: optax.GradientTransformation | None,
    value_learning_rate: Rate,
    value_epochs: int,
    value_minibatches: int,
) -> Step:
    """A natural-gradient phase on the surrogate, then passes of Adam, or another, on the critic alone.

    Warns, when it is traced, where the critic's steps would move the policy too, after its KL was bounded.
    """
    policy = make_step((objective(task.model, with_terms(surrogate(), terms)), optimizer))
    rate = by_update(value_learning_rate, value_epochs * value_minibatches, name="value_learning_rate")
    usual_optimizer = optax.adam(rate)
    loss = objective(task.model, value_loss())

    def alone(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        _warn_of_shared(task.model, params, batch.obs)
        return loss(params, batch)

    critic = make_step((alone, value_optimizer or usual_optimizer))
    critic = epochs(critic, value_epochs, value_minibatches, shuffle=task.shuffle)
    return sequential(policy=policy, critic=raveled(critic) if value_optimizer is None else critic)


def _warn_of_shared(model: Model, params: Params, obs: Obs) -> None:
    """Warns of parameters that the policy is a function of and that the value has a gradient for."""
    params, obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, obs))
    outputs = jax.eval_shape(model, params, obs)
    if outputs.value is None:  # which the loss will say
        return
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]

    def pulled(params: Params, obs: Obs, cotangent: Array) -> Params:
        return jax.vjp(lambda params: model(params, obs).value, params)[1](cotangent)[0]

    moved_by = dependence(pulled, params, obs, outputs.value)  # a gradient that is none has nothing of the cotangent
    if any(moved_by([False] * len(paths))):  # this JAX cannot tell
        return
    read = dependence(lambda *of: model(*of).policy, params, obs)([True] * len(jax.tree.leaves(outputs.policy)))
    moved = [moved_by([other == path for other in paths])[-1] for path in paths]
    if shared := [path for path, *both in zip(paths, read, moved, strict=False) if all(both)]:
        warnings.warn(
            f"policy and critic share params{shared[0]} and {len(shared) - 1} more: the critic's steps move the policy "
            "after its KL was bounded. networks.mlp_actor_critic shares none",
            stacklevel=2,
        )
