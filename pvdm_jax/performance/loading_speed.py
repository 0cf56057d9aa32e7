"""How fast clips are read and loaded, and whether training would wait for them."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.samples import check_not_empty
from pvdm_jax.data.sources import VideoSource


@dataclasses.dataclass(frozen=True)
class Loading:
    """Speed of a loading pipeline, measured by `measure_loading`."""

    first_batch_seconds: float  # from making the pipeline to its first batch
    clips_per_second: float  # of this process, when nothing else holds up the pipeline
    waiting: float  # fraction of the time, 0 to 1, that the simulated training steps wait for their batches


@dataclasses.dataclass(frozen=True)
class Reading:
    """Reading speed of one core, measured by `measure_reading`."""

    clips_per_second: float
    frames_per_second: float


def measure_loading(
    batches: Callable[[], Iterator[dict[str, Any]]], step_seconds: float = 0.0, seconds: float = 10.0
) -> Loading:
    """Takes batches as fast as possible for about `seconds`, then with pauses of `step_seconds` for as long again.

    `batches` makes the pipeline, for example `train_batches`. A pause simulates a training step on an accelerator,
    during which the loader has the CPU to itself. `pvdm_jax.performance.loading_cost` measures steps on the CPU.
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
    return Loading(first, rate, waited / total if step_seconds else 0.0)


def measure_reading(
    source: VideoSource, clip: AutoencoderConfig, data: DataConfig, seconds: float = 10.0, seed: int = 0
) -> Reading:
    """Reads random windows of random videos on this thread for about `seconds` of CPU time.

    The rates are per second of CPU time, so other programs hardly change them. Raises ValueError if the source is
    empty.
    """
    check_not_empty(len(source))
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
