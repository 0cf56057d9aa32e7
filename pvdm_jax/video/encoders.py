"""One encoder per format. Each takes a video frame by frame and keeps no more than a few frames in memory.

An encoder is made for a video of known length, size and frame rate; `write` appends uint8 (height, width, 3), and
`close` completes the file. An encoder writes to a path; encoders of video files can also write to a file object.
"""

import fractions
import pathlib
import zipfile
from collections.abc import Callable
from typing import BinaryIO, Protocol

import numpy as np

from pvdm_jax.video.container import media_url
from pvdm_jax.video.images import encode_png

Target = pathlib.Path | BinaryIO

MP4_OPTIONS = {"crf": "16"}  # of x264
_HUNDREDTH = fractions.Fraction(1, 100)  # of a second, the unit of time of a gif


class Encoder(Protocol):
    def write(self, frame: np.ndarray) -> None: ...

    def close(self) -> None: ...


class Mp4Encoder:
    """H.264 in yuv420p, which browsers play. The last line of an odd side is repeated."""

    def __init__(self, target: Target, frames: int, height: int, width: int, fps: float):
        import av

        self._make_frame = av.VideoFrame.from_ndarray
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._container = av.open(_for_ffmpeg(target), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=_rate(fps), options=MP4_OPTIONS)
        self._stream.height = height + height % 2
        self._stream.width = width + width % 2
        self._stream.pix_fmt = "yuv420p"

    def write(self, frame: np.ndarray) -> None:
        padded = np.ascontiguousarray(np.pad(frame, self._padding, mode="edge"))
        self._container.mux(self._stream.encode(self._make_frame(padded, format="rgb24")))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


class GifEncoder:
    """A looping gif in which each frame has its own palette of 256 colours. Nothing is dithered.

    The format counts time in hundredths of a second. Frame i is shown at the hundredth nearest to i / fps, so that
    rounding errors don't add up; at more than 100 frames per second, each frame is shown for one hundredth.
    """

    def __init__(self, target: Target, frames: int, height: int, width: int, fps: float):
        import av

        self._make_frame = av.VideoFrame.from_ndarray
        # What the filter raises when it needs another frame, and when there are no more.
        self._nothing_yet = (av.BlockingIOError, av.EOFError)
        self._fps = fps
        self._count = 0
        self._time = -1  # of the last frame
        last_delay = max(1, round(100 * frames / fps) - round(100 * (frames - 1) / fps))
        options = {"final_delay": str(last_delay)}
        self._container = av.open(_for_ffmpeg(target), "w", format="gif", container_options=options)
        self._stream = self._container.add_stream("gif", rate=_rate(fps))
        self._stream.height = height
        self._stream.width = width
        self._stream.pix_fmt = "pal8"
        self._stream.codec_context.time_base = _HUNDREDTH

        self._filter = av.filter.Graph()
        source = self._filter.add_buffer(width=width, height=height, format="rgb24", time_base=_HUNDREDTH)
        split = self._filter.add("split")
        make_palette = self._filter.add("palettegen", "stats_mode=single:reserve_transparent=0")
        use_palette = self._filter.add("paletteuse", "new=1:dither=none")
        sink = self._filter.add("buffersink")
        source.link_to(split)
        split.link_to(make_palette, 0, 0)
        split.link_to(use_palette, 1, 0)
        make_palette.link_to(use_palette, 0, 1)
        use_palette.link_to(sink)
        self._filter.configure()

    def write(self, frame: np.ndarray) -> None:
        picture = self._make_frame(np.ascontiguousarray(frame), format="rgb24")
        self._time = max(self._time + 1, round(100 * self._count / self._fps))
        self._count += 1
        picture.pts = self._time
        picture.time_base = _HUNDREDTH
        self._filter.push(picture)
        self._encode_filtered()

    def close(self) -> None:
        self._filter.push(None)
        self._encode_filtered()
        self._container.mux(self._stream.encode())
        self._container.close()

    def _encode_filtered(self) -> None:
        while True:
            try:
                picture = self._filter.pull()
            except self._nothing_yet:
                return
            self._container.mux(self._stream.encode(picture))


class PngEncoder:
    """A new folder of pictures: frame_00000.png, frame_00001.png and so on."""

    def __init__(self, target: pathlib.Path, frames: int, height: int, width: int, fps: float):
        self._folder = target
        self._count = 0
        target.mkdir()

    def write(self, frame: np.ndarray) -> None:
        (self._folder / f"frame_{self._count:05d}.png").write_bytes(encode_png(frame))
        self._count += 1

    def close(self) -> None:
        pass


class NpzEncoder:
    """NumPy's compressed archive with one array, "video": uint8 (frames, height, width, 3)."""

    def __init__(self, target: Target, frames: int, height: int, width: int, fps: float):
        self._archive = zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED)
        self._file = self._archive.open("video.npy", "w", force_zip64=True)
        header = {"descr": "|u1", "fortran_order": False, "shape": (frames, height, width, 3)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, frame: np.ndarray) -> None:
        self._file.write(frame.tobytes())

    def close(self) -> None:
        self._file.close()
        self._archive.close()


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "mp4": Mp4Encoder,
    "gif": GifEncoder,
    "png": PngEncoder,
    "npz": NpzEncoder,
}


def _for_ffmpeg(target: Target) -> str | BinaryIO:
    return media_url(target) if isinstance(target, pathlib.Path) else target


def _rate(fps: float) -> fractions.Fraction:
    return max(fractions.Fraction(fps).limit_denominator(1000), fractions.Fraction(1, 1000))
