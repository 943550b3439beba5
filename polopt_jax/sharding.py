"""Rows over devices: which arrays of a run are split by rows, and which every device holds whole.

    mesh = row_mesh()                                                    # all devices, side by side
    shardings = by_rows(mesh, jax.eval_shape(algorithm.init, key))
    state = jax.jit(algorithm.init, out_shardings=shardings)(key)        # or jax.device_put(state, shardings)
    run = jax.jit(lambda s: po.train(algorithm.collect, algorithm.step, s, updates=10), out_shardings=(shardings, None))

That is all of it: the loop, the steps and the solvers know nothing of devices. XLA splits the program after its
arguments and adds what has to be communicated, which is the gradient's sum and a few sums of statistics.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from polopt_jax.normalization import ReturnScale
from polopt_jax.rollout import LoopState
from polopt_jax.training import Collect
from polopt_jax.types import Array, Batch, Metrics, Params, Rollout

ROWS = "rows"
"""Name of the one axis of a `row_mesh`."""


def row_mesh(num_devices: int | None = None) -> Mesh:
    """A line of devices to split rows over: the first `num_devices` of every process, or all. (One process: of all.)

    Raises ValueError if there are not that many.

    >>> dict(row_mesh(1).shape)
    {'rows': 1}
    """
    there = jax.local_device_count()
    number = there if num_devices is None else num_devices
    if not 1 <= number <= there:
        raise ValueError(f"num_devices must be in 1 .. {there}, the devices there are; it is {number}")
    devices = [device for index in range(jax.process_count()) for device in jax.local_devices(index)[:number]]
    return jax.make_mesh((len(devices),), (ROWS,), axis_types=(AxisType.Auto,), devices=devices)


def by_rows(mesh: Mesh, tree: Any, *, axis: int = 0, leading: int = 0) -> Any:
    """The shardings of a tree: records split along their rows, everything else whole on every device.

    In a `Batch` every field but `counts` is split along axis `axis` (1 for preference pairs `[2, N, T]`), in a
    `Rollout` along the axis behind, as time is its first. In a `LoopState` all but `stats` is split along the
    environments, in a `ReturnScale` its `running` returns. Such records are found wherever they are in the tree: in a
    whole `TrainState` the environments are split, and parameters, optimizer state, normaliser and key are not.

    Args:
      mesh: of one axis, from `row_mesh`.
      tree: of arrays, or of their shapes (`jax.eval_shape`).
      axis: the row axis of batches, one of those before T.
      leading: axes that stand before all others in every array: 1 of a run of several seeds side by side.

    Returns:
      A tree like `tree` of `NamedSharding`s, for `jax.device_put` or `jax.jit(..., out_shardings=)`.

    Raises:
      ValueError: the number of devices does not divide the rows of some record.

    >>> batch = Batch(obs=jax.numpy.zeros((4, 1)), action=jax.numpy.zeros((4, 1), int),
    ...               mask=jax.numpy.ones((4, 1), bool))
    >>> batch = jax.device_put(batch, by_rows(row_mesh(1), batch))
    >>> tuple(batch.obs.sharding.spec)
    ('rows',)
    """
    records = (Batch, Rollout, LoopState, ReturnScale)

    def of(x: Any) -> Any:
        if isinstance(x, Batch):
            return _split(mesh, x, leading + axis, whole=("counts",))
        if isinstance(x, Rollout):
            return _split(mesh, x, leading + axis + 1)
        if isinstance(x, LoopState):
            return _split(mesh, x, leading, whole=("stats",))
        if isinstance(x, ReturnScale):
            return _split(mesh, x, leading, whole=("stats",))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(of, tree, is_leaf=lambda x: isinstance(x, records))


def _split(mesh: Mesh, record: Any, axis: int, *, whole: tuple[str, ...] = ()) -> Any:
    """The shardings of a record whose fields are split along `axis`, except those named in `whole`."""
    devices = math.prod(mesh.shape.values())
    split = NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))

    def of(name: str, x: Any) -> NamedSharding:
        if name in whole:
            return NamedSharding(mesh, PartitionSpec())
        if x.shape[axis] % devices:
            kind = type(record).__name__
            raise ValueError(f"{devices} devices do not divide axis {axis} of {kind}.{name}, of size {x.shape[axis]}")
        return split

    def field(name: str) -> Any:
        return jax.tree.map(lambda x: of(name, x), getattr(record, name))

    return type(record)(**{f.name: field(f.name) for f in fields(record)})


def sharded_collect(collect: Collect, mesh: Mesh, *, axis: int = 0) -> Collect:
    """The same `collect`, whose batch is split by rows over the devices of the mesh.

    For batches that are made from nothing but a key, as a token sampler's: where the state already holds rows, as
    environments do, the batch is split as they are. Raises as `by_rows`.

    >>> import jax.numpy as jnp
    >>> def collect(params, state, key):
    ...     action = jax.random.categorical(key, params, shape=(4, 1))
    ...     return state, Batch(obs=jnp.zeros((4, 1)), action=action, mask=jnp.ones((4, 1), bool)), {}
    >>> state, batch, metrics = sharded_collect(collect, row_mesh(1))(jnp.zeros(2), (), jax.random.key(0))
    >>> batch.action.shape
    (4, 1)
    """

    def split(params: Params, state: Any, key: Array) -> tuple[Any, Batch, Metrics]:
        state, batch, metrics = collect(params, state, key)
        return state, jax.lax.with_sharding_constraint(batch, by_rows(mesh, batch, axis=axis)), metrics

    return split


def placed_as(tree: Any, example: Any) -> Any:
    """The values of `tree` where those of `example`, of the same structure, lie: split as they are, on their devices.

    >>> import jax.numpy as jnp
    >>> mesh = row_mesh(1)
    >>> example = jax.device_put(jnp.zeros(4), NamedSharding(mesh, PartitionSpec(ROWS)))
    >>> tuple(placed_as(jnp.arange(4.0), example).sharding.spec)
    ('rows',)
    """
    return jax.jit(lambda tree: tree, out_shardings=jax.tree.map(lambda x: x.sharding, example))(tree)
