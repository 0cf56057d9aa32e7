"""The benchmark's results: a row of the table for each, and the files that are written."""

import dataclasses
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib

from pvdm_jax.performance.roofline import roofline_svg
from pvdm_jax.performance.timing import Peaks
from pvdm_jax.storage.files import write_json


@dataclasses.dataclass(frozen=True)
class Result:
    """One operation at one size, in seconds, bytes and FLOPs; None where a value is not known."""

    operation: str
    size: str
    dtype: str
    batch: int
    resolution: int  # height and width in pixels
    remat: str
    note: str = ""  # why the operation was skipped, or what is special about it
    median: float | None = None
    spread: float | None = None  # distance of the quartiles over the median
    calls: int = 0
    compile: float | None = None
    memory: float | None = None  # arguments, results and temporaries of the compiled program
    flops: float | None = None  # of the traced program
    xla_flops: float | None = None  # XLA's own count, in which a loop's body counts once
    traffic: float | None = None  # bytes of memory that the compiled program reads and writes
    of_peak: float | None = None  # fraction of the measured matrix rate


HEADER = "\n".join(
    [
        "| operation | size | batch | median | spread | calls | compile | memory | GFLOP | of peak | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
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
        shown(result.of_peak, ".0%"),
        result.note,
    ]
    return f"| {' | '.join(columns)} |"


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
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


def write(
    folder: Path,
    machine: Mapping[str, Any],
    peaks: Mapping[str, Peaks],
    results: Sequence[Result],
    scalings: Sequence[Mapping[str, Any]],
    text: str,
) -> None:
    """Writes benchmark.json, benchmark.txt (`text`, as printed) and a roofline picture of each dtype into `folder`."""
    values = {
        "machine": machine,
        "peaks": {dtype: dataclasses.asdict(peak) for dtype, peak in peaks.items()},
        "results": [dataclasses.asdict(result) for result in results],
        "scaling": scalings,
    }
    write_json(folder / "benchmark.json", values)
    (folder / "benchmark.txt").write_text(text)
    for dtype, peak in peaks.items():
        points = [
            (f"{result.operation} {result.size}", result.flops / result.traffic, result.flops / result.median)
            for result in results
            if result.dtype == dtype and result.traffic and result.median and result.flops
        ]
        if points:
            title = f"{machine['device']}, {dtype}, batch {results[0].batch}"
            picture = roofline_svg(title, peak.flops, peak.bandwidth, points)
            (folder / f"roofline_{dtype}.svg").write_text(picture, encoding="utf-8")
