"""PPO on a probe, its rows split over devices of one process or of several: work enough, and a second to compile."""

import re
import statistics
import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np

from benchmarks.entrants import NUM_EPOCHS, NUM_MINIBATCHES, NUM_STEPS
from benchmarks.entrants.built import Built
from polopt_jax import algorithms, driver, sharding
from polopt_jax.envs import ObsActionReward
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.processes import ask_for_cpus
from polopt_jax.tasks import control_task

DIFFERS = "the environment is a probe, which costs nothing beside the network"


def build(*, devices: int, num_envs: int, width: int, updates: int) -> Built:
    """`devices` of each process; `num_envs` over all of them."""
    ask_for_cpus(devices)
    env = ObsActionReward()
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(width, width))
    task = control_task(env, network, num_envs=num_envs, num_steps=NUM_STEPS)
    algorithm = algorithms.ppo(task, num_epochs=NUM_EPOCHS, num_minibatches=NUM_MINIBATCHES)
    mesh = sharding.row_mesh(devices)
    run = driver.prepare(algorithm, driver.seed_keys(0, 1), chunk_updates=updates, mesh=mesh)
    held = {"state": run.state}

    def chunk() -> None:
        held["state"], metrics = run.advance(held["state"])
        jax.block_until_ready(metrics)

    text = run.advance.as_text()  # type: ignore[attr-defined]
    found = {kind: round(number / updates, 2) for kind, number in collectives(text).items()}
    size = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(run.state.params))
    return Built(chunk, updates * task.decisions, updates, DIFFERS, {"collectives": found, "parameters": size})


def collectives(text: str) -> dict[str, int]:
    """How often a compiled program executes each kind of collective, its loops' bodies as often as they are run."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    called: dict[str, list[tuple[str, int]]] = defaultdict(list)
    own: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    computation = entry = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = header[2]
            entry = computation if header[1] else entry
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        for role, name in re.findall(r"(body|calls|to_apply|branch_computations)=\{?%?([\w.\-]+)", line):
            called[computation].append((name, int(trips[1]) if trips and role == "body" else 1))
        if operation := re.search(rf" ({kinds})(-start)?\(", line):
            own[computation][operation[1]] += 1

    def of(name: str) -> dict[str, int]:
        found = dict(own[name])
        for inner, times in called[name]:
            for kind, number in of(inner).items():
                found[kind] = found.get(kind, 0) + times * number
        return found

    return of(entry)


def all_reduce_seconds(sizes: tuple[int, ...], *, repeats: int) -> dict[str, float]:
    """The median time of a sum of so many float32 over all devices, of a whole call and of one more in the same call.

    In one program several sums follow each other, each on what the one before left.
    """
    mesh = sharding.row_mesh()
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.ROWS))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    found: dict[str, Any] = {}
    for size in sizes:
        ones = jax.jit(lambda size=size: jax.numpy.ones((mesh.size, size)), out_shardings=rows)()

        def summed(x: Any, times: int) -> Any:
            def once(x: Any, _: None) -> tuple[Any, None]:
                total = jax.lax.with_sharding_constraint(x.sum(0), whole)
                return jax.lax.with_sharding_constraint(x * 0.5 + total * 0.1, rows), None

            return jax.lax.scan(once, x, None, length=times)[0]

        timed = {}
        for times in (1, 17):
            run = jax.jit(lambda x, times=times: summed(x, times), out_shardings=rows)
            jax.block_until_ready(run(ones))
            taken = []
            for _ in range(repeats):
                began = time.perf_counter()
                jax.block_until_ready(run(ones))
                taken.append(time.perf_counter() - began)
            timed[times] = statistics.median(taken)
        found[str(size)] = (timed[17] - timed[1]) / 16
    return found
