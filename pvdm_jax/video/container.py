"""The only place that opens video files. FFmpeg opens whatever a file's content or name refers to: playlists, other
files, sockets. Here only the containers below are allowed, read from one regular file or from bytes.
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
# With these options, decoders check everything that a format lets them check, and fail where they would guess.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}

# These decoders find by themselves where a recording becomes decodable, even between two key frames.
FIND_BEGINNING = ("h264", "mpeg1video", "mpeg2video")


def media_url(path: str | os.PathLike) -> str:
    """A path in a form that FFmpeg does not take for a protocol."""
    return "file:" + os.path.abspath(path)


def source_name(source: Source, name: str) -> str:
    """The name of a source in errors: a file's path, or the given name for bytes."""
    return name if isinstance(source, bytes) else shown(source)


@contextlib.contextmanager
def open_video(source: Source, name: str, strict: bool = False) -> Iterator[tuple[Any, Any]]:
    """The opened container and its video stream (of PyAV), which one thread will decode.

    More threads per video would not help, because many videos are decoded at a time; and with several threads, some
    decoders give other frames after damage. What PyAV raises inside the context becomes a VideoError.

    strict: damage that the decoder notices is a VideoError as well. Otherwise many decoders guess what is missing, as
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
        raise VideoError(f"{name}: it can't be decoded (it is not one of {', '.join(CONTAINERS)})") from error
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
    """The packets of a file that can be decoded, without those of the video before its first key frame.

    A recording may begin between two key frames. From the packets before the first one, the decoders of MPEG-4 and its
    relatives make frames that nobody recorded, and others fail. Without any key frame, all packets are given. packets:
    those of one or all streams, with the empty ones at the end. stream: the video's.
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
    """Options for PyAV to read texts that are not UTF-8, such as titles; from version 19 on it does so by default."""
    return {"metadata_errors": "replace"} if int(version.partition(".")[0]) < 19 else {}


def _reason(error: Exception) -> str:
    return f"it can't be decoded ({getattr(error, 'strerror', None) or error or 'not enough memory'})"


def _video_stream(container: Any) -> Any:
    """The stream that FFmpeg considers the main one; attached pictures, such as covers, don't count as video."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & pictures]
    best = container.streams.best("video")
    return best if best in videos else next(iter(videos), None)
