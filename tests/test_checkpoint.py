"""Checkpoints: bit-exact, verified leaf by leaf, and refused with a name when something is off."""

import json
import re
import shutil
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from polopt_jax import checkpoint
from polopt_jax.checkpoint import CheckpointError
from polopt_jax.leaves import leaves_of
from polopt_jax.training import TrainState


def make_state(seed=0):
    params = {"actor": {"kernel": jax.random.normal(jax.random.key(seed), (64, 64)), "bias": jnp.array([-0.0, 1e-40])}}
    return {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "key": jax.random.key(seed + 7),
        "legacy_key": jax.random.PRNGKey(3),
        "update": jnp.int32(5),
        "half": jnp.ones((3,), jnp.bfloat16) / 3,
        "flag": jnp.array([True, False]),
    }


def as_bytes(state):
    return {name: x.tobytes() for name, x in leaves_of(state).items()}


def test_a_state_comes_back_bit_for_bit_with_its_types(tmp_path):
    state = make_state()
    checkpoint.save(tmp_path, 5, state)
    restored, step = checkpoint.restore(tmp_path, make_state(seed=1))
    assert step == 5
    assert as_bytes(restored) == as_bytes(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert restored["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.random.normal(restored["key"], (4,)), jax.random.normal(state["key"], (4,)))


def test_only_the_newest_steps_are_kept_and_the_newest_is_found(tmp_path):
    assert checkpoint.latest_step(tmp_path / "nothing") is None
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, {"x": jnp.full(3, step)})
    assert checkpoint.latest_step(tmp_path) == 10
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 10]
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(3, int)}, step=2)[0]["x"].tolist() == [2, 2, 2]


def test_a_saved_step_is_never_overwritten(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    with pytest.raises(CheckpointError, match="step 1 is already saved"):
        checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2)})
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(2)})[0]["x"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": jnp.zeros(2), "y": jnp.zeros(1)}, r"the checkpoint has no \['y'\]"),
        ({}, r"this run has no \['x'\]"),
        ({"x": jnp.zeros(3)}, r"\['x'\] is float32\[2\] there and float32\[3\] here"),
        ({"x": jnp.zeros(2, int)}, r"\['x'\] is float32\[2\] there and int32\[2\] here"),
    ],
)
def test_a_state_of_another_run_is_refused_by_name(tmp_path, like, message):
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore(tmp_path, like)


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        checkpoint.restore(tmp_path / "nowhere", {})
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    with pytest.raises(CheckpointError, match="there is no step 3"):
        checkpoint.restore(tmp_path, {"x": jnp.ones(2)}, step=3)


def test_no_flipped_bit_in_the_arrays_is_loaded_silently(tmp_path):
    """Orbax alone loads these as parameters. Every data file, several places in each."""
    state = {"x": jax.random.normal(jax.random.key(0), (256, 64))}
    checkpoint.save(tmp_path, 1, state)
    expected = as_bytes(state)
    data_files = [p for p in (tmp_path / "1").rglob("*") if p.is_file() and p.stat().st_size > 4096]
    assert data_files, "the arrays must be somewhere"
    silent = harmless = 0
    rng = np.random.default_rng(0)
    for file in data_files:
        original = file.read_bytes()
        for position in rng.integers(0, len(original), 8):
            broken = bytearray(original)
            broken[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(broken)
            try:
                restored, _ = checkpoint.restore(tmp_path, state)
            except CheckpointError:
                continue
            finally:
                file.write_bytes(original)
            harmless += as_bytes(restored) == expected
            silent += as_bytes(restored) != expected
    assert silent == 0
    assert harmless < 8 * len(data_files), "the flips must have hit data, or this tests nothing"


def test_a_changed_manifest_is_noticed(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2)})
    checkpoint.save(tmp_path, 2, {"x": jnp.ones(2)})
    edit_manifest(tmp_path / "2", lambda manifest: manifest["leaves"]["['x']"].update(sha256="0" * 64))
    for read in (lambda: checkpoint.restore(tmp_path, {"x": jnp.ones(2)}), lambda: checkpoint.check(tmp_path)):
        with pytest.raises(CheckpointError, match=r"corrupt: \['x'\] .*; delete .*/2 to go back to step 1$"):
            read()
    shutil.rmtree(tmp_path / "2")
    restored, step = checkpoint.restore(tmp_path, {"x": jnp.ones(2)})
    assert (restored["x"].tolist(), step, checkpoint.check(tmp_path)) == ([0.0, 0.0], 1, 1)


