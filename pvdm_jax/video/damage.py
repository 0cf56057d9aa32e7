"""Signs that a video file is damaged or cut off, collected while it is decoded from beginning to end."""

import os
from typing import Any

from pvdm_jax.video.container import Source
from pvdm_jax.video.errors import VideoError

# How much earlier than the header's duration the packets may end: in frames, and as a fraction of the duration.
MISSING_FRAMES = 2.5
MISSING_FRACTION = 0.01
TAIL = 1024  # last bytes, in which a gif's end mark is searched


class DamageCheck:
    """Raises VideoError, which names the file and the reason, at the first sign of damage.

    Call `packet` with every packet of all streams, `frame` with every frame of the video, `end` at the end.
    """

    def __init__(self, source: Source, container: Any, stream: Any, name: str):
        self._source = source
        self._container = container
        self._stream = stream
        self._name = name
        self._decoding = False  # whether there has been a frame: recordings may begin amid a group of pictures
        self._end = 0.0  # seconds at which the last packet ends

    def packet(self, packet: Any) -> Any:
        """Returns the packet, and notes how long the file's contents last."""
        if packet.size > 0 and packet.pts is not None:
            self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.is_corrupt and self._decoding and packet.stream.index == self._stream.index:
            raise VideoError(f"{self._name}: it is damaged or cut off: a part of it is incomplete")
        return packet

    def frame(self, frame: Any, number: int) -> None:
        """Raises if the decoder reports that a frame is damaged."""
        self._decoding = True
        if frame.is_corrupt:
            raise VideoError(f"{self._name}: it is damaged or cut off: frame {number} can't be decoded completely")

    def end(self, fps: float) -> None:
        """Compares the end of the file with what its header states."""
        kind = self._container.format.name
        stated = (self._container.duration or 0) / 1e6
        if kind == "avi" and self._stream.average_rate:  # FFmpeg cuts its duration to the file's size
            stated = max(stated, float(self._stream.frames / self._stream.average_rate))
        tolerance = max(0.1 + MISSING_FRACTION * stated, MISSING_FRAMES / fps if fps > 0 else 0.0)
        if self._end > 0 and stated - self._end > tolerance:
            raise VideoError(
                f"{self._name}: it is cut off: it ends after {self._end:.2f} of the {stated:.2f} seconds that its "
                "header states"
            )
        if kind == "gif" and not _tail(self._source).rstrip(b"\0").endswith(b";"):
            raise VideoError(f"{self._name}: it is cut off: a gif's end mark is missing")


def _tail(source: Source) -> bytes:
    """The last TAIL bytes of a file."""
    if isinstance(source, bytes):
        return source[-TAIL:]
    with open(source, "rb") as file:
        file.seek(max(0, os.path.getsize(source) - TAIL))
        return file.read()
