"""A run of the command that takes a second, because its world is a chain of four states, and what it leaves behind."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp

from polopt_jax import driver, runs
from polopt_jax.cli import _build, _recipes, _running, main
from polopt_jax.envs import chain
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.runs import _loop
from polopt_jax.tasks import control_task

RUN = "train actor_critic --env inverted_pendulum --num-envs 8 --rollout-steps 4 --steps 384 --seed 3"
"""Twelve updates, each a chunk; checkpoints come at 0, 5, 10 and 12."""

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def build(plan, reference=None):
    """The algorithm of the plan, on a chain."""
    env = chain(num_states=4, horizon=6)
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,))
    task = control_task(env, network, num_envs=plan.num_envs, num_steps=plan.rollout_steps)
    return _build.evaluated(plan, _recipes.make(plan.algorithm, task, plan.arguments), env)


@contextlib.contextmanager
def compiled_once():
    """Within, runs of plans that are equal, but maybe for their length, share one compiled program.

    Compiling it is most of what going on with a run takes."""
    own_build, made, prepared = build, {}, {}
    copied = jax.jit(lambda state: jax.tree.map(jnp.copy, state))  # the state of a run is donated

    def shared_build(plan, reference=None):
        config = plan.config()
        length = ("steps", "updates") if config["schedule"] == "constant" else ()
        known = runs.to_json({name: x for name, x in config.items() if name not in length})
        if known not in made:
            made[known] = own_build(plan, reference)
        return made[known]

    def prepare(algorithm, keys, *, chunk_updates, mesh=None):
        known = (id(algorithm), chunk_updates, mesh)
        if known not in prepared:
            run = driver.prepare(algorithm, keys, chunk_updates=chunk_updates, mesh=mesh)
            prepared[known] = run._replace(state=copied(run.state)), algorithm  # held, so that its id stays its own
        run, _ = prepared[known]
        return run._replace(state=copied(run.state))

    with mock.patch.object(sys.modules[__name__], "build", shared_build), mock.patch.object(_loop, "prepare", prepare):
        yield


def run_small(*words, line=RUN):
    """`main`, on the chain; returns the exit code."""
    with mock.patch.object(_running, "build", build):
        return main([*line.split(), *words])


def run_in_process(program, *words, **keywords):
    """A run in a process of its own, in which `program` comes first."""
    lines = f"import sys, small_run\n{program}\nsys.exit(small_run.run_small(*sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", lines, *words], capture_output=True, text=True, env=ENVIRON, timeout=250, **keywords
    )


def digests(directory):
    """The sha256 of every leaf of the newest checkpoint, by name."""
    newest = max(
        (path for path in (directory / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
    )
    manifest = json.loads((newest / "manifest" / "metadata").read_text())["leaves"]
    return newest.name, {name: entry["sha256"] for name, entry in manifest.items()}


def rows_without_times(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in row.items() if not name.endswith("seconds")} for row in rows]


def hashes(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def interrupt_at(monkeypatch, update, number):
    """Sends this process a signal as soon as a chunk that ends at `update` is done."""
    original = _loop.chunk_row

    def chunk_row(plan, chunk, **times):
        if chunk.update == update:
            signal.raise_signal(number)
        return original(plan, chunk, **times)

    monkeypatch.setattr(_loop, "chunk_row", chunk_row)
