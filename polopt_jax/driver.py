"""The host's part of training: compile one chunk of updates, run it again and again, look at the results in between.

Nothing on the device waits for the host within a chunk: progress, logs and checkpoints happen between chunks. The
chunk is compiled once, ahead of time, so a run cannot recompile; its state is donated, so it is held once. Of an
algorithm whose data come from the host (`Hosted`) that holds of each update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from polopt_jax.algorithms import Algorithm
from polopt_jax.boundaries import check_keys
from polopt_jax.fields import with_fields
from polopt_jax.ranges import check_sizes
from polopt_jax.sharding import by_rows, sharded_collect
from polopt_jax.steps import side_by_side
from polopt_jax.training import TrainState, train
from polopt_jax.types import Array, Metrics

MEASUREMENT = 0x6D656173
"""Folded into a run's key for the measurement at the end of a chunk; a number that no split of the key yields."""


@with_fields
class Chunk(NamedTuple):
    """What a run tells the host after each chunk."""

    update: int
    """Updates done so far, of each seed."""
    metrics: dict[str, np.ndarray]
    """Every metric of the chunk's updates, `[seeds, updates of the chunk]`; of `Algorithm.measure` `[seeds, 1]`."""
    seconds: float
    """Wall time of the chunk, without compilation."""
    state: TrainState
    """The state, every leaf with a leading seed axis. Good until the next chunk is asked for: it is donated to it."""


@with_fields
class Hosted(NamedTuple):
    """An algorithm whose data come from the host, between two updates: from files, or from Python that scores texts.

    What `Algorithm` is for data that a compiled program makes for itself. Every function is of all seeds at once, which
    are the first axis of what it is given and gives, but `init` and `learn`, which are of one.
    """

    init: Callable[[Array], TrainState]
    """`key -> state`"""
    gather: Callable[[TrainState, int], tuple[Any, dict[str, np.ndarray]]]
    """`(state, update) -> (given, metrics)`: what the update after so many learns from, leaves `[seeds, ...]`, and
    metrics `[seeds]`. The same state and update must give the same, or a run cannot be gone on with bit for bit."""
    learn: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
    """`(state, given) -> (state, metrics)`, pure: one update."""
    example: Callable[[TrainState], Any]
    """`state -> given`, or the shapes of it: what `learn` is compiled for."""
    evaluate: Callable[[TrainState], dict[str, np.ndarray]] | None = None
    """`state -> metrics` `[seeds]`, of data that nothing is learnt from; None where nobody asks."""
    evaluated: tuple[str, ...] = ()
    """The names of those metrics."""
    num_seeds: int | None = None
    """How many seeds it gathers for; None for any number."""


@with_fields
class Run(NamedTuple):
    """A compiled training run, ready to be stepped."""

    state: TrainState
    """Where it starts."""
    advance: Callable[[TrainState], tuple[TrainState, Mapping[str, Array | np.ndarray]]]
    """The compiled chunk."""
    chunk_updates: int
    compile_seconds: float
    evaluate: Callable[[TrainState], Mapping[str, Array | np.ndarray]] | None = None
    """`Algorithm.evaluate`, compiled: every metric `[seeds]`."""
    evaluated: tuple[str, ...] = ()
    """The names of those metrics."""


def compiler_options() -> dict[str, str] | None:
    """What to pass as `jax.jit(..., compiler_options=)` to a loop vmapped over seeds.

    On jax 0.10's CPU backend a vmapped training loop never returns under XLA's default, concurrency-optimised
    scheduler: all threads wait for each other. The memory-optimised scheduler cures it (what it costs a run of one seed
    was not measured).
    jax 0.11 and later do not hang, and other backends have no such option: None.

    >>> compiler_options() is None or "xla_cpu_scheduler_type" in compiler_options()
    True
    """
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if jax.default_backend() != "cpu" or version >= (0, 11):
        return None
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def seed_keys(seed: int, num_seeds: int) -> Array:
    """One key per seed, `[num_seeds]`; key i depends on `seed + i` alone, so runs of few and many seeds overlap."""
    return jax.vmap(jax.random.key)(jnp.arange(seed, seed + num_seeds))


def over_seeds(f: Callable, num_seeds: int) -> Callable:
    """`f` of every seed, the first axis of its arguments and results.

    A single seed is not vmapped, which spares it the price of batched control flow.

    >>> over_seeds(lambda x, y: x + y, 1)(jnp.ones((1, 2)), jnp.ones((1, 2))).shape
    (1, 2)
    """
    if num_seeds > 1:
        return jax.vmap(f)
    return lambda *xs: jax.tree.map(lambda y: y[None], f(*jax.tree.map(lambda y: y[0], xs)))


