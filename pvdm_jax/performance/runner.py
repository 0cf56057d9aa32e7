"""`pvdm benchmark`: times the models' operations, and the peaks that the device reached in the same run.

Every operation is compiled without the compilation cache, called once to warm up, and then timed.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from pvdm_jax.config import Config, MeshConfig, require
from pvdm_jax.config.models import DTYPES
from pvdm_jax.performance import results
from pvdm_jax.performance.choices import OPERATIONS
from pvdm_jax.performance.flops import traced_flops
from pvdm_jax.performance.hlo import Program
from pvdm_jax.performance.operations import Operation, Operations, filled, size_of
from pvdm_jax.performance.results import Result
from pvdm_jax.performance.scaling import measure_scaling, scaling_table
from pvdm_jax.performance.timing import Peaks, Timing, measure_peaks, time_calls
from pvdm_jax.runtime import sharding

SLOWEST = 0.3  # fraction of the measured matrix rate that an operation is expected to reach at least
STEPS = 100  # denoising steps of the sampling call


def run(
    sizes: Sequence[str] = ("demo",),
    dtypes: Sequence[str] = ("float32",),
    batch_size: int | None = None,
    only: Sequence[str] | None = None,
    repeats: int = 10,
    limit: float = 60.0,
    steps: int | None = None,
    trace: Path | None = None,
    scaling: bool = False,
    output: Path | None = None,
    remat: str = "none",
    resolution: int | None = None,
) -> list[Result]:
    """Times operations at the given sizes and prints a table.

    - batch_size: clips in a batch (None: 8 for the demo's size; for the others 1 on a CPU and 8 elsewhere).
    - only: names of operations (None: all).
    - repeats: calls to time of each operation, within `limit` seconds. An operation whose single call would take longer
      is skipped, with a note.
    - steps: denoising steps of the sampling call (None: 100, or as many as fit into the limit).
    - trace: a folder for a profiler trace of one more call of each operation (None: no traces).
    - scaling: times training steps for growing batch, resolution and frames instead.
    - output: a folder for benchmark.json, benchmark.txt and a roofline picture of each dtype. They are written after
      every operation, so that an interrupted command loses no results.
    - remat: the models' rematerialisation policy.
    - resolution: height and width of the clips in pixels (None: those of the size).

    Raises ConfigError if a name is unknown, or if a size refuses the resolution.
    """
    models = {size: functools.partial(size_of, size, remat=remat, resolution=resolution) for size in sizes}
    _check(models, dtypes, only)
    mesh = sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])
    machine, lines = results.describe_machine(), []

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    found: list[Result] = []
    peaks: dict[str, Peaks] = {}
    scalings: list[dict[str, Any]] = []

    def save() -> None:
        if output is not None:
            results.write(output, machine, peaks, found, scalings, "\n".join(lines) + "\n")

    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    with _without_compilation_cache():
        for dtype in dtypes:
            peaks[dtype] = measure_peaks(dtype)
            rate, bandwidth = peaks[dtype].flops / 1e9, peaks[dtype].bandwidth / 1e9
            say(f"\n{dtype}: matrix product {rate:.4g} GFLOP/s, copy {bandwidth:.4g} GB/s")
            if scaling:
                measured = measure_scaling(functools.partial(_seconds_and_flops, repeats, limit), dtype, mesh)
                scalings += [dataclasses.asdict(row) | {"dtype": dtype, "exponent": row.exponent} for row in measured]
                say(scaling_table(measured))
                save()
                continue
            say(results.HEADER)
            for size, make in models.items():
                autoencoder, denoiser = make(dtype)
                small = size == "demo" or jax.default_backend() != "cpu"
                operations = Operations(autoencoder, denoiser, batch_size or (8 if small else 1), mesh, steps or STEPS)
                if steps is None and "sample" in (only or OPERATIONS):
                    operations.steps = _fitting_steps(operations, SLOWEST * peaks[dtype].flops * limit)
                for name in only or OPERATIONS:
                    place = trace and trace / f"{name}_{size}_{dtype}"
                    labels = {"operation": name, "size": size, "dtype": dtype}
                    found.append(_measure(operations, labels, peaks[dtype], repeats, limit, place))
                    say(results.row(found[-1]))
                    save()
    if trace is not None and not scaling:
        say(f"\ntraces of one call each are in {trace}, for XProf, TensorBoard or ui.perfetto.dev")
    save()
    return found


def _check(models: dict[str, Callable], dtypes: Sequence[str], only: Sequence[str] | None) -> None:
    for make in models.values():
        autoencoder, denoiser = make("float32")
        if set(only or OPERATIONS) & {"denoiser", "denoiser_train", "sample"}:
            Config(autoencoder=autoencoder, denoiser=denoiser)  # refuses latents that the denoiser can't downsample
    for dtype in dtypes:
        require(dtype in DTYPES, "--dtype", dtype, f"{', '.join(DTYPES)}, or both separated by a comma")
    for name in only or ():
        allowed = f"{', '.join(OPERATIONS)}, or several of them separated by commas"
        require(name in OPERATIONS, "--only", name, allowed)


@contextlib.contextmanager
def _without_compilation_cache() -> Iterator[None]:
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def _fitting_steps(operations: Operations, flops: float) -> int:
    """The denoising steps of the sampling call: STEPS, or as many as take about half of `flops`; at least 2."""
    if traced_flops(operations.make("sample").trace().jaxpr) <= flops:
        return STEPS
    return max(2, int(flops / traced_flops(operations.make("denoiser").trace().jaxpr) / 2))


def _measure(
    operations: Operations, labels: dict, peaks: Peaks, repeats: int, limit: float, trace: Path | None
) -> Result:
    values = labels | {"batch": operations.batch}
    values |= {"resolution": operations.autoencoder.height, "remat": operations.autoencoder.remat}
    if labels["operation"] == "data":
        return _measure_data(operations, values, repeats, limit)
    operation = operations.make(labels["operation"])
    traced = operation.trace()
    flops = traced_flops(traced.jaxpr)
    least = flops / peaks.flops
    if least > limit:
        return Result(**values, flops=flops, note=f"skipped: at least {least:.0f} s, more than the limit")
    try:
        timing, compiled, seconds = _time(operation, traced, repeats, limit, trace)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Result(**values, flops=flops, note="skipped: not enough memory")
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    new_results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Result(
        **values,
        note=f"{operations.steps} steps" if labels["operation"] == "sample" else "",
        median=timing.median,
        spread=timing.spread,
        calls=len(timing.seconds),
        compile=seconds,
        memory=stats.argument_size_in_bytes + stats.temp_size_in_bytes + new_results,
        flops=flops,
        xla_flops=cost.get("flops"),
        traffic=Program(compiled.as_text()).memory_bytes(),
        of_peak=flops / timing.median / peaks.flops,
    )


def _time(
    operation: Operation, traced: Any, repeats: int, limit: float, trace: Path | None = None
) -> tuple[Timing, Any, float]:
    """Compiles and times an operation. Returns the times of its calls, the compiled program and the seconds that
    compiling took. trace: a folder for a profiler trace of one more call."""
    began = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - began
    arguments = [filled(argument) for argument in operation.arguments]

    def call():
        found = compiled(*arguments)
        if operation.carries_state:
            arguments[0] = found[0]
        return found

    timing = time_calls(call, repeats, limit)
    if trace is not None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # tracing Python functions would slow the call down
        with jax.profiler.trace(trace, profiler_options=options):
            jax.block_until_ready(call())
    return timing, compiled, seconds


def _seconds_and_flops(repeats: int, limit: float, operations: Operations, name: str) -> tuple[float, float]:
    """The median time of an operation's calls, and the FLOPs of one call."""
    operation = operations.make(name)
    traced = operation.trace()
    timing, _, _ = _time(operation, traced, repeats, limit)
    return timing.median, traced_flops(traced.jaxpr)


def _measure_data(operations: Operations, values: dict, repeats: int, limit: float) -> Result:
    """Times the loading of batches of synthetic clips, as for stage 1."""
    try:
        from pvdm_jax.config import DataConfig
        from pvdm_jax.data.loader import train_batches
        from pvdm_jax.data.sources import open_source
        from pvdm_jax.data.streams import BatchSpec

        data = DataConfig(source="synthetic", synthetic_videos=64)
        source = open_source(data, operations.autoencoder, "train", 0)
    except ModuleNotFoundError as error:
        return Result(**values, note=f"skipped: {error.name} is not installed")
    iterator = train_batches(source, operations.autoencoder, data, BatchSpec(operations.batch, seed=0))
    try:
        timing = time_calls(lambda: next(iterator)["video"].shape[0], repeats, limit)
    finally:
        iterator.close()
    timed = {"median": timing.median, "spread": timing.spread, "calls": len(timing.seconds)}
    return Result(**values, **timed, note="synthetic clips")
