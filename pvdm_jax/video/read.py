"""Reading videos with PyAV (FFmpeg), frame-exactly: frame k is the k-th frame of a decode of the whole file, even if
decoding starts at a key frame.
"""

import dataclasses
import itertools
import math
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pvdm_jax.video.container import Source, from_first_key, open_video, source_name
from pvdm_jax.video.damage import DamageCheck
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image
from pvdm_jax.video.orientation import frame_array
from pvdm_jax.video.timing import frame_timing

Transform = Callable[[np.ndarray], np.ndarray]  # of one frame


class _NotSeekable(Exception):
    """The file's time stamps don't determine frame numbers, so it has to be decoded from its start."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, as shown (after the rotation that phones write into their files)."""

    frames: int
    height: int  # pixels
    width: int  # pixels
    fps: float  # mean frame rate; 0 if the file doesn't say
    times: tuple[float, ...] | None = None  # seconds from the first frame to each; None: frame k is shown at k / fps


def probe_video(source: Source, name: str = "the video") -> VideoInfo:
    """Decodes the whole file, so that every frame that is counted can be read later.

    Raises VideoError if the file isn't a video, is damaged, cut off or has no frame, FileNotFoundError if it doesn't
    exist.
    """
    name = source_name(source, name)
    with open_video(source, name, strict=True) as (container, stream):
        check = DamageCheck(source, container, stream, name)
        stamps: list[float | None] = []
        first = None
        for packet in from_first_key(map(check.packet, container.demux()), stream):
            if packet.stream.index != stream.index:  # packet.stream_index is wrong in the last, empty one
                continue
            for frame in packet.decode():
                first = first or frame
                check.frame(frame, len(stamps))
                if (frame.height, frame.width) != (first.height, first.width):
                    raise VideoError(f"{name}: its frames change their size")
                stamps.append(frame.time)
        if first is None:
            raise VideoError(f"{name}: it holds no frame")
        header_rate = float(stream.average_rate or stream.guessed_rate or 0)
        fps, times = frame_timing(stamps, header_rate, float(stream.time_base or 0))
        check.end(fps)
        height, width = frame_array(first).shape[:2]
        return VideoInfo(len(stamps), height, width, fps, times)


def decode_frames(
    source: Source,
    numbers: Sequence[int],
    name: str = "the video",
    transform: Transform | None = None,
    total: int | None = None,
) -> np.ndarray:
    """The frames with these numbers, in any order and with repetitions, of a file or of its bytes.

    name: the name of bytes in errors. transform: applied to each frame (h, w, 3) as it is decoded, so that large frames
    aren't all held at once. total: the number of frames that `probe_video` counted. With it, decoding can start at the
    last key frame before the first requested frame. Without it, it is not known which frames of the file can be
    decoded, so decoding starts at the beginning. The file is decoded once, and not beyond the last requested frame.

    Returns uint8 (len(numbers), height, width, 3). Raises VideoError if the file isn't a video or has too few frames,
    FileNotFoundError if it doesn't exist.
    """
    name = source_name(source, name)
    wanted = np.unique(np.asarray(numbers, np.int64)).tolist()
    if not wanted or wanted[0] < 0:
        raise ValueError(f"{name}: frames {list(numbers)[:5]} are asked for; at least one, and none below 0, is needed")
    frames = _read_numbers(source, name, wanted, transform, total)
    if len(frames) < len(wanted):
        missing = f"there is no frame {wanted[-1]}; from frame {wanted[0]} on only {len(frames)} could be read"
        raise VideoError(f"{name}: {missing}")
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(f"{name}: its frames change their size")
    found = np.stack(frames)
    return found if np.array_equal(wanted, numbers) else found[np.searchsorted(wanted, numbers)]


def video_frames(source: Source, name: str = "the video") -> Iterator[np.ndarray]:
    """All frames of a file one by one, as uint8 (height, width, 3).

    Raises VideoError if the file isn't a video, changes its size or has no frame.
    """
    name = source_name(source, name)
    shape = None
    with open_video(source, name) as (container, stream):
        for frame in _all_frames(container, stream):
            array = frame_array(frame)
            shape = shape or array.shape
            if array.shape != shape:
                raise VideoError(f"{name}: its frames change their size")
            yield array
    if shape is None:
        raise VideoError(f"{name}: it holds no frame")


def first_frames(path: pathlib.Path, count: int) -> np.ndarray:
    """The first `count` frames (fewer if the video is shorter) of a video in one of the formats of `write`.

    No other frames are read. `path` is a video file, an .npz file or a folder of pictures. Returns uint8 (t, h, w, 3).
    """
    if path.is_dir():
        files = sorted(path.glob("frame_*.png"))[:count]
        return np.stack([decode_image(file.read_bytes(), str(file)) for file in files])
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive, archive.open("video.npy") as file:
            np.lib.format.read_magic(file)
            (frames, *size), _, _ = np.lib.format.read_array_header_1_0(file)
            shape = (min(frames, count), *size)
            return np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
    return np.stack(list(itertools.islice(video_frames(path), count)))


def _read_numbers(
    source: Source, name: str, numbers: Sequence[int], transform: Transform | None, total: int | None
) -> list[np.ndarray]:
    """The frames with these ascending numbers, as far as there are any."""
    if numbers[0] > 0 and total is not None:
        try:
            frames = _decode(source, name, numbers, transform, total)
        except (_NotSeekable, VideoError):  # a seek can fail, or end where decoding fails
            frames = []
        if len(frames) == len(numbers):
            return frames
    return _decode(source, name, numbers, transform, None)


def _decode(
    source: Source, name: str, numbers: Sequence[int], transform: Transform | None, total: int | None
) -> list[np.ndarray]:
    """The frames with these ascending numbers, decoded from the start or, with `total`, from a key frame."""
    frames = []
    upcoming = iter(numbers)
    wanted = next(upcoming)
    with open_video(source, name) as (container, stream):
        numbered = (
            enumerate(_all_frames(container, stream)) if total is None else _seek(container, stream, numbers[0], total)
        )
        for number, frame in numbered:
            if number == wanted:
                array = frame_array(frame)
                frames.append(transform(array) if transform else array)
                wanted = next(upcoming, None)
                if wanted is None:
                    break
    return frames


def _all_frames(container, stream) -> Iterator[Any]:
    """Every frame of PyAV's that can be decoded."""
    for packet in from_first_key(container.demux(stream), stream):
        yield from packet.decode()


def _seek(container, stream, start: int, total: int) -> Iterator[tuple[int, object]]:
    """(number, frame) from the last key frame at or before frame `start` on.

    Reading all packets without decoding them gives their time stamps, and thus the key frame's number in display order,
    if each packet becomes a frame. Raises _NotSeekable if there are not `total` packets, as in a recording that doesn't
    begin with a key frame; if time stamps are missing; or if a decoded frame's time stamp doesn't match its number.
    """
    packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size > 0 and not p.is_discard]
    times = {time for time, _ in packets}
    if None in times or len(times) != total or len(packets) != total:
        raise _NotSeekable
    times = sorted(times)
    if start >= total:
        return
    key = max((time for time, is_key in packets if is_key and time <= times[start]), default=None)
    if key is None:
        raise _NotSeekable
    container.seek(key, stream=stream)
    first = times.index(key)
    for number, frame in enumerate(container.decode(stream), first):
        if number >= total or frame.pts != times[number]:
            raise _NotSeekable
        yield number, frame
