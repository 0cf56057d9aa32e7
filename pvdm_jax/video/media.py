"""Video files in and out: PyAV (FFmpeg) reads everything and writes mp4, Pillow writes gif and png.

Frames are uint8 (frames, height, width, 3), RGB. Reading is frame-exact: frame i is the i-th frame that the file shows,
wherever decoding starts. Writing is atomic: a file appears under its name only once it is complete.
"""

import contextlib
import dataclasses
import fractions
import io
import os
import pathlib
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pvdm_jax.storage.files import write_bytes

# One per thread: making one per frame halves the speed, sharing one between threads mixes up their pictures.
_local = threading.local()

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")  # of the pictures that frame folders hold
SUFFIXES = (".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm")  # of the video files that are looked for in folders


class VideoError(ValueError):
    """A video that can't be read or written: the message names it and says what is wrong."""


class _NotSeekable(Exception):
    """The file's time stamps don't say which frame is which; only decoding from its start does."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, as shown (after the rotation that phones write into their files)."""

    frames: int
    height: int  # pixels
    width: int  # pixels
    fps: float  # 0 where the file doesn't say


def video_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The video files anywhere below a folder, in the order of their names; what is hidden is left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def read_video(path, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
    """Frames start, start + stride, ... of a file: `count` of them, or all, as uint8 (count, height, width, 3).

    Only what is needed is decoded: from the last key frame before `start` on. Raises VideoError for a file that isn't
    a video or ends too early, OSError where there is none.
    """
    return _read(str(path), str(path), start, count, stride)


def decode_video(
    data: bytes,
    start: int = 0,
    count: int | None = None,
    stride: int = 1,
    name: str = "the video",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """`read_video` from the bytes of a file; errors call it `name`.

    `transform` is applied to each frame (h, w, 3) as it comes, so that large frames aren't all held at once.
    """
    return _read(data, name, start, count, stride, transform)


def decode_frames(
    data: bytes,
    numbers: Sequence[int],
    name: str = "the video",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """The frames of these numbers, in any order and as often as they are named; otherwise as `decode_video`."""
    wanted = np.unique(np.asarray(numbers, np.int64))
    if len(wanted) == 0 or wanted[0] < 0:
        raise ValueError(f"{name}: frames {list(numbers)[:5]} are asked for; at least one, and none below 0, is needed")
    step = int(wanted[1] - wanted[0]) if len(wanted) > 1 else 1
    if len(wanted) < 2 or (np.diff(wanted) == step).all():
        frames = _read(data, name, int(wanted[0]), len(wanted), step, transform)
    else:
        frames = _read(data, name, int(wanted[0]), len(wanted), 1, transform, set(wanted.tolist()))
    return frames if np.array_equal(wanted, numbers) else frames[np.searchsorted(wanted, numbers)]


def video_frames(source, name: str = "the video") -> Iterator[np.ndarray]:
    """All frames of a file (a path, or its bytes) one by one, as uint8 (height, width, 3); errors as `probe_video`."""
    name = name if isinstance(source, bytes) else str(source)
    shape = None
    with _open(source, name) as (container, stream):
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            array = _to_array(frame)
            if array.shape != (shape := shape or array.shape):
                raise VideoError(f"{name}: its frames change their size")
            yield array
    if shape is None:
        raise VideoError(f"{name}: it holds no frame")


def frame_rate(source, name: str = "the video") -> float:
    """Frames per second, as the file says; 0 where it doesn't."""
    with _open(source, name if isinstance(source, bytes) else str(source)) as (_, stream):
        return float(stream.average_rate or stream.guessed_rate or 0)


def decode_image(data: bytes, name: str = "the picture") -> np.ndarray:
    """A png, jpg, ... file's bytes as uint8 (height, width, 3). Raises VideoError where it can't be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "it is empty" if not data else f"it can't be decoded ({str(error).splitlines()[0]})"
        raise VideoError(f"{name}: {reason}") from error


def encode_jpeg(frame: np.ndarray, quality: int = 95) -> bytes:
    """uint8 (h, w, 3) as the bytes of a jpg file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="jpeg", quality=quality)
    return buffer.getvalue()


def probe_video(source, name: str = "the video") -> VideoInfo:
    """Decodes all of a file (a path, or its bytes), so that what is counted here can be read later.

    Raises VideoError for a file that isn't a video, is damaged or has no frame, OSError where there is none.
    """
    name = name if isinstance(source, bytes) else str(source)
    with _open(source, name) as (container, stream):
        stream.thread_type = "AUTO"
        frames, first = 0, None
        for frame in container.decode(stream):
            frames += 1
            first = first or frame
        if first is None:
            raise VideoError(f"{name}: it holds no frame")
        height, width = _to_array(first).shape[:2]
        fps = float(stream.average_rate or stream.guessed_rate or 0)
    return VideoInfo(frames, height, width, fps)


def write_video(path, frames: np.ndarray, fps: float = 8.0) -> None:
    """Writes uint8 (t, h, w, 3) as .mp4 (plays in browsers) or .gif (loops), by the suffix of `path`.

    Missing folders are made. In a gif, equal frames in a row become one that stays longer, and times are rounded to
    hundredths of a second.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise VideoError(f"{path}: can't write {suffix or 'a file without a suffix'}; choose .mp4 or .gif")
    _check(frames, fps)
    write_bytes(path, encode_mp4(frames, fps) if suffix == ".mp4" else _encode_gif(frames, fps))


def write_image(path, frame: np.ndarray) -> None:
    """Writes uint8 (h, w, 3) as png."""
    from PIL import Image

    path = pathlib.Path(path)
    if path.suffix.lower() != ".png":
        raise VideoError(f"{path}: can't write {path.suffix or 'a file without a suffix'}; choose .png")
    _check(frame[None])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def encode_mp4(frames: np.ndarray, fps: float = 8.0) -> bytes:
    """uint8 (t, h, w, 3) as the bytes of an mp4 file: H.264, yuv420p. An odd side gets its last line twice."""
    import av

    _check(frames, fps)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = fractions.Fraction(fps).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def video_grid(videos: np.ndarray, columns: int, padding: int = 2) -> np.ndarray:
    """uint8 (n, t, h, w, 3) side by side in rows of `columns`: (t, H, W, 3), `padding` white pixels in between."""
    n, frames, height, width, channels = videos.shape
    rows = -(-n // columns)
    cell = (height + padding, width + padding)
    grid = np.full((frames, rows * cell[0] - padding, columns * cell[1] - padding, channels), 255, np.uint8)
    for i, video in enumerate(videos):
        top, left = i // columns * cell[0], i % columns * cell[1]
        grid[:, top : top + height, left : left + width] = video
    return grid


def upscale(frames: np.ndarray, factor: int) -> np.ndarray:
    """(..., h, w, c) to (..., factor * h, factor * w, c): every pixel a block, so that small frames stay crisp."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


@contextlib.contextmanager
def _open(source, name: str) -> Iterator[tuple]:
    """The opened container and its video stream; what PyAV raises meanwhile becomes a VideoError."""
    import av

    if len(source) == 0 if isinstance(source, bytes) else os.path.getsize(source) == 0:
        raise VideoError(f"{name}: the file is empty")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with av.open(file) as container:
            if not container.streams.video:
                raise VideoError(f"{name}: there is no video in it")
            yield container, container.streams.video[0]
    except (av.FFmpegError, UnicodeError) as error:  # titles in an unknown encoding are the latter
        raise VideoError(f"{name}: it can't be decoded ({getattr(error, 'strerror', error)})") from error


def _read(
    source,
    name: str,
    start: int,
    count: int | None,
    stride: int,
    transform: Callable | None = None,
    wanted: set[int] | None = None,
) -> np.ndarray:
    """`count` frames from `start` on: every stride-th, or those whose numbers are `wanted`."""
    if start < 0 or stride < 1 or (count is not None and count < 1):
        raise ValueError(
            f"{name}: start={start}, count={count}, stride={stride}; start is at least 0, the others at least 1"
        )
    try:
        frames = _decode(source, name, start, count, stride, transform, wanted, seek=start > 0)
    except _NotSeekable:
        frames = _decode(source, name, start, count, stride, transform, wanted, seek=False)
    if not frames or (count is not None and len(frames) < count):
        last = start if count is None else max(wanted) if wanted else start + (count - 1) * stride
        raise VideoError(f"{name}: there is no frame {last}; from frame {start} on only {len(frames)} could be read")
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(f"{name}: its frames change their size")
    return np.stack(frames)


def _decode(
    source,
    name: str,
    start: int,
    count: int | None,
    stride: int,
    transform: Callable | None,
    wanted: set[int] | None,
    seek: bool,
) -> list[np.ndarray]:
    """As many of the `count` frames as there are."""
    frames = []
    with _open(source, name) as (container, stream):
        # The loader decodes many videos at a time; more threads for each would only get in each other's way.
        stream.codec_context.thread_count = 1
        numbered = _seek(container, stream, start) if seek else enumerate(container.decode(stream))
        for number, frame in numbered:
            if number in wanted if wanted else number >= start and (number - start) % stride == 0:
                array = _to_array(frame)
                frames.append(transform(array) if transform else array)
                if len(frames) == count:
                    break
    return frames


def _seek(container, stream, start: int) -> Iterator[tuple[int, object]]:
    """(number, frame), from the last key frame up to frame `start` on.

    Reading all packets without decoding them tells their time stamps, and so the key frame's number in the order of
    showing. Raises _NotSeekable where the stamps are missing or decoding doesn't begin with that frame.
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


def _encode_gif(frames: np.ndarray, fps: float) -> bytes:
    from PIL import Image

    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="gif", save_all=True, append_images=images[1:], duration=1000 / fps, loop=0, disposal=1
    )
    return buffer.getvalue()


def _check(frames: np.ndarray, fps: float = 1.0) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise VideoError(f"frames are {frames.dtype} {frames.shape}; uint8 (frames, height, width, 3) is needed")
    if not 0 < fps <= 1000:
        raise VideoError(f"fps is {fps}; it must be positive and at most 1000")
