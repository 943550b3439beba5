"""Rows over devices: the same numbers on any number of them, and nothing communicated but sums.

What an update communicates, per kind of program; every entry is one all-reduce, a loop's body counted once. XLA joins
sums that do not wait for one another, and not the same ones every time, so what is held is how much is summed in each
loop and how often at most:

    program          outside loops                                       in each pass of a loop
    PPO update       counts; KL and entropy of the monitored rows        minibatch: counts; gradient
    TRPO update      counts; gradient; CG's last product; monitors       CG: one product. Line search: loss and KL.
                                                                         Critic's minibatch: counts; gradient
    GRPO update      as PPO                                              as PPO
    rollout          which steps cut an episode; episode statistics;     nothing
                     mean and spread of returns, observations and
                     advantages (two rounds each, one after the other)
    GRPO, whole      counts and episode statistics                       as PPO
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import polopt_jax as po
from polopt_jax import sharding
from polopt_jax.envs import TimeLimit
from polopt_jax.normalization import init_return_scale, init_stats

SCRIPT = Path(__file__).with_name("sharded_programs.py")
FAST = {"ppo": (2,), "train": (8,)}
EVERY = {**dict.fromkeys((*FAST, "trpo", "grpo", "dpo", "accumulated", "collect"), (1, 2, 4, 8)), "tokens": (8,)}


def measure(programs, *, seconds):
    requests = [f"{name}={','.join(map(str, meshes))}" for name, meshes in programs.items()]
    path = os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *requests],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def measured():
    return measure(FAST, seconds=280)


@pytest.fixture(scope="module")
def measured_everywhere():
    return measure(EVERY, seconds=1100)


def reduced(device):
    """Sizes of the all-reduces by the number of loops around them; nothing else may be there."""
    found = {}
    for kind, depth, size in device["collectives"]:
        assert kind == "all-reduce", (kind, depth, size)
        found.setdefault(depth, []).append(size)
    return {depth: sorted(sizes) for depth, sizes in sorted(found.items())}


def check(name, program, devices):
    """Same numbers, an equal share of the work, the collectives of the table above and no other."""
    device = program["devices"][str(devices)]
    assert device["difference"] < 1e-5
    if devices == 1:
        assert device["collectives"] == []
        return
    # Drawing a permutation is done by every device; all else is shared out.
    assert device["flops"] / program["flops"] < 1 / devices + 0.12
    found, wanted = reduced(device), expected(program["parameters"], program["actor"])[name]
    assert {depth: sum(sizes) for depth, sizes in found.items()} == {d: sum(sizes) for d, sizes in wanted.items()}
    assert all(len(sizes) <= len(wanted[depth]) + 1 for depth, sizes in found.items()), found


def expected(parameters, actor):
    """Loops around: sizes. A gradient comes with its loss and metrics, ten numbers or fewer."""
    critic = parameters - actor
    return {
        # One number says whether the batch has a decision, in each of two phases of TRPO.
        "ppo": {0: [1, 2, 2], 2: [9, parameters + 8]},
        "trpo": {0: [1, 1, 5, 13, actor, actor + 4], 1: [2, actor], 2: [2, critic + 2]},
        "grpo": {0: [1, 2, 2], 2: [8, actor + 7]},
        "dpo": {0: [1], 2: [2, 3 + 5]},
        "accumulated": {0: [1, 2, 3], 1: [1, parameters + 8]},
        # Among them the largest of each feature, from which statistics are taken, and what the critic knew.
        "collect": {0: [1, 1, 1, 2, 2, 3, 3, 4, 4, 6, 7, 40]},
        # Four sums an epoch standardise the advantages of its minibatches.
        "train": {1: [1, 1, 1, 1, 1, 1, 1, 3, 6, 6, 6, 8, 9], 2: [4, 4, 8, 8], 3: [9, parameters + 8]},
        "tokens": {1: [1, 5, 7], 3: [8, 1205]},
    }


@pytest.mark.parametrize(("name", "devices"), [(name, n) for name, meshes in FAST.items() for n in meshes])
def test_devices_share_the_work_and_communicate_sums(measured, name, devices):
    check(name, measured[name], devices)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "devices"), [(name, n) for name, meshes in EVERY.items() for n in meshes])
def test_every_program_on_every_number_of_devices(measured_everywhere, name, devices):
    check(name, measured_everywhere[name], devices)


def test_rows_that_devices_do_not_divide_are_refused_by_their_sizes(measured):
    assert measured["refusals"] == [
        "4 devices do not divide axis 0 of Batch.obs, of size 6",
        "8 devices do not divide axis 1 of Batch.obs, of size 6",
    ]


# --- on one device ------------------------------------------------------------------------------------------------


def specs(tree):
    return jax.tree.map(lambda s: tuple(s.spec), tree, is_leaf=lambda x: isinstance(x, jax.sharding.NamedSharding))


def test_only_rows_are_split():
    env = TimeLimit(limit=5)
    act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 1))), value=obs[..., 0])  # noqa: E731
    loop = po.start(env, jax.random.key(0), num_envs=2)
    loop, rollout = po.unroll(env, act, loop, jax.random.key(1), num_steps=3)
    batch = po.to_batch(rollout, advantage=rollout.reward)
    mesh = sharding.row_mesh(1)
    state = po.TrainState(
        params={"w": jnp.ones(2)},
        opt_state=(),
        collect_state=(loop, init_return_scale(2), init_stats(jnp.zeros(1))),
        key=jax.random.key(0),
        update=jnp.int32(0),
    )
    found = sharding.by_rows(mesh, {"state": state, "rollout": rollout, "batch": batch})
    assert jax.tree.structure(found) == jax.tree.structure({"state": state, "rollout": rollout, "batch": batch})
    split, whole = ("rows",), ()
    where = specs(found["state"])
    its_loop, scale, normalizer = where.collect_state
    assert (where.params["w"], where.key, where.update) == (whole, whole, whole)
    assert (its_loop.env, its_loop.obs, its_loop.episode_return, its_loop.episode_length) == (split,) * 4
    assert {its_loop.stats.finished, its_loop.stats.nonfinite, scale.stats.mean, normalizer.mean} == {whole}
    assert scale.running == split
    assert {specs(found["rollout"]).obs, specs(found["rollout"]).next_value} == {(None, "rows")}
    assert {specs(found["batch"]).obs, specs(found["batch"]).mask, specs(found["batch"]).advantage} == {split}
    placed = jax.device_put(state, found["state"])
    np.testing.assert_array_equal(placed.collect_state[0].episode_length, loop.episode_length)


def test_shapes_are_enough_counts_stay_whole_and_pairs_are_split_along_the_second_axis():
    mask = jnp.ones((2, 6, 3), bool)
    counts = po.reductions.count(mask)
    batch = po.Batch(obs=jnp.zeros((2, 6, 3, 4)), action=jnp.zeros((2, 6, 3), int), mask=mask, counts=counts)
    found = sharding.by_rows(sharding.row_mesh(1), jax.eval_shape(lambda: batch), axis=1)
    assert found.obs.spec == found.mask.spec == PartitionSpec(None, "rows")
    assert found.counts.decisions.spec == PartitionSpec()
    assert found.log_prob is None


def test_the_axis_of_seeds_stands_before_the_rows():
    batch = po.Batch(obs=jnp.zeros((3, 4, 2, 1)), action=jnp.zeros((3, 4, 2), int), mask=jnp.ones((3, 4, 2), bool))
    scale = jax.tree.map(lambda x: jnp.stack([x] * 3), init_return_scale(4))
    found = sharding.by_rows(sharding.row_mesh(1), {"batch": batch, "scale": scale}, leading=1)
    assert found["batch"].mask.spec == found["scale"].running.spec == PartitionSpec(None, "rows")
    assert found["scale"].stats.mean.spec == PartitionSpec()
    pairs = sharding.by_rows(sharding.row_mesh(1), batch, axis=1, leading=1)
    assert pairs.obs.spec == PartitionSpec(None, None, "rows")


def test_what_is_placed_lies_as_the_example_does_also_keys():
    state = {"x": jnp.arange(4.0), "key": jax.random.key(7)}
    mesh = sharding.row_mesh(1)
    where = {"x": jax.sharding.NamedSharding(mesh, PartitionSpec("rows")), "key": sharding.by_rows(mesh, state)["key"]}
    placed = sharding.placed_as(state, jax.device_put({"x": jnp.zeros(4), "key": jax.random.key(0)}, where))
    assert placed["x"].sharding == where["x"]
    assert placed["x"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (jax.random.key_data(placed["key"]) == jax.random.key_data(state["key"])).all()


@pytest.mark.parametrize("number", [0, 10_000])
def test_a_mesh_of_devices_that_are_not_there_is_refused(number):
    with pytest.raises(ValueError, match=f"num_devices must be in 1 .. {jax.device_count()}.* it is {number}"):
        sharding.row_mesh(number)
