"""The device mesh, and how parameters and batches are sharded over it. The only file that names mesh axes.

There are two axes. Along `data` the parameters are copied; along `fsdp` they are split (fully sharded data parallelism:
each device keeps a slice of every large array, which is gathered before use). Batches are split over both axes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pvdm_jax.config import MeshConfig, require

AXES = ("data", "fsdp")
SMALL = 2**14  # arrays with fewer elements are copied to every device: gathering costs more than it saves


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp) mesh of all `devices` (None: every device of every process).

    Raises ConfigError if the product of the two sizes is not the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = {axis: getattr(config, axis) for axis in AXES}
    for axis, other in (AXES, AXES[::-1]):
        if sizes[axis] == -1:
            allowed = f"it must divide the number of devices ({count})"
            require(count % sizes[other] == 0, f"mesh.{other}", sizes[other], allowed)
            sizes[axis] = count // sizes[other]
    allowed = f"mesh.data x mesh.fsdp must be the number of devices ({count}); mesh.fsdp is {sizes['fsdp']}"
    require(sizes["data"] * sizes["fsdp"] == count, "mesh.data", sizes["data"], allowed)
    shape = tuple(sizes[axis] for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def check_batch(mesh: Mesh, batch_size: int, field: str, accumulate: int = 1) -> None:
    """Raises ConfigError, with batch sizes that would work, unless every micro-batch divides evenly over the mesh."""
    unit = mesh.size * accumulate
    below = batch_size // unit * unit
    sizes = f"{below} or {below + unit}" if below else f"{unit} or {2 * unit}"
    parts = f"{mesh.size} devices" if accumulate == 1 else f"{mesh.size} devices times {accumulate} micro-batches"
    require(batch_size % unit == 0, field, batch_size, f"it must be a multiple of {unit} ({parts}): {sizes} would work")


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def parameter_shardings(mesh: Mesh, abstract: Any) -> Any:
    """A tree of shardings for a tree of arrays, such as parameters or a whole training state.

    Each array is split along its largest dimension that `fsdp` divides. Arrays with fewer than 2**14 elements, and
    those without such a dimension, are copied to every device.
    """
    parts = mesh.shape["fsdp"]

    def rule(array):
        divisible = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
        if parts == 1 or array.size < SMALL or not divisible:
            return replicated(mesh)
        split = max(divisible, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * split, "fsdp"))

    return jax.tree.map(rule, abstract)


def place(mesh: Mesh, tree: Any) -> Any:
    """A tree of arrays, or of ShapeDtypeStructs, sharded over the mesh by `parameter_shardings`."""
    shardings = parameter_shardings(mesh, tree)
    if all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
    return jax.tree.map(put, tree, shardings)


def put(array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process holds whole, laid out by a sharding. Nothing travels between processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # jax.device_put would send the first process's array to all others, to compare it with theirs.
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def round_up(mesh: Mesh, count: int) -> int:
    """The smallest multiple of the number of devices that is at least `count`: what a batch of that size takes."""
    return -(-count // mesh.size) * mesh.size


def gather(mesh: Mesh, params: Any) -> Any:
    """Parameters for use in a model, inside jit: gathered, if `fsdp` splits them, so that every device has all of them.

    Left to itself, XLA often keeps a weight split and moves activations instead, which are many times as large. The
    parameters' gradients are split as the parameters were: each device gets only the sum of its own part (a
    reduce-scatter, which moves half as much as an all-reduce).
    """
    if mesh.shape["fsdp"] == 1 or jax.sharding.get_abstract_mesh().manual_axes:
        return params
    return _gather(mesh, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(mesh, params):
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def _split_gradient(mesh, _, gradient):
    return (jax.lax.with_sharding_constraint(gradient, parameter_shardings(mesh, gradient)),)


_gather.defvjp(lambda mesh, params: (_gather(mesh, params), None), _split_gradient)


def map_parts(mesh: Mesh | None, function: Callable[[Any, Any], Any], params: Any, items: Any, at_once: int) -> Any:
    """`function(params, items)`, inside jit, with at most `at_once` items on each device at a time.

    items: a tree of arrays (b, ...). The result is such a tree as well, and must not depend on how the items are
    divided. params: already gathered. Apart from items and results, memory does not grow with b. Each device processes
    its own items; parts have equal sizes, and the last one is padded with repetitions.
    """

    def in_parts(params, items):
        count = len(jax.tree.leaves(items)[0])
        parts = -(-count // at_once)
        size = -(-count // parts)
        missing = parts * size - count

        def divide(x):
            return jnp.concatenate([x, x[:missing]]).reshape(parts, size, *x.shape[1:])

        found = jax.lax.map(functools.partial(function, params), jax.tree.map(divide, items))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)

    count = jax.tree.leaves(items)[0].shape[0]
    if not isinstance(count, int):  # the symbolic batch size of an exported program
        found = jax.lax.map(lambda item: function(params, jax.tree.map(lambda x: x[None], item)), items)
        return jax.tree.map(lambda x: x[:, 0], found)
    devices = 1 if mesh is None or count % mesh.size else mesh.size
    if count <= at_once * devices:
        return function(params, items)
    if devices == 1:
        return in_parts(params, items)
    rows = PartitionSpec(AXES)
    specs = (PartitionSpec(), rows)
    return jax.shard_map(in_parts, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(params, items)


def global_batch(mesh: Mesh, local: Any) -> Any:
    """A global array over all devices, made of each process's share: numpy arrays (local batch, ...)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), local)


def map_batches(mesh: Mesh, function: Callable[[Any], Any], items: Any, batch_size: int) -> Any:
    """Applies `function` to numpy arrays (n, ...) that every process holds, in batches split over the mesh.

    `function` takes and returns trees of arrays with the same leading axis. Batches have `batch_size` items, rounded
    up to a multiple of the number of devices; the last one is padded with repetitions. Returns numpy arrays (n, ...).
    """
    size = round_up(mesh, batch_size)
    count = len(jax.tree.leaves(items)[0])
    sharding, results = batch_sharding(mesh), []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        batch = jax.tree.map(lambda x, rows=rows: put(x[rows], sharding), items)
        results.append(to_numpy(function(batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


def to_numpy(tree: Any) -> Any:
    """A tree of JAX arrays as whole numpy arrays. If they span several processes, all of these must call it."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(tree)):
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
