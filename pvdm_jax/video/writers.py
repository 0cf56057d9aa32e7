"""Video files written a few frames at a time, so that a video never has to be in memory as a whole.

    with open_writer(folder / "video", "mp4", frames=4096, height=64, width=64, fps=8) as writer:
        for clip in clips:
            writer.write(clip)  # uint8 (t, height, width, 3)

makes `video.mp4`, `video.gif`, `video.npz` (one array "video", uint8 (frames, height, width, 3)) or, as "png", a folder
`video` of frame_00000.png and so on. A file appears under its name only when all of its frames are written.
"""

import fractions
import io
import itertools
import math
import os
import pathlib
import shutil
import struct
import zipfile
from collections.abc import Callable

import numpy as np

from pvdm_jax.video.media import VideoError, video_frames

FORMATS = ("mp4", "gif", "png", "npz")


def video_path(path: pathlib.Path, format: str) -> pathlib.Path:
    """Where `open_writer(path, format)` puts the finished video."""
    return path if format == "png" else path.with_name(f"{path.name}.{format}")


def open_writer(path: pathlib.Path, format: str, frames: int, height: int, width: int, fps: float) -> "VideoWriter":
    """A writer of `frames` frames; see the module. Raises VideoError for a format that isn't in FORMATS."""
    if format not in _BACKENDS:
        raise VideoError(f"{path}: can't write {format}; choose from {', '.join(FORMATS)}")
    return VideoWriter(path, format, frames, height, width, fps)


class VideoWriter:
    """One video on its way to a file. A context manager: leaving it finishes the file, or removes it on an error."""

    def __init__(self, path: pathlib.Path, format: str, frames: int, height: int, width: int, fps: float):
        self._path, self._left, self._shape = video_path(path, format), frames, (height, width, 3)
        self._unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._backend = _BACKENDS[format](self._unfinished, frames, height, width, fps)

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 (t, height, width, 3). Raises VideoError for another size, or more frames than announced."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self._shape or len(frames) > self._left:
            raise VideoError(
                f"{self._path}: frames are {frames.dtype} {frames.shape}; uint8 (at most {self._left}, {self._shape}) "
                "is needed"
            )
        self._left -= len(frames)
        for frame in frames:
            self._backend.write(np.ascontiguousarray(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._backend.close()
        if kind is None and self._left == 0:
            self._unfinished.replace(self._path)
            return
        if self._unfinished.is_dir():
            shutil.rmtree(self._unfinished)
        else:
            self._unfinished.unlink(missing_ok=True)
        if kind is None:
            raise VideoError(f"{self._path}: {self._left} frames were announced and never written")


def read_back(path: pathlib.Path, format: str, count: int) -> np.ndarray:
    """The first `count` frames (fewer in a shorter video) of a video that `open_writer(path, format)` wrote; the others
    aren't read."""
    path = video_path(path, format)
    if format == "npz":
        with zipfile.ZipFile(path) as archive, archive.open("video.npy") as file:
            np.lib.format.read_magic(file)
            (frames, *size), _, _ = np.lib.format.read_array_header_1_0(file)
            shape = (min(frames, count), *size)
            return np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
    if format == "png":
        from PIL import Image

        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("frame_*.png"))[:count]])
    return np.stack(list(itertools.islice(video_frames(path), count)))


class _Mp4:
    """H.264, yuv420p; an odd side gets its last line twice."""

    def __init__(self, path: pathlib.Path, frames: int, height: int, width: int, fps: float):
        import av

        self._frame = av.VideoFrame
        self._container = av.open(str(path), "w", format="mp4")
        rate = fractions.Fraction(fps).limit_denominator(1000)
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "16"})
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        self._pad = ((0, height % 2), (0, width % 2), (0, 0))

    def write(self, frame: np.ndarray) -> None:
        frame = np.ascontiguousarray(np.pad(frame, self._pad, mode="edge"))
        self._container.mux(self._stream.encode(self._frame.from_ndarray(frame, format="rgb24")))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


class _Gif:
    """A looping gif, each frame with a palette of its own. Pillow makes every frame as a picture; its parts are put
    together here, since Pillow itself would keep all frames until the end."""

    def __init__(self, path: pathlib.Path, frames: int, height: int, width: int, fps: float):
        self._file, self._fps, self._count = path.open("wb"), fps, 0
        self._file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
        self._file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # without an end

    def write(self, frame: np.ndarray) -> None:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="gif", interlace=0)
        palette, size, picture = _parts_of_gif(buffer.getvalue())
        self._count += 1
        # Times are hundredths of a second; what rounding takes from one frame the next one gets.
        delay = round(100 * self._count / self._fps) - round(100 * (self._count - 1) / self._fps)
        self._file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 0x04, max(delay, 1), 0, 0))
        self._file.write(picture[:9] + bytes([0x80 | size]) + palette + picture[10:])

    def close(self) -> None:
        self._file.write(b"\x3b")
        self._file.close()


def _parts_of_gif(data: bytes) -> tuple[bytes, int, bytes]:
    """The palette of a gif of one frame, its size as the format codes it, and the picture from its descriptor on."""
    size = data[10] & 7
    place = 13 + 3 * 2 ** (size + 1)
    palette = data[13:place]
    while data[place] == 0x21:  # extensions: a label, then blocks up to an empty one
        place += 2
        while data[place]:
            place += 1 + data[place]
        place += 1
    return palette, size, data[place:-1]


class _Png:
    """A folder of numbered pictures."""

    def __init__(self, path: pathlib.Path, frames: int, height: int, width: int, fps: float):
        self._folder, self._count = path, 0
        path.mkdir()

    def write(self, frame: np.ndarray) -> None:
        from PIL import Image

        Image.fromarray(frame).save(self._folder / f"frame_{self._count:05d}.png")
        self._count += 1

    def close(self) -> None:
        pass


class _Npz:
    """NumPy's compressed archive with one array, "video"."""

    def __init__(self, path: pathlib.Path, frames: int, height: int, width: int, fps: float):
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self._file = self._archive.open("video.npy", "w", force_zip64=True)
        header = {"descr": "|u1", "fortran_order": False, "shape": (frames, height, width, 3)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, frame: np.ndarray) -> None:
        self._file.write(frame.tobytes())

    def close(self) -> None:
        self._file.close()
        self._archive.close()


_BACKENDS: dict[str, Callable] = {"mp4": _Mp4, "gif": _Gif, "png": _Png, "npz": _Npz}
