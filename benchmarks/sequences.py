"""Loss and gradient of GRPO and DPO with respect to given logits: ours, by hand in JAX, TRL's in torch.

python -m benchmarks.sequences [--rows 8 64] [--time 128 512] [--vocabulary 1024 8192 32768] [--limit-gb 1.2]

Rows are ragged. `naive` is log-softmax and gather, `by_hand` a gathered logit less the log-sum-exp, both with the loss
written out below and nothing checked. `trl` is TRL's `selective_log_softmax` and its trainer's loss (what it has for
given logits; its trainers now go through a head of their own, as `benchmarks.vocabulary` does), `torch` the same loss
of `cross_entropy`, which is what torch is fastest at. All take turns in one process. `wall` and `cpu` are medians of
paired ratios of ours to the other, of the clock and of the processor's seconds, which are less at the mercy of other
work; memory is what XLA plans beside arguments and results, over the size of the logits. Without torch only JAX.
"""

import argparse
import os
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from benchmarks.record import median_ratio, save

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's threads spin while the others run, and lose by it

EPS, BETA, DPO_BETA = 0.2, 0.04, 0.1
LogProb = Callable[[jax.Array, jax.Array], jax.Array]


def naive(logits: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def by_hand(logits: jax.Array, action: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, action[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def grpo(log_prob: LogProb, logits: jax.Array, batch: po.Batch) -> jax.Array:
    """What a person would write: `po.grpo(clip_eps=EPS, beta=BETA)` without a check of anything."""
    said = log_prob(logits, batch.action)
    ratio, mask = jnp.exp(said - batch.log_prob), batch.mask.astype(said.dtype)
    gain = jnp.minimum(ratio * batch.advantage, jnp.clip(ratio, 1 - EPS, 1 + EPS) * batch.advantage)
    to_ref = batch.ref_log_prob - said
    each = BETA * (jnp.exp(to_ref) - to_ref - 1) - gain
    return ((each * mask).sum(-1) / mask.sum(-1)).mean()


def dpo(log_prob: LogProb, logits: jax.Array, batch: po.Batch) -> jax.Array:
    """`po.dpo(beta=DPO_BETA)` likewise."""
    chosen, rejected = ((log_prob(logits, batch.action) - batch.ref_log_prob) * batch.mask).sum(-1)
    return -jax.nn.log_sigmoid(DPO_BETA * (chosen - rejected)).mean()


LOSSES = {"grpo": (grpo, po.grpo(clip_eps=EPS, beta=BETA)), "dpo": (dpo, po.dpo(beta=DPO_BETA))}


def example(loss: str, rows: int, length: int, vocabulary: int) -> tuple[jax.Array, po.Batch]:
    """Logits, and rows of which a half to the whole is real; DPO's are chosen and then rejected ones."""
    keys = jax.random.split(jax.random.key(0), 6)
    leading = (2, rows // 2, length) if loss == "dpo" else (rows, length)
    typical = -jnp.log(float(vocabulary))
    lengths = jax.random.randint(keys[5], leading[:-1], length // 2, length + 1)
    advantage = jax.random.normal(keys[3], leading[:-1])[..., None]
    return jax.random.normal(keys[0], (*leading, vocabulary)), po.Batch(
        obs=None,
        action=jax.random.randint(keys[1], leading, 1, vocabulary),
        mask=jnp.arange(length) < lengths[..., None],
        advantage=jnp.broadcast_to(advantage, leading),
        log_prob=typical + jax.random.normal(keys[2], leading),
        ref_log_prob=typical + jax.random.normal(keys[4], leading),
    )


def jax_variants(loss: str) -> dict[str, Callable[..., Any]]:
    written, term = LOSSES[loss]
    variants = {
        "ours": lambda logits, batch: term(po.Outputs(policy=po.Categorical(logits=logits)), batch)[0],
        "naive": lambda logits, batch: written(naive, logits, batch),
        "by_hand": lambda logits, batch: written(by_hand, logits, batch),
    }
    return {name: jax.jit(jax.value_and_grad(f)) for name, f in variants.items()}


def torch_variants(loss: str, logits: jax.Array, batch: po.Batch) -> dict[str, Callable[[], Any]]:
    from benchmarks.peers_language import trl_given

    return trl_given.variants(loss, np.asarray(logits), jax.tree.map(np.asarray, batch), EPS, BETA, DPO_BETA)


def taking_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, list[float]], ...]:
    """Seconds of the clock and of the processor, each run once per round in an order that is drawn anew."""
    clocks = (time.perf_counter, time.process_time)
    spent = tuple({name: [] for name in runs} for _ in clocks)
    order, draw = list(runs), random.Random(0)
    for _ in range(repeats):
        draw.shuffle(order)
        for name in order:
            began = [clock() for clock in clocks]
            jax.block_until_ready(runs[name]())
            for found, clock, start in zip(spent, clocks, began, strict=True):
                found[name].append(clock() - start)
    return spent


def figures(loss: str, rows: int, length: int, vocabulary: int, repeats: int) -> dict[str, float]:
    """Ratios of ours to each other variant, and planned memory over the logits."""
    logits, batch = example(loss, rows, length, vocabulary)
    compiled = {name: f.lower(logits, batch).compile() for name, f in jax_variants(loss).items()}
    runs: dict[str, Callable[[], Any]] = {name: (lambda f=f: f(logits, batch)) for name, f in compiled.items()}
    if find_spec("trl"):
        runs |= torch_variants(loss, logits, batch)
    value, gradient = (np.asarray(x) for x in runs["ours"]())
    for name, run in runs.items():
        theirs = run()
        np.testing.assert_allclose(theirs[0], value, rtol=1e-4, err_msg=f"{name}: the times are of different things")
        theirs, scale = np.asarray(theirs[1]).reshape(gradient.shape), np.abs(gradient[..., :1, :]).max()
        np.testing.assert_allclose(theirs[..., :1, :], gradient[..., :1, :], atol=1e-4 * scale, err_msg=name)
    wall, cpu = taking_turns(runs, repeats)
    found = {}
    for name in runs:
        if name != "ours":
            found[f"over_{name}_wall"] = median_ratio(wall["ours"], wall[name])
            found[f"over_{name}_cpu"] = median_ratio(cpu["ours"], cpu[name])
    for name, f in compiled.items():
        planned = f.memory_analysis().temp_size_in_bytes / logits.nbytes
        found[f"{name}_memory_over_logits"] = round(planned, 4)
    return found | {"ours_ms": round(1e3 * sorted(wall["ours"])[repeats // 2], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--time", dest="length", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[1024, 8192, 32768])
    parser.add_argument("--limit-gb", type=float, default=1.2, help="of logits: larger ones are left out")
    parser.add_argument("--repeats", type=int, default=7)
    a = parser.parse_args()
    found: dict[str, Any] = {"repeats": a.repeats}
    sizes = [(b, t, v) for b in a.rows for t in a.length for v in a.vocabulary if 4e-9 * b * t * v <= a.limit_gb]
    for rows, length, vocabulary in sizes:
        for loss in LOSSES:
            name = f"{loss} B={rows} T={length} V={vocabulary}"
            found[name] = figures(loss, rows, length, vocabulary, a.repeats)
            print(name, found[name], flush=True)
    if find_spec("trl"):
        from importlib.metadata import version

        found["peers"] = {name: version(name) for name in ("torch", "trl")}
    save("sequences" if find_spec("trl") else "sequences-without-torch", found)


if __name__ == "__main__":
    main()
