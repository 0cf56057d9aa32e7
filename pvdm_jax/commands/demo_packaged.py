"""What `pvdm demo` shows before it has trained anything: videos of the packaged model of moving shapes."""

import dataclasses

import numpy as np

from pvdm_jax.commands.demo_clips import BATCH, LONG_CLIPS, sample_videos
from pvdm_jax.inference.loading import load
from pvdm_jax.reporting.sections import Section, Text, Videos
from pvdm_jax.video.defaults import DEFAULT_FPS
from pvdm_jax.weights.packaged import FOLDER, packaged_names

NAME = "shapes"
SHOWN_LONG = 4
SHOWN = 2 * SHOWN_LONG  # clips; the long videos begin with the first of them


@dataclasses.dataclass(frozen=True)
class PackagedVideos:
    """Clips and long videos of the packaged model, uint8 (n, frames, height, width, 3)."""

    classes: list[str]  # of the clips
    clips: np.ndarray
    long: np.ndarray


def packaged_videos() -> PackagedVideos | None:
    """Videos that the packaged model generates, its classes in turn; None if this version has no such model."""
    if NAME not in packaged_names():
        return None
    # By its path: the current directory may have an unrelated folder of that name.
    model = load(FOLDER / NAME)
    classes = [i % len(model.class_names) for i in range(BATCH)]
    frames = model.config.autoencoder.frames
    # More than are shown: the demo's own model, which is like this one, needs the same compiled programs.
    videos = sample_videos(model, BATCH, LONG_CLIPS * frames, labels=classes, batch=BATCH)
    return PackagedVideos(
        [model.class_names[i] for i in classes[:SHOWN]], clips=videos[:SHOWN, :frames], long=videos[:SHOWN_LONG]
    )


def packaged_sections(videos: PackagedVideos, first: bool) -> list[Section]:
    """The report's sections about these videos. first: whether the report has nothing else yet."""
    now = " The demo is training a model of its own now; its report takes the place of this one." if first else ""
    return [
        Text(
            f"This model comes with the package (`pvdm sample --model={NAME} --output=out`) and was trained by the "
            f"same commands.{now}",
            heading="The packaged model",
        ),
        Videos("Clips of the packaged model", list(zip(videos.classes, videos.clips, strict=True)), DEFAULT_FPS),
        Videos(
            f"Long videos of the packaged model: {LONG_CLIPS} clips, each generated from the previous clip",
            [(f"{videos.long.shape[1]} frames", video) for video in videos.long],
            DEFAULT_FPS,
        ),
    ]
