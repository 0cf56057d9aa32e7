"""The one place where a video file is opened. FFmpeg opens what a file's content or name tells it to: playlists, other
files, sockets. Only the containers below are allowed here, read from one regular file or from bytes.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import file_problem, shown

Source = bytes | str | os.PathLike  # the bytes of a file, or its path

# FFmpeg's names of the containers that are read. None of them refers to other files.
CONTAINERS = ("asf", "avi", "flv", "gif", "matroska", "webm", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mpeg")
CONTAINERS += ("mpegts", "ogg")
OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
# With these, decoders check all that a format lets them check, and fail where they would otherwise guess.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}

# These decoders notice by themselves from where on a recording can be decoded, also between two key frames.
FIND_BEGINNING = ("h264", "mpeg1video", "mpeg2video")


def media_url(path: str | os.PathLike) -> str:
    """What FFmpeg is given for a path, so that no part of it is taken for a protocol."""
    return "file:" + os.path.abspath(path)


def source_name(source: Source, name: str) -> str:
    """How errors call a source: a file by its path, bytes by the given name."""
    return name if isinstance(source, bytes) else shown(source)


@contextlib.contextmanager
def open_video(source: Source, name: str, strict: bool = False) -> Iterator[tuple[Any, Any]]:
    """The opened container and its video stream (of PyAV), which one thread will decode.

    More threads for each video would only get in each other's way: many are decoded at a time, and some decoders give
    other frames with several threads after damage. What PyAV raises inside the context becomes a VideoError.

    strict: damage that the decoder notices is such an error, too; otherwise many decoders guess what is missing, as
    they must for frames before the key frame to which a reader has jumped.

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
            if stream.codec_context is None:
                raise VideoError(f"{name}: it can't be decoded (its codec is not known)")
            stream.codec_context.thread_count = 1
            if strict:
                stream.codec_context.options = STRICT
            yield container, stream
    except (av.FFmpegError, UnicodeError, MemoryError) as error:
        raise VideoError(f"{name}: {_reason(error)}") from error


def from_first_key(packets: Iterable[Any], stream: Any) -> Iterator[Any]:
    """The packets of a file that can be decoded: those of the video before its first key frame are left out.

    A recording may begin between two key frames. Of what comes before the first one, the decoders of MPEG-4 and its
    relatives make frames that nobody recorded, and others fail. Without any key frame, all packets are given. packets:
    of one or all streams, with the empty ones at the end. stream: the video's.
    """
    begun = stream.codec_context.name in FIND_BEGINNING
    early = []
    for packet in packets:
        if not begun and packet.stream.index == stream.index:
            if packet.size > 0 and not packet.is_keyframe:
                early.append(packet)
                continue
            begun = True
            if packet.size == 0:  # the end, without a key frame
                yield from early
            early.clear()
        yield packet


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
