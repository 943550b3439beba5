"""`LazyCategorical`: a `Categorical` over a large vocabulary whose logits never stand in memory all at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax.distributions._categorical import Categorical
from polopt_jax.distributions._kinds import check_kind
from polopt_jax.masking import check_shape
from polopt_jax.types import Array, record

CHUNK = 128
"""Decisions whose logits are computed together: more are hardly faster and take more memory. At V = 32k, 17 MB."""


@record
class LazyCategorical:
    """A `Categorical` with logits h·W, given as hidden states h and an unembedding W: the head of a language model.

        π(a) = exp(h·W_a) / Σ_b exp(h·W_b)

    Log-probabilities, entropies and divergences are computed for a few decisions at a time (128), and the logits of
    those are computed again when the gradient is taken: logits `[..., V]` are never stored, neither forward nor
    backward. It costs one multiplication by W more, which the memory that is not moved pays back.

    Every term, divergence and solver takes it as it takes a `Categorical`, forward mode included. A bias is a hidden
    state that is always 1. Decisions that are computed together are strided over the rows, so that rows which lie on
    several devices stay there.

    >>> policy = LazyCategorical(hidden=jnp.ones((2, 3, 4)), unembedding=jnp.zeros((4, 100)))
    >>> policy.batch_shape, policy.num_actions, round(float(policy.entropy()[0, 0]), 4)
    ((2, 3), 100, 4.6052)
    """

    hidden: Array
    """Hidden states of each decision, `[..., D]`."""
    unembedding: Array
    """Shared by all decisions, `[D, V]`."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.hidden.shape[:-1]

    @property
    def num_actions(self) -> int:
        """V."""
        return self.unembedding.shape[-1]

    @property
    def logits(self) -> Array:
        """All of them, `[..., V]`: for small vocabularies, and for what is not computed lazily."""
        return self.head(self.hidden).logits

    def log_prob(self, action: Array) -> Array:
        """log π(action) `[...]` for integer ids `[...]`; raises as that of `Categorical`."""
        if action.shape != self.batch_shape:
            raise ValueError(f"action must have the policy's batch shape {self.batch_shape}; it has {action.shape}")
        return self._chunked(lambda policy, action: policy.log_prob(action), action)

    def entropy(self) -> Array:
        """-Σ_a π(a) log π(a) `[...]`, in nats."""
        return self._chunked(lambda policy: policy.entropy())

    def sample(self, *, seed: Array) -> Array:
        """One int32 id per decision, `[...]`."""
        seeds = jax.random.split(seed, math.prod(self.batch_shape))
        seeds = seeds.reshape(*self.batch_shape, *seeds.shape[1:])

        def draw(policy: Categorical, seeds: Array) -> Array:
            shape = policy.batch_shape
            flat = Categorical(logits=policy.logits.reshape(-1, self.num_actions))
            drawn = jax.vmap(lambda one, seed: one.sample(seed=seed))(
                flat, seeds.reshape(-1, *seeds.shape[len(shape) :])
            )
            return drawn.reshape(shape)

        return self._chunked(draw, seeds)

    def mode(self) -> Array:
        """The most probable id (the lowest of equals), `[...]` int32."""
        return self._chunked(lambda policy: policy.mode())

    def squash(self, action: Array) -> Array:
        """The identity."""
        return action

    def kl_divergence(self, other: LazyCategorical | Categorical) -> Array:
        """KL(self ‖ other) `[...]`, as that of `Categorical`; `other` may be lazy or not."""
        check_kind(other, LazyCategorical, Categorical)
        if other.batch_shape != self.batch_shape:
            raise ValueError(f"other must have batch shape {self.batch_shape}; it has {other.batch_shape}")
        if isinstance(other, LazyCategorical):
            again = narrowed(other.unembedding)
            head = lambda hidden: LazyCategorical(hidden=hidden, unembedding=again()).head(hidden)  # noqa: E731
            return self._chunked(lambda policy, hidden: policy.kl_divergence(head(hidden)), other.hidden)
        return self._chunked(lambda policy, logits: policy.kl_divergence(Categorical(logits=logits)), other.logits)

    def where(self, mask: Array) -> LazyCategorical:
        """Hidden states of 0 (uniform) where `mask` `[...]` is False; the unembedding is shared, and stays."""
        check_shape("where", "mask", mask, self.batch_shape, of="the policy")
        hidden = jnp.where(mask[..., None], self.hidden, jnp.zeros_like(self.hidden))
        return LazyCategorical(hidden=hidden, unembedding=self.unembedding)

    def head(self, hidden: Array) -> Categorical:
        """Of some of the decisions, with their logits in at least float32, whatever the hidden states are in."""
        dtype = jnp.promote_types(jnp.result_type(hidden, self.unembedding), jnp.float32)
        logits = jnp.einsum("...d,dv->...v", hidden, self.unembedding, preferred_element_type=dtype)
        return Categorical(logits=logits)

    def _chunked(self, read: Callable[..., Array], *arrays: Array) -> Array:
        """`read(policy, *arrays)` of every decision, a chunk of them at a time; all have the leading shape `[...]`."""
        leading = self.batch_shape
        again = narrowed(self.unembedding)

        def compute(hidden: Array, *rest: Any) -> Array:
            return read(LazyCategorical(hidden=hidden, unembedding=again()).head(hidden), *rest)

        if math.prod(leading) <= CHUNK:
            return compute(self.hidden, *arrays)

        def body(_: None, chunk: Any) -> tuple[None, Array]:
            return None, compute(*chunk)

        parts = jax.tree.map(lambda x: in_chunks(x, len(leading)), (self.hidden, *arrays))
        _, found = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), None, parts)
        return from_chunks(found, leading)


def narrowed(x: Array) -> Callable[[], Array]:
    """A function that gives x again, through which its gradient is added up over chunks in at least float32.

    A sum of many small parts in bfloat16 stops growing. What a loop closes over is x in float32, and so is the sum of
    the parts of its gradient; the products are those of x.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return lambda: wide.astype(x.dtype)


def in_chunks(x: Array, num_leading: int) -> Array:
    """`[..., *]`, of so many leading axes, as `[chunks, width, *]`: chunk i has decisions i, i + chunks, ...

    The last ones may have the first decision again, in place of ones that are not there.
    """
    flat = x.reshape(-1, *x.shape[num_leading:])
    chunks = -(-flat.shape[0] // CHUNK)
    width = -(-flat.shape[0] // chunks)
    missing = jnp.broadcast_to(flat[:1], (width * chunks - flat.shape[0], *flat.shape[1:]))
    return jnp.swapaxes(jnp.concatenate([flat, missing]).reshape(width, chunks, *flat.shape[1:]), 0, 1)


def from_chunks(x: Array, leading: tuple[int, ...]) -> Array:
    """`[chunks, width, *]` as `[..., *]`: the inverse of `in_chunks`."""
    flat = jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
    return flat[: math.prod(leading)].reshape(*leading, *x.shape[2:])