def edit_manifest(step_directory, change):
    path = step_directory / "manifest" / "metadata"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["zeroed", "empty", "half", "gone", "swapped"])
def test_no_damaged_file_is_loaded_silently_or_told_at_length(kind, tmp_path, capfd):
    """Every file of a step. What is told is one line, and nothing else comes out, of whichever thread."""
    checkpoint.save(tmp_path, 1, make_state(seed=1))
    checkpoint.save(tmp_path, 2, make_state())
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    said = []
    for file in files:
        original = file.read_bytes()
        twin = tmp_path / "1" / file.relative_to(tmp_path / "2")
        if kind == "gone":
            file.unlink()
        elif kind == "swapped":
            file.write_bytes(twin.read_bytes() if twin.exists() else b"{}")
        else:
            file.write_bytes(
                {"zeroed": bytes(len(original)), "empty": b"", "half": original[: len(original) // 2]}[kind]
            )
        try:
            restored, step = checkpoint.restore(tmp_path, make_state(seed=2))
        except CheckpointError as error:
            said.append(str(error))
        else:  # a file that orbax does not read, or one without which this is no checkpoint
            assert as_bytes(restored) == as_bytes(make_state(seed=2 - step))
            assert step == 2 or checkpoint.unfinished(tmp_path) == ["2"]
        file.write_bytes(original)
    time.sleep(0.1)  # threads, if any, that have something to say
    assert capfd.readouterr() == ("", "")
    assert len(said) >= 2
    assert all(re.fullmatch(r".*; delete .*/2 to go back to step 1", line) for line in said)


def test_a_step_under_another_name_is_refused(tmp_path):
    state = TrainState(
        params={"w": jnp.ones((2, 3))},
        opt_state=(),
        collect_state=(),
        key=jax.random.split(jax.random.key(0), 2),
        update=jnp.full(2, 240),
    )
    checkpoint.save(tmp_path, 240, state)
    shutil.copytree(tmp_path / "240", tmp_path / "300")
    with pytest.raises(
        CheckpointError, match=r"its manifest is that of step 240; delete .*300 to go back to step 240$"
    ):
        checkpoint.restore(tmp_path, state)
    edit_manifest(tmp_path / "300", lambda manifest: manifest.update(step=300))
    with pytest.raises(CheckpointError, match="its state has done 240 updates"):
        checkpoint.restore(tmp_path, state)
    checkpoint.save(tmp_path / "apart", 360, replace(state, update=jnp.array([360, 359])))
    with pytest.raises(CheckpointError, match="its state has done 360 updates"):  # and of another seed 359
        checkpoint.restore(tmp_path / "apart", state)
    edit_manifest(tmp_path / "300", lambda manifest: manifest.pop("step"))
    with pytest.raises(CheckpointError, match="manifest is that of step None"):
        checkpoint.restore(tmp_path, state)
    edit_manifest(tmp_path / "300", lambda manifest: manifest.pop("leaves"))
    with pytest.raises(CheckpointError, match="its manifest is not one"):
        checkpoint.check(tmp_path)
    assert checkpoint.restore(tmp_path, state, step=240)[1] == 240


def test_what_is_no_complete_step_is_skipped_named_and_replaced_when_its_turn_comes(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"x": jnp.full(3, step)})
    (tmp_path / "3").mkdir()
    shutil.copytree(tmp_path / "2", tmp_path / "4")
    (tmp_path / "4" / "state" / "_METADATA").unlink()
    shutil.copytree(tmp_path / "2", tmp_path / "5.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "2", tmp_path / "06")
    for foreign in ("LATEST", "7.txt", "notes"):
        (tmp_path / foreign).write_text("mine")
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert checkpoint.latest_step(tmp_path) == 2
    assert checkpoint.unfinished(tmp_path) == ["3", "4", "5.orbax-checkpoint-tmp"]
    checkpoint.save(tmp_path, 3, {"x": jnp.full(3, 3)})
    assert checkpoint.steps(tmp_path) == [2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3", "4", "06", "LATEST", "7.txt", "notes"}
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(3, int)})[0]["x"].tolist() == [3, 3, 3]


def test_steps_after_a_step_are_discarded(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"x": jnp.full(3, step)}, keep=3)
    checkpoint.discard_after(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_the_same_run_with_other_seeds_is_not_called_another_run(tmp_path):
    def state(seeds, width=4):
        key = jax.random.key(0) if seeds == () else jax.random.split(jax.random.key(0), seeds)
        return TrainState(
            params={"w": jnp.ones((*seeds, width))},
            opt_state=(),
            collect_state=jnp.zeros(seeds),
            key=key,
            update=jnp.ones(seeds, int),
        )

    for number, (there, here, said) in enumerate(
        [
            ((), (1,), "of the same run with no seed axis; this one has a seed axis of 1"),
            ((3,), (2,), "of the same run with a seed axis of 3; this one has a seed axis of 2"),
            ((2,), (), "of the same run with a seed axis of 2; this one has no seed axis"),
        ]
    ):
        directory = tmp_path / str(number)
        checkpoint.save(directory, 1, state(there))
        with pytest.raises(CheckpointError, match=said):
            checkpoint.restore(directory, state(here))
        with pytest.raises(CheckpointError, match=r"of another run: \.params\['w'\] is float32"):
            checkpoint.restore(directory, state(here, width=5))


def test_a_step_before_what_is_there_is_refused_and_nothing_is_lost(tmp_path):
    state = {"w": jnp.arange(3.0)}
    for step in (10, 11):
        checkpoint.save(tmp_path, step, state)
    with pytest.raises(CheckpointError, match="step 4 comes before step 11"):
        checkpoint.save(tmp_path, 4, state)
    assert checkpoint.steps(tmp_path) == [10, 11]
    checkpoint.discard_after(tmp_path, 3)
    checkpoint.save(tmp_path, 4, state)
    assert checkpoint.steps(tmp_path) == [4]


@pytest.mark.parametrize(
    ("numbers", "said"), [({"step": -1}, "step must be at least 0"), ({"keep": 0}, "keep must be")]
)
def test_numbers_that_would_lose_what_is_saved(tmp_path, numbers, said):
    checkpoint.save(tmp_path, 1, {"w": jnp.zeros(2)})
    with pytest.raises(ValueError, match=said):
        checkpoint.save(tmp_path, **{"step": 2, "state": {"w": jnp.zeros(2)}, **numbers})
    assert checkpoint.steps(tmp_path) == [1]


@pytest.mark.parametrize("name", ["1", "7.removed"])
def test_a_directory_that_no_save_left_behind_is_refused_and_stays(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "log.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=rf"{name} is not what a save left behind.*: move it elsewhere"):
        checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    assert (tmp_path / name / "log.txt").read_text() == "mine"


def test_a_step_is_a_whole_number(tmp_path):
    state = {"w": jnp.ones(3)}
    for wrong in (5.0, np.float32(5), jnp.arange(2), "5"):
        with pytest.raises(TypeError, match="save: step must be an int; it is"):
            checkpoint.save(tmp_path, wrong, state)
    assert not list(tmp_path.iterdir())
    checkpoint.save(tmp_path, jnp.int32(5), state)
    assert checkpoint.steps(tmp_path) == [5]


def test_shapes_and_dtypes_say_what_is_restored(tmp_path):
    def init(key):
        return TrainState(params={"w": jnp.ones(3)}, opt_state=(), collect_state=(), key=key, update=jnp.int32(7))

    key = jax.random.key(3)
    checkpoint.save(tmp_path, 7, init(key))
    state, _ = checkpoint.restore(tmp_path, jax.eval_shape(init, key))
    assert state.params["w"].tolist() == [1, 1, 1]
    assert jax.random.uniform(state.key) == jax.random.uniform(key)
    other = jax.eval_shape(lambda key: TrainState(**{**vars(init(key)), "params": {"w": jnp.ones(4)}}), key)
    with pytest.raises(CheckpointError, match=r"\['w'\] is float32\[3\] there and float32\[4\] here"):
        checkpoint.restore(tmp_path, other)
