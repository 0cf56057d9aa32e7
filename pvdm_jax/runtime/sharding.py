"""The device mesh, and how parameters and batches lie on it. The only file that names mesh axes.

Two axes: `data` holds copies of the parameters, `fsdp` shares them out (fully sharded data parallelism: each device
keeps a slice of every large array, and XLA gathers it where a layer needs it). Batches are split over both.
"""

import glob
import os
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pvdm_jax.config import MeshConfig, require

AXES = ("data", "fsdp")
SMALL = 2**14  # arrays with fewer elements are copied to every device: gathering them costs more than it saves


def start_distributed() -> None:
    """Connects this process to the others of a multi-host run; does nothing where there is only one.

    A run of several processes is told by

    - JAX_COORDINATOR_ADDRESS, with JAX_NUM_PROCESSES and JAX_PROCESS_ID (in an indexed Kubernetes job also its
      JOB_COMPLETION_INDEX) where the cluster doesn't know them;
    - Slurm or Open MPI with more than one task;
    - a TPU slice of more than one host, as GKE's environment or a TPU VM's metadata server tells, or several slices.

    Call it before anything else of JAX.
    """
    environment = os.environ
    tasks = (environment.get("SLURM_STEP_NUM_TASKS", "1"), environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    several = any(task != "1" for task in tasks) or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if not (several or address or tpu_hosts(environment) > 1):
        return
    count = environment.get("JAX_NUM_PROCESSES")
    number = environment.get("JAX_PROCESS_ID") or (address and environment.get("JOB_COMPLETION_INDEX"))
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=int(count) if count else None,
        process_id=int(number) if number else None,
    )


def tpu_hosts(environment: Mapping[str, str], has_chips: Callable[[], bool] | None = None) -> int:
    """The number of hosts of the TPU slice that this machine belongs to; 1 where it belongs to none.

    GKE tells it in the environment, a TPU VM's metadata server (at GCE_METADATA_IP, or its usual name) in an attribute.
    """
    named = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if named:
        return len(named.split(","))
    platforms = environment.get("JAX_PLATFORMS", "")
    if "TPU_SKIP_MDS_QUERY" in environment or (platforms and "tpu" not in platforms):
        return 1
    if not (has_chips or _has_tpu_chips)():
        return 1
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return len(answer.read().decode().split(","))
    except OSError:  # no TPU VM of Google's cloud
        return 1


def _has_tpu_chips() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp) mesh of all `devices` (default: every device of every process).

    Raises ConfigError where the two sizes don't multiply to the number of devices.
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
    """Raises ConfigError, naming sizes that would work, unless every micro-batch splits evenly over the mesh."""
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
    """A sharding for every array of a tree (parameters, or a whole training state), in the tree's structure.

    The largest dimension that `fsdp` divides is split over it. Scalars, arrays below 2**14 elements, and arrays
    without such a dimension are copied to every device.
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
    """A tree of arrays on the mesh's devices, as `parameter_shardings` says; of ShapeDtypeStructs, what they would be
    there."""
    shardings = parameter_shardings(mesh, tree)
    if all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
    # As numpy: an array of one process's device can't be spread over those of others.
    return jax.device_put(jax.tree.map(np.asarray, tree) if jax.process_count() > 1 else tree, shardings)


def gather(mesh: Mesh, params: Any) -> Any:
    """Parameters as a model is to use them: whole on every device, where `fsdp` has split them.

    Left to itself XLA often keeps a weight split and moves activations instead, many times as large. For use inside
    jit; the gradients come back whole and are split again where they meet the state.
    """
    if mesh.shape["fsdp"] == 1:
        return params
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def global_batch(mesh: Mesh, local: Any) -> Any:
    """This process's share of a batch (numpy, (local batch, ...)) as part of one array over all devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), local)


def map_batches(mesh: Mesh, function: Callable[[Any], Any], items: Any, batch_size: int) -> Any:
    """`function` over numpy arrays (n, ...) that every process holds, in batches split over the mesh.

    `function` takes and returns trees of arrays with the same leading axis. Batches have `batch_size` items, rounded
    up to a multiple of the number of devices; the last is filled up with repetitions. Returns numpy arrays (n, ...).
    """
    size = -(-batch_size // mesh.size) * mesh.size
    count = len(jax.tree.leaves(items)[0])
    sharding, results = batch_sharding(mesh), []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        batch = jax.tree.map(lambda x, rows=rows: jax.device_put(x[rows], sharding), items)
        results.append(to_numpy(function(batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


def to_numpy(tree: Any) -> Any:
    """Arrays over all devices, or over this process's own, as whole numpy arrays, on every process that calls it."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(tree)):
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
