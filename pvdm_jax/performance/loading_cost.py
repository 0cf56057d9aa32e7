"""`pvdm benchmark --data`: how fast clips are read and loaded, and whether training waits for them."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, Config, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.loader import train_batches
from pvdm_jax.data.samples import check_not_empty
from pvdm_jax.data.sources import VideoSource, open_source
from pvdm_jax.data.streams import BatchSpec
from pvdm_jax.storage.run_folder import RunFolder, read_metrics


def measure_data(config: Config, steps: int = 100, seconds: float = 10.0, step_seconds: float = 0.0) -> dict[str, Any]:
    """Measures how fast the clips of a configuration are read and loaded. Each measurement takes about `seconds`.

    Returns

    - "frames_per_second" and "clips_per_second", read by one core,
    - "first_batch_seconds", from making the pipeline to its first batch,
    - "loaded_per_second", clips that this process's whole pipeline delivers,
    - "waiting", the fraction of the training time that is spent waiting for the next batch, with steps of
      "step_seconds".

    The training steps are `steps` real updates of stage 1 on these devices, of which the second half is measured. If
    `step_seconds` is given, pauses of that length simulate the steps of an accelerator that is not attached.
    """
    source = open_source(config.data, config.autoencoder, "train", config.seed)
    settings = (config.autoencoder, config.data)
    batches = BatchSpec(config.train_autoencoder.batch_size, config.seed)
    loading = measure_loading(lambda: train_batches(source, *settings, batches), step_seconds, seconds)
    reading = measure_reading(source, *settings, seconds)
    step, waiting = (step_seconds, loading.waiting) if step_seconds else _train(config, steps)
    return {
        "frames_per_second": reading * config.autoencoder.frames,
        "clips_per_second": reading,
        "first_batch_seconds": loading.first_batch_seconds,
        "loaded_per_second": loading.clips_per_second,
        "step_seconds": step,
        "waiting": waiting,
    }


def _train(config: Config, steps: int) -> tuple[float, float]:
    """Trains stage 1 briefly in a temporary folder. Returns the seconds per step, and the fraction spent waiting."""
    from pvdm_jax.training import autoencoder

    half = max(1, steps // 2)
    short = {"steps": 2 * half, "log_every": half, "eval_every": 2 * half, "checkpoint_every": 2 * half}
    stage = dataclasses.replace(config.train_autoencoder, **short, eval_clips=1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        autoencoder.train(dataclasses.replace(config, train_autoencoder=stage), folder)
        reports = read_metrics(RunFolder(folder).autoencoder.metrics)
    logged = [report for report in reports if "time/data_wait" in report][-1]
    return logged["time/step"], logged["time/data_wait"]


def describe(found: dict[str, Any]) -> str:
    """The result of `measure_data` as text."""
    return "\n".join(
        [
            f"reading: {found['clips_per_second']:.1f} clips/s, {found['frames_per_second']:.0f} frames/s per core",
            f"first batch: {found['first_batch_seconds']:.2f} s",
            f"loading: {found['loaded_per_second']:.1f} clips/s",
            f"steps of {found['step_seconds'] * 1000:.0f} ms: {found['waiting']:.1%} of the time is waiting for data",
        ]
    )


@dataclasses.dataclass(frozen=True)
class Loading:
    """Speed of a loading pipeline, measured by `measure_loading`."""

    first_batch_seconds: float  # from making the pipeline to its first batch
    clips_per_second: float  # of this process, when nothing else holds up the pipeline
    waiting: float  # fraction of the time, 0 to 1, that the simulated training steps wait for their batches


def measure_loading(
    batches: Callable[[], Iterator[dict[str, Any]]], step_seconds: float = 0.0, seconds: float = 10.0
) -> Loading:
    """Takes batches as fast as possible for about `seconds`, then with pauses of `step_seconds` for as long again.

    `batches` makes the pipeline, for example `train_batches`. A pause simulates a training step on an accelerator,
    during which the loader has the CPU to itself. `measure_data` takes real steps.
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
) -> float:
    """How many clips one core reads in a second: random windows of random videos, for about `seconds` of CPU time.

    The rate is per second of CPU time, so other programs hardly change it. Raises ValueError if the source is empty.
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
    return count / (time.process_time() - began)
