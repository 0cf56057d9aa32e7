"""The one place where a video file is opened. FFmpeg opens what a file's content or name tells it to: playlists, other
files, sockets. Only the containers below are allowed here, read from one regular file or from bytes.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import file_problem, shown

Source = bytes | str | os.PathLike  # the bytes of a file, or its path

# FFmpeg's names of the containers that are read. None of them refers to other files.
CONTAINERS = ("asf", "avi", "flv", "gif", "matroska", "webm", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mpeg")
CONTAINERS += ("mpegts", "ogg")
OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}


def media_url(path: str | os.PathLike) -> str:
    """What FFmpeg is given for a path, so that no part of it is taken for a protocol."""
    return "file:" + os.path.abspath(path)


def source_name(source: Source, name: str) -> str:
    """How errors call a source: a file by its path, bytes by the given name."""
    return name if isinstance(source, bytes) else shown(source)


@contextlib.contextmanager
def open_video(source: Source, name: str) -> Iterator[tuple[Any, Any]]:
    """The opened container and its video stream (of PyAV), which one thread will decode.

    More threads for each video would only get in each other's way: many are decoded at a time, and some decoders give
    other frames with several threads after damage. What PyAV raises inside the context becomes a VideoError.

    Raises VideoError if the source isn't a regular file, has another container or no video, FileNotFoundError if it
    doesn't exist.
    """
    import av

    if isinstance(source, bytes):
        problem = "" if source else "the file is empty"
    else:
        problem = file_problem(source)
    if problem:
        raise VideoError(f"{name}: {problem}")
    file = io.BytesIO(source) if isinstance(source, bytes) else media_url(source)
    try:
        container = av.open(file, container_options=OPTIONS, **_metadata_options(av.__version__))
    except av.ArgumentError as error:
        raise VideoError(f"{name}: it can't be decoded (it is none of {', '.join(CONTAINERS)})") from error
    except (av.FFmpegError, UnicodeError, MemoryError) as error:
        raise VideoError(f"{name}: {_reason(error)}") from error
    try:
        with container:
            stream = _video_stream(container)
            if stream is None:
                raise VideoError(f"{name}: there is no video in it")
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, UnicodeError, MemoryError) as error:
        raise VideoError(f"{name}: {_reason(error)}") from error


def _metadata_options(version: str) -> dict[str, str]:
    """What makes PyAV read texts that are not UTF-8, such as titles; from version 19 on it does so by itself."""
    return {"metadata_errors": "replace"} if int(version.partition(".")[0]) < 19 else {}


def _reason(error: Exception) -> str:
    return f"it can't be decoded ({getattr(error, 'strerror', None) or error or 'not enough memory'})"


def _video_stream(container: Any) -> Any:
    """The stream that FFmpeg takes for the main one; attached pictures, such as covers, are no video."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & pictures]
    best = container.streams.best("video")
    return best if best in videos else next(iter(videos), None)
