"""The head of a language model: loss and gradient by hand, with stored logits, with lazy ones, and lazily at once.

python -m benchmarks.vocabulary [--rows 8] [--time 512] [--width 512] [--vocabulary 1024 8192 32768] [--repeats 5]

GRPO on hidden states `[rows, time, width]` and an unembedding `[width, V]`, gradients with respect to both. Memory is
what the compiler plans beside arguments and results, over the size of the logits in float32; times are ratios taken in
turns.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.record import interleaved, median_ratio, save
from polopt_jax.types import record

Head = Callable[[jax.Array, jax.Array], Any]


@record
class Plain:
    """What a person would write by hand: one logit less the log-sum-exp, and no check of anything."""

    logits: jax.Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    def log_prob(self, action: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(self.logits, action[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(self.logits, axis=-1)

    def where(self, mask: jax.Array) -> Any:
        return self


def plain(hidden: jax.Array, unembedding: jax.Array) -> Any:
    return Plain(logits=hidden @ unembedding)


def stored(hidden: jax.Array, unembedding: jax.Array) -> Any:
    return po.Categorical(logits=hidden @ unembedding)


def lazy(hidden: jax.Array, unembedding: jax.Array) -> Any:
    return po.LazyCategorical(hidden=hidden, unembedding=unembedding)


def gradient(head: Head, term: po.Term) -> Callable[..., Any]:
    """The gradient with respect to hidden states and unembedding, compiled."""

    def loss(hidden: jax.Array, unembedding: jax.Array, batch: po.Batch) -> jax.Array:
        return term(po.Outputs(policy=head(hidden, unembedding)), batch)[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def figures(rows: int, time: int, width: int, vocabulary: int, repeats: int) -> dict[str, float]:
    """Memory over the logits, and time over that of what is written by hand."""
    keys = jax.random.split(jax.random.key(0), 6)
    shape = (rows, time)
    hidden = jax.random.normal(keys[0], (*shape, width))
    unembedding = jax.random.normal(keys[1], (width, vocabulary)) / width**0.5
    typical = -jnp.log(float(vocabulary))
    batch = po.Batch(
        obs=None,
        action=jax.random.randint(keys[2], shape, 0, vocabulary),
        mask=jnp.ones(shape, bool),
        advantage=jax.random.normal(keys[3], shape),
        log_prob=typical + jax.random.normal(keys[4], shape),
        ref_log_prob=typical + jax.random.normal(keys[5], shape),
    )
    variants = {
        "plain": gradient(plain, po.grpo()),
        "stored": gradient(stored, po.grpo()),
        "lazy": gradient(lazy, po.grpo()),
        "at_once": gradient(lazy, po.gradient_in_forward(po.grpo())),
    }
    arguments = (hidden, unembedding, batch)
    planned = {name: f.lower(*arguments).compile().memory_analysis() for name, f in variants.items()}
    size = 4 * rows * time * vocabulary
    values = {name: float(f(*arguments)[0]) for name, f in variants.items()}
    if max(values.values()) - min(values.values()) > 1e-4:
        raise RuntimeError(f"the variants disagree, so their times are of different things: {values}")
    runs = {name: (lambda f=f: f(*arguments)) for name, f in variants.items()}
    times = interleaved(runs, repeats=repeats)
    found = {f"{name}_memory_over_logits": round(m.temp_size_in_bytes / size, 4) for name, m in planned.items()}
    found |= {f"{name}_time_over_plain": median_ratio(times[name], times["plain"]) for name in times if name != "plain"}
    return found | {
        "logits_mb": round(size / 1e6, 1),
        "stored_ms": round(1e3 * sorted(times["stored"])[repeats // 2], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--time", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[1024, 8192, 32768])
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    sizes = {"rows": a.rows, "time": a.time, "width": a.width}
    save("vocabulary", sizes | {f"V={v}": figures(a.rows, a.time, a.width, v, a.repeats) for v in a.vocabulary})


if __name__ == "__main__":
    main()
