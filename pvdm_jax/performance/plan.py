"""`pvdm plan`: what a training step will cost on devices that are not attached.

The compiler reports the memory that a chip needs (`performance.planned_step`), the traced program gives the FLOPs
(`performance.flops`), and the compiled program's text gives the memory and network traffic (`performance.hlo`). With a
chip's published peaks these give a lower bound for the time of a step. Real steps take longer: peaks are never reached,
and transfers overlap only in part.

Published peaks of one chip: Google Cloud's documentation of its system architectures ("TPU v5e", "TPU v5p", "TPU v6e",
docs.cloud.google.com/tpu/docs, read in November 2026), and NVIDIA's data sheet of the H100 (SXM, without sparsity).
Interconnect bandwidth is published for both directions together; half of it is used here.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from pvdm_jax.config import Config, require
from pvdm_jax.config.models import REMAT_POLICIES
from pvdm_jax.performance import planned_step
from pvdm_jax.performance.planned_step import STAGES, StepCost
from pvdm_jax.storage.files import write_json

GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip."""

    name: str
    flops: float  # bfloat16 FLOPs per second
    memory: float  # bytes
    bandwidth: float  # bytes per second of the memory
    network: float  # bytes per second of the links to other chips


CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16e9, 819e9, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip("TPU v6e", 918e12, 32e9, 1638e9, 400e9),
    "h100": Chip("NVIDIA H100", 989e12, 80e9, 3350e9, 450e9),
}
# The chips by JAX's names for them.
DEVICE_KINDS = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e", "H100": "h100"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a step. `step` is None if the configured batch does not compile; `problem` then says why."""

    stage: int
    topology: str
    device_kind: str
    devices: int
    mesh: dict[str, int]
    dtype: str
    remat: str
    accumulate: int
    chip: Chip | None
    limit: float | None  # bytes of a chip's memory that may be used
    step: StepCost | None
    problem: str
    largest: StepCost | None  # the largest batch that fits

    def seconds(self, step: StepCost) -> dict[str, float]:
        """Lower bounds for the time of a step, one for each of the chip's peaks; empty if these are not known."""
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
            fits = f"{largest.batch_per_device} per device and micro-batch, {largest.batch_size} in total"
            lines.append(f"  largest batch       {fits} ({largest.memory / GIGA:.2f} GB of {self.limit / GIGA:.1f} GB)")
            if self.chip:
                bound, seconds = max(self.seconds(largest).items(), key=lambda item: item[1])
                rate = largest.batch_size / seconds
                lines.append(f"                      at most {rate:.4g} clips per second (bound by {bound})")
        elif self.limit is not None:
            lines.append(f"  largest batch       none fits in {self.limit / GIGA:.1f} GB")
        return "\n".join(lines)

    def _describe(self, step: StepCost) -> list[str]:
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
            lines.append("  a step takes        the peaks of this device are not known; `pvdm benchmark` measures them")
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
    """Compiles a stage's step for a topology ("v5e:4x4", "h100:8", or "local") and reports its cost.

    - remat: a policy instead of the configured one, or "auto": the first of none, dots and blocks for which the
      configured batch fits.
    - chip_memory: bytes of a chip's memory that may be used (None: all).
    - search: whether to look for the largest batch per device that fits, with up to five more compilations.
    - say: is called with a line of progress after each compilation.

    Raises ConfigError if the topology, stage or policy is unknown, or the batch does not divide evenly among the
    devices. The compiler for devices that are not attached runs in subprocesses: a script must call this from within
    `if __name__ == "__main__":`.
    """
    from pvdm_jax.runtime import sharding

    require(stage in STAGES, "--stage", stage, "1 (autoencoder) or 2 (denoiser)")
    require(remat in (None, "auto", *REMAT_POLICIES), "--remat", remat, f"one of auto, {', '.join(REMAT_POLICIES)}")
    devices = planned_step.find_devices(topology)
    kind = devices[0].device_kind
    chip = CHIPS.get(next((name for text, name in DEVICE_KINDS.items() if text == kind or text in kind.split()), ""))
    limit = chip_memory or (chip.memory if chip else _local_memory(devices[0]))
    mesh = sharding.make_mesh(config.mesh, devices)
    section = STAGES[stage]
    batch_size, accumulate = getattr(config, section).batch_size, getattr(config, section).accumulate
    sharding.check_batch(mesh, batch_size, f"{section}.batch_size", accumulate)
    unit = mesh.size * accumulate

    def compiled(policy: str, per_device: int) -> StepCost | str:
        changed = _with_stage(config, stage, policy, per_device * unit)
        found = planned_step.compile_step(changed, stage, topology, per_device)
        text = found if isinstance(found, str) else f"{found.memory / GIGA:.2f} GB per device"
        say(f"remat {policy}, batch {per_device * unit} ({per_device} per device and micro-batch): {text}")
        return found

    def fits(found: StepCost | str) -> bool:
        return isinstance(found, StepCost) and (limit is None or found.memory <= limit)

    configured = (config.autoencoder if stage == 1 else config.denoiser).remat
    candidates = REMAT_POLICIES if remat == "auto" else (remat or configured,)
    for policy in candidates:
        found = compiled(policy, batch_size // unit)
        if fits(found):
            break
    largest = None
    if limit is not None and search:
        largest = _largest(lambda per_device: compiled(policy, per_device), batch_size // unit, found, limit)
    elif fits(found) and limit is not None:
        largest = found
    return Plan(
        stage=stage,
        topology=topology,
        device_kind=kind,
        devices=len(devices),
        mesh=dict(mesh.shape),
        dtype=(config.autoencoder if stage == 1 else config.denoiser).dtype,
        remat=policy,
        accumulate=accumulate,
        chip=chip,
        limit=limit,
        step=None if isinstance(found, str) else found,
        problem=found if isinstance(found, str) else "",
        largest=largest,
    )


def _local_memory(device: Any) -> float | None:
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats.get("bytes_limit") if stats else None


def _with_stage(config: Config, stage: int, policy: str, batch_size: int) -> Config:
    section, model = STAGES[stage], {1: "autoencoder", 2: "denoiser"}[stage]
    changed = {
        section: dataclasses.replace(getattr(config, section), batch_size=batch_size),
        model: dataclasses.replace(getattr(config, model), remat=policy),
    }
    return dataclasses.replace(config, **changed)


def _largest(
    compiled: Callable[[int], StepCost | str], start: int, first: StepCost | str, limit: float
) -> StepCost | None:
    """The largest batch per device that was found to fit, starting from `first` at `start`.

    Each next guess assumes that memory grows linearly with the batch.
    """
    tried: dict[int, StepCost | str] = {start: first}

    def fits(size: int) -> bool:
        if size not in tried:
            tried[size] = compiled(size)
        return isinstance(tried[size], StepCost) and tried[size].memory <= limit

    second = 2 * start if fits(start) else max(1, start // 2)
    fits(second)
    for _ in range(4):
        good = max((size for size in tried if fits(size)), default=0)
        bad = min((size for size in tried if size > good and not fits(size)), default=None)
        known = sorted(size for size, found in tried.items() if isinstance(found, StepCost))[-2:]
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
    """Writes a plan's numbers to FOLDER/plan_TOPOLOGY_stageN.json."""
    name = f"plan_{found.topology.replace(':', '_')}_stage{found.stage}.json"
    write_json(folder / name, found.to_json())
