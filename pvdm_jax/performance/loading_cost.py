"""`pvdm benchmark --data`: how fast clips are read and loaded, and whether training waits for them."""

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
        "frames_per_second": reading.frames_per_second,
        "clips_per_second": reading.clips_per_second,
        "first_batch_seconds": loading.first_batch_seconds,
        "loaded_per_second": loading.clips_per_second,
        "step_seconds": step,
        "waiting": waiting,
    }


def _train(config: Config, steps: int) -> tuple[float, float]:
    """Trains stage 1 briefly in a temporary folder: seconds of a step, and the fraction of it that is waiting."""
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
