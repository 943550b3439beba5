"""Parameters as one file of the safetensors format, which NumPy alone can read, and back.

    8 bytes        n, the length of the header, little-endian
    n bytes        JSON: {"block_0.query.kernel": {"dtype": "F32", "shape": [8, 2, 4], "data_offsets": [0, 256]}, ...,
                   "__metadata__": {"config": "..."}}
    the rest       the arrays, row by row, little-endian

Read without this library:

    data = open("policy.safetensors", "rb").read()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    first, stop = header["head.bias"]["data_offsets"]
    bias = np.frombuffer(data[start + first : start + stop], np.float32).reshape(header["head.bias"]["shape"])

A BF16 is the upper half of a float32: `(np.frombuffer(..., np.uint16).astype(np.uint32) << 16).view(np.float32)`.

A checkpoint is for going on with a run, and this for taking elsewhere what was learnt. The format is written here, in
fewer lines than its package would save: that writes bfloat16 from NumPy but cannot read it back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax.boundaries import described
from polopt_jax.leaves import dotted_names, leaves_of, rebuild
from polopt_jax.types import Params

METADATA = "__metadata__"
_DTYPES = {
    "BOOL": np.dtype(bool),
    **{f"{kind}{8 * size}": np.dtype(f"{kind.lower()}{size}") for kind in "UI" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    "BF16": np.dtype(jnp.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_SEVERAL = 5


def export_params(params: Params, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes parameters, any pytree of arrays, to a new file.

    A leaf is called by its path: `params["block_0"]["query"]["kernel"]` is `block_0.query.kernel`. The file is there as
    a whole or not at all, and one that is there already is left as it is.

    Args:
      params: a pytree of booleans, integers, floats or bfloat16. Of a policy that normalises its observations,
        `{"params": policy.params, "normalizer": policy.normalizer}`.
      path: the file; `.safetensors` by custom. Its folder must be there.
      metadata: strings by name; `{"config": json.dumps(policy.config)}` says what the parameters are those of.

    Raises:
      FileExistsError: there is something at that path. OSError: it cannot be written.
      ValueError: a leaf is no array, or of a dtype that the format does not have, or two have one name. TypeError: the
      metadata are not strings.

    Source: the format is that of https://github.com/huggingface/safetensors.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "policy.safetensors"
    >>> export_params({"head": {"bias": jnp.arange(2.0)}}, path, metadata={"config": "{}"})
    >>> path.read_bytes()[8:-8]
    b'{"__metadata__":{"config":"{}"},"head.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   '
    """
    from polopt_jax.runs import write_new

    names = dotted_names(params)
    for name, leaf in zip(names.values(), jax.tree.leaves(params), strict=True):
        if not isinstance(leaf, jax.Array | np.ndarray) or leaf.dtype not in _CODES:
            has = ", ".join(map(str, _CODES))
            raise ValueError(f"export_params: {name} must be an array of one of {has}; it is {_of_kind(leaf)}")
    arrays = {names[key]: x for key, x in leaves_of(params).items()}
    write_new(Path(path), _encode(arrays, metadata or {}))


def import_params(path: str | Path, like: Params) -> Params:
    """The parameters of a file, for a model that they fit leaf by leaf; nothing is cast, cut or left out.

    Args:
      path: what `export_params` wrote, or any other safetensors file with the names of `like`.
      like: a pytree of the same structure, shapes and dtypes, `jax.eval_shape(network.init, jax.random.key(0))` say.

    Returns:
      The pytree with jax arrays, bit for bit what was exported.

    Raises:
      OSError: the file cannot be read. ValueError: it is no file of the format, or is damaged; or leaves are missing,
      are there beside those of `like`, or have another shape or dtype. The message names them.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "policy.safetensors"
    >>> export_params({"bias": jnp.arange(2.0)}, path)
    >>> import_params(path, jax.eval_shape(lambda: {"bias": jnp.zeros(2)}))
    {'bias': Array([0., 1.], dtype=float32)}
    """
    with open(path, "rb") as file:
        arrays = _arrays(path, *_header(path, file)[:1], file.read())
    names = dotted_names(like)
    leaves = dict(zip(names, jax.tree.leaves(like), strict=True))
    wrong = [f"{name} is not in the file" for name in names.values() if name not in arrays]
    wrong += [f"{name} is in the file alone" for name in arrays if name not in names.values()]
    for key, name in names.items():
        found = arrays.get(name)
        if found is not None and _of_kind(found) != _of_kind(leaves[key]):
            wrong.append(f"{name} is {_of_kind(found)} in the file, and not {_of_kind(leaves[key])}")
        elif found is not None and jax.dtypes.canonicalize_dtype(found.dtype) != found.dtype:
            wrong.append(f"{name} is {found.dtype}, which jax has with jax_enable_x64 alone")
    if wrong:
        more = f"; and {len(wrong) - _SEVERAL} more" if len(wrong) > _SEVERAL else ""
        raise ValueError(f"{os.fspath(path)} does not fit: {'; '.join(wrong[:_SEVERAL])}{more}")
    return rebuild({key: arrays[name] for key, name in names.items()}, like)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a file, strings by name; its arrays are not read. Raises as `import_params`."""
    with open(path, "rb") as file:
        return _header(path, file)[1]


def _of_kind(leaf: Any) -> str:
    """Dtype and shape of an array, or of what stands for one."""
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else described(leaf)


# --- bytes ------------------------------------------------------------------------------------------------------------


def _encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The file of these arrays, those of the largest items first, so that each is aligned."""
    for text in (*metadata, *metadata.values()):
        if not isinstance(text, str):
            raise TypeError(f"export_params: metadata must be strings by name; {text!r} is none")
    if METADATA in arrays:
        raise ValueError(f"export_params: a leaf cannot be called {METADATA}, which the format keeps to itself")
    entries: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    parts, start = [], 0
    for name, x in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        entries[name] = {"dtype": _CODES[x.dtype], "shape": x.shape, "data_offsets": [start, start + x.nbytes]}
        parts.append(x.tobytes())
        start += x.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, *parts])


class _Damaged(ValueError):
    def __init__(self, path: str | Path, why: object) -> None:
        super().__init__(f"{os.fspath(path)} is no safetensors file, or damaged: {why}")


def _header(path: str | Path, file: BinaryIO) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of the arrays by name, and the metadata."""
    size = int.from_bytes(file.read(8), "little")
    if size > os.fstat(file.fileno()).st_size - 8:
        raise _Damaged(path, "it is shorter than its header says")
    try:
        entries = json.loads(file.read(size).decode(), object_pairs_hook=_once)
        metadata = entries.pop(METADATA, {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("its metadata are not strings")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _Damaged(path, error) from error
    return entries, metadata


def _arrays(path: str | Path, entries: dict[str, Any], data: bytes) -> dict[str, np.ndarray]:
    """The arrays by name, which every byte is part of."""
    arrays, end = {}, 0
    try:
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (start, stop) = _DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
            if dtype is None:
                raise ValueError(f"{name} is {entry['dtype']}, which is not read here")
            number = math.prod(shape)
            if start != end or stop - start != number * dtype.itemsize or min(shape, default=0) < 0:
                raise ValueError(f"{name} has not the place that it needs")
            arrays[name], end = np.frombuffer(data[start:stop], dtype, number).reshape(shape), stop
        if end != len(data):
            raise ValueError("its arrays do not fill it")
    except (ValueError, KeyError, TypeError) as error:
        raise _Damaged(path, error) from error
    return arrays


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found
