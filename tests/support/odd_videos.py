"""Video files as cameras, browsers and accidents make them."""

import fractions
import io
import struct
from collections.abc import Callable, Sequence

import av
import numpy as np
from av.codec.context import Flags
from PIL import Image

from pvdm_jax.video.images import encode_jpeg

# Brightness and differences of colour of (red, green, blue), in thousandths (ITU-R BT.601).
TO_YUV = np.array([[257, 504, 98], [-148, -291, 439], [439, -368, -71]])
GREY_STEP = 40.0  # milliseconds for each grey level of `clock_video`


def encode(
    container: str,
    codec: str,
    frames: np.ndarray,
    *,
    options: dict | None = None,
    group: int = 12,
    b_frames: int = 2,
    damage: Callable[[int, bytes], bytes] = lambda number, data: data,
) -> bytes:
    """A file of uint8 (t, h, w, 3) at 25 frames per second, with a key frame every `group` frames.

    The same bytes on every machine: colours are converted here, by one thread, without a processor's own arithmetic.
    `damage(number, data)` returns what is stored in place of a packet's bytes, as many as they were.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as output:
        # With a processor's own instructions, x264 doesn't even repeat itself within one process.
        always = {"x264-params": "asm=0"} if codec == "libx264" else {}
        stream = output.add_stream(codec, rate=25, options=always | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.gop_size = group
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        planes = _one_byte if codec == "gif" else _planes
        pictures = [av.VideoFrame.from_ndarray(planes(frame), format=stream.pix_fmt) for frame in frames]
        packets = [packet for picture in [*pictures, None] for packet in stream.encode(picture)]
        for number, packet in enumerate(packets):
            if packet.size > 0:
                packet.update(damage(number, bytes(packet)))
            output.mux(packet)
    return buffer.getvalue()


def _planes(frame: np.ndarray) -> np.ndarray:
    """A frame in yuv420p: brightness and, for each 2 x 2 pixels, two differences of colour. Sides are even."""
    y, u, v = np.moveaxis(frame @ TO_YUV.T / 1000 + [16, 128, 128], -1, 0)
    height, width = y.shape
    halves = [plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for plane in (u, v)]
    return np.rint(np.concatenate([y.ravel(), *(half.ravel() for half in halves)])).astype(np.uint8).reshape(-1, width)


def _one_byte(frame: np.ndarray) -> np.ndarray:
    """A frame in rgb8: three bits of red, three of green, two of blue."""
    red, green, blue = np.moveaxis(frame, -1, 0)
    return (red & 0xE0) | (green >> 5 << 2) | (blue >> 6)


def remux(data: bytes, container: str, drop: Callable[[int], bool] = lambda number: False) -> bytes:
    """The packets of a video in another container, without those whose number `drop` chooses."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and not drop(number):
                packet.stream = stream
                output.mux(packet)
    return buffer.getvalue()


def clock_video(container: str, codec: str, milliseconds: Sequence[float], live: bool = False) -> bytes:
    """Frames that are shown at these times, each grey by its time; `live`: without duration, as browsers record."""
    buffer = io.BytesIO()
    tick = fractions.Fraction(1, 1000)
    with av.open(buffer, "w", format=container, options={"live": "1"} if live else {}) as output:
        stream = output.add_stream(codec, rate=1000)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        for time in milliseconds:
            grey = np.full((32, 32, 3), min(time / GREY_STEP, 255), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = int(time)
            frame.time_base = tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def clock_gif(milliseconds: Sequence[int]) -> bytes:
    """The same as a gif, whose frames have durations in hundredths of a second; the last one's is 0.1 s."""
    pictures = [Image.fromarray(np.full((32, 32), time / GREY_STEP, np.uint8)) for time in milliseconds]
    buffer = io.BytesIO()
    durations = [*np.diff(milliseconds).tolist(), 100]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, optimize=False)
    return buffer.getvalue()


def clock_times(frames: np.ndarray) -> np.ndarray:
    """The times in seconds that `clock_video` drew into frames (t, h, w, 3)."""
    return frames.astype(float).mean(axis=(1, 2, 3)) * GREY_STEP / 1000


def with_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The mp4 file with another display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(mp4)
    one = 1 << 16
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return bytes(data)


def with_cover(mp4: bytes, picture: np.ndarray) -> bytes:
    """The mp4 file (whose header is at its end) with a cover before its tracks, as some taggers write it."""
    image = _box(b"data", struct.pack(">II", 13, 0) + encode_jpeg(picture))
    handler = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    user_data = _box(b"udta", _box(b"meta", bytes(4) + handler + _box(b"ilst", _box(b"covr", image))))
    start = mp4.rindex(b"moov") - 4
    moov = mp4[start + 8 :]
    size_of_header = struct.unpack(">I", moov[:4])[0]  # mvhd comes first
    return mp4[:start] + _box(b"moov", moov[:size_of_header] + user_data + moov[size_of_header:])


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content
