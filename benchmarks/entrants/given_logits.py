"""Loss and gradient of given logits in JAX: this library's terms, and what a person would write."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from benchmarks.entrants.built import Built, several
from benchmarks.entrants.token_loss import BETA, CLIP, DPO, DPO_BETA, GRPO, answer, example

LogProb = Callable[[jax.Array, jax.Array], jax.Array]


def softmax_and_gather(logits: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def gathered(logits: jax.Array, action: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, action[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def grpo(log_prob: LogProb, logits: jax.Array, batch: po.Batch) -> jax.Array:
    """`po.grpo` without a check of anything."""
    said = log_prob(logits, batch.action)
    ratio, mask = jnp.exp(said - batch.log_prob), batch.mask.astype(said.dtype)
    gain = jnp.minimum(ratio * batch.advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * batch.advantage)
    to_ref = batch.ref_log_prob - said
    each = BETA * (jnp.exp(to_ref) - to_ref - 1) - gain
    return ((each * mask).sum(-1) / mask.sum(-1)).mean()


def dpo(log_prob: LogProb, logits: jax.Array, batch: po.Batch) -> jax.Array:
    """`po.dpo` likewise."""
    chosen, rejected = ((log_prob(logits, batch.action) - batch.ref_log_prob) * batch.mask).sum(-1)
    return -jax.nn.log_sigmoid(DPO_BETA * (chosen - rejected)).mean()


TERMS = {GRPO: po.grpo(clip_eps=CLIP, beta=BETA), DPO: po.dpo(beta=DPO_BETA)}
WRITTEN = {GRPO: grpo, DPO: dpo}
LOG_PROBS: dict[str, LogProb] = {"softmax_and_gather": softmax_and_gather, "gathered": gathered}


def loss_of(loss: str, log_prob: str | None) -> Callable[[jax.Array, po.Batch], jax.Array]:
    """Ours, or with a log-probability by name the one that is written out above."""
    if log_prob is None:
        return lambda logits, batch: TERMS[loss](po.Outputs(policy=po.Categorical(logits=logits)), batch)[0]
    return lambda logits, batch: WRITTEN[loss](LOG_PROBS[log_prob], logits, batch)


def build(*, loss: str, rows: int, length: int, vocabulary: int, calls: int, log_prob: str | None = None) -> Built:
    given = example(loss, rows, length, vocabulary)
    logits = jnp.asarray(given.pop("logits"))
    batch = po.Batch(obs=None, **{name: jnp.asarray(x) for name, x in given.items()})
    compiled = jax.jit(jax.value_and_grad(loss_of(loss, log_prob))).lower(logits, batch).compile()
    told: dict[str, Any] = answer(*map(np.asarray, compiled(logits, batch)))
    told["planned_mb"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    run = functools.partial(several, compiled, logits, batch, calls=calls)
    return Built(run, calls * rows * length, calls, "", told)
