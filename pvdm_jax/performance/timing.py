"""Timing calls, and the peaks that this device reaches."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

PEAK_SECONDS = 1.0  # for each of the two peaks


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each timed call."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range over the median; with fewer than four calls, the whole range over the median."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median


def time_calls(call: Callable[[], Any], repeats: int, limit: float) -> Timing:
    """Times one to `repeats` calls of a function, including their results, within about `limit` seconds.

    The first call warms up and is not timed, unless it alone takes more than half of the limit.
    """
    seconds: list[float] = []
    began = time.perf_counter()
    for number in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        now = time.perf_counter()
        if number or now - start > limit / 2:
            seconds.append(now - start)
        if seconds and now - began + seconds[-1] > limit:
            break
    return Timing(tuple(seconds))


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The peaks that this device reached."""

    flops: float  # FLOPs per second of a matrix product
    bandwidth: float  # bytes per second of a copy


def measure_peaks(dtype: str) -> Peaks:
    """Measures square matrix products of growing size in `dtype`, with float32 sums, and copies of an array too large
    for any cache. Each of the two takes about PEAK_SECONDS."""

    @jax.jit
    def product(a, b):
        return jax.numpy.matmul(a, b, preferred_element_type=jax.numpy.float32).astype(a.dtype)

    best, size = 0.0, 1024
    while size <= 16384:
        a = jax.numpy.full((size, size), 0.5, dtype)
        timing = time_calls(lambda a=a: product(a, a), repeats=20, limit=PEAK_SECONDS / 2)
        best = max(best, 2 * size**3 / min(timing.seconds))
        if 8 * min(timing.seconds) > PEAK_SECONDS / 2:
            break
        size *= 2
    elements = 2**26 if jax.default_backend() == "cpu" else 2**28
    x = jax.numpy.ones(elements, "float32")
    copy = jax.jit(lambda x: x + 1)
    timing = time_calls(lambda: copy(x), repeats=20, limit=PEAK_SECONDS)
    return Peaks(flops=best, bandwidth=2 * x.nbytes / min(timing.seconds))
