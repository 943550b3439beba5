"""Checkpoints: bit-exact, verified leaf by leaf, and refused with a name when something is off."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from polopt_jax import checkpoint
from polopt_jax.checkpoint import CheckpointError


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
    return {name: x.tobytes() for name, x in checkpoint._leaves(state).items()}


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
    (manifest,) = [
        p for p in Path(tmp_path / "2" / "manifest").rglob("*") if p.is_file() and b"sha256" in p.read_bytes()
    ]
    text = manifest.read_text()
    digest = text.split('"sha256":')[1].split('"')[1]
    manifest.write_text(text.replace(digest, "0" * 64))
    with pytest.raises(CheckpointError, match=r"corrupt: \['x'\] .*; delete .*/2 to go back to step 1$"):
        checkpoint.restore(tmp_path, {"x": jnp.ones(2)})
    shutil.rmtree(tmp_path / "2")
    restored, step = checkpoint.restore(tmp_path, {"x": jnp.ones(2)})
    assert (restored["x"].tolist(), step) == ([0.0, 0.0], 1)
