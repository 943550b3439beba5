"""`MultiCategorical`: several choices at once, each of its own number of actions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.distributions._categorical import Categorical
from polopt_jax.distributions._kinds import check_kind
from polopt_jax.masking import check_shape
from polopt_jax.types import Array, record


@record
class MultiCategorical:
    """K choices at once, independent given the observation: log π(a) = Σ_k log π_k(a_k), with ids `[..., K]`.

    Entropy and KL are sums over the choices as well. Of each choice holds what holds of a `Categorical`: a logit of
    -inf is an action of probability 0, an id that is none has log-probability NaN.

    What one choice permits cannot depend on another: that is a law over pairs, a `Categorical` of their product.

    >>> policy = MultiCategorical.of_logits(jnp.zeros((5, 3 + 2)), (3, 2))
    >>> policy.batch_shape, policy.mode().shape, round(float(policy.entropy()[0]), 4)  # log 3 + log 2
    ((5,), (5, 2), 1.7918)
    """

    choices: tuple[Categorical, ...]
    """K of one batch shape `[...]`."""

    @staticmethod
    def of_logits(logits: Array, nums: Sequence[int]) -> MultiCategorical:
        """The choices whose logits lie one after the other in `[..., Σ nums]`; ValueError for another length."""
        if logits.shape[-1:] != (sum(nums),):
            raise ValueError(
                f"of_logits: the policy's logits must end in Σ {tuple(nums)} = {sum(nums)}; they have {logits.shape}"
            )
        return MultiCategorical(choices=tuple(Categorical(logits=part) for part in _parts(logits, nums)))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Raises `ValueError` where the choices have several."""
        shapes = {choice.batch_shape for choice in self.choices}
        if len(shapes) != 1:
            raise ValueError(f"the policy's choices must have one batch shape; they have {sorted(shapes)}")
        return shapes.pop()

    def _of(self, action: Array) -> list[tuple[Categorical, Array]]:
        """Each choice with its ids `[...]`."""
        wanted = (*self.batch_shape, len(self.choices))
        if action.shape != wanted:
            raise ValueError(
                f"action must have one id for each of the policy's choices, {wanted}; it has {action.shape}"
            )
        return [(choice, action[..., k]) for k, choice in enumerate(self.choices)]

    def log_prob(self, action: Array) -> Array:
        """log π(action) `[...]` for integer ids `[..., K]`.

        Raises `ValueError` if `action` has another shape, `TypeError` if it is not an integer array.
        """
        return _sum([choice.log_prob(ids) for choice, ids in self._of(action)])

    def masked_log_prob(self, action: Array, mask: Array) -> Array:
        """`log_prob` where `mask` `[...]` is True and 0 elsewhere, as `Categorical.masked_log_prob`."""
        return _sum([choice.masked_log_prob(ids, mask) for choice, ids in self._of(action)])

    def entropy(self) -> Array:
        """Σ_k of the entropies `[...]`, in nats."""
        return _sum([choice.entropy() for choice in self.choices])

    def sample(self, *, seed: Array) -> Array:
        """Ids `[..., K]` int32, drawn independently."""
        keys = jax.random.split(seed, len(self.choices))
        drawn = [choice.sample(seed=key) for choice, key in zip(self.choices, keys, strict=True)]
        return jnp.stack(drawn, axis=-1)

    def mode(self) -> Array:
        """The most probable id of each choice, `[..., K]` int32."""
        return jnp.stack([choice.mode() for choice in self.choices], axis=-1)

    def squash(self, action: Array) -> Array:
        """The identity."""
        return action

    def kl_divergence(self, other: MultiCategorical) -> Array:
        """KL(self ‖ other) `[...]` = Σ_k KL of the choices. Raises `ValueError` where their numbers differ."""
        check_kind(other, MultiCategorical)
        if len(other.choices) != len(self.choices):
            raise ValueError(f"other must have {len(self.choices)} choices; it has {len(other.choices)}")
        return _sum([mine.kl_divergence(theirs) for mine, theirs in zip(self.choices, other.choices, strict=True)])

    def where(self, mask: Array) -> MultiCategorical:
        """Uniform choices where `mask` `[...]` is False, whatever their logits held there."""
        check_shape("where", "mask", mask, self.batch_shape, of="the policy")
        return MultiCategorical(choices=tuple(choice.where(mask) for choice in self.choices))

    def only(self, legal: Array) -> MultiCategorical:
        """The same policy restricted to legal actions, `[..., Σ nums]` bool: those of each choice after the other.

        Raises as `Categorical.only`.
        """
        nums = [choice.logits.shape[-1] for choice in self.choices]
        if legal.shape != (*self.batch_shape, sum(nums)):
            raise ValueError(f"only: legal must have shape {(*self.batch_shape, sum(nums))}; it has {legal.shape}")
        parts = zip(self.choices, _parts(legal, nums), strict=True)
        return MultiCategorical(choices=tuple(choice.only(part) for choice, part in parts))


def _parts(x: Array, nums: Sequence[int]) -> list[Array]:
    return jnp.split(x, np.cumsum(nums)[:-1], axis=-1)


_sum = partial(reduce, jnp.add)
