"""Reading videos with PyAV (FFmpeg), frame-exactly: frame i is the i-th frame that the file shows, wherever decoding
starts.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import pathlib
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image

VIDEO_SUFFIXES = (".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm")  # of the files that count as videos in a folder

Source = bytes | str | os.PathLike  # the bytes of a file, or its path
Transform = Callable[[np.ndarray], np.ndarray]  # of one frame

# Each thread has a reformatter of its own: making one per frame halves the speed, and threads that share one mix up
# their pictures.
_local = threading.local()


class _NotSeekable(Exception):
    """The file's time stamps don't tell frame numbers; it has to be decoded from its start."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, as shown (after the rotation that phones write into their files)."""

    frames: int
    height: int  # pixels
    width: int  # pixels
    fps: float  # 0 if the file doesn't say


def video_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The video files anywhere below a folder, sorted by path, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def read_video(path: str | os.PathLike, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
    """Reads frames start, start + stride, ... of a file: `count` of them, or all (None).

    Decoding starts at the last key frame before `start`.

    Returns:
        uint8 (count, height, width, 3).

    Raises VideoError if the file isn't a video or has too few frames, OSError if it doesn't exist.
    """
    return _read_every(path, str(path), start, count, stride)


def decode_video(
    data: bytes,
    start: int = 0,
    count: int | None = None,
    stride: int = 1,
    name: str = "the video",
    transform: Transform | None = None,
) -> np.ndarray:
    """`read_video` from the bytes of a file, which errors call `name`.

    `transform` is applied to each frame (h, w, 3) as it is decoded, so that large frames aren't all held at once.
    """
    return _read_every(data, name, start, count, stride, transform)


def decode_frames(
    data: bytes, numbers: Sequence[int], name: str = "the video", transform: Transform | None = None
) -> np.ndarray:
    """The frames with these numbers, in any order and with repetitions; otherwise like `decode_video`."""
    wanted = np.unique(np.asarray(numbers, np.int64))
    if len(wanted) == 0 or wanted[0] < 0:
        raise ValueError(f"{name}: frames {list(numbers)[:5]} are asked for; at least one, and none below 0, is needed")
    frames = _read_numbers(data, name, wanted.tolist(), transform)
    if len(frames) < len(wanted):
        raise _missing_frame(name, number=int(wanted[-1]), start=int(wanted[0]), found=len(frames))
    frames = _stack(frames, name)
    return frames if np.array_equal(wanted, numbers) else frames[np.searchsorted(wanted, numbers)]


def video_frames(source: Source, name: str = "the video") -> Iterator[np.ndarray]:
    """All frames of a file one by one, as uint8 (height, width, 3). Raises what `probe_video` raises."""
    name = _name(source, name)
    shape = None
    with _open(source, name) as (container, stream):
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            array = _to_array(frame)
            shape = shape or array.shape
            if array.shape != shape:
                raise VideoError(f"{name}: its frames change their size")
            yield array
    if shape is None:
        raise VideoError(f"{name}: it holds no frame")


def first_frames(path: pathlib.Path, count: int) -> np.ndarray:
    """The first `count` frames (fewer if the video is shorter) of a video in one of the formats of `write`.

    Only these are read. `path` is a video file, an .npz or a folder of pictures. Returns uint8 (t, h, w, 3).
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


def frame_rate(source: Source, name: str = "the video") -> float:
    """Frames per second according to the file, 0 if it doesn't say."""
    with _open(source, _name(source, name)) as (_, stream):
        return _frame_rate(stream)


def probe_video(source: Source, name: str = "the video") -> VideoInfo:
    """Decodes the whole file, so that every frame that is counted can be read later.

    Raises VideoError if the file isn't a video, is damaged or has no frame, OSError if it doesn't exist.
    """
    name = _name(source, name)
    with _open(source, name) as (container, stream):
        stream.thread_type = "AUTO"
        frames = 0
        first = None
        for frame in container.decode(stream):
            frames += 1
            first = first or frame
        if first is None:
            raise VideoError(f"{name}: it holds no frame")
        height, width = _to_array(first).shape[:2]
        return VideoInfo(frames, height, width, _frame_rate(stream))


def _name(source: Source, name: str) -> str:
    """How errors call the source: a file by its path, bytes by the given name."""
    return name if isinstance(source, bytes) else str(source)


def _frame_rate(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


@contextlib.contextmanager
def _open(source: Source, name: str) -> Iterator[tuple]:
    """The opened container and its video stream. What PyAV raises inside the context becomes a VideoError."""
    import av

    if len(source) == 0 if isinstance(source, bytes) else os.path.getsize(source) == 0:
        raise VideoError(f"{name}: the file is empty")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with av.open(file) as container:
            if not container.streams.video:
                raise VideoError(f"{name}: there is no video in it")
            yield container, container.streams.video[0]
    except (av.FFmpegError, UnicodeError) as error:  # the latter for titles in an unknown encoding
        raise VideoError(f"{name}: it can't be decoded ({getattr(error, 'strerror', error)})") from error


def _read_every(
    source: Source, name: str, start: int, count: int | None, stride: int, transform: Transform | None = None
) -> np.ndarray:
    """Every stride-th frame from `start` on, `count` of them or all."""
    if start < 0 or stride < 1 or (count is not None and count < 1):
        raise ValueError(
            f"{name}: start={start}, count={count}, stride={stride}; start is at least 0, the others at least 1"
        )
    numbers = range(start, sys.maxsize if count is None else start + count * stride, stride)
    frames = _read_numbers(source, name, numbers, transform)
    if len(frames) < (count or 1):
        last = start if count is None else numbers[-1]
        raise _missing_frame(name, number=last, start=start, found=len(frames))
    return _stack(frames, name)


def _missing_frame(name: str, number: int, start: int, found: int) -> VideoError:
    return VideoError(f"{name}: there is no frame {number}; from frame {start} on only {found} could be read")


def _stack(frames: list[np.ndarray], name: str) -> np.ndarray:
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(f"{name}: its frames change their size")
    return np.stack(frames)


def _read_numbers(source: Source, name: str, numbers: Sequence[int], transform: Transform | None) -> list[np.ndarray]:
    """The frames with these ascending numbers, as far as there are any."""
    try:
        return _decode(source, name, numbers, transform, seek=numbers[0] > 0)
    except _NotSeekable:
        return _decode(source, name, numbers, transform, seek=False)


def _decode(
    source: Source, name: str, numbers: Sequence[int], transform: Transform | None, *, seek: bool
) -> list[np.ndarray]:
    frames = []
    upcoming = iter(numbers)
    wanted = next(upcoming)
    with _open(source, name) as (container, stream):
        # The loader decodes many videos at a time; more threads for each would only get in each other's way.
        stream.codec_context.thread_count = 1
        numbered = _seek(container, stream, numbers[0]) if seek else enumerate(container.decode(stream))
        for number, frame in numbered:
            if number == wanted:
                array = _to_array(frame)
                frames.append(transform(array) if transform else array)
                wanted = next(upcoming, None)
                if wanted is None:
                    break
    return frames


def _seek(container, stream, start: int) -> Iterator[tuple[int, object]]:
    """(number, frame) from the last key frame at or before frame `start` on.

    Reading all packets without decoding them gives their time stamps, and so the key frame's number in the order of
    showing. Raises _NotSeekable if time stamps are missing or decoding doesn't begin with that frame.
    """
    packets = [packet for packet in container.demux(stream) if packet.size > 0 and not packet.is_discard]
    times = [packet.pts for packet in packets]
    if None in times or len(set(times)) < len(times):
        raise _NotSeekable
    times.sort()
    if start >= len(times):
        return
    key = max((packet.pts for packet in packets if packet.is_keyframe and packet.pts <= times[start]), default=times[0])
    container.seek(key, stream=stream)
    first = times.index(key)
    for number, frame in enumerate(container.decode(stream), first):
        if number == first and frame.pts != key:
            raise _NotSeekable
        yield number, frame


def _to_array(frame) -> np.ndarray:
    """A decoded frame as uint8 (height, width, 3), turned the right way up."""
    from av.video.reformatter import VideoReformatter

    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    array = _local.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.rot90(array, round(frame.rotation / 90)) if frame.rotation else array
