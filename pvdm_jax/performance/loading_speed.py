"""How fast clips are read, and whether training would wait for them."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.sources import VideoSource


@dataclasses.dataclass(frozen=True)
class Loading:
    """What `measure_loading` found."""

    first_batch_seconds: float  # from asking for the pipeline to having its first batch
    clips_per_second: float  # of this process, taken as fast as they come
    step_seconds: float  # of the imagined step
    waiting: float  # part of the time, 0 to 1, that such steps wait for their batches


@dataclasses.dataclass(frozen=True)
class Reading:
    """What `measure_reading` found: speeds of one core."""

    clips_per_second: float
    frames_per_second: float


def measure_loading(
    batches: Callable[[], Iterator[dict[str, Any]]], step_seconds: float = 0.0, seconds: float = 10.0
) -> Loading:
    """Takes batches for about `seconds` as fast as they come, and as long again with pauses of `step_seconds` between.

    `batches` makes the pipeline (of `train_batches`, say). The pause stands for a training step on an accelerator: it
    leaves the CPU to the loader. Steps that run on the CPU too are measured by `pvdm_jax.performance.loading_cost`.
    """
    began = time.perf_counter()
    iterator = batches()
    try:
        clips = len(next(iter(next(iterator).values())))
        first = time.perf_counter() - began
        count, began = 0, time.perf_counter()
        while count < 3 or time.perf_counter() - began < seconds:
            next(iterator)
            count += 1
        rate = count * clips / (time.perf_counter() - began)
        count, waited, began = 0, 0.0, time.perf_counter()
        while step_seconds and (count < 3 or time.perf_counter() - began < seconds):
            asked = time.perf_counter()
            next(iterator)
            waited += time.perf_counter() - asked
            time.sleep(step_seconds)
            count += 1
        total = time.perf_counter() - began
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
    return Loading(first, rate, step_seconds, waited / total if step_seconds else 0.0)


def measure_reading(
    source: VideoSource, clip: AutoencoderConfig, data: DataConfig, seconds: float = 10.0, seed: int = 0
) -> Reading:
    """Reads random windows of random videos on this thread for about `seconds` of the CPU's time.

    The rates are per second of that time, so other programs hardly change them. Raises ValueError for an empty source.
    """
    if len(source) == 0:
        raise ValueError("the source is empty: there is nothing to read")
    rng, span = np.random.default_rng(seed), clip_span(clip.frames, data.stride)

    def read() -> None:
        video = source[int(rng.integers(len(source)))]
        video.read(int(rng.integers(video.frames - span + 1)), clip.frames, data.stride)

    read()  # opens files and imports decoders
    count, began = 0, time.process_time()
    while count < 3 or time.process_time() - began < seconds:
        read()
        count += 1
    rate = count / (time.process_time() - began)
    return Reading(rate, rate * clip.frames)