def prepare(
    algorithm: Algorithm | Hosted,
    keys: Array,
    *,
    chunk_updates: int,
    state: TrainState | None = None,
    mesh: Mesh | None = None,
) -> Run:
    """Initialises (unless `state` is given, to resume) and compiles a run of `len(keys)` seeds side by side.

    On a `sharding.row_mesh` its environments and batches are split by rows over the devices; what the host reads,
    metrics and evaluations, every device and every process then holds whole. Raises ValueError if the devices do not
    divide the rows, or if data come from the host (`Hosted`): from those one device learns, and as many seeds as keys;
    TypeError if `keys` are not `[R]`, as `jax.random.split` makes them.
    """
    check_keys("prepare", keys)
    check_sizes("prepare", chunk_updates=chunk_updates)
    if isinstance(algorithm, Hosted):
        if mesh is not None:
            raise ValueError("mesh must be None for an algorithm whose data come from the host: it runs on one device")
        return _prepare_hosted(algorithm, keys, chunk_updates=chunk_updates, state=state)
    began = time.perf_counter()
    num_seeds, options = keys.shape[0], compiler_options()
    step = algorithm.step if num_seeds == 1 else side_by_side(algorithm.step)
    over_init = over_seeds(algorithm.init, num_seeds)
    collect, where, whole = algorithm.collect, None, None
    if mesh is not None:
        collect, whole = sharded_collect(collect, mesh), NamedSharding(mesh, PartitionSpec())
        where = by_rows(mesh, jax.eval_shape(over_init, keys), leading=1)

    def chunk(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = train(collect, step, state, updates=chunk_updates)
        if algorithm.measure is not None:
            measured = algorithm.measure(state.params, jax.random.fold_in(state.key, MEASUREMENT))
            metrics |= {name: x[None] for name, x in measured.items()}
        return state, metrics

    init = jax.jit(over_init, compiler_options=options, out_shardings=where)
    first: TrainState = init(keys) if state is None else jax.jit(lambda state: state, out_shardings=where)(state)
    over = over_seeds(chunk, num_seeds)
    advance = jax.jit(over, donate_argnums=0, compiler_options=options, out_shardings=(where, whole))
    run = Run(first, advance.lower(first).compile(), chunk_updates, 0.0)
    if algorithm.evaluate is not None:
        over_evaluate = over_seeds(algorithm.evaluate, num_seeds)
        evaluate = jax.jit(over_evaluate, compiler_options=options, out_shardings=whole).lower(first)
        run = run._replace(evaluate=evaluate.compile(), evaluated=tuple(evaluate.out_info))
    jax.block_until_ready(first)
    return run._replace(compile_seconds=time.perf_counter() - began)


def _prepare_hosted(algorithm: Hosted, keys: Array, *, chunk_updates: int, state: TrainState | None) -> Run:
    """Compiles the update; a chunk is so many of them, and the host gathers what each learns from."""
    began = time.perf_counter()
    num_seeds, options = keys.shape[0], compiler_options()
    if algorithm.num_seeds not in (None, num_seeds):
        raise ValueError(
            f"prepare: what gathers for {algorithm.num_seeds} seeds needs as many keys; they are {num_seeds}"
        )
    init = jax.jit(over_seeds(algorithm.init, num_seeds), compiler_options=options)
    first: TrainState = init(keys) if state is None else state
    over = over_seeds(algorithm.learn, num_seeds)
    learn = jax.jit(over, donate_argnums=0, compiler_options=options).lower(first, algorithm.example(first)).compile()
    jax.block_until_ready(first)

    def advance(state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        update = int(np.asarray(state.update).ravel()[0])
        rows = []
        for number in range(update, update + chunk_updates):
            given, gathered = algorithm.gather(state, number)
            state, metrics = learn(state, given)
            if taken := gathered.keys() & metrics.keys():
                raise ValueError(f"prepare: what gathers and what learns both have a metric {min(taken)!r}")
            rows.append({**gathered, **metrics})
        return state, {name: np.stack([jax.device_get(row[name]) for row in rows], axis=1) for name in rows[0]}

    compile_seconds = time.perf_counter() - began
    return Run(first, advance, chunk_updates, compile_seconds, algorithm.evaluate, algorithm.evaluated)


def chunks(run: Run, num_chunks: int) -> Iterator[Chunk]:
    """Runs `num_chunks` chunks, yielding after each. Stop iterating and the run stops.

    The state that a chunk begins with is given up to it. Go on with `run._replace(state=chunk.state)`. Raises
    ValueError if the run's state was given up before.
    """
    state = run.state
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)):
        raise ValueError("this run has begun before; go on with run._replace(state=chunk.state) of its last chunk")
    update = int(np.asarray(state.update).ravel()[0])
    for _ in range(num_chunks):
        began = time.perf_counter()
        state, metrics = run.advance(state)
        metrics = jax.device_get(metrics)
        update += run.chunk_updates
        yield Chunk(update, metrics, time.perf_counter() - began, state)
