"""Loss and gradient of terms on Gaussian policies, with respect to what a model says: ours, by hand, and rlax's.

What is written by hand knows no mask, checks nothing and measures nothing.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.entrants import CLIP
from benchmarks.entrants.built import Built, several

ACTIONS, BETA = 8, 0.1
STEPS = 16
Loss = Callable[[Any, po.Batch], jax.Array]
OURS, HAND, RLAX = "ours", "by hand", "rlax"


def example(rows: int, steps: int, *, groups: int = 1) -> tuple[Any, po.Batch]:
    """What a Gaussian policy and a critic say of a batch `[B, T]`, or `[B, G, T]`, of decisions that are all real."""
    keys = jax.random.split(jax.random.key(0), 7)
    leading = (rows, steps) if groups == 1 else (rows // groups, groups, steps)
    mean, action = (jax.random.normal(key, (*leading, ACTIONS)) for key in keys[:2])
    said = {"mean": mean, "log_std": jnp.zeros_like(mean), "value": jax.random.normal(keys[2], leading)}
    old = -(0.5 * jnp.square(action - mean) + 0.5 * math.log(2 * math.pi)).sum(-1)
    return said, po.Batch(
        obs=None,
        action=action,
        mask=jnp.ones(leading, bool),
        advantage=jax.random.normal(keys[3], leading),
        log_prob=old + 0.1 * jax.random.normal(keys[4], leading),
        ref_log_prob=old + 0.1 * jax.random.normal(keys[5], leading),
        target=jax.random.normal(keys[6], leading),
    )


def outputs(said: Any) -> po.Outputs:
    return po.Outputs(policy=po.DiagGaussian(mean=said["mean"], log_std=said["log_std"]), value=said["value"])


def log_prob(said: Any, batch: po.Batch) -> jax.Array:
    """As it stands in every script."""
    z = (batch.action - said["mean"]) * jnp.exp(-said["log_std"])
    return -(0.5 * z**2 + said["log_std"] + 0.5 * math.log(2 * math.pi)).sum(-1)


def hand_ppo(said: Any, b: po.Batch) -> jax.Array:
    ratio = jnp.exp(log_prob(said, b) - b.log_prob)
    return -jnp.minimum(ratio * b.advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * b.advantage).mean()


def hand_grpo(said: Any, b: po.Batch) -> jax.Array:
    to_ref = b.ref_log_prob - log_prob(said, b)
    return hand_ppo(said, b) + BETA * (jnp.exp(to_ref) - to_ref - 1).mean()


def hand_dpo(said: Any, b: po.Batch) -> jax.Array:
    chosen, rejected = (log_prob(said, b) - b.ref_log_prob).sum(-1)
    return -jax.nn.log_sigmoid(BETA * (chosen - rejected)).mean()


def hand_entropy(said: Any, b: po.Batch) -> jax.Array:
    return -(said["log_std"] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1).mean()


BY_HAND: dict[str, tuple[po.Term, Loss, str]] = {
    "reinforce": (po.reinforce(), lambda said, b: -(b.advantage * log_prob(said, b)).mean(), "rows"),
    "surrogate": (
        po.surrogate(),
        lambda said, b: -(b.advantage * jnp.exp(log_prob(said, b) - b.log_prob)).mean(),
        "rows",
    ),
    "ppo": (po.ppo(clip_eps=CLIP), hand_ppo, "rows"),
    "value_loss": (po.value_loss(), lambda said, b: 0.5 * jnp.square(said["value"] - b.target).mean(), "rows"),
    "entropy_bonus": (po.entropy_bonus(), hand_entropy, "rows"),
    "grpo": (po.grpo(clip_eps=CLIP, beta=BETA), hand_grpo, "groups"),
    "dpo": (po.dpo(beta=BETA), hand_dpo, "pairs"),
}
"""Our term, the same by hand without a check, a mask or a metric, and the kind of batch."""


# What rlax has of them; its functions want one axis, and no batch of rows


def rlax_ppo(said: Any, b: po.Batch) -> jax.Array:
    import rlax

    ratio = jnp.exp(log_prob(said, b) - b.log_prob)
    return rlax.clipped_surrogate_pg_loss(ratio.ravel(), b.advantage.ravel(), CLIP)


def rlax_value_loss(said: Any, b: po.Batch) -> jax.Array:
    import rlax

    return rlax.l2_loss(said["value"].ravel(), b.target.ravel()).mean()


IN_RLAX: dict[str, Loss] = {"ppo": rlax_ppo, "value_loss": rlax_value_loss}


def batches(rows: int, steps: int) -> dict[str, tuple[Any, po.Batch]]:
    """Of each kind, all with as many decisions."""
    groups = {"rows": 1, "groups": 8, "pairs": rows // 2}
    return {kind: example(rows, steps, groups=g) for kind, g in groups.items()}


def loss_of(name: str, form: str) -> Loss:
    """A term in one of its forms, of what a model says and a batch."""
    term, hand, _ = BY_HAND[name]
    if form == OURS:
        return lambda said, batch: term(outputs(said), batch)[0]
    return hand if form == HAND else IN_RLAX[name]


def gradient(name: str, form: str) -> Callable[..., Any]:
    """Its value and gradient, compiled when it is called."""
    return jax.jit(jax.value_and_grad(loss_of(name, form)))


def build(*, name: str, form: str, rows: int, calls: int) -> Built:
    said, batch = batches(rows, STEPS)[BY_HAND[name][2]]
    compiled = gradient(name, form).lower(said, batch).compile()
    told = {"value": float(compiled(said, batch)[0])}
    return Built(lambda: several(compiled, said, batch, calls=calls), calls * rows * STEPS, calls, "", told)
