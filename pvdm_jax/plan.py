"""What a training step will cost on devices that aren't here.

The real step, with its shardings, is compiled for a TPU topology through libtpu, which needs no TPU, or for the
devices of this machine. The compiler says what memory a chip needs; the traced program how many floating point
operations it does; its text (`pvdm_jax.compiled`) what it moves. Against a chip's published peaks these give the least
time that a step can take. Real steps take longer: peaks are never reached, and transfers overlap only in part.

Published peaks of one chip: Google Cloud's documentation of its system architectures ("TPU v5e", "TPU v5p", "TPU v6e",
docs.cloud.google.com/tpu/docs, read in November 2026), and NVIDIA's data sheet of the H100 (SXM, without sparsity).
The interconnect's bandwidth there is of both directions; half of it counts here.
"""

import dataclasses
import json
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

from pvdm_jax.config import Config, ConfigError, require
from pvdm_jax.models.remat import POLICIES

GIGA = 1e9
STAGES = {1: "train_autoencoder", 2: "train_diffusion"}


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip: bfloat16 operations a second, bytes of memory, and bytes a second of it and of the links."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    network: float


CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16e9, 819e9, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip("TPU v6e", 918e12, 32e9, 1638e9, 400e9),
    "h100": Chip("NVIDIA H100", 989e12, 80e9, 3350e9, 450e9),
}
# How JAX names them.
DEVICE_KINDS = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e", "H100": "h100"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A step compiled for one batch. Bytes and operations are of one device and one step."""

    batch_size: int  # of all devices
    batch_per_device: int  # of one micro-batch
    arguments: float  # bytes: the state and the batch
    temporaries: float  # bytes
    flops: float
    memory_traffic: float  # bytes
    network_traffic: float  # bytes
    collectives: dict[str, int]  # how many transfers of each kind
    compile_seconds: float

    @property
    def memory(self) -> float:
        return self.arguments + self.temporaries


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `plan` found. `step` is None where the configured batch doesn't compile: `problem` says why."""

    stage: int
    topology: str
    device_kind: str
    devices: int
    mesh: dict[str, int]
    dtype: str
    remat: str
    accumulate: int
    chip: Chip | None
    limit: float | None  # bytes of memory that a chip may use
    step: Measured | None
    problem: str
    largest: Measured | None  # the largest batch that fits

    def seconds(self, step: Measured) -> dict[str, float]:
        """The least time of a step by each of the chip's peaks; empty where they aren't known."""
        if self.chip is None:
            return {}
        chip = self.chip
        return {
            "compute": step.flops / chip.flops,
            "memory": step.memory_traffic / chip.bandwidth,
            "network": step.network_traffic / chip.network,
        }

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        for name in ("step", "largest"):
            measured = getattr(self, name)
            if measured is not None:
                values[name]["seconds_at_least"] = self.seconds(measured)
        return values

    def __str__(self) -> str:
        name = {1: "stage 1 (autoencoder)", 2: "stage 2 (denoiser)"}[self.stage]
        axes = ", ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        lines = [
            f"plan: {name} on {self.topology}: {self.devices} x {self.device_kind}",
            f"  mesh                {axes}; {self.dtype}, remat {self.remat}, micro-batches {self.accumulate}",
        ]
        if self.step is None:
            lines.append(f"  configured batch    {self.problem}")
        else:
            lines += self._describe(self.step)
        if self.largest is not None:
            largest = self.largest
            fits = f"{largest.batch_per_device} per device and micro-batch, {largest.batch_size} in all"
            lines.append(f"  largest batch       {fits} ({largest.memory / GIGA:.2f} GB of {self.limit / GIGA:.1f} GB)")
            if self.chip:
                bound, seconds = max(self.seconds(largest).items(), key=lambda item: item[1])
                rate = largest.batch_size / seconds
                lines.append(f"                      at most {rate:.4g} clips a second (bound by {bound})")
        elif self.limit is not None:
            lines.append(f"  largest batch       none fits into {self.limit / GIGA:.1f} GB")
        return "\n".join(lines)

    def _describe(self, step: Measured) -> list[str]:
        of = f" of {self.limit / GIGA:.1f} GB" if self.limit else ""
        parts = f"arguments {step.arguments / GIGA:.2f}, temporaries {step.temporaries / GIGA:.2f}"
        moved = ", ".join(f"{count} {kind}" for kind, count in step.collectives.items()) or "none"
        lines = [
            f"  batch               {step.batch_size} ({step.batch_per_device} per device and micro-batch)",
            f"  memory per device   {step.memory / GIGA:.2f} GB{of}: {parts}",
            f"  work per device     {step.flops / GIGA:.4g} GFLOP, {step.memory_traffic / GIGA:.4g} GB of memory moved",
            f"  network per device  {step.network_traffic / GIGA:.4g} GB ({moved})",
            f"  compiled in         {step.compile_seconds:.0f} s",
        ]
        if seconds := self.seconds(step):
            bound = max(seconds, key=seconds.get)
            times = ", ".join(f"{kind} {value * 1000:.4g} ms" for kind, value in seconds.items())
            lines.append(f"  a step takes        {times} or more: bound by {bound}")
        else:
            lines.append("  a step takes        peaks of this device aren't known; `pvdm benchmark` measures them")
        return lines


