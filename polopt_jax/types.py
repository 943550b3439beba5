"""The records and the four function types that everything else is written in.

Axes: T time, B environments, N episodes or prompts, G group. Time is the last of the leading axes,
`[..., T]`, in a `Batch`; it is the first, `[T, B]`, in a `Rollout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, dataclass_transform, runtime_checkable

import jax

from polopt_jax.fields import with_fields

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.Array | float
Params: TypeAlias = Any
Obs: TypeAlias = Any
Metrics: TypeAlias = dict[str, Array]
T = TypeVar("T", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def record(cls: T) -> T:
    """Makes `cls` a frozen keyword-only dataclass whose fields are the children of a pytree."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True, kw_only=True)(cls))


@runtime_checkable
class Reporting(Protocol):
    """A state that says what there is to report of the last update; optimizer states may be of this kind."""

    def metrics(self) -> Metrics:
        """Scalars by name."""
        ...


class Distribution(Protocol):
    """What a policy says about its decisions `[...]`. The names and directions are distrax's and TFP's.

    One of your own is a pytree with these methods - a `flax.struct.dataclass`, a NamedTuple - and inherits nothing. It
    needs only those that are called:

    * `batch_shape`, `where`, `log_prob` for every objective: `reinforce`, `ppo`, `dpo`, `grpo`, ... A policy that knows
      the log-probabilities of the tokens that were taken, and nothing else, serves them (`language.recorded` is one).
      Where there is a `masked_log_prob(action, mask)`, it is asked in place of the last two.
    * `entropy` for `entropy_bonus`, and for `monitored`, which the recipes use.
    * `kl_divergence` for `action_kl`, so for `npg`, `trpo`, `kl_to_reference`, and the recipes' report.
    * `sample`, `mode` and `squash` to act: `unroll`, `greedy`, `evaluate_policy`.

    Every leaf is a float array, so that a distribution can be differentiated, linearised and transposed.
    """

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading shape `[...]` of the decisions."""
        ...

    def log_prob(self, action: Array) -> Array:
        """log π(action), `[...]`."""
        ...

    def entropy(self) -> Array:
        """Entropy in nats, `[...]`."""
        ...

    def sample(self, *, seed: Array) -> Array:
        """One action per decision."""
        ...

    def mode(self) -> Array:
        """The most probable action of each decision."""
        ...

    def squash(self, action: Array) -> Array:
        """What the environment is sent for `action`; the identity unless the policy is squashed."""
        ...

    def kl_divergence(self, other: Any) -> Array:
        """KL(self ‖ other) in nats, `[...]`, exactly 0 where the two are equal."""
        ...

    def where(self, mask: Array) -> Distribution:
        """The same distribution with its per-decision leaves zeroed where `mask` is False."""
        ...


@with_fields
@record
class Outputs:
    """What a model says about observations of leading shape `[...]`."""

    policy: Any
    """A `Distribution` of batch shape `[...]`."""
    value: Array | None = None
    """State values `[...]`, where the model has a critic."""
    value_logits: Array | None = None
    """Where the critic is a law over a grid of K values: its logits `[..., K]`. `value` is their `expected_value`."""
    memory: Any = None
    """What a model with a memory remembers after a step of acting; the loop hands it on (`recurrent.with_memory`)."""


@with_fields
@record
class Counts:
    """The denominators of the reductions, when they are not those of the batch at hand (see `accumulate_gradients`)."""

    decisions: Array
    """Number of real decisions, `[]`."""
    rows: Array
    """Number of rows (the axes before T) with at least one real decision, `[]`."""
    pairs: Array
    """Number of preference pairs whose two rows both have a real decision, `[]`; 0 for other batches."""
    chosen: Array
    """Number of real decisions in the chosen rows of those pairs, `[]`; 0 for other batches."""


@with_fields
@record
class Batch:
    """Decisions of leading shape `[...]`, of which the last axis is time (a bandit has T = 1).

    A control batch is `[B, T]`, a group batch `[N, G, T]`, a preference batch `[2, N, T]` (chosen, rejected).
    Everything in a batch is a constant of the optimisation: no term has a gradient with respect to it.
    """

    obs: Obs
    """Any pytree the model reads, leading shape `[...]`. Must be finite everywhere, also under the mask."""
    action: Array
    """Actions or next tokens, `[...]` or `[..., A]`."""
    mask: Array
    """`[...]` bool: which decisions are real."""
    log_prob: Array | None = None
    """log-probability of `action` under the policy that took it, `[...]`."""
    advantage: Array | None = None
    """Advantage estimate, `[...]`."""
    value: Array | None = None
    """The critic's value when the data were collected, `[...]`."""
    target: Array | None = None
    """What the critic is regressed on, `[...]`."""
    ref_log_prob: Array | None = None
    """log-probability of `action` under the frozen reference policy, `[...]`."""
    sampler_log_prob: Array | None = None
    """log-probability of `action` that the engine which sampled it recorded, `[...]`, where that is not `log_prob`."""
    label: Array | None = None
    """bool, per row: whether it is a desirable one (unpaired preferences), `[...]` without T."""
    reference_point: Array | None = None
    """What the log-ratio of a row to the reference is measured from, in nats, `[...]` without T (`kto`, `bco`)."""
    outcome: Any = None
    """Outcome features of a whole row, any pytree of leading shape `[...]` without T."""
    counts: Counts | None = None
    """Denominators to use instead of those of `mask`; filled by `accumulate_gradients`."""


