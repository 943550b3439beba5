"""Parameters as a safetensors file: read by NumPy and json alone and by the format's own package; back, bit for bit."""

import errno
import json
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import export, runs
from polopt_jax.envs import Box
from polopt_jax.export import export_params, import_params, read_metadata
from polopt_jax.language import transformer
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.normalization import init_stats, update_stats

DTYPES = {
    **{"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "BOOL": np.bool_},
    **{"I8": np.int8, "U8": np.uint8, "I32": np.int32, "U32": np.uint32},
}


def read(path):
    """Arrays by name, and the metadata, with NumPy and json alone; a BF16 as its bits."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata, arrays = header.pop("__metadata__", None), {}
    for name, entry in header.items():
        first, stop = entry["data_offsets"]
        arrays[name] = np.frombuffer(data[start + first : start + stop], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


def parameters():
    """Every kind of leaf and of container, with the values that are easily lost."""
    odd = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001, 0x3F800001], np.uint32).view(np.float32)
    half = jnp.asarray(np.array([0x7FC1, 0xFF80, 0x8000, 0x0001, 0x3F81, 0x4049], np.uint16).view(jnp.bfloat16))
    return {
        "block_0": {"kernel": jax.random.normal(jax.random.key(0), (3, 1, 4)), "odd": jnp.asarray(odd)},
        "half": half.reshape(2, 3),
        "several": [jnp.arange(3), (jnp.int8([-128, 127]), jnp.uint8([0, 255]))],
        "pair": Pair(left=jnp.array([True, False]), right=jnp.float16([1.5, -0.0])),
        "scalar": jnp.int32(-7),
        "none": jnp.zeros((0, 5)),
        "é ": jnp.ones(1),
        "of numpy": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "wide": np.array([0, 2**32 - 1], np.uint32),
    }


NAMES = {
    "block_0.kernel",
    "block_0.odd",
    "half",
    "several.0",
    "several.1.0",
    "several.1.1",
    "pair.left",
    "pair.right",
    "scalar",
    "none",
    "é ",
    "of numpy",
    "wide",
}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "policy.safetensors"


# --- there and back ---------------------------------------------------------------------------------------------------


def test_there_and_back_bit_for_bit(path):
    params = parameters()
    export_params(params, path, metadata={"config": '{"env": "ant"}', "é\n": ""})
    assert_same(import_params(path, params), params)
    assert_same(import_params(str(path), jax.eval_shape(lambda: params)), params)
    assert read_metadata(path) == {"config": '{"env": "ant"}', "é\n": ""}
    assert path.stat().st_mode & 0o777 == 0o644


def test_numpy_alone_reads_it(path):
    params = parameters()
    export_params(params, path, metadata={"config": "{}"})
    arrays, metadata = read(path)
    assert metadata == {"config": "{}"}
    assert set(arrays) == NAMES
    np.testing.assert_array_equal(arrays["block_0.kernel"], params["block_0"]["kernel"])
    np.testing.assert_array_equal(arrays["several.1.0"].view(np.int8), [-128, 127])
    np.testing.assert_array_equal(arrays["of numpy"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(arrays["pair.left"], [True, False])
    assert arrays["scalar"] == -7
    assert arrays["none"].shape == (0, 5)
    widened = (arrays["half"].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widened, np.asarray(params["half"], np.float32))


def test_every_array_is_aligned_within_the_file(path):
    for name in ("x", "longer", "longer still"):
        export_params({name: jnp.zeros(3), "bytes": jnp.zeros(1, jnp.int8), "half": jnp.zeros(1, jnp.bfloat16)}, path)
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for entry in json.loads(data[8:start]).values():
            assert (start + entry["data_offsets"][0]) % np.dtype(DTYPES[entry["dtype"]]).itemsize == 0
        assert start % 8 == 0
        path.unlink()


@pytest.mark.usefixtures("x64")
def test_64_bits_are_kept_where_jax_has_them(path):
    params = {"x": jnp.array([1 / 3, 5e-324]), "n": jnp.array([-(2**63), 2**63 - 1]), "u": jnp.uint64([2**64 - 1])}
    export_params(params, path)
    assert_same(import_params(path, params), params)
    with jax.enable_x64(False):
        wide = {"x": np.zeros(2), "n": np.zeros(2, np.int64), "u": np.zeros(1, np.uint64)}
        with pytest.raises(ValueError, match="n is int64, which jax has with jax_enable_x64 alone; u is"):
            import_params(path, wide)


# --- policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_acts_in_numpy_from_its_file(path):
    """tanh MLP on normalised observations, by the names in the file; the config says which network it was."""
    network = mlp_actor_critic((3,), Box(2), hidden=(8, 5))
    seen = 3 + 2 * jax.random.normal(jax.random.key(1), (50, 4, 3))
    stats = update_stats(init_stats(jnp.zeros(3)), seen, jnp.ones((50, 4), bool))
    params = jax.tree.map(lambda x: x + 0.1, network.init(jax.random.key(0)))
    policy = po.Policy(params=params, network=network, normalizer=stats, config={"hidden": [8, 5]})
    exported = {"params": policy.params, "normalizer": policy.normalizer}
    export_params(exported, path, metadata={"config": json.dumps(policy.config)})

    arrays, metadata = read(path)
    obs = np.random.default_rng(2).normal(3, 2, size=(7, 3)).astype(np.float32)
    std = np.sqrt(arrays["normalizer.m2"] / arrays["normalizer.count"])
    x = np.clip((obs - arrays["normalizer.mean"]) / std, -10, 10)
    for layer, size in enumerate(json.loads(metadata["config"])["hidden"]):
        kernel, bias = (arrays[f"params.actor_{layer}.{part}"] for part in ("kernel", "bias"))
        assert bias.shape == (size,)
        x = np.tanh(x @ kernel + bias)
    mean = x @ arrays["params.policy.kernel"] + arrays["params.policy.bias"]
    assert np.ptp(mean, axis=0).min() > 0.01
    np.testing.assert_allclose(policy.act(jnp.asarray(obs)), mean, rtol=1e-5, atol=1e-6)

    found = import_params(path, jax.eval_shape(lambda: exported))
    again = po.Policy(params=found["params"], network=network, normalizer=found["normalizer"], config={})
    assert (np.asarray(again.act(jnp.asarray(obs))) == np.asarray(policy.act(jnp.asarray(obs)))).all()


def test_a_token_network_says_the_same_from_its_file(path):
    network = transformer(vocab_size=6, num_outputs=5, max_length=4, width=8, depth=2)
    init, say = jax.jit(network.init), jax.jit(network.apply)
    params, tokens = init(jax.random.key(0)), jnp.arange(4)[None]
    export_params(params, path)
    found = import_params(path, jax.eval_shape(network.init, jax.random.key(0)))
    assert_same(say(found, tokens).policy.logits, say(params, tokens).policy.logits)
    assert not jnp.array_equal(say(init(jax.random.key(1)), tokens).policy.logits, say(found, tokens).policy.logits)


# --- the format's own package -----------------------------------------------------------------------------------------


@pytest.mark.peers
def test_the_package_reads_what_we_write(path):
    safetensors = pytest.importorskip("safetensors")
    params = parameters()
    export_params(params, path, metadata={"config": "{}"})
    theirs = dict(safetensors.deserialize(path.read_bytes()))
    assert set(theirs) == NAMES
    ours, _ = read(path)
    for name, entry in theirs.items():
        assert tuple(entry["shape"]) == ours[name].shape
        assert bytes(entry["data"]) == ours[name].tobytes()
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"config": "{}"}
        np.testing.assert_array_equal(file.get_tensor("block_0.kernel"), params["block_0"]["kernel"])


@pytest.mark.peers
def test_we_read_what_the_package_writes(path):
    numpy = pytest.importorskip("safetensors.numpy")
    params = jax.tree.map(np.array, parameters())
    flat = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in zip(*named(params), strict=True)}
    numpy.save_file(flat, path, metadata={"from": "there"})
    assert_same(import_params(path, parameters()), parameters())
    assert read_metadata(path) == {"from": "there"}


def named(params):
    return export.dotted_names(params).values(), jax.tree.leaves(params)


# --- files that are there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("there", ["file", "directory", "link to nothing"])
def test_what_is_there_is_left_as_it_is(there, late, path, monkeypatch):
    """Also what comes about after the first look."""
    match there:
        case "file":
            path.write_text("mine")
        case "directory":
            path.mkdir()
        case "link to nothing":
            path.symlink_to(path.with_name("nowhere"))
    if late:
        monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(FileExistsError, match=path.name):
        export_params({"x": jnp.zeros(2)}, path)
    assert list(path.parent.iterdir()) == [path]
    assert there != "file" or path.read_text() == "mine"
    assert path.is_symlink() == (there == "link to nothing")


@pytest.mark.parametrize("name", ["write", "fsync", "fchmod", "replace"])
def test_a_write_that_fails_leaves_nothing(name, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
        with pytest.raises(OSError, match=f"disk full: '{path}'"):
            runs.write_new(path, "new")
    assert not list(path.parent.iterdir())
    runs.write_new(path, "new")
    assert path.read_text() == "new"


def test_a_folder_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export_params({"x": jnp.zeros(2)}, path.parent / "nowhere" / "x.safetensors")
    with pytest.raises(FileNotFoundError, match=path.name):
        import_params(path, {"x": jnp.zeros(2)})


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ({"a": {"b": (3, "f4")}}, r"a\.c is in the file alone"),
        ({"a": {"b": (3, "f4"), "c": (2, "i4"), "d": (1, "f4")}}, r"a\.d is not in the file"),
        ({"a": {"b": (4, "f4"), "c": (2, "i4")}}, r"a\.b is float32\[3\] in the file, and not float32\[4\]"),
        ({"a": {"b": (3, "f2"), "c": (2, "i4")}}, r"a\.b is float32\[3\] in the file, and not float16\[3\]"),
        ({"a": {"b": (3, "i4"), "c": (2, "i4")}}, r"a\.b is float32\[3\] in the file, and not int32\[3\]"),
        ({"a": {"c": (2, "i4")}, "b": (3, "f4")}, r"b is not in the file; a\.b is in the file alone"),
    ],
)
def test_leaves_that_do_not_fit_are_named(like, said, path):
    export_params({"a": {"b": jnp.arange(3.0), "c": jnp.arange(2)}}, path)
    like = jax.tree.map(lambda x: jnp.zeros(*x), like, is_leaf=lambda x: isinstance(x, tuple))
    with pytest.raises(ValueError, match=f"{path.name} does not fit: {said}$"):
        import_params(path, like)


def test_of_many_leaves_the_first_are_named_and_the_others_counted(path):
    export_params({}, path)
    with pytest.raises(ValueError, match=r"x\.0 is not in the file; .*x\.4 is not in the file; and 3 more$"):
        import_params(path, {"x": [jnp.zeros(1)] * 8})
    with pytest.raises(ValueError, match=r"x\.4 is not in the file$"):
        import_params(path, {"x": [jnp.zeros(1)] * 5})
    assert import_params(path, {}) == {}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}, r"two leaves would be called 'a\.b'"),
        ({"a": {"x": 1.0}}, r"a\.x must be an array of one of bool, uint8, .*, bfloat16; it is a float"),
        ({"a": jnp.zeros(1, jnp.complex64)}, r"a must be an array of one of .*; it is complex64\[1\]"),
        ({"a": jnp.zeros(2, jnp.float8_e4m3fn)}, r"a must be an array of .*; it is float8_e4m3fn\[2\]"),
        ({"a": np.array(["text"])}, r"a must be an array of .*; it is <U4\[1\]"),
        ({"a": np.array([object()])}, r"a must be an array of .*; it is object\[1\]"),
        ({"a": np.zeros(2, ">f4")}, r"a must be an array of .*; it is >f4\[2\]"),
        ({"__metadata__": np.zeros(1)}, r"a leaf cannot be called __metadata__"),
    ],
)
def test_what_the_format_does_not_have_is_refused_by_name(params, said, path):
    with pytest.raises(ValueError, match=said):
        export_params(params, path)
    assert not path.exists()


def test_a_key_is_no_parameter(path):
    with pytest.raises(ValueError, match=r"k must be an array of one of .*; it is key<fry>\[\]"):
        export_params({"k": jax.random.key(0)}, path)


@pytest.mark.parametrize("metadata", [{"config": {"env": "ant"}}, {"seed": 1}, {1: "seed"}])
def test_metadata_are_strings(metadata, path):
    with pytest.raises(TypeError, match="metadata must be strings by name"):
        export_params({}, path, metadata=metadata)
    assert not path.exists()


# --- files that are damaged -------------------------------------------------------------------------------------------

LIKE = {"a": jnp.zeros(2), "b": jnp.zeros(3, jnp.int8)}
A, B = ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, {"dtype": "I8", "shape": [3], "data_offsets": [8, 11]})


def file_of(header, data=bytes(11)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_undamaged_one_is_read(path):
    path.write_bytes(file_of({"b": B, "a": A, "__metadata__": {"x": "y"}}))
    assert_same(import_params(path, LIKE), LIKE)


def test_no_beginning_of_a_file_is_taken_for_it(path):
    whole = file_of({"a": A, "b": B})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no safetensors file, or damaged"):
            import_params(path, LIKE)


DAMAGED = [
    (b"", "shorter than its header says"),
    (b"\xff" * 30, "shorter than its header says"),
    (file_of(b"[" * 100_000), "recursion"),
    (file_of(b"{"), "Expecting"),
    (file_of(b"\xff\xfe{}"), "decode"),
    (file_of([A]), "pop"),
    (file_of({"a": A, "b": B}, bytes(12)), "its arrays do not fill it"),
    (file_of({"a": A}), "its arrays do not fill it"),
    (file_of({"a": A, "b": B | {"data_offsets": [0, 3]}}), "has not the place that it needs"),
    (file_of({"a": A, "b": B | {"data_offsets": [9, 12]}}, bytes(12)), "b has not the place that it needs"),
    (file_of({"a": A, "b": B | {"shape": [4]}}), "b has not the place that it needs"),
    (file_of({"a": A, "b": B | {"shape": [-3, -1]}}), "b has not the place that it needs"),
    (file_of({"a": A, "b": B | {"shape": [3.0]}}), "integer"),
    (file_of({"a": A, "b": B | {"shape": None}}), "iterable"),
    (file_of({"a": A, "b": B | {"dtype": "F4"}}), "b is F4, which is not read here"),
    (file_of({"a": A, "b": {"dtype": "I8", "shape": [3]}}), "data_offsets"),
    (file_of({"a": A, "b": None}), "subscriptable"),
    (file_of(json.dumps({"a": A, "b": B}).replace('"b"', '"a"').encode()), "a name is there twice"),
    (file_of({"a": A, "b": B, "__metadata__": {"x": 1}}), "its metadata are not strings"),
    (file_of({"a": A, "b": B, "__metadata__": "x"}), "attribute"),
]


@pytest.mark.parametrize(("damaged", "said"), DAMAGED, ids=range(len(DAMAGED)))
def test_damage_is_told(damaged, said, path):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{path.name} is no safetensors file, or damaged: .*{said}"):
        import_params(path, LIKE)