def plan(
    config: Config,
    topology: str = "local",
    stage: int = 2,
    *,
    remat: str | None = None,
    chip_memory: float | None = None,
    search: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Compiles a stage's step for a topology ("v5e:4x4", or "local") and says what it costs.

    remat: a policy instead of the configured one, or "auto": the first of none, dots and blocks with which the
    configured batch fits. chip_memory: bytes of a chip that may be used (default: what it has). search: whether to
    look for the largest batch per device that fits, in up to five more compilations. Raises ConfigError for
    a topology, stage or policy that doesn't exist, and for a batch that doesn't split over the devices.
    """
    from pvdm_jax import sharding

    require(stage in STAGES, "--stage", stage, "1 (autoencoder) or 2 (denoiser)")
    policies = ("none", *POLICIES)
    require(remat in (None, "auto", *policies), "--remat", remat, f"one of auto, {', '.join(policies)}")
    devices = _devices(topology)
    kind = devices[0].device_kind
    chip = CHIPS.get(next((name for text, name in DEVICE_KINDS.items() if text == kind or text in kind.split()), ""))
    limit = chip_memory or (chip.memory if chip else _local_memory(devices[0]))
    mesh = sharding.make_mesh(config.mesh, devices)
    section = STAGES[stage]
    batch_size, accumulate = getattr(config, section).batch_size, getattr(config, section).accumulate
    sharding.check_batch(mesh, batch_size, f"{section}.batch_size", accumulate)
    unit = mesh.size * accumulate

    def measure(policy: str, per_device: int) -> Measured | str:
        changed = _with_stage(config, stage, policy, per_device * unit)
        found = _measure(changed, stage, mesh, per_device)
        text = found if isinstance(found, str) else f"{found.memory / GIGA:.2f} GB per device"
        say(f"remat {policy}, batch {per_device * unit} ({per_device} per device and micro-batch): {text}")
        return found

    def fits(found: Measured | str) -> bool:
        return isinstance(found, Measured) and (limit is None or found.memory <= limit)

    configured = (config.autoencoder if stage == 1 else config.unet).remat
    candidates = policies if remat == "auto" else (remat or configured,)
    for policy in candidates:
        found = measure(policy, batch_size // unit)
        if fits(found):
            break
    largest = None
    if limit is not None and search:
        largest = _largest(lambda per_device: measure(policy, per_device), batch_size // unit, found, limit)
    elif fits(found) and limit is not None:
        largest = found
    return Plan(
        stage=stage,
        topology=topology,
        device_kind=kind,
        devices=len(devices),
        mesh=dict(mesh.shape),
        dtype=(config.autoencoder if stage == 1 else config.unet).dtype,
        remat=policy,
        accumulate=accumulate,
        chip=chip,
        limit=limit,
        step=None if isinstance(found, str) else found,
        problem=found if isinstance(found, str) else "",
        largest=largest,
    )


def _devices(topology: str) -> list:
    """The devices of a topology, real ones for "local"."""
    import jax

    if topology == "local":
        return jax.devices()
    kind, _, sizes = topology.partition(":")
    tpus = [name for name in CHIPS if name.startswith("v")]
    allowed = f"local, or a TPU's kind and shape, such as v5e:4x4 (kinds: {', '.join(tpus)})"
    require(kind in tpus and re.fullmatch(r"\d+(x\d+)+", sizes) is not None, "--topology", topology, allowed)
    from jax.experimental import topologies

    # There is no TPU to ask, and none that another process could hold.
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(name, "1")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        text = str(error).partition("\n")[0][:200]
        hint = "libtpu is needed, and a shape that exists: pip install 'pvdm_jax[tpu]'"
        raise ConfigError(f"--topology is {topology!r}; {hint} ({text})") from error


def _local_memory(device: Any) -> float | None:
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats.get("bytes_limit") if stats else None


def _with_stage(config: Config, stage: int, policy: str, batch_size: int) -> Config:
    section, model = STAGES[stage], {1: "autoencoder", 2: "unet"}[stage]
    changed = {
        section: dataclasses.replace(getattr(config, section), batch_size=batch_size),
        model: dataclasses.replace(getattr(config, model), remat=policy),
    }
    return dataclasses.replace(config, **changed)


def _measure(config: Config, stage: int, mesh: Any, per_device: int) -> Measured | str:
    """The step compiled for a batch, or why it can't be."""
    import jax

    from pvdm_jax.compiled import Program, traced_flops

    began = time.perf_counter()
    traced = trace_step(config, stage, mesh)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", str(error))
        return f"out of memory{f': needs {used[1]}iB, {used[2]}iB are there' if used else ''}"
    seconds = time.perf_counter() - began
    stats, program = compiled.memory_analysis(), Program(compiled.as_text())
    collectives: dict[str, int] = {}
    transfers = program.collectives()
    for transfer in transfers:
        collectives[transfer.kind] = collectives.get(transfer.kind, 0) + transfer.runs
    return Measured(
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


def trace_step(config: Config, stage: int, mesh: Any) -> Any:
    """The stage's step as the training loop compiles it, traced for abstract arrays on the mesh.

    Of stage 1 the heaviest kind: with the adversarial losses where they are planned.
    """
    import jax
    import numpy as np
    from flax import nnx

    from pvdm_jax import sharding
    from pvdm_jax.losses.lpips import LPIPS
    from pvdm_jax.models import functional
    from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
    from pvdm_jax.training import phases, step
    from pvdm_jax.training.autoencoder import AutoencoderStage
    from pvdm_jax.training.diffusion import DiffusionStage

    clip = config.autoencoder
    video = (clip.frames, clip.height, clip.width, 3)
    if stage == 1:
        settings, count = config.train_autoencoder, config.train_autoencoder.batch_size
        lpips = nnx.eval_shape(lambda: LPIPS(rngs=nnx.Rngs(0))) if settings.perceptual_weight > 0 else None
        made = AutoencoderStage(clip, settings, {"video": np.zeros((0, *video), np.uint8)}, mesh, lpips)
        kind = phases.RECONSTRUCTION
        if settings.adversarial.enabled:
            kind = phases.GENERATOR if settings.adversarial.alternate else phases.BOTH
        fields = {"video": (video, np.uint8)}
    else:
        count, shape, kind = config.train_diffusion.batch_size, plane_shape(clip), ""
        decoder = functional.abstract(lambda: Autoencoder(clip, rngs=nnx.Rngs(0)))
        made = DiffusionStage(config, decoder, shape, {}, mesh)
        latent = (shape.positions, clip.latent_channels)
        fields = {"previous": (latent, np.float32), "clip": (latent, np.float32)}
        fields |= {"has_previous": ((), np.bool_), "label": ((), np.int32)}
    rows = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((count, *sizes), dtype, sharding=rows) for name, (sizes, dtype) in fields.items()
    }
    state = sharding.place(mesh, jax.eval_shape(made.init, jax.random.key(0)))
    return step.trace_step(made, kind, state, batch, state, mesh, config.seed)


def _largest(
    measure: Callable[[int], Measured | str], start: int, first: Measured | str, limit: float
) -> Measured | None:
    """The largest batch per device that was found to fit: memory is taken to grow linearly, and what that says is
    tried."""
    tried: dict[int, Measured | str] = {start: first}

    def fits(size: int) -> bool:
        if size not in tried:
            tried[size] = measure(size)
        return isinstance(tried[size], Measured) and tried[size].memory <= limit

    second = 2 * start if fits(start) else max(1, start // 2)
    fits(second)
    for _ in range(4):
        good = max((size for size in tried if fits(size)), default=0)
        bad = min((size for size in tried if size > good and not fits(size)), default=None)
        known = sorted(size for size, found in tried.items() if isinstance(found, Measured))[-2:]
        guess = 2 * good if bad is None else (good + bad) // 2
        if len(known) == 2:
            low, high = (tried[size].memory for size in known)
            slope = (high - low) / (known[1] - known[0])
            if slope > 0:
                guess = int(known[1] + (limit - high) / slope)
        elif good == 0:
            guess = max(1, min(tried) // 2)
        if bad is not None:
            guess = min(guess, bad - 1)
        guess = max(guess, good, 1)
        if guess in tried:
            break
        fits(guess)
    good = max((size for size in tried if fits(size)), default=0)
    return tried[good] if good else None


def write(found: Plan, folder: pathlib.Path) -> None:
    """Writes a plan's numbers into FOLDER/plan_TOPOLOGY_stageN.json."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"plan_{found.topology.replace(':', '_')}_stage{found.stage}.json"
    (folder / name).write_text(json.dumps(found.to_json(), indent=2) + "\n")