@with_fields
@record
class Rollout:
    """What an environment loop or a token sampler produced.

    Time-major with any row axes after T: every field is `[T, ...]`, where `...` is `B` environments, or `N, G` attempts
    at prompts, or `2, N` pairs; an observation or an action may have axes of its own behind them.
    """

    obs: Obs
    """The observation the decision was taken on."""
    action: Array
    """The action as the policy speaks it (before any squashing)."""
    log_prob: Array
    """log-probability of `action` when it was taken."""
    reward: Array
    """Reward of the step."""
    terminated: Array
    """bool: the step ended the episode, and no reward can follow."""
    truncated: Array
    """bool: the step ended the episode by a time limit; the value of `next_obs` still counts."""
    next_obs: Obs
    """The observation after the step and before any reset: the true final one at the end of an episode."""
    mask: Array
    """bool: False where there is no decision to learn from: the environment broke (a non-finite state; `truncated` is
    True as well), or the token is one of a prompt."""
    value: Array | None = None
    """The critic's value of `obs`."""
    next_value: Array | None = None
    """The critic's value of `next_obs`; 0 where the step terminated the episode: nothing can follow."""
    outcome: Any = None
    """Outcome features declared by the environment, per step."""


Model: TypeAlias = Callable[[Params, Obs], Outputs]
Term: TypeAlias = Callable[[Outputs, Batch], tuple[Array, Metrics]]
Objective: TypeAlias = Callable[[Params, Batch], tuple[Array, Metrics]]
Divergence: TypeAlias = Callable[[Outputs, Outputs, Batch], Array]
Reduction: TypeAlias = Callable[[Array, Batch], Array]
Outcome: TypeAlias = Mapping[str, Array]
Update: TypeAlias = Callable[[Params, Any, Batch, Any], tuple[Params, Any, Metrics]]
"""`(params, opt_state, batch, key) -> (params, opt_state, metrics)`"""


@with_fields
class Step(NamedTuple):
    """What an update does to the parameters, given a batch: a pair of pure functions, as in optax."""

    init: Callable[[Params], Any]
    """`params -> opt_state`"""
    update: Update
    """`(params, opt_state, batch, key) -> (params, opt_state, metrics)`; the key is for shuffling alone, and may be
    None where nothing is shuffled."""
    attempt: Update | None = None
    """`update` without its look at what came of it, where there is one: `epochs` repeats this, and looks once."""
    beside: Update | None = None
    """`update` as agents under a `vmap` should take it, where that is another (`side_by_side`). A step made of another
    is `Step(step.init, own_update)`, which leaves both of these out: `_replace` would leave them as they were."""
