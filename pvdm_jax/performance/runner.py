"""Runs the benchmark and writes its table, its numbers as JSON and a roofline picture."""

import dataclasses
import functools
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib

from pvdm_jax.config import Config, MeshConfig, require
from pvdm_jax.config.models import DTYPES
from pvdm_jax.performance.hlo import Program, traced_flops
from pvdm_jax.performance.operations import NAMES, Operation, Operations, size_of
from pvdm_jax.performance.profile import Share, profile, profile_table
from pvdm_jax.performance.roofline import roofline_svg
from pvdm_jax.performance.scaling import measure_scaling, scaling_table
from pvdm_jax.performance.timing import Peaks, Timing, measure_peaks, time_calls
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.allocator import fill_holes_after_compiling

SLOWEST = 0.3  # of the measured matrix rate, at which a call is expected to run when it is decided whether to try
STEPS = 100  # denoising steps of the sampling call


@dataclasses.dataclass(frozen=True)
class Result:
    """One operation at one size. Seconds, bytes, floating point operations; None where it isn't known."""

    operation: str
    size: str
    dtype: str
    batch: int
    resolution: int  # pixels of a side
    remat: str
    note: str = ""  # why it was left out, or what is special
    median: float | None = None
    spread: float | None = None  # distance of the quartiles over the median
    calls: int = 0
    compile: float | None = None
    memory: float | None = None  # arguments, results and temporaries of the compiled program
    flops: float | None = None  # by the formula
    program_flops: float | None = None  # of the traced program
    xla_flops: float | None = None  # as XLA counts, loops once
    traffic: float | None = None  # bytes of memory that the compiled program reads and writes
    of_peak: float | None = None  # of the measured matrix rate
    profile: tuple[Share, ...] = ()  # where the time of one call goes, the costliest kinds of operations first


def run(
    sizes: Sequence[str] = ("demo",),
    dtypes: Sequence[str] = ("float32",),
    batch_size: int | None = None,
    only: Sequence[str] | None = None,
    repeats: int = 10,
    limit: float = 60.0,
    steps: int | None = None,
    profiled: bool = False,
    scaling: bool = False,
    output: Path | None = None,
    remat: str = "none",
    resolution: int | None = None,
) -> list[Result]:
    """Times operations at the given sizes and prints a table.

    batch_size: clips at once (None: 8 of the demo's size; of the others 1 on a CPU, else 8). only: names of operations.
    repeats: calls timed of each, within `limit` seconds; what is expected to take longer than that for one call is
    left out, with a note. steps: of the sampling call (None: 100, or as many as fit into the limit). profiled: say
    where the time of one more call goes, too. scaling: times training steps along batch, resolution and frames instead.
    output: a folder for benchmark.json, benchmark.txt and a roofline picture of each dtype. remat: the models'
    rematerialisation policy. resolution: pixels of the clips' sides (None: the size's own). Raises ConfigError for a
    name that doesn't exist, and for a resolution that a size can't have.
    """
    models = {size: functools.partial(size_of, size, remat=remat, resolution=resolution) for size in sizes}
    for make in models.values():
        autoencoder, unet = make("float32")
        if set(only or NAMES) & {"denoiser", "denoiser_train", "sample"}:
            Config(autoencoder=autoencoder, unet=unet)  # refuses planes that the U-Net can't halve often enough
    for dtype in dtypes:
        require(dtype in DTYPES, "--dtype", dtype, f"{', '.join(DTYPES)}, or both separated by a comma")
    for name in only or ():
        require(name in NAMES, "--only", name, f"{', '.join(NAMES)}, or several of them separated by commas")
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return _run(models, dtypes, batch_size, only or NAMES, repeats, limit, steps, profiled, scaling, output)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def _run(models, dtypes, batch_size, names, repeats, limit, steps, profiled, scaling, output) -> list[Result]:
    fill_holes_after_compiling()
    mesh = sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])
    machine, lines = describe_machine(), []

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    results: list[Result] = []
    peaks: dict[str, Peaks] = {}
    scalings = []
    for dtype in dtypes:
        peaks[dtype] = measure_peaks(dtype)
        rate, bandwidth = peaks[dtype].flops / 1e9, peaks[dtype].bandwidth / 1e9
        say(f"\n{dtype}: matrix product {rate:.4g} GFLOP/s, copy {bandwidth:.4g} GB/s")
        if scaling:
            found = measure_scaling(
                lambda made, name: _time(made.make(name), repeats, limit).timing.median, dtype, mesh
            )
            scalings += [dataclasses.asdict(row) | {"dtype": dtype, "exponent": row.exponent} for row in found]
            say(scaling_table(found))
            continue
        say(HEADER)
        for size, make in models.items():
            autoencoder, unet = make(dtype)
            small = size == "demo" or jax.default_backend() != "cpu"
            batch = batch_size or (8 if small else 1)
            expected = SLOWEST * peaks[dtype].flops
            operations = Operations(autoencoder, unet, batch, mesh, steps or STEPS)
            if steps is None and operations.flops("sample") / expected > limit:
                one = Operations(autoencoder, unet, batch, mesh, 1).flops("denoiser")
                operations.steps = max(2, int(limit * expected / one / 2))
            for name in names:
                result = _measure(operations, name, size, dtype, peaks[dtype], repeats, limit, profiled)
                results.append(result)
                say(row(result))
            for result in results:
                if (result.size, result.dtype) == (size, dtype) and result.profile:
                    say(f"\nWhere a call of {result.operation} spends its time:\n\n{profile_table(result.profile)}")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        values = {"machine": machine, "peaks": {name: dataclasses.asdict(peak) for name, peak in peaks.items()}}
        values |= {"results": [dataclasses.asdict(result) for result in results], "scaling": scalings}
        (output / "benchmark.json").write_text(json.dumps(values, indent=2) + "\n")
        (output / "benchmark.txt").write_text("\n".join(lines) + "\n")
        for dtype, peak in peaks.items():
            points = [
                (f"{result.operation} {result.size}", result.flops / result.traffic, result.flops / result.median)
                for result in results
                if result.dtype == dtype and result.traffic and result.median and result.flops
            ]
            if points:
                title = f"{machine['device']}, {dtype}, batch {results[0].batch}"
                (output / f"roofline_{dtype}.svg").write_text(
                    roofline_svg(title, peak.flops, peak.bandwidth, points), encoding="utf-8"
                )
    return results


