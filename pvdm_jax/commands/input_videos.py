"""Video files as a model's clips: found, read, cropped and resized, for `pvdm extend`, `interpolate`, `reconstruct`."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pvdm_jax.config import Config
from pvdm_jax.data.clips import center_crop_resize, clip_span, resample
from pvdm_jax.video import media

DEFAULT_FPS = 8.0  # frames per second where no source says otherwise


@dataclasses.dataclass(frozen=True)
class Original:
    """Clips of one video file."""

    path: Path
    name: str  # of the files made from it, without suffix
    clips: np.ndarray  # uint8 (clips, frames, height, width, 3), one following the other
    fps: float  # of the clips


def find_videos(sources: Sequence[Path]) -> list[Path]:
    """The files among `sources`, and the video files anywhere below the folders among them, in order.

    Below folders, hidden files and those of other suffixes than `pvdm prepare` takes are left out. Raises
    FileNotFoundError where a source doesn't exist, VideoError where there is no video file at all.
    """
    paths: list[Path] = []
    for source in sources:
        if source.is_dir():
            paths += media.video_files(source)
        elif source.exists():
            paths.append(source)
        else:
            raise FileNotFoundError(f"there is no file or folder {source}")
    if not paths:
        raise media.VideoError(f"{', '.join(map(str, sources))}: no video file ({', '.join(media.SUFFIXES)}) in it")
    return paths


def read_usable(
    paths: Sequence[Path], config: Config, num_clips: int, from_end: bool, skipped: list[dict]
) -> Iterator[Original]:
    """Reads the sources one by one; the unusable ones are named on stderr and added to `skipped`. VideoError if all of
    them are."""
    names: set[str] = set()
    for path in paths:
        try:
            clips, fps = read_clips(path, config, num_clips, from_end)
        except (media.VideoError, OSError) as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped.append({"source": str(path), "reason": str(error)})
            continue
        name = path.stem
        while name in names:  # a.avi beside a.mp4
            name += "_"
        names.add(name)
        yield Original(path, name, clips, fps)
    if not names:
        raise media.VideoError(f"none of the {len(paths)} files can be used; the first: {skipped[0]['reason']}")


def read_clips(path: Path, config: Config, num_clips: int, from_end: bool) -> tuple[np.ndarray, float]:
    """At most `num_clips` clips in a row from one end of a file, at the frame rate and stride of the model's data, and
    the frame rate of the clips."""
    clip, data = config.autoencoder, config.data
    info = media.probe_video(path)
    fps = info.fps if info.fps > 0 else DEFAULT_FPS
    shown = resample(info.frames, fps, data.fps) if data.fps > 0 else range(info.frames)
    span = clip_span(clip.frames, data.stride)
    num_clips = min(num_clips, len(shown) // span)
    if num_clips == 0:
        raise media.VideoError(f"{path}: it has {len(shown)} frames; a clip of the model needs {span}")
    first = len(shown) - num_clips * span if from_end else 0
    clips = []
    for start in range(first, first + num_clips * span, span):
        # Clip by clip, so that no more than one clip is in memory at the file's own size.
        numbers = shown[start : start + span : data.stride]
        if isinstance(numbers, range):
            frames = media.read_video(path, numbers.start, len(numbers), data.stride)
        else:
            frames = media.decode_frames(path.read_bytes(), numbers, name=str(path))
        clips.append(center_crop_resize(frames, clip.height, clip.width, data.resize))
    return np.stack(clips), (data.fps or fps) / data.stride


def in_batches(originals: Iterator[Original], size: int) -> Iterator[list[Original]]:
    batch: list[Original] = []
    for original in originals:
        batch.append(original)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
