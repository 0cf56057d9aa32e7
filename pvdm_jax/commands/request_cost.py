"""The disk space and the time that a request for videos takes, reported before the work begins.

Both are estimates. How well a video compresses depends on what it shows. The sizes assume clips with few details, and a
request is refused only if even those don't fit.
"""

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from pvdm_jax.commands.output_folder import is_finished
from pvdm_jax.config import AutoencoderConfig, ConfigError
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.inference.sampler import clips_of
from pvdm_jax.storage.files import format_bytes

BYTES_PER_PIXEL = {"mp4": 0.05, "gif": 0.3, "png": 1.0, "npz": 1.0}
WORTH_SAYING = 10**9  # bytes
MANY_CALLS = 200  # calls of the sampler, each for a clip of a batch; from here on the time is measured, by four calls


def check_disk(
    output: Path, paths: Collection[Path], *, frames: int, clip: AutoencoderConfig, formats: Sequence[str]
) -> None:
    """Prints how much space the videos at `paths` (without suffix) need, if it is much.

    Videos that exist already are not counted. Raises ConfigError if the disk can't hold the others.
    """
    missing = sum(not is_finished(path, formats) for path in paths) if output.exists() else len(paths)
    pixels = missing * frames * clip.height * clip.width
    needed = sum(BYTES_PER_PIXEL[name] for name in formats) * pixels
    free = shutil.disk_usage(next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())).free
    text = f"{missing:,} videos of {frames:,} frames in {', '.join(formats)} take about {format_bytes(needed)}"
    if needed > free:
        raise ConfigError(
            f"{text}, and {output} has {format_bytes(free)} left: ask for fewer, or name a folder elsewhere"
        )
    if needed > WORTH_SAYING:
        print(f"{text}; {format_bytes(free)} are free")


def say_time(
    model: PVDM, key: jax.Array, *, videos: int, frames: int, batch_size: int, options: Mapping[str, Any]
) -> None:
    """Measures and prints how long sampling will take, if it takes many calls of the sampler."""
    clips = clips_of(model.config, frames)
    calls = -(-videos // batch_size) * clips
    if calls < MANY_CALLS:
        return
    few = min(2, clips)
    length = few * model.config.autoencoder.frames

    def run() -> float:
        began = time.perf_counter()
        for _ in model.stream(key, batch_size, length, indices=range(batch_size), **options):
            pass
        return time.perf_counter() - began

    run()  # compiles
    seconds = run() / few * calls
    if jax.process_index() == 0:
        print(f"sampling {videos:,} videos of {frames:,} frames will take about {_duration(seconds)} on this machine")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
