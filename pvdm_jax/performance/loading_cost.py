"""What reading, decoding and loading clips costs, and whether training waits for it: `pvdm benchmark --data`."""

import dataclasses
import tempfile
from typing import Any

from pvdm_jax.config import Config
from pvdm_jax.data.loader import train_batches
from pvdm_jax.data.sources import open_source
from pvdm_jax.data.streams import BatchSpec
from pvdm_jax.performance.loading_speed import measure_loading, measure_reading
from pvdm_jax.storage.run_folder import RunFolder, read_metrics


def measure_data(config: Config, steps: int = 100, seconds: float = 10.0, step_seconds: float = 0.0) -> dict[str, Any]:
    """Measures a configuration's data, each thing for about `seconds`.

    Returns "frames_per_second" and "clips_per_second" that one core reads, "first_batch_seconds" from asking for the
    pipeline to its first batch, "loaded_per_second" clips of this process's whole pipeline, and "waiting", the part of
    a training step, of "step_seconds" each, that goes by in waiting for the next batch. The steps are real ones:
    `steps` updates of stage 1 on these devices, of which the second half counts; or, if `step_seconds` is given, pauses
    of that length, which stand for an accelerator that isn't here.
    """
    source = open_source(config.data, config.autoencoder, "train", config.seed)
    settings = (config.autoencoder, config.data)
    batches = BatchSpec(config.train_autoencoder.batch_size, config.seed)
    loading = measure_loading(lambda: train_batches(source, *settings, batches), step_seconds, seconds)
    reading = measure_reading(source, *settings, seconds)
    step, waiting = (step_seconds, loading.waiting) if step_seconds else _train(config, steps)
    return {
        "frames_per_second": reading.frames_per_second,
        "clips_per_second": reading.clips_per_second,
        "first_batch_seconds": loading.first_batch_seconds,
        "loaded_per_second": loading.clips_per_second,
        "step_seconds": step,
        "waiting": waiting,
    }


def _train(config: Config, steps: int) -> tuple[float, float]:
    """Seconds of a step of stage 1 and the part of it that is waiting, by a short run in a folder that is removed."""
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
    """`measure_data`'s result in words."""
    return "\n".join(
        [
            f"reading: {found['clips_per_second']:.1f} clips/s, {found['frames_per_second']:.0f} frames/s per core",
            f"first batch: {found['first_batch_seconds']:.2f} s",
            f"loading: {found['loaded_per_second']:.1f} clips/s",
            f"steps of {found['step_seconds'] * 1000:.0f} ms: {found['waiting']:.1%} of the time is waiting for data",
        ]
    )
