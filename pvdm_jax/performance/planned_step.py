"""A training step compiled for devices that are not attached, and its cost as read from the compiled program.

The real step, with its shardings, is compiled for a TPU topology through libtpu, which needs no TPU; for NVIDIA GPUs
through JAX's CUDA plugin, which needs no GPU; or for the devices of this machine.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import re
import time
from collections.abc import Callable
from typing import Any

from pvdm_jax.config import Config, ConfigError, LatentsConfig, SampleConfig, require
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.runtime.worker import end_with_parent

STAGES = {1: "train_autoencoder", 2: "train_diffusion"}
TPUS = ("v5e", "v5p", "v6e")
# What XLA would query from a GPU: the H100 (SXM), by NVIDIA's data sheet and tuning guide for Hopper.
GPUS = {
    "h100": """
        platform_name: "CUDA"
        device_description_str: "NVIDIA H100 80GB HBM3"
        runtime_version { major: 12 minor: 9 patch: 0 }
        dnn_version_info { major: 9 minor: 8 patch: 0 }
        gpu_device_info {
            cuda_compute_capability { major: 9 minor: 0 }
            core_count: 132
            fpus_per_core: 128
            clock_rate_ghz: 1.98
            memory_bandwidth: 3352000000000
            device_memory_size: 85899345920
            l2_cache_size: 52428800
            shared_memory_per_core: 233472
            shared_memory_per_block: 49152
            shared_memory_per_block_optin: 232448
            registers_per_core_limit: 65536
            registers_per_block_limit: 65536
            threads_per_warp: 32
            threads_per_core_limit: 2048
            threads_per_block_limit: 1024
            block_dim_limit_x: 2147483647
            block_dim_limit_y: 65535
            block_dim_limit_z: 65535
        }""",
}
# Compiler options for a GPU; the first ones with which a program compiles are used. Without a GPU, XLA can't tune its
# matrix products by timing them. Triton's default tiles don't fit some products; then cuBLAS computes all of them.
GPU_OPTIONS = (
    {"xla_gpu_autotune_level": 0},
    {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
)


@dataclasses.dataclass(frozen=True)
class StepCost:
    """A step compiled for one batch. Bytes and FLOPs are those of one device in one step."""

    batch_size: int  # over all devices
    batch_per_device: int  # in one micro-batch
    arguments: float  # bytes: the state and the batch
    temporaries: float  # bytes
    flops: float
    memory_traffic: float  # bytes
    network_traffic: float  # bytes
    collectives: dict[str, int]  # number of transfers of each kind
    compile_seconds: float

    @property
    def memory(self) -> float:
        return self.arguments + self.temporaries


def find_devices(topology: str) -> list:
    """The devices of a topology such as "v5e:4x4" or "h100:8"; this machine's devices for "local".

    For TPUs the shape is that of the slice; for GPUs it is the number of GPUs, or of hosts and GPUs per host
    ("h100:2x8"). Raises ConfigError if the topology is unknown or the plugin that compiles for it is not installed.
    """
    import jax

    if topology == "local":
        return jax.devices()
    kind, _, sizes = topology.partition(":")
    allowed = "local, or a kind of device and a shape: v5e:4x4 (v5e, v5p or v6e), or h100:8"
    shape = r"\d+(x\d+)+" if kind in TPUS else r"\d+(x\d+)?"
    known = kind in TPUS or kind in GPUS
    require(known and re.fullmatch(shape, sizes) is not None, "--topology", topology, allowed)
    from jax.experimental import topologies

    if kind in GPUS:
        needed = "JAX's plugin for CUDA is needed: pip install 'pvdm_jax[cuda]'"
        slices = "x".join(["1", "1", *sizes.split("x")][-3:])
        options = {"platform": "cuda", "topology_name": topology, "topology": slices, "target_config": GPUS[kind]}
    else:
        needed = "libtpu is needed, and a shape that exists: pip install 'pvdm_jax[tpu]'"
        options = {"platform": "tpu", "topology_name": topology}
        # No TPU is attached: don't look for one, and don't lock it.
        for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
            os.environ.setdefault(name, "1")
    try:
        return list(topologies.get_topology_desc(**options).devices)
    except Exception as error:
        text = str(error).partition("\n")[0][:200]
        raise ConfigError(f"--topology is {topology!r}; {needed} ({text})") from error


def compile_step(config: Config, stage: int, topology: str, per_device: int) -> StepCost | str:
    """The cost of a stage's step with `per_device` clips in each device's micro-batch, or why it can't be compiled.

    For devices that are not attached, the compiler runs in a subprocess: a failed internal check kills its process.
    """
    if topology == "local":
        return _compile(config, stage, topology, per_device)
    return in_subprocess(_compile, config, stage, topology, per_device)


def in_subprocess(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed in a separate process; a message for the user if that process dies."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, initializer=end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            return "the compiler's process died: it failed an internal check, printed above, or ran out of memory"


def _compile(config: Config, stage: int, topology: str, per_device: int) -> StepCost | str:
    import jax

    from pvdm_jax.performance.flops import traced_flops
    from pvdm_jax.performance.hlo import Program
    from pvdm_jax.runtime import sharding

    mesh = sharding.make_mesh(config.mesh, find_devices(topology))
    began = time.perf_counter()
    traced = trace_step(config, stage, mesh)
    lowered, compiled, problem = traced.lower(), None, ""
    for options in GPU_OPTIONS if topology.partition(":")[0] in GPUS else (None,):
        try:
            compiled = lowered.compile(options)
            break
        except jax.errors.JaxRuntimeError as error:
            problem = _explain(str(error))
    if compiled is None:
        return problem
    seconds = time.perf_counter() - began
    stats, program = compiled.memory_analysis(), Program(compiled.as_text())
    collectives: dict[str, int] = {}
    transfers = program.collectives()
    for transfer in transfers:
        collectives[transfer.kind] = collectives.get(transfer.kind, 0) + transfer.runs
    return StepCost(
        batch_size=getattr(config, STAGES[stage]).batch_size,
        batch_per_device=per_device,
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes,
        flops=traced_flops(traced.jaxpr) / mesh.size,
        memory_traffic=program.memory_bytes(),
        network_traffic=sum(transfer.runs * transfer.bytes for transfer in transfers),
        collectives=collectives,
        compile_seconds=seconds,
    )


def _explain(error: str) -> str:
    if "RESOURCE_EXHAUSTED" not in error:
        return f"the compiler failed: {error.partition(chr(10))[0][:300]}"
    used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", error)
    return f"out of memory{f': needs {used[1]}iB, {used[2]}iB are available' if used else ''}"


def trace_step(config: Config, stage: int, mesh: Any) -> Any:
    """The stage's step as the training loop compiles it, traced for abstract arrays on the mesh.

    For stage 1 this is the most expensive kind of step: with the adversarial losses, if they are configured.
    """
    import jax

    from pvdm_jax.runtime import sharding
    from pvdm_jax.training import step

    made, name, batch = {1: _autoencoder_stage, 2: _diffusion_stage}[stage](config, mesh)
    state = sharding.place(mesh, jax.eval_shape(made.init, make_key(0)))
    return step.trace_step(made, name, state=state, batch=batch, placed=state, mesh=mesh, seed=config.seed)


def _autoencoder_stage(config: Config, mesh: Any) -> tuple[Any, str, Any]:
    """Stage 1, the name of its most expensive step, and its batch as ShapeDtypeStructs."""
    import jax
    import numpy as np
    from flax import nnx

    from pvdm_jax.losses.lpips import LPIPS
    from pvdm_jax.models import functional
    from pvdm_jax.runtime import sharding
    from pvdm_jax.training import phases
    from pvdm_jax.training.autoencoder import AutoencoderStage

    clip, settings = config.autoencoder, config.train_autoencoder
    video = (clip.frames, clip.height, clip.width, 3)
    lpips = nnx.eval_shape(lambda: LPIPS(rngs=functional.rngs(0))) if settings.perceptual_weight > 0 else None
    name = phases.RECONSTRUCTION
    if settings.adversarial.enabled:
        name = phases.GENERATOR if settings.adversarial.alternate else phases.BOTH
    made = AutoencoderStage(clip, settings, {"video": np.zeros((0, *video), np.uint8)}, mesh, lpips)
    rows = sharding.batch_sharding(mesh)
    return made, name, {"video": jax.ShapeDtypeStruct((settings.batch_size, *video), np.uint8, sharding=rows)}


def _diffusion_stage(config: Config, mesh: Any) -> tuple[Any, str, Any]:
    """Stage 2, the name of its step, and its batch as ShapeDtypeStructs."""
    from pvdm_jax.data.latent_batch import LatentBatch
    from pvdm_jax.runtime import sharding
    from pvdm_jax.training import diffusion

    # Statistics are measured when training begins, and a step samples nothing.
    config = dataclasses.replace(config, latents=LatentsConfig(), sample=SampleConfig())
    batch = LatentBatch.abstract(config, config.train_diffusion.batch_size, sharding.batch_sharding(mesh))
    return diffusion.DiffusionStage(config, mesh), diffusion.DENOISER, batch