def _measure(operations, name, size, dtype, peaks, repeats, limit, profiled) -> Result:
    made = {"operation": name, "size": size, "dtype": dtype, "batch": operations.batch}
    made |= {"resolution": operations.autoencoder.height, "remat": operations.autoencoder.remat}
    if name == "data":
        return _measure_data(operations, made, repeats, limit)
    flops = operations.flops(name)
    least = flops / peaks.flops
    if least > limit:
        return Result(**made, flops=flops, note=f"left out: at least {least:.0f} s, more than the limit")
    try:
        timed = _time(operations.make(name), repeats, limit)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Result(**made, flops=flops, note="left out: not enough memory")
    timing, compiled = timed.timing, timed.compiled
    program = Program(compiled.as_text())
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    made["note"] = f"{operations.steps} steps" if name == "sample" else ""
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Result(
        **made,
        median=timing.median,
        spread=timing.spread,
        calls=len(timing.seconds),
        compile=timed.compile_seconds,
        memory=stats.argument_size_in_bytes + stats.temp_size_in_bytes + results,
        flops=flops,
        program_flops=traced_flops(timed.traced.jaxpr),
        xla_flops=cost.get("flops"),
        traffic=program.memory_bytes(),
        of_peak=flops / timing.median / peaks.flops,
        profile=profile(timed.call, program) if profiled else (),
    )


@dataclasses.dataclass(frozen=True)
class _Timed:
    timing: Timing
    traced: Any
    compiled: Any
    compile_seconds: float
    call: Callable[[], Any]  # once more


def _time(operation: Operation, repeats: int, limit: float) -> _Timed:
    began = time.perf_counter()
    traced = operation.program.trace(*operation.arguments)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - began
    arguments = list(operation.arguments)
    operation.arguments = ()  # so that a state that is carried on is not kept here too

    def call():
        found = compiled(*arguments)
        if operation.carries:
            arguments[0] = found[0]
        return found

    return _Timed(time_calls(call, repeats, limit), traced, compiled, seconds, call)


def _measure_data(operations, made: dict, repeats: int, limit: float) -> Result:
    """Batches of synthetic clips, as stage 1 is fed them."""
    try:
        from pvdm_jax.config import DataConfig
        from pvdm_jax.data.loader import train_batches
        from pvdm_jax.data.sources import open_source
        from pvdm_jax.data.streams import BatchSpec

        data = DataConfig(source="synthetic", synthetic_videos=64)
        source = open_source(data, operations.autoencoder, "train", 0)
    except ModuleNotFoundError as error:
        return Result(**made, note=f"left out: {error.name} is not installed")
    iterator = train_batches(source, operations.autoencoder, data, BatchSpec(operations.batch, seed=0))
    try:
        timing = time_calls(lambda: next(iterator)["video"].shape[0], repeats, limit)
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
    return Result(**made, median=timing.median, spread=timing.spread, calls=len(timing.seconds), note="synthetic clips")


HEADER = "\n".join(
    [
        "| operation | size | batch | median | spread | calls | compile | memory | GFLOP | in program | of peak | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
)


def row(result: Result) -> str:
    """A result as a line of the table."""

    def shown(value: float | None, pattern: str, scale: float = 1.0) -> str:
        return "" if value is None else format(value / scale, pattern)

    median = shown(result.median, ".3g") and (
        f"{result.median:.3g} s" if result.median >= 1 else f"{result.median * 1000:.3g} ms"
    )
    columns = [
        result.operation,
        result.size,
        str(result.batch),
        median,
        shown(result.spread, ".0%"),
        str(result.calls or ""),
        shown(result.compile, ".1f") and f"{result.compile:.1f} s",
        shown(result.memory, ".2f", 1e9) and f"{result.memory / 1e9:.2f} GB",
        shown(result.flops, ".4g", 1e9),
        shown(result.program_flops, ".4g", 1e9),
        shown(result.of_peak, ".0%"),
        result.note,
    ]
    return f"| {' | '.join(columns)} |"


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    device = jax.local_devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
