"""Loss and gradient of terms, with respect to what a model says: beside what is written by hand, and beside rlax's.

What is written by hand knows no mask, checks nothing and measures nothing. A network around it costs far more than
either.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.parts._part import Case, Part, Wanted, told
from benchmarks.parts.rows import of_times
from benchmarks.record import interleaved

ACTIONS, CLIP, BETA = 8, 0.2, 0.1
ROWS, STEPS = 1024, 16
HAND = "by hand"


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


BY_HAND: dict[str, tuple[po.Term, Callable[..., jax.Array], str]] = {
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


def in_rlax() -> dict[str, Callable[..., jax.Array]]:
    """What rlax has of them, where it is installed; its functions want one axis, and no batch of rows."""
    if not find_spec("rlax"):
        return {}
    import rlax

    def ppo(said: Any, b: po.Batch) -> jax.Array:
        ratio = jnp.exp(log_prob(said, b) - b.log_prob)
        return rlax.clipped_surrogate_pg_loss(ratio.ravel(), b.advantage.ravel(), CLIP)

    return {"ppo": ppo}


def batches(rows: int, steps: int) -> dict[str, tuple[Any, po.Batch]]:
    """Of each kind, all with as many decisions."""
    groups = {"rows": 1, "groups": 8, "pairs": rows // 2}
    return {kind: example(rows, steps, groups=g) for kind, g in groups.items()}


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """Every term over the same by hand."""
    given = batches(rows, STEPS)
    forms, found = {}, []
    for name, (term, hand, kind) in BY_HAND.items():
        forms[name, "ours"] = (lambda said, b, term=term: term(outputs(said), b)[0]), kind
        forms[name, HAND] = hand, kind
    forms |= {(name, "rlax"): (f, BY_HAND[name][2]) for name, f in in_rlax().items()}
    runs = {}
    for (name, whose), (f, kind) in forms.items():
        said, batch = given[kind]
        compiled = jax.jit(jax.value_and_grad(f))
        value = compiled(said, batch)[0]
        ours = runs[name, "ours"]()[0][0] if (name, "ours") in runs else value
        if not jnp.allclose(value, ours, rtol=1e-4, atol=1e-5):
            raise RuntimeError(f"{name}, {whose}: {value} where ours is {ours}: the times would be of different things")
        runs[name, whose] = lambda f=compiled, said=said, batch=batch: [f(said, batch) for _ in range(10)]
    seconds = interleaved(runs, repeats=rounds)
    for name, whose in runs:
        if whose != "ours":
            each = [[t / 10 for t in seconds[name, one]] for one in ("ours", whose)]
            found.append(of_times(name, whose, *each, size=rows * STEPS, size_of="decisions"))
    return told(found)


def cases(wanted: Wanted) -> list[Case]:
    return [
        Case(f"terms-{rows}", lambda rows=rows: measure(rows, wanted.rounds(15))) for rows in wanted.sizes(64, ROWS)
    ]


PART = Part("Loss and gradient of terms on Gaussian policies, beside the same by hand and rlax's.", cases)
