"""Losses of token policies: of given logits, beside the same by hand and TRL's; and through a language model's head."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import polopt_jax as po
from benchmarks.entrants.given_logits import gathered
from benchmarks.entrants.race import Program, Timed, race
from benchmarks.entrants.token_loss import DPO, GRPO, same
from benchmarks.parts._part import PEERS, TRL, Case, Part, Wanted, told
from benchmarks.parts.rows import AT_MOST, Goal, Row, of_numbers, of_times
from benchmarks.record import interleaved
from polopt_jax.types import record

ROWS, LENGTH, WIDTH = 8, 512, 512
VOCABULARIES = (1024, 8192, 32768)
SMALL = 1 << 26
"""Logits up to which one call is too short to be timed, so that several are timed together."""
OURS, NAIVE, HAND, TORCH = "ours", "log-softmax and gather", "by hand", "torch's cross-entropy, TRL's loss"
GOALS = {NAIVE: Goal(AT_MOST, 0.43)}
IN_MEMORY = Goal(AT_MOST, 0.02)
"""What is planned beside arguments and results, over the logits."""


# Of given logits


def programs(wanted: Wanted, loss: str, vocabulary: int) -> list[Program]:
    """Ours, two ways of writing it by hand in JAX, and where TRL is, its own and with what torch is fastest at."""
    rows, length = (2, 32) if wanted.quick else (ROWS, LENGTH)
    calls = max(1, SMALL // (rows * length * vocabulary))
    shared = {"loss": loss, "rows": rows, "length": length, "vocabulary": vocabulary, "calls": calls}
    found = [
        Program(OURS, "given_logits", shared),
        Program(HAND, "given_logits", {**shared, "log_prob": "gathered"}),
        Program(NAIVE, "given_logits", {**shared, "log_prob": "softmax_and_gather"}),
    ]
    if wanted.peers.has(TRL):
        found += [
            wanted.peers.program(TRL, "trl_given_logits", {**shared, "log_softmax": form}, called=name)
            for name, form in ((PEERS[TRL], "trl"), (TORCH, "cross_entropy"))
        ]
    return found


def given(wanted: Wanted, loss: str, vocabulary: int) -> dict[str, Any]:
    """Ours over each of the others, and the memory that it needs."""
    its = programs(wanted, loss, vocabulary)
    return told(given_rows(loss, race(its, repeats=wanted.rounds(9)), its[0].options))


def given_rows(loss: str, times: dict[str, Timed], options: Any) -> list[Row]:
    """What came of a race. Raises RuntimeError if two of it computed different things."""
    ours = times[OURS]
    what, shared = f"{loss.upper()} of given logits", {"size": options["vocabulary"], "size_of": "in the vocabulary"}
    found = []
    for name, timed in times.items():
        if not same(ours.told, timed.told):
            raise RuntimeError(f"{what}, {name}: another answer than ours, so the times would be of different things")
        if name != OURS:
            each = [[t / options["calls"] for t in one.seconds] for one in (ours, timed)]
            found.append(of_times(what, name, *each, goal=GOALS.get(name), **shared))
    logits = 4e-6 * options["rows"] * options["length"] * options["vocabulary"]
    planned = ours.told["planned_mb"]
    found.append(of_numbers(f"{what}: memory", "the logits", "MB", planned, logits, goal=IN_MEMORY, **shared))
    return found


# Through a head


@record
class Plain:
    """What a person would write by hand: one logit less the log-sum-exp, and no check of anything."""

    logits: jax.Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    def log_prob(self, action: jax.Array) -> jax.Array:
        return gathered(self.logits, action)

    def where(self, mask: jax.Array) -> Any:
        return self


Head = Callable[[jax.Array, jax.Array], Any]
STORED, LAZY, AT_ONCE = "Categorical", "LazyCategorical", "LazyCategorical and gradient_in_forward"
HEADS: dict[str, tuple[Head, po.Term]] = {
    HAND: (lambda hidden, unembedding: Plain(logits=hidden @ unembedding), po.grpo()),
    STORED: (lambda hidden, unembedding: po.Categorical(logits=hidden @ unembedding), po.grpo()),
    LAZY: (lambda hidden, unembedding: po.LazyCategorical(hidden=hidden, unembedding=unembedding), po.grpo()),
    AT_ONCE: (
        lambda hidden, unembedding: po.LazyCategorical(hidden=hidden, unembedding=unembedding),
        po.gradient_in_forward(po.grpo()),
    ),
}
HEAD_GOALS = {LAZY: Goal(AT_MOST, 1.05), AT_ONCE: Goal(AT_MOST, 0.8)}
HEAD_MEMORY = Goal(AT_MOST, 0.2)
"""Of a large vocabulary; of a small one the gradient of the unembedding itself is a good part of the logits."""


def gradient(head: Head, term: po.Term) -> Callable[..., Any]:
    """The gradient with respect to hidden states and unembedding, compiled."""

    def loss(hidden: jax.Array, unembedding: jax.Array, batch: po.Batch) -> jax.Array:
        return term(po.Outputs(policy=head(hidden, unembedding)), batch)[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def hidden_states(rows: int, length: int, vocabulary: int) -> tuple[jax.Array, jax.Array, po.Batch]:
    """Hidden states `[rows, length, WIDTH]`, an unembedding `[WIDTH, V]`, and a batch of whole rows."""
    keys, shape = jax.random.split(jax.random.key(0), 6), (rows, length)
    typical = -jnp.log(float(vocabulary))
    batch = po.Batch(
        obs=None,
        action=jax.random.randint(keys[2], shape, 0, vocabulary),
        mask=jnp.ones(shape, bool),
        advantage=jax.random.normal(keys[3], shape),
        log_prob=typical + jax.random.normal(keys[4], shape),
        ref_log_prob=typical + jax.random.normal(keys[5], shape),
    )
    unembedding = jax.random.normal(keys[1], (WIDTH, vocabulary)) / WIDTH**0.5
    return jax.random.normal(keys[0], (*shape, WIDTH)), unembedding, batch


def through_head(wanted: Wanted, vocabulary: int) -> dict[str, Any]:
    """GRPO: time over what is written by hand, and memory over the logits."""
    rows, length = (2, 32) if wanted.quick else (ROWS, LENGTH)
    arguments = hidden_states(rows, length, vocabulary)
    compiled = {name: gradient(*form).lower(*arguments).compile() for name, form in HEADS.items()}
    values = {name: float(f(*arguments)[0]) for name, f in compiled.items()}
    if max(values.values()) - min(values.values()) > 1e-4:
        raise RuntimeError(f"they disagree, so the times would be of different things: {values}")
    seconds = interleaved({name: (lambda f=f: f(*arguments)) for name, f in compiled.items()}, repeats=wanted.rounds(7))
    shared, logits = {"size": vocabulary, "size_of": "in the vocabulary"}, 4e-6 * rows * length * vocabulary
    memory = HEAD_MEMORY if vocabulary == VOCABULARIES[-1] else None
    found = []
    for name, f in compiled.items():
        what = f"GRPO through a head, {name}"
        if name != HAND:
            found.append(of_times(what, HAND, seconds[name], seconds[HAND], goal=HEAD_GOALS.get(name), **shared))
        planned, goal = f.memory_analysis().temp_size_in_bytes / 1e6, memory if name in HEAD_GOALS else None
        found.append(of_numbers(f"{what}: memory", "the logits", "MB", planned, logits, goal=goal, **shared))
    return told(found)


def cases(wanted: Wanted) -> list[Case]:
    sizes = (256,) if wanted.quick else VOCABULARIES
    found = [Case(f"{loss}-{v}", lambda loss=loss, v=v: given(wanted, loss, v)) for loss in (GRPO, DPO) for v in sizes]
    return found + [Case(f"head-{v}", lambda v=v: through_head(wanted, v)) for v in sizes]


PART = Part(
    "Loss and gradient of token policies: of given logits, beside by hand and TRL's; and through a head.", cases, (TRL,)
)
