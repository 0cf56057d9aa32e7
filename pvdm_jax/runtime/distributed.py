"""Runs of several processes, on several hosts or one per GPU: connecting them, and broadcasting values."""

import glob
import json
import os
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def start_distributed() -> None:
    """Connects this process to the others of a run; does nothing if it is the only one.

    Call it before any other function of JAX. A run has several processes if there is

    - JAX_COORDINATOR_ADDRESS in the environment, with JAX_NUM_PROCESSES and JAX_PROCESS_ID (or, in an indexed
      Kubernetes job, its JOB_COMPLETION_INDEX) unless the cluster provides them;
    - Slurm or Open MPI with more than one task;
    - a TPU slice with more than one host, according to GKE's environment or a TPU VM's metadata server, or several
      slices.
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


def broadcast_json(value: Any) -> Any:
    """The first process's value, which must be JSON, on every process. All of them must call it."""
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data))))
    padded = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        padded[:] = data
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))


def tpu_hosts(environment: Mapping[str, str], has_chips: Callable[[], bool] | None = None) -> int:
    """The number of hosts in this machine's TPU slice; 1 if it is not in a slice.

    GKE lists them in the environment; on a TPU VM they are an attribute of the metadata server (at GCE_METADATA_IP, or
    at its usual name).
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
    except OSError:  # not a TPU VM
        return 1


def _has_tpu_chips() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
