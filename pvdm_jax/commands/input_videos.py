"""Video files as clips for a model: listed, read, cropped and resized for `pvdm extend`, `interpolate` and
`reconstruct`.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pvdm_jax.config import Config
from pvdm_jax.config.checks import one_line
from pvdm_jax.config.data import MAX_FPS, MIN_FPS
from pvdm_jax.data.clips import center_crop_resize, clip_span, resample
from pvdm_jax.video.defaults import DEFAULT_FPS
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import VIDEO_SUFFIXES, shown, video_files
from pvdm_jax.video.read import decode_frames, probe_video

MAX_NAME_BYTES = 200  # of an output file's name, without suffix: temporary names are longer, and systems allow 255


@dataclasses.dataclass(frozen=True)
class InputVideo:
    """Consecutive clips of one video file."""

    path: Path
    name: str  # of the files made from it, without suffix
    clips: np.ndarray  # uint8 (clips, frames, height, width, 3)
    fps: float  # of the clips


def list_video_files(sources: Sequence[Path]) -> list[Path]:
    """The files among `sources`, and the video files anywhere below the folders among them, in order.

    Below folders, hidden files and files with other suffixes are skipped; videos that can't be read are named on
    stderr. Raises FileNotFoundError if a source doesn't exist, VideoError if there is no video file at all.
    """
    paths: list[Path] = []
    for source in sources:
        if source.is_dir():
            found, problems = video_files(source)
            paths += found
            for name, reason in problems.items():
                print(one_line(f"skipped: {source / name}: {reason}"), file=sys.stderr)
        elif os.path.lexists(source):
            paths.append(source)
        else:
            raise FileNotFoundError(f"there is no file or folder {source}")
    if not paths:
        raise VideoError(f"{', '.join(map(str, sources))}: no video file ({', '.join(VIDEO_SUFFIXES)}) in it")
    return paths


def read_usable(
    paths: Sequence[Path], config: Config, num_clips: int, *, from_end: bool, skipped: list[dict]
) -> Iterator[InputVideo]:
    """Reads files one by one, as `read_clips` does. Unusable files are reported on stderr and appended to `skipped`.

    Raises VideoError if none of the files is usable.
    """
    names: set[str] = set()
    for path in paths:
        try:
            clips, fps = read_clips(path, config, num_clips, from_end=from_end)
        except (VideoError, OSError) as error:
            print(one_line(f"skipped: {error}"), file=sys.stderr)
            skipped.append({"source": shown(path), "reason": str(error)})
            continue
        name = _output_name(path)
        while name in names:  # a.avi beside a.mp4
            name += "_"
        names.add(name)
        yield InputVideo(path, name, clips, fps)
    if not names:
        raise VideoError(f"none of the {len(paths)} files can be used; the first: {skipped[0]['reason']}")


def _output_name(path: Path) -> str:
    """The name of the files made from a video: the video's own, changed if it would hide them or leave the folder."""
    name = path.stem.lstrip(".") or "video"
    while len(os.fsencode(name)) > MAX_NAME_BYTES:
        name = name[:-1]
    return name


def read_clips(path: Path, config: Config, num_clips: int, *, from_end: bool) -> tuple[np.ndarray, float]:
    """Reads consecutive clips from the start or the end of a file, at the frame rate and stride of the model's data.

    Returns:
        At most `num_clips` clips, uint8 (clips, frames, height, width, 3), and their frame rate.

    Raises VideoError if the file isn't a video or is too short for one clip.
    """
    clip = config.autoencoder
    data = config.data
    info = probe_video(path)
    fps = info.fps if info.fps > 0 else DEFAULT_FPS
    places = resample(info.frames, fps, data.fps, info.times) if data.fps > 0 else range(info.frames)
    span = clip_span(clip.frames, data.stride)
    num_clips = min(num_clips, len(places) // span)
    if num_clips == 0:
        raise VideoError(f"{shown(path)}: it has {len(places)} frames; a clip of the model needs {span}")
    first = len(places) - num_clips * span if from_end else 0
    numbers = places[first : first + num_clips * span : data.stride]

    def fit(frame: np.ndarray) -> np.ndarray:
        return center_crop_resize(frame[None], clip.height, clip.width, data.resize)[0]

    # The frames are resized as they are decoded, so that no more than one is in memory at the file's own size.
    frames = decode_frames(path, numbers, transform=fit, total=info.frames)
    rate = min(max((data.fps or fps) / data.stride, MIN_FPS), MAX_FPS)
    return frames.reshape(num_clips, clip.frames, *frames.shape[1:]), rate


def in_batches(videos: Iterator[InputVideo], size: int) -> Iterator[list[InputVideo]]:
    """Groups videos into lists of `size`; the last one may be shorter."""
    batch: list[InputVideo] = []
    for video in videos:
        batch.append(video)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
