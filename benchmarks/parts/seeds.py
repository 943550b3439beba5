"""Many agents in one program: runs vmapped over seeds, and over a hyperparameter, beside one run alone."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.entrants import NUM_STEPS
from benchmarks.entrants.ours import task_of
from benchmarks.parts._part import Case, Part, Wanted, told
from benchmarks.parts.rows import AT_LEAST, Goal, Row, of_times
from benchmarks.record import interleaved
from polopt_jax import algorithms, driver, steps, training

ENV, BACKEND, NUM_ENVS, UPDATES = "inverted_pendulum", "spring", 16, 20
SEEDS = (8, 32, 128, 256)


def program(seeds: int, *, by_rate: bool = False) -> Any:
    """A chunk of PPO with so many agents, compiled: they differ by seed, or also by learning rate."""
    task = task_of(ENV, BACKEND, NUM_ENVS)

    def chunk(key: jax.Array, rate: jax.Array) -> jax.Array:
        algorithm = algorithms.ppo(task, learning_rate=rate)
        step = algorithm.step if seeds == 1 else steps.side_by_side(algorithm.step)
        _, metrics = training.train(algorithm.collect, step, algorithm.init(key), updates=UPDATES)
        return metrics["loss"]

    keys = driver.seed_keys(0, seeds)
    rates = 3e-4 * jnp.logspace(-0.5, 0.5, seeds) if by_rate else jnp.full(seeds, 3e-4)
    if seeds == 1:
        keys, rates = keys[0], rates[0]
    over = jax.jit(jax.vmap(chunk) if seeds > 1 else chunk, compiler_options=driver.compiler_options())
    compiled = over.lower(keys, rates).compile()
    return lambda: compiled(keys, rates)


def measure(wanted: Wanted) -> dict[str, Any]:
    """Decisions a second of all agents together, over those of one alone."""
    numbers = wanted.sizes(*SEEDS)
    runs = {"1": program(1), **{str(n): program(n) for n in numbers}}
    runs["rates"] = program(numbers[0], by_rate=True)
    seconds = interleaved(runs, repeats=wanted.rounds(5))
    goals = {8: Goal(AT_LEAST, 2.2)}
    decisions = UPDATES * NUM_STEPS * NUM_ENVS

    def row(name: str, what: str, n: int, **more: Any) -> Row:
        each = [[t / k for t in seconds[one]] for one, k in ((name, n), ("1", 1))]
        shared = {"size": n, "size_of": "agents", "unit": "decisions/s", "work": decisions}
        return of_times(what, "one alone", *each, **shared, **more)

    what = f"PPO, {NUM_ENVS} environments each"
    rows = [row(str(n), what, n, goal=goals.get(n)) for n in numbers]
    return told([*rows, row("rates", f"{what}, every agent its own learning rate", numbers[0])])


def cases(wanted: Wanted) -> list[Case]:
    return [Case("seeds", lambda: measure(wanted))]


PART = Part("Many agents in one program, vmapped over seeds and over learning rates, beside one alone.", cases)
